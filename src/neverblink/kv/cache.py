"""The arena as stock transformers sees it: a Cache whose layers write into fixed rows and return views.

No patching: `Cache` and `CacheLayerMixin` are public classes of transformers 5.23; keys arrive AFTER RoPE.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from neverblink.kv.arena import Arena
from neverblink.kv.table import Table


class ArenaLayer(CacheLayerMixin):
    """One layer of one slot."""

    is_sliding = False

    def __init__(self, arena: Arena, slot: int, layer: int, table: Table):
        super().__init__()
        self._k, self._v, self._table = arena.k[layer][slot : slot + 1], arena.v[layer][slot : slot + 1], table
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
        super().__init__(layers=[ArenaLayer(arena, slot, layer, table) for layer in range(arena.layers)])
        self.arena, self.table, self.slot = arena, table, slot
