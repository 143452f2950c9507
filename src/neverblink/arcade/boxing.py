"""Endless Boxing from a seed, with exact truth: a scripted white boxer against the console's black one.

The truth is read from the console's memory; tests/arcade/test_boxing.py checks the addresses against the picture.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from neverblink.arcade.commentary import SCORE, bin_of, column_word, row_word
from neverblink.arcade.emulator import FRAMES_PER_SECOND, HEIGHT, NOOP, PICTURE, WIDTH, Emulator, stick
from neverblink.arcade.events import Claim, GameEvent, Kind, Score, Side
from neverblink.arcade.players import draw_skill, is_stranger
from neverblink.arcade.sport import BINS, Sport
from neverblink.errors import ConfigError

# Addresses in the 128 bytes of memory. Minutes are the high four bits; seconds and scores are written in decimal,
# four bits a digit.
MINUTES, SECONDS, WHITE_SCORE, BLACK_SCORE, FRAMES, WHITE_X, BLACK_X, WHITE_Y, BLACK_Y = (
    16,
    17,
    18,
    19,
    20,
    32,
    33,
    34,
    35,
)
MID_SECOND = 30  # of the frames that the console counts in a second
# What to add to the byte to get the pixel column or row of the body's top left corner: to 1 and 2 pixels, for a
# boxer who is hit bends.
WHITE_X_OFFSET, BLACK_X_OFFSET, Y_OFFSET = 5, 3, 38
COLON = 0x0B  # the low four bits of the minutes' byte: the sign that is drawn behind them
KNOCKOUT = 0xC0  # how the console writes 100: it draws KO

BODY_WIDTH, BODY_HEIGHT = 14, 47  # pixels, arms not stretched out
RING_LEFT, RING_RIGHT, RING_TOP, RING_BOTTOM = 32, 128, 36, 177  # pixels inside the ropes

WINNING_SCORE = 100
GAME_SECONDS = 119  # 2:00 stands for one frame only
HOLD_FRAMES = 150  # a finished game stays on the screen for 2.5 s
UNSTEADY_FRAMES = 3  # after a reset the console still has to draw the clock
MOST_EVENTS = 10_000  # hours
NEVER = 10**6  # frames


class BoxingState(NamedTuple):
    """One emulator frame as it is drawn. Pixels of the 210 x 160 picture, (0, 0) at the top left."""

    frame: int
    time: float  # media seconds
    white_x: int  # left column of the body
    white_y: int  # top row of the body
    black_x: int
    black_y: int
    clock: int  # seconds left
    white_landed: int  # frames since the score was drawn that white's last blow made; NEVER at the start
    black_landed: int
    score: Score


@dataclass(frozen=True, slots=True)
class Style:
    """How the white boxer fights one game."""

    attack: float  # probability that a spell is spent attacking
    aim: float  # pixels of error in the place to strike from
    pace: float  # probability of a blow when one is possible, each time he thinks
    reaction: int  # frames between thoughts
    spell: float  # seconds until he thinks of something else, on average

    @classmethod
    def draw(cls, rng: random.Random, *, stranger: bool = False) -> Style:
        def skill(low: float, high: float) -> float:
            return draw_skill(rng, low, high, stranger=stranger)

        return cls(skill(0.5, 1), skill(0, 4), skill(0.5, 1), round(skill(3, 9)), skill(0.6, 2.5))


class BoxingGame:
    """Boxing without end: at 0:00 or a knockout the picture holds 2.5 s, then a new game starts."""

    def __init__(
        self,
        seed: int,
        *,
        start_score: Score | Literal["random"] | None = None,
        clock: int | None = None,
        style: Style | None = None,
    ):
        """`start_score` None starts a new game at 0 to 0 (and says so); a score starts in mid-game, silently; "random"
        draws it. `clock` is the seconds left at such a start, drawn if None."""
        self._rng = random.Random(f"boxing {seed}")  # a string is hashed the same way in every process
        self._stranger = is_stranger(seed)
        self._emulator = Emulator("boxing", self._rng.randrange(2**31))
        self._fixed_style = style
        self._frame = -1
        # Hours of events may wait to be taken, but not months: a stream without end must not grow.
        self._events: deque[GameEvent] = deque(maxlen=MOST_EVENTS)
        self._start_game()
        if start_score is None:
            self._tell("new_game", "", (0, 0))
            return
        if start_score == "random":
            start_score, drawn_clock = self._random_start()
        else:
            drawn_clock = self._rng.randint(20, GAME_SECONDS)
        clock = drawn_clock if clock is None else clock
        if not all(0 <= points < WINNING_SCORE for points in start_score):
            raise ConfigError(f"start score {start_score}: each side needs 0 to {WINNING_SCORE - 1}")
        if not 1 <= clock <= GAME_SECONDS:
            raise ConfigError(f"clock {clock}: needs 1 to {GAME_SECONDS} seconds left")
        self._start_inside(start_score, clock)

    def _random_start(self) -> tuple[Score, int]:
        """A score and the seconds left. Ends are rare: a quarter of the starts are close to one."""
        rng = self._rng
        how = rng.choice(("any", "any", "any", "any", "any", "any", "late", "knockout"))
        if how == "late":
            points = rng.randrange(WINNING_SCORE - 2)
            other = points + rng.randint(0, 2)
            clock = rng.randint(2, 15)
        else:
            points = rng.randrange(WINNING_SCORE - 7, WINNING_SCORE) if how == "knockout" else rng.randrange(70)
            other = min(max(points + rng.randint(-25, 25), 0), WINNING_SCORE - 1)
            clock = rng.randint(2, GAME_SECONDS)
        return ((points, other) if rng.random() < 0.5 else (other, points)), clock

    def _start_inside(self, score: Score, clock: int) -> None:
        for _ in range(self._rng.randrange(FRAMES_PER_SECOND, 8 * FRAMES_PER_SECOND)):
            next(self)
        minutes, seconds = divmod(clock, 60)
        for address, value in (
            (MINUTES, minutes << 4 | COLON),
            (SECONDS, _to_decimal(seconds)),
            (WHITE_SCORE, _to_decimal(score[0])),
            (BLACK_SCORE, _to_decimal(score[1])),
        ):
            self._emulator.poke(address, value)
        self._emulator.step(NOOP)
        self._events.clear()
        self._frame = -1
        self._landed = [NEVER, NEVER]
        self._look(score, clock)

    def _start_game(self) -> None:
        self._emulator.reset()
        for _ in range(UNSTEADY_FRAMES):
            self._emulator.step(NOOP)
        self.style = self._fixed_style or Style.draw(self._rng, stranger=self._stranger)
        self._held = 0
        self._spell = self._wait = 0  # frames
        self._action = NOOP
        self._landed = [NEVER, NEVER]
        self._look((0, 0), GAME_SECONDS)

    @property
    def pixels(self) -> np.ndarray:
        """[210, 160, 3] uint8 RGB of the frame reached; drawn only when asked for."""
        return self._emulator.pixels

    def take_events(self) -> list[GameEvent]:
        """What happened since the last call, oldest first."""
        events = list(self._events)
        self._events.clear()
        return events

    def __iter__(self) -> Iterator[BoxingState]:
        return self

    def __next__(self) -> BoxingState:
        before = self.state
        if self._emulator.over:
            return self._hold()
        score, clock = self._step(self._choose(before))
        for n in range(2):
            self._landed[n] = 0 if score[n] != before.score[n] else min(self._landed[n] + 1, NEVER)
        after = self._look(score, clock)
        # Both may have landed in one frame: the first blow's score is then the one before the second.
        if score[0] != before.score[0]:
            self._tell("punch", "white", (score[0], before.score[1]))
        if score[1] != before.score[1]:
            self._tell("punch", "black", score)
        if clock == 60 != before.clock:
            self._tell("minute")
        if clock == 0 or max(score) == WINNING_SCORE:
            if score[0] == score[1]:
                self._tell("draw", "", score)
            else:
                self._tell("game_over", "white" if score[0] > score[1] else "black", score)
        return after

    def _hold(self) -> BoxingState:
        self._held += 1
        if self._held <= HOLD_FRAMES:
            self._landed = [min(frames + 1, NEVER) for frames in self._landed]
            return self._look(self.state.score, self.state.clock)
        self._start_game()
        self._tell("new_game", "", self.state.score)
        return self.state

    def _step(self, action: int) -> tuple[Score, int]:
        """One frame; gives the score and the clock that it draws. The console counts blows before it draws and seconds
        after it, so the clock is the one in memory before the frame; and 0:00, at which the emulator stops for good,
        would never show: that frame is played again with 0:00 in memory."""
        emulator = self._emulator
        minutes, seconds = emulator.ram[MINUTES : SECONDS + 1].tolist()
        snapshot = emulator.save() if minutes >> 4 == 0 and seconds == 1 else None
        emulator.step(action)
        if snapshot is not None and emulator.over and not emulator.ram[SECONDS]:
            seconds = 0
            emulator.restore(snapshot)
            emulator.poke(SECONDS, seconds)
            emulator.poke(FRAMES, MID_SECOND)  # or this frame, too, would count a second
            emulator.step(action)
        white, black = emulator.ram[WHITE_SCORE : BLACK_SCORE + 1].tolist()
        return (_points(white), _points(black)), (minutes >> 4) * 60 + _from_decimal(seconds)

    def _look(self, score: Score, clock: int) -> BoxingState:
        self._frame += 1
        ram = self._emulator.ram
        white_x, black_x, white_y, black_y = ram[WHITE_X : BLACK_Y + 1].tolist()
        self.state = BoxingState(
            frame=self._frame,
            time=self._frame / FRAMES_PER_SECOND,
            white_x=white_x + WHITE_X_OFFSET,
            white_y=white_y + Y_OFFSET,
            black_x=black_x + BLACK_X_OFFSET,
            black_y=black_y + Y_OFFSET,
            clock=clock,
            white_landed=self._landed[0],
            black_landed=self._landed[1],
            score=score,
        )
        return self.state

    def _tell(self, kind: Kind, side: Side = "", score: Score | None = None) -> None:
        self._events.append(GameEvent(self.state.time, Claim(kind, side, score)))

    def _choose(self, state: BoxingState) -> int:
        """The action; he thinks again only every few frames."""
        self._spell -= 1
        self._wait -= 1
        if self._spell < 0:
            self._plan()
        if self._wait < 0:
            self._wait = self.style.reaction
            self._action = self._think(state)
        return self._action

    def _plan(self) -> None:
        """What to do for a while, and where from."""
        rng, style = self._rng, self.style
        self._spell = int(rng.uniform(0.3, 1.7) * style.spell * FRAMES_PER_SECOND)
        self._attacks = rng.random() < style.attack
        self._way = (rng.randint(-1, 1), rng.randint(-1, 1))
        # An arm strikes the nose from about half a body above or below it.
        self._from_x = -rng.uniform(14, 20) + rng.gauss(0, style.aim)
        self._from_y = rng.choice((-1, 1)) * rng.uniform(10, 17) + rng.gauss(0, style.aim)

    def _think(self, state: BoxingState) -> int:
        if not self._attacks:
            return stick(*self._way)
        right = state.black_x + self._from_x - state.white_x
        down = state.black_y + self._from_y - state.white_y
        near = abs(right) < 10 and abs(down) < 10
        fire = near and self._rng.random() < self.style.pace
        return stick(int(right / 3), int(down / 3), fire)


def _to_decimal(number: int) -> int:
    """0 to 99 in the console's writing."""
    return number // 10 << 4 | number % 10


