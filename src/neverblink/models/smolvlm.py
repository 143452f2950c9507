"""SmolVLM, SmolVLM2 and Idefics3 on the stock transformers classes. Each frame is one picture that is not cut up."""

from __future__ import annotations

from typing import Any

import torch

from neverblink.models.squares import SquareAdapter
from neverblink.types import Marks


class SmolVLM(SquareAdapter):
    """Adapter of `SmolVLMForConditionalGeneration`."""

    family, kind = "smolvlm", "SmolVLMForConditionalGeneration"
    about = "SmolVLM and SmolVLM2: square frames, each a picture"
    marks = Marks(
        "<image>",
        before="<fake_token_around_image><global-img>",
        after="<fake_token_around_image>",
        item="image",
        placeholder="<image>",
    )

    @staticmethod
    def tokens_of(config: Any, side: int) -> int:
        return int((side // config.vision_config.patch_size) ** 2 // config.scale_factor**2)

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        out = self.model.model.get_image_features(pixels[None]).pooler_output
        return torch.cat(list(out)).view(len(pixels), self.tokens, -1)


class Idefics3(SmolVLM):
    """Adapter of `Idefics3ForConditionalGeneration`."""

    family, kind = "idefics3", "Idefics3ForConditionalGeneration"
    about = "Idefics3: square frames, each a picture"
