"""Questions about a game and their answers from the truth, for any sport; and the judge of somebody else's answers.

One table writes questions and reads them back. Every answer is in the sport's own words, so that it can be judged
exactly: by its numbers, its sides, its claims.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from neverblink.arcade.commentary import SCORE, parse, write
from neverblink.arcade.events import GameEvent, Kind, Score, Side
from neverblink.arcade.sport import Sport
from neverblink.errors import ConfigError

QuestionKind = Literal["score", "leader", "last", "last_of", "made", "first", "count", "ago", "where"]

# {noun}, {side}, {score} and {minutes} are filled in; the first way to ask is the usual one.
QUESTIONS: dict[QuestionKind, tuple[str, ...]] = {
    "score": ("What is the score?", "What is the score now?", "How does it stand?"),
    "leader": ("Who leads?", "Who is ahead?"),
    "last": ("What happened last?", "What was the last thing that happened?"),
    "last_of": ("Who had the last of the {noun}?",),
    "made": ("Who made it {score}?",),
    "first": ("What happened first?", "What was the first thing that happened?"),
    "count": (
        "How many {noun} for {side} in this game so far?",
        "How many {noun} for {side} in the last {minutes}?",
    ),
    "ago": ("What was the score {minutes} ago?",),
    "where": ("Where is the {noun}?",),
}
NOBODY = "nobody"
_NOBODY = ("nobody", "neither", "level", "draw")  # ways to say so that are understood
MINUTES = (1, 2, 3, 5, 10, 30, 60)
_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


class Asked(NamedTuple):
    """A question, its true answer, and how far back a watcher has to remember for it."""

    kind: QuestionKind
    question: str
    answer: str
    age: float  # seconds since the newest event that the answer rests on; 0 where the picture shows it
    span: float  # seconds of which everything has to be remembered: more than the age where events are counted


def _patterns() -> dict[QuestionKind, re.Pattern[str]]:
    """For each kind one expression of all its ways; what is filled in may be any text."""
    blank = r"\\{\w+\\}"
    return {
        kind: re.compile("|".join(re.sub(blank, ".+?", re.escape(way)) for way in ways), re.IGNORECASE)
        for kind, ways in QUESTIONS.items()
    }


_PATTERNS = _patterns()


def questions(
    sport: Sport,
    events: Iterable[GameEvent],
    now: float,
    rng: random.Random,
    *,
    state_text: str = "",
    start_score: Score | None = None,
    shown: Score | None = None,
) -> list[Asked]:
    """One question of each kind that can be asked at a moment of a stream, in random order.

    Args:
        events: the stream's, from its beginning; those that pictures show after `now` are left out.
        now: media seconds since the stream's beginning.
        state_text: the dense line of the newest picture; "" asks for no place.
        start_score: that of the stream's first picture, where a watcher could know it.
        shown: that of the newest picture, where pictures show a score; else the events tell it.
    """
    told = sorted((event for event in events if sport.visible_at(event) <= now), key=sport.visible_at)
    happened = [event for event in told if event.kind not in sport.remarks]
    nouns = _default_nouns(sport) if sport.counted is None else sport.counted
    asked: list[Asked] = []

    def ask(kind: QuestionKind, answer: str, age: float, way: int | None = None, **fields: str) -> None:
        ways = QUESTIONS[kind]
        question = (rng.choice(ways) if way is None else ways[way]).format(**fields)
        asked.append(Asked(kind, question, answer, age, age))

    standing = (shown, 0.0) if shown is not None else _score_at(sport, told, now, start_score)
    if standing is not None:
        stands, age = standing
        ask("score", f"It is {SCORE.format(*stands)}.", age)
        ask("leader", f"{_leader(sport, stands).capitalize()}, {SCORE.format(*stands)}.", age)
    if happened:
        ask("last", write([happened[-1].claim], rng, sport).strip(), now - sport.visible_at(happened[-1]))
        ask("first", write([happened[0].claim], rng, sport).strip(), now - sport.visible_at(happened[0]))
    made = [event for event in happened if event.side and event.score and event.kind in sport.states]
    if made:
        points = rng.choice(made).score  # it may have stood so more than once: the last time counts
        assert points is not None
        event = [event for event in made if event.score == points][-1]
        ask("made", f"{event.side.capitalize()}.", now - sport.visible_at(event), score=SCORE.format(*points))
    past = [event for event in happened if event.kind in nouns and event.side]
    if past:
        # By kind first: else nearly every question would be about the commonest event.
        kind = rng.choice(sorted({event.kind for event in past}))
        event = [event for event in past if event.kind == kind][-1]
        ask("last_of", f"{event.side.capitalize()}.", now - sport.visible_at(event), noun=nouns[kind])
    counts = _count(sport, happened, now, rng, nouns)
    if counts is not None:
        asked.append(counts)
    known = [n for n in MINUTES if now >= 60 * n and _score_at(sport, told, now - 60 * n, start_score)]
    if known:
        minutes = rng.choice(known)
        before = _score_at(sport, told, now - 60 * minutes, start_score)
        assert before is not None
        ask("ago", f"It was {SCORE.format(*before[0])}.", 60 * minutes + before[1], minutes=_minutes(minutes))
    place = state_text.strip().partition(";")[0].rstrip(".")
    noun = place.partition(" ")[0].lower()
    if noun and noun not in sport.sides:  # boxers have no ball
        ask("where", f"{place}.", 0.0, noun=noun)
    rng.shuffle(asked)
    return asked


def kind_of(question: str) -> QuestionKind:
    """Which kind of question this is; one that the table cannot have asked is a ConfigError."""
    for kind, pattern in _PATTERNS.items():
        if pattern.fullmatch(question.strip()):
            return kind
    raise ConfigError(f"{question!r} is no question of the table; known: {', '.join(QUESTIONS)}")


def judge(question: str, answer: str, truth: str, sport: Sport) -> bool:
    """Is an answer right, in whatever words? `truth` is the answer that `questions` gave to this question."""
    kind = kind_of(question)
    if kind in ("score", "ago"):
        return _scores(answer) == _scores(truth)
    if kind == "leader":  # the score may be left out, a wrong one may not be said
        return _sides(answer, sport) == _sides(truth, sport) and _scores(answer) <= _scores(truth)
    if kind in ("last_of", "made"):
        return _sides(answer, sport) == _sides(truth, sport)
    if kind in ("last", "first"):
        return parse(answer, sport) == parse(truth, sport)
    if kind == "count":
        return _numbers(answer) == _numbers(truth)
    return _plain(answer) == _plain(truth)


def _score_at(sport: Sport, told: list[GameEvent], at: float, start: Score | None) -> tuple[Score, float] | None:
    """The score at a moment and how long it had stood; None where no event tells."""
    for event in reversed(told):
        if event.score is not None and sport.visible_at(event) <= at:
            return event.score, at - sport.visible_at(event)
    return None if start is None else (start, at)


def _leader(sport: Sport, points: Score) -> Side:
    return NOBODY if points[0] == points[1] else sport.sides[points[1] > points[0]]


def _count(
    sport: Sport, told: list[GameEvent], now: float, rng: random.Random, nouns: Mapping[Kind, str]
) -> Asked | None:
    began = next((event for event in reversed(told) if event.score == (0, 0) and not event.side), None)
    windows = [n for n in MINUTES if now >= 60 * n]
    if not nouns or (began is None and not windows):
        return None
    kind, side = rng.choice(sorted(nouns)), rng.choice(sport.sides)
    if began is not None and (not windows or rng.random() < 0.5):
        since, way, minutes = sport.visible_at(began), 0, ""
    else:
        n = rng.choice(windows)
        since, way, minutes = now - 60 * n, 1, _minutes(n)
    times = [sport.visible_at(event) for event in told if (event.kind, event.side) == (kind, side)]
    counted = [time for time in times if time >= since]
    question = QUESTIONS["count"][way].format(noun=nouns[kind], side=side, minutes=minutes)
    return Asked("count", question, f"{len(counted)}.", now - (counted[-1] if counted else since), now - since)


def _default_nouns(sport: Sport) -> dict[Kind, str]:
    sided = [kind for kind, ways in sport.phrases.items() if all("{side}" in way for way in ways)]
    ending = {kind: "es" if kind.endswith("ch") else "s" for kind in sided if kind != "game_over"}
    return {kind: kind.replace("_", " ") + end for kind, end in ending.items()}


def _minutes(number: int) -> str:
    return "1 minute" if number == 1 else f"{number} minutes"


def _scores(text: str) -> set[tuple[int, int]]:
    return {(int(a), int(b)) for a, b in re.findall(r"\b(\d{1,4}) to (\d{1,4})\b", text)}


def _sides(text: str, sport: Sport) -> set[str]:
    names = [*sport.sides, *_NOBODY]
    found = re.findall(rf"\b(?:{'|'.join(map(re.escape, names))})\b", text, re.IGNORECASE)
    return {NOBODY if name.lower() in _NOBODY else name.lower() for name in found}


def _numbers(text: str) -> set[int]:
    words = _plain(text).split()
    return {int(word) for word in words if word.isdecimal() and len(word) < 9} | {
        _WORDS.index(word) for word in words if word in _WORDS
    }


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))
