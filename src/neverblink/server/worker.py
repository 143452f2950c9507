"""The one thread that owns the engine. Everybody else hands it work and waits for a future.

What fails belongs to one stream, and ends that stream: the engine sees to the model's failures, `_tell` to those of
whoever listens. Whatever else is raised ends the thread, and `watchdog.py` begins a new one.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, Protocol, TypeVar

from neverblink.engine import Engine, Result
from neverblink.errors import ConfigError, ModelError, NeverblinkError

T = TypeVar("T")
IDLE = 0.5  # seconds between two signs of life while there is nothing to do
PATIENCE = 60.0  # seconds that the first rounds may take; a long prefill on a CPU takes many
LEAST = 10.0  # seconds that a round may take at least, once it is known how long they take
FAILED_IN_A_ROW = 3  # streams, with nothing said in between: then it is the model or its device that fails


class Listener(Protocol):
    """Told on the engine's thread what its stream has to tell."""

    def on_result(self, result: Result) -> None: ...

    def on_round(self) -> None:
        """A round is over: whatever the stream is saying has grown."""
        ...


class Worker:
    """Runs rounds of the engine for as long as there is work."""

    def __init__(self, engine: Engine):
        self.engine = engine
        self.listeners: dict[str, Listener] = {}  # touched on the engine's thread only
        self.failure: BaseException | None = None  # what ended the thread
        self.beat = time.monotonic()  # of its last sign of life
        self.failing: deque[Exception] = deque(maxlen=99)  # of streams, since the engine last said something
        self._rounds, self._slowest = 0, 0.0  # seconds
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._changed = threading.Condition()
        self._stop = False
        self._thread = self._new()

    def _new(self) -> threading.Thread:
        return threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def revive(self, first: Callable[[], T]) -> Future[T]:
        """A new thread in place of one that has died; what it does first comes before any round."""
        assert not self.alive, "one thread owns the engine"
        self._thread.join()
        self.failure, self.beat = None, time.monotonic()
        done = self.call(first)
        self._thread = self._new()
        self._thread.start()
        return done

    def stop(self) -> None:
        with self._changed:
            self._stop = True
            self._changed.notify()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and self.failure is None

    def trouble(self) -> str:
        """Why nothing can be expected of it at this moment; "" where something can."""
        if not self.alive:
            return f"the engine has stopped: {type(self.failure).__name__}: {self.failure}"
        silent = time.monotonic() - self.beat
        if silent > (PATIENCE if self._rounds < 10 else max(LEAST, 10 * self._slowest)):
            return f"the engine has been in one call for {silent:.0f} s (the longest before took {self._slowest:.1f} s)"
        if len(self.failing) >= FAILED_IN_A_ROW:
            last = self.failing[-1]
            return f"the last {len(self.failing)} streams failed one after the other: {type(last).__name__}: {last}"
        return ""

    def call(self, work: Callable[[], T]) -> Future[T]:
        """Have something done on the engine's thread, between two rounds."""
        done: Future[T] = Future()
        with self._changed:
            if self._stop or self.failure is not None:
                done.set_exception(ConfigError(f"the engine has stopped ({self.failure or 'the server shuts down'})"))
                return done
            self._calls.append((work, done))
            self._changed.notify()
        return done

    def _run(self) -> None:
        try:
            while True:
                with self._changed:
                    if not self._calls and not self.engine.has_work and not self._stop:
                        self._changed.wait(IDLE)
                    calls, stop = list(self._calls), self._stop
                    self._calls.clear()
                self.beat = time.monotonic()
                for work, done in calls:
                    self._do(work, done)
                if stop:
                    return
                if self.engine.has_work:
                    self._round()
        except BaseException as error:  # a fault of ours: /health says so, and nobody waits for ever
            self.failure = error
            with self._changed:
                for _, done in self._calls:
                    done.set_exception(error)
            raise

    @staticmethod
    def _do(work: Callable[[], Any], done: Future[Any]) -> None:
        if not done.set_running_or_notify_cancel():
            return
        try:
            done.set_result(work())
        except BaseException as error:  # it belongs to whoever asked
            done.set_exception(error)

    def _round(self) -> None:
        began = time.monotonic()
        results = self.engine.advance()
        self._rounds, self._slowest = self._rounds + 1, max(self._slowest, time.monotonic() - began)
        for result in results:
            if result.error is None:
                self.failing.clear()
            elif isinstance(result.error, ModelError) or not isinstance(result.error, NeverblinkError):
                self.failing.append(result.error)  # the others are told of a stream that was asked too much
            listener = self.listeners.get(result.stream_id)
            if listener is not None:
                self._tell(result.stream_id, listener, partial(listener.on_result, result))
        for stream_id, listener in list(self.listeners.items()):
            self._tell(stream_id, listener, listener.on_round)

    def _tell(self, stream_id: str, listener: Listener, tell: Callable[[], None]) -> None:
        """A listener that fails ends its own stream."""
        try:
            tell()
        except Exception as error:
            traceback.print_exc(file=sys.stderr)  # a fault of ours: somebody has to see where
            if stream_id in self.engine.stream_ids:
                self.engine.remove(stream_id)
            with contextlib.suppress(Exception):  # it has failed already
                listener.on_result(Result(stream_id, error=error))
