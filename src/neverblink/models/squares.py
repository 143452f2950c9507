"""What families share that see every frame as a square picture of one size, and count its tokens as text."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch

from neverblink.errors import ModelError
from neverblink.models.base import Look, VisionBlock
from neverblink.models.stock import Checkpoint, StockAdapter, stock_time_only
from neverblink.types import Part
from neverblink.vision.pixels import Resample, SquareOptions, squares

RESAMPLE: dict[int, Resample] = {1: "lanczos", 2: "bilinear", 3: "bicubic"}  # the numbers that PIL gives them


class SquareAdapter(StockAdapter):
    """Adapter of a family that sees squares.

    Args:
        pixels: the squares. tokens: of one of them.
    """

    axes = 1

    def __init__(self, model: Any, tokenizer: Any, pixels: SquareOptions, tokens: int, name: str = ""):
        super().__init__(model, tokenizer, name)
        self.pixels, self.tokens = pixels, tokens
        patch = model.config.vision_config.patch_size
        self.patches_per_token = (pixels.side // (patch if isinstance(patch, int) else patch[0])) ** 2 / tokens

    @classmethod
    def load(cls, checkpoint: Checkpoint) -> Self:
        """A checkpoint to an adapter."""
        model = checkpoint.model(cls.kind)
        pixels = square_options(checkpoint, cls.side_of(model.config))
        return cls(model, checkpoint.tokenizer(), pixels, cls.tokens_of(model.config, pixels.side), checkpoint.name)

    @staticmethod
    def side_of(config: Any) -> int:
        """Pixels of a side that the tower was made for."""
        side: int = config.vision_config.image_size
        return side

    @staticmethod
    @abstractmethod
    def tokens_of(config: Any, side: int) -> int:
        """Tokens of one square."""

    @abstractmethod
    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Squares [n, 3, side, side] to embeddings [n, tokens, hidden]."""

    def encode_packed(self, looks: Sequence[Look]) -> list[VisionBlock]:
        stacks = [squares(look.frames, self.pixels, self.device) for look in looks]
        embeds = self.features(torch.cat(stacks).to(self.dtype))
        own = embeds.split([len(stack) for stack in stacks])
        return [self._block(look, part) for look, part in zip(looks, own, strict=True)]

    def _block(self, look: Look, embeds: torch.Tensor) -> VisionBlock:
        """Embeddings [frames, tokens, hidden] of one chunk, each frame a part."""
        count, tokens = embeds.shape[:2]
        parts = tuple(Part(tokens, k / look.fps) for k in range(count))
        return VisionBlock(embeds.flatten(0, 1), np.tile(in_a_row(tokens), (count, 1)), float(tokens), parts)

    def max_vision_tokens(self, frames: int) -> int:
        return frames * self.tokens

    def max_parts(self, frames: int) -> tuple[Part, ...]:
        return (Part(self.tokens),) * frames


def in_a_row(tokens: int) -> np.ndarray:
    """Places [tokens, 3] of tokens that are counted as text."""
    return np.repeat(np.arange(float(tokens))[:, None], 3, axis=1)


def square_options(checkpoint: Checkpoint, side: int) -> SquareOptions:
    """How a checkpoint's pictures are made square.

    Args:
        side: pixels, where its files do not say.

    Raises:
        ModelError: the files ask for a way of resizing that is not known here, or for no square.
    """
    stock_time_only(checkpoint)
    found = checkpoint.preprocessor()
    size, default = found.get("max_image_size") or found.get("size") or {}, SquareOptions(side)
    edges = {int(size[name]) for name in ("height", "width", "shortest_edge", "longest_edge") if size.get(name)}
    number = int(found.get("resample", 3))
    if len(edges) > 1 or number not in RESAMPLE:
        raise ModelError(
            f"{checkpoint.name}: pictures of {size} with resample {number} are not known here; known are squares with "
            f"{', '.join(f'{number} ({name})' for number, name in RESAMPLE.items())}"
        )
    first = (found.get("size") or {}).get("longest_edge", 0) if found.get("max_image_size") else 0
    return SquareOptions(
        edges.pop() if edges else side,
        RESAMPLE[number],
        int(first or 0),
        tuple(found.get("image_mean", default.mean)),
        tuple(found.get("image_std", default.std)),
    )
