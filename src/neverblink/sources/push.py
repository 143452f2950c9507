"""Frames that somebody else hands in, such as a browser with its camera. Every frame gets exactly one verdict."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Literal, Self

import numpy as np

from neverblink.sources.base import SourceOptions
from neverblink.sources.queue import FrameQueue, Over
from neverblink.types import Frame, SourceInfo

Verdict = Literal["used", "busy", "stale", "rate"]


class PushSource:
    """A live source without a reader of its own: `offer` gives it frames, `finish` ends it.

    A frame without a time is of the moment at which it comes.
    """

    info: SourceInfo

    def __init__(self, name: str, options: SourceOptions, clock: Callable[[], float] = time.monotonic):
        self.info = SourceInfo(name, "push", True, 0, 0, "jpeg")
        self.options = options
        self._clock = clock
        self._queue = FrameQueue(max(2, math.ceil(options.fps * max(1.0, options.queue_seconds))))
        self._lock = threading.Lock()
        self._began: float | None = None  # clock at media second 0
        self._tick = -1  # of the newest frame taken: its time is tick / fps
        self._waiting = 0
        self._lost = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def judge(self, at: float | None = None) -> tuple[Verdict, int]:
        """What would become of a frame of this media second, and its tick; known before it is decoded.

        Returns:
            "used"; "rate": one of this 1/fps is here already; "stale": older than what is here; "busy": the queue is
            full, since the model is late.
        """
        with self._lock:
            now = self._clock()
            self._began = now - (at or 0.0) if self._began is None else self._began
            tick = math.floor((now - self._began if at is None else at) * self.options.fps + 1e-6)
            if tick < self._tick or tick < 0:
                return "stale", tick
            if tick == self._tick:
                return "rate", tick
            if self._waiting >= self._queue.frames:
                self._lost += 1
                return "busy", tick
            return "used", tick

    def offer(self, pixels: np.ndarray, at: float | None = None) -> tuple[Verdict, float]:
        """Hand in a picture [H, W, 3] uint8; the verdict and the media second of the frame."""
        verdict, tick = self.judge(at)
        time_ = tick / self.options.fps
        if verdict == "used":
            with self._lock:
                self._tick, self._waiting = tick, self._waiting + 1
            self._queue.put(Frame(time_, pixels), may_drop=True)
        return verdict, time_

    def frames(self) -> Iterator[Frame]:
        while not isinstance(item := self._queue.get(), Over):
            if isinstance(item, Frame):
                with self._lock:
                    self._waiting -= 1
                yield item

    def take_dropped(self) -> int:
        with self._lock:
            lost, self._lost = self._lost, 0
            return lost

    def finish(self) -> None:
        """No more frames will come; those that wait are still read."""
        self._queue.put(Over(), may_drop=False)

    def close(self) -> None:
        self._queue.close()
