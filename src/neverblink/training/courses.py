"""What the bundled model learns a sport from: pairs of frames for the tower, seconds for the decoder, from a seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from neverblink.arcade.emulator import FRAMES_PER_SECOND, HEIGHT, WIDTH
from neverblink.arcade.sport import Second, Sport, sports
from neverblink.errors import ConfigError
from neverblink.football.camera import SURE, Sight, focus, sight
from neverblink.football.clips import Clip
from neverblink.football.commentary import FOOTBALL
from neverblink.football.matches import FPS, Match, find_matches, is_held_out, read_record
from neverblink.football.matches import HEIGHT as PITCH_HEIGHT
from neverblink.football.matches import WIDTH as PITCH_WIDTH
from neverblink.football.streams import clip_stream, football_stream
from neverblink.football.truth import SIDES, events, states
from neverblink.training.spots import Kinds

BENCHMARK_SEEDS = 1_000_000  # from here up; training never draws them
ARCADE_FPS = 8
LIGHT = 0.1  # by which the light of a recorded picture is changed, at most
BAR = slice(0, 11), slice(50, 152)  # rows and columns of the score bar, which stays as it is
CLOCK = slice(2, 11), slice(62, 78)  # of the clock in it
WAIST = 3  # pixels above the feet: what is seen of a player is around it
STRETCH = 20  # seconds of a match from which pairs are taken before another one is drawn: neighbours are alike
CLIPPED = 0.75  # share of the streams of football that are made of clips
CLIP = 18, 43  # seconds, at least, and less than
ENDS = 0.05, 0.5  # share of the clips behind which another match begins; drawn for each match
OF_GOALS = 0.0, 0.6  # share of the clips inside of a match that are chosen for a goal; drawn for each match
KEEN = 0.85  # probability of a remark when one is due, in clips


# Rows and columns of print that is much smaller than all else, and the fields that it tells.
Fine = tuple[tuple[slice, slice], tuple[str, ...]] | None


class Pair(NamedTuple):
    """Two pictures and what is true of the later one."""

    pictures: np.ndarray  # [2, height, width, 3] uint8 RGB
    state: Any
    spots: np.ndarray | None = None  # [n, 3]: x and y as shares of the picture, number of the kind; None: not known


class Course(Protocol):
    """Endless material of one sport; what is drawn follows from the seed."""

    sport: Sport
    fps: int  # pictures of one second
    frame: tuple[int, int]  # height and width of a picture
    fine: Fine
    kinds: Kinds

    def pairs(self, seed: int) -> Iterator[Pair]:
        """Pictures 1 / fps apart, not for ever."""

    def seconds(self, seed: int, length: int) -> Iterator[Second]:
        """A stream of about `length` seconds from its first one."""


class ArcadeCourse:
    """Games from seeds that the benchmark never draws.

    Args:
        per_game: pairs that one game gives.
    """

    frame = HEIGHT, WIDTH
    fine: Fine = None
    kinds = Kinds()

    def __init__(self, name: str, fps: int = ARCADE_FPS, per_game: int = 200):
        self.sport, self.fps, self.per_game = sports[name], fps, per_game

    def pairs(self, seed: int) -> Iterator[Pair]:
        rng = np.random.default_rng(seed)
        game = self.sport.make(seed % BENCHMARK_SEEDS, start_score="random")
        state = game.state
        for _ in range(self.per_game):
            first = state.frame + int(rng.integers(2, 12))  # emulation costs more than pictures
            pictures = []
            for frame in (first, first + round(FRAMES_PER_SECOND / self.fps)):
                while state.frame < frame:
                    state = next(game)
                pictures.append(game.pixels.copy())
            yield Pair(np.stack(pictures), state)

    def seconds(self, seed: int, length: int) -> Iterator[Second]:
        from neverblink.training.data import game_stream

        start: Literal["random"] | None = None if np.random.default_rng(seed).random() < 0.1 else "random"
        return game_stream(self.sport, seed % BENCHMARK_SEEDS, length, self.fps, start_score=start)


class _Known:
    """What is worked out of a match once, however often it is drawn: 19 ms for its states, 7 ms for each sight."""

    def __init__(self, path: Path):
        self.match = Match(path)
        self.states = list(states(self.match.record, FPS))
        self._follows = focus(self.match.record)
        self._sights: dict[int, Sight] = {}

    def sight(self, step: int, picture: np.ndarray) -> Sight:
        if step not in self._sights:
            self._sights[step] = sight(self.match.record, self._follows, step, picture)
        return self._sights[step]


class FootballCourse:
    """Recorded matches, without those that are kept for the benchmark.

    Raises:
        ConfigError: every match of the folder is kept for the benchmark.
    """

    sport, fps, frame = FOOTBALL, FPS, (PITCH_HEIGHT, PITCH_WIDTH)
    fine: Fine = CLOCK, ("minute tens", "minute units")
    kinds = Kinds(tuple(f"a {side} player" for side in SIDES), tuple(f"a ball that {side} have" for side in SIDES))

    def __init__(self, place: Path):
        self.matches = [path for path in find_matches(place) if not is_held_out(path)]
        if not self.matches:
            raise ConfigError(f"{place}: every match in it is kept for the benchmark; add others to learn from")
        self._drawn: dict[Path, _Known] = {}

    def pairs(self, seed: int) -> Iterator[Pair]:
        rng = np.random.default_rng(seed)
        known = self._known(self.matches[int(rng.integers(len(self.matches)))])
        start = STRETCH * int(rng.integers(-(-known.match.seconds // STRETCH)))
        true = islice(known.states, start * self.fps, None)
        shown = islice(zip(known.match.frames(self.fps, start), true, strict=True), STRETCH * self.fps)
        for (before, past), (now, state) in pairwise(shown):
            # Many a restart lasts for one picture, which may be the first or the second of the two that a token shows.
            state = state._replace(restart=state.restart or past.restart)
            # Neighbours are alike, so most come another time; restarts are rare, so all are shown.
            if state.restart or rng.random() < 0.25:
                spots = spots_of(known.sight(state.frame, now.pixels), state.side)
                pair = Pair(disturbed(np.stack([before.pixels, now.pixels]), rng), state, spots)
                yield pair if rng.random() < 0.5 else mirrored(pair)

    def _known(self, path: Path) -> _Known:
        if path not in self._drawn:
            self._drawn[path] = _Known(path)
        return self._drawn[path]

    def seconds(self, seed: int, length: int) -> Iterator[Second]:
        """From a kick-off on: no picture tells the score, so nothing may begin inside a match."""
        rng = np.random.default_rng(seed)
        if rng.random() < CLIPPED:
            return self._clips(seed, length)
        return football_stream(self.matches, seed, length, self.fps)

    def _clips(self, seed: int, length: int) -> Iterator[Second]:
        rng = np.random.default_rng((seed, 1))
        start = 0
        while start < length:
            clips, ends, of_goals = [self._opening(rng)], rng.uniform(*ENDS), rng.uniform(*OF_GOALS)
            while rng.random() > ends:
                clips.append(self._inside(rng, of_goals))
            view = int(rng.integers(2**31))
            for second in clip_stream(clips, seed, self.fps, start=start, remarked=lambda: bool(rng.random() < KEEN)):
                view += second.cut
                yield replace(second, frames=disturbed(second.frames, np.random.default_rng(view)))
            start += sum(clip.end - clip.start for clip in clips)

    def _opening(self, rng: np.random.Generator) -> Clip:
        match = Match(self.matches[int(rng.integers(len(self.matches)))])
        return Clip(match, 0, min(int(rng.integers(*CLIP)), match.seconds))

    def _inside(self, rng: np.random.Generator, of_goals: float) -> Clip:
        """A clip that does not begin with its match; so large a share is chosen for a goal."""
        seconds = int(rng.integers(*CLIP))
        if self._goals and rng.random() < of_goals:
            path, goal = self._goals[int(rng.integers(len(self._goals)))]
            match, start = Match(path), goal - int(rng.integers(seconds))
        else:
            match = Match(self.matches[int(rng.integers(len(self.matches)))])
            start = int(rng.integers(match.seconds))
        start = max(1, min(start, match.seconds - seconds))
        return Clip(match, start, min(start + seconds, match.seconds))

    @cached_property
    def _goals(self) -> list[tuple[Path, int]]:
        """Every goal and the second at which it is told."""
        told = ((path, event) for path in self.matches for event in events(read_record(path)))
        return [(path, FOOTBALL.second_of(event)) for path, event in told if event.kind == "goal"]


def disturbed(pictures: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pictures [n, height, width, 3] uint8 of a match, all a little lighter or darker, but for the score bar.

    They are not moved: the camera goes with the ball, so a place in the picture means something. After 4 minutes a
    tower named the side in 0.69 of held-out pictures with moves of up to 16 pixels, in 0.78 without (LOG.md).
    """
    light, contrast = 1 + rng.uniform(-LIGHT, LIGHT, 2)
    values = np.arange(256.0)
    table = ((values - 128) * contrast + 128 * light).clip(0, 255).astype(np.uint8)
    found = table[pictures]
    found[:, *BAR] = pictures[:, *BAR]
    return found


