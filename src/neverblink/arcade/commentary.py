"""The commentator of an arcade game: one short line a second from events, and back from a line to its claims.

One phrase table serves both directions, so a benchmark reads exactly what training wrote.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence

from neverblink.arcade.events import Claim, GameEvent, Kind, Score, Side
from neverblink.arcade.pong import BALL_HEIGHT, BALL_WIDTH, FIELD_BOTTOM, FIELD_TOP, PADDLE_HEIGHT, PongState

# Seconds until pictures show an event. At 8 a second the next picture shows a new ball; a score is drawn one emulator
# frame late; a hit shows when the ball has come away from the paddle. Play is locked to whole seconds for long
# stretches, so these borders matter.
_PICTURE, _LATE = 1 / 8, 1 / 60
VISIBLE_AFTER: dict[Kind, float] = {
    "serve": _PICTURE,
    "hit": 0.2,
    "point": _PICTURE + _LATE,
    "game_over": _PICTURE + _LATE,
    "new_game": _PICTURE,
}
MOST_WORDS = 14
USUAL = 0.75  # probability of a kind's first phrase: little variety is easier for a tiny model to learn

PHRASES: dict[Kind, tuple[str, ...]] = {
    "serve": ("serve to the {side}", "the ball flies {side}"),
    "hit": ("{side} hits", "{side} returns it"),
    "point": ("{side} scores, {score}", "point for {side}, {score}"),
    "game_over": ("game over, {side} wins {score}",),
    "new_game": ("a new game, {score}", "new game, {score}"),
}
SCORE = "{} to {}"  # left first, as on the screen

_FIELDS = {"side": r"(?P<side{n}>left|right)", "score": r"(?P<left{n}>\d+) to (?P<right{n}>\d+)"}


def _pattern() -> tuple[re.Pattern[str], list[Kind]]:
    """One expression for all phrases; the number in the group's name says which kind matched."""
    kinds = [kind for kind, phrases in PHRASES.items() for _ in phrases]
    phrases = [phrase for phrases in PHRASES.values() for phrase in phrases]
    # "a new game" must win over "new game", which it contains: longer phrases first.
    order = sorted(range(len(phrases)), key=lambda i: -len(phrases[i]))
    options = []
    for n in order:
        fields = {name: expression.format(n=n) for name, expression in _FIELDS.items()}
        options.append(f"(?P<kind{n}>{phrases[n].format(**fields)})")
    return re.compile(rf"\b(?:{'|'.join(options)})\b", re.IGNORECASE), kinds


_PATTERN, _PATTERN_KINDS = _pattern()


def visible_at(event: GameEvent) -> float:
    """Media second from which pictures show an event."""
    return event.time + VISIBLE_AFTER[event.kind] + 1e-9


def second_of(event: GameEvent) -> int:
    """The second in which an event is to be spoken of: the one whose pictures show it."""
    return int(visible_at(event))


def shorten(claims: Sequence[Claim], most_words: int = MOST_WORDS) -> list[Claim]:
    """Drops the oldest hits until the line, in any phrasing, is short enough."""
    longest = {kind: max(len(_fill(p, "left", (0, 0)).split()) for p in phrases) for kind, phrases in PHRASES.items()}
    kept = list(claims)
    while sum(longest[claim.kind] for claim in kept) > most_words:
        hit = next((i for i, claim in enumerate(kept) if claim.kind == "hit"), None)
        if hit is None:
            break
        del kept[hit]
    return kept


def write(claims: Iterable[Claim], rng: random.Random) -> str:
    """The line for what became visible in one second: " Left hits, right hits."; "" when nothing did."""
    chosen = {kind: 0 if rng.random() < USUAL else rng.randrange(len(p)) for kind, p in PHRASES.items()}
    sentences: list[str] = []
    previous: Kind | None = None
    for claim in shorten(list(claims)):
        clause = _fill(PHRASES[claim.kind][chosen[claim.kind]], claim.side, claim.score)
        if claim.kind == "hit" == previous:
            sentences[-1] += f", {clause}"
        else:
            sentences.append(clause)
        previous = claim.kind
    return "".join(f" {sentence[0].upper()}{sentence[1:]}." for sentence in sentences)


def write_second(second: int, events: Iterable[GameEvent], seed: int) -> str:
    """The line for [second, second + 1); the phrasing depends on the seed and the second alone."""
    claims = [event.claim for event in events if second_of(event) == second]
    return write(claims, random.Random(f"commentary {seed} {second}")) if claims else ""


def parse(text: str) -> list[Claim]:
    """The claims of a line, in order. Words that are no phrase of the table are passed over."""
    claims = []
    for match in _PATTERN.finditer(text):
        found = {name: value for name, value in match.groupdict().items() if value is not None}
        n = int(next(name for name in found if name.startswith("kind"))[len("kind") :])
        side: Side = "left" if (said := found.get(f"side{n}", "").lower()) == "left" else "right" if said else ""
        score = (int(found[f"left{n}"]), int(found[f"right{n}"])) if f"left{n}" in found else None
        claims.append(Claim(_PATTERN_KINDS[n], side, score))
    return claims


def _fill(phrase: str, side: Side, score: Score | None) -> str:
    return phrase.format(side=side, score=SCORE.format(*score) if score else "")


COLUMNS = ("far left", "left", "centre", "right", "far right")
ROWS = ("top", "high", "middle", "low", "bottom")
WIDTH = 160  # pixels


def describe_state(state: PongState) -> str:
    """What the picture shows, said every second: for a first stage of training, in which every line asks to look.

    " Ball far left, high, moving right; paddles high, low; score 3 to 5." or " No ball; paddles ...".
    """
    ball = "No ball"
    if state.in_play:
        column = COLUMNS[_bin(state.ball_x + BALL_WIDTH / 2, 0, WIDTH, len(COLUMNS))]
        way = "right" if state.ball_dx > 0 else "left"
        ball = f"Ball {column}, {_row(state.ball_y + BALL_HEIGHT / 2)}, moving {way}"
    left, right = (_row(y + PADDLE_HEIGHT / 2) for y in (state.left_y, state.right_y))
    return f" {ball}; paddles {left}, {right}; score {SCORE.format(*state.score)}."


def _row(y: float) -> str:
    return ROWS[_bin(y, FIELD_TOP, FIELD_BOTTOM, len(ROWS))]


def _bin(value: float, low: float, high: float, bins: int) -> int:
    return min(max(int((value - low) / (high - low) * bins), 0), bins - 1)
