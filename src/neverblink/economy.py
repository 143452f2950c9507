"""The contracts of what sees less: gates before the encoder, encoder caches inside it, compressors behind it.

All three are plain callables. What they remember is a State: it is handed in, and the new one is handed back, so a
plug-in keeps nothing itself. The stream takes the new state over only when its turn has succeeded, and a snapshot holds
it; hence a failed second, a question and a second stream cannot disturb it. docs/plugins.md shows a complete one.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch

from neverblink.errors import ConfigError
from neverblink.registry import Registry

State = Mapping[str, torch.Tensor]  # never written in place; {} at the start and after the picture changed its size
Skipped = Literal["drop", "reuse"]


@dataclass(frozen=True, slots=True)
class Glance:
    """Frames that the encoder takes as one (a pair, for the Qwen-VL families), as a gate sees them."""

    frames: tuple[np.ndarray, ...]  # each [H, W, 3] uint8
    time: float  # media seconds of the first
    grid: tuple[int, int]  # rows and columns of tokens
    must: bool  # kept whatever the gate says: first of its size, too long since the last, or a question waits
    features: torch.Tensor | None = None  # [h*w, hidden], for a gate that stands behind the encoder


class Verdict(NamedTuple):
    """What a gate says of one glance."""

    keep: bool
    share: float = 1.0  # of its tokens: those that differ most from the last glance kept in full
    cells: torch.Tensor | None = None  # [h*w] bool: the tokens worth telling; None: all


class Gate(Protocol):
    """Says which glances are worth encoding.

    Attributes:
        max_gap: media seconds after which a glance is kept in any case.
        skipped: "drop" leaves a skipped glance out (fewer tokens); "reuse" tells it by the tokens of the last one that
            was kept (no encoder work, as many tokens).
        after_encoder: it asks for `features`; then it saves tokens and no encoder work.
        prunes: a verdict may name less than all tokens of a glance.
    """

    max_gap: float
    skipped: Skipped
    after_encoder: bool
    prunes: bool

    def __call__(self, glance: Glance, state: State) -> tuple[Verdict, State]: ...


@dataclass(frozen=True, slots=True)
class Tokens:
    """The encoded glances of one chunk, as a compressor sees them."""

    embeds: torch.Tensor  # [t, h*w, hidden]
    alive: torch.Tensor  # [t, h*w] bool: what nothing has dropped so far
    grid: tuple[int, int]  # h, w
    times: tuple[float, ...]  # [t] media seconds


class Compressor(Protocol):
    """Says which tokens stay: a mask [t, h*w] bool. Dropping is all that it can do, so what stays keeps its place.

    Attributes:
        needs_grid: it compares tokens of the same cell over time, so it refuses to come after something that prunes.
    """

    needs_grid: bool

    def __call__(self, tokens: Tokens, state: State) -> tuple[torch.Tensor, State]: ...


class Tower(Protocol):
    """A vision tower, layer by layer, as an encoder cache walks it. One glance at a time: n patches of width d."""

    layers: int

    def begin(self, patches: torch.Tensor, grid: tuple[int, int]) -> tuple[torch.Tensor, Any]:
        """Patches to [n, d] in the order in which the layers want them, and what `place` below needs to know."""
        ...

    def norm(self, layer: int, x: torch.Tensor) -> torch.Tensor: ...

    def keys(self, layer: int, normed: torch.Tensor, place: Any) -> torch.Tensor:
        """[n, d] -> keys [n, d], turned to their places."""
        ...

    def values(self, layer: int, normed: torch.Tensor) -> torch.Tensor: ...

    def attend(
        self,
        layer: int,
        normed: torch.Tensor,
        rows: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        place: Any,
    ) -> torch.Tensor:
        """What the attention of a layer adds to `rows` [m]: their normed inputs [m, d] over all keys and values
        [n, d] that their window lets them see."""
        ...

    def mlp(self, layer: int, x: torch.Tensor) -> torch.Tensor:
        """What the layer's second half adds to [m, d]."""
        ...

    def finish(self, x: torch.Tensor, place: Any) -> torch.Tensor:
        """[n, d] -> [tokens, hidden], in raster order."""
        ...


