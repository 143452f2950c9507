"""WebVTT: one cue a caption, valid at any moment."""

from __future__ import annotations

from pathlib import Path

from neverblink.outputs.base import SPOKEN, Cues, FileOutput, clock, plain
from neverblink.types import Event


class Vtt(FileOutput):
    header = b"WEBVTT\n\n"
    filler = b"\n"  # blank lines between cues mean nothing

    def __init__(self, path: Path | str):
        super().__init__(path)
        self._cues = Cues()

    def record(self, event: Event) -> str:
        text = escape(event.text) if event.type in SPOKEN else ""
        if not text:
            return ""
        start, end = self._cues.times(event)
        return f"{clock(start, fraction='.')} --> {clock(end, fraction='.')}\n{text}\n\n"


def escape(text: str) -> str:
    """Cue text that shows what the model wrote; with > escaped no "-->" is left, which would start a new cue."""
    return plain(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
