"""Words that have left the window are read once more, as previous text.

A word is said beside pictures, and its keys and values are computed from them; training reads the previous text by
itself (StreamingVLM, section 3.2). Here the words that moved are fed again, and see the opening and the previous text
before them alone: their values are then what a stream holds that was given them as its previous text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from neverblink.kv.cache import StreamCache
from neverblink.models.base import Steps


def reread(cache: StreamCache, feed: Callable[[], Steps[Any]]) -> Steps[None]:
    """Feed the unread rows of a stream once more. Where that fails they stay unread, for the next chunk to read.

    Args:
        feed: feeds every pending row of the stream.
    """
    table = cache.table
    unread = np.flatnonzero(table.serials[: table.n] < 0)
    if not len(unread):
        return
    a, b = int(unread[0]), int(unread[-1]) + 1
    with table.reopened(a, b):
        yield from feed()
    cache.arena.rewritten(cache.slot, a, min(b, table.anchors))
