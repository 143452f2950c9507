"""InternVL (3 and later, in Hugging Face form) on the stock transformers class. Frames are numbered in each chunk."""

from __future__ import annotations

from typing import Any

import torch

from neverblink.models.squares import SquareAdapter
from neverblink.types import QWEN, Marks


class InternVL(SquareAdapter):
    """Adapter of `InternVLForConditionalGeneration`."""

    family, kind = "internvl", "InternVLForConditionalGeneration"
    about = "InternVL 3 and later, in Hugging Face form: square frames, numbered"
    marks = Marks(
        "<IMG_CONTEXT>",
        before="Frame{number}: <img>",
        after="</img>",
        between="\n",
        time=QWEN.time + "\n",
        placeholder="<video>",
    )

    @staticmethod
    def tokens_of(config: Any, side: int) -> int:
        return int((side // config.vision_config.patch_size[0]) ** 2 * config.downsample_ratio**2)

    @staticmethod
    def side_of(config: Any) -> int:
        side: int = config.vision_config.image_size[0]
        return side

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        embeds: torch.Tensor = self.model.model.get_image_features(pixel_values=pixels).pooler_output
        return embeds
