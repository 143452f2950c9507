"""A source that a decode child reads: starts the child, waits for it, replaces it when a live source went away.

One thread (the pump) owns the child from its start to its end: Linux ends a child together with the THREAD that
started it. The reader of the frames only ever sees the queue, and listeners are called from the reader's thread.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Literal, Self

import neverblink
from neverblink.errors import SourceDamaged, SourceError, SourceRefused
from neverblink.sources.base import SourceOptions, redact
from neverblink.sources.life import Life
from neverblink.sources.queue import FrameQueue, Note, Over
from neverblink.sources.relay import Relay
from neverblink.sources.relay import reason as relay_reason
from neverblink.sources.wire import Reader, WireError
from neverblink.types import Frame, SourceInfo

START_PATIENCE = 15.0  # seconds for a child to start on a busy machine
MARGIN = 0.5  # seconds that a child gets to tell of its own time-out before it counts as stuck
SPARE_SECONDS = 60.0  # of an outage in which a child for its end is kept ready
STALL_PART = 0.5  # of the patience with a silent source, after which it counts as stalled
PASSED_ON = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH")  # of our environment


class _LostError(Exception):
    """The source or its child went away; a live source may come back."""


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
        relay: Relay | None = None,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], bool] | None = None,
    ):
        """`relay`: the child's way to the network. `clock`, `wait`: of the life of a live source; a test's own."""
        self.name = redact(name)
        self.kind = kind
        self.options = options
        self.child_pid: int | None = None  # of the child that is alive now
        self._url = url
        self._rules = rules
        self._relay = relay
        self._queue = FrameQueue(max(2, math.ceil(options.fps * options.queue_seconds)))
        self._stop = threading.Event()
        self._opened: Future[SourceInfo] = Future()
        self._pump: threading.Thread | None = None
        self._clock = clock
        self._wait = wait or self._stop.wait
        self.life = Life(self._tell, clock)
        self._spare: subprocess.Popen[bytes] | None = None
        self._first_wall: float | None = None  # monotonic wall clock at media time 0
        self._last = -1.0  # media time of the newest frame

    def __enter__(self) -> Self:
        thread = threading.Thread(target=self._run, name=f"source {self.name}", daemon=True)
        thread.start()
        self._pump = thread  # only now: `close`, which any thread may call, waits for it
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

    # -- the pump thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            if self._relay is not None:
                self._relay.open()
            try:
                over = Over(self._sessions())
            finally:
                self.life.end()
                self._drop_spare()
                if self._relay is not None:
                    self._relay.close()
            self._queue.put(over, may_drop=False)
        except Exception as error:  # ours to fix, the reader's to see; never a silent end of a stream
            self._queue.put(Over(error), may_drop=False)
            if not self._opened.done():
                self._opened.set_exception(error)

    def _sessions(self) -> Exception | None:
        """Connections, one after the other; returns the error that the reader should see at the end, if any."""
        while True:
            self.life.begin()
            try:
                return self._session()
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
            wait = self.life.lose(self._safe(failure))
            self._warm_up()
            if self._wait(wait):
                return None

    @property
    def door(self) -> int | None:
        """The port of our relay, for a network source that is open."""
        return None if self._relay is None else self._relay.port

    @property
    def info_live(self) -> bool:
        return self._opened.result().live

    def _session(self) -> Exception | None:
        """One connection, from its start to its last message; returns at the regular end of the source."""
        relay = self._relay
        if relay is None:
            return self._one_child()
        try:
            self._prepare(relay)
            return self._one_child()
        except (_LostError, SourceError, WireError) as error:
            # The relay knows better than the child what stood in the way.
            if relay.refusal is not None and not self._stop.is_set():
                raise SourceRefused(f"{self.name}: {relay.refusal}") from error
            if relay.trouble and not self._stop.is_set():
                raise _LostError(relay.trouble) from error
            raise
        finally:
            relay.hang_up()

    def _prepare(self, relay: Relay) -> None:
        try:
            relay.prepare()
        except SourceRefused as refusal:
            raise SourceRefused(f"{self.name}: {refusal}") from refusal
        except OSError as error:
            raise _LostError(relay_reason(error)) from error

    def _one_child(self) -> Exception | None:
        child = self._start_child()
        try:
            assert child.stdout is not None
            max_body = 3 * self.options.max_pixels + 4096
            reader = Reader(child.stdout.fileno(), max_body_bytes=max_body, is_stopped=self._stop.is_set)
            patience, offset = START_PATIENCE, None
            while True:
                quiet = STALL_PART * patience
                if not reader.wait(quiet):
                    self.life.stall()
                    quiet = patience - quiet
                kind, note, pixels = reader.read(quiet)
                if kind in ("frame", "alive"):
                    self.life.show()
                if kind == "hello":
                    patience = self.options.open_timeout + MARGIN
                elif kind == "info":
                    patience = note["patience"] + MARGIN
                    if self.life.lost_at is not None and not note["live"]:
                        return None  # a live playlist was closed: what is there now is the past
                    self._announce(note)
                elif kind == "frame":
                    if offset is None:
                        offset = self._offset()
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
            end(child)

    def request(self) -> dict[str, Any]:
        """What the child is asked for."""
        return {
            "parent": os.getpid(),
            "url": self._relay.child_url()
            if self._relay is not None
            else self._url,  # by stdin, not by argument: a URL may hold a password and anyone can read arguments
            "proxy": self._relay.proxy() if self._relay is not None else None,
            "door": self.door,
            "kind": self.kind,
            "rules": self._rules,
            "fps": self.options.fps,
            "start": self.options.start if self._last < 0 else 0.0,
            "end": self.options.end,
            "max_pixels": self.options.max_pixels,
            "begun": time.monotonic(),  # the same clock as the child's
            "open_timeout": self.options.open_timeout,
            "read_timeout": self.options.read_timeout,
        }

    def _start_child(self) -> subprocess.Popen[bytes]:
        spare, self._spare = self._spare, None
        child = spare if spare is not None and spare.poll() is None else spawn()
        self.child_pid = child.pid
        assert child.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died at once; reading from it will say so
            child.stdin.write(json.dumps(self.request()).encode() + b"\n")
        return child

    def _warm_up(self) -> None:
        """While a camera is away for a moment, the child of its return waits already: a start takes half a second."""
        if self.life.away() < SPARE_SECONDS:
            if self._spare is None or self._spare.poll() is not None:
                self._spare = spawn()
        else:
            self._drop_spare()

    def _drop_spare(self) -> None:
        spare, self._spare = self._spare, None
        if spare is not None:
            end(spare)

    def _announce(self, note: dict[str, Any]) -> None:
        info = SourceInfo(
            self.name, self.kind, note["live"], note["width"], note["height"], note["codec"], note["duration"]
        )
        self._tell("source", f"open: {self.name}, {info.codec} {info.width}x{info.height}")
        if not self._opened.done():
            self._opened.set_result(info)

    def _offset(self) -> float:
        """Media time at which a connection begins: 0, or later by the wall time that passed since then."""
        now = self._clock()
        if self._first_wall is None:
            self._first_wall = now
            return 0.0
        passed = max(now - self._first_wall, self._last + 1 / self.options.fps)
        offset = math.ceil(passed * self.options.fps - 1e-6) / self.options.fps
        self._tell("gap", f"back after {self.life.away():.1f} s", offset)
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
        text = str(message).replace(self._url, self.name)
        return redact(text.replace(self._relay.child_url(), self.name) if self._relay is not None else text)


def spawn() -> subprocess.Popen[bytes]:
    """A decode child that waits for its request; it belongs to the thread that called."""
    ours = str(Path(neverblink.__file__).parent.parent)
    search = dict.fromkeys([ours, *(entry for entry in sys.path if os.path.isabs(entry))])
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    environment |= {"PYTHONPATH": os.pathsep.join(search), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    environment["MALLOC_ARENA_MAX"] = "2"  # each thread's own would count against the child's memory
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "neverblink.sources.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        cwd="/",
        env=environment,
    )


def end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.wait()
    for pipe in (child.stdin, child.stdout):
        pipe.close()  # type: ignore[union-attr]
