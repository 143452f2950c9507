"""Questions while a stream goes on, and how many are answered right: what is seen, and what has to be remembered."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from neverblink.arcade.events import GameEvent, Score
from neverblink.arcade.questions import Asked, judge, questions
from neverblink.arcade.sport import Sport

AGES = ((20.0, "now"), (600.0, "minutes"), (float("inf"), "hours"))  # seconds below which an answer's age counts so


class Shown(NamedTuple):
    """What the newest picture shows."""

    score: Score | None  # None where pictures show none
    state_text: str  # the dense line; "" asks for no place


class Quiz:
    """Asks one question every so often and judges the answers; the questions follow from the seed.

    Args:
        take: newest events of the stream since the last call. shown: what the newest picture shows.
        every: seconds between two questions.
        start_score: as for `questions`.
    """

    def __init__(
        self,
        sport: Sport,
        seed: int,
        take: Callable[[], Sequence[GameEvent]],
        shown: Callable[[], Shown],
        every: float = 10.0,
        start_score: Score | None = None,
    ):
        self.sport, self.take, self.shown, self.every = sport, take, shown, every
        self.start_score = start_score
        self.events: list[GameEvent] = []
        self.asked: list[tuple[Asked, str]] = []  # with the answer given
        self._rng, self._next, self._open = random.Random(f"quiz {seed}"), every, None
        self._times: dict[str, int] = defaultdict(int)

    def __call__(self, end: float) -> str | None:
        """The question for a chunk that ends at `end` media seconds since the stream's beginning, or None."""
        self.events += self.take()
        self._open = None
        if end < self._next:
            return None
        self._next += self.every
        score, state_text = self.shown()
        possible = questions(
            self.sport,
            self.events,
            end - 1e-6,
            self._rng,
            state_text=state_text,
            start_score=self.start_score,
            shown=score,
        )
        # The kind that was asked least, so that all are asked alike.
        self._open = min(possible, key=lambda asked: self._times[asked.kind], default=None)
        if self._open is None:
            return None
        self._times[self._open.kind] += 1
        return self._open.question

    _open: Asked | None

    def hear(self, answer: str | None) -> None:
        """The answer to the question that was asked last."""
        if self._open is not None:
            self.asked.append((self._open, answer or ""))
            self._open = None

    def result(self) -> dict[str, Any]:
        """qa_accuracy over all questions (None without any), qa_by_kind and qa_by_age as {name: [share, number]}."""
        by_kind: dict[str, list[bool]] = defaultdict(list)
        by_age: dict[str, list[bool]] = defaultdict(list)
        for asked, answer in self.asked:
            right = judge(asked.question, answer, asked.answer, self.sport)
            by_kind[asked.kind].append(right)
            by_age[next(name for below, name in AGES if asked.age < below)].append(right)
        every = [right for group in by_kind.values() for right in group]
        return {
            "qa_accuracy": _share(every) if every else None,
            "qa_by_kind": {kind: [_share(group), len(group)] for kind, group in sorted(by_kind.items())},
            "qa_by_age": {name: [_share(by_age[name]), len(by_age[name])] for _, name in AGES if name in by_age},
        }


def _share(group: Sequence[bool]) -> float:
    return round(sum(group) / len(group), 4)
