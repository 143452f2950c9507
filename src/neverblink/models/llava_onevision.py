"""LLaVA-OneVision on the stock transformers class. A chunk is one clip: pooled frames, then one new-line embedding."""

from __future__ import annotations

import math
from typing import Any

import torch

from neverblink.models.base import Look, VisionBlock
from neverblink.models.squares import SquareAdapter, in_a_row
from neverblink.types import Marks, Part


class LlavaOneVision(SquareAdapter):
    """Adapter of `LlavaOnevisionForConditionalGeneration`."""

    family, kind = "llava_onevision", "LlavaOnevisionForConditionalGeneration"
    about = "LLaVA-OneVision: square frames, pooled"
    marks = Marks("<video>", placeholder="<video>")

    @staticmethod
    def tokens_of(config: Any, side: int) -> int:
        return math.ceil(side // config.vision_config.patch_size / 2) ** 2  # pooled by half

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        clips = self.model.model.get_video_features(pixels[:, None]).pooler_output
        return clips[:, :-1]  # each clip of one frame ends with a new line of its own

    def _block(self, look: Look, embeds: torch.Tensor) -> VisionBlock:
        rows = torch.cat([embeds.flatten(0, 1), self.model.model.image_newline[None].to(embeds.dtype)])
        return VisionBlock(rows, in_a_row(len(rows)), float(len(rows)))

    def max_vision_tokens(self, frames: int) -> int:
        return frames * self.tokens + 1

    def max_parts(self, frames: int) -> tuple[Part, ...]:
        return (Part(self.max_vision_tokens(frames)),)
