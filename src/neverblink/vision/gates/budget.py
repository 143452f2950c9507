"""Gates that share out a budget: slow and fast glances (Keye-VL-1.5), key frames and the ones between (KFFocus).

The budget is a leaky bucket: it fills with `tokens_per_second`, holds `burst` seconds of that, and a glance that must
be kept may overdraw it, which later glances pay back.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch

from neverblink.economy import Glance, Skipped, State, Verdict, check
from neverblink.vision.gates.thumbs import likeness, thumbs


@dataclass(frozen=True)
class _Budgeted(ABC):
    """What both have in common; `_full` says whether a glance is to be told in full, `_seen` what it is compared with.

    Args:
        share: of the tokens of a glance that is not told in full.
        tokens_per_second: 0 for no limit.
        burst: seconds of budget that can be saved up.
    """

    threshold: float = 0.95
    share: float = 0.3
    tokens_per_second: float = 0.0
    burst: float = 4.0
    max_gap: float = 8.0
    skipped: Skipped = "drop"
    after_encoder: ClassVar[bool] = False
    prunes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check(
            self,
            threshold=(0, 2),
            share=(0, 1),
            tokens_per_second=(0, 1e9),
            burst=(0, 1e9),
            max_gap=(0, 1e9),
        )

    def __call__(self, glance: Glance, state: State) -> tuple[Verdict, State]:
        small = thumbs(glance.frames, self.size)
        full = glance.must or "slow" not in state or self._full(small, state["slow"])
        tokens = glance.grid[0] * glance.grid[1]
        level = self._level(glance.time, state)
        # What a share comes to in the end: one token at least.
        for share in (1.0, self.share) if full else (self.share,):
            cost = max(1, int(share * tokens))
            if (glance.must and share == 1.0) or level is None or cost <= level:
                break
        else:
            return Verdict(False), self._after(glance.time, level, state.get("slow", small[-1]))
        left = None if level is None else level - cost
        slow = small[-1] if share == 1.0 else state["slow"]
        return Verdict(True, share), self._after(glance.time, left, slow)

    size: ClassVar[tuple[int, int]] = (64, 64)

    @abstractmethod
    def _full(self, small: torch.Tensor, slow: torch.Tensor) -> bool:
        """Whether thumbs [frames, h, w] differ enough from the one [h, w] of the last glance that was told in full."""

    def _level(self, time: float, state: State) -> float | None:
        if not self.tokens_per_second:
            return None
        most = self.burst * self.tokens_per_second
        if "level" not in state:
            return most
        return min(most, float(state["level"]) + self.tokens_per_second * (time - float(state["time"])))

    @staticmethod
    def _after(time: float, level: float | None, slow: torch.Tensor) -> State:
        after = {"slow": slow}
        if level is not None:
            after |= {
                "level": torch.tensor(level, dtype=torch.float64),
                "time": torch.tensor(time, dtype=torch.float64),
            }
        return after


@dataclass(frozen=True)
class SlowFast(_Budgeted):
    """A glance more alike than `threshold` to the latest SLOW one is fast and gets `share` of the tokens, the rest are
    slow (Keye-VL-1.5, section on slow-fast encoding; its similarity is not published, ours is the pixel gate's)."""

    def _full(self, small: torch.Tensor, slow: torch.Tensor) -> bool:
        return likeness(small, slow) <= self.threshold


@dataclass(frozen=True)
class KeyFrames(_Budgeted):
    """A glance further than `threshold` from the last key frame is a key frame itself; the others get `share` of the
    tokens. Only the idea is KFFocus's; steps and numbers are our own, and nothing looks ahead.

    Distance of grey 32x32 pictures: |a - b|^2 / (|a|^2 + |b|^2) of what is left without their means, which is
    1 - cosine for pictures of equal contrast and 0 for two empty ones.
    """

    threshold: float = 0.15
    share: float = 0.25
    size: ClassVar[tuple[int, int]] = (32, 32)

    def _full(self, small: torch.Tensor, slow: torch.Tensor) -> bool:
        centred, key = small - small.mean((1, 2), keepdim=True), slow - slow.mean()
        apart = (centred - key).square().sum((1, 2))
        scale = centred.square().sum((1, 2)) + key.square().sum() + 1e-3
        return float((apart / scale).max()) > self.threshold
