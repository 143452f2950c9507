"""Commentary that only repeats itself: a policy that then lets the stream forget what it has said.

A model that reads its own words back can get caught in them: a line that was said ten times is the likeliest next one.
Whether it is caught is read off the rows that are held, so a snapshot, a fork and a packed stream all agree.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from neverblink.kv.policies import Coming, Plan, Policy, said_without_silence
from neverblink.kv.table import Rows
from neverblink.types import Kind

CYCLES = 4  # so often at least has it said the same


def said(rows: Rows, silence_ids: tuple[int, ...]) -> np.ndarray:
    """Ids [n] of the commentary that is held, oldest first, without silence marks and without given text."""
    older = np.flatnonzero((rows.kinds == Kind.PREVIOUS) & (rows.turns >= 0))
    turns = np.unique(rows.turns[rows.kinds == Kind.SAID])
    return rows.ids[np.concatenate([older, *(said_without_silence(rows, t, silence_ids) for t in turns)])]


def period(ids: np.ndarray) -> int:
    """Length of the cycle that the ids [n] consist of; 0 where they are none, or go round less than `CYCLES` times."""
    for size in range(1, len(ids) // CYCLES + 1):
        if ids[-1] == ids[-1 - size] and np.array_equal(ids[size:], ids[:-size]):
            return size
    return 0


class Loops(NamedTuple):
    """`policy`, but when the last `tokens` tokens of the commentary are one cycle all turns leave at once: the stream
    goes on from its opening, as a fresh one would.

    The turns' pictures leave too, since their keys were computed in the light of the words that go.
    """

    policy: Policy
    tokens: int

    def __call__(self, rows: Rows, coming: Coming) -> Plan:
        plan, words = self.policy(rows, coming), said(rows, coming.silence_ids)
        if len(words) < self.tokens or not period(words[-self.tokens :]):
            return plan
        keep = np.flatnonzero(rows.turns < 0)
        return Plan(keep, np.zeros(len(keep), dtype=bool), plan.reuse, forgot=len(words))


def guarded(policy: Any, tokens: int) -> Any:
    """The policy, guarded; 0 tokens: itself."""
    return Loops(policy, tokens) if tokens else policy
