"""What happened in a match, derived from its state: who controls the ball, events, and the state of any second."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from neverblink.arcade.events import Claim, GameEvent, Kind, Score, Side
from neverblink.football.matches import Record

SIDES: tuple[Side, Side] = ("yellow", "blue")  # yellow defends the left goal all match long
RESTARTS: dict[int, Kind] = {2: "goal_kick", 3: "free_kick", 4: "corner", 5: "throw_in", 6: "penalty"}  # mode -> kind

HOLD = 1.5  # seconds without a touch of the other side until the ball counts as won, from the first touch on
HELD = 0.4  # share of them in which the new side has the ball at its feet
ATTACK_FROM, ATTACK_AGAIN = 0.4, 0.15  # x towards the other goal: an attack begins, and after that may begin again
ATTACK_HOLD = 0.5  # seconds that the ball stays there
SHOT_SPEED = 0.25  # towards the goal, half a pitch's length a second
SHOT_FROM = 0.45  # x towards the goal
SHOT_WIDTH = 0.10  # |y| at which the ball would cross the goal line; the posts stand at 0.044
SHOT_AGAIN = 1.0  # seconds in which a ball that goes on flying is no new shot
CUT = 0.15  # a ball that moves so far in one step was placed there: the engine cut to a restart
SAVE_WITHIN = 1.2  # seconds from the shot until the keeper turns the ball back
SAVE_REACH = 0.06  # distance of the ball from the keeper
SAVE_FROM = 0.7  # x: further out, a keeper clears the ball like any other player
GOALS_WITHIN = 300.0  # seconds
REMINDERS: dict[int, Kind] = {2: "second_goal", 3: "third_goal", 4: "fourth_goal"}  # goals in that time -> kind
SPELL = 60  # seconds
CLOCK_MINUTES = 90  # that the clock in the picture runs
CLOCK_SECONDS = 300.0  # seconds in which it does
SPELL_SHARE = 0.7  # of them


class Take(NamedTuple):
    """A restart: the ball lies still from `start`, and is played at `end` (steps)."""

    start: int
    end: int
    kind: Kind
    side: int


class MatchState(NamedTuple):
    """What is true at one picture."""

    frame: int  # step of the match
    time: float  # media seconds
    score: Score
    x: float  # of the ball, -1 (left, yellow's goal line) to 1
    y: float  # -0.42 (top) to 0.42
    speed_x: float  # a second, over the half second before; 0 across a cut
    side: int  # who controls the ball, or takes the restart
    restart: Kind  # "" in play
    owner: int = -1  # who has the ball at his feet: 0, 1, or -1 for nobody
    reach: tuple[float, float] = (0.0, 0.0)  # from the ball to the nearest player of each side
    block: tuple[float, float] = (0.0, 0.0)  # mean x of each side's players, without the keeper
    minute: int = 0  # that the clock in the picture shows


def takes(record: Record) -> list[Take]:
    """Every restart, in order of time.

    A kick-off is taken by the side that let the goal in, every other restart by the side of the player who stands
    nearest when the ball is played: the first owner behind a long goal kick is often the other side.
    """
    found = []
    starts = np.flatnonzero(np.diff(record.mode, prepend=0) != 0)
    for start, end in pairwise([*starts.tolist(), record.steps]):
        kind = RESTARTS.get(int(record.mode[start]))
        if kind is not None:
            at = end - 1
            reach = np.linalg.norm(record.players[at] - record.ball[at, :2], axis=-1).min(axis=1)  # [2]
            found.append(Take(start, end, kind, int(reach.argmin())))
    if abs(record.ball[0, :2]).max() < 0.01:
        owners = record.owner[record.owner >= 0]
        found.append(Take(0, _moved(record, 0), "kick_off", int(owners[0]) if len(owners) else 0))
    for step, scorer in goals(record):
        placed = next((i for i in range(step, record.steps) if abs(record.ball[i, :2]).max() < 0.01), None)
        if placed is not None:
            found.append(Take(placed, _moved(record, placed), "kick_off", 1 - scorer))
    return sorted(found)


def goals(record: Record) -> list[tuple[int, int]]:
    """(step, scorer) of every goal."""
    rises = np.diff(record.score, axis=0)  # [steps - 1, 2]
    return [(int(step) + 1, int(side)) for step, side in np.argwhere(rises > 0)]


def reminder(scored: Iterable[float], now: float) -> Kind | None:
    """What a goal scored `now` calls to mind: the how manieth it is in five minutes; times in seconds, its own too."""
    return REMINDERS.get(sum(0 <= now - time < GOALS_WITHIN for time in scored))


def control(record: Record, restarts: list[Take]) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Which side controls the ball at each step, [steps] of 0 and 1, and the (step, side) at which it was won in play.

    The other side wins it by a touch behind which it holds the ball for `HOLD` seconds: headers and tackles that
    change nothing do not count.
    """
    hold = round(HOLD / record.step_seconds)
    taken_by = {take.start: take.side for take in restarts}
    no_play = np.flatnonzero(record.mode != 0)
    dead = np.zeros(record.steps, bool)
    dead[no_play] = True
    dead[[take.start for take in restarts]] = True
    owners = record.owner[record.owner >= 0]
    side = int(owners[0]) if len(owners) else 0
    sides, won = np.empty(record.steps, np.int64), []
    for step in range(record.steps):
        toucher = int(record.owner[step])
        if step in taken_by:
            side = taken_by[step]
        elif toucher == 1 - side and not dead[step]:
            next_owners = record.owner[step : step + hold + 1]
            quiet = len(next_owners) == hold + 1 and not dead[step : step + hold + 1].any()
            if quiet and not (next_owners == side).any() and (next_owners == toucher).sum() >= HELD * hold:
                side = toucher
                won.append((step, side))
        sides[step] = side
    return sides, won


