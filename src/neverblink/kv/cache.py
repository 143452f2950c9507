"""The arena as stock transformers sees it: a Cache whose layers write into fixed rows and return views.

For one stream or for several in one call. No patching: `Cache` and `CacheLayerMixin` are public classes of
transformers 5.23; keys arrive AFTER RoPE.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from neverblink.kv.arena import Arena, Need
from neverblink.kv.compact import CompactArena, from_bytes, to_bytes
from neverblink.kv.recurrent import Recurrent, State
from neverblink.kv.relocate import turn
from neverblink.kv.table import Table
from neverblink.models.base import Adapter


def make_arena(adapter: Adapter, need: Need, slots: int = 1) -> Arena:
    """An arena of a model's own shapes, on its device.

    Raises:
        BudgetError: the memory is not there.
    """
    if need.kv_dtype:
        return CompactArena(adapter, need, slots)
    return Arena.of(adapter, need.rows, need.anchors, slots)


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
        self.write(key_states, value_states)
        return self.read(self._table.n + key_states.shape[-2])

    def write(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """The first half of `update`."""
        a = self._table.n
        b = a + key_states.shape[-2]
        self._k[:, :, a:b] = key_states
        self._v[:, :, a:b] = value_states

    def read(self, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [1, heads, rows, dim] of everything up to there; valid until another layer is read."""
        return self._k[:, :, :rows], self._v[:, :, :rows]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._table.n + query_length, 0

    def get_seq_length(self) -> int:
        return self._table.n

    def get_max_length(self) -> int:
        return int(self._k.shape[-2])

    def reset(self) -> None:
        """Rows are dropped by the table, never zeroed here."""


class Run(NamedTuple):
    """Rows that stand one behind the other."""

    vision: bool
    start: int  # rows [start, end) of the slot's bytes, or of its exact rows
    end: int
    at: int  # where they begin, in the feed or in what a layer reads


class Places:
    """Where the tokens of a feed go and how a layer reads a slot; the same for all layers of a stream.

    A layer reads held vision, then the other held rows, then the feed's own in their order: attention does not ask in
    which order the rows stand that a token may see, as long as it sees all of them.
    """

    def __init__(self, arena: CompactArena, table: Table):
        self._arena, self._table = arena, table
        self.written: list[Run] = []
        self.read: list[Run] = []
        self.held_vision = 0
        self.turns: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}  # of held vision, by rope; {}: none has moved
        self._turned: tuple[np.ndarray, np.ndarray] | None = None  # the places that `turns` belongs to

    def begin(self, size: int) -> None:
        """A feed of so many rows behind the held ones."""
        table, n = self._table, self._table.n
        vision = table.cells[: n + size] >= 0
        held = int(vision[:n].sum())
        ends = {True: held, False: n - held}
        read, self.written = [Run(True, 0, held, 0), Run(False, 0, n - held, held)], []
        cuts = [0, *(np.flatnonzero(np.diff(vision[n:])) + 1).tolist(), size]
        for a, b in pairwise(cuts):
            kind = bool(vision[n + a])
            start, end = ends[kind], ends[kind] + b - a
            self.written.append(Run(kind, start, end, a))
            if not kind and not a:
                read[1] = read[1]._replace(end=end)  # they follow on the held ones, so one copy does for both
            else:
                read.append(Run(kind, start, end, n + a))
            ends[kind] = end
        self.read, self.held_vision = [run for run in read if run.end > run.start], held
        self._turn(vision[:n])

    def _turn(self, vision: np.ndarray) -> None:
        old, now = self._table.pos0[: len(vision)][vision], self._table.pos[: len(vision)][vision]
        if np.abs(now - old).max(initial=0.0) < 1e-6:
            self.turns, self._turned = {}, None
        elif self._turned is None or not all(map(np.array_equal, self._turned, (old, now))):
            was, place = torch.from_numpy(old), torch.from_numpy(now)
            self.turns = {rope: self._arena.rotation(was, place, rope) for rope in set(self._arena.ropes)}
            self._turned = old, now


class CompactLayer(ArenaLayer):
    """One layer of one slot of a compact arena."""

    def __init__(self, arena: CompactArena, slot: int, layer: int, table: Table, places: Places):
        super().__init__(arena, slot, layer, table)
        self._bytes, self._scales, self._scratch = arena.bytes[layer][slot], arena.scales[layer][slot], arena.scratch
        self._kind, self._rope, self._first, self._places = arena.kv_dtype, arena.ropes[layer], layer == 0, places

    def write(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """[1, heads, T, dim] behind the held rows, those of vision as bytes."""
        if self._first:
            self._places.begin(key_states.shape[-2])
        for vision, a, b, at in self._places.written:
            k, v = key_states[0, :, at : at + b - a], value_states[0, :, at : at + b - a]
            if vision:
                self._bytes[:, :, a:b], self._scales[:, :, a:b] = to_bytes(torch.stack((k, v)), self._kind)
            else:
                self._k[0, :, a:b], self._v[0, :, a:b] = k, v

    def read(self, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """All rows up to the last written one, as `Places` orders them."""
        scratch, held = self._scratch, self._places.held_vision
        for vision, a, b, at in self._places.read:
            there = scratch[:, :, at : at + b - a]
            if vision:
                from_bytes(self._bytes[:, :, a:b], self._scales[:, :, a:b], self._kind, there)
            else:
                there[0], there[1] = self._k[0, :, a:b], self._v[0, :, a:b]
        if self._places.turns:
            scratch[0, :, :held] = turn(scratch[0, :, :held], *self._places.turns[self._rope])
        return scratch[:1, :, :rows], scratch[1:, :, :rows]

    def get_max_length(self) -> int:
        return int(self._scratch.shape[-2])


class StreamCache(Cache):
    """`past_key_values` of one stream. The table's `n` is its length; it moves only when a feed is committed, so a
    forward that fails leaves nothing behind."""

    def __init__(self, arena: Arena, table: Table, slot: int = 0):
        rows = iter(range(arena.layers))
        kept = range(arena.layers + len(arena.recurrent))
        layers: list[Any]
        if isinstance(arena, CompactArena):
            places = Places(arena, table)
            layers = [CompactLayer(arena, slot, i, table, places) for i in rows]
        else:
            layers = [Recurrent() if i in arena.recurrent else ArenaLayer(arena, slot, next(rows), table) for i in kept]
        super().__init__(layers=layers)
        self.arena, self.table, self.slot = arena, table, slot

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.table.n

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values that are held."""
        return self.arena.held_bytes(self.table.n, self.table.cells)

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
            cache.layers[layer_idx].write(key_states[:, :, start:end], value_states[:, :, start:end])
        return key_states, value_states

    def rows_of(self, segment: Segment, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [1, heads, rows, dim] of one segment's stream, its new rows included; valid until the next
        call."""
        found: tuple[torch.Tensor, torch.Tensor] = segment.cache.layers[layer].read(segment.rows)
        return found

    def whole(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [slots, heads, max_rows, dim] of a layer of the arena that all these streams stand in."""
        own = self.segments[0].cache.layers[layer]
        return own.whole
