"""InternVL (3 and later, in Hugging Face form) on the stock transformers class. Frames are numbered in each chunk."""

from __future__ import annotations

import torch

from neverblink.models.squares import SquareAdapter, square_options
from neverblink.models.stock import Checkpoint
from neverblink.types import QWEN, Marks


class InternVL(SquareAdapter):
    """Adapter of `InternVLForConditionalGeneration`."""

    family = "internvl"
    marks = Marks(
        "<IMG_CONTEXT>",
        before="Frame{number}: <img>",
        after="</img>",
        between="\n",
        time=QWEN.time + "\n",
        placeholder="<video>",
    )

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        embeds: torch.Tensor = self.model.model.get_image_features(pixel_values=pixels).pooler_output
        return embeds


def load(checkpoint: Checkpoint) -> InternVL:
    """A checkpoint to an adapter."""
    model = checkpoint.model("InternVLForConditionalGeneration")
    vision = model.config.vision_config
    pixels = square_options(checkpoint, vision.image_size[0])
    # The tower has a place for each patch of its own size, and no other.
    tokens = int((pixels.side // vision.patch_size[0]) ** 2 * model.config.downsample_ratio**2)
    return InternVL(model, checkpoint.tokenizer(), pixels, tokens, checkpoint.name)
