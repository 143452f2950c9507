"""What the scripted players share: how skills are drawn, so that a benchmark meets players that training never saw."""

from __future__ import annotations

import random

STRANGER_SEEDS = 1_000_000  # seeds from here up belong to benchmarks
STRANGERS = (2, 5, 8)  # the tenths of every skill's range that only they draw from
FAMILIAR = tuple(tenth for tenth in range(10) if tenth not in STRANGERS)


def is_stranger(seed: int) -> bool:
    return seed >= STRANGER_SEEDS


def draw_skill(rng: random.Random, low: float, high: float, *, stranger: bool) -> float:
    """A number in [low, high), from tenths of the range that strangers and others do not share."""
    tenth = rng.choice(STRANGERS if stranger else FAMILIAR)
    return low + (tenth + rng.random()) / 10 * (high - low)
