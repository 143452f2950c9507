"""The decode step as a CUDA graph: one launch a token instead of some hundreds.

A graph repeats the same operations on the same addresses, so everything that changes from token to token stands in
buffers: the embedding, its position and the row that it is written to. Attention goes over every row of the slot, with
what lies behind the token hidden; at a steady stream's end of the cache that is nearly all of them anyway. Without CUDA
the same steps run one by one, which is how they are tested on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from neverblink.models import lean


class DecodeStep:
    """One token through the decoder, on fixed buffers, for one slot of an arena.

    Args:
        lm: the stock text model. keys, values: of each layer, [1, kv_heads, rows, dim], where the token's are written.
        compile: backend of torch.compile that fuses its operations first, "" for none. All shapes are fixed.
    """

    def __init__(self, lm: Any, keys: list[torch.Tensor], values: list[torch.Tensor], compile: str = ""):
        weight = lm.embed_tokens.weight
        self._lm, self._keys, self._values = lm, keys, values
        self._embeds = torch.zeros(1, weight.shape[1], dtype=weight.dtype, device=weight.device)
        self._positions = torch.zeros(3, 1, device=weight.device)
        self._row = torch.zeros(1, dtype=torch.long, device=weight.device)
        self._rows = torch.arange(keys[0].shape[2], device=weight.device)
        step = self._step
        if compile:
            step = torch.compile(step, dynamic=False, fullgraph=True, backend=compile)
        self._replay = self._captured(step) if weight.device.type == "cuda" else step

    def __call__(self, embeds: torch.Tensor, positions: torch.Tensor, row: int) -> torch.Tensor:
        """Feed [1, hidden] at [3, 1] as cache row `row`; gives [1, hidden], valid until the next call."""
        self._embeds.copy_(embeds, non_blocking=True)
        self._positions.copy_(positions, non_blocking=True)
        self._row.fill_(row)
        return self._replay()

    def _step(self) -> torch.Tensor:
        seen = torch.zeros(1, len(self._rows), dtype=self._embeds.dtype, device=self._rows.device)
        seen.masked_fill_((self._rows > self._row)[None], -torch.inf)
        groups = self._lm.config.num_attention_heads // self._keys[0].shape[1]
        seen = seen.expand(groups, -1)

        def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            self._keys[layer].index_copy_(2, self._row, k)
            self._values[layer].index_copy_(2, self._row, v)
            return lean.attention(q, self._keys[layer], self._values[layer], seen)

        return lean.decode(self._lm, self._embeds, self._positions, attend)

    def _captured(self, step: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        """Record `step` once. It writes the row that `_row` names, which nobody reads before a call names it again."""
        self._row.fill_(len(self._rows) - 1)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            step()  # what libraries set up at their first call must not be recorded
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # the tower may run in another thread
            out = step()

        def replay() -> torch.Tensor:
            graph.replay()
            return out

        return replay
