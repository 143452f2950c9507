"""Where captions go. `OUTPUTS["vtt"]` is a class; a stranger's comes from the entry point group `neverblink.output`."""

from __future__ import annotations

from neverblink.registry import Registry

OUTPUTS = Registry(
    "output",
    {
        "console": "neverblink.outputs.console:Console",
        "journal": "neverblink.memory.output:JournalOutput",
        "jsonl": "neverblink.outputs.jsonl:Jsonl",
        "srt": "neverblink.outputs.srt:Srt",
        "vtt": "neverblink.outputs.vtt:Vtt",
    },
)
