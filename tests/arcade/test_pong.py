"""Pong's truth against its picture, and what its events promise."""

import hashlib
import random
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest

from neverblink.arcade.emulator import Emulator
from neverblink.arcade.events import GameEvent
from neverblink.arcade.pong import (
    BALL_HEIGHT,
    BALL_WIDTH,
    FIELD_BOTTOM,
    FIELD_TOP,
    HOLD_FRAMES,
    LEFT_PADDLE_X,
    LEFT_SCORE,
    PADDLE_HEIGHT,
    PADDLE_WIDTH,
    RIGHT_PADDLE_X,
    RIGHT_SCORE,
    PongGame,
    PongState,
)
from neverblink.errors import ConfigError, UnknownName

BALL, ORANGE, GREEN = (236, 236, 236), (213, 130, 74), (92, 186, 92)
SCORES = {"left": slice(0, 80), "right": slice(80, 160)}  # columns of the picture
SCORE_ROWS = slice(1, 24)

Box = tuple[int, int, int, int]  # left, top, width, height in pixels


def box_of(pixels: np.ndarray, colour: tuple[int, int, int]) -> Box | None:
    """Where a colour is in the field."""
    rows, columns = np.nonzero((pixels[FIELD_TOP:FIELD_BOTTOM] == colour).all(-1))
    if not len(rows):
        return None
    return (
        int(columns.min()),
        int(rows.min()) + FIELD_TOP,
        int(np.ptp(columns)) + 1,
        int(np.ptp(rows)) + 1,
    )


def played(game: PongGame, frames: int) -> Iterator[PongState]:
    for _ in range(frames):
        yield next(game)


def events_of(game: PongGame, seconds: int) -> list[GameEvent]:
    for _ in played(game, seconds * 60):
        pass
    return game.take_events()


def inside(top: int, height: int) -> bool:
    """Whether an object is in the field with its whole height."""
    return top - 1 >= FIELD_TOP and top + height + 1 <= FIELD_BOTTOM


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_memory_says_where_the_picture_shows_ball_and_paddles(seed: int):
    """On random frames the addresses give the pixels: columns exactly, rows to one pixel."""
    rng, game, compared = random.Random(seed), PongGame(seed, start_score="random"), 0
    for state in played(game, 1500):
        if rng.random() < 0.8:
            continue
        ball, left, right = (box_of(game.pixels, colour) for colour in (BALL, ORANGE, GREEN))
        if not state.in_play:
            assert ball is None
        elif inside(state.ball_y, BALL_HEIGHT) and ball is not None and ball[0] > 2 and ball[0] < 156:
            assert (state.ball_x, BALL_WIDTH) == (ball[0], ball[2])
            assert ball[1] == pytest.approx(state.ball_y, abs=1)
            compared += 1
        for paddle, x, y in ((left, LEFT_PADDLE_X, state.left_y), (right, RIGHT_PADDLE_X, state.right_y)):
            if inside(y, PADDLE_HEIGHT):
                assert paddle is not None
                assert (x, PADDLE_WIDTH, PADDLE_HEIGHT) == (paddle[0], paddle[2], paddle[3])
                assert paddle[1] == pytest.approx(y, abs=1)
    assert compared > 150


def test_ball_moves_the_way_that_memory_says():
    """The sign of ball_dx is the way that the ball's picture moves."""
    game, before, compared = PongGame(3, start_score=(0, 0)), None, 0
    for state in played(game, 900):
        ball = box_of(game.pixels, BALL)
        scored = before and before[1].score != state.score  # the ball rests for that frame
        if before and ball and before[1].ball_dx == state.ball_dx != 0 and not scored:
            assert np.sign(state.ball_dx) == np.sign(ball[0] - before[0][0])
            compared += 1
        before = (ball, state) if ball else None
    assert compared > 400


def digits_of(score: int, side: str, pictures: dict[int, np.ndarray] = {}) -> np.ndarray:  # noqa: B006 - a cache
    """How the console itself draws a score, taken from a game that stands at it (20 at most)."""
    if not pictures:
        emulator = Emulator("pong")
        for n in range(21):
            emulator.poke(LEFT_SCORE, n)
            emulator.poke(RIGHT_SCORE, n)
            for _ in range(4):
                emulator.step(0)
            pictures[n] = emulator.pixels
    return lit(pictures[score], side)


def lit(pixels: np.ndarray, side: str) -> np.ndarray:
    """[23, 80] bool: the score's digits on one side."""
    colour = {"left": ORANGE, "right": GREEN}[side]
    return (pixels[SCORE_ROWS, SCORES[side]] == colour).all(-1)


@pytest.mark.parametrize(("seed", "start"), [(0, (0, 0)), (1, (9, 14)), (2, (18, 19))])
def test_score_on_the_screen_is_the_score_in_memory(seed: int, start: tuple[int, int]):
    """The digits are those of the score one frame earlier; every value looks different."""
    game, compared = PongGame(seed, start_score=start), 0
    before = game.state
    for state in played(game, 900):
        if state.frame % 6 == 0 and max(before.score) < 21 and before.score == state.score:
            for side, score in zip(("left", "right"), state.score, strict=True):
                np.testing.assert_array_equal(digits_of(score, side), lit(game.pixels, side))
            compared += 1
        before = state
    assert compared > 100
    assert 21 == len({digits_of(n, "left").tobytes() for n in range(21)})


