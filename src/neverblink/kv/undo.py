"""A turn is done as a whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from neverblink.kv.cache import StreamCache


@contextmanager
def undone_on_error(cache: StreamCache, random: torch.Generator, *, always: bool = False) -> Iterator[None]:
    """Whatever goes wrong within, its driver going away included: what was fed and drawn never was.

    Args:
        always: even when nothing goes wrong; a question leaves no trace.
    """
    table = cache.table
    mark, states, state, undo = table.mark(), cache.mark(), random.get_state(), True
    try:
        yield
        undo = always
    finally:
        if undo:
            table.rewind(mark)
            cache.rewind(states)
            random.set_state(state)
