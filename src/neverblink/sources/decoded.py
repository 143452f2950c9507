"""A source that a decode child reads: starts the child, waits for it, replaces it when a live source went away.

One thread (the pump) owns the child from its start to its end: Linux ends a child together with the THREAD that
started it. The reader of the frames only ever sees the queue, and listeners are called from the reader's thread.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Literal, Self

import neverblink
from neverblink.errors import SourceDamaged, SourceError, SourceRefused
from neverblink.sources.base import SourceOptions, redact
from neverblink.sources.queue import FrameQueue, Note, Over
from neverblink.sources.wire import Reader, WireError
from neverblink.types import Frame, SourceInfo

START_PATIENCE = 15.0  # seconds for a child to start on a busy machine
MARGIN = 0.5  # seconds that a child gets to tell of its own time-out before it counts as stuck
LONGEST_WAIT = 30.0  # seconds between two attempts to reconnect
TELL_EVERY = 60.0  # seconds between two error events of one outage
PASSED_ON = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR")  # of our environment


class _LostError(Exception):
    """The source or its child went away; a live source may come back."""


def retry_waits(rng: random.Random) -> Iterator[float]:
    """Seconds to wait before each attempt to reconnect: at most 0.5 at first, 30 in the end, never in lock-step."""
    wait = 0.5
    while True:
        yield wait * rng.uniform(0.5, 1.0)
        wait = min(wait * 1.2, LONGEST_WAIT)


class DecodedSource:
    """Frames of a file, a camera or a network address, decoded in a child process."""

    info: SourceInfo

    def __init__(
        self,
        name: str,
        url: str,
        *,
        kind: Literal["file", "camera", "network"],
        rules: str,
        options: SourceOptions,
    ):
        self.name = redact(name)
        self.kind = kind
        self.options = options
        self.child_pid: int | None = None  # of the child that is alive now
        self._url = url
        self._rules = rules
        self._queue = FrameQueue(max(2, math.ceil(options.fps * options.queue_seconds)))
        self._stop = threading.Event()
        self._opened: Future[SourceInfo] = Future()
        self._pump: threading.Thread | None = None
        self._first_wall: float | None = None  # monotonic wall clock at media time 0
        self._last = -1.0  # media time of the newest frame

    def __enter__(self) -> Self:
        self._pump = threading.Thread(target=self._run, name=f"source {self.name}", daemon=True)
        self._pump.start()
        try:
            self.info = self._opened.result()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def frames(self) -> Iterator[Frame]:
        began: float | None = None
        while True:
            item = self._queue.get()
            if isinstance(item, Note):
                self.options.on_event(item.kind, item.text, item.at)
            elif isinstance(item, Over):
                if item.error is not None:
                    raise item.error
                return
            else:
                if self.options.realtime and not self.info.live:
                    began = time.monotonic() - item.time if began is None else began
                    self._stop.wait(max(0.0, began + item.time - time.monotonic()))
                yield item

    def take_dropped(self) -> int:
        return self._queue.take_dropped()

    def close(self) -> None:
        self._stop.set()
        self._queue.close()
        if self._pump is not None:
            self._pump.join()
            self._pump = None

    # -- the pump thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._queue.put(Over(self._sessions()), may_drop=False)
        except Exception as error:  # ours to fix, the reader's to see; never a silent end of a stream
            self._queue.put(Over(error), may_drop=False)
            if not self._opened.done():
                self._opened.set_exception(error)

    def _sessions(self) -> Exception | None:
        """Connections, one after the other; returns the error that the reader should see at the end, if any."""
        waits, told = retry_waits(random.Random()), -math.inf
        lost_at: float | None = None
        while True:
            before = self._last
            try:
                return self._session(lost_at)
            except SourceError as error:
                if not self._opened.done():
                    self._opened.set_exception(error)
                    return None
                failure: Exception = error
            except (_LostError, WireError) as error:
                failure = error
                if not self._opened.done():
                    self._opened.set_exception(SourceError(f"{self.name}: {self._safe(failure)}"))
                    return None
            if self._stop.is_set():
                return None
            if not self.info_live:
                if isinstance(failure, SourceDamaged) or (isinstance(failure, SourceError) and self._last < 0):
                    return failure
                at = max(0.0, self._last)
                where = "" if isinstance(failure, SourceError) else f"{self.name}: "  # ours name the source already
                return SourceDamaged(f"{where}{self._safe(failure)}, at {at:.2f} s", at)
            if not self.options.retry:
                return SourceError(f"{self.name}: {self._safe(failure)}; it is not tried again (retry is off)")
            if self._last > before or lost_at is None:  # it had come back: a new outage
                waits, told, lost_at = retry_waits(random.Random()), -math.inf, time.monotonic()
            if time.monotonic() - told >= TELL_EVERY:
                self._tell("error", f"{self._safe(failure)}; reconnecting")
                told = time.monotonic()
            if self._stop.wait(next(waits)):
                return None

    @property
    def info_live(self) -> bool:
        return self._opened.result().live

    def _session(self, lost_at: float | None) -> Exception | None:
        """One child, from its start to its last message; returns at the regular end of the source."""
        child = self._start_child()
        try:
            assert child.stdout is not None
            max_body = 3 * self.options.max_pixels + 4096
            reader = Reader(child.stdout.fileno(), max_body_bytes=max_body, is_stopped=self._stop.is_set)
            patience, offset = START_PATIENCE, None
            while True:
                kind, note, pixels = reader.read(patience)
                if kind == "hello":
                    patience = self.options.open_timeout + MARGIN
                elif kind == "info":
                    patience = note["patience"] + MARGIN
                    if lost_at is not None and not note["live"]:
                        return None  # a live playlist was closed: what is there now is the past
                    self._announce(note)
                elif kind == "frame":
                    if offset is None:
                        offset = self._offset(lost_at)
                    if not self._pass_on(offset + note["t"], pixels.reshape(note["h"], note["w"], 3)):
                        return None
                elif kind == "gap":
                    text = f"the source's clock jumped by {note['seconds']:.1f} s"
                    self._tell("gap", text, (offset or 0) + note["at"])
                elif kind in ("end", "damaged"):
                    if note["broken"]:
                        self._tell("error", f"broken packets left out: {note['broken']}")
                    if kind == "damaged":
                        raise SourceDamaged(f"{self.name}: {note['text']}", at=note["at"])
                    if self.info_live:
                        raise _LostError("the source ended")
                    return None
                elif kind == "refused":
                    raise SourceRefused(f"{self.name}: {self._safe(note['text'])}")
                elif kind == "failed":
                    raise _LostError(note["text"])
        finally:
            self.child_pid = None
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                pipe.close()  # type: ignore[union-attr]

    def _start_child(self) -> subprocess.Popen[bytes]:
        request = {
            "parent": os.getpid(),
            "url": self._url,  # by stdin, not by argument: a URL may hold a password and anyone can read arguments
            "kind": self.kind,
            "rules": self._rules,
            "fps": self.options.fps,
            "start": self.options.start if self._last < 0 else 0.0,
            "end": self.options.end,
            "max_pixels": self.options.max_pixels,
            "open_timeout": self.options.open_timeout,
            "read_timeout": self.options.read_timeout,
        }
        ours = str(Path(neverblink.__file__).parent.parent)
        search = dict.fromkeys([ours, *(entry for entry in sys.path if os.path.isabs(entry))])
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        environment |= {"PYTHONPATH": os.pathsep.join(search), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "neverblink.sources.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd="/",
            env=environment,
        )
        self.child_pid = child.pid
        assert child.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died at once; reading from it will say so
            child.stdin.write(json.dumps(request).encode() + b"\n")
        return child

    def _announce(self, note: dict[str, Any]) -> None:
        info = SourceInfo(
            self.name, self.kind, note["live"], note["width"], note["height"], note["codec"], note["duration"]
        )
        self._tell("source", f"open: {self.name}, {info.codec} {info.width}x{info.height}")
        if not self._opened.done():
            self._opened.set_result(info)

    def _offset(self, lost_at: float | None) -> float:
        """Media time at which a connection begins: 0, or later by the wall time that passed since then."""
        now = time.monotonic()
        if self._first_wall is None:
            self._first_wall = now
            return 0.0
        passed = max(now - self._first_wall, self._last + 1 / self.options.fps)
        offset = math.ceil(passed * self.options.fps - 1e-6) / self.options.fps
        self._tell("gap", f"back after {now - (lost_at or now):.1f} s", offset)
        return offset

    def _pass_on(self, at: float, pixels: Any) -> bool:
        """Hand a frame to the reader; False when nobody wants more."""
        if self._stop.is_set() or (self.options.end is not None and at >= self.options.end):
            return False
        if at > self._last:
            self._last = at
            self._queue.put(Frame(at, pixels), may_drop=self.info_live)
        return True

    def _tell(self, kind: str, text: str, at: float | None = None) -> None:
        self._queue.put(Note(kind, text, max(0.0, self._last if at is None else at)), may_drop=False)

    def _safe(self, message: object) -> str:
        return redact(str(message).replace(self._url, self.name))
