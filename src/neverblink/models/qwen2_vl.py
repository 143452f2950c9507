"""Qwen2-VL on the stock transformers class: as Qwen2.5-VL, except that time is counted in temporal patches."""

from __future__ import annotations

from neverblink.models.qwen2_5_vl import Qwen25VL


class Qwen2VL(Qwen25VL):
    """Adapter of `Qwen2VLForConditionalGeneration`."""

    family, kind = "qwen2_vl", "Qwen2VLForConditionalGeneration"
    about = "Qwen2-VL: any size of picture, time as a position"
    takes = frozenset({"gate", "compress"})

    def _step(self, seconds_per_grid: float) -> float:
        return 1.0
