"""What a stream needs of a model: the adapter protocol. One file a family implements it on stock classes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch

from neverblink.types import Marks, Part

if TYPE_CHECKING:
    from neverblink.economy import EncoderCache, State


@dataclass(frozen=True, slots=True)
class VisionBlock:
    """The encoded pictures of one chunk."""

    embeds: torch.Tensor  # [tokens, width]
    loc: np.ndarray  # [tokens, 3] float64: place of each token on the t, h, w axes, from its part's start
    advance: float  # how far the text behind a part stands from its start
    split: tuple[Part, ...] = ()  # parts with text between them; () is one part
    state: Mapping[str, torch.Tensor] = field(default_factory=dict)  # of who saw it, for the block after it
    frames_skipped: int = 0  # by a gate

    @property
    def tokens(self) -> int:
        return int(self.embeds.shape[0])

    @property
    def parts(self) -> tuple[Part, ...]:
        return self.split or (Part(self.tokens),)


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


class Greedy(NamedTuple):
    """What becomes of logits: the best one is taken."""

    penalty: float  # a repetition penalty's; 1 is none
    held: Callable[[], torch.Tensor]  # ids [n] that it looks at; called only where there is one


class Feed(NamedTuple):
    """Tokens that a stream wants read; the answer is the logits [vocabulary] of the last one, or, where the stream says
    what becomes of them, the id that this comes to."""

    embeds: torch.Tensor  # [T, width]
    positions: torch.Tensor  # [3, T]
    cache: Any  # the stream's own rows, to which the keys and values are written
    greedy: Greedy | None = None


R = TypeVar("R")
Request = Look | Feed
Reply = torch.Tensor | int  # to a Feed
Steps = Generator[Request, Any, R]  # a stream's work: gives requests, is sent their answers, returns its result


class Adapter(Protocol):
    """A model family as a stream sees it. Everything is for one sequence; `T` is the number of tokens fed at once.

    `width` is that of what `embed` and `encode` give and `forward` takes: the model's own hidden size, or more where a
    family feeds vision into later layers too.

    A family may also have `best(hidden [1, hidden], greedy) -> int | None`, where a greedy pick costs it less than all
    logits; None asks for these. A family that can see less is a `Sparing` adapter too.
    """

    name: str
    family: str
    model: Any  # the stock transformers module
    tokenizer: Any
    device: torch.device
    dtype: torch.dtype
    layers: int  # that keep keys and values
    recurrent: frozenset[int]  # numbers of the model's other layers, which keep a state instead (kv/recurrent.py)
    kv_heads: int
    head_dim: int
    fingerprint: str  # changes with any weight or the config; snapshots carry it
    stop_ids: frozenset[int]
    patches_per_token: float  # of the vision tower, for one vision token
    marks: Marks  # how script.py writes its pictures
    ropes: tuple[str, ...]  # of each layer, the name of its rotary embedding; layers of one name turn alike
    refused_policies: Mapping[str, str]  # KV policies that do not hold for this family, and why
    refused_kv_dtype: str  # why vision cannot be held in bytes, which reorders rows (kv/compact.py); "": it can

    def encode(self, frames: Sequence[np.ndarray], fps: float) -> VisionBlock:
        """Pictures [H, W, 3] uint8 to a block of embeddings with their places."""
        ...

    def encode_packed(self, looks: Sequence[Look]) -> list[VisionBlock]:
        """`encode` for the pictures of several streams in one call of the tower."""
        ...

    def max_vision_tokens(self, frames: int) -> int:
        """Upper bound of the tokens that `encode` returns for so many frames of any size."""
        ...

    def max_parts(self, frames: int) -> tuple[Part, ...]:
        """The same, as the parts in which they stand."""
        ...

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """[T] ids to [T, width]."""
        ...

    def forward(self, embeds: torch.Tensor, positions: torch.Tensor, cache: Any) -> torch.Tensor:
        """Feed [T, width] at positions [3, T]; the cache appends the new keys and values. Gives [T, hidden]."""
        ...

    def forward_packed(self, embeds: torch.Tensor, positions: torch.Tensor, cache: Any) -> torch.Tensor:
        """`forward` for the tokens of several streams: [sum T, width] at [3, sum T] gives [sum T, hidden].

        Args:
            cache: a `kv.cache.PackedCache`; it says which tokens are whose, and each sees its own stream only.
        """
        ...

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[n, hidden] to [n, vocabulary] float32."""
        ...

    def rotation(self, old: torch.Tensor, new: torch.Tensor, rope: str = "") -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin [n, turned] float64 that carry keys baked at positions `old` [n, 3] to positions `new`.

        `turned` is the leading part of head_dim that the family turns, and `rope` one of `ropes`. Composed from the
        model's own (rounded) angles, so a carried key equals one that was baked there.
        """
        ...


class Sparing(Adapter, Protocol):
    """A family with gates, encoder caches or compressors; streams of others refuse these options.

    Where it takes an encoder cache, its `encode_packed` heeds `Look.cached`.
    """

    takes: frozenset[str]  # which of the stream options gate, encoder_cache and compress
    frames_per_glance: int  # frames that the encoder takes as one

    def whole(self, frame: np.ndarray, glances: int, fps: float) -> Whole:
        """The places of a block of so many glances of that frame's size [H, W, 3]."""
        ...


def answer(adapter: Adapter, request: Request) -> Any:
    """What the model says to one stream's request."""
    if isinstance(request, Look):
        return adapter.encode_packed([request])[0] if request.cached else adapter.encode(request.frames, request.fps)
    return replies(adapter, [request], adapter.forward(request.embeds, request.positions, request.cache)[-1:])[0]


def replies(adapter: Adapter, feeds: Sequence[Feed], hidden: torch.Tensor) -> list[Reply]:
    """The answer to each feed, from the states [n, hidden] of their last tokens."""
    best: Callable[[torch.Tensor, Greedy], int | None] | None = getattr(adapter, "best", None)
    found: dict[int, Reply] = {}
    if best is not None:
        for i, feed in enumerate(feeds):
            token = None if feed.greedy is None else best(hidden[i : i + 1], feed.greedy)
            if token is not None:
                found[i] = token
    rest = [i for i in range(len(feeds)) if i not in found]
    if rest:
        found |= zip(rest, adapter.logits(hidden if len(rest) == len(feeds) else hidden[rest]), strict=True)
    return [found[i] for i in range(len(feeds))]


def drive(adapter: Adapter, steps: Steps[R]) -> R:
    """Run one stream's steps alone; gives their result. A failure of the model is raised within the steps."""
    go, reply = steps.send, None
    while True:
        try:
            request = go(reply)
        except StopIteration as done:
            result: R = done.value
            return result
        try:
            go, reply = steps.send, answer(adapter, request)
        except BaseException as error:
            go, reply = steps.throw, error  # undoes the turn, and comes back unless it was an `attempt`


def attempt(steps: Steps[R]) -> Steps[tuple[R | None, str | None]]:
    """Steps that must not take with them what was done before: their result, or in one line why there is none."""
    try:
        return (yield from steps), None
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"
