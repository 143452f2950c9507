"""What every benchmark does with its figures: one JSON line a run, with the machine and the command, and pictures."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from neverblink.errors import MissingExtra


def facts(command: str, given: Sequence[str] | None = None) -> dict[str, str]:
    """What belongs to every figure: the machine, its threads, torch, and what was typed.

    Args:
        given: the command's arguments; None takes those of this process.
    """
    machine = platform.processor() or platform.machine()
    return {
        "machine": f"{machine}, {torch.get_num_threads()} thread" + "s" * (torch.get_num_threads() > 1),
        "torch": torch.__version__,
        "command": " ".join([command, *(sys.argv[1:] if given is None else given)]),
    }


def publish(figures: Mapping[str, Any], module: str, file: Path | None) -> None:
    """Print the line of a benchmark that is run as `python -m neverblink.bench.MODULE`, and append it to a file."""
    line = {**figures, **facts(f"python -m neverblink.bench.{module}")}
    print(json.dumps(line), flush=True)
    append(file, [line])


def append(file: Path | None, lines: Iterable[Mapping[str, Any]]) -> None:
    """Add lines of JSON to a file, whole after each; None is no file."""
    if file is None:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as out:
        for line in lines:
            out.write(json.dumps(line) + "\n")
            out.flush()


def markdown(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table; None is an empty cell."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        lines.append("| " + " | ".join("" if cell is None else str(cell) for cell in row) + " |")
    return "\n".join(lines) + "\n"


def pyplot(why: str) -> Any:
    """matplotlib's pyplot, drawing into files. Ask before a long run, not behind it.

    Args:
        why: what needs it, for the message.

    Raises:
        MissingExtra: matplotlib is not there.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise MissingExtra("matplotlib", "bench", why) from error
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt
