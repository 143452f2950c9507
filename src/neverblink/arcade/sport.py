"""What a game has to tell so that streams, words, training and benchmarks work for it: one `Sport` a game."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from neverblink.arcade.events import GameEvent, Kind, Score, Side
from neverblink.registry import Registry

BINS = 20  # of the picture's width or height, for places in `fields`


class GameState(Protocol):
    """The truth of one emulator frame; a game adds what it knows."""

    @property
    def frame(self) -> int: ...  # from 0

    @property
    def time(self) -> float: ...  # media seconds: frame / 60

    @property
    def score(self) -> Score: ...


class Game(Protocol):
    """A game without end. Iterating advances one emulator frame (1/60 s) and gives the state reached."""

    state: Any  # a GameState

    @property
    def pixels(self) -> np.ndarray: ...  # [210, 160, 3] uint8 RGB of the frame reached; drawn only when asked for

    def take_events(self) -> list[GameEvent]: ...  # since the last call, oldest first

    def __iter__(self) -> Iterator[Any]: ...

    def __next__(self) -> Any: ...


class MakeGame(Protocol):
    def __call__(self, seed: int, *, start_score: Score | Literal["random"] | None = None) -> Game:
        """`start_score` None: a new game from 0 to 0, which says so; "random": somewhere inside a game, silently."""


@dataclass(frozen=True, slots=True)
class Second:
    """One second of a sport: its pictures and both things to say of it."""

    start: float  # media seconds
    frames: np.ndarray  # [n, height, width, 3] uint8 RGB, taken at start + k / fps
    events: tuple[GameEvent, ...]  # those that its pictures show: up to 0.2 s before `start` is possible
    text: str  # the commentary: "" is silence, else starts with a space
    state: Any  # at the last picture
    state_text: str  # the dense line, never silent: what the last picture shows
    cut: bool = False  # its pictures go on from other ones than those before it, and no word says so


@dataclass(frozen=True, slots=True)
class Sport:
    """A game, its events and its words.

    Args:
        name: as in `arcade:NAME`.
        make: a game from a seed.
        sides: both players, in the order of the score.
        phrases: kind of event -> ways to say it, with {side} and {score}; the first is the usual one. No phrase of
            one kind may match inside a phrase of another unless it is shorter.
        visible_after: kind -> seconds from the event until 8 pictures a second show it.
        merge: kinds of which one second tells the last of each side only (blows that come in flurries).
        describe: state -> the dense line, never silent: what the picture shows, " ...".
        fields: what a linear head is to read from one pair of pictures -> number of classes.
        measure: state -> one class for each field; -1 where the picture does not tell.
        states: kinds whose statement of the score is judged.
        holds: kinds after which their side has the ball, until another of them is told.
        slips: kinds of which one side is easily taken for the other.
        changes: those of them that tell that another side has the ball now: who misses one says so a little later.
        remarks: kinds that tell how things are, not what happened: only a score that they tell is asked for.
        shows_score: pictures show the score large enough to be read.
        counted: kinds that may be asked for by number -> their names in the plural; None counts every kind with a side.
    """

    name: str
    make: MakeGame
    sides: tuple[Side, Side]
    phrases: Mapping[Kind, tuple[str, ...]]
    visible_after: Mapping[Kind, float]
    describe: Callable[[Any], str]
    fields: Mapping[str, int]
    measure: Callable[[Any], tuple[int, ...]]
    merge: frozenset[Kind] = frozenset()
    states: frozenset[Kind] = frozenset({"point", "game_over"})
    holds: frozenset[Kind] = frozenset()
    slips: frozenset[Kind] = frozenset()
    changes: frozenset[Kind] = frozenset()
    remarks: frozenset[Kind] = frozenset()
    shows_score: bool = True
    counted: Mapping[Kind, str] | None = None

    @property
    def title(self) -> str:
        """For people: "Ice Hockey"."""
        return self.name.replace("_", " ").title()

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return tuple(self.phrases)

    def visible_at(self, event: GameEvent) -> float:
        """Media second from which pictures show an event."""
        return event.time + self.visible_after[event.kind] + 1e-9

    def second_of(self, event: GameEvent) -> int:
        """The second in which an event is to be spoken of: the one whose pictures show it."""
        return int(self.visible_at(event))


# Name -> Sport, loaded when asked for.
sports = Registry(
    "arcade game",
    {
        "boxing": "neverblink.arcade.boxing:BOXING",
        "double_dunk": "neverblink.arcade.double_dunk:DOUBLE_DUNK",
        "ice_hockey": "neverblink.arcade.ice_hockey:ICE_HOCKEY",
        "pong": "neverblink.arcade.pong:PONG",
        "tennis": "neverblink.arcade.tennis:TENNIS",
    },
)
