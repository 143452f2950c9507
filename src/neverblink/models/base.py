"""What a stream needs of a model: the adapter protocol. One file a family implements it on stock classes."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch

if TYPE_CHECKING:
    from neverblink.economy import EncoderCache, State


@dataclass(frozen=True, slots=True)
class VisionBlock:
    """The encoded pictures of one chunk."""

    embeds: torch.Tensor  # [tokens, hidden]
    loc: np.ndarray  # [tokens, 3] float64: place of each token on the t, h, w axes, from the block's start
    advance: float  # how far the text behind the block stands from its start
    state: Mapping[str, torch.Tensor] = field(default_factory=dict)  # of who saw it, for the block after it
    frames_skipped: int = 0  # by a gate

    @property
    def tokens(self) -> int:
        return int(self.embeds.shape[0])


class Whole(NamedTuple):
    """Where the tokens of a block of whole pictures stand; what is told of it is a selection."""

    grid: tuple[int, int]  # rows and columns of tokens of one picture
    loc: np.ndarray  # [glances, h*w, 3] float64, as in VisionBlock
    advance: float


class Cached(NamedTuple):
    """An encoder cache at work for one stream; the state after it comes back in the VisionBlock."""

    cache: EncoderCache
    times: tuple[float, ...]  # media seconds of each glance
    state: State


class Look(NamedTuple):
    """Pictures that a stream wants encoded; the answer is a VisionBlock."""

    frames: Sequence[np.ndarray]  # each [H, W, 3] uint8
    fps: float
    cached: Cached | None = None


class Feed(NamedTuple):
    """Tokens that a stream wants read; the answer is the logits [vocabulary] of the last one."""

    embeds: torch.Tensor  # [T, hidden]
    positions: torch.Tensor  # [3, T]
    cache: Any  # the stream's own rows, to which the keys and values are written


R = TypeVar("R")
Request = Look | Feed
Steps = Generator[Request, Any, R]  # a stream's work: gives requests, is sent their answers, returns its result


class Adapter(Protocol):
    """A model family as a stream sees it. Everything is for one sequence; `T` is the number of tokens fed at once.

    A family that can see less is a `Sparing` adapter too.
    """

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

    def encode_packed(self, looks: Sequence[Look]) -> list[VisionBlock]:
        """`encode` for the pictures of several streams in one call of the tower."""
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

    def forward_packed(self, embeds: torch.Tensor, positions: torch.Tensor, cache: Any) -> torch.Tensor:
        """`forward` for the tokens of several streams: [sum T, hidden] at [3, sum T] gives [sum T, hidden].

        Args:
            cache: a `kv.cache.PackedCache`; it says which tokens are whose, and each sees its own stream only.
        """
        ...

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[n, hidden] to [n, vocabulary] float32."""
        ...

    def rotation(self, old: torch.Tensor, new: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin [n, head_dim] float64 that carry keys baked at positions `old` [n, 3] to positions `new`.

        Composed from the model's own (rounded) angles, so a carried key equals one that was baked there.
        """
        ...


class Sparing(Adapter, Protocol):
    """A family with gates, encoder caches and compressors; streams of others refuse these options.

    Its `encode_packed` heeds `Look.cached`.
    """

    frames_per_glance: int  # frames that the encoder takes as one

    def whole(self, frame: np.ndarray, glances: int, fps: float) -> Whole:
        """The places of a block of so many glances of that frame's size [H, W, 3]."""
        ...


def answer(adapter: Adapter, request: Request) -> Any:
    """What the model says to one stream's request."""
    if isinstance(request, Look):
        return adapter.encode_packed([request])[0] if request.cached else adapter.encode(request.frames, request.fps)
    return adapter.logits(adapter.forward(request.embeds, request.positions, request.cache)[-1:])[0]


def drive(adapter: Adapter, steps: Steps[R]) -> R:
    """Run one stream's steps alone; gives their result. A failure of the model is raised within the steps."""
    reply: Any = None
    while True:
        try:
            request = steps.send(reply)
        except StopIteration as done:
            result: R = done.value
            return result
        try:
            reply = answer(adapter, request)
        except BaseException as error:
            steps.throw(error)  # undoes the turn, and raises it again
            raise
