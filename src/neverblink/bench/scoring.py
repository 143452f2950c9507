"""What was said against what is true: events in time, scores, possession, silence."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from neverblink.arcade.commentary import parse
from neverblink.arcade.events import Claim, GameEvent, Kind, Score, Side
from neverblink.arcade.sport import Sport
from neverblink.errors import ConfigError

TOLERANCE = 1.0  # seconds
Result = dict[str, Any]


class Line(NamedTuple):
    """What was said of [start, end), media seconds; "" is silence."""

    start: float
    end: float
    text: str


class Said(NamedTuple):
    """One claim of a line."""

    line: Line
    claim: Claim


def score(
    truth: Iterable[GameEvent],
    lines: Sequence[Line],
    sport: Sport,
    start_score: Score | None = None,
    tolerance: float = TOLERANCE,
) -> Result:
    """Compare what was said with what happened.

    A claim and an event belong together when kind and side agree and the pictures show the event within `tolerance`
    seconds of [start, end]; each is used once. Events that no watched picture could show are left out. Of a flurry
    (`Sport.merge`) a second tells the last of each side, so the others ask for nothing.

    Args:
        start_score: that of the first picture, where it is known.

    Returns:
        event_precision, event_recall, event_f1: over all events (1.0 where there is nothing to say and nothing said).
        by_kind: the same for each kind, with its numbers of events and claims.
        score_accuracy: share of the scores stated with `Sport.states` that are right: equal to the score of the event
            told of, or, for a false alarm, to the score to be seen at the line's end. None if none is stated.
        possession_accuracy: share of lines at whose end the side last said to have the ball (`Sport.holds`) has
            it; lines before it is first known are left out. None where the sport has no such kinds.
        silence_accuracy: share of lines that are silent when, and only when, nothing new was to be seen.
        false_alarms_per_minute: claims without an event, a minute of what was watched.
        repetition_rate: share of spoken lines that repeat the spoken line before them word for word.
    """
    if not lines:
        raise ConfigError("nothing was watched, so there is nothing to score; watch for at least one second")
    watched = [event for event in truth if lines[0].start <= sport.visible_at(event) < lines[-1].end]
    watched = merged(sorted(watched, key=sport.visible_at), sport)
    said = [Said(line, claim) for line in lines for claim in parse(line.text, sport)]
    pairs = match(watched, said, sport, tolerance)
    told = {pair[1]: watched[pair[0]] for pair in pairs}  # index of a claim -> its event
    minutes = sum(line.end - line.start for line in lines) / 60
    by_kind = {}
    for kind in sport.kinds:
        events = sum(event.kind == kind for event in watched)
        claims = sum(s.claim.kind == kind for s in said)
        if events or claims:
            hits = sum(event.kind == kind for event in told.values())
            by_kind[kind] = {"events": events, "claims": claims, **_rates(hits, events, claims)}
    stated = [(i, s) for i, s in enumerate(said) if s.claim.score is not None and s.claim.kind in sport.states]
    right = sum(
        s.claim.score == (told[i].score if i in told else score_at(watched, s.line.end, sport, start_score))
        for i, s in stated
    )
    return {
        **{f"event_{name}": value for name, value in _rates(len(pairs), len(watched), len(said)).items()},
        "by_kind": by_kind,
        "score_accuracy": round4(right / len(stated)) if stated else None,
        "possession_accuracy": _possession_accuracy(watched, said, lines, sport),
        "silence_accuracy": round4(_silence_accuracy(watched, lines, sport)),
        "false_alarms_per_minute": round4((len(said) - len(pairs)) / minutes),
        "repetition_rate": round4(_repetition_rate(lines)),
    }


def by_fifth(
    truth: Sequence[GameEvent], lines: Sequence[Line], sport: Sport, start_score: Score | None = None
) -> list[Result]:
    """Event F1 and score accuracy of each fifth of a stream, so that drift shows; [] for less than five lines."""
    fifth = len(lines) // 5
    parts = [lines[i * fifth : (i + 1) * fifth] for i in range(5)] if fifth else []
    found = []
    for part in parts:
        before = score_at(sorted(truth, key=sport.visible_at), part[0].start, sport, start_score)
        result = score(truth, part, sport, before)
        names = ("event_f1", "score_accuracy", "silence_accuracy", "false_alarms_per_minute")
        found.append({"start": part[0].start, **{name: result[name] for name in names}})
    return found


def merged(events: Sequence[GameEvent], sport: Sport) -> list[GameEvent]:
    """Events without those that a later one of the same second, kind and side stands for."""
    last = {(sport.second_of(e), e.kind, e.side): i for i, e in enumerate(events) if e.kind in sport.merge}
    return [
        e for i, e in enumerate(events) if e.kind not in sport.merge or last[sport.second_of(e), e.kind, e.side] == i
    ]


def match(
    events: Sequence[GameEvent], said: Sequence[Said], sport: Sport, tolerance: float = TOLERANCE
) -> list[tuple[int, int]]:
    """Pairs (event, claim) of indices: as many as possible, each used once, both in order of time."""
    waiting: dict[tuple[Kind, Side], list[int]] = defaultdict(list)
    for i, event in enumerate(events):
        waiting[event.kind, event.side].append(i)
    pairs = []
    for j, (line, claim) in enumerate(said):
        candidates = waiting[claim.kind, claim.side]
        # Lines come in order: an event too old for this one is too old for the rest, so first come, first served.
        while candidates and sport.visible_at(events[candidates[0]]) < line.start - tolerance:
            candidates.pop(0)
        if candidates and sport.visible_at(events[candidates[0]]) <= line.end + tolerance:
            pairs.append((candidates.pop(0), j))
    return pairs


def score_at(events: Sequence[GameEvent], time: float, sport: Sport, start: Score | None = None) -> Score | None:
    """The score to be seen at a media second.

    Args:
        events: in the order in which they become visible.
        start: the score before all of them; when None and the game scores by ones, the first point tells it.
    """
    scored = [event for event in events if event.score is not None]
    before = [event for event in scored if sport.visible_at(event) <= time]
    if before:
        return before[-1].score
    if start is not None:
        return start
    first = next((event for event in scored if event.kind == "point"), None)
    if first is None or first.score is None:
        return None
    left, right = first.score
    return (left - 1, right) if first.side == sport.sides[0] else (left, right - 1)


def _rates(pairs: int, events: int, claims: int) -> dict[str, float]:
    empty = float(events == claims == 0)
    return {
        "f1": round4(2 * pairs / (events + claims)) if events + claims else 1.0,
        "precision": round4(pairs / claims) if claims else empty,
        "recall": round4(pairs / events) if events else empty,
    }


def _possession_accuracy(
    events: Sequence[GameEvent], said: Sequence[Said], lines: Sequence[Line], sport: Sport
) -> float | None:
    happened = [event for event in events if event.kind in sport.holds]
    claimed = [s for s in said if s.claim.kind in sport.holds]
    known, right = 0, 0
    has: Side | None = None
    told: Side | None = None
    for line in lines:
        while happened and sport.visible_at(happened[0]) < line.end:
            has = happened.pop(0).side
        while claimed and claimed[0].line.start <= line.start:
            told = claimed.pop(0).claim.side
        known += has is not None
        right += has is not None and has == told
    return round4(right / known) if known else None


def _silence_accuracy(events: Sequence[GameEvent], lines: Sequence[Line], sport: Sport) -> float:
    shown = [sport.visible_at(event) for event in events]
    right = sum((not line.text) != any(line.start <= at < line.end for at in shown) for line in lines)
    return right / len(lines)


def _repetition_rate(lines: Sequence[Line]) -> float:
    spoken = [line.text for line in lines if line.text]
    repeats = sum(a == b for a, b in pairwise(spoken))
    return repeats / len(spoken) if spoken else 0.0


def round4(value: float) -> float:
    return round(value, 4)
