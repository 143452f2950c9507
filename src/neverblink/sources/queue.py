"""The place where frames wait for their reader: files wait for room, live sources lose their oldest frame."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

from neverblink.types import Frame


@dataclass(frozen=True, slots=True)
class Note:
    """Something to tell the listener, in its place among the frames."""

    kind: str  # source | gap | error | drop
    text: str
    at: float  # media seconds


@dataclass(frozen=True, slots=True)
class Over:
    """Nothing follows; `error` says why, None at a regular end."""

    error: Exception | None = None


Item = Frame | Note | Over


MAX_WAITING = 64  # frames, whatever the rate: at 1280x720 that is 177 MB


class FrameQueue:
    """One writer, one reader. `put` blocks where `may_drop` is False; notes and the end are never lost."""

    def __init__(self, frames: int):
        self.frames = min(max(1, frames), MAX_WAITING)  # that may wait
        self._items: deque[Item] = deque()
        self._waiting_frames = 0
        self._dropped = 0
        self._closed = False
        self._changed = threading.Condition()

    def put(self, item: Item, *, may_drop: bool) -> None:
        with self._changed:
            if isinstance(item, Frame):
                while self._waiting_frames >= self.frames and not self._closed:
                    if may_drop:
                        self._drop_oldest()
                    else:
                        self._changed.wait()
                self._waiting_frames += 1
            if not self._closed:
                self._items.append(item)
                self._changed.notify_all()

    def get(self) -> Item:
        """The oldest item; waits for one. A closed queue is over."""
        with self._changed:
            while not self._items and not self._closed:
                self._changed.wait()
            if self._closed:
                return Over()
            item = self._items[0]
            if isinstance(item, Over):
                return item  # it stays: whoever asks again gets the same answer
            if isinstance(item, Frame):
                self._waiting_frames -= 1
                self._changed.notify_all()
            return self._items.popleft()

    def take_dropped(self) -> int:
        with self._changed:
            dropped, self._dropped = self._dropped, 0
            return dropped

    def close(self) -> None:
        """Free the writer and the reader, whatever they wait for."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()

    def _drop_oldest(self) -> None:
        oldest = next(i for i, item in enumerate(self._items) if isinstance(item, Frame))
        del self._items[oldest]
        self._waiting_frames -= 1
        self._dropped += 1  # late news is no news
