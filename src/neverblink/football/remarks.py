"""What a commentator says while nothing happens: who has the ball, and every other time how it stands.

The score is told at goals alone, minutes apart; said again it stays in a text window that is shorter than a match. By
the words before it alone one can tell whether it is due: a tiny model does not count to forty seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from neverblink.arcade.events import Claim, GameEvent, Score, Side
from neverblink.arcade.sport import Sport

QUIET = 5  # seconds after the last word in which one says who has the ball


def remarks(told: Sequence[GameEvent], seconds: int, sport: Sport) -> Iterator[GameEvent]:
    """Remarks for the seconds in which `told` has left a silence.

    Args:
        told: the events of a match, in the order in which they become visible; times count from its beginning.
        seconds: length of the match.
    """
    waiting = list(told)
    spoken = 0
    has: Side = ""
    score: Score | None = None
    fresh = False  # the score was told with the last remark or after it
    for second in range(seconds):
        while waiting and sport.second_of(waiting[0]) <= second:
            claim = waiting.pop(0).claim
            spoken = second
            if claim.kind in sport.holds:
                has = claim.side
            if claim.score is not None:
                score, fresh = claim.score, True
        if second - spoken >= QUIET and has:
            yield GameEvent(float(second), Claim("hold", has))
            spoken = second
            if score is not None and not fresh:
                yield GameEvent(float(second), Claim("tally", "", score))
            fresh = not fresh
