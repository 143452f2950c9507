"""Qwen3.5, dense and mixture of experts, on the stock transformers classes: a hybrid of attention and recurrence.

Three layers of four are recurrent (gated delta rule, arXiv 2412.06464): they keep one state of fixed size in place of
rows, into which every token goes and from which none can be taken. So when the KV cache evicts, the attention layers
see what is held and the recurrent layers still carry a fading trace of all that was ever fed. That is what `streaming`
and `full` mean here. `recompute` and `last-frames` feed what is held again from an empty state, and remember nothing
else.
Policies that promise to begin anew with rows that are kept do not hold, and are refused.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from neverblink.models.qwen3_vl import Qwen3VL
from neverblink.vision.pixels import PixelOptions


class Qwen35(Qwen3VL):
    """Adapter of `Qwen3_5ForConditionalGeneration`."""

    family, kind = "qwen3_5", "Qwen3_5ForConditionalGeneration"
    about = "Qwen3.5, dense: as qwen3_vl; its recurrent layers keep a trace of all that was fed"
    refused_policies: ClassVar[dict[str, str]] = {
        "sliding": "it begins anew with the opening, and recurrent layers cannot forget; use streaming or recompute",
        "reread": "recurrent layers cannot read words once more in an earlier place; use streaming or recompute",
        "streaming-vlm": "it reproduces a reference that knows attention only; use streaming or recompute",
    }

    refused_kv_dtype = "its recurrent layers keep no rows of vision"

    def __init__(self, model: Any, tokenizer: Any, pixels: PixelOptions, name: str = "", time_grid: Any = "stock"):
        super().__init__(model, tokenizer, pixels, name, time_grid)
        kinds = self._lm.config.layer_types
        self.recurrent = frozenset(i for i, kind in enumerate(kinds) if kind == "linear_attention")
        self.layers = len(kinds) - len(self.recurrent)
        self.ropes = ("",) * self.layers

    def forward(self, embeds: torch.Tensor, positions: torch.Tensor, cache: Any) -> torch.Tensor:
        mark = cache.mark()
        if not cache.table.n:
            cache.begin_anew()  # whatever a stream held, it is fed from the start now
        seen = self._mask(embeds.shape[0], cache.table.n)
        try:
            return self._call(embeds, positions, cache, {"full_attention": seen, "linear_attention": None})
        except BaseException:
            cache.rewind(mark)  # half of the layers may have gone on
            raise

    def forward_packed(self, embeds: torch.Tensor, positions: torch.Tensor, cache: Any) -> torch.Tensor:
        """One stream after the other: a recurrence has no mask that would keep them apart."""
        marks = [segment.cache.mark() for segment in cache.segments]
        try:
            return torch.cat(
                [self.forward(embeds[s.start : s.end], positions[:, s.start : s.end], s.cache) for s in cache.segments]
            )
        except BaseException:
            for segment, mark in zip(cache.segments, marks, strict=True):
                segment.cache.rewind(mark)
            raise


class Qwen35Moe(Qwen35):
    """Adapter of `Qwen3_5MoeForConditionalGeneration`."""

    family, kind = "qwen3_5_moe", "Qwen3_5MoeForConditionalGeneration"
    about = "Qwen3.5, mixture of experts: as qwen3_5"