def _from_decimal(byte: int) -> int:
    return (byte >> 4) * 10 + (byte & 15)


def _points(byte: int) -> int:
    return WINNING_SCORE if byte == KNOCKOUT else _from_decimal(byte)


def _middles(state: BoxingState) -> tuple[tuple[float, float], tuple[float, float]]:
    """(x, y) of both bodies' middles."""
    half = BODY_WIDTH / 2, BODY_HEIGHT / 2
    return (state.white_x + half[0], state.white_y + half[1]), (state.black_x + half[0], state.black_y + half[1])


def describe(state: BoxingState) -> str:
    """Such as " White left, high; black centre, low; score 3 to 15; clock 1:07."."""
    white, black = (
        f"{column_word(x, RING_LEFT, RING_RIGHT)}, {row_word(y, RING_TOP, RING_BOTTOM)}" for x, y in _middles(state)
    )
    minutes, seconds = divmod(state.clock, 60)
    return f" White {white}; black {black}; score {SCORE.format(*state.score)}; clock {minutes}:{seconds:02d}."


FRESH = int(PICTURE * FRAMES_PER_SECOND)  # the last picture is this many frames old, or one more


def _landed(frames: int) -> int:
    """Whether a score is new since the last picture: 0, 1, or -1 when that hangs on how the pictures fall."""
    return 1 if frames < FRESH else -1 if frames == FRESH else 0


