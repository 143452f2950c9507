"""Clips of matches, told as if they were one match: goals count on from clip to clip.

Whoever learns from few whole matches knows each by heart: after which picture the score is 2 to 1. Where clips of many
matches follow each other in any order, the score is in the words before and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from neverblink.arcade.events import Claim, GameEvent, Score
from neverblink.football.commentary import FOOTBALL
from neverblink.football.matches import Match
from neverblink.football.truth import REMINDERS, SPELL, events, reminder


class Clip(NamedTuple):
    """Whole seconds of a match."""

    match: Match
    start: int
    end: int


def retell(clips: Sequence[Clip]) -> tuple[list[GameEvent], list[Score]]:
    """What happens in clips that are shown as one match from 0 to 0.

    What rests on more than is shown is left out: a minute of which a part is missing.

    Args:
        clips: the first begins with a kick-off, the others inside of a match.

    Returns:
        the events in the order in which they become visible, times counted from the first clip's beginning; and for
        each clip by how much the score that is told is ahead of that of its own match.
    """
    found: list[GameEvent] = []
    ahead: list[Score] = []
    score: Score = (0, 0)
    scored: list[float] = []
    at = 0  # seconds
    for clip in clips:
        before, shown = _cut(clip)
        ahead.append((score[0] - before[0], score[1] - before[1]))
        for event in shown:
            time, claim = event.time - clip.start + at, event.claim
            if claim.score is not None:
                score = (claim.score[0] + ahead[-1][0], claim.score[1] + ahead[-1][1])
                claim = claim._replace(score=score)
            found.append(GameEvent(time, claim))
            if claim.kind == "goal":
                scored.append(time)
                kind = reminder(scored, time)
                if kind is not None:
                    found.append(GameEvent(time, Claim(kind)))
        at += clip.end - clip.start
    return sorted(found, key=FOOTBALL.visible_at), ahead


def _cut(clip: Clip) -> tuple[Score, list[GameEvent]]:
    """The score before a clip, and what it shows by itself, in the order in which that becomes visible."""
    before, shown = (0, 0), []
    for event in sorted(events(clip.match.record), key=FOOTBALL.visible_at):
        second, claim = FOOTBALL.second_of(event), event.claim
        since = second + 1 - SPELL if claim.kind == "spell" else second
        if second < clip.start:
            before = claim.score or before
        elif since >= clip.start and second < clip.end and claim.kind not in REMINDERS.values():
            shown.append(event)
    return before, shown
