"""Endless Tennis from a seed, with exact truth: a scripted pink player against the console's blue one.

The truth is read from the console's memory; tests/arcade/test_tennis.py checks the addresses against the picture.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

import numpy as np

from neverblink.arcade.commentary import SCORE, bin_of, column_word, row_word
from neverblink.arcade.emulator import FRAMES_PER_SECOND, HEIGHT, NOOP, PICTURE, WIDTH, Emulator, stick
from neverblink.arcade.events import Claim, GameEvent, Kind, Score, Side
from neverblink.arcade.players import draw_skill, is_stranger
from neverblink.arcade.sport import BINS, Sport
from neverblink.errors import ConfigError

# Addresses in the 128 bytes of memory. Signs are the drawings of the score board; players are the upper and the lower
# one, for they change ends.
BLUE_SIGN, PINK_SIGN, BALL_X, BALL_SPEED = 6, 7, 16, 18
UPPER_Y, LOWER_Y, UPPER_X, LOWER_X, BALL_Y, SHADOW_Y = 24, 25, 26, 27, 54, 55
PINK_POINTS, BLUE_POINTS, PINK_GAMES, BLUE_GAMES, SOUND, PAUSE, BLUE_IS_UP = 69, 70, 71, 72, 73, 75, 80
# Bytes to pixels: columns and rows of the top left corners; the console counts rows from below.
BALL_X_OFFSET, PLAYER_X_OFFSET, PLAYER_TOP, BALL_TOP = -2, -1, 166, 189
GONE = 2  # the ball's column byte when it has left the court: nothing is drawn
NO_PAUSE = 255  # else the frames until the next serve
STUCK_PAUSE = 127  # once in some hours a game's end leaves it so, and it never counts; else it starts below that
STROKE = 2  # frames that the sound of a stroke has left when it starts; in play no other sound is as long

SIGNS = ("0", "1", "2", "3", "4", "5", "6", "7", "DEU", "CE", "AD", "IN", "OUT", "0", "15", "30", "40")
CLASSES = tuple(dict.fromkeys(SIGNS))
DEUCE, ADVANTAGE, NO_POINTS = 8, 10, 13  # the first sign that says so
POINTS = (0, 15, 30, 40)  # as they are called, from none to three

BALL_SIZE, PLAYER_WIDTH, PLAYER_HEIGHT = 2, 15, 23  # pixels
COURT_LEFT, COURT_RIGHT, COURT_TOP, COURT_BOTTOM = 16, 144, 20, 190  # pixels: as far as balls and players go
SKY, GROUND = 18, 187  # pixel rows between which balls are drawn
BEHIND_NET = range(98, 113)
COVERED = (*BEHIND_NET, 46, 47, 175, 176, 177)  # rows of the ball's top at which the net or a line hides it

WINNING_GAMES = 6  # and two ahead, or one more
HOLD_FRAMES = 150  # a finished set stays on the screen for 2.5 s
UNSTEADY_FRAMES = 3  # after a reset the console shows its idle colours for a moment
MOST_EVENTS = 10_000  # hours
CENTRE = 77  # the column to wait at
BASELINE = 142  # the upper player's row byte there; the lower one's is 0
FOLLOWS_AT = 3  # pixels between the aim and the player at which he runs


class TennisState(NamedTuple):
    """One emulator frame. Pixels of the 210 x 160 picture, (0, 0) at the top left."""

    frame: int
    time: float  # media seconds
    there: bool  # flying, waiting for the serve, or lying where the last point ended
    ball_x: int  # left column of the ball; stale when not there
    ball_y: int  # top row of the ball; stale when not there
    shadow_y: int  # top row of its shadow, which tells where over the court it is
    ball_dy: int  # > 0 when it flies down, 0 when it rests or is not there
    pink_x: int  # left column of the player
    pink_y: int  # top row
    blue_x: int
    blue_y: int
    signs: tuple[int, int]  # what the board shows for pink and blue, as numbers of SIGNS
    points: tuple[int, int]  # won in this game, plain numbers
    games: Score  # won in this set
    score: Score  # as drawn: points called 15, 30, 40 (deuce is 40 to 40), or games until the next point


@dataclass(frozen=True, slots=True)
class Style:
    """How the pink player plays one set: probabilities for each ball that comes."""

    miss: float  # of misjudging the ball for good
    edge: float  # of striking at the racket's end, which sends the ball off steeply and sometimes misses
    forward: int  # pixels before the baseline to play from
    lazy: int  # frames after the opponent's stroke before he runs

    @classmethod
    def draw(cls, rng: random.Random, *, stranger: bool = False) -> Style:
        def skill(low: float, high: float) -> float:
            return draw_skill(rng, low, high, stranger=stranger)

        return cls(skill(0, 0.08), skill(0.2, 0.8), round(skill(0, 30)), round(skill(0, 20)))


class TennisGame:
    """Tennis without end: after a set the picture holds 2.5 s, then a new one starts."""

    def __init__(self, seed: int, *, start_score: Score | Literal["random"] | None = None, style: Style | None = None):
        """`start_score` None starts a new set at 0 to 0 (and says so); a score in points (15 to 40) starts in some
        game, silently; "random" draws the score, the games and a moment of play."""
        self._rng = rng = random.Random(f"tennis {seed}")  # a string is hashed the same way in every process
        self._stranger = is_stranger(seed)
        self._emulator = Emulator("tennis", rng.randrange(2**31))
        self._fixed_style = style
        self._frame = -1
        # Hours of events may wait to be taken, but not months: a stream without end must not grow.
        self._events: deque[GameEvent] = deque(maxlen=MOST_EVENTS)
        if start_score is None:
            self._start_set()
            self._tell("new_game", "", (0, 0))
            return
        warm_up = 0  # frames; a point may fall in them, so a random score is where the warm-up starts
        if start_score == "random":
            warm_up = rng.randrange(10 * FRAMES_PER_SECOND)
            score = rng.choice([(a, b) for a in POINTS for b in POINTS if min(a, b) < POINTS[-1]])
        else:
            score = start_score
        if not set(score) <= set(POINTS) or min(score) == POINTS[-1]:
            raise ConfigError(f"start score {score}: each side needs 0, 15, 30 or 40, and not both 40")
        # Ends of sets are rare: a quarter of the streams start in what may be the last game.
        lowest = rng.choice((0, 0, 0, WINNING_GAMES - 1))
        games = rng.randrange(lowest, WINNING_GAMES), rng.randrange(WINNING_GAMES)
        self._start_inside(score, games if rng.random() < 0.5 else games[::-1])
        for _ in range(warm_up):
            next(self)
        self._events.clear()
        self._frame = -1
        self._look()

    def _start_inside(self, score: Score, games: Score) -> None:
        """Somewhere in a set: players change ends and servers every other game, so memory of as many games is used."""
        self._emulator.restore(_after_games(sum(games) % 4))
        points = tuple(POINTS.index(called) for called in score)
        signs = tuple(NO_POINTS + won for won in points) if any(points) else games
        addresses = (PINK_POINTS, BLUE_POINTS, PINK_GAMES, BLUE_GAMES, PINK_SIGN, BLUE_SIGN)
        for address, value in zip(addresses, (*points, *games, *signs), strict=True):
            self._emulator.poke(address, value)
        self._emulator.step(NOOP)
        self._prepare()

    def _start_set(self) -> None:
        self._emulator.reset()
        for _ in range(UNSTEADY_FRAMES):
            self._emulator.step(NOOP)
        self._prepare()

    def _prepare(self) -> None:
        self.style = self._fixed_style or Style.draw(self._rng, stranger=self._stranger)
        self._held = 0
        self._in_rally = False
        self._comes_since = 0  # frames that the ball has been flying to pink
        self._offset = 0  # pixels between the ball and where pink wants to stand
        self._look()

    @property
    def pixels(self) -> np.ndarray:
        """[210, 160, 3] uint8 RGB of the frame reached; drawn only when asked for."""
        return self._emulator.pixels

    def take_events(self) -> list[GameEvent]:
        """What happened since the last call, oldest first."""
        events = list(self._events)
        self._events.clear()
        return events

    def __iter__(self) -> Iterator[TennisState]:
        return self

    def __next__(self) -> TennisState:
        before = self.state
        if self._emulator.over:
            return self._hold()
        self._emulator.step(self._choose(before))
        if self._emulator.ram[PAUSE] == STUCK_PAUSE and not self._emulator.over:
            self._emulator.poke(PAUSE, STUCK_PAUSE - 1)  # what it holds in any other pause
        stroke = bool(self._emulator.ram[SOUND] == STROKE)
        after = self._look(stroke)
        if stroke and after.ball_dy:
            upper, lower = ("pink", "blue") if after.pink_y < after.blue_y else ("blue", "pink")
            self._tell("hit" if self._in_rally else "serve", upper if after.ball_dy > 0 else lower)
            self._in_rally = True
        if (after.points, after.games) != (before.points, before.games):
            self._tell_point(before, after)
            self._in_rally = False
        return after

    def _tell_point(self, before: TennisState, after: TennisState) -> None:
        if after.games != before.games:
            winner = "pink" if after.games[0] > before.games[0] else "blue"
            self._tell("game_over" if self._emulator.over else "game", winner, after.games)
        elif after.signs[0] >= NO_POINTS:
            self._tell("point", "pink" if after.points[0] > before.points[0] else "blue", after.score)
        elif DEUCE in after.signs:
            # From an advantage the console goes back to three points each.
            behind_before = before.points[0] < before.points[1]
            self._tell("deuce", "pink" if behind_before else "blue")
        else:
            self._tell("advantage", "pink" if after.points[0] > after.points[1] else "blue")

    def _hold(self) -> TennisState:
        self._held += 1
        if self._held <= HOLD_FRAMES:
            return self._look()
        self._start_set()
        self._tell("new_game", "", self.state.score)
        return self.state

    def _tell(self, kind: Kind, side: Side = "", score: Score | None = None) -> None:
        self._events.append(GameEvent(self.state.time, Claim(kind, side, score)))

    def _look(self, stroke: bool = False) -> TennisState:
        self._frame += 1
        ram = self._emulator.ram.tobytes()  # bytes index faster than an array, 60 times a second
        there = ram[BALL_X] != GONE and SKY <= BALL_TOP - ram[BALL_Y] < GROUND
        flies = ram[PAUSE] == NO_PAUSE and not self._held and (self._in_rally or stroke)
        speed = ram[BALL_SPEED] - 256 if ram[BALL_SPEED] > 127 else ram[BALL_SPEED]
        upper = ram[UPPER_X] + PLAYER_X_OFFSET, PLAYER_TOP - ram[UPPER_Y]
        lower = ram[LOWER_X] + PLAYER_X_OFFSET, PLAYER_TOP - ram[LOWER_Y]
        pink, blue = (lower, upper) if ram[BLUE_IS_UP] else (upper, lower)
        signs = ram[PINK_SIGN], ram[BLUE_SIGN]
        self.state = TennisState(
            frame=self._frame,
            time=self._frame / FRAMES_PER_SECOND,
            there=there,
            ball_x=ram[BALL_X] + BALL_X_OFFSET,
            ball_y=BALL_TOP - ram[BALL_Y],
            shadow_y=BALL_TOP - ram[SHADOW_Y],
            ball_dy=-speed if flies else 0,
            pink_x=pink[0],
            pink_y=pink[1],
            blue_x=blue[0],
            blue_y=blue[1],
            signs=signs,
            points=(ram[PINK_POINTS], ram[BLUE_POINTS]),
            games=(ram[PINK_GAMES], ram[BLUE_GAMES]),
            score=(_called(signs[0]), _called(signs[1])),
        )
        return self.state

    def _choose(self, state: TennisState) -> int:
        """The action: run to where the ball is, or back to the middle; the button serves."""
        upper = state.pink_y < state.blue_y
        comes = state.ball_dy < 0 if upper else state.ball_dy > 0
        if not comes:
            self._comes_since = 0
        elif self._comes_since == 0:
            self._aim()
        self._comes_since += comes
        runs = self._comes_since > self.style.lazy
        goal = state.ball_x - BALL_X_OFFSET + self._offset if runs else CENTRE
        across = goal - (state.pink_x - PLAYER_X_OFFSET)
        row = PLAYER_TOP - state.pink_y
        forward = self.style.forward - (BASELINE - row if upper else row)
        along = forward if upper else -forward
        serve = not comes and state.frame // 4 % 2 == 0
        return stick(int(across / FOLLOWS_AT), int(along / FOLLOWS_AT), serve)

    def _aim(self) -> None:
        """Settles, once for each ball that comes, where to stand against it."""
        rng, style = self._rng, self.style
        if rng.random() < style.miss:
            self._offset = rng.choice((-1, 1)) * rng.randint(18, 40)
        elif rng.random() < style.edge:
            self._offset = rng.randint(0, 2)
        else:
            self._offset = rng.randint(-12, -2)


@cache
def _after_games(games: int) -> object:
    """The console's memory when so many games have been played and the next serve is due; half a second the first
    time. The player only serves and stands still, so it is the same memory in every process."""
    emulator = Emulator("tennis")
    if games == 0:
        for _ in range(UNSTEADY_FRAMES):
            emulator.step(NOOP)
        return emulator.save()
    emulator.restore(_after_games(games - 1))
    frame, done = 0, int(emulator.ram[PINK_GAMES]) + int(emulator.ram[BLUE_GAMES])
    while int(emulator.ram[PINK_GAMES]) + int(emulator.ram[BLUE_GAMES]) == done or emulator.ram[PAUSE] != NO_PAUSE:
        emulator.step(stick(-1, 0, frame // 4 % 2 == 0))
        frame += 1
        assert frame < 20_000
    return emulator.save()


def _called(sign: int) -> int:
    """The number that a sign of the board stands for; deuce and advantage are 40."""
    return sign if sign < DEUCE else POINTS[sign - NO_POINTS] if NO_POINTS <= sign < len(SIGNS) else 40


def _column(x: float) -> str:
    return column_word(x, COURT_LEFT, COURT_RIGHT)


def _row(y: float) -> str:
    return row_word(y, COURT_TOP, COURT_BOTTOM)


def describe(state: TennisState) -> str:
    """Such as " Ball left, low, flying up; pink centre, top; blue left, low; score 15 to 30.". Players are where
    their feet are, the ball is where it is drawn."""
    ball = "No ball"
    if state.there:
        way = "flying down" if state.ball_dy > 0 else "flying up" if state.ball_dy < 0 else "at rest"
        ball = f"Ball {_column(state.ball_x + BALL_SIZE / 2)}, {_row(state.ball_y)}, {way}"
    pink, blue = (
        f"{_column(x + PLAYER_WIDTH / 2)}, {_row(y + PLAYER_HEIGHT)}"
        for x, y in ((state.pink_x, state.pink_y), (state.blue_x, state.blue_y))
    )
    score = f"score {SCORE.format(*state.score)}"
    if DEUCE in state.signs:
        score = "deuce"
    elif ADVANTAGE in state.signs:
        score = f"ad {SIGNS[state.signs[1]].lower()}"  # as drawn: whose it is follows from who serves
    return f" {ball}; pink {pink}; blue {blue}; {score}."


def measure(state: TennisState) -> tuple[int, ...]:
    def across(x: int) -> int:
        return bin_of(x, 0, WIDTH, BINS)

    def down(y: int) -> int:
        return bin_of(y, 0, HEIGHT, BINS)

    ball_hidden = not state.there or state.ball_y in COVERED
    on_ground = state.shadow_y == state.ball_y  # the ball covers its shadow
    shadow_hidden = (
        state.ball_x <= 0
        or not SKY <= state.shadow_y < GROUND
        or state.shadow_y in BEHIND_NET
        or (on_ground and ball_hidden)
    )
    return (
        -1 if ball_hidden else across(state.ball_x),
        -1 if ball_hidden else down(state.ball_y),
        -1 if shadow_hidden else down(state.shadow_y),
        int(np.sign(state.ball_dy)) + 1 if state.there and not ball_hidden else -1,
        int(state.there),
        across(state.pink_x),
        down(state.pink_y),
        across(state.blue_x),
        down(state.blue_y),
        *(CLASSES.index(SIGNS[sign]) for sign in state.signs),
    )


TENNIS = Sport(
    name="tennis",
    make=TennisGame,
    sides=("pink", "blue"),
    phrases={
        "serve": ("{side} serves", "a serve by {side}"),
        "hit": ("{side} hits", "{side} returns it"),
        "point": ("{side} scores, {score}", "point for {side}, {score}"),
        "deuce": ("{side} levels, deuce", "deuce, {side} draws level"),
        "advantage": ("advantage {side}", "{side} has the advantage"),
        "game": ("game to {side}, {score}", "{side} takes the game, {score}"),
        "game_over": ("game over, {side} wins {score}", "the set goes to {side}, {score}"),
        "new_game": ("a new game, {score}", "new game, {score}"),
    },
    # The board is drawn at once; a stroke shows when the ball has come away from the racket.
    visible_after={
        "serve": 0.2,
        "hit": 0.2,
        "point": PICTURE,
        "deuce": PICTURE,
        "advantage": PICTURE,
        "game": PICTURE,
        "game_over": PICTURE,
        "new_game": PICTURE,
    },
    describe=describe,
    fields={
        "ball x": BINS,
        "ball y": BINS,
        "shadow y": BINS,
        "direction": 3,  # up, at rest, down
        "there": 2,
        "pink x": BINS,
        "pink y": BINS,
        "blue x": BINS,
        "blue y": BINS,
        "pink sign": len(CLASSES),
        "blue sign": len(CLASSES),
    },
    measure=measure,
    states=frozenset({"point", "game", "game_over"}),
)