def attacks(record: Record, sides: np.ndarray, restarts: list[Take]) -> list[tuple[int, int]]:
    """(step, side) at which a side that controls the ball brings it near the other goal."""
    hold = round(ATTACK_HOLD / record.step_seconds)
    cuts = {take.start for take in restarts}
    found, armed = [], False
    for step in range(record.steps - hold):
        ahead = _ahead(record, step, int(sides[step]))
        if step in cuts:
            armed = False
        elif step and sides[step] != sides[step - 1]:
            armed = ahead < ATTACK_FROM
        armed = armed or ahead < ATTACK_AGAIN
        window = range(step, step + hold + 1)
        if armed and all(
            sides[i] == sides[step] and i not in cuts and _ahead(record, i, int(sides[i])) >= ATTACK_FROM
            for i in window
        ):
            found.append((step, int(sides[step])))
            armed = False
    return found


def shots(record: Record) -> list[tuple[int, int]]:
    """(step, side) at which the ball begins to fly fast towards a goal and would cross its line near or in it."""
    again = round(SHOT_AGAIN / record.step_seconds)
    speed = np.diff(record.ball[:, :2], axis=0, prepend=record.ball[:1, :2])  # [steps, 2] a step
    found: list[tuple[int, int]] = []
    blocked = 0
    for step in range(1, record.steps):
        if abs(speed[step]).max() > CUT or record.mode[step]:
            blocked = step + 1  # placed by hand, perhaps not far: what comes next is a new flight
        vx = float(speed[step, 0])
        side = 0 if vx > 0 else 1
        ahead = _ahead(record, step, side)
        if step < blocked or abs(vx) < SHOT_SPEED * record.step_seconds or not SHOT_FROM <= ahead <= 1:
            continue
        if (record.owner[step : step + 3] == 1 - side).any():
            continue  # a defender plays it to the keeper
        to_line = (1 - ahead) / abs(vx)
        if abs(record.ball[step, 1] + speed[step, 1] * to_line) < SHOT_WIDTH:
            found.append((step, side))
            blocked = step + again
    return found


