"""Words that have left the window are read once more, as previous text.

A word is said beside pictures, and its keys and values are computed from them; training reads the previous text by
itself (StreamingVLM, section 3.2). Here the words that moved are fed again, and see the opening and the previous text
before them alone: their values are then what a stream holds that was given them as its previous text.
"""

from __future__ import annotations

import numpy as np
import torch

from neverblink.kv.cache import StreamCache
from neverblink.models.base import Adapter, Feed, Steps


def reread(cache: StreamCache, adapter: Adapter) -> Steps[None]:
    """Feed the unread rows of a stream once more. Where that fails they stay unread, for the next chunk to read."""
    table = cache.table
    unread = np.flatnonzero(table.serials[: table.n] < 0)
    if not len(unread):
        return
    a, b = int(unread[0]), int(unread[-1]) + 1
    assert (table.cells[a:b] < 0).all(), "previous text shows no pictures"
    with table.reopened(a, b):
        positions = torch.from_numpy(table.pos[a:b].T.astype(np.float32))
        yield Feed(adapter.embed(torch.from_numpy(table.ids[a:b].copy())), positions, cache, None)
        table.commit(b)
    table.pos0[a:b] = table.pos[a:b]
    cache.arena.rewritten(cache.slot, a, min(b, table.anchors))
