"""The arena as stock transformers sees it: a Cache whose layers write into fixed rows and return views.

For one stream or for several in one call. No patching: `Cache` and `CacheLayerMixin` are public classes of
transformers 5.23; keys arrive AFTER RoPE.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from neverblink.kv.arena import Arena
from neverblink.kv.recurrent import Recurrent, State
from neverblink.kv.table import Table


class ArenaLayer(CacheLayerMixin):
    """One layer of one slot."""

    is_sliding = False

    def __init__(self, arena: Arena, slot: int, layer: int, table: Table):
        super().__init__()
        self.whole = arena.k[layer], arena.v[layer]  # of all slots
        self._k, self._v, self._table = *(part[slot : slot + 1] for part in self.whole), table
        self.keys, self.values, self.is_initialized = self._k, self._v, True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing to do: the arena was allocated before the first frame."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write [1, heads, T, dim] behind the held rows; return views of everything up to there."""
        a = self._table.n
        b = a + key_states.shape[-2]
        self._k[:, :, a:b] = key_states
        self._v[:, :, a:b] = value_states
        return self._k[:, :, :b], self._v[:, :, :b]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._table.n + query_length, 0

    def get_seq_length(self) -> int:
        return self._table.n

    def get_max_length(self) -> int:
        return int(self._k.shape[-2])

    def reset(self) -> None:
        """Rows are dropped by the table, never zeroed here."""


class StreamCache(Cache):
    """`past_key_values` of one stream. The table's `n` is its length; it moves only when a feed is committed, so a
    forward that fails leaves nothing behind."""

    def __init__(self, arena: Arena, table: Table, slot: int = 0):
        rows = iter(range(arena.layers))
        kept = range(arena.layers + len(arena.recurrent))
        layers = [Recurrent() if i in arena.recurrent else ArenaLayer(arena, slot, next(rows), table) for i in kept]
        super().__init__(layers=layers)
        self.arena, self.table, self.slot = arena, table, slot

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.table.n

    def mark(self) -> list[State]:
        """Where the recurrent layers stand, for `rewind`; rows are the table's."""
        return [layer.mark() for layer in self.layers if isinstance(layer, Recurrent)]

    def rewind(self, mark: list[State]) -> None:
        """Take the recurrent layers back to a mark; one of another stream of the same model is as good."""
        for layer, state in zip([la for la in self.layers if isinstance(la, Recurrent)], mark, strict=True):
            layer.rewind(state)

    def begin_anew(self) -> None:
        """Nothing was fed."""
        self.rewind([None] * len(self.arena.recurrent))


class Segment(NamedTuple):
    """One stream's part of a packed call."""

    cache: StreamCache
    start: int  # its tokens are [start, end) of the call
    end: int
    rows: int  # of its cache, its new ones included
    mask: torch.Tensor | None  # bool [end - start, rows]: what each token sees; None: one token, which sees every row


class PackedCache(Cache):
    """`past_key_values` of several streams whose tokens are fed as one sequence [1, sum T]: each segment's keys and
    values go to its own slot. What a segment attends to are `rows_of` it; see models/packed.py.

    Args:
        caches, sizes: the streams and how many tokens each is fed, in the order of the call.
    """

    def __init__(self, caches: Sequence[StreamCache], sizes: Sequence[int]):
        super().__init__(layers=[])
        assert len({id(cache) for cache in caches}) == len(caches), "a stream stands once in a packed call"
        self.segments, start = [], 0
        for cache, size in zip(caches, sizes, strict=True):
            past, rows, device = cache.table.n, cache.table.n + size, cache.arena.device
            mask = torch.ones(size, rows, dtype=torch.bool, device=device).tril(past) if size > 1 else None
            self.segments.append(Segment(cache, start, start + size, rows, mask))
            start += size

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write [1, heads, sum T, dim] behind the held rows of each stream."""
        for cache, start, end, _, _ in self.segments:
            cache.layers[layer_idx].update(key_states[:, :, start:end], value_states[:, :, start:end])
        return key_states, value_states

    def rows_of(self, segment: Segment, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [1, heads, rows, dim] of one segment's stream, its new rows included; views."""
        own = segment.cache.layers[layer]
        return own.keys[:, :, : segment.rows], own.values[:, :, : segment.rows]

    def whole(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [slots, heads, max_rows, dim] of a layer of the arena that all these streams stand in."""
        own = self.segments[0].cache.layers[layer]
        return own.whole
