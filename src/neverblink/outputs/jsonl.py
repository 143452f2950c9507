"""JSON Lines: every event of a stream, one object a line, with the fields of `Event` in their order."""

from __future__ import annotations

import json
from dataclasses import asdict

from neverblink.outputs.base import FileOutput, plain
from neverblink.types import Event


class Jsonl(FileOutput):
    filler = b" "  # blanks before an object are allowed; an empty line would break readers that parse every line

    def record(self, event: Event) -> str:
        return line(event)


def line(event: Event) -> str:
    """One event as a line of JSON; the text is cleaned, so that the file can be shown in a terminal."""
    return json.dumps({**asdict(event), "text": plain(event.text)}, ensure_ascii=False, allow_nan=False) + "\n"
