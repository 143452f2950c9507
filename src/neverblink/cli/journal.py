"""`neverblink logs`, `search` and `export`: what was said, hours or days ago."""

from __future__ import annotations

import re
import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from neverblink.errors import ConfigError

if TYPE_CHECKING:
    from neverblink.memory.journal import Entry, Journal

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
PAGE = 5000  # lines read at once

JournalFile = Annotated[
    str | None,
    typer.Option(
        "--journal", metavar="FILE", help="The journal; else the one that `neverblink serve` keeps.", show_default=False
    ),
]
StreamId = Annotated[str | None, typer.Option("--stream", metavar="ID", help="Only this stream.", show_default=False)]
Since = Annotated[
    str | None,
    typer.Option(help="Only what was said since then: 90s, 15m, 2h, 3d ago, or 2026-11-21T18:30.", show_default=False),
]


def logs(
    journal: JournalFile = None,
    stream: StreamId = None,
    since: Since = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="At most so many lines, the newest.")] = 50,
    all_types: Annotated[bool, typer.Option("--all", help="Silent seconds too.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from.")] = False,
) -> None:
    """Show the newest lines of a journal: when, where in the video, and what was said."""
    with _open(journal) as book:
        types = None if all_types else _all_but_silence()
        for entry in book.events(stream, types=types, since=_since(since), newest=True, limit=count):
            print(line(entry))


def search(
    words: Annotated[str, typer.Argument(metavar="WORDS", help="What to look for, such as 'who scored'.")],
    journal: JournalFile = None,
    stream: StreamId = None,
    since: Since = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="At most so many lines, best first.")] = 20,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from.")] = False,
) -> None:
    """Find what was said, in any form of the words ("scored" finds "scores"); the status is 1 when nothing is found."""
    with _open(journal) as book:
        found = book.search(words, stream, since=_since(since), limit=count)
    for entry in found:
        print(line(entry))
    if not found:
        print(f"nothing about {words!r}", file=sys.stderr)
        raise typer.Exit(1)


def export(
    vtt: Annotated[str | None, typer.Option(metavar="FILE", help="Write WebVTT subtitles.", show_default=False)] = None,
    srt: Annotated[str | None, typer.Option(metavar="FILE", help="Write SubRip subtitles.", show_default=False)] = None,
    jsonl: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write every event as a line of JSON.", show_default=False)
    ] = None,
    journal: JournalFile = None,
    stream: StreamId = None,
    since: Since = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from.")] = False,
) -> None:
    """Write a stream of the journal as subtitles or JSON lines; without --stream the one that spoke last."""
    from contextlib import ExitStack

    from neverblink.outputs import OUTPUTS

    wanted = {name: path for name, path in (("vtt", vtt), ("srt", srt), ("jsonl", jsonl)) if path is not None}
    if not wanted:
        raise ConfigError("nothing to write; name a file with --vtt, --srt or --jsonl")
    if len(set(wanted.values())) < len(wanted):
        raise ConfigError("--vtt, --srt and --jsonl name the same file; give each its own")
    with _open(journal) as book, ExitStack() as stack:
        known = book.stream_ids()
        if not known or (stream is not None and stream not in known):
            raise ConfigError(f"no stream {stream or ''!r} in {book.path}; it has: {', '.join(known) or 'none'}")
        chosen, after, count = stream or known[-1], 0, 0
        outputs = [stack.enter_context(OUTPUTS[name](path)) for name, path in wanted.items()]
        while entries := book.events(chosen, since=_since(since), after_row=after, limit=PAGE):
            for entry in entries:
                for output in outputs:
                    output.write(entry.event)
            after, count = entries[-1].row, count + len(entries)
    print(f"{chosen}: {count} events to {', '.join(wanted.values())}", file=sys.stderr)


def line(entry: Entry) -> str:
    """One line for a person."""
    from neverblink.outputs.base import clock, plain

    event = entry.event
    wall = datetime.fromtimestamp(event.wall_time).strftime("%Y-%m-%d %H:%M:%S")
    label = "" if event.type == "caption" else f"{event.type}: "
    return f"{wall}  {plain(event.stream_id)}  [{clock(event.t_start)}] {label}{plain(event.text)}"


def since_of(text: str, now: float) -> float:
    """Wall seconds of "2h" (ago) or of a date and time.

    Raises:
        ConfigError: it is neither.
    """
    ago = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if ago:
        return now - float(ago[1]) * UNITS[ago[2]]
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError) as error:
        raise ConfigError(
            f"--since {text!r} is neither 90s, 15m, 2h, 3d nor a date such as 2026-11-21T18:30"
        ) from error


def _since(text: str | None) -> float | None:
    return None if text is None else since_of(text, time.time())


def _all_but_silence() -> list[str]:
    from typing import get_args

    from neverblink.types import EventType

    return [name for name in get_args(EventType) if name != "silence"]


def _open(path: str | None) -> Journal:
    from neverblink.memory.journal import Journal, default_path

    return Journal(path or default_path(), read_only=True)