def measure(state: BoxingState) -> tuple[int, ...]:
    places = (n for x, y in _middles(state) for n in (bin_of(x, 0, WIDTH, BINS), bin_of(y, 0, HEIGHT, BINS)))
    landed = (_landed(state.white_landed), _landed(state.black_landed))
    digits = (digit for points in state.score for digit in divmod(points, 10))
    return (*places, *landed, *digits, state.clock // 60, state.clock % 60 // 10, state.clock % 10)


BOXING = Sport(
    name="boxing",
    make=BoxingGame,
    sides=("white", "black"),
    phrases={
        "punch": ("{side} lands, {score}", "a blow by {side}, {score}"),
        "minute": ("one minute left", "a minute to go"),
        "game_over": ("game over, {side} wins {score}", "the fight is over, {side} wins {score}"),
        "draw": ("game over, a draw, {score}", "the fight is a draw, {score}"),
        "new_game": ("a new game, {score}", "new game, {score}"),
    },
    # Events are told at the frame that draws them, so the next picture shows them.
    visible_after=dict.fromkeys(("punch", "minute", "game_over", "draw", "new_game"), PICTURE),
    describe=describe,
    fields={
        "white x": BINS,
        "white y": BINS,
        "black x": BINS,
        "black y": BINS,
        "white landed": 2,
        "black landed": 2,
        "white tens": 11,  # the tenth is the K of KO
        "white units": 10,
        "black tens": 11,
        "black units": 10,
        "minutes": 2,
        "tens of seconds": 6,
        "seconds": 10,
    },
    measure=measure,
    merge=frozenset({"punch"}),
    states=frozenset({"punch", "game_over", "draw"}),
)
