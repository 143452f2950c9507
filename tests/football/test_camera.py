"""Where things stand in a picture: the camera by plain trigonometry, and shirts drawn where it is a little off."""

import math
from dataclasses import replace

import numpy as np
import pytest

from neverblink.football.camera import PITCH, SURE, focus, project, shirts, sight
from neverblink.football.matches import HEIGHT, WIDTH, Match, Record
from tests.football.recording import RECORDED, hand_made, recorded

YELLOW, BLACK, GRASS = (200, 190, 60), (20, 20, 30), (60, 100, 40)


@pytest.fixture(scope="module")
def record() -> Record:
    made = hand_made()
    players = np.stack([made["left_team"], made["right_team"]], 1).astype(float)
    dice = np.random.default_rng(0)
    owner, ball = np.asarray(made["ball_owned_team"]).astype(int), np.asarray(made["ball"]).astype(float)
    # Around the ball, each on his own way.
    players[:] = ball[:, None, None, :2] + dice.normal(0, 0.16, players.shape[1:])
    players += np.cumsum(dice.normal(0, 0.001, players.shape), 0)
    score, mode, cards = (np.asarray(made[name]).astype(int) for name in ("score", "game_mode", "cards"))
    return Record(0.1, 2, 5, ball, owner, players, score, mode, cards)


def plainly(follows: np.ndarray, point: np.ndarray) -> tuple[float, float]:
    """One point by angles: the camera stands behind the near line and looks down at the far one."""
    x, y, z = (float(v) for v in follows)
    camera = (0.85 * x, 0.75 * y - 57.958, 0.2 * z + 29.071)
    right, along, up = (float(p) - c for p, c in zip(point, camera, strict=True))
    down = math.pi / 2 - (0.335 * math.pi + y / 800)  # how far its axis points below the horizon
    depth = along * math.cos(down) - up * math.sin(down)
    lift = along * math.sin(down) + up * math.cos(down)
    half = math.tan(math.radians(19.6 - camera[1] / 30) / 2)  # of the picture's height, at depth 1
    return WIDTH / 2 + right / depth / half * HEIGHT / 2, HEIGHT / 2 - lift / depth / half * HEIGHT / 2


def test_the_camera_is_plain_trigonometry():
    dice = np.random.default_rng(1)
    follows = dice.uniform((-60, -20, 0), (60, 20, 1), (5, 3))
    points = dice.uniform((-54, -35, 0), (54, 35, 3), (5, 7, 3))
    seen = project(follows, points)
    for i in range(5):
        for j in range(7):
            assert seen[i, j] == pytest.approx(plainly(follows[i], points[i, j]), abs=1e-9)


def aimed_at(record: Record) -> list[tuple[float, float, float]]:
    """What the camera would look at, at each step, if it had no inertia: step by step, in plain numbers."""
    found, lean = [], 0.0
    for step in range(record.steps):
        x, y = record.ball[step, 0] * 54.4, record.ball[step, 1] * -83.6
        people = [(side, n) for side in range(2) for n in range(11)]
        places = {(s, n): record.players[step, s, n] * (54.4, -83.6) for s, n in people}
        nearest = min(people, key=lambda who: math.dist(places[who], (x, y)))
        here = places[nearest]
        past = record.players[max(step - 1, 0), *nearest] * (54.4, -83.6)
        length = max(math.dist(here, past), 0.05)
        lean += 0.05 * ((1 if nearest[0] == 0 else -1) - lean)
        aim = [0.4 * at + 0.6 * h + (h - p) / length for at, h, p in zip((x, y), here, past, strict=True)]
        aim[0] = min(max(aim[0] + 2 * lean, -89.6), 89.6)
        found.append((aim[0], min(max(aim[1], -24.8), 24.8), record.ball[step, 2] * 0.04))
    return found


