"""Qwen2-VL on the stock transformers class: as Qwen2.5-VL, except that time is counted in temporal patches."""

from __future__ import annotations

from neverblink.models.qwen2_5_vl import Qwen25VL, pixel_options
from neverblink.models.stock import Checkpoint, stock_time_only


class Qwen2VL(Qwen25VL):
    """Adapter of `Qwen2VLForConditionalGeneration`."""

    family = "qwen2_vl"

    def _step(self, seconds_per_grid: float) -> float:
        return 1.0


def load(checkpoint: Checkpoint) -> Qwen2VL:
    """A checkpoint to an adapter."""
    stock_time_only(checkpoint)
    model = checkpoint.model("Qwen2VLForConditionalGeneration")
    pixels = pixel_options(checkpoint.preprocessor(), model.config)
    return Qwen2VL(model, checkpoint.tokenizer(), pixels, checkpoint.name)
