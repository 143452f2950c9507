"""Stock vision towers, layer by layer, for encoder caches: the windowed ones of Qwen2.5-VL, and plain SigLIP ones.

They compute what the stock forward computes; tests hold the two together.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.nn.functional import linear, scaled_dot_product_attention


class Windows(NamedTuple):
    """Which rows see each other, as a table of windows padded to the longest."""

    rows: torch.Tensor  # [windows, longest] row of each slot; row 0 stands in for empty slots
    mask: torch.Tensor | None  # [windows, 1, 1, longest] bool: the slot is a row; None: all are
    window: torch.Tensor  # [n] window of each row
    slot: torch.Tensor  # [n] its slot there

    @classmethod
    def of(cls, ends: torch.Tensor) -> Windows:
        """From cumulated lengths [0, .., n]."""
        ends = torch.unique_consecutive(ends)
        sizes, start = ends.diff(), ends[:-1]
        longest = int(sizes.max())
        slots = torch.arange(longest, device=ends.device)
        real = slots[None] < sizes[:, None]
        window = torch.repeat_interleave(torch.arange(len(sizes), device=ends.device), sizes)
        slot = torch.arange(int(ends[-1]), device=ends.device) - start[window]
        rows = torch.where(real, start[:, None] + slots, 0)
        return cls(rows, None if bool(real.all()) else real[:, None, None], window, slot)


class QwenPlace(NamedTuple):
    """Where the patches of one glance stand."""

    cos: torch.Tensor  # [n, head_dim], in the order of the layers
    sin: torch.Tensor
    back: torch.Tensor  # [tokens] to raster order
    windows: Windows
    whole: Windows


class QwenTower:
    """The tower of Qwen2.5-VL: `model.model.visual`."""

    def __init__(self, visual: Any):
        self._v, self.layers = visual, len(visual.blocks)
        self._full = set(visual.fullatt_block_indexes)

    def begin(self, patches: torch.Tensor, grid: tuple[int, int]) -> tuple[torch.Tensor, QwenPlace]:
        from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as stock

        v = self._v
        grids = torch.tensor([[1, *grid]], device=patches.device)
        places = stock.get_vision_position_ids(grids, v.spatial_merge_size)
        order, ends = stock.get_vision_window_index(
            grids, spatial_merge_size=v.spatial_merge_size, window_size=v.window_size, patch_size=v.patch_size
        )
        order, ends = order.to(patches.device), ends.to(patches.device)
        x = v.patch_embed(patches)
        count = len(x)
        cos, sin = (v.permute_input_for_window_attn(part, order, count) for part in v.rotary_pos_emb(x, places))
        x = v.permute_input_for_window_attn(x, order, count)
        whole = torch.tensor([0, count], device=patches.device)
        return x, QwenPlace(cos, sin, torch.argsort(order), Windows.of(ends), Windows.of(whole))

    def norm(self, layer: int, x: torch.Tensor) -> torch.Tensor:
        return self._v.blocks[layer].norm1(x)

    def _project(self, layer: int, normed: torch.Tensor, part: int) -> torch.Tensor:
        """One of the queries (0), keys (1) and values (2), of the fused projection."""
        qkv, d = self._v.blocks[layer].attn.qkv, normed.shape[-1]
        return linear(normed, qkv.weight[part * d : (part + 1) * d], qkv.bias[part * d : (part + 1) * d])

    def _turn(self, layer: int, flat: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """The stock rotation, which computes in float32 whatever comes. [m, d] -> [m, d]."""
        wide = flat.view(len(flat), self._v.blocks[layer].attn.num_heads, -1).float()
        a, b = wide.chunk(2, -1)
        turned = wide * cos[:, None].float() + torch.cat((-b, a), -1) * sin[:, None].float()
        return turned.to(flat.dtype).flatten(1)

    def keys(self, layer: int, normed: torch.Tensor, place: QwenPlace) -> torch.Tensor:
        return self._turn(layer, self._project(layer, normed, 1), place.cos, place.sin)

    def values(self, layer: int, normed: torch.Tensor) -> torch.Tensor:
        return self._project(layer, normed, 2)

    def attend(
        self,
        layer: int,
        normed: torch.Tensor,
        rows: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        place: QwenPlace,
    ) -> torch.Tensor:
        attention = self._v.blocks[layer].attn
        queries = self._turn(layer, self._project(layer, normed, 0), place.cos[rows], place.sin[rows])
        windows = place.whole if layer in self._full else place.windows
        return attention.proj(windowed(queries, rows, keys, values, windows, attention.num_heads, attention.scaling))

    def mlp(self, layer: int, x: torch.Tensor) -> torch.Tensor:
        block = self._v.blocks[layer]
        return block.mlp(block.norm2(x))

    def finish(self, x: torch.Tensor, place: QwenPlace) -> torch.Tensor:
        return self._v.merger(x)[place.back]


class SiglipTower:
    """A plain tower in which every patch sees every other: transformers' SigLIP vision model, or one built like it.

    `patches` are its pixel values [3, H, W]; the result is its last hidden state [n, d]. For encoder caches of
    plug-ins: no family of ours with such a tower takes one yet (`takes` of the square families is empty).
    """

    def __init__(self, vision: Any):
        self._v = getattr(vision, "vision_model", vision)
        self._layers = self._v.encoder.layers
        self.layers = len(self._layers)

    def begin(self, patches: torch.Tensor, grid: tuple[int, int]) -> tuple[torch.Tensor, Windows]:
        x = self._v.embeddings(patches[None])[0]
        return x, Windows.of(torch.tensor([0, len(x)], device=x.device))

    def norm(self, layer: int, x: torch.Tensor) -> torch.Tensor:
        return self._layers[layer].layer_norm1(x)

    def keys(self, layer: int, normed: torch.Tensor, place: Windows) -> torch.Tensor:
        return self._layers[layer].self_attn.k_proj(normed)

    def values(self, layer: int, normed: torch.Tensor) -> torch.Tensor:
        return self._layers[layer].self_attn.v_proj(normed)

    def attend(
        self,
        layer: int,
        normed: torch.Tensor,
        rows: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        place: Windows,
    ) -> torch.Tensor:
        a = self._layers[layer].self_attn
        return a.out_proj(windowed(a.q_proj(normed), rows, keys, values, place, a.num_heads, a.scale))

    def mlp(self, layer: int, x: torch.Tensor) -> torch.Tensor:
        block = self._layers[layer]
        return block.mlp(block.layer_norm2(x))

    def finish(self, x: torch.Tensor, place: Windows) -> torch.Tensor:
        return self._v.post_layernorm(x)


def windowed(
    queries: torch.Tensor,
    rows: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    windows: Windows,
    heads: int,
    scale: float,
) -> torch.Tensor:
    """Attention of some rows [m, d] over the keys and values [n, d] of their own windows; gives [m, d]."""
    q, k, v = (part.view(len(part), heads, -1) for part in (queries, keys, values))
    if len(windows.rows) == 1:
        out = scaled_dot_product_attention(
            q.transpose(0, 1)[None], k.transpose(0, 1)[None], v.transpose(0, 1)[None], scale=scale
        )
        return out[0].transpose(0, 1).flatten(1)
    # Every window computes for as many queries as the longest could have: one call, and little beside the projections.
    padded = q.new_zeros(*windows.rows.shape, *q.shape[1:])
    at = windows.window[rows], windows.slot[rows]
    padded[at] = q
    out = scaled_dot_product_attention(
        padded.transpose(1, 2),
        k[windows.rows].transpose(1, 2),
        v[windows.rows].transpose(1, 2),
        attn_mask=windows.mask,
        scale=scale,
    )
    return out.transpose(1, 2)[at].flatten(1)
