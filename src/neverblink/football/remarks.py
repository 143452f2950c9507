"""What a commentator says while nothing happens: who has the ball, and now and then how it stands.

The score is told at goals alone, minutes apart; said again it stays in a text window that is shorter than a match.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from neverblink.arcade.events import Claim, GameEvent, Score, Side
from neverblink.arcade.sport import Sport

QUIET = 5  # seconds after the last word in which one says who has the ball
TALLY = 40  # seconds after the score was told in which it is told again


def remarks(told: Sequence[GameEvent], seconds: int, sport: Sport) -> Iterator[GameEvent]:
    """Remarks for the seconds in which `told` has left a silence.

    Args:
        told: the events of a match, in the order in which they become visible; times count from its beginning.
        seconds: length of the match.
    """
    waiting = list(told)
    spoken = scored = 0
    has: Side = ""
    score: Score | None = None
    for second in range(seconds):
        while waiting and sport.second_of(waiting[0]) <= second:
            claim = waiting.pop(0).claim
            spoken = second
            if claim.kind in sport.holds:
                has = claim.side
            if claim.score is not None:
                score, scored = claim.score, second
        if second - spoken >= QUIET and has:
            yield GameEvent(float(second), Claim("hold", has))
            spoken = second
            if score is not None and second - scored >= TALLY:
                yield GameEvent(float(second), Claim("tally", "", score))
                scored = second
