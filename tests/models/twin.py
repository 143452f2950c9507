"""The plain twin of a stream, for every family: its language model, with an attention that keeps every key for ever.

Each key is turned back to where it was before the rotary embedding and kept. Whenever tokens are fed, the keys of the
rows that the table holds at that moment are turned from scratch to the places that it gives them, and each new token
sees exactly those: one masked full pass. No arena, no masters, no relocation, no mask of the adapter's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import AttentionInterface, DynamicCache

NAME = "neverblink_twin"


def turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    size = cos.shape[-1]
    a, b = x[..., :size].chunk(2, -1)
    return torch.cat((x[..., :size] * cos + torch.cat((-b, a), -1) * sin, x[..., size:]), -1)


class FamilyTwin:
    """Runs beside a stream of any adapter on a stock model."""

    def __init__(self, adapter: Any, pad_id: int):
        self.adapter, self.lm, self.pad_id = adapter, adapter._lm, pad_id
        self.k: dict[tuple[int, int], torch.Tensor] = {}  # (layer, serial) -> key before the rotary embedding
        self.v: dict[tuple[int, int], torch.Tensor] = {}
        self.states: Any = None  # of recurrent layers
        AttentionInterface.register(NAME, self.attention)

    def hidden(
        self, embeds: torch.Tensor, ids: np.ndarray, held: list[int], new: list[int], places: torch.Tensor
    ) -> torch.Tensor:
        """Feed `new` serials behind `held` ones; ids and places [held + new, ..] of all of them."""
        self.held, self.new, self.places, past = held, new, places.double(), len(held)
        runs = np.cumsum(np.diff(ids == self.pad_id, prepend=False))  # a number for each run of pads, and of text
        picture = torch.from_numpy(np.where(ids == self.pad_id, runs, -1))
        self.see = torch.ones(len(new), len(ids), dtype=torch.bool).tril(past)
        if self.adapter.family == "gemma3":
            self.see |= (picture[past:, None] == picture) & (picture[past:, None] >= 0)
        config, before = self.lm.config, self.lm.config._attn_implementation
        config._attn_implementation = NAME
        if self.adapter.recurrent and not held:
            self.states = DynamicCache(
                config=config
            )  # stock: all that was fed since the rows were last fed from the start
        try:
            return self.adapter._call(embeds, places[past:].T.float(), self.states, None)
        finally:
            config._attn_implementation = before

    def _angles(self, module: Any, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        kind = (module.layer_type,) if self.adapter.family == "gemma3" else ()
        at = self.places.T.float()
        cos, sin = self.lm.rotary_emb(
            torch.zeros(1, dtype=dtype), at[:, None] if self.adapter.axes == 3 else at[:1], *kind
        )
        return cos[0], sin[0]

    def attention(self, module: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Any, **how: Any) -> Any:
        layer, past = module.layer_idx, len(self.held)
        k, v = k[:, :, -len(self.new) :], v[:, :, -len(self.new) :]
        cos, sin = self._angles(module, k.dtype)
        plain = turned(k[0], cos[past:], -sin[past:])
        for i, serial in enumerate(self.new):
            self.k[layer, serial], self.v[layer, serial] = plain[:, i], v[0, :, i]
        serials = self.held + self.new
        keys = turned(torch.stack([self.k[layer, s] for s in serials], 1), cos, sin)
        values = torch.stack([self.v[layer, s] for s in serials], 1)
        shared, see = q.shape[1] // keys.shape[0], self.see
        if getattr(module, "is_sliding", False):
            at = self.places[:, 0]
            see = see & (at[past:, None] - at[None] < module.config.sliding_window)
        scores = q[0] @ keys.repeat_interleave(shared, 0).transpose(1, 2) * how["scaling"]
        weights = scores.masked_fill(~see, -torch.inf).softmax(-1)
        return (weights @ values.repeat_interleave(shared, 0)).transpose(0, 1)[None], None


class Watched:
    """An adapter whose every feed is compared with the twin's."""

    def __init__(self, adapter: Any, twin: FamilyTwin, native: bool):
        self._adapter, self._twin, self._native = adapter, twin, native
        self.worst, self.feeds = 0.0, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)

    def forward(self, embeds: torch.Tensor, positions: torch.Tensor, cache: Any) -> torch.Tensor:
        hidden = self._adapter.forward(embeds, positions, cache)
        table, count = cache.table, embeds.shape[0]
        held = table.serials[: table.n].tolist()
        new = list(range(table.next_serial, table.next_serial + count))
        places = torch.from_numpy(table.places(not self._native)[: table.n + count].copy())
        plain = self._twin.hidden(embeds, table.ids[: table.n + count].copy(), held, new, places)
        apart = (self._adapter.logits(hidden) - self._adapter.logits(plain)).abs().max()
        self.worst, self.feeds = max(self.worst, float(apart)), self.feeds + 1
        return hidden
