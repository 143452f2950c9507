"""Attention of the Qwen-VL towers over all windows, or all pictures, in one call where they are of one size.

The stock forward splits queries, keys and values and calls its attention for each part: 32 calls a layer for eight
streams of four pairs of frames. Same products, same weights and names; parts of several sizes take the stock forward.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

KNOWN = ("Qwen2_5_VLVisionAttention", "VisionAttention")


class WindowAttention(torch.nn.Module):
    """In the place of a stock attention, whose parts it has.

    Args:
        stock: of a class in `KNOWN`.
    """

    def __init__(self, stock: Any):
        super().__init__()
        self.qkv, self.proj, self.num_heads, self.scaling = stock.qkv, stock.proj, stock.num_heads, stock.scaling
        self.config = stock.config
        self._stock = (stock,)  # in a tuple, since its weights are registered as ours
        self.train(stock.training)

    def forward(
        self,
        hidden_states: torch.Tensor,
        cu_seqlens: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        **more: Any,
    ) -> torch.Tensor:
        """[n, hidden] -> [n, hidden]; rows of one part, cu_seqlens[i] to cu_seqlens[i + 1], see each other."""
        sizes = cu_seqlens.diff().tolist()
        if self.config._attn_implementation != "sdpa" or len(set(sizes)) != 1:
            out: torch.Tensor = self._stock[0](hidden_states, cu_seqlens, position_embeddings, **more)
            return out
        parts, size = len(sizes), sizes[0]
        fused = self.qkv(hidden_states).view(parts, size, 3, self.num_heads, -1)
        q, k, v = fused.permute(2, 0, 3, 1, 4)  # [parts, heads, size, dim]
        cos, sin = (x.float().view(parts, 1, size, -1) for x in position_embeddings)
        mixed = scaled_dot_product_attention(_turned(q, cos, sin), _turned(k, cos, sin), v, scale=self.scaling)
        done: torch.Tensor = self.proj(mixed.transpose(1, 2).reshape(len(hidden_states), -1))
        return done


def _turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """The stock rotation, which computes in float32 whatever comes."""
    wide = x.float()
    a, b = wide.chunk(2, -1)
    return (wide * cos + torch.cat((-b, a), -1) * sin).to(x.dtype)


def in_one_call(tower: Any) -> None:
    """Give a tower's blocks this attention, where theirs is known."""
    for block in tower.blocks:
        if type(block.attn).__name__ in KNOWN:
            block.attn = WindowAttention(block.attn)
