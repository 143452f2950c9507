"""Frames to chunks: the unit that a stream takes in at one step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

from neverblink.errors import ConfigError
from neverblink.sources.base import Source
from neverblink.types import Chunk, Frame


def chunks(source: Source, fps: float, seconds: float = 1.0) -> Iterator[Chunk]:
    """Group frames by media time into [k*seconds, (k+1)*seconds).

    A chunk is given out as soon as it is full (round(fps*seconds) frames), or when a later frame shows that no more
    will come. Chunks without frames are left out: time simply jumps.
    """
    full = max(1, round(fps * seconds))
    held: list[Frame] = []
    number = -1  # of the newest chunk that was begun
    given_out = False

    def make_chunk() -> Chunk:
        return Chunk(number * seconds, (number + 1) * seconds, tuple(held), source.take_dropped())

    for frame in source.frames():
        its_number = math.floor(frame.time / seconds + 1e-6)
        if its_number > number:
            if held:
                yield make_chunk()
            held, number, given_out = [], its_number, False
        # A frame more than fit (a source off its own rate) opens no second chunk for the same second.
        if not given_out:
            held.append(frame)
            if len(held) == full:
                yield make_chunk()
                held, given_out = [], True
    if held:
        yield make_chunk()


def asked(
    coming: Iterator[Chunk],
    seconds: float | None = None,
    questions: Mapping[float, str] | Callable[[float], str | None] | None = None,
) -> Iterator[tuple[Chunk, str | None]]:
    """Chunks with what is asked at their end, until so many media seconds are over.

    Args:
        questions: media second -> question, asked with the first chunk that ends at or after it; or a function of a
            chunk's end.
    """
    waiting = [] if callable(questions) else sorted((questions or {}).items())
    first = None
    for chunk in coming:
        first = chunk.start if first is None else first
        question = questions(chunk.end) if callable(questions) else None
        if waiting and waiting[0][0] <= chunk.end:
            question = waiting.pop(0)[1]
        yield chunk, question
        if seconds is not None and chunk.end - first >= seconds - 1e-6:
            return


def check_seconds(seconds: float | None) -> None:
    """Refuse a length that no chunk has, before anything is opened.

    Raises:
        ConfigError: it is not above 0.
    """
    if seconds is not None and seconds <= 0:
        raise ConfigError(f"seconds must be above 0, got {seconds}")
