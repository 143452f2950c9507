"""The thread that reads the source of a stream, and hands its seconds to the engine on the stream's own clock."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Self

from neverblink.errors import NeverblinkError, SourceDamaged, SourceError, SourceRefused
from neverblink.sources import open_source
from neverblink.sources.base import Source, SourceOptions
from neverblink.sources.chunks import chunks
from neverblink.sources.life import Life
from neverblink.types import Chunk, Frame, SourceInfo

if TYPE_CHECKING:
    from neverblink.server.sessions import Session

SEEKABLE = ("file", "arcade")  # kinds that go on where they were; the others have gone on without us
COME_BACK = ("network", "camera")  # kinds that may be away when we are back
SLOW_WAIT = 0.25  # seconds until a chunk that was not taken is offered again, if nobody says so before


class Tap:
    """A source whose newest frame can be looked at, on a clock that goes on after a pause."""

    def __init__(self, source: Source, session: Session):
        self.source, self.session, self.offset = source, session, 0.0

    info: SourceInfo

    def __enter__(self) -> Self:
        self.source.__enter__()
        self.info = self.source.info
        return self

    def __exit__(self, *exc: object) -> None:
        self.source.__exit__(*exc)

    def frames(self) -> Iterator[Frame]:
        for frame in self.source.frames():
            moved = replace(frame, time=frame.time + self.offset) if self.offset else frame
            self.session.frame, self.session.frame_number = moved, self.session.frame_number + 1
            yield moved

    def take_dropped(self) -> int:
        return self.source.take_dropped()

    def close(self) -> None:
        self.source.close()


class Reader:
    """Reads a session's source from where the stream stands until it is over or stopped; for one run."""

    def __init__(self, session: Session):
        self._session = session
        self._at = session.caption.end if session.caption else session.begun
        self._seen = session.hub.seen_at(session.id)  # wall clock
        self._source: Tap | None = None
        self._halt = threading.Event()
        self._room = threading.Event()  # the engine has taken a chunk up
        self._thread = threading.Thread(target=self._run, name=f"reader {session.id}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Any thread but the engine's, which this one may be waiting for."""
        self.give_up()
        source = self._source
        if source is not None:
            source.close()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def give_up(self) -> None:
        """Stop soon; any thread, without waiting."""
        self._halt.set()
        self._room.set()

    def make_room(self) -> None:
        """The engine can take a chunk again."""
        self._room.set()

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        ended: Literal["ended", "failed"] = "ended"
        trouble = ""
        try:
            self._watch_for_ever()
        except NeverblinkError as error:
            ended, trouble = "failed", str(error)
        except Exception as error:  # a fault of ours ends this stream and is seen, not the server
            ended, trouble = "failed", f"unexpected {type(error).__name__}: {error}"
        finally:
            self._source = None
        if not self._halt.is_set():
            self._session.hub.worker.call(lambda: self._session.over(ended, trouble))

    def _watch_for_ever(self) -> None:
        """A live source that was watched before may be away longer than we were; one never seen fails at once."""
        known = self._at > 0 and self._session.kind in COME_BACK
        life = Life(lambda kind, text: self._session.on_source(kind, text, self._at))
        while not self._halt.is_set():
            life.begin()
            opening = True
            try:
                self._source = source = self._tap()
                if self._halt.is_set():  # whoever stops us from here on closes the source, and that ends its opening
                    return
                with source:
                    opening = False
                    self._watch(source)
                    return
            except (SourceRefused, SourceDamaged):
                raise
            except SourceError as error:
                if not (known and opening):
                    raise
                self._halt.wait(life.lose(str(error)))

    def _tap(self) -> Tap:
        session, hub = self._session, self._session.hub
        options = SourceOptions(
            fps=session.fps,
            realtime=session.spec.runs_by_the_clock,
            start=self._at if session.kind in SEEKABLE else 0.0,
            end=session.spec.seconds,
            reach=hub.reach_of_clients if session.spec.by_client else "named",
            on_event=lambda kind, text, at: session.on_source(kind, text, at + tap.offset),
        )
        source: Any = session.push or open_source(hub.path_of(session.spec.source), options)
        tap = Tap(source, session)
        return tap

    def _watch(self, source: Tap) -> None:
        session = self._session
        if self._halt.is_set():
            return
        if self._at > 0 and session.kind not in SEEKABLE:
            away = max(0.0, time.time() - self._seen)
            source.offset = float(math.ceil(self._at + away))
            session.on_source("gap", f"back after {away:.1f} s", self._at)
        session.runs(source.info)
        options = session.hub.stream_options(session.spec)
        for chunk in chunks(source, options.fps, options.chunk_seconds):
            if self._halt.is_set() or not self._hand_over(chunk):
                return
            if session.spec.seconds is not None and chunk.end >= session.spec.seconds - 1e-6:
                return

    def _hand_over(self, chunk: Chunk) -> bool:
        """Give a chunk to the engine; a file waits until there is room. False when the stream is gone."""
        session = self._session
        if session.watched_before(chunk):
            return True
        while not self._halt.is_set():
            self._room.clear()
            taken: bool | None = session.hub.worker.call(lambda: session.submit(chunk)).result()
            if taken is not None:
                return taken
            self._room.wait(SLOW_WAIT)
        return False
