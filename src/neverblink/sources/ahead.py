"""Items that are made in a thread of their own, a bounded number of them ahead of their reader."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Generic, NamedTuple, Self, TypeVar

T = TypeVar("T")


class _Note(NamedTuple):
    """What `tell` was given, in its place among the items."""

    words: tuple[Any, ...]


class _Over(NamedTuple):
    error: BaseException | None


class Ahead(Generic[T]):
    """Reads `items` in a thread of its own; whoever reads this gets them in the same order, and each error in the place
    where its item would have been.

    Args:
        items: must not need the reader's thread.
        depth: items that wait or are being made while the reader is busy with an earlier one.
        on_note: what `tell` says, told in the reader's thread and in its place, so that no listener needs a lock.
        free: frees the maker's thread from whatever it waits for; called when the reader leaves.
        changed: shared by several of these, so that one reader can wait for the first of them that has news.
    """

    def __init__(
        self,
        items: Iterator[T],
        *,
        depth: int = 1,
        on_note: Callable[..., None] = lambda *_: None,
        free: Callable[[], None] = lambda: None,
        changed: threading.Condition | None = None,
    ):
        assert depth >= 1, f"depth {depth}"
        self._items, self._depth, self._on_note, self._free = items, depth, on_note, free
        self._ready: deque[T | _Note | _Over] = deque()
        self._waiting = 0  # items among them
        self._left = False
        self._changed = changed or threading.Condition()
        self._thread = threading.Thread(target=self._make, name="read ahead", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave; waits for the item that is being made."""
        with self._changed:
            self._left = True
            self._changed.notify_all()
        self._free()
        self._thread.join()

    def tell(self, *words: Any) -> None:
        """From the maker's thread: a note that the reader hears between two items."""
        self._put(_Note(words))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ready)
                item = self._ready[0]
                if isinstance(item, _Over):  # it stays: whoever asks again gets the same answer
                    raise item.error or StopIteration
                self._ready.popleft()
                if not isinstance(item, _Note):
                    self._waiting -= 1
                    self._changed.notify_all()
            if not isinstance(item, _Note):
                return item
            self._on_note(*item.words)

    @property
    def has_news(self) -> bool:
        """A note, an item or the end has come."""
        return bool(self._ready)

    def is_ready(self) -> bool:
        """Tells the notes that have come; whether an item or the end stands behind them."""
        while self._ready:
            first = self._ready[0]
            if not isinstance(first, _Note):
                return True
            self._ready.popleft()
            self._on_note(*first.words)
        return False

    def _make(self) -> None:
        try:
            while self._has_room():
                try:
                    item = next(self._items)
                except StopIteration:
                    break
                self._put(item)
            error = None
        except BaseException as raised:  # the reader's to see, whatever it is
            error = raised
        self._put(_Over(error))

    def _has_room(self) -> bool:
        """Waits for room before the next item is begun; False when the reader has left."""
        with self._changed:
            self._changed.wait_for(lambda: self._left or self._waiting < self._depth)
            return not self._left

    def _put(self, item: T | _Note | _Over) -> None:
        with self._changed:
            self._ready.append(item)
            if not isinstance(item, _Note | _Over):
                self._waiting += 1
            self._changed.notify_all()
