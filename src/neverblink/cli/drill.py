"""`neverblink drill`: real parts are broken on purpose, and what happens is measured."""

from __future__ import annotations

import re
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from neverblink.errors import ConfigError, MissingExtra, UnknownName


def drill(
    rows: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ROW]...", help="Rows such as R8 or S10; all where none is named.", show_default=False),
    ] = None,
    scale: Annotated[float, typer.Option(help="Part of the published size; 1 is the published one.")] = 1.0,
    json: Annotated[
        Path | None, typer.Option(help="Append a line of JSON for each drill.", metavar="FILE", show_default=False)
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from.")] = False,
) -> int:
    """Hold fault drills and print what was measured beside what others do (for developers: the dev extra).

    Exits with 1 where a figure was not reached.
    """
    if not 0 < scale <= 1000:
        raise ConfigError(f"--scale is {scale:g}; it must be above 0, at most 1000")
    try:
        import psutil  # noqa: F401  most drills count what a process holds
    except ImportError as error:
        raise MissingExtra("psutil", "dev", "the fault drills") from error
    from neverblink.drills import line, table
    from neverblink.drills.rows import ROWS

    keys = chosen(rows or [])
    command = shlex.join(["neverblink", "drill", *(rows or []), "--scale", f"{scale:g}"])
    lines: list[dict[str, Any]] = []
    failed: list[str] = []
    for key in keys:
        held = hold(key, scale, command)
        if held is None:
            failed.append(key)
            continue
        lines.append(held)
        if json is not None:
            line.append(json, held)
    done = {held["row"] for held in lines}
    typer.echo(table.render(lines, {name: row for name, row in ROWS.items() if name in done}), nl=False)
    missed = sorted({held["row"] for held in lines if not held["held"]})
    for words, names in (("not held", failed), ("figure not reached", missed)):
        if names:
            typer.echo(f"{words}: {', '.join(names)}", err=True)
    return 1 if failed or missed else 0


def chosen(rows: Sequence[str]) -> list[str]:
    """Names of drills: of a row all that it has, R1 and R1b."""
    from neverblink.drills import drills

    known = sorted(drills, key=_order)
    if not rows:
        return known
    keys = []
    for row in rows:
        own = [key for key in known if row in (key, key.rstrip("bcdefgh"))]
        if not own:
            raise UnknownName(f"no drill {row!r}; known: {', '.join(known)}")
        keys += [key for key in own if key not in keys]
    return keys


def _order(key: str) -> tuple[str, int, str]:
    found = re.fullmatch(r"([A-Za-z]+)(\d+)(.*)", key)
    return (found[1], int(found[2]), found[3]) if found else (key, 0, "")


def hold(key: str, scale: float, command: str) -> dict[str, Any] | None:
    """One drill in a folder of its own; None where it could not be held, which is said."""
    from neverblink.drills import drills
    from neverblink.drills.line import line_of

    found = drills[key]
    print(f"{key}: {found.fault} ...", file=sys.stderr, flush=True)
    began = time.monotonic()
    try:
        with TemporaryDirectory(prefix=f"neverblink-drill-{key}-") as folder:
            finding = found.run(Path(folder), scale)
    except Exception as error:  # of one drill; the others are held all the same
        print(f"{key}: could not be held: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return None
    mark = "held" if finding.held else "NOT REACHED"
    print(f"{key}: {finding.figure} [{mark}, {time.monotonic() - began:.0f} s]", file=sys.stderr, flush=True)
    return line_of(found, finding, scale, command)
