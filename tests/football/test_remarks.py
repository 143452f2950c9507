"""What is said where nothing happens: who has the ball, and every other time how it stands."""

import random
from itertools import pairwise
from pathlib import Path

from neverblink.arcade.events import Claim, GameEvent
from neverblink.arcade.questions import questions
from neverblink.football.commentary import FOOTBALL
from neverblink.football.remarks import QUIET, remarks
from neverblink.football.streams import football_stream
from tests.football.recording import write_match


def told(*events: tuple[float, Claim], seconds: int) -> list[tuple[float, Claim]]:
    happened = [GameEvent(time, claim) for time, claim in events]
    return [(event.time, event.claim) for event in remarks(happened, seconds)]


def test_a_silence_ends_with_who_has_the_ball():
    """A ball counts as won 1.5 s later: what is won at 13.0 is told in second 14, and not known in second 13."""
    kick_off, won = (0.0, Claim("kick_off", "yellow")), (13.0, Claim("turnover", "blue"))
    found = told(kick_off, won, seconds=26)
    assert [(5.0, "yellow"), (10.0, "yellow"), (19.0, "blue"), (24.0, "blue")] == [(t, c.side) for t, c in found]
    assert {"hold"} == {claim.kind for _, claim in found}


def test_nobody_is_said_to_have_a_ball_that_nobody_was_seen_with():
    assert [] == told((0.0, Claim("new_match", "", (0, 0))), seconds=30)


def test_every_other_remark_tells_the_score_again():
    """By the words before it one can tell whether it is due: it is not where a goal has told it."""
    start = [(0.0, Claim("new_match", "", (0, 0))), (0.0, Claim("kick_off", "yellow"))]
    goal = [(22.0, Claim("goal", "blue", (0, 1))), (22.0, Claim("kick_off", "yellow"))]
    found = told(*start, *goal, seconds=48)
    assert [5.0, 10.0, 15.0, 20.0, 27.0, 32.0, 37.0, 42.0, 47.0] == [t for t, c in found if c.kind == "hold"]
    scores = {time: claim.score for time, claim in found if claim.kind == "tally"}
    assert {10.0: (0, 0), 20.0: (0, 0), 32.0: (0, 1), 42.0: (0, 1)} == scores
    assert [] == [claim for _, claim in told((0.0, Claim("kick_off", "yellow")), seconds=30) if claim.kind == "tally"]


def test_a_stream_is_never_silent_for_longer(tmp_path: Path):
    write_match(tmp_path)
    seconds = list(football_stream(tmp_path, 0, 200, draw=False))
    spoken = [int(second.start) for second in seconds if second.text]
    assert max(b - a for a, b in pairwise(spoken)) == QUIET


def test_a_remark_is_nothing_that_happened():
    """Neither last nor first, and no match begins with "still 0 to 0"."""
    events = [
        GameEvent(0.0, Claim("new_match", "", (0, 0))),
        GameEvent(10.0, Claim("goal", "blue", (0, 1))),
        GameEvent(20.0, Claim("hold", "blue")),
        GameEvent(20.0, Claim("tally", "", (0, 1))),
    ]
    for seed in range(20):
        asked = {a.kind: a for a in questions(FOOTBALL, events, 70.0, random.Random(seed))}
        assert asked["last"].answer in ("Goal for blue, 0 to 1.", "Blue score, 0 to 1.")
        assert asked["first"].answer.endswith("ew match, 0 to 0.")
        assert 50.0 == round(asked["score"].age)  # as long ago as it was told
        level = [events[0], GameEvent(30.0, Claim("goal", "blue", (0, 1))), GameEvent(50.0, Claim("tally", "", (0, 0)))]
        counted = {a.kind: a for a in questions(FOOTBALL, level, 59.0, random.Random(seed))}["count"]
        assert counted.span > 58, counted
