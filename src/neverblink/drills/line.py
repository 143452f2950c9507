"""What is written down of a drill that was held: one JSON line."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

from neverblink.drills.base import Drill, Finding


def line_of(drill: Drill, finding: Finding, scale: float, command: str) -> dict[str, Any]:
    """The fields of a line, in their order."""
    return {
        "row": drill.row,
        "fault": drill.fault,
        "peers": drill.peers,
        "beat": drill.beat,
        "figure": finding.figure,
        "held": bool(finding.held),
        "measured": {name: _plain(value) for name, value in finding.measured.items()},
        "scale": scale,
        "command": command,
        "machine": machine(),
    }


def _plain(value: Any) -> Any:
    """A number of numpy or torch as one of Python, which JSON knows."""
    return value.item() if hasattr(value, "item") else value


def machine() -> str:
    """The machine in words, with how busy it was: times of a shared machine waver."""
    cores = f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} cores"
    return f"{platform.system()} {platform.machine()}, {cores}, load {os.getloadavg()[0]:.1f}"


def append(path: Path, line: dict[str, Any]) -> None:
    text = json.dumps(line) + "\n"  # before the file is touched
    with path.open("a") as file:
        file.write(text)