class EncoderCache(Protocol):
    """Encodes one glance with the help of an earlier one: patches and their grid (h, w), media seconds, state."""

    def __call__(
        self, tower: Tower, patches: torch.Tensor, grid: tuple[int, int], time: float, state: State
    ) -> tuple[torch.Tensor, State]: ...


gates = Registry(
    "gate",
    {
        "pixel": "neverblink.vision.gates.pixel:Pixel",
        "grt": "neverblink.vision.gates.grt:Grt",
        "curvestream": "neverblink.vision.gates.curve:CurveStream",
        "slow-fast": "neverblink.vision.gates.budget:SlowFast",
        "key-frames": "neverblink.vision.gates.budget:KeyFrames",
    },
)
encoder_caches = Registry("encoder cache", {"stc": "neverblink.vision.cacher:StcCacher"})
compressors = Registry(
    "compressor",
    {
        "stc": "neverblink.compress.stc:StcPruner",
        "differential": "neverblink.compress.change:Differential",
        "evs": "neverblink.compress.change:Evs",
        "decay": "neverblink.compress.change:Decay",
    },
)


def make(registry: Registry, text: str) -> Any:
    """A plug-in from "NAME" or "NAME:OPTION=VALUE,OPTION=VALUE".

    Raises:
        UnknownName: no such plug-in. ConfigError: an option that it does not have, or a value out of range.
    """
    name, _, rest = text.strip().partition(":")
    factory: Callable[..., Any] = registry[name.strip()]
    known = list(inspect.signature(factory).parameters)
    options: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in rest.split(","))):
        option, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or option not in known:
            raise ConfigError(f"{registry.kind} {name!r} has no option {part!r}; it has: {', '.join(known) or 'none'}")
        try:
            options[option] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[option] = value  # a word
    try:
        return factory(**options)
    except TypeError as error:  # a word where a number belongs
        raise ConfigError(f"{registry.kind} {text!r} cannot be made: {error}") from error


class Parts(NamedTuple):
    """What a stream's three options name; None and () where they name nothing."""

    gate: Any
    encoder_cache: Any
    compressors: tuple[Any, ...]

    def __bool__(self) -> bool:
        return self.gate is not None or self.encoder_cache is not None or bool(self.compressors)


def make_parts(gate: str, encoder_cache: str, compress: str) -> Parts:
    """The plug-ins of a stream; several compressors are joined by "+".

    Raises:
        UnknownName, ConfigError: no such part or option, or parts that do not go together.
    """
    names = [name.strip() for name in compress.split("+") if name.strip()]
    parts = Parts(
        make(gates, gate) if gate else None,
        make(encoder_caches, encoder_cache) if encoder_cache else None,
        tuple(make(compressors, name) for name in names),
    )
    if parts.gate is not None and parts.gate.skipped not in ("drop", "reuse"):
        raise ConfigError(f"gate {gate!r}: skipped is {parts.gate.skipped!r}; known: drop, reuse")
    before = gate if parts.gate is not None and parts.gate.prunes else ""
    for name, compressor in zip(names, parts.compressors, strict=True):
        if before and compressor.needs_grid:
            raise ConfigError(
                f"compressor {name!r} compares whole pictures and {before!r} before it drops parts of them; put "
                f"{name!r} first, or take one of the two"
            )
        before = name
    return parts


def check(part: Any, **ranges: tuple[float, float]) -> None:
    """Refuse options outside [low, high].

    Raises:
        ConfigError: names the option, its value and the range.
    """
    for name, (low, high) in ranges.items():
        value = getattr(part, name)
        if not isinstance(value, int | float) or not low <= value <= high:
            raise ConfigError(f"{type(part).__name__}: {name} is {value!r}; it must be from {low:g} to {high:g}")
