"""Helpers of the source tests: watch a source to its end and keep all that it told."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))  # for media.py, shared with other tests

from neverblink.errors import NeverblinkError
from neverblink.sources import SourceOptions, open_source
from neverblink.types import Frame, SourceInfo


@dataclass
class Watched:
    frames: list[Frame] = field(default_factory=list)
    events: list[tuple[str, str, float]] = field(default_factory=list)
    info: SourceInfo | None = None
    error: NeverblinkError | None = None
    dropped: int = 0
    seconds: float = 0.0  # wall

    @property
    def times(self) -> list[float]:
        return [frame.time for frame in self.frames]

    def told(self, kind: str) -> list[str]:
        return [text for its_kind, text, _ in self.events if its_kind == kind]


@pytest.fixture
def watch() -> Callable[..., Watched]:
    """watch(name, frames=None, **options): all frames (or the first so many) and events of a source, and its error."""

    def watch(name: Any, frames: int | None = None, each: Callable[[Any, Frame], None] | None = None, **options: Any):
        watched = Watched()
        options = {"fps": 8.0, "on_event": lambda *event: watched.events.append(event), **options}
        began = time.monotonic()
        try:
            with open_source(name, SourceOptions(**options)) as source:
                watched.info = source.info
                for frame in source.frames():
                    watched.frames.append(frame)
                    if each is not None:
                        each(source, frame)
                    if len(watched.frames) == frames:
                        break
                watched.dropped = source.take_dropped()
        except NeverblinkError as error:
            watched.error = error
        watched.seconds = time.monotonic() - began
        assert all(a < b for a, b in zip(watched.times, watched.times[1:], strict=False)), watched.times
        assert all(time >= 0 for time in watched.times)
        return watched

    return watch
