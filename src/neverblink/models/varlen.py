"""Attention of a packed call in one kernel: torch's `varlen_attn` over every stream's own rows, where they stand.

A kernel of variable lengths takes keys one behind the other, [rows, heads, dim]; a slot of the arena holds them head by
head, [heads, rows, dim]. So each pair of stream and KV head is told as a sequence of its own with one KV head: its keys
begin at (slot * heads + head) * max_rows, and how many of them count is told beside it. Nothing is copied but the
queries. Off a GPU the plain loop of models/packed.py is the twin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from neverblink.kv.cache import PackedCache

# (q [T, heads, dim], k, v [rows, kv_heads, dim], cu_q, cu_k int32 [n + 1], most q, most k, scale, seqused_k int32 [n])
Kernel = Callable[..., torch.Tensor]


def kernel() -> Kernel | None:
    """torch's, or None: this torch has none that counts the rows in use."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    run: Any = varlen_attn
    return run if "seqused_k" in run.__annotations__ else None


class Folded:
    """The sequences of one packed call, the same in every layer.

    Args:
        packed: streams of one arena, whose tokens see all that came before them.
        heads: of the queries. run: the kernel.
    """

    def __init__(self, packed: PackedCache, heads: int, run: Kernel):
        arena = packed.segments[0].cache.arena
        kv_heads, device = arena.k[0].shape[1], arena.device
        segments = sorted(packed.segments, key=lambda segment: segment.cache.slot)  # starts must rise
        total, shared = packed.segments[-1].end, heads // kv_heads
        order: list[int] = []
        sizes, starts, used = [], [], []
        for segment in segments:
            for head in range(kv_heads):
                order += range(head * total + segment.start, head * total + segment.end)
                sizes.append(segment.end - segment.start)
                starts.append((segment.cache.slot * kv_heads + head) * arena.max_rows)
                used.append(segment.rows)

        def whole(numbers: Iterable[int]) -> torch.Tensor:
            return torch.tensor(list(numbers), dtype=torch.int32, device=device)

        self._run, self._shared, self._kv_heads = run, shared, kv_heads
        self._order = torch.tensor(order, device=device)  # of the queries [kv_heads * total], sequence by sequence
        self._cu_q, self._cu_k = whole(accumulate(sizes, initial=0)), whole([*starts, starts[-1] + arena.max_rows])
        self._used, self._most_q, self._most_k = whole(used), max(sizes), max(used)

    def __call__(self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float) -> torch.Tensor:
        """Queries [1, heads, total, dim] over a layer of the arena [slots, kv_heads, max_rows, dim]; gives
        [1, total, heads, dim]."""
        _, heads, total, dim = query.shape
        rows = query.view(self._kv_heads, self._shared, total, dim).transpose(1, 2).reshape(-1, self._shared, dim)
        mixed = self._run(
            rows[self._order],
            keys.view(-1, 1, dim),
            values.view(-1, 1, dim),
            self._cu_q,
            self._cu_k,
            self._most_q,
            self._most_k,
            scale=scale,
            window_size=(-1, 0),  # causal; the last query of a sequence sees its last row
            enable_gqa=True,
            seqused_k=self._used,
        )
        out = torch.empty_like(rows)
        out[self._order] = mixed
        return out.view(self._kv_heads, total, self._shared, dim).transpose(0, 1).reshape(1, total, heads, dim)


def fold(packed: PackedCache, heads: int, run: Kernel | None) -> Folded | None:
    """What `packed_attention` is to be given; None without a kernel, or where vision is bytes beside the rows."""
    return None if run is None or packed.segments[0].cache.arena.kv_dtype else Folded(packed, heads, run)