def saves(record: Record, shot_at: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """(step, side of the keeper) at which a keeper turns a shot back, or holds it."""
    within = round(SAVE_WITHIN / record.step_seconds)
    scored = {step for step, _ in goals(record)}
    found = []
    for shot, shooter in shot_at:
        for step in range(shot + 1, min(shot + within, record.steps)):
            moved = _ahead(record, step, shooter) - _ahead(record, step - 1, shooter)
            if step in scored or abs(moved) > CUT or record.mode[step]:
                break
            keeper = record.players[step, 1 - shooter, 0]
            near = float(np.linalg.norm(record.ball[step, :2] - keeper)) < SAVE_REACH
            if near and moved < 0.005 and _ahead(record, step, shooter) > SAVE_FROM:  # the ball no longer flies on
                found.append((step, 1 - shooter))
                break
    return found


def events(record: Record) -> list[GameEvent]:
    """Everything to tell of a match, in order of time; its media second 0 is step 0."""
    restarts = takes(record)
    sides, won = control(record, restarts)
    found: list[tuple[int, int, Claim]] = []  # step, rank among claims of one step, claim

    def tell(step: int, rank: int, kind: Kind, side: int | None, score: Score | None = None) -> None:
        found.append((step, rank, Claim(kind, "" if side is None else SIDES[side], score)))

    for take in restarts:
        if take.kind == "kick_off":
            if take.start == 0:
                tell(0, 0, "new_match", None, (0, 0))
            tell(take.start, 3, take.kind, take.side)
        else:
            tell(take.start, 3, take.kind, take.side)
    scored = goals(record)
    for step, side in scored:
        tell(step, 2, "goal", side, _score(record, step))
        kind = reminder([other * record.step_seconds for other, _ in scored], step * record.step_seconds)
        if kind is not None:
            tell(step, 4, kind, None)
    for step, side in won:
        tell(step, 0, "turnover", side)
    for step, side in attacks(record, sides, restarts):
        tell(step, 1, "attack", side)
    shot_at = shots(record)
    for step, side in shot_at:
        tell(step, 1, "shot", side)
    for step, side in saves(record, shot_at):
        tell(step, 1, "save", side)
    for step, column in np.argwhere(np.diff(record.cards, axis=0) > 0):
        tell(int(step) + 1, 1, "booking" if column < 2 else "sending_off", int(column) % 2)
    for step, side in _spells(record, sides):
        tell(step, 5, "spell", side)
    found.sort(key=lambda entry: entry[:2])
    return [GameEvent(round(step * record.step_seconds, 6), claim) for step, _, claim in found]


def states(record: Record, fps: int) -> Iterator[MatchState]:
    """The state at each picture, k / fps media seconds, for as long as `record.seconds`."""
    restarts = takes(record)
    sides, _ = control(record, restarts)
    restart = np.full(record.steps, "", object)
    for take in restarts:
        restart[take.start : take.end] = take.kind
    back = round(0.5 / record.step_seconds)
    for k in range(record.seconds * fps):
        step = round(k / fps / record.step_seconds)
        path = record.ball[max(0, step - back) : step + 1, :2].astype(float)  # [n, 2]
        cut = len(path) < 2 or abs(np.diff(path, axis=0)).max() > CUT or restart[step] != restart[max(0, step - back)]
        speed = 0.0 if cut else (path[-1, 0] - path[0, 0]) / ((len(path) - 1) * record.step_seconds)
        players, ball = record.players[step].astype(float), path[-1]  # [2, 11, 2]
        reach = np.linalg.norm(players - ball, axis=-1).min(axis=1)
        yield MatchState(
            step,
            k / fps,
            _score(record, step),
            ball[0],
            ball[1],
            speed,
            int(sides[step]),
            restart[step],
            int(record.owner[step]),
            (float(reach[0]), float(reach[1])),
            (float(players[0, 1:, 0].mean()), float(players[1, 1:, 0].mean())),
            min(int(step * record.step_seconds * CLOCK_MINUTES / CLOCK_SECONDS), CLOCK_MINUTES),
        )


def _spells(record: Record, sides: np.ndarray) -> Iterator[tuple[int, int]]:
    """(step, side) in the last second of each minute of which one side had most; that second itself is left out."""
    length, second = round(SPELL / record.step_seconds), round(1 / record.step_seconds)
    for end in range(length, record.steps, length):
        share = sides[end - length : end - second].mean()  # of blue
        if max(share, 1 - share) >= SPELL_SHARE:
            yield end - second, int(share > 0.5)


def _ahead(record: Record, step: int, side: int) -> float:
    """x of the ball as a side sees it: -1 is its own goal line, 1 the other one."""
    x = float(record.ball[step, 0])
    return x if side == 0 else -x


def _moved(record: Record, start: int) -> int:
    """The first step at which a ball that lay still has left its place, or the record's end."""
    away = np.flatnonzero(abs(record.ball[start:, :2] - record.ball[start, :2]).max(axis=1) > 0.003)
    return start + int(away[0]) if len(away) else record.steps


def _score(record: Record, step: int) -> Score:
    yellow, blue = record.score[step].tolist()
    return yellow, blue
