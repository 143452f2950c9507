"""The decoder of Qwen2- and Qwen2.5-VL in few operations: the stock modules' own weights without their Python.

A token of a small model costs the stock forward more in Python than in products: five levels of calls a layer, keyword
arguments, decorators, a look-up of the attention. Here a layer is what it computes. Only for float32 on a CPU; anything
else, and anything unusual about a model, takes the stock forward, which is also the twin that tests compare with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import rms_norm, scaled_dot_product_attention, silu

# (layer, queries [1, heads, T, dim], keys and values [1, kv_heads, T, dim]) -> [T, heads * dim]
Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


TEXT_MODELS = ("Qwen2VLTextModel", "Qwen2_5_VLTextModel")


def knows(lm: Any) -> bool:
    """Whether this text model's layers are those that `decode` computes."""
    return type(lm).__name__ in TEXT_MODELS


def can_run(lm: Any) -> bool:
    """Whether `decode` computes what this text model's own forward does, as it is loaded."""
    if not knows(lm):
        return False
    config, weight = lm.config, lm.embed_tokens.weight
    return bool(
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and config._attn_implementation == "sdpa"
        and config.hidden_act == "silu"
        and not lm.has_sliding_layers
        and not lm.training
        and lm.rotary_emb.rope_type == "default"
    )


def decode(lm: Any, embeds: torch.Tensor, positions: torch.Tensor, attend: Attend) -> torch.Tensor:
    """Embeddings [T, hidden] at positions [3, T] float32 through every layer; gives [T, hidden]."""
    cos, sin = _angles(lm.rotary_emb, positions)
    x, width = embeds, (embeds.shape[1],)
    for number, layer in enumerate(lm.layers):
        mix, norm = layer.self_attn, layer.input_layernorm
        h = rms_norm(x, width, norm.weight, norm.variance_epsilon)
        q, k, v = (_heads(part(h), mix.head_dim) for part in (mix.q_proj, mix.k_proj, mix.v_proj))
        x = x + mix.o_proj(attend(number, _turned(q, cos, sin), _turned(k, cos, sin), v))
        norm, mlp = layer.post_attention_layernorm, layer.mlp
        h = rms_norm(x, width, norm.weight, norm.variance_epsilon)
        x = x + mlp.down_proj(silu(mlp.gate_proj(h)) * mlp.up_proj(h))
    return rms_norm(x, width, lm.norm.weight, lm.norm.variance_epsilon)


def mask(embeds: torch.Tensor, past: int, shared: int) -> torch.Tensor | None:
    """What each of T tokens behind `past` rows may see, for `attention`: 0 or -inf [shared * T, past + T]; None: one
    token, which sees everything. Made once a call, as floats: each layer would make them anew out of bools."""
    size = len(embeds)
    if size == 1:
        return None
    hidden = torch.full((size, past + size), -torch.inf, dtype=embeds.dtype)
    return hidden.triu_(past + 1).repeat(shared, 1)


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, seen: torch.Tensor | None) -> torch.Tensor:
    """Queries [1, heads, T, dim] over rows [1, kv_heads, rows, dim]; gives [T, heads * dim].

    Args:
        seen: what `mask` gave.
    """
    _, heads, size, dim = q.shape
    # The heads that share keys stand as more queries of one head, so that no key is copied for them.
    shared = heads // k.shape[1]
    out = scaled_dot_product_attention(q.reshape(1, k.shape[1], shared * size, dim), k, v, attn_mask=seen)
    return out.reshape(heads, size, dim).transpose(0, 1).reshape(size, heads * dim)


def _heads(x: torch.Tensor, dim: int) -> torch.Tensor:
    """[T, heads * dim] -> [1, heads, T, dim]."""
    return x.view(1, x.shape[0], -1, dim).transpose(1, 2)


def _angles(rope: Any, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and signed sin [T, dim] of positions [3, T], each frequency on its own axis."""
    angles = positions[:, :, None] * rope.inv_freq  # [3, T, dim / 2]
    parts = angles.split(rope.mrope_section, dim=-1)
    own = torch.cat([part[i % 3] for i, part in enumerate(parts)], -1)
    cos, sin = own.cos() * rope.attention_scaling, own.sin() * rope.attention_scaling
    return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)


def _turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """The rotation of halves: with the sign in the sine, swapping the halves is all that is left of it."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)
