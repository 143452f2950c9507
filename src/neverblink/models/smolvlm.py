"""SmolVLM, SmolVLM2 and Idefics3 on the stock transformers classes. Each frame is one picture that is not cut up."""

from __future__ import annotations

import torch

from neverblink.models.squares import SquareAdapter, square_options
from neverblink.models.stock import Checkpoint
from neverblink.types import Marks


class SmolVLM(SquareAdapter):
    """Adapter of `SmolVLMForConditionalGeneration`."""

    family = "smolvlm"
    marks = Marks(
        "<image>",
        before="<fake_token_around_image><global-img>",
        after="<fake_token_around_image>",
        item="image",
        placeholder="<image>",
    )

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        out = self.model.model.get_image_features(pixels[None]).pooler_output
        return torch.cat(list(out)).view(len(pixels), self.tokens, -1)


class Idefics3(SmolVLM):
    """Adapter of `Idefics3ForConditionalGeneration`."""

    family = "idefics3"


def load(checkpoint: Checkpoint) -> SmolVLM:
    """A checkpoint of SmolVLM or SmolVLM2 to an adapter."""
    return _load(checkpoint, "SmolVLMForConditionalGeneration", SmolVLM)


def load_idefics3(checkpoint: Checkpoint) -> SmolVLM:
    """A checkpoint of Idefics3 to an adapter."""
    return _load(checkpoint, "Idefics3ForConditionalGeneration", Idefics3)


def _load(checkpoint: Checkpoint, kind: str, adapter: type[SmolVLM]) -> SmolVLM:
    model = checkpoint.model(kind)
    vision = model.config.vision_config
    pixels = square_options(checkpoint, vision.image_size)
    tokens = (pixels.side // vision.patch_size) ** 2 // model.config.scale_factor**2
    return adapter(model, checkpoint.tokenizer(), pixels, tokens, checkpoint.name)
