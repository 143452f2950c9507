"""Compressors that tell what is new at a place: differential token drop, EVS, and a budget that decays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn.functional import cosine_similarity

from neverblink.compress.stc import top
from neverblink.economy import State, Tokens, check


def alike(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Cosine [n] of tokens [n, hidden]; exactly 1 for equal ones, and never above 1, whatever is rounded."""
    same = (a == b).all(-1)
    return cosine_similarity(a.float(), b.float(), dim=-1).clamp(max=1.0).masked_fill(same, 1.0)


@dataclass(frozen=True)
class Differential:
    """Drop a token that is like the last one KEPT at its place (TimeChat-Online's differential token drop, on
    features). Against the last kept and not the previous one, so that a slow drift is told in the end.

    Args:
        threshold: cosine above which a token is dropped; 1 keeps all.
    """

    threshold: float = 0.5
    needs_grid: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check(self, threshold=(-1, 1))

    def __call__(self, tokens: Tokens, state: State) -> tuple[torch.Tensor, State]:
        held, mask = state.get("held"), torch.ones_like(tokens.alive)
        for i, picture in enumerate(tokens.embeds):
            if held is not None and self.threshold < 1:
                mask[i] = alike(picture, held) <= self.threshold
            held = picture if held is None else torch.where(mask[i][:, None], picture, held)
        assert held is not None, "a chunk holds a picture"
        return mask, {"held": held.clone()}


@dataclass(frozen=True)
class Evs:
    """Keep the 1 - `prune` share of a chunk's tokens that differ most from the picture before (EVS). The budget is one
    for the whole chunk, so a second with one busy picture spends it there. The first picture of all stays whole."""

    prune: float = 0.7
    needs_grid: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check(self, prune=(0, 1))

    def __call__(self, tokens: Tokens, state: State) -> tuple[torch.Tensor, State]:
        embeds, before = tokens.embeds, state.get("before")
        first = before is None
        shifted = torch.cat([embeds[:1] if before is None else before[None], embeds[:-1]])
        novelty = 1 - alike(embeds, shifted)
        if first:
            novelty[0] = torch.inf
        whole = embeds.shape[1] if first else 0
        most = max(whole, round((1 - self.prune) * novelty.numel()))
        return top(novelty.flatten(), most).view_as(novelty), {"before": embeds[-1].clone()}


@dataclass(frozen=True)
class Decay:
    """A scene starts with all tokens; its k-th picture is told by the share 1 / 2^(k-1) of them that differs most from
    what was last told at the same place, down to `least` (PVC's progressive tokens, without its training). Real tokens,
    no residuals.

    Args:
        least: smallest share of a picture.
        cut: mean cosine to what was last told below which a new scene starts.
    """

    least: float = 0.05
    cut: float = 0.5
    needs_grid: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check(self, least=(0, 1), cut=(-1, 1))

    def __call__(self, tokens: Tokens, state: State) -> tuple[torch.Tensor, State]:
        told, mask = state.get("told"), torch.zeros_like(tokens.alive)
        age = int(state["age"]) if "age" in state else 0
        count = tokens.embeds.shape[1]
        for i, picture in enumerate(tokens.embeds):
            if told is None or float(alike(picture, told).mean()) < self.cut:
                told, age = torch.zeros_like(picture), 0
            share = max(self.least, 0.5**age)
            residual = (picture.float() - told.float()).norm(dim=-1)
            mask[i] = top(residual, max(1, int(share * count)))
            told, age = torch.where(mask[i][:, None], picture, told), min(age + 1, 60)
        assert told is not None, "a chunk holds a picture"
        return mask, {"told": told.clone(), "age": torch.tensor(age)}
