"""Attention of a packed call: the tokens of several streams stand in one sequence, and each sees its own stream only.

Stock transformers looks its attention up by name at every call (`config._attn_implementation`), and hands on what
`forward` was given by keyword. Both are its public way to bring an attention of one's own; nothing is patched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import scaled_dot_product_attention

if TYPE_CHECKING:
    from neverblink.kv.cache import PackedCache, Segment
    from neverblink.models.varlen import Folded

NAME = "neverblink_packed"


def packed_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    packed: PackedCache,
    scaling: float,
    folded: Folded | None = None,
    sees: Callable[[Any, Segment], torch.Tensor | None] | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Queries [1, heads, sum T, dim] over each stream's rows of the arena; gives [1, sum T, heads, dim].

    Args:
        folded: the call as one kernel takes it; None goes stream by stream.
        sees: the mask of a segment in a layer, where it is not the segment's own.
    """
    if folded is not None:
        keys, values = packed.whole(module.layer_idx)
        return folded(query, keys, values, scaling), None
    heads, total, dim = query.shape[1:]
    mixed = query.new_empty(1, total, heads, dim)
    for segment in packed.segments:
        keys, values = packed.rows_of(segment, module.layer_idx)
        # The heads that share keys stand as more queries of one head, so that no key is copied for them.
        shared, size = heads // keys.shape[1], segment.end - segment.start
        q = query[:, :, segment.start : segment.end].reshape(1, keys.shape[1], shared * size, dim)
        seen = segment.mask if sees is None else sees(module, segment)
        mask = None if seen is None else seen.repeat(shared, 1)
        out = scaled_dot_product_attention(q, keys, values, attn_mask=mask, scale=scaling)
        mixed[:, segment.start : segment.end] = out.reshape(1, heads, size, dim).transpose(1, 2)
    return mixed, None


@contextmanager
def packed_calls(config: Any) -> Iterator[None]:
    """Within, the language model of this config attends with `packed_attention`; afterwards as before.

    A switch, not a second model, so two threads must not call the same model at once.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, packed_attention)
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
