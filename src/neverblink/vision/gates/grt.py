"""GRT: a gate for every place of the picture, against what was last kept at that place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from neverblink.economy import Glance, Skipped, State, Verdict, check
from neverblink.vision.gates.thumbs import thumbs

FINE = 16  # samples a side of one token's area


@dataclass(frozen=True)
class Grt:
    """A token's area has changed when the root mean square of its grey change (0..1) passes `theta`. A glance without
    changed areas is skipped before the encoder; of one with some, only the changed tokens are told. -1 keeps all.

    GRT itself saves the patch projection of static patches, less than a hundredth of a tower's work; the gain comes
    from what is skipped behind it. A change of the light of the whole picture is taken out first.
    """

    theta: float = 0.05
    max_gap: float = 8.0
    skipped: Skipped = "drop"
    after_encoder: ClassVar[bool] = False
    prunes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check(self, theta=(-1, 1), max_gap=(0, 1e9))

    def __call__(self, glance: Glance, state: State) -> tuple[Verdict, State]:
        h, w = glance.grid
        small = thumbs(glance.frames, (h * FINE, w * FINE))
        areas = small.view(-1, h, FINE, w, FINE).transpose(2, 3).flatten(3).flatten(1, 2)  # [frames, h*w, samples]
        if glance.must:
            return Verdict(True), {"areas": areas[-1]}
        change = areas - state["areas"]
        change = change - change.mean((1, 2), keepdim=True)
        changed = (change.square().mean(-1).sqrt() > self.theta).any(0)  # [h*w]
        kept = torch.where(changed[:, None], areas[-1], state["areas"])
        return Verdict(bool(changed.any()), 1.0, None if changed.all() else changed), {"areas": kept}
