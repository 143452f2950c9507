"""Recorded matches, one behind the other: hours of football, second by second, with all that is true of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from neverblink.arcade.commentary import write_second
from neverblink.arcade.events import GameEvent
from neverblink.arcade.sport import Second
from neverblink.football.clips import Clip, retell
from neverblink.football.commentary import FOOTBALL, stamp
from neverblink.football.matches import FPS, Match, find_matches
from neverblink.football.remarks import remarks
from neverblink.football.truth import states


def clip_stream(
    clips: Sequence[Clip],
    seed: int,
    fps: int = FPS,
    *,
    start: int = 0,
    draw: bool = True,
    remarked: Callable[[], bool] = lambda: True,
) -> Iterator[Second]:
    """Clips as one match, see `retell`.

    Args:
        seed: of the words.
        start: media second of the kick-off; every time that is given is counted from the stream's beginning.
        draw: False decodes no video: `frames` are then empty.
        remarked: as for `remarks`.
    """
    happened, ahead = retell(clips)
    by_second: dict[int, list[GameEvent]] = {}
    length = sum(clip.end - clip.start for clip in clips)
    for event in (*happened, *remarks(happened, length, remarked)):
        later = GameEvent(event.time + start, event.claim)
        by_second.setdefault(FOOTBALL.second_of(later), []).append(later)
    second = start
    for clip, (yellow, blue) in zip(clips, ahead, strict=True):
        state_at = islice(states(clip.match.record, fps), clip.start * fps, None)
        pictures = clip.match.frames(fps, clip.start) if draw else None
        for own in range(clip.start, clip.end):
            taken = [next(pictures).pixels for _ in range(fps)] if pictures else []
            frames = np.stack(taken) if taken else np.empty((0, 180, 320, 3), np.uint8)
            state = [next(state_at) for _ in range(fps)][-1]
            score = state.score[0] + yellow, state.score[1] + blue
            state = state._replace(time=state.time + second - own, score=score)
            now = tuple(by_second.get(second, ()))
            text = stamp(write_second(second, now, seed, FOOTBALL), now, state.minute)
            cut = own == clip.start > 0
            yield Second(float(second), frames, now, text, state, FOOTBALL.describe(state), cut)
            second += 1


def match_stream(match: Match, seed: int, fps: int = FPS, *, start: int = 0, draw: bool = True) -> Iterator[Second]:
    """One match from its kick-off; the arguments are those of `clip_stream`."""
    return clip_stream([Clip(match, 0, match.seconds)], seed, fps, start=start, draw=draw)


def football_stream(
    place: str | Path | list[Path],
    seed: int,
    seconds: int | None = None,
    fps: int = FPS,
    *,
    shuffle: bool = True,
    draw: bool = True,
) -> Iterator[Second]:
    """Matches without end: each begins with a kick-off and 0 to 0; when all were shown, they begin anew.

    Args:
        place: a folder of `match_*.npz` + `.mp4`, one match, or a list of matches.
        seed: the order, new for each round, and the words.
        seconds: how many to give; None is without end.
        shuffle: False keeps the order of the names.
        draw: False decodes no video: `frames` are then empty.
    """
    paths, rng = find_matches(place), random.Random(f"football {seed}")
    start = 0
    while True:
        for path in rng.sample(paths, len(paths)) if shuffle else paths:
            match = Match(path)
            for second in match_stream(match, seed, fps, start=start, draw=draw):
                if seconds is not None and second.start >= seconds:
                    return
                yield second
            start += match.seconds
