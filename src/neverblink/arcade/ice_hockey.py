"""Endless Ice Hockey from a seed, with exact truth: a scripted blue team against the console's own yellow one.

Blue attacks downwards. The truth is read from the console's memory; tests/arcade/test_ice_hockey.py checks the
addresses against the picture.
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

SIDES: tuple[Side, Side] = ("blue", "yellow")

# Addresses in the 128 bytes of memory. Clock and scores are binary coded decimals.
SECONDS, MINUTES, BLUE_SCORE, YELLOW_SCORE, GOAL, PUCK_X, PUCK_Y, HOLDER, SPEED_Y, CONTROLLED = (
    6, 7, 10, 11, 48, 52, 91, 90, 96, 108,
)  # fmt: skip
SKATER_Y, SKATER_X = slice(53, 57), slice(57, 61)  # blue's upper, yellow's upper, blue's lower, yellow's lower skater
NOBODY = 255
# What to take from the byte, or what to take the byte from, to get the pixel column or row of the top left corner.
PUCK_X_OFFSET, PUCK_Y_OFFSET, SKATER_X_OFFSET, SKATER_Y_OFFSET = 10, 188, 13, 168

RINK = (32, 42, 128, 187)  # pixels: left, top, right, bottom
CENTRE_ROW, GOAL_X, GOAL_WIDTH = 114, 80, 32  # pixels
PUCK_SIZE, SKATER_WIDTH, SKATER_HEIGHT = 2, 16, 20  # pixels
BLUE_FORWARD, YELLOW_FORWARD = 2, 1  # the skater nearer to the other side's goal

GAME_SECONDS = 180
MOST_POINTS = 99  # what the two digits can show
# The emulator ends a game by itself, before the picture shows 0:00, unless this bit, which is not drawn, is set.
ENDLESS = 0x80
HOLD_FRAMES = 150  # a finished game stays on the screen for 2.5 s
MOST_EVENTS = 10_000  # about three hours
UNSTEADY_FRAMES = 3  # after a reset the console shows its idle colours for a moment
# A puck is taken once a side has held it so long, a shot is one once it has flown so long: less is not to be seen.
TAKE_FRAMES = SHOT_FRAMES = 8
REBOUND = 8  # pixels from the rink's end within which a puck that turns back has met the end
WAYS = tuple((dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1))  # of the stick


class IceHockeyState(NamedTuple):
    """One emulator frame. Pixels of the 210 x 160 picture, (0, 0) at the top left."""

    frame: int
    time: float  # media seconds
    puck_x: int  # left column of the puck
    puck_y: int  # top row of the puck
    puck_way: int  # -1 flies up, 1 flies down, 0 is slow or on a stick
    holder: int  # skater that has the puck, NOBODY if it is loose
    skaters: tuple[
        tuple[int, int], ...
    ]  # left column and top row: blue's and yellow's upper, blue's and yellow's lower
    controlled: int  # the skater that the blue player moves
    goal: bool  # a goal has just been scored: all stand still and the puck is in the net
    clock: int  # seconds that the picture shows
    score: Score


@dataclass(frozen=True, slots=True)
class Style:
    """How the blue player plays one game."""

    reaction: int  # frames between two decisions
    stray: float  # probability that a decision is a random one
    shoot_row: int  # pixel row from which shots are tried
    trigger: float  # probability of a shot at each decision from there
    patience: float  # probability of not shooting, at each decision, while the puck is not in front of the goal
    check: float  # probability of a body check at each decision near the holder
    weave: int  # pixels by which the way to the goal may bend to either side

    @classmethod
    def draw(cls, rng: random.Random, *, stranger: bool) -> Style:
        def skill(low: float, high: float) -> float:
            return draw_skill(rng, low, high, stranger=stranger)

        return cls(
            reaction=int(skill(2, 17)),
            stray=skill(0.0, 0.25),
            shoot_row=int(skill(105, 145)),
            trigger=skill(0.1, 0.8),
            patience=skill(0.6, 1.0),
            check=skill(0.1, 0.9),
            weave=int(skill(0, 28)),
        )


class IceHockeyGame:
    """Ice Hockey without end: at 0:00 the picture holds 2.5 s, then a new game starts."""

    state: IceHockeyState

    def __init__(self, seed: int, *, start_score: Score | Literal["random"] | None = None, style: Style | None = None):
        """`start_score` None starts a new game at 0 to 0 (and says so); a score starts in mid-game, silently, at a
        random time; "random" draws the score too."""
        self._rng = random.Random(f"ice hockey {seed}")  # a string is hashed the same way in every process
        self._emulator = Emulator("ice_hockey", self._rng.randrange(2**31))
        self._fixed_style, self._stranger = style, is_stranger(seed)
        self._frame = -1
        # Hours of events may wait to be taken, but not months: a stream without end must not grow.
        self._events: deque[GameEvent] = deque(maxlen=MOST_EVENTS)
        if start_score is None:
            self._start_game((0, 0), GAME_SECONDS)
            self._tell("new_game", "", (0, 0))
        else:
            self._start_inside(start_score)

    def _start_inside(self, start_score: Score | Literal["random"]) -> None:
        rng = self._rng
        # Ends of games are rare: a quarter of the streams start close to one.
        clock = rng.randint(8, 20) if rng.random() < 0.25 else rng.randint(8, GAME_SECONDS)
        warm_up = 0  # frames; a point may fall in them, so a random score is where the warm-up starts
        if start_score == "random":
            warm_up = rng.randrange(6 * FRAMES_PER_SECOND)
            most = rng.choice((6, 12, 24))
            start_score = (rng.randint(0, most), rng.randint(0, most))
        if not all(0 <= points <= MOST_POINTS for points in start_score):
            raise ConfigError(f"start score {start_score}: each side needs 0 to {MOST_POINTS}")
        self._start_game(start_score, clock)
        for _ in range(warm_up):
            next(self)
        self._events.clear()
        self._frame = 0
        self.state = self.state._replace(frame=0, time=0.0)

    def _start_game(self, score: Score, clock: int) -> None:
        emulator = self._emulator
        emulator.reset()
        for address, number in ((BLUE_SCORE, score[0]), (YELLOW_SCORE, score[1]), (SECONDS, clock % 60)):
            emulator.poke(address, number // 10 * 16 + number % 10)
        emulator.poke(MINUTES, clock // 60 | ENDLESS)
        for _ in range(UNSTEADY_FRAMES):
            emulator.step(NOOP)
        self.style = self._fixed_style or Style.draw(self._rng, stranger=self._stranger)
        self._ended = 0  # frames since the game was over
        self._touched = 0  # frames for which one side, or none, has had the puck
        self._shot_by: Side = ""  # who shot the puck that has flown for some frames, as long as it may count as a shot
        self._shot_way = self._flown = 0
        self._wait = 0  # frames until the next decision
        self._way, self._fires, self._bend = (0, 0), False, 0
        self._clock = clock
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

    def __iter__(self) -> IceHockeyGame:
        return self

    def __next__(self) -> IceHockeyState:
        before = self.state
        if self._ended:
            return self._hold()
        self._emulator.step(self._action(before))
        self.state = after = self._look()
        self._follow_puck(before, after)
        self._follow_shot(before, after)
        if after.score != before.score:
            self._tell("point", scorer(before, after), after.score)
        if before.goal and not after.goal:
            self._tell("faceoff")
        if before.clock > 60 >= after.clock:
            self._tell("last_minute")
        if self._clock == 0:
            self._ended = 1
            self._tell("game_over", "", after.score)
        return after

    def _follow_puck(self, before: IceHockeyState, after: IceHockeyState) -> None:
        has = side_of(after.holder)
        if has != side_of(before.holder):
            self._touched = 0
        self._touched += 1
        if has and self._touched == TAKE_FRAMES:
            self._tell("take", has)

    def _follow_shot(self, before: IceHockeyState, after: IceHockeyState) -> None:
        """A puck that is shot flies to the other goal's end; one that is knocked off a stick is slow or flies back."""
        had, way = side_of(before.holder), after.puck_way
        if had and after.holder == NOBODY and way == (1 if had == "blue" else -1):
            in_attack = (after.puck_y > CENTRE_ROW) == (way > 0)
            self._shot_by, self._shot_way, self._flown = (had if in_attack else ""), way, 0
        if not self._shot_by:
            return
        self._flown += 1
        at_end = not RINK[1] + REBOUND < after.puck_y < RINK[3] - REBOUND - PUCK_SIZE
        if after.score != before.score:
            seen, gone = scorer(before, after) == self._shot_by, True
        else:
            seen = self._flown == SHOT_FRAMES
            gone = after.holder != NOBODY or (way == -self._shot_way and not at_end)
            seen = seen and not gone
        if seen:
            self._tell("shot", self._shot_by)
        if seen or gone:
            self._shot_by = ""

    def _hold(self) -> IceHockeyState:
        self._ended += 1
        if self._ended > HOLD_FRAMES:
            self._start_game((0, 0), GAME_SECONDS)
            self._tell("new_game", "", (0, 0))
            return self.state
        score = self.state.score
        if self._ended == 2:
            self._emulator.step(NOOP)  # what is in memory is drawn one frame later
            self.state = self._look()._replace(score=score)
        else:
            self._frame += 1
            self.state = self.state._replace(frame=self._frame, time=self._frame / FRAMES_PER_SECOND)
        return self.state

    def _tell(self, kind: Kind, side: Side = "", score: Score | None = None) -> None:
        self._events.append(GameEvent(self.state.time, Claim(kind, side, score)))

    def _look(self) -> IceHockeyState:
        self._frame += 1
        ram = self._emulator.ram.tobytes()  # bytes index faster than an array, 60 times a second
        shown = self._clock
        self._clock = (ram[MINUTES] & 15) * 60 + _number(ram[SECONDS])
        return IceHockeyState(
            frame=self._frame,
            time=self._frame / FRAMES_PER_SECOND,
            puck_x=ram[PUCK_X] - PUCK_X_OFFSET,
            puck_y=PUCK_Y_OFFSET - ram[PUCK_Y],
            puck_way=_way(ram[SPEED_Y]),
            holder=ram[HOLDER],
            skaters=tuple(
                (x - SKATER_X_OFFSET, SKATER_Y_OFFSET - y) for x, y in zip(ram[SKATER_X], ram[SKATER_Y], strict=True)
            ),
            controlled=ram[CONTROLLED],
            goal=ram[GOAL] != 0,
            clock=shown,
            score=(_number(ram[BLUE_SCORE]), _number(ram[YELLOW_SCORE])),
        )

    def _action(self, state: IceHockeyState) -> int:
        if self._wait:
            self._wait -= 1
        else:
            self._decide(state)
        return stick(*self._way, self._fires)

    def _decide(self, state: IceHockeyState) -> None:
        """Settles the stick and the button for some frames."""
        rng, style = self._rng, self.style
        self._wait = style.reaction
        self._fires = False
        if rng.random() < style.stray:
            self._way = rng.choice(WAYS)
            self._bend = rng.randint(-style.weave, style.weave)
            return
        x, y = state.skaters[state.controlled]
        stick_x, stick_y = x + SKATER_WIDTH // 2, y + SKATER_HEIGHT - PUCK_SIZE
        if side_of(state.holder) == "blue":
            x_wanted, y_wanted = GOAL_X + self._bend, RINK[3]
            in_front = abs(state.puck_x + PUCK_SIZE // 2 - GOAL_X) < GOAL_WIDTH // 2
            ready = state.puck_y >= style.shoot_row and (in_front or rng.random() >= style.patience)
            self._fires = ready and rng.random() < style.trigger
        else:
            x_wanted, y_wanted = state.puck_x, state.puck_y
            near = abs(x_wanted - stick_x) < 14 and abs(y_wanted - stick_y) < 14
            self._fires = side_of(state.holder) == "yellow" and near and rng.random() < style.check
        self._way = (_sign(x_wanted - stick_x, 2), _sign(y_wanted - stick_y, 1))


def side_of(holder: int) -> Side:
    return "" if holder == NOBODY else SIDES[holder % 2]


def scorer(before: IceHockeyState, after: IceHockeyState) -> Side:
    return SIDES[after.score[1] != before.score[1]]


def _way(speed: int) -> int:
    """From the whole pixels a frame upwards, rounded down, as a signed byte."""
    return 0 if speed in (0, 255) else -1 if speed < 128 else 1


def _number(coded: int) -> int:
    """A binary coded decimal."""
    return (coded >> 4) * 10 + (coded & 15)


def _sign(way: int, slack: int) -> int:
    return 0 if abs(way) <= slack else 1 if way > 0 else -1


def describe(state: IceHockeyState) -> str:
    """Such as " Puck left, high, with yellow; blue left, low; yellow centre, high; clock 2:42; score 0 to 2."; blue and
    yellow are the skaters nearer to the other side's goal."""
    left, top, right, bottom = RINK

    def place(x: float, y: float) -> str:
        return f"{column_word(x, left, right)}, {row_word(y, top, bottom)}"

    puck = "No puck"
    if not state.goal:
        puck = f"Puck {place(state.puck_x + PUCK_SIZE / 2, state.puck_y + PUCK_SIZE / 2)}"
        if side := side_of(state.holder):
            puck += f", with {side}"
    blue, yellow = (place(*_middle(state.skaters[skater])) for skater in (BLUE_FORWARD, YELLOW_FORWARD))
    clock = f"{state.clock // 60}:{state.clock % 60:02}"
    return f" {puck}; blue {blue}; yellow {yellow}; clock {clock}; score {SCORE.format(*state.score)}."


def measure(state: IceHockeyState) -> tuple[int, ...]:
    puck = (-1, -1, -1)
    if not state.goal:
        holder = ("", *SIDES).index(side_of(state.holder))
        puck = (bin_of(state.puck_x, 0, WIDTH, BINS), bin_of(state.puck_y, 0, HEIGHT, BINS), holder)
    forwards = (_middle(state.skaters[skater]) for skater in (BLUE_FORWARD, YELLOW_FORWARD))
    places = (bin_of(at, 0, size, BINS) for place in forwards for at, size in zip(place, (WIDTH, HEIGHT), strict=True))
    points = (digit for points in state.score for digit in (points // 10, points % 10))
    clock = (state.clock // 60, state.clock % 60 // 10, state.clock % 10)
    return (*puck, int(state.goal), *places, *points, *clock)


def _middle(corner: tuple[int, int]) -> tuple[float, float]:
    return corner[0] + SKATER_WIDTH / 2, corner[1] + SKATER_HEIGHT / 2


ICE_HOCKEY = Sport(
    name="ice_hockey",
    make=IceHockeyGame,
    sides=SIDES,
    holds=frozenset({"take"}),
    phrases={
        "take": ("{side} takes the puck", "{side} has it"),
        "shot": ("{side} shoots", "a shot by {side}"),
        "point": ("{side} scores, {score}", "goal for {side}, {score}"),
        "faceoff": ("face-off", "they line up again"),
        "last_minute": ("one minute to play", "the last minute"),
        "game_over": ("time is up, {score}", "the game ends, {score}"),
        "new_game": ("a new game, {score}", "new game, {score}"),
    },
    # What is in memory is drawn one frame later.
    visible_after={
        "take": PICTURE,
        "shot": PICTURE,
        "point": PICTURE + 1 / FRAMES_PER_SECOND,
        "faceoff": PICTURE,
        "last_minute": PICTURE,
        "game_over": PICTURE + 1 / FRAMES_PER_SECOND,
        "new_game": PICTURE,
    },
    describe=describe,
    fields={
        "puck x": BINS,
        "puck y": BINS,
        "holder": 3,
        "goal": 2,
        "blue x": BINS,
        "blue y": BINS,
        "yellow x": BINS,
        "yellow y": BINS,
        "blue tens": 10,
        "blue units": 10,
        "yellow tens": 10,
        "yellow units": 10,
        "minutes": 4,
        "tens of seconds": 6,
        "seconds": 10,
    },
    measure=measure,
    merge=frozenset({"take", "shot"}),
)
