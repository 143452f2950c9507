"""The table of faults, every row with what was measured or why nothing was.

    python -m neverblink.drills.table [results]

reads the folder's drills-*.jsonl and writes its hardening.md; exits with 1 while a row has neither figure nor reason.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from neverblink.drills.rows import ROWS, Row
from neverblink.errors import ConfigError

HEAD = ("row", "fault / load", "peers today", "beat", "measured", "held")
NOTHING = "nothing yet"
FIELDS = frozenset({"row", "fault", "peers", "beat", "figure", "held", "measured", "scale", "command", "machine"})

INTRODUCTION = """# Hardening: what breaks products like this one, and what was measured here

Written by `python -m neverblink.drills.table` from `results/drills-*.jsonl`; each line there has every number, the
command and the machine. `neverblink drill ROW` holds a drill again. "M": measured on PyAV 18.1 (bundled FFmpeg 8.1.2).
Times are from a machine of 2 cores (AMD EPYC, no GPU), shared as its `load` tells. There is no R10 and no S5.
"""


def read(folder: Path) -> list[dict[str, Any]]:
    """Every line of the folder, oldest first within a file.

    Raises:
        ConfigError: a line is none of ours.
    """
    lines = []
    for path in sorted(folder.glob("drills-*.jsonl")):
        for number, text in enumerate(path.read_text().splitlines(), start=1):
            if not text.strip():
                continue
            try:
                line = json.loads(text)
            except ValueError as error:
                raise ConfigError(f"{path}:{number} is no JSON: {error}; drop the line") from error
            missing = sorted(FIELDS - set(line)) if isinstance(line, dict) else sorted(FIELDS)
            if missing or line["row"] not in ROWS:
                raise ConfigError(f"{path}:{number} lacks {', '.join(missing) or 'a known row'}; drop the line")
            lines.append(line)
    return lines


def newest(lines: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of each row and fault the line that counts: the last one of the largest scale."""
    best: dict[tuple[str, str], Mapping[str, Any]] = {}
    for line in lines:
        key = (line["row"], line["fault"])
        if key not in best or line["scale"] >= best[key]["scale"]:
            best[key] = line
    return list(best.values())


def render(lines: Sequence[Mapping[str, Any]], rows: Mapping[str, Row]) -> str:
    """A table in Markdown of these rows: a line's own words where there is one, else the row's."""
    told = newest(lines)
    body = [HEAD, tuple("---" for _ in HEAD)]
    for name, row in rows.items():
        own = [line for line in told if line["row"] == name]
        if not own:
            body.append((name, row.fault, row.peers, row.beat, row.reason or NOTHING, "-"))
        for line in own:
            body.append(
                (name, *(_cell(line, field) for field in ("fault", "peers", "beat")), _figure(line), _held(line))
            )
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |\n" for cells in body)


def _cell(line: Mapping[str, Any], field: str) -> str:
    return " ".join(str(line[field]).split())


def _figure(line: Mapping[str, Any]) -> str:
    at = "" if line["scale"] >= 1 else f" (at scale {line['scale']:g})"
    return _cell(line, "figure") + at


def _held(line: Mapping[str, Any]) -> str:
    return "yes" if line["held"] else "**no**"


def holes(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows that have neither a figure nor a reason."""
    told = {line["row"] for line in lines}
    return [name for name, row in ROWS.items() if name not in told and not row.reason]


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    folder = Path(arguments[0] if arguments else "results")
    lines = read(folder)
    faults = {name: row for name, row in ROWS.items() if name.startswith("R")}
    attacks = {name: row for name, row in ROWS.items() if name.startswith("S")}
    text = f"{INTRODUCTION}\n## Faults and load\n\n{render(lines, faults)}"
    text += f"\n## Bad input and attackers\n\n{render(lines, attacks)}"
    (folder / "hardening.md").write_text(text)
    empty = holes(lines)
    if empty:
        print(f"no figure and no reason yet: {', '.join(empty)}", file=sys.stderr)
    return 1 if empty else 0


if __name__ == "__main__":
    raise SystemExit(main())
