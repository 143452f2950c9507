"""The plain twin of the streaming cache: no arena, no masters, no relocation of anything.

Every token's key is kept as it was BEFORE RoPE, for ever. Whenever tokens are fed, the keys that the table holds at
that moment are rotated from scratch to the positions that the table gives them, and each new token attends to exactly
those. Slow and obvious; the stream must agree with it whatever its policy does.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from neverblink.kv.table import Table
from neverblink.models.qwen2_5_vl import Qwen25VL


def rotate_half(x: torch.Tensor) -> torch.Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat((-b, a), -1)


class Fed(NamedTuple):
    """Rows that are fed."""

    vision: torch.Tensor  # [n] bool
    baked: torch.Tensor  # [n, 3] positions that their keys are given


class Twin:
    """Runs beside a stream: wrap its adapter with `Watched`, and compare after every feed."""

    def __init__(self, adapter: Qwen25VL, dtype: torch.dtype, kv_dtype: str = ""):
        self.lm, self.adapter, self.dtype = adapter.model.model.language_model, adapter, dtype
        self.k: dict[tuple[int, int], torch.Tensor] = {}  # (layer, serial) -> key before RoPE [heads, dim]
        self.v: dict[tuple[int, int], torch.Tensor] = {}
        self.kv_dtype = kv_dtype

    def rounded(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows [.., dim] through a byte and back, with a scale of the largest value of each."""
        most = {"int8": 127, "fp8": 448}[self.kv_dtype]
        scale = (rows.abs().amax(-1, keepdim=True).float() / most).clamp(min=1e-12 / most)
        parts = rows / scale
        parts = parts.round() if self.kv_dtype == "int8" else parts.to(torch.float8_e4m3fn)
        return (parts.to(rows.dtype) * scale).to(rows.dtype)

    def _round_vision(self, index: int, serials: list[int], baked: torch.Tensor) -> None:
        """Vision as a compact cache keeps it: rounded at the places [n, 3] at which it was fed, for good."""
        cos, sin = self.lm.rotary_emb(torch.zeros(1, dtype=self.dtype), baked.T.float()[:, None])
        cos, sin = cos[0], sin[0]
        for i, serial in enumerate(serials):
            k = self.k[index, serial]
            k = self.rounded(k * cos[i] + rotate_half(k) * sin[i])
            self.k[index, serial] = k * cos[i] - rotate_half(k) * sin[i]
            self.v[index, serial] = self.rounded(self.v[index, serial])

    def keep(self, serials: list[int]) -> None:
        """Forget the keys of all other tokens."""
        wanted = set(serials)
        for kept in (self.k, self.v):
            for name in [name for name in kept if name[1] not in wanted]:
                del kept[name]

    def hidden(
        self, embeds: torch.Tensor, held: list[int], new: list[int], places: torch.Tensor, fed: Fed | None = None
    ) -> torch.Tensor:
        """Feed `new` serials behind `held` ones; places [held + new, 3]. fed: of the new ones, for a kv_dtype."""
        x = embeds.to(self.dtype)[None]
        cos, sin = self.lm.rotary_emb(torch.zeros(1, dtype=self.dtype), places.T.float()[:, None])
        cos, sin = cos[0], sin[0]  # [rows, dim]
        total, count = len(held) + len(new), len(new)
        see = torch.ones(count, total, dtype=torch.bool).tril(len(held))
        for index, layer in enumerate(self.lm.layers):
            a = layer.self_attn
            normed = layer.input_layernorm(x)
            q = a.q_proj(normed)[0].view(count, -1, a.head_dim).transpose(0, 1)
            k = a.k_proj(normed)[0].view(count, -1, a.head_dim)
            v = a.v_proj(normed)[0].view(count, -1, a.head_dim)
            for i, serial in enumerate(new):
                self.k[index, serial], self.v[index, serial] = k[i], v[i]
            if fed is not None and fed.vision.any():
                seen = [serial for serial, vision in zip(new, fed.vision.tolist(), strict=True) if vision]
                self._round_vision(index, seen, fed.baked[fed.vision])
            keys = torch.stack([self.k[index, s] for s in held + new], 1)  # [heads, rows, dim]
            values = torch.stack([self.v[index, s] for s in held + new], 1)
            keys = keys * cos + rotate_half(keys) * sin
            q = q * cos[len(held) :] + rotate_half(q) * sin[len(held) :]
            groups = q.shape[0] // keys.shape[0]
            scores = q @ keys.repeat_interleave(groups, 0).transpose(1, 2) * a.scaling
            weights = scores.masked_fill(~see, -torch.inf).softmax(-1)
            mixed = (weights @ values.repeat_interleave(groups, 0)).transpose(0, 1).reshape(1, count, -1)
            x = x + a.o_proj(mixed)
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        return self.lm.norm(x)[0]


class Gone(RuntimeError):
    """The device has failed in a forward."""


class Watched:
    """An adapter that remembers, for every feed, what the table held and where it stood."""

    def __init__(self, adapter: Qwen25VL, twin: Twin | None = None):
        self._adapter, self.twin = adapter, twin
        self.table: Table | None = None
        self.native = False
        self.worst = 0.0  # difference of a logit
        self.feeds = self.other_best = 0  # feeds compared, and those with another best token
        self.fail_in = 0  # feeds until one fails; 0: none does
        self.feeds = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)

    def forward(self, embeds: torch.Tensor, positions: torch.Tensor, cache: Any) -> torch.Tensor:
        self.feeds += 1
        hidden = self._adapter.forward(embeds, positions, cache)
        if self.fail_in:
            self.fail_in -= 1
            if not self.fail_in:
                raise Gone
        if self.twin is not None:
            table, count = cache.table, embeds.shape[0]
            held = table.serials[: table.n].tolist()
            new = list(range(table.next_serial, table.next_serial + count))
            places = torch.from_numpy(table.places(not self.native)[: table.n + count].copy())
            fed = None
            if self.twin.kv_dtype:
                vision = torch.from_numpy(table.cells[table.n : table.n + count] >= 0)
                fed = Fed(vision, positions.T)
            plain = self.twin.hidden(embeds, held, new, places, fed)
            ours, theirs = self._adapter.logits(hidden).double(), self._adapter.logits(plain.to(hidden.dtype)).double()
            self.feeds += 1
            self.other_best += int(ours[-1].argmax()) != int(theirs[-1].argmax())
            self.worst = max(self.worst, float((ours - theirs).abs().max()))
        return hidden
