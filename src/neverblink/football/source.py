"""Recorded football as a source that a model can watch, with its truth beside it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from neverblink.arcade.events import GameEvent
from neverblink.errors import ConfigError
from neverblink.football.matches import HEIGHT, WIDTH, Match, find_matches
from neverblink.football.streams import football_stream
from neverblink.sources.base import SourceOptions
from neverblink.types import Frame, SourceInfo


class FootballSource:
    """Matches in the order of their names, over again until `options.end`; without an end each of them once.

    Nothing is dropped or scaled; it runs as fast as it is read.

    Args:
        place: as for `football_stream`.
        options: `fps`, `start` and `end` count.
    """

    info: SourceInfo

    def __init__(self, place: str | Path | list[Path], options: SourceOptions):
        self._paths = find_matches(place)
        self._options = options
        if options.fps != int(options.fps):
            raise ConfigError(f"football at {options.fps} pictures a second: recordings have whole numbers; use 2 or 1")
        self._events: list[GameEvent] = []
        self._closed = False

    def __enter__(self) -> Self:
        once = sum(Match(path).seconds for path in self._paths)
        self._end = self._options.end or float(once)
        name = f"football: {len(self._paths)} matches"
        self.info = SourceInfo(name, "file", False, WIDTH, HEIGHT, "h264", self._end)
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def frames(self) -> Iterator[Frame]:
        fps, start = int(self._options.fps), self._options.start
        stream = football_stream(self._paths, 0, math.ceil(self._end), fps, shuffle=False)
        for second in stream:
            if second.start + 1 > start:
                self._events += second.events
            for k, pixels in enumerate(second.frames):
                time = second.start + k / fps
                if self._closed or time >= self._end:
                    return
                if time >= start:
                    yield Frame(time, pixels)

    def take_dropped(self) -> int:
        return 0

    def take_events(self) -> list[GameEvent]:
        """What the seconds that were begun since the last call show, in the order in which they do."""
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        self._closed = True
