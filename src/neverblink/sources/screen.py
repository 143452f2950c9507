"""The screen of this machine, taken with mss from a thread of our own: nothing is decoded, so there is no child."""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any, Self

import numpy as np

from neverblink.errors import MissingExtra, SourceError, SourceRefused
from neverblink.sources.base import SourceOptions
from neverblink.sources.queue import FrameQueue, Note, Over
from neverblink.types import Frame, SourceInfo


class ScreenSource:
    """`screen` (the first monitor) or `screen:2`; a live source."""

    info: SourceInfo

    def __init__(self, name: str, options: SourceOptions):
        number = re.fullmatch(r"screen(?::(\d{1,2}))?", name)
        if not number:
            raise SourceRefused(f"{name}: a screen is screen or screen:NUMBER")
        self.name = name
        self.options = options
        self.monitor = int(number[1] or 1)
        self._queue = FrameQueue(math.ceil(options.fps * options.queue_seconds))
        self._stop = threading.Event()
        self._opened: Future[SourceInfo] = Future()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        try:
            import mss
        except ImportError as error:
            raise MissingExtra("mss", "screen", "watching the screen") from error
        thread = threading.Thread(target=self._run, args=(mss,), name=f"source {self.name}", daemon=True)
        thread.start()
        self._thread = thread  # only now: `close`, which any thread may call, waits for it
        try:
            self.info = self._opened.result()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def frames(self) -> Iterator[Frame]:
        while True:
            item = self._queue.get()
            if isinstance(item, Note):
                self.options.on_event(item.kind, item.text, item.at)
            elif isinstance(item, Over):
                if item.error is not None:
                    raise item.error
                return
            else:
                yield item

    def take_dropped(self) -> int:
        return self._queue.take_dropped()

    def close(self) -> None:
        self._stop.set()
        self._queue.close()
        if self._thread is not None:
            self._thread.join()

    def _run(self, mss: Any) -> None:
        try:
            open_display = getattr(mss, "MSS", None) or mss.mss  # the newer name, where there is one
            with open_display() as grabber:  # belongs to the thread that made it
                self._grab_all(grabber)
        except SourceRefused as refusal:
            self._opened.set_exception(refusal)
        except Exception as error:  # mss raises its own error, and what its platform libraries raise
            if self._opened.done():
                self._queue.put(Over(SourceError(f"{self.name}: the screen cannot be read: {error}")), may_drop=False)
            else:
                self._opened.set_exception(SourceRefused(f"{self.name}: no screen to watch here ({error})"))

    def _grab_all(self, grabber: Any) -> None:
        monitors = grabber.monitors[1:]  # 0 is all of them side by side
        if not 1 <= self.monitor <= len(monitors):
            raise SourceRefused(f"{self.name}: no monitor {self.monitor} here; monitors: 1 to {len(monitors)}")
        area = monitors[self.monitor - 1]
        step = max(1, math.ceil(math.sqrt(area["width"] * area["height"] / self.options.max_pixels)))
        height, width = len(range(0, area["height"], step)), len(range(0, area["width"], step))
        self._opened.set_result(SourceInfo(self.name, "screen", True, width, height, "screen"))
        began = time.monotonic()
        tick = math.ceil(self.options.start * self.options.fps)
        while not self._stop.wait(max(0.0, began + tick / self.options.fps - time.monotonic())):
            at = tick / self.options.fps
            if self.options.end is not None and at >= self.options.end:
                self._queue.put(Over(), may_drop=True)
                return
            picture = grabber.grab(area)
            pixels = np.frombuffer(picture.bgra, np.uint8).reshape(picture.height, picture.width, 4)
            # Every step-th pixel: cheap, and text on a screen is read at full size or not at all.
            self._queue.put(Frame(at, np.ascontiguousarray(pixels[::step, ::step, 2::-1])), may_drop=True)
            # A grab that took longer than a frame skips the ticks that it missed.
            tick = max(tick + 1, math.floor((time.monotonic() - began) * self.options.fps))