def test_it_follows_the_last_second_and_a_half(record: Record):
    """The engine keeps a place every 10 ms; the newest is left out nearly, the oldest counts little."""
    follows, aims = focus(record), aimed_at(record)
    assert (record.steps, 3) == follows.shape
    weights = [(math.sin((i / 150 - 0.3) * 1.4 * math.pi) * 0.5 + 0.5) * (1 - i / 150) ** 0.3 for i in range(150)]
    for step in (0, 3, 14, 60, 257, 400):
        newest = 10 * step + 9
        places = [aims[max(newest - 149 + i, 0) // 10] for i in range(150)]  # before the match: its first place
        mean = [sum(w * p[axis] for w, p in zip(weights, places, strict=True)) / sum(weights) for axis in range(3)]
        assert follows[step] == pytest.approx(mean, abs=1e-9)


def drawn(record: Record, step: int, follows: np.ndarray, light: float = 1.0) -> np.ndarray:
    picture = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    picture[:] = GRASS
    people = np.concatenate([record.players[step].reshape(22, 2) * PITCH, np.zeros((22, 1))], 1)
    for number, (x, y) in enumerate(project(follows, people)):
        left, top = round(x) - 2, round(y) - 8
        if 0 <= left < WIDTH - 4 and 0 <= top < HEIGHT - 8:
            picture[top : top + 8, left : left + 4] = YELLOW if number < 11 else BLACK
    return (picture * light).astype(np.uint8)


@pytest.mark.parametrize("light", [1.0, 0.4])
@pytest.mark.parametrize("off", [(0.0, 0.0), (3.5, -1.5), (-5.0, 2.0)])
def test_shirts_tell_where_the_camera_really_is(record: Record, light: float, off: tuple[float, float]):
    follows = focus(record)
    for step in (60, 140, 310):
        true = follows[step] + (*off, 0)
        seen = sight(record, follows, step, drawn(record, step, true, light))
        points = np.zeros((23, 3))
        points[:22, :2], points[22] = record.players[step].reshape(22, 2) * PITCH, record.ball[step] * (*PITCH, 1)
        expected = project(true, points)
        inside = ((expected >= 0) & (expected < (WIDTH, HEIGHT))).all(1)
        assert inside.sum() > 8
        found = np.concatenate([seen.feet.reshape(22, 2), seen.ball[None]])
        assert np.abs(found - expected)[inside].max() < 6
        assert seen.score > SURE


def test_who_is_outside_of_the_picture_is_not_looked_for_at_its_edge(record: Record):
    away = replace(record, players=record.players + np.array([3.0, 0.0]))
    picture = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    picture[:] = GRASS
    picture[::9, :4], picture[::9, -4:] = YELLOW, YELLOW
    assert sight(away, focus(record), 60, picture).score < 0.5 * SURE


def test_a_picture_of_something_else_is_not_believed(record: Record):
    follows = focus(record)
    empty = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    empty[:] = GRASS
    assert sight(record, follows, 60, empty).score < SURE
    swapped = replace(record, players=record.players[:, ::-1])
    picture = drawn(record, 60, follows[60])
    assert sight(swapped, follows, 60, picture).score < 0.5 * sight(record, follows, 60, picture).score


def test_shirts_are_told_from_lines_and_from_each_other():
    picture = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    picture[:] = GRASS
    picture[40:48, 40:44], picture[40:48, 200:204], picture[120:123] = YELLOW, BLACK, (190, 195, 185)
    yellow, black = shirts(picture)
    assert yellow[22, 21] > 0.9 > 0.1 > yellow[22, 101]
    assert black[22, 101] > 0.9 > 0.1 > black[22, 21]
    assert max(yellow[60].max(), black[60].max()) < 0.3


@recorded
def test_in_recorded_matches_most_pictures_bear_it_out():
    """And where the ball is said to be it is white more often than grass is: the state and the picture agree."""
    match = Match(RECORDED / "match_0005")
    follows = focus(match.record)
    sure, brighter = [], []
    for number, frame in enumerate(match.frames(2, 100)):
        if number == 60:
            break
        seen = sight(match.record, follows, round((100 + number / 2) / match.record.step_seconds), frame.pixels)
        sure.append(seen.score > SURE)
        column, row = np.rint(seen.ball).astype(int)
        if sure[-1] and 4 <= column < WIDTH - 4 and 16 <= row < HEIGHT - 4:
            near = frame.pixels[row - 4 : row + 4, column - 4 : column + 4, 2].max()
            brighter.append(near > np.quantile(frame.pixels[20:, :, 2], 0.95))
    assert np.mean(sure) > 0.8
    assert np.mean(brighter) > 0.7
