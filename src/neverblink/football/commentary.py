"""The words of football: its events both ways through one phrase table, and the dense line for a state."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import Any, NoReturn

from neverblink.arcade.commentary import bin_of
from neverblink.arcade.events import GameEvent, Kind
from neverblink.arcade.sport import BINS, Sport
from neverblink.errors import ConfigError
from neverblink.football.truth import CLOCK_MINUTES, RESTARTS, SIDES, MatchState

# At 2 pictures a second the next one is at most 0.4 s away: steps are 0.1 s apart.
_PICTURE = 0.4

PHRASES: dict[Kind, tuple[str, ...]] = {
    "new_match": ("a new match, {score}", "new match, {score}"),
    "kick_off": ("{side} kick off", "kick-off for {side}"),
    "turnover": ("{side} win the ball", "{side} take over"),
    "attack": ("{side} attack", "{side} come forward"),
    "shot": ("{side} shoot", "a shot by {side}"),
    "save": ("saved by the {side} keeper", "the {side} keeper saves"),
    "goal": ("goal for {side}, {score}", "{side} score, {score}"),
    "second_goal": ("second goal in five minutes",),
    "third_goal": ("third goal in five minutes",),
    "fourth_goal": ("fourth goal in five minutes",),
    "corner": ("corner for {side}", "{side} have a corner"),
    "throw_in": ("throw-in for {side}", "{side} have a throw-in"),
    "goal_kick": ("goal kick for {side}", "{side} have a goal kick"),
    "free_kick": ("free kick for {side}", "{side} have a free kick"),
    "penalty": ("penalty for {side}", "{side} have a penalty"),
    "booking": ("a card for {side}", "{side} are booked"),
    "sending_off": ("{side} have a man sent off",),
    "spell": ("{side} have had most of the ball", "mostly {side} in the last minute"),
    "hold": ("{side} have it", "{side} have the ball"),
    "tally": ("still {score}",),
}
TICK = "'"  # behind the minute
STAMPED: frozenset[Kind] = frozenset({"goal", "new_match"})  # kinds whose line begins with the minute
# Kinds that can be asked for by number -> their names in questions.
COUNTED: dict[Kind, str] = {
    "goal": "goals",
    "corner": "corners",
    "free_kick": "free kicks",
    "goal_kick": "goal kicks",
    "throw_in": "throw-ins",
    "penalty": "penalties",
    "shot": "shots",
    "save": "saves",
}

THIRDS = ("left third", "middle third", "right third")
FLANKS = ("top", "centre", "bottom")
_HALF_LENGTH, _HALF_WIDTH = 1.0, 0.42
_STILL = 0.05  # half a pitch's length a second
_OPENING = 60  # steps: a kick-off so early is that of a new match
_MODES = ("", "kick_off", *RESTARTS.values(), "opening")
_REACH = (0.01, 0.02, 0.03, 0.045, 0.07, 0.1, 0.15)  # bounds of classes: most is told by whose player is nearest


def describe_state(state: MatchState) -> str:
    """The dense line: " Ball in the left third, top; blue have it, moving right; minute 45."

    No score: of most goals the picture's score bar takes no notice.
    """
    third = THIRDS[bin_of(state.x, -_HALF_LENGTH, _HALF_LENGTH, len(THIRDS))]
    flank = FLANKS[bin_of(state.y, -_HALF_WIDTH, _HALF_WIDTH, len(FLANKS))]
    way = ("still", "moving left", "moving right")[_way(state)]
    return f" Ball in the {third}, {flank}; {SIDES[state.side]} have it, {way}; minute {state.minute}."


def stamp(text: str, now: Iterable[GameEvent], minute: int) -> str:
    """A line as a ticker prints it: " 43' Goal for blue, 0 to 2." where it tells a goal or a beginning.

    A kick-off looks the same at both: the clock in the picture tells them apart, so it is read before either is said.
    """
    return f" {minute}{TICK}{text}" if any(event.kind in STAMPED for event in now) else text


def measure(state: MatchState) -> tuple[int, ...]:
    """One class for each of FOOTBALL.fields. More than is ever said: who is near the ball makes out who wins it."""
    new = state.restart == "kick_off" and state.frame < _OPENING
    return (
        bin_of(state.x, -_HALF_LENGTH, _HALF_LENGTH, BINS),
        bin_of(state.y, -_HALF_WIDTH, _HALF_WIDTH, BINS // 2),
        state.side,
        _way(state),
        _MODES.index("opening" if new else state.restart),
        1 + state.owner,
        int(state.reach[1] < state.reach[0]),
        *(bisect_right(_REACH, reach) for reach in state.reach),
        *(bin_of(x, -_HALF_LENGTH, _HALF_LENGTH, BINS) for x in state.block),
        state.minute // 10,
        state.minute % 10,
    )


def _way(state: MatchState) -> int:
    return 0 if abs(state.speed_x) < _STILL else 1 if state.speed_x < 0 else 2


def _recorded(seed: int, **options: Any) -> NoReturn:
    raise ConfigError(
        "football is recorded, there is no game to play; use neverblink.football.streams.football_stream(FOLDER)"
    )


FOOTBALL = Sport(
    name="football",
    make=_recorded,
    sides=SIDES,
    phrases=PHRASES,
    # A goal or a restart is a cut; a ball counts as won once it was held for a while; reminders come a little later.
    visible_after={
        **dict.fromkeys(PHRASES, _PICTURE),
        "turnover": 1.5,
        "attack": 0.5,
        "second_goal": 2.4,
        "third_goal": 2.4,
        "fourth_goal": 2.4,
        "spell": 0.0,
        "hold": 0.0,
        "tally": 0.0,
    },
    describe=describe_state,
    fields={
        "column": BINS,
        "row": BINS // 2,
        "side": 2,
        "way": 3,
        "restart": len(_MODES),
        "owner": 3,
        "nearer": 2,
        "yellow reach": len(_REACH) + 1,
        "blue reach": len(_REACH) + 1,
        "yellow block": BINS,
        "blue block": BINS,
        "minute tens": CLOCK_MINUTES // 10 + 1,
        "minute units": 10,
    },
    measure=measure,
    states=frozenset({"goal", "new_match", "tally"}),
    holds=frozenset({"turnover", "attack", "hold", "kick_off", *RESTARTS.values()}),
    slips=frozenset({"turnover", "attack"}),
    changes=frozenset({"turnover"}),
    remarks=frozenset({"hold", "tally"}),
    shows_score=False,
    counted=COUNTED,
)
