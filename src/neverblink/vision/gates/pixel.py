"""The cheapest gate: small grey pictures against the last one kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from neverblink.economy import Glance, Skipped, State, Verdict, check
from neverblink.vision.gates.thumbs import likeness, thumbs

SIZE = (64, 64)


@dataclass(frozen=True)
class Pixel:
    """Skip what is more alike than `similarity` to the last kept glance: 1 - the largest mean grey change (0..1) of
    any of 64 parts of the picture. 1 keeps all."""

    similarity: float = 0.95
    max_gap: float = 8.0  # media seconds
    skipped: Skipped = "drop"
    after_encoder: ClassVar[bool] = False
    prunes: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check(self, similarity=(0, 1), max_gap=(0, 1e9))

    def __call__(self, glance: Glance, state: State) -> tuple[Verdict, State]:
        small = thumbs(glance.frames, SIZE)
        keep = glance.must or self.similarity >= 1 or likeness(small, state["kept"]) <= self.similarity
        return Verdict(keep), {"kept": small[-1]} if keep else state
