"""What a stream needs of a model: the adapter protocol. One file a family implements it on stock classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch


@dataclass(frozen=True, slots=True)
class VisionBlock:
    """The encoded pictures of one chunk."""

    embeds: torch.Tensor  # [tokens, hidden]
    loc: np.ndarray  # [tokens, 3] float64: place of each token on the t, h, w axes, from the block's start
    advance: float  # how far the text behind the block stands from its start

    @property
    def tokens(self) -> int:
        return int(self.embeds.shape[0])


class Adapter(Protocol):
    """A model family as a stream sees it. Everything is for one sequence; `T` is the number of tokens fed at once."""

    name: str
    family: str
    model: Any  # the stock transformers module
    tokenizer: Any
    device: torch.device
    dtype: torch.dtype
    layers: int
    kv_heads: int
    head_dim: int
    fingerprint: str  # changes with any weight or the config; snapshots carry it
    stop_ids: frozenset[int]

    def encode(self, frames: Sequence[np.ndarray], fps: float) -> VisionBlock:
        """Pictures [H, W, 3] uint8 to a block of embeddings with their places."""
        ...

    def max_vision_tokens(self, frames: int) -> int:
        """Upper bound of the tokens that `encode` returns for so many frames of any size."""
        ...

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """[T] ids to [T, hidden]."""
        ...

    def forward(self, embeds: torch.Tensor, positions: torch.Tensor, cache: Any) -> torch.Tensor:
        """Feed [T, hidden] at positions [3, T]; the cache appends the new keys and values. Gives [T, hidden]."""
        ...

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[n, hidden] to [n, vocabulary] float32."""
        ...

    def rotation(self, old: torch.Tensor, new: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin [n, head_dim] float64 that carry keys baked at positions `old` [n, 3] to positions `new`.

        Composed from the model's own (rounded) angles, so a carried key equals one that was baked there.
        """
        ...
