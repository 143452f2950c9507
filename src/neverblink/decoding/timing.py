"""Seconds of named stages."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_clock: Callable[[], float] = time.perf_counter


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Writes the wall time of its block into `seconds[stage]`."""
    began = _clock()
    yield
    seconds[stage] = _clock() - began


@contextmanager
def cpu_time() -> Iterator[None]:
    """Within, stages are timed by the CPU time of this thread: for benchmarks beside other work."""
    global _clock
    before, _clock = _clock, time.thread_time
    try:
        yield
    finally:
        _clock = before
