"""Endless Double Dunk (basketball, two against two) from a seed, with exact truth: a scripted green team against the
console's own white one, to 24 points.

The truth is read from the console's memory; tests/arcade/test_double_dunk.py checks the addresses against the picture.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from neverblink.arcade.commentary import SCORE, bin_of, column_word, row_word
from neverblink.arcade.emulator import FRAMES_PER_SECOND, HEIGHT, NOOP, PICTURE, WIDTH, Emulator, stick
from neverblink.arcade.events import Claim, GameEvent, Kind, Score, Side
from neverblink.arcade.players import draw_skill, is_stranger
from neverblink.arcade.sport import BINS, Sport
from neverblink.errors import ConfigError

SIDES: tuple[Side, Side] = ("green", "white")

# Addresses in the 128 bytes of memory. Scores are binary coded decimals.
OPTIONS, ATTACK, SHOT, PHASE, JUMP, BALL_Y, BALL_X, COUNTING, GREEN_SCORE, WHITE_SCORE = (
    0, 1, 2, 7, 10, 46, 47, 117, 118, 119,
)  # fmt: skip
PLAYER_Y, PLAYER_X = slice(33, 37), slice(37, 41)  # green's tall, white's tall, green's small, white's small player
# Bits of those bytes.
SMALL_HAS_BALL, WHITE_ATTACKS, SHOOTS, GOES_IN, CHOOSES, JUMPS = 0x80, 0x40, 0x04, 0x80, 0x80, 0x80
THREE_POINTERS = 0x08  # the option, off after a reset, that gives three points from afar
# What to add to the byte, or what to take the byte from, to get the pixel column of the left side or the row below.
PLAYER_X_OFFSET, BALL_X_OFFSET, FLOOR = 11, 12, 182

GREEN = (0, 2)  # its players
PLAYER_WIDTH, BALL_SIZE = 8, 4  # pixels
MIDDLE = 76  # left column of a player under the basket
COURT = (8, 24, 152, 182)  # pixels: left, top of the board, right, bottom
RELEASED = 32  # pixels of the ball over its holder's feet: no arm reaches so high
SHOT_FRAMES = 4  # a ball that its holder takes along when he lands is over his head for less

WINNING_SCORE = 24
HOLD_FRAMES = 150  # a finished game stays on the screen for 2.5 s
MOST_EVENTS = 10_000  # about three hours
UNSTEADY_FRAMES = 4  # after a reset, until a new score is drawn

CLEAR_ROW, FAR_ROW = 172, 166  # pixel rows: behind the three-point line, to which a won ball has to be brought
NEAR = 10  # pixels from the chosen spot at which a shot is tried
WAYS = tuple((dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1))  # of the stick


class DoubleDunkState(NamedTuple):
    """One emulator frame. Pixels of the 210 x 160 picture, (0, 0) at the top left."""

    frame: int
    time: float  # media seconds
    ball_x: int  # left column of the ball
    ball_y: int  # row below the ball
    players: tuple[
        tuple[int, int], ...
    ]  # left column, row below the feet: tall green, tall white, small green, small white
    holder: int  # the player that has the ball, or had it last
    shoots: bool  # the holder is in a shot, from the jump until the ball is caught
    goes_in: bool  # the ball has left the hand for the basket and will go in
    jumps: bool  # somebody is in the air
    chooses: bool  # all stand still until both teams have chosen a play
    counting: bool  # more points of the same basket follow
    score: Score

    @property
    def attack(self) -> Side:
        return SIDES[self.holder % 2]

    @property
    def in_air(self) -> bool:
        """The ball is higher than its holder reaches."""
        return self.players[self.holder][1] - self.ball_y >= RELEASED


@dataclass(frozen=True, slots=True)
class Style:
    """How the green player plays one game."""

    reaction: int  # frames between two decisions
    stray: float  # probability that a decision is a random one
    up: float  # probability of choosing the simplest play, which suits this player best
    far: float  # probability of a shot from afar, which is worth three points
    row: int  # pixel row of the other shots
    spread: int  # pixels to either side of the basket's column for the place of a shot
    press: int  # frames for which the button is held down: a shot leaves the hand when it is let go
    calm: int  # frames between two tries
    steal: float  # probability of pressing the button in each frame of defence

    @classmethod
    def draw(cls, rng: random.Random, *, stranger: bool) -> Style:
        def skill(low: float, high: float) -> float:
            return draw_skill(rng, low, high, stranger=stranger)

        return cls(
            reaction=int(skill(1, 5)),
            stray=skill(0.0, 0.06),
            up=skill(0.7, 1.0),
            far=skill(0.0, 0.35),
            row=int(skill(86, 112)),
            spread=int(skill(0, 12)),
            press=int(skill(30, 46)),
            calm=int(skill(5, 16)),
            steal=skill(0.0, 0.5),
        )


class DoubleDunkGame:
    """Double Dunk without end: from 24 points on the picture holds 2.5 s, then a new game starts."""

    state: DoubleDunkState

    def __init__(self, seed: int, *, start_score: Score | Literal["random"] | None = None, style: Style | None = None):
        """`start_score` None starts a new game at 0 to 0 (and says so); a score starts in mid-game, silently;
        "random" draws the score and a moment of play."""
        self._rng = random.Random(f"double dunk {seed}")  # a string is hashed the same way in every process
        self._emulator = Emulator("double_dunk", self._rng.randrange(2**31))
        self._fixed_style, self._stranger = style, is_stranger(seed)
        self._frame = -1
        # Hours of events may wait to be taken, but not months: a stream without end must not grow.
        self._events: deque[GameEvent] = deque(maxlen=MOST_EVENTS)
        if start_score is None:
            self._start_game((0, 0))
            self._tell("new_game", "", (0, 0))
        else:
            self._start_inside(start_score)

    def _start_inside(self, start_score: Score | Literal["random"]) -> None:
        rng = self._rng
        warm_up = 0  # frames; points may fall in them, so a random score is where the warm-up starts
        if start_score == "random":
            warm_up = rng.randrange(60, 15 * FRAMES_PER_SECOND)
            # Ends of games are rare: a quarter of the streams start close to one.
            lowest = rng.choice((0, 0, 0, WINNING_SCORE - 4))
            ahead, other = rng.randrange(lowest, WINNING_SCORE), rng.randrange(WINNING_SCORE)
            start_score = (ahead, other) if rng.random() < 0.5 else (other, ahead)
        if not all(0 <= points < WINNING_SCORE for points in start_score):
            raise ConfigError(f"start score {start_score}: each side needs 0 to {WINNING_SCORE - 1}")
        self._start_game(start_score)
        for _ in range(warm_up):
            next(self)
        self._events.clear()
        self._frame = 0
        self.state = self.state._replace(frame=0, time=0.0)

    def _start_game(self, score: Score) -> None:
        emulator = self._emulator
        emulator.reset()
        emulator.poke(OPTIONS, int(emulator.ram[OPTIONS]) | THREE_POINTERS)
        for address, points in zip((GREEN_SCORE, WHITE_SCORE), score, strict=True):
            emulator.poke(address, points // 10 * 16 + points % 10)
        for _ in range(UNSTEADY_FRAMES):
            emulator.step(NOOP)
        self.style = self._fixed_style or Style.draw(self._rng, stranger=self._stranger)
        self._held = 0  # frames for which the finished game has been shown
        self._can_shoot, self._airborne = False, 0  # frames since the ball left the hand
        self._wait = self._pressing = self._resting = self._rhythm = 0
        self._way = (0, 0)
        self._spot: tuple[int, int] | None = None  # where green means to shoot from in this attack
        self._clears = False  # whether green has won the ball and has to bring it out first
        self.state = self._look()

    @property
    def pixels(self) -> np.ndarray:
        """[210, 160, 3] uint8 RGB of the frame reached; drawn only when asked for."""
        return self._emulator.pixels

    def take_events(self) -> list[GameEvent]:
        """What happened since the last call, oldest first."""
        events = list(self._events)
        self._events.clear()
        return events

    def __iter__(self) -> DoubleDunkGame:
        return self

    def __next__(self) -> DoubleDunkState:
        before = self.state
        if self._emulator.over:
            return self._hold()
        self._emulator.step(self._action(before))
        self.state = after = self._look()
        if before.chooses and not after.chooses:
            self._tell("inbound", after.attack)
        self._follow_shot(before, after)
        scored = after.score != before.score
        if scored and not after.counting:
            side = SIDES[after.score[1] != before.score[1]]
            self._tell("point", side, after.score)
            if max(after.score) >= WINNING_SCORE:
                self._tell("game_over", side, after.score)
        elif after.attack != before.attack:
            self._tell("ball", after.attack)
        return after

    def _follow_shot(self, before: DoubleDunkState, after: DoubleDunkState) -> None:
        """One shot for each jump with the ball in which it leaves the hands."""
        starts = after.holder != before.holder or (after.jumps and not before.jumps)
        if not after.shoots or (starts and not after.in_air):
            self._can_shoot = True
        self._airborne = self._airborne + 1 if after.shoots and (after.in_air or after.goes_in) else 0
        if self._can_shoot and self._airborne == SHOT_FRAMES:
            self._can_shoot = False
            self._tell("shot", after.attack)

    def _hold(self) -> DoubleDunkState:
        self._held += 1
        if self._held > HOLD_FRAMES:
            self._start_game((0, 0))
            self._tell("new_game", "", (0, 0))
        else:
            self._frame += 1
            self.state = self.state._replace(frame=self._frame, time=self._frame / FRAMES_PER_SECOND)
        return self.state

    def _tell(self, kind: Kind, side: Side = "", score: Score | None = None) -> None:
        self._events.append(GameEvent(self.state.time, Claim(kind, side, score)))

    def _look(self) -> DoubleDunkState:
        self._frame += 1
        ram = self._emulator.ram.tobytes()  # bytes index faster than an array, 60 times a second
        return DoubleDunkState(
            frame=self._frame,
            time=self._frame / FRAMES_PER_SECOND,
            ball_x=ram[BALL_X] + BALL_X_OFFSET,
            ball_y=FLOOR - ram[BALL_Y],
            players=tuple((x + PLAYER_X_OFFSET, FLOOR - y) for x, y in zip(ram[PLAYER_X], ram[PLAYER_Y], strict=True)),
            holder=(2 if ram[OPTIONS] & SMALL_HAS_BALL else 0) + (1 if ram[ATTACK] & WHITE_ATTACKS else 0),
            shoots=ram[SHOT] & SHOOTS != 0,
            goes_in=ram[SHOT] & GOES_IN != 0,
            jumps=ram[JUMP] & JUMPS != 0,
            chooses=ram[PHASE] & CHOOSES != 0,
            counting=ram[COUNTING] != 0,
            score=(_number(ram[GREEN_SCORE]), _number(ram[WHITE_SCORE])),
        )

    def _action(self, state: DoubleDunkState) -> int:
        if state.chooses:
            return self._choose_play()
        if state.attack == "white":
            self._pressing, self._spot, self._clears = 0, None, True
            return self._defend(state)
        return self._attack(state)

    def _choose_play(self) -> int:
        self._pressing, self._spot, self._clears = 0, None, False
        if self._rhythm % 20 == 0:
            self._way = (0, -1) if self._rng.random() < self.style.up else self._rng.choice(WAYS)
        self._rhythm += 1
        return stick(*self._way, True) if self._rhythm % 20 < 4 else NOOP

    def _defend(self, state: DoubleDunkState) -> int:
        to_x, to_y = state.players[state.holder]
        x, y = min(
            (state.players[player] for player in GREEN),
            key=lambda place: abs(place[0] - to_x) + abs(place[1] - to_y),
        )
        return stick(*self._towards(to_x - x, to_y - y), self._rng.random() < self.style.steal)

    def _attack(self, state: DoubleDunkState) -> int:
        style, rng = self.style, self._rng
        if self._pressing:
            self._pressing -= 1
            if not self._pressing:
                self._resting = style.calm
            return stick(0, 0, True)
        if self._resting:
            self._resting -= 1
            return NOOP
        x, y = state.players[state.holder]
        self._clears = self._clears and y < CLEAR_ROW
        if self._clears:
            return stick(0, 1)
        if self._spot is None:
            row = FAR_ROW if rng.random() < style.far else style.row
            self._spot = (MIDDLE + rng.randint(-style.spread, style.spread), row)
        dx, dy = self._spot[0] - x, self._spot[1] - y
        if abs(dx) < NEAR and abs(dy) < NEAR:
            self._pressing = style.press + rng.randint(-2, 2)
            return stick(0, 0, True)
        return stick(*self._towards(dx, dy))

    def _towards(self, dx: int, dy: int) -> tuple[int, int]:
        """The way of the stick, which stays for some frames."""
        if self._wait:
            self._wait -= 1
        else:
            self._wait = self.style.reaction - 1
            astray = self._rng.random() < self.style.stray
            self._way = self._rng.choice(WAYS) if astray else (_sign(dx), _sign(dy))
        return self._way


def _number(coded: int) -> int:
    """A binary coded decimal."""
    return (coded >> 4) * 10 + (coded & 15)


def _sign(way: int) -> int:
    return 0 if abs(way) <= 2 else 1 if way > 0 else -1


def describe(state: DoubleDunkState) -> str:
    """Such as " Ball left, high, in the air; white attacks; green left, right; white centre, left; score 3 to 15.".

    Of each side the tall player comes first."""
    left, top, right, bottom = COURT
    ball = f"{column_word(state.ball_x + BALL_SIZE / 2, left, right)}, {row_word(state.ball_y, top, bottom)}"
    if state.in_air:
        ball += ", in the air"
    columns = [column_word(x + PLAYER_WIDTH / 2, left, right) for x, _ in state.players]
    places = f"green {columns[0]}, {columns[2]}; white {columns[1]}, {columns[3]}"
    return f" Ball {ball}; {state.attack} attacks; {places}; score {SCORE.format(*state.score)}."


def measure(state: DoubleDunkState) -> tuple[int, ...]:
    ball = (bin_of(state.ball_x, 0, WIDTH, BINS), bin_of(state.ball_y, 0, HEIGHT, BINS))
    places = (
        bin_of(at, 0, size, BINS) for place in state.players for at, size in zip(place, (WIDTH, HEIGHT), strict=True)
    )
    points = (digit for points in state.score for digit in (points // 10, points % 10))
    return (*ball, int(state.in_air), SIDES.index(state.attack), *places, *points)


DOUBLE_DUNK = Sport(
    name="double_dunk",
    make=DoubleDunkGame,
    sides=SIDES,
    phrases={
        "inbound": ("{side} brings it in", "{side} starts the play"),
        "ball": ("{side} gets the ball", "ball to {side}"),
        "shot": ("{side} shoots", "a shot by {side}"),
        "point": ("{side} scores, {score}", "basket for {side}, {score}"),
        "game_over": ("game over, {side} wins {score}",),
        "new_game": ("a new game, {score}", "new game, {score}"),
    },
    visible_after={
        "inbound": PICTURE,
        "ball": PICTURE,
        "shot": PICTURE,
        "point": PICTURE + 1 / FRAMES_PER_SECOND,
        "game_over": PICTURE + 1 / FRAMES_PER_SECOND,
        "new_game": PICTURE,
    },
    describe=describe,
    fields={
        "ball x": BINS,
        "ball y": BINS,
        "in the air": 2,
        "attack": 2,
        "tall green x": BINS,
        "tall green y": BINS,
        "tall white x": BINS,
        "tall white y": BINS,
        "small green x": BINS,
        "small green y": BINS,
        "small white x": BINS,
        "small white y": BINS,
        "green tens": 3,
        "green units": 10,
        "white tens": 3,
        "white units": 10,
    },
    measure=measure,
    merge=frozenset({"ball", "shot"}),
)
