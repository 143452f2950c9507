"""Endless Pong from a seed, with exact truth: the built-in player (left, orange) against a scripted one (right, green).

The truth is read from the console's memory; tests/arcade/test_pong.py checks the addresses against the picture.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from neverblink.arcade.commentary import SCORE, bin_of, column_word, row_word
from neverblink.arcade.emulator import FRAMES_PER_SECOND, HEIGHT, LEFT, NOOP, PICTURE, RIGHT, WIDTH, Emulator
from neverblink.arcade.events import Claim, GameEvent, Kind, Score, Side
from neverblink.arcade.sport import BINS, Sport
from neverblink.errors import ConfigError

# Addresses in the 128 bytes of memory.
LEFT_SCORE, RIGHT_SCORE, BALL_X, LEFT_Y, RIGHT_Y, BALL_Y, BALL_SPEED = 13, 14, 49, 50, 51, 54, 58
# Where the console keeps which digit to draw as the last one of each score, and how far the next digit is.
DIGIT = {LEFT_SCORE: 69, RIGHT_SCORE: 71}
DIGIT_STEP = 5
# What to take from the byte to get the pixel column or row of the object's top left corner.
BALL_X_OFFSET, BALL_Y_OFFSET, LEFT_Y_OFFSET, RIGHT_Y_OFFSET = 49, 14, 15, 13

LEFT_PADDLE_X, RIGHT_PADDLE_X, PADDLE_WIDTH, PADDLE_HEIGHT = 16, 140, 4, 16  # pixels
BALL_WIDTH, BALL_HEIGHT = 2, 4  # pixels
FIELD_TOP, FIELD_BOTTOM = 34, 194  # pixel rows: the field is [34, 194)

WINNING_SCORE = 21
HOLD_FRAMES = 150  # a finished game stays on the screen for 2.5 s
MOST_EVENTS = 10_000  # about three hours
UNSTEADY_FRAMES = 3  # after a reset the console shows its idle colours for a moment
FIRE_UP, FIRE_DOWN, FIRE_STILL = 11, 12, 1  # a stroke with the button held drives the ball faster
UP, STAY, DOWN = RIGHT, NOOP, LEFT  # the paddle knob: turning right moves the paddle up


class PongState(NamedTuple):
    """One emulator frame. Pixels of the 210 x 160 picture, (0, 0) at the top left."""

    frame: int
    time: float  # media seconds
    in_play: bool
    ball_x: int  # left column of the ball; stale when not in play
    ball_y: int  # top row of the ball; stale when not in play
    ball_dx: int  # pixels a frame, > 0 to the right; 0 when not in play
    left_y: int  # top row of the paddle
    right_y: int
    score: Score


@dataclass(frozen=True, slots=True)
class Style:
    """How the right player plays one game: probabilities for each ball that comes, sizes in pixels."""

    miss: float  # probability of misjudging a ball for good
    edge: float  # probability of playing it with the paddle's end, which sends it off steeply
    fire: float  # probability of a fast stroke
    reach: int  # column from which the ball is followed: far right is lazy
    slack: int  # how far off the aim the paddle may rest

    @classmethod
    def draw(cls, rng: random.Random) -> Style:
        return cls(
            miss=rng.uniform(0.02, 0.28),
            edge=rng.uniform(0.3, 1.0),
            fire=rng.choice((0.0, 0.2, 0.4, 0.6)),
            reach=rng.randint(30, 95),
            slack=rng.randint(2, 5),
        )


class PongGame:
    """Pong without end: at 21 the picture holds 2.5 s, then a new game starts. Iterating advances frame by frame."""

    def __init__(self, seed: int, *, start_score: Score | Literal["random"] | None = None, style: Style | None = None):
        """`start_score` None starts a new game at 0 to 0 (and says so); a score starts in mid-game, silently;
        "random" draws the score and a moment of play."""
        self._rng = random.Random(f"pong {seed}")  # a string is hashed the same way in every process
        self._emulator = Emulator("pong", self._rng.randrange(2**31))
        self._fixed_style = style
        self._frame = -1
        # Hours of events may wait to be taken, but not months: a stream without end must not grow.
        self._events: deque[GameEvent] = deque(maxlen=MOST_EVENTS)
        if start_score is None:
            self._start_game((0, 0))
            self.state = self._look()
            self._tell("new_game", "", (0, 0))
        else:
            self._start_inside(start_score)

    def _start_inside(self, start_score: Score | Literal["random"]) -> None:
        warm_up = 0  # frames; a point may fall in them, so a random score is where the warm-up starts
        if start_score == "random":
            warm_up = self._rng.randrange(10 * FRAMES_PER_SECOND)
            # Ends of games are rare: a quarter of the streams start close to one.
            lowest = self._rng.choice((0, 0, 0, WINNING_SCORE - 3))
            ahead, other = self._rng.randrange(lowest, WINNING_SCORE), self._rng.randrange(WINNING_SCORE)
            start_score = (ahead, other) if self._rng.random() < 0.5 else (other, ahead)
        if not all(0 <= points < WINNING_SCORE for points in start_score):
            raise ConfigError(f"start score {start_score}: each side needs 0 to {WINNING_SCORE - 1}")
        self._start_game(start_score)
        self.state = self._look()
        for _ in range(warm_up):
            next(self)
        self._events.clear()
        self._frame = 0
        self.state = self.state._replace(frame=0, time=0.0)

    def _start_game(self, score: Score) -> None:
        self._emulator.reset()
        for address, points in zip((LEFT_SCORE, RIGHT_SCORE), score, strict=True):
            self._emulator.poke(address, points)
        for _ in range(UNSTEADY_FRAMES):
            self._emulator.step(NOOP)
        self.style = self._fixed_style or Style.draw(self._rng)
        self._held = 0
        self._aim(right_is_next=False)

    @property
    def pixels(self) -> np.ndarray:
        """[210, 160, 3] uint8 RGB of the frame reached; drawn only when asked for."""
        return self._emulator.pixels

    def take_events(self) -> list[GameEvent]:
        """What happened since the last call, oldest first."""
        events = list(self._events)
        self._events.clear()
        return events

    def __iter__(self) -> Iterator[PongState]:
        return self

    def __next__(self) -> PongState:
        before = self.state
        if max(before.score) >= WINNING_SCORE:
            return self._hold()
        self._step(self._action(before), before.score)
        self.state = after = self._look()
        if after.in_play and not before.in_play:
            self._tell("serve", "right" if after.ball_dx > 0 else "left")
            self._aim(right_is_next=after.ball_dx > 0)
        elif before.ball_dx * after.ball_dx < 0:
            self._tell("hit", "left" if after.ball_dx > 0 else "right")
            self._aim(right_is_next=after.ball_dx > 0)
        if after.score != before.score:
            scorer: Side = "left" if after.score[0] > before.score[0] else "right"
            self._tell("point", scorer, after.score)
            if max(after.score) >= WINNING_SCORE:
                self._tell("game_over", scorer, after.score)
        return after

    def _hold(self) -> PongState:
        if self._held == 0:
            self._draw_last_score()
        self._held += 1
        if self._held <= HOLD_FRAMES:
            self.state = self._look()
            return self.state
        self._start_game((0, 0))
        self.state = self._look()
        self._tell("new_game", "", self.state.score)
        return self.state

    def _step(self, action: int, score: Score) -> None:
        """One frame. The emulator stops for good at the frame of the last point, before the picture shows the score:
        so that frame is played again from 19, and 21 is written into the memory of a game that goes on at 20."""
        snapshot = self._emulator.save() if max(score) == WINNING_SCORE - 1 else None
        self._emulator.step(action)
        if snapshot is None or not self._emulator.over:
            return
        winner = self._winner()
        self._emulator.restore(snapshot)
        self._emulator.poke(winner, WINNING_SCORE - 2)
        self._emulator.step(action)
        self._emulator.poke(winner, WINNING_SCORE)

    def _draw_last_score(self) -> None:
        """Two frames of the game that goes on at 20, with the digit after it."""
        winner = self._winner()
        self._emulator.poke(winner, WINNING_SCORE - 1)
        self._emulator.step(NOOP)
        self._emulator.poke(DIGIT[winner], int(self._emulator.ram[DIGIT[winner]]) + DIGIT_STEP)
        self._emulator.step(NOOP)
        self._emulator.poke(winner, WINNING_SCORE)

    def _winner(self) -> int:
        """The address of the score that is 21."""
        return LEFT_SCORE if self._emulator.ram[LEFT_SCORE] == WINNING_SCORE else RIGHT_SCORE

    def _tell(self, kind: Kind, side: Side, score: Score | None = None) -> None:
        self._events.append(GameEvent(self.state.time, Claim(kind, side, score)))

    def _look(self) -> PongState:
        self._frame += 1
        ram = self._emulator.ram.tobytes()  # bytes index faster than an array, 60 times a second
        speed = ram[BALL_SPEED]
        in_play = ram[BALL_Y] != 0
        return PongState(
            frame=self._frame,
            time=self._frame / FRAMES_PER_SECOND,
            in_play=in_play,
            ball_x=ram[BALL_X] - BALL_X_OFFSET,
            ball_y=ram[BALL_Y] - BALL_Y_OFFSET,
            ball_dx=((256 - speed) if speed > 127 else -speed) if in_play else 0,
            left_y=ram[LEFT_Y] - LEFT_Y_OFFSET,
            right_y=ram[RIGHT_Y] - RIGHT_Y_OFFSET,
            score=(ram[LEFT_SCORE], ram[RIGHT_SCORE]),
        )

    def _aim(self, *, right_is_next: bool) -> None:
        """Settles, once for each flight of the ball, where the paddle's middle will be against it."""
        rng, style = self._rng, self.style
        self._fires = False
        self._offset = 0  # pixels
        if not right_is_next:
            return
        side = rng.choice((-1, 1))
        if rng.random() < style.miss:
            self._offset = side * rng.randint(16, 40)
        elif rng.random() < style.edge:
            self._offset = side * rng.randint(7, 9)
        else:
            self._offset = side * rng.randint(0, 5)
        self._fires = rng.random() < style.fire

    def _action(self, state: PongState) -> int:
        if not state.in_play or state.ball_dx <= 0 or state.ball_x < self.style.reach:
            return STAY
        wanted = state.ball_y + BALL_HEIGHT // 2 + self._offset
        wanted = min(max(wanted, FIELD_TOP - 4), FIELD_BOTTOM + 4)  # a miss stays a miss near the walls
        error = wanted - (state.right_y + PADDLE_HEIGHT // 2)
        if abs(error) <= self.style.slack:
            return FIRE_STILL if self._fires else STAY
        if error < 0:
            return FIRE_UP if self._fires else UP
        return FIRE_DOWN if self._fires else DOWN


def describe(state: PongState) -> str:
    """Such as " Ball far left, high, moving right; paddles high, low; score 3 to 5." or " No ball; paddles ..."."""
    ball = "No ball"
    if state.in_play:
        column = column_word(state.ball_x + BALL_WIDTH / 2, 0, WIDTH)
        row = row_word(state.ball_y + BALL_HEIGHT / 2, FIELD_TOP, FIELD_BOTTOM)
        ball = f"Ball {column}, {row}, moving {'right' if state.ball_dx > 0 else 'left'}"
    paddles = (row_word(y + PADDLE_HEIGHT / 2, FIELD_TOP, FIELD_BOTTOM) for y in (state.left_y, state.right_y))
    return f" {ball}; paddles {', '.join(paddles)}; score {SCORE.format(*state.score)}."


def measure(state: PongState) -> tuple[int, ...]:
    x, y, dx = (
        (bin_of(state.ball_x, 0, WIDTH, BINS), bin_of(state.ball_y, 0, HEIGHT, BINS), int(state.ball_dx > 0))
        if state.in_play
        else (-1, -1, -1)
    )
    paddles = (bin_of(y, 0, HEIGHT, BINS) for y in (state.left_y, state.right_y))
    return (x, y, dx, int(state.in_play), *paddles, *state.score)


PONG = Sport(
    name="pong",
    make=PongGame,
    sides=("left", "right"),
    phrases={
        "serve": ("serve to the {side}", "the ball flies {side}"),
        "hit": ("{side} hits", "{side} returns it"),
        "point": ("{side} scores, {score}", "point for {side}, {score}"),
        "game_over": ("game over, {side} wins {score}",),
        "new_game": ("a new game, {score}", "new game, {score}"),
    },
    # At 8 a second the next picture shows a new ball; a score is drawn one emulator frame late; a hit shows when the
    # ball has come away from the paddle. Play is locked to whole seconds for long stretches, so these borders matter.
    visible_after={
        "serve": PICTURE,
        "hit": 0.2,
        "point": PICTURE + 1 / FRAMES_PER_SECOND,
        "game_over": PICTURE + 1 / FRAMES_PER_SECOND,
        "new_game": PICTURE,
    },
    describe=describe,
    fields={
        "x": BINS,
        "y": BINS,
        "direction": 2,
        "there": 2,
        "left": BINS,
        "right": BINS,
        "left score": WINNING_SCORE + 1,
        "right score": WINNING_SCORE + 1,
    },
    measure=measure,
)
