"""Questions while a stream goes on, and how many are answered right: what is seen, and what has to be remembered."""

from __future__ import annotations

import random
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from neverblink.arcade.events import GameEvent, Score
from neverblink.arcade.questions import Asked, judge, questions
from neverblink.arcade.sport import Sport

RECALLED = frozenset({"last", "last_of", "made"})  # kinds that ask for one event
AGES = ((20.0, "now"), (600.0, "minutes"), (float("inf"), "hours"))  # seconds below which an answer's age counts so


class Shown(NamedTuple):
    """What the newest picture shows."""

    score: Score | None  # None where pictures show none
    state_text: str  # the dense line; "" asks for no place


class Memory:
    """Which moments a stream can know of, and from what: estimated from what it said and its two windows.

    Args:
        vision_seconds: seconds of video that are held. text_window: tokens of older words that are held.
    """

    def __init__(self, vision_seconds: float, text_window: int):
        self.vision_seconds, self.text_window = vision_seconds, text_window
        self._said: deque[tuple[float, int]] = deque()  # end of a second, tokens of its words

    def add(self, end: float, tokens: int) -> None:
        """What was said of the second that ends there; 0 tokens are silence, of which nothing is held."""
        if tokens:
            self._said.append((end, tokens))
        while self._said and sum(n for _, n in self._said) > 4 * self.text_window + 1_000:
            self._said.popleft()

    def of(self, at: float, now: float) -> str:
        """ "vision" where pictures of that moment are held, "text" where only the words about it are, else "gone"."""
        if now - at <= self.vision_seconds:
            return "vision"
        since = sum(n for end, n in self._said if at < end <= now - self.vision_seconds)
        return "text" if since <= self.text_window else "gone"


class Quiz:
    """Asks one question every so often and judges the answers; the questions follow from the seed.

    Args:
        take: newest events of the stream since the last call. shown: what the newest picture shows.
        every: seconds between two questions.
        start_score: as for `questions`.
        memory: tells from what each answer can be known; None leaves `recall` out.
    """

    def __init__(
        self,
        sport: Sport,
        seed: int,
        take: Callable[[], Sequence[GameEvent]],
        shown: Callable[[], Shown],
        every: float = 10.0,
        start_score: Score | None = None,
        memory: Memory | None = None,
    ):
        self.memory = memory
        self.sport, self.take, self.shown, self.every = sport, take, shown, every
        self.start_score = start_score
        self.events: list[GameEvent] = []
        self.asked: list[tuple[Asked, str]] = []  # with the answer given
        self.known: list[str] = []  # from what each could be known
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
        self._source = self.memory.of(end - self._open.age, end) if self.memory else ""
        return self._open.question

    _open: Asked | None
    _source: str

    def hear(self, answer: str | None) -> None:
        """The answer to the question that was asked last."""
        if self._open is not None:
            self.asked.append((self._open, answer or ""))
            self.known.append(self._source)
            self._open = None

    def result(self) -> dict[str, Any]:
        """qa_accuracy over all questions (None without any), qa_by_kind and qa_by_age as {name: [share, number]};
        recall: likewise, questions for one event, by what it could be known from."""
        by_kind: dict[str, list[bool]] = defaultdict(list)
        by_age: dict[str, list[bool]] = defaultdict(list)
        recall: dict[str, list[bool]] = defaultdict(list)
        for (asked, answer), source in zip(self.asked, self.known, strict=True):
            right = judge(asked.question, answer, asked.answer, self.sport)
            by_kind[asked.kind].append(right)
            by_age[next(name for below, name in AGES if asked.age < below)].append(right)
            if source and asked.kind in RECALLED:
                recall[source].append(right)
        every = [right for group in by_kind.values() for right in group]
        return {
            "qa_accuracy": _share(every) if every else None,
            "qa_by_kind": {kind: [_share(group), len(group)] for kind, group in sorted(by_kind.items())},
            "qa_by_age": {name: [_share(by_age[name]), len(by_age[name])] for _, name in AGES if name in by_age},
            "recall": {source: [_share(group), len(group)] for source, group in sorted(recall.items())},
        }


def _share(group: Sequence[bool]) -> float:
    return round(sum(group) / len(group), 4)
