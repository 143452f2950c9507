"""What a commentator says while nothing happens: who has the ball, and every other time how it stands.

The score is told at goals alone, minutes apart; said again it stays in a text window that is shorter than a match. The
words before it alone tell whether it is due: a tiny model does not count seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby

from neverblink.arcade.events import Claim, GameEvent, Score, Side
from neverblink.football.commentary import FOOTBALL

QUIET = 5  # seconds after the last word in which one says who has the ball


def remarks(
    told: Iterable[GameEvent], seconds: int, remarked: Callable[[], bool] = lambda: True
) -> Iterator[GameEvent]:
    """Remarks for seconds of a silence that `told` leaves; none for a second of which something is told.

    Args:
        told: the events of a match, in the order in which they become visible; times count from its beginning.
        seconds: length of the match.
        remarked: whether a remark is made at once when it is due; else it is due a second later. Who learns from
            silences that all have one length does not know what to do when he has missed their end.
    """
    said = {second: [event.claim for event in group] for second, group in groupby(told, FOOTBALL.second_of)}
    spoken = 0
    has: Side = ""
    score: Score | None = None
    fresh = False  # the score was told with the last remark or after it
    for second in range(seconds):
        for claim in said.get(second, ()):
            spoken = second
            if claim.kind in FOOTBALL.holds:
                has = claim.side
            if claim.score is not None:
                score, fresh = claim.score, True
        if second - spoken >= QUIET and has and remarked():
            yield GameEvent(float(second), Claim("hold", has))
            spoken = second
            if score is not None and not fresh:
                yield GameEvent(float(second), Claim("tally", "", score))
            fresh = not fresh
