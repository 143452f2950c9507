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

NEAR = 2e-5  # of a row's largest value: how far ours may be from the stream's before it is rounded


def rotate_half(x: torch.Tensor) -> torch.Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat((-b, a), -1)


class Stored(NamedTuple):
    """What a compact arena has stored of the rows that were fed just now: keys and values of vision, in each layer."""

    vision: torch.Tensor  # [n] bool, of the fed rows
    baked: torch.Tensor  # [n, 3] positions that their keys were given
    bytes: list[torch.Tensor]  # of each layer [2, heads, seen, dim] int8
    scales: list[torch.Tensor]  # of each layer [2, heads, seen, 1]


class Twin:
    """Runs beside a stream: wrap its adapter with `Watched`, and compare after every feed."""

    def __init__(self, adapter: Qwen25VL, dtype: torch.dtype, kv_dtype: str = ""):
        self.lm, self.adapter, self.dtype = adapter.model.model.language_model, adapter, dtype
        self.k: dict[tuple[int, int], torch.Tensor] = {}  # (layer, serial) -> key before RoPE [heads, dim]
        self.v: dict[tuple[int, int], torch.Tensor] = {}
        self.kv_dtype, self.astray = kv_dtype, 0  # values that were not rounded to the nearest byte

    def _as_stored(self, index: int, k: torch.Tensor, v: torch.Tensor, stored: Stored) -> list[torch.Tensor]:
        """Vision [seen, heads, dim], keys before RoPE, as the bytes of the stream have it from now on.

        A value on the edge between two bytes may become either, since the stream's angles are float32. So the bytes are
        the stream's own, and each must be what a value within NEAR of ours is rounded to; what is not is `astray`.
        """
        cos, sin = self.lm.rotary_emb(torch.zeros(1, dtype=self.dtype), stored.baked[stored.vision].T.float()[:, None])
        cos, sin = cos[0][:, None], sin[0][:, None]
        ours = torch.stack((k * cos + rotate_half(k) * sin, v)).transpose(1, 2).double()
        most, scale = {"int8": 127, "fp8": 448}[self.kv_dtype], stored.scales[index].double()
        bits = stored.bytes[index]
        values = (bits if self.kv_dtype == "int8" else bits.view(torch.float8_e4m3fn)).double()
        low, high = (self._nearest(ours / scale + off) for off in (-NEAR * most, NEAR * most))
        alike = (ours.abs().amax(-1, keepdim=True) / scale / most - 1).abs() < NEAR
        self.astray += int((~((low <= values) & (values <= high) & alike)).sum())
        key, value = (values * scale).to(self.dtype).transpose(1, 2)
        return [key * cos - rotate_half(key) * sin, value]

    def _nearest(self, values: torch.Tensor) -> torch.Tensor:
        return values.round() if self.kv_dtype == "int8" else values.to(torch.float8_e4m3fn).double()

    def keep(self, serials: list[int]) -> None:
        """Forget the keys of all other tokens."""
        wanted = set(serials)
        for kept in (self.k, self.v):
            for name in [name for name in kept if name[1] not in wanted]:
                del kept[name]

    def hidden(
        self, embeds: torch.Tensor, held: list[int], new: list[int], places: torch.Tensor, stored: Stored | None = None
    ) -> torch.Tensor:
        """Feed `new` serials behind `held` ones; places [held + new, 3]. stored: of the new ones, for a kv_dtype."""
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
            if stored is not None and stored.vision.any():
                k[stored.vision], v[stored.vision] = self._as_stored(index, k[stored.vision], v[stored.vision], stored)
            for i, serial in enumerate(new):
                self.k[index, serial], self.v[index, serial] = k[i], v[i]
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
        self.feeds = self.other_best = 0  # feeds, and those with another best token than the twin's
        self.fail_in = 0  # feeds until one fails; 0: none does

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
            stored = self._stored(cache, positions) if self.twin.kv_dtype else None
            plain = self.twin.hidden(embeds, held, new, places, stored)
            ours, theirs = self._adapter.logits(hidden).double(), self._adapter.logits(plain.to(hidden.dtype)).double()
            self.other_best += int(ours[-1].argmax()) != int(theirs[-1].argmax())
            self.worst = max(self.worst, float((ours - theirs).abs().max()))
        return hidden

    def _stored(self, cache: Any, positions: torch.Tensor) -> Stored:
        """Rows [.., n] of vision that the last forward has written, behind those that the table holds."""
        table, arena = cache.table, cache.arena
        vision = table.cells[: table.n + positions.shape[1]] >= 0
        held, end = int(vision[: table.n].sum()), int(vision.sum())
        written = ([t[cache.slot, :, :, held:end].clone() for t in kept] for kept in (arena.bytes, arena.scales))
        return Stored(torch.from_numpy(vision[table.n :].copy()), positions.T, *written)