@pytest.mark.parametrize("winner", ["left", "right"])
def test_last_score_is_shown_until_the_new_game(winner: str):
    """The emulator stops before it draws 21; the picture that is held must show it all the same."""
    start = (20, 3) if winner == "left" else (3, 20)
    for seed in range(20):
        game = PongGame(seed, start_score=start)
        while max(game.state.score) < 21:
            next(game)
        if game.state.score[winner == "right"] == 21:
            break
    assert ["point", "game_over"] == [event.kind for event in game.take_events()][-2:]
    score = game.state.score
    for held in played(game, HOLD_FRAMES):
        assert score == held.score
        assert not held.in_play
        digits = lit(game.pixels, winner)
        # 21 is the tens of 20 and the ones of 11.
        tens, ones = digits_of(20, winner), digits_of(11, winner)
        middle = int(np.nonzero(tens.any(0))[0].mean())
        np.testing.assert_array_equal(tens[:, :middle], digits[:, :middle])
        np.testing.assert_array_equal(ones[:, middle:], digits[:, middle:])
    loser = "right" if winner == "left" else "left"
    np.testing.assert_array_equal(digits_of(min(score), loser), lit(game.pixels, loser))
    next(game)
    assert (0, 0) == game.state.score
    assert ["new_game"] == [event.kind for event in game.take_events()]


def test_same_seed_plays_the_same_game():
    """States, events and pictures follow from the seed; another seed plays another game."""

    def fingerprint(seed: int) -> str:
        game, digest = PongGame(seed, start_score="random"), hashlib.sha256()
        for state in played(game, 900):
            digest.update(repr(state).encode())
            if state.frame % 100 == 0:
                digest.update(game.pixels.tobytes())
        digest.update(repr(game.take_events()).encode())
        return digest.hexdigest()

    assert fingerprint(7) == fingerprint(7)
    assert fingerprint(7) != fingerprint(8)


def test_drawing_does_not_change_the_game():
    """Pictures may be asked for or not; the game goes the same way."""
    drawn, blind = PongGame(4), PongGame(4)
    for a, b in zip(played(drawn, 600), played(blind, 600), strict=True):
        assert drawn.pixels.shape == (210, 160, 3)
        assert a == b


@pytest.mark.parametrize("seed", range(4))
def test_events_tell_a_possible_game(seed: int):
    """Points add one, hits alternate, a serve follows each point, 21 ends the game and 0 to 0 begins the next."""
    events = events_of(PongGame(seed, start_score=(18, 17)), 80)
    times = [event.time for event in events]
    assert times == sorted(times)
    score, flies_to = (18, 17), ""
    for event in events:
        if event.kind == "serve":
            assert "" == flies_to
            flies_to = event.side
        elif event.kind == "hit":
            assert flies_to == event.side
            flies_to = "left" if event.side == "right" else "right"
        elif event.kind == "point":
            assert flies_to not in ("", event.side)
            flies_to = ""
            expected = (score[0] + 1, score[1]) if event.side == "left" else (score[0], score[1] + 1)
            assert expected == event.score
            score = expected
        elif event.kind == "game_over":
            assert score == event.score
            assert 21 == score[event.side == "right"]
        else:
            assert 21 == max(score)
            assert (0, 0) == event.score
            score = (0, 0)
    assert {"serve", "hit", "point", "game_over", "new_game"} == {event.kind for event in events}


def test_both_sides_score_and_rallies_vary():
    """In eight minutes each side has its share of points; some rallies are over at once, some are long."""
    events = [event for seed in range(8) for event in events_of(PongGame(seed, start_score="random"), 60)]
    points = [event.side for event in events if event.kind == "point"]
    assert 0.2 < points.count("right") / len(points) < 0.6
    assert 4 < len(points) / 8 < 12  # a minute
    ends = [i for i, event in enumerate(events) if event.kind == "point"]
    rallies = [sum(e.kind == "hit" for e in events[a:b]) for a, b in pairwise(ends)]
    assert min(rallies) == 0
    assert max(rallies) >= 10


def test_new_game_is_told_at_the_start_only_when_it_starts_there():
    assert ["new_game"] == [event.kind for event in PongGame(0).take_events()]
    assert [] == PongGame(0, start_score=(3, 5)).take_events()
    assert [] == PongGame(0, start_score="random").take_events()
    assert (0, 0.0) == PongGame(0, start_score="random").state[:2]


def test_untaken_events_do_not_pile_up_for_ever():
    """A stream without end whose events nobody takes keeps the newest ones only."""
    game = PongGame(0)
    game._events.extend([game._events[0]] * 50_000)
    assert 10_000 == len(game.take_events())


def test_impossible_start_score_is_refused():
    with pytest.raises(ConfigError, match=r"start score \(21, 0\): each side needs 0 to 20"):
        PongGame(0, start_score=(21, 0))


def test_unknown_game_lists_the_known_ones():
    with pytest.raises(UnknownName, match=r"no arcade game 'pung'; known: .*pong"):
        Emulator("pung")


def test_emulator_does_as_it_is_told():
    """No action is repeated by chance: the same actions give the same game, whatever the console's seed."""
    one, two = Emulator("pong", 1), Emulator("pong", 2)
    rng = random.Random(0)
    for _ in range(300):
        action = rng.choice((0, 3, 4))
        one.step(action)
        two.step(action)
        np.testing.assert_array_equal(one.ram, two.ram)


def test_emulator_is_silent(capfd: pytest.CaptureFixture[str]):
    """The library's banner would end up in the middle of the captions."""
    Emulator("pong").step(0)
    assert ("", "") == tuple(capfd.readouterr())
