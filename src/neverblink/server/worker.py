"""The one thread that owns the engine. Everybody else hands it work and waits for a future."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

from neverblink.engine import Engine, Result
from neverblink.errors import ConfigError

T = TypeVar("T")
IDLE = 0.5  # seconds between two signs of life while there is nothing to do


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
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._changed = threading.Condition()
        self._stop = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        with self._changed:
            self._stop = True
            self._changed.notify()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and self.failure is None

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
        for result in self.engine.advance():
            listener = self.listeners.get(result.stream_id)
            if listener is not None:
                listener.on_result(result)
        for listener in list(self.listeners.values()):
            listener.on_round()
