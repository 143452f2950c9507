"""CurveStream: keep the glances at which the path of the features moves or bends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from neverblink.economy import Glance, Skipped, State, Verdict, check
from neverblink.errors import ConfigError
from neverblink.vision.gates.thumbs import thumbs

EPSILON = 1e-6


@dataclass(frozen=True)
class CurveStream:
    """Score: motion 1 - cos(F_t, F_t-1) plus `bend` times the turn 1 - cos(F_t-1 - F_t-2, F_t - F_t-1). From a running
    mean and deviation: at `clear` deviations above the mean a glance is kept in full, at `blurred` with `share` of its
    tokens, below that it is skipped. The paper gives no values for the three, nor code; these are a start of our own.

    Where motion is below `floor` the score is 0: the differences of a still camera are noise, and their turn is 1.
    The first three glances are kept in full, since a bend needs three.

    Args:
        features: "model" takes the mean of the model's own vision tokens, so the gate stands BEHIND the encoder and
            saves tokens only; "thumbnail" takes a grey 32x32 picture and saves the encoder's work too.
        share: of a blurred glance's tokens. The paper shows it at 224 x 224 instead; a selection keeps the grid.
    """

    bend: float = 0.2
    blurred: float = 0.0
    clear: float = 1.0
    memory: float = 0.9
    floor: float = 1e-4
    share: float = 0.25
    features: Literal["model", "thumbnail"] = "model"
    max_gap: float = 8.0
    skipped: Skipped = "drop"
    prunes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check(self, bend=(0, 100), memory=(0, 1), floor=(-1, 2), share=(0, 1), max_gap=(0, 1e9))
        if self.features not in ("model", "thumbnail"):
            raise ConfigError(f"curvestream: no features {self.features!r}; known: model, thumbnail")

    @property
    def after_encoder(self) -> bool:
        return self.features == "model"

    def __call__(self, glance: Glance, state: State) -> tuple[Verdict, State]:
        path = torch.cat([state["path"], self._feature(glance)[None]]) if state else self._feature(glance)[None]
        score, moved = curvature(path, self.bend, self.floor)
        mean = state["mean"] if state else torch.tensor(0.0)
        spread = state["spread"] if state else torch.tensor(0.0)
        if state:
            mean = self.memory * mean + (1 - self.memory) * score
            spread = self.memory * spread + (1 - self.memory) * (score - mean) ** 2
        seen = int(state["seen"]) if state else 0
        after = {"path": path[-2:].clone(), "mean": mean, "spread": spread, "seen": torch.tensor(min(seen + 1, 3))}
        deviation = float(spread) ** 0.5
        if glance.must or seen < 3 or (moved and score >= float(mean) + self.clear * deviation):
            return Verdict(True), after
        blurred = moved and score >= float(mean) + self.blurred * deviation
        return Verdict(blurred, self.share), after

    def _feature(self, glance: Glance) -> torch.Tensor:
        """[D], of length 1."""
        if glance.features is not None:
            vector = glance.features.float().mean(0).cpu()
        else:
            vector = thumbs(glance.frames, (32, 32)).mean(0).flatten()
        return vector / vector.norm().clamp(min=EPSILON)


def curvature(path: torch.Tensor, bend: float, floor: float) -> tuple[float, bool]:
    """Score of the newest of up to three features [n, D] of length 1, and whether there was motion at all."""
    if len(path) < 2:
        return 0.0, False
    motion = 1 - float(path[-1] @ path[-2])
    if motion <= floor:
        return 0.0, floor < 0  # a floor below zero keeps all
    if len(path) < 3:
        return motion, True
    before, now = path[-2] - path[-3], path[-1] - path[-2]
    scale = float(before.norm() * now.norm())
    turn = 1 - float(before @ now) / scale if scale > EPSILON else 0.0
    return motion + bend * turn, True
