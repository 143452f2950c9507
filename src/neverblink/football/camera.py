"""Where the players and the ball stand in a picture of a match: the engine's camera, worked out from the state.

A recording does not tell its camera, but the engine's rule is known (`Match::UpdateIngameCamera`, public domain): it
follows the ball and who has it through the last one and a half seconds. Whom the engine takes for having it the state
does not say, so the rule is some metres off; of the places around, that one is taken where the shirts are.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from neverblink.football.matches import HEIGHT, WIDTH, Record

PITCH = 54.4, -83.6  # metres that 1 of the state's x and y stands for
SURE = 0.2  # from this score on the shirts are where they should be: 0.93 of 500 pictures of five matches

_UPDATES = 150  # places of the last 1.5 s, one every 10 ms, that the camera's own is made of
_HEAD = 4  # pixels above the feet, where the shirt is
_AROUND = np.stack(np.meshgrid(np.arange(-7, 7.1, 0.5), np.arange(-4, 4.1, 0.5), indexing="ij"), -1).reshape(-1, 2)  # m
_NEAR = 0.0005  # by which a place a metre away is worse, squared


class Sight(NamedTuple):
    """What stands where in one picture; places outside of it are told too."""

    feet: np.ndarray  # [2, 11, 2] x, y in pixels, of yellow's and of blue's players
    ball: np.ndarray  # [2]
    score: float  # how well the shirts fit, 0 to 1; see SURE


def focus(record: Record) -> np.ndarray:
    """[steps, 3] metres: what the camera follows, nearly."""
    ball = record.ball * (*PITCH, 1.0)
    players = record.players.reshape(record.steps, -1, 2) * PITCH
    nearest = np.linalg.norm(players - ball[:, None, :2], axis=-1).argmin(1)
    steps = np.arange(record.steps)
    way = np.diff(players, axis=0, prepend=players[:1])[steps, nearest]
    way /= np.maximum(np.linalg.norm(way, axis=-1, keepdims=True), 0.05)
    has = np.where(nearest < record.players.shape[2], 1.0, -1.0)
    leaning, lean = np.empty(record.steps), 0.0  # towards the goal that is attacked
    for step, side in enumerate(has):
        lean += 0.05 * (side - lean)
        leaning[step] = lean
    aim = np.empty((record.steps, 3))
    aim[:, :2] = 0.4 * ball[:, :2] + 0.6 * players[steps, nearest] + way
    aim[:, 0] += 2.0 * leaning
    aim[:, 2] = 0.04 * ball[:, 2]
    aim[:, :2] = aim[:, :2].clip((-89.6, -24.8), (89.6, 24.8))
    age = np.arange(_UPDATES) / _UPDATES
    weights = (np.sin((age - 0.3) * 1.4 * np.pi) * 0.5 + 0.5) * (1 - age) ** 0.3  # the oldest comes first
    weights /= weights.sum()
    updates = round(record.step_seconds * 100)
    path = np.concatenate([np.repeat(aim[:1], _UPDATES - 1, 0), np.repeat(aim, updates, 0)])
    mean = np.stack([np.convolve(axis, weights[::-1], "valid") for axis in path.T], 1)
    return mean[updates - 1 :: updates]


def project(follows: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points on the pitch to x, y in pixels.

    Args:
        follows: [..., 3] metres, as of `focus`. points: [..., n, 3] metres.
    """
    place = follows * (0.85, 0.75, 0.2) + np.array([0.0, -57.958, 29.071])
    pitch = 0.335 * np.pi + follows[..., 1, None] / 800
    far = 1 / np.tan(np.radians(19.6 - place[..., 1, None] / 30) / 2)
    offset = points - place[..., None, :]
    ahead = offset[..., 1] * np.sin(pitch) - offset[..., 2] * np.cos(pitch)
    above = offset[..., 1] * np.cos(pitch) + offset[..., 2] * np.sin(pitch)
    across = far * HEIGHT / WIDTH * offset[..., 0] / ahead
    return np.stack([(1 + across) * WIDTH / 2, (1 - far * above / ahead) * HEIGHT / 2], -1)


def sight(record: Record, follows: np.ndarray, step: int, picture: np.ndarray) -> Sight:
    """What stands where in the picture of a step.

    Args:
        follows: `focus` of the record. picture: [180, 320, 3] uint8 RGB.
    """
    people = record.players[step].reshape(-1, 2) * PITCH
    points = np.zeros((len(people) + 1, 3))
    points[:-1, :2], points[-1] = people, record.ball[step] * (*PITCH, 1.0)
    places = follows[step] + np.pad(_AROUND, ((0, 0), (0, 1)))
    seen = project(places, points)  # [places, points, 2]
    column, row = np.rint((seen[:, :-1] - (0, _HEAD)) / 2).astype(int).transpose(2, 0, 1)
    inside = (column >= 0) & (column < WIDTH // 2) & (row >= 0) & (row < HEIGHT // 2)
    bright, dark = shirts(picture)
    column, row, half = column.clip(0, WIDTH // 2 - 1), row.clip(0, HEIGHT // 2 - 1), len(people) // 2
    fits = np.concatenate([bright[row[:, :half], column[:, :half]], 0.8 * dark[row[:, half:], column[:, half:]]], 1)
    scores = (fits * inside).sum(1) / np.maximum(inside.sum(1), 6)
    best = int((scores - _NEAR * np.square(_AROUND).sum(1)).argmax())
    return Sight(seen[best, :-1].reshape(2, -1, 2), seen[best, -1], float(scores[best]))


def shirts(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much of yellow's and of blue's shirts is at each place of a picture, 0 to 1: two of [90, 160].

    Beside the grass around it, as the light differs much from match to match.
    """
    small = picture.reshape(HEIGHT // 2, 2, WIDTH // 2, 2, 3).mean((1, 3), dtype=np.float32)
    red, green, blue = np.moveaxis(small, -1, 0)
    warm = np.minimum(_stands_out(red - green), 2 * _stands_out(red))  # black is as little green, but dark
    yellow = (warm - 1.2 * _stands_out(blue).clip(0)).clip(0)
    black = 0.5 * _stands_out(blue - green).clip(0) - _stands_out(small.mean(-1))  # lines are blue too, but bright
    return _evened(yellow), _evened((black - yellow).clip(0))


def _stands_out(values: np.ndarray) -> np.ndarray:
    """Values [90, 160] beside their mean in some thirty pixels of the picture around."""
    blocks = values.reshape(15, 6, 20, 8).mean((1, 3))
    padded = np.pad(blocks, 1, mode="edge")
    mean = np.mean([padded[i : i + 15, j : j + 20] for i in range(3) for j in range(3)], 0)
    return values - mean.repeat(6, 0).repeat(8, 1)


def _evened(values: np.ndarray) -> np.ndarray:
    """As strong in a dim match as in a bright one, and over three rows, as people are high."""
    values = (values / (np.quantile(values[::2, ::3], 0.985) + 3)).clip(0, 1)
    padded = np.pad(values, ((1, 1), (0, 0)), mode="edge")
    return (padded[:-2] + padded[1:-1] + padded[2:]) / 3
