"""STC-Pruner: the tokens that stand out, against the recent past and against their own picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn.functional import cosine_similarity

from neverblink.economy import State, Tokens, check


@dataclass(frozen=True)
class StcPruner:
    """Keep the `keep` share of a picture's tokens that score highest (STC, the pruner with two anchors).

    Score: alpha * (1 - cos(token, mean of the last `window` pictures' means)) + (1 - alpha) * (1 - cos(token, this
    picture's mean)). A picture enters the memory after it was scored.
    """

    keep: float = 0.3
    alpha: float = 0.5
    window: int = 8  # pictures
    needs_grid: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check(self, keep=(0, 1), alpha=(0, 1), window=(1, 10_000))

    def __call__(self, tokens: Tokens, state: State) -> tuple[torch.Tensor, State]:
        means = state.get("means", tokens.embeds.new_empty(0, tokens.embeds.shape[-1]).float())  # [window, hidden]
        mask = torch.zeros_like(tokens.alive)
        for i, picture in enumerate(tokens.embeds.float()):
            alive = tokens.alive[i]
            own = picture[alive].mean(0) if alive.any() else picture.mean(0)
            past = means.mean(0) if len(means) else own
            score = self.alpha * (1 - cosine_similarity(picture, past[None], dim=1))
            score += (1 - self.alpha) * (1 - cosine_similarity(picture, own[None], dim=1))
            # Of its own grid, not of what is left: two pruners one behind the other do not multiply.
            most = min(int(self.keep * len(picture)), int(alive.sum()))
            mask[i] = top(score.masked_fill(~alive, -torch.inf), most)
            means = torch.cat([means, own[None]])[-self.window :]
        return mask, {"means": means}


def top(score: torch.Tensor, most: int) -> torch.Tensor:
    """Mask of the `most` highest of a score [n]; the first ones where scores are equal."""
    mask = torch.zeros_like(score, dtype=torch.bool)
    mask[torch.sort(score, descending=True, stable=True).indices[:most]] = True
    return mask
