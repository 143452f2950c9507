"""The commentator of a game: one short line a second from events, and back from a line to its claims.

One phrase table (`Sport.phrases`) serves both directions, so a benchmark reads exactly what training wrote.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from neverblink.arcade.events import Claim, GameEvent, Kind, Score, Side
from neverblink.arcade.sport import Sport

MOST_WORDS = 14
USUAL = 0.75  # probability of a kind's first phrase: little variety is easier for a tiny model to learn
SCORE = "{} to {}"  # in the order of the sport's sides

Table = tuple[tuple[Kind, tuple[str, ...]], ...]


@lru_cache(maxsize=64)
def _pattern(table: Table, sides: tuple[Side, ...]) -> tuple[re.Pattern[str], list[Kind]]:
    """One expression for all phrases; the number in the group's name says which kind matched."""
    kinds = [kind for kind, phrases in table for _ in phrases]
    phrases = [phrase for _, phrases in table for phrase in phrases]
    # "a new game" must win over "new game", which it contains: longer phrases first.
    order = sorted(range(len(phrases)), key=lambda i: -len(phrases[i]))
    either = "|".join(re.escape(side) for side in sides)
    options = []
    for n in order:
        fields = {"side": f"(?P<side{n}>{either})", "score": rf"(?P<first{n}>\d+) to (?P<second{n}>\d+)"}
        options.append(f"(?P<kind{n}>{phrases[n].format(**fields)})")
    return re.compile(rf"\b(?:{'|'.join(options)})\b", re.IGNORECASE), kinds


def shorten(claims: Sequence[Claim], sport: Sport, most_words: int = MOST_WORDS) -> list[Claim]:
    """What of a second is said: the last of a flurry, and the oldest claims without a score go if the line, in any
    phrasing, gets too long."""
    kept = list(claims)
    for claim in claims:
        same = [other for other in kept if (other.kind, other.side) == (claim.kind, claim.side)]
        if claim.kind in sport.merge and len(same) > 1:
            kept.remove(same[0])
    side = max(sport.sides, key=len)
    longest = {kind: max(len(_fill(p, side, (0, 0)).split()) for p in ways) for kind, ways in sport.phrases.items()}
    while sum(longest[claim.kind] for claim in kept) > most_words:
        minor = next((i for i, claim in enumerate(kept) if claim.score is None), None)
        if minor is None or len(kept) == 1:
            break
        del kept[minor]
    return kept


def write(claims: Iterable[Claim], rng: random.Random, sport: Sport) -> str:
    """The line for what became visible in one second: " Left hits, right hits."; "" when nothing did."""
    chosen = {kind: 0 if rng.random() < USUAL else rng.randrange(len(p)) for kind, p in sport.phrases.items()}
    sentences: list[str] = []
    previous: Kind | None = None
    for claim in shorten(list(claims), sport):
        clause = _fill(sport.phrases[claim.kind][chosen[claim.kind]], claim.side, claim.score)
        if claim.score is None and claim.kind == previous:
            sentences[-1] += f", {clause}"
        else:
            sentences.append(clause)
        previous = claim.kind
    return "".join(f" {sentence[0].upper()}{sentence[1:]}." for sentence in sentences)


def write_second(second: int, events: Iterable[GameEvent], seed: int, sport: Sport) -> str:
    """The line for [second, second + 1); the phrasing depends on the seed and the second alone."""
    claims = [event.claim for event in events if sport.second_of(event) == second]
    return write(claims, random.Random(f"commentary {seed} {second}"), sport) if claims else ""


class Slip(NamedTuple):
    """The line of a second as one says it who takes one side for the other."""

    side: Side  # of whom it tells in truth
    text: str
    change: bool = False  # it tells that another side has the ball now
    remark: bool = False  # it tells nothing new


def slip_of(claims: Sequence[Claim], rng: random.Random, sport: Sport) -> Slip | None:
    """The claims of a second told of the other side, where they are of one alone and nothing but what is easily
    mistaken: `Sport.slips`, and remarks, which repeat it."""
    told, kinds = {claim.side for claim in claims if claim.side}, {claim.kind for claim in claims}
    if len(told) != 1 or not kinds <= sport.slips | sport.remarks:
        return None
    [side] = told
    other = sport.sides[1 - sport.sides.index(side)]
    text = write([claim._replace(side=claim.side and other) for claim in claims], rng, sport)
    return Slip(side, text, bool(kinds & sport.changes), kinds <= sport.remarks)


def parse(text: str, sport: Sport) -> list[Claim]:
    """The claims of a line, in order. Words that are no phrase of the sport are passed over."""
    pattern, kinds = _pattern(tuple(sport.phrases.items()), sport.sides)
    names = {side.lower(): side for side in sport.sides}
    claims = []
    for match in pattern.finditer(text):
        found = {name: value for name, value in match.groupdict().items() if value is not None}
        n = int(next(name for name in found if name.startswith("kind"))[len("kind") :])
        side = names[found[f"side{n}"].lower()] if f"side{n}" in found else ""
        score = (int(found[f"first{n}"]), int(found[f"second{n}"])) if f"first{n}" in found else None
        claims.append(Claim(kinds[n], side, score))
    return claims


def _fill(phrase: str, side: Side, score: Score | None) -> str:
    return phrase.format(side=side, score=SCORE.format(*score) if score else "")


COLUMNS = ("far left", "left", "centre", "right", "far right")
ROWS = ("top", "high", "middle", "low", "bottom")


def column_word(x: float, left: float, right: float) -> str:
    """Where x is in [left, right), in five words."""
    return COLUMNS[bin_of(x, left, right, len(COLUMNS))]


def row_word(y: float, top: float, bottom: float) -> str:
    """Where y is in [top, bottom), in five words."""
    return ROWS[bin_of(y, top, bottom, len(ROWS))]


def bin_of(value: float, low: float, high: float, bins: int) -> int:
    """Which of `bins` equal parts of [low, high) a value is in; values outside count to the nearest."""
    return min(max(int((value - low) / (high - low) * bins), 0), bins - 1)
