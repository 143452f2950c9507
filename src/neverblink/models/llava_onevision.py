"""LLaVA-OneVision on the stock transformers class. A chunk is one clip: pooled frames, then one new-line embedding."""

from __future__ import annotations

import torch

from neverblink.models.base import Look, VisionBlock
from neverblink.models.squares import SquareAdapter, in_a_row, square_options
from neverblink.models.stock import Checkpoint
from neverblink.types import Marks, Part


class LlavaOneVision(SquareAdapter):
    """Adapter of `LlavaOnevisionForConditionalGeneration`."""

    family = "llava_onevision"
    marks = Marks("<video>", placeholder="<video>")

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


def load(checkpoint: Checkpoint) -> LlavaOneVision:
    """A checkpoint to an adapter."""
    model = checkpoint.model("LlavaOnevisionForConditionalGeneration")
    vision = model.config.vision_config
    pixels = square_options(checkpoint, vision.image_size)
    tokens = -((-(vision.image_size // vision.patch_size) // 2) ** 2)  # pooled by half, odd sides rounded up
    return LlavaOneVision(model, checkpoint.tokenizer(), pixels, tokens, checkpoint.name)
