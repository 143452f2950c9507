"""What happened in a match, from its state: a hand-made one, and the recorded ones where they are at hand."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from neverblink.arcade.events import Claim
from neverblink.football.commentary import FOOTBALL
from neverblink.football.matches import Match, Record, find_matches, read_record
from neverblink.football.truth import SIDES, control, events, saves, shots, states, takes
from tests.football.recording import RECORDED, recorded, write_match


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Record:
    return read_record(write_match(tmp_path_factory.mktemp("match"), pictures=1))


def test_events_are_those_that_were_made(record: Record):
    """Kinds, sides, times and scores; a short touch wins no ball, and a goal kick's receiver does not take it."""
    expected = [
        (0.0, Claim("new_match", "", (0, 0))),
        (0.0, Claim("kick_off", "yellow")),
        (6.1, Claim("attack", "yellow")),
        (10.0, Claim("turnover", "blue")),
        (15.0, Claim("free_kick", "yellow")),
        (20.1, Claim("shot", "yellow")),
        (20.7, Claim("save", "blue")),
        (22.0, Claim("corner", "yellow")),
        (25.1, Claim("shot", "yellow")),
        (25.5, Claim("goal", "yellow", (1, 0))),
        (25.5, Claim("kick_off", "blue")),
        (30.0, Claim("throw_in", "yellow")),
        (32.0, Claim("goal_kick", "blue")),
        (33.0, Claim("turnover", "yellow")),
        (34.0, Claim("booking", "yellow")),
        (36.0, Claim("penalty", "blue")),
        (36.7, Claim("shot", "blue")),
        (37.1, Claim("goal", "blue", (1, 1))),
        (37.1, Claim("second_goal")),
        (37.2, Claim("kick_off", "yellow")),
    ]
    assert expected == [(event.time, event.claim) for event in events(record)]


def test_state_follows_the_ball(record: Record):
    at = {state.time: state for state in states(record, fps=2)}
    assert 80 == len(at)
    assert ("yellow", (0, 0), "kick_off") == (SIDES[at[0.0].side], at[0.0].score, at[0.0].restart)
    assert at[5.0].x == pytest.approx(0.3, abs=0.01)
    assert at[5.0].speed_x == pytest.approx(0.065, abs=0.01)
    assert ("yellow", "blue") == (SIDES[at[9.5].side], SIDES[at[10.0].side])
    assert ("free_kick", "yellow", 0) == (at[15.0].restart, SIDES[at[15.0].side], at[15.0].speed_x)
    assert (1, 0) == at[25.5].score
    assert 0 == at[25.5].speed_x  # the picture was cut; the ball did not fly from goal to centre


def test_state_tells_who_is_near_the_ball_and_where_the_sides_stand(record: Record):
    """In play the ten of a side stand in one row at x = -0.6 and 0.6; at a restart its number 7 is at the ball."""
    at = {state.time: state for state in states(record, fps=2)}
    assert (0, -1) == (at[1.0].owner, at[15.0].owner)
    x, y = at[11.0].x, at[11.0].y
    rows = np.linspace(-0.3, 0.3, 11)[1:]
    for side, column in enumerate((-0.6, 0.6)):
        assert at[11.0].reach[side] == pytest.approx(np.hypot(column - x, rows - y).min(), abs=2e-3)
        assert at[11.0].block[side] == pytest.approx(column, abs=2e-3)  # without the keeper
    taken = at[15.0]  # yellow's free kick: number 7 stands 0.01 behind the ball, blue's 0.06
    assert taken.reach == pytest.approx((0.01, 0.06), abs=2e-3)
    assert taken.block == pytest.approx(((9 * -0.6 + 0.19) / 10, (9 * 0.6 + 0.14) / 10), abs=2e-3)


def test_only_a_shot_that_meets_the_keeper_is_one_and_is_saved(record: Record):
    """A defender's pass to his keeper is no shot; a shot that a post or a defender turns back is no save."""
    shot = next(step for step, _ in shots(record))
    passed = replace(record, owner=record.owner.copy())
    passed.owner[shot : shot + 10] = 1
    assert [step for step, _ in shots(passed)] == [step for step, _ in shots(record)][1:]
    elsewhere = replace(record, players=record.players.copy())
    elsewhere.players[:, 1, 0] = 0.98, 0.3  # the blue keeper, far from the ball
    assert [(207, 1)] == saves(record, shots(record))
    assert [] == saves(elsewhere, shots(elsewhere))


def test_a_minute_of_one_side_is_told(tmp_path: Path):
    """72 s of yellow behind a kick-off: one reminder, in the last second of the minute."""
    steps = 721
    ball, owner = np.zeros((steps, 3), np.float16), np.zeros(steps, np.int8)
    ball[5:, 0] = 0.02
    team = np.full((steps, 11, 2), 0.3, np.float16)
    path = write_match(
        tmp_path, pictures=1, ball=ball, ball_owned_team=owner, left_team=team, right_team=team,
        score=np.zeros((steps, 2), np.int8), game_mode=owner, cards=np.zeros((steps, 4), np.int8),
    )  # fmt: skip
    found = [(e.time, e.claim, FOOTBALL.second_of(e)) for e in events(read_record(path)) if e.kind == "spell"]
    assert [(59.0, Claim("spell", "yellow"), 59)] == found


@recorded
def test_sides_of_recorded_matches_agree_with_what_else_is_known():
    """Whoever lets a goal in touches the ball first; a goal kick is the side's whose goal is there, a corner not."""
    kinds: dict[str, int] = {}
    for path in find_matches(RECORDED):
        record = read_record(path)
        for take in takes(record):
            kinds[take.kind] = kinds.get(take.kind, 0) + 1
            right = int(record.ball[take.start, 0] > 0)
            if take.kind == "kick_off":
                owners = record.owner[take.start :]
                assert take.side == owners[owners >= 0][0]
            elif take.kind in ("goal_kick", "corner", "penalty"):
                assert take.side == (right if take.kind == "goal_kick" else 1 - right)
            elif take.kind == "throw_in":
                assert record.owner[take.end - 1] in (take.side, -1)
    assert min(kinds["kick_off"], kinds["goal_kick"], kinds["free_kick"], kinds["throw_in"]) >= 15


@recorded
def test_balls_are_not_won_too_often():
    """A side that wins the ball has it for more than 1.5 s."""
    for path in find_matches(RECORDED):
        record = read_record(path)
        _, won = control(record, takes(record))
        assert all(after - before > 15 for (before, _), (after, _) in pairwise(won))


@recorded
def test_the_first_picture_of_a_goal_is_a_kick_off():
    """The engine cuts from the ball in flight to the kick-off: that picture, within `visible_after` of the event, is
    like the match's first one, and the picture before it is not."""
    match = Match(RECORDED / "match_0005")  # blue score three times, so that yellow kick off, as at the beginning
    pictures = np.stack([frame.pixels[30:150:2, ::2].astype(np.int16) for frame in match.frames()])
    goals = [event for event in events(match.record) if event.kind == "goal"]
    assert 3 == len(goals)
    for goal in goals:
        shown = int(FOOTBALL.visible_at(goal) * 2)
        before, after = (abs(pictures[k] - pictures[0]).mean() for k in (shown - 1, shown))
        assert after < 0.6 * before


def test_the_clock_runs_ninety_minutes_in_five(record: Record):
    """As in every recording of 300 s: the match of 40 s is over in minute 12."""
    minutes = {state.time: state.minute for state in states(record, fps=2)}
    assert [0, 0, 1, 3, 11] == [minutes[at] for at in (0.0, 3.0, 3.5, 10.0, 39.5)]
