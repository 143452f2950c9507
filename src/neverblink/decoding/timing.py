"""Wall seconds of named stages."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Writes the wall time of its block into `seconds[stage]`."""
    began = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - began