def spots_of(seen: Sight, side: int) -> np.ndarray | None:
    """What stands where, as `FootballCourse.kinds` counts it; None where the picture does not bear it out."""
    if seen.score < SURE:
        return None
    places = np.concatenate([seen.feet.reshape(-1, 2) - (0, WAIST), seen.ball[None]]) / (PITCH_WIDTH, PITCH_HEIGHT)
    players = np.arange(len(SIDES)).repeat(seen.feet.shape[1])
    return np.column_stack([places, [*players, len(SIDES) + side]])


def mirrored(pair: Pair) -> Pair:
    """A pair of a match with left and right exchanged, but for the score bar.

    Recordings are few; a tower that sees both knows its own matches less well and others as well.
    """
    found = pair.pictures[:, :, ::-1].copy()
    found[:, BAR[0]] = pair.pictures[:, BAR[0]]
    state, spots = pair.state, pair.spots
    yellow, blue = state.block
    there = state._replace(x=-state.x, speed_x=-state.speed_x, block=(-yellow, -blue))
    return Pair(found, there, None if spots is None else np.column_stack([1 - spots[:, 0], spots[:, 1:]]))


def courses_of(names: Sequence[str], football: Path | None) -> list[Course]:
    """One course for each name.

    Raises:
        ConfigError: football without its folder.
        UnknownName: no such sport.
    """
    found: list[Course] = []
    for name in names:
        if name != FOOTBALL.name:
            found.append(ArcadeCourse(name))
        elif football is None:
            raise ConfigError("football is recorded: give --football FOLDER, with match_*.mp4 and match_*.npz in it")
        else:
            found.append(FootballCourse(football))
    return found
