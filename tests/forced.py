"""Puts words into a model's mouth: a logits processor that tests share."""

from __future__ import annotations

import torch


class Forced:
    """Lets only the script's next token pass; afterwards the model is free."""

    def __init__(self) -> None:
        self.script: list[int] = []

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if not self.script:
            return scores
        forced = torch.full_like(scores, -torch.inf)
        forced[:, self.script.pop(0)] = 0.0
        return forced
