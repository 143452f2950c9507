"""Games that play themselves without end: `arcade:pong`, `arcade:pong?seed=7&score=random`.

No thread and no queue: each frame asked for says how far the game has to be emulated, drawn or not.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Iterator
from typing import Any, Self
from urllib.parse import parse_qsl

import numpy as np

from neverblink.arcade.emulator import HEIGHT, WIDTH, frame_at
from neverblink.arcade.events import GameEvent
from neverblink.arcade.sport import sports
from neverblink.errors import SourceRefused
from neverblink.sources.base import SourceOptions
from neverblink.types import Frame, SourceInfo


class ArcadeSource:
    """A game as a source.

    With `options.realtime` it is live: it runs by the wall clock, and a late reader loses frames. Otherwise it runs as
    fast as it is read and drops nothing.
    """

    info: SourceInfo

    def __init__(self, name: str, options: SourceOptions):
        self.game_name, self._seed, self._start_score = parse_name(name)
        self.name = name
        self.options = options
        self._make = sports[self.game_name].make
        self._game: Any = None
        self._dropped = 0
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        self._game = self._make(self._seed, start_score=self._start_score)
        self._step = max(1, math.ceil(math.sqrt(HEIGHT * WIDTH / self.options.max_pixels)))
        height, width = len(range(0, HEIGHT, self._step)), len(range(0, WIDTH, self._step))
        end = self.options.end
        self.info = SourceInfo(self.name, "arcade", self.options.realtime, width, height, "none", end)
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def frames(self) -> Iterator[Frame]:
        """Frame k shows the game at k / fps media seconds; `options.start` is reached without waiting."""
        fps, tick = self.options.fps, math.ceil((self.options.start - 1e-9) * self.options.fps)
        self._picture(tick / fps)  # playing up to there is no lateness
        began = time.monotonic() - tick / fps  # wall clock of media time 0
        while not self._closed.is_set():
            if self.options.realtime:
                # As a queue of queue_seconds would: what has waited longer is lost.
                oldest = math.ceil((time.monotonic() - began - self.options.queue_seconds) * fps)
                if self.options.end is not None:
                    oldest = min(oldest, math.ceil((self.options.end - 1e-9) * fps))
                self._dropped += max(0, oldest - tick)
                tick = max(tick, oldest)
            if self.options.end is not None and tick / fps >= self.options.end - 1e-9:
                return
            if self.options.realtime and self._closed.wait(max(0.0, began + tick / fps - time.monotonic())):
                return
            yield Frame(tick / fps, self._picture(tick / fps))
            tick += 1

    @property
    def state(self) -> Any:
        """The true state at the newest picture."""
        return self._game.state

    def take_dropped(self) -> int:
        dropped, self._dropped = self._dropped, 0
        return dropped

    def take_events(self) -> list[GameEvent]:
        """What has truly happened in the game since the last call; a benchmark compares it with what was said."""
        events: list[GameEvent] = self._game.take_events()
        return events

    def close(self) -> None:
        self._closed.set()

    def _picture(self, at: float) -> np.ndarray:
        wanted = frame_at(at)
        while self._game.state.frame < wanted:
            next(self._game)
        pixels: np.ndarray = self._game.pixels
        return pixels if self._step == 1 else np.ascontiguousarray(pixels[:: self._step, :: self._step])


def parse_name(name: str) -> tuple[str, int, Any]:
    """Game, seed and start score of "arcade:GAME?seed=N&score=L-R"; score is also "random" or left out."""
    match = re.fullmatch(r"arcade:(\w+)(?:\?([\w=&-]*))?", name)
    if not match:
        raise SourceRefused(f"{name}: an arcade game is arcade:GAME or arcade:GAME?seed=7&score=3-5")
    seed, score = 0, None
    for key, value in parse_qsl(match[2] or "", keep_blank_values=True):
        pair = re.fullmatch(r"(\d{1,3})-(\d{1,3})", value)
        if key == "seed" and re.fullmatch(r"\d{1,18}", value):
            seed = int(value)
        elif key == "score" and (pair or value == "random"):
            score = (int(pair[1]), int(pair[2])) if pair else value
        else:
            raise SourceRefused(f"{name}: {key}={value} is unknown; use seed=NUMBER, score=LEFT-RIGHT or score=random")
    return match[1], seed, score
