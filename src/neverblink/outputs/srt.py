"""SubRip: numbered cues, valid at any moment."""

from __future__ import annotations

from pathlib import Path

from neverblink.outputs.base import SPOKEN, Cues, FileOutput, clock, plain
from neverblink.types import Event


class Srt(FileOutput):
    filler = b"\n"  # players skip blank lines between cues

    def __init__(self, path: Path | str):
        super().__init__(path)
        self._cues = Cues()
        self._next = 1

    def record(self, event: Event) -> str:
        text = escape(event.text) if event.type in SPOKEN else ""
        if not text:
            return ""
        start, end = self._cues.times(event)
        return f"{self._next}\n{clock(start, fraction=',')} --> {clock(end, fraction=',')}\n{text}\n\n"

    def write(self, event: Event) -> None:
        record = self.record(event)
        if record:
            self._file.add(record.encode())
            self._next += 1  # after the write: a cue that a full disk refused leaves no hole in the numbers


# SubRip knows no escape: players read <b> and {\an8} as commands and show &lt; as it stands. Look-alikes obey nobody.
_LOOKALIKES = str.maketrans({"<": "‹", ">": "›", "{": "❴", "}": "❵"})


def escape(text: str) -> str:
    """Cue text without tags, overrides or "-->"."""
    return plain(text).translate(_LOOKALIKES)
