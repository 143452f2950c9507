"""The heart of the server: one engine, its streams, the journal, and what clients may ask of them."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import secrets
import shutil
import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from neverblink.errors import BudgetError, ConfigError, NeverblinkError, SourceRefused
from neverblink.memory.journal import Journal
from neverblink.model import Model
from neverblink.options import StreamOptions
from neverblink.outputs.base import Output
from neverblink.script import Script
from neverblink.server.feed import Feed
from neverblink.server.guard import public_addresses
from neverblink.server.hooks import Hooks
from neverblink.server.options import ServeOptions
from neverblink.server.problems import Problem
from neverblink.server.sessions import Session
from neverblink.server.spec import Spec, spec_of
from neverblink.server.talks import Talk
from neverblink.server.vault import Vault
from neverblink.server.watchdog import Watchdog
from neverblink.server.worker import Worker
from neverblink.sources import kind_of, redact
from neverblink.sources.addresses import ReachRule

T = TypeVar("T")
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds
DRAIN = 2.0  # seconds that a stop has for what was read and is not watched yet
TALKS = 2  # slots for conversations, besides those of the streams
NEW_KINDS = ("arcade", "camera", "file", "network", "push")  # what a client may start
CLIENT_SOURCE = re.compile(r"push|upload:[0-9a-f]{16}|arcade:.+|camera:\d{1,3}|(?:rtsps?|https?)://.+", re.DOTALL)


class Histogram:
    """Counts of values up to each bound, and their sum."""

    def __init__(self, bounds: Sequence[float] = BUCKETS):
        self.bounds, self.counts, self.sum = tuple(bounds), [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Hub:
    """Make one inside the event loop; `open` before use, `close` at the end.

    Args:
        model: what watches. stream_options: how each stream remembers and speaks.
    """

    def __init__(self, model: Model, options: ServeOptions, stream_options: StreamOptions | None = None):
        self.model, self.options = model, options
        self.folder = options.folder
        for folder in (self.folder, self.folder / "snapshots", self.folder / "uploads"):
            try:
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            except OSError as error:
                raise ConfigError(f"cannot make {folder}: {error.strerror}; name another folder with --data") from error
        self._lock = (self.folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(
                f"another neverblink serve uses {self.folder}; stop it, or name another folder with --data"
            ) from error
        for name in ("uploads/*.part", "snapshots/.*.part"):  # of a server that was killed while it wrote
            for path in self.folder.glob(name):
                path.unlink(missing_ok=True)
        self._own = stream_options or model.options()
        self.script = lru_cache(maxsize=64)(self._script)
        self.engine = model.engine((self._own,), max_streams=options.max_streams + TALKS)
        self.journal = Journal(self.folder / "journal.db", keep_days=options.keep_days, keep_mb=options.keep_mb)
        os.chmod(self.journal.path, 0o600)  # what a camera has seen is nobody else's business
        self.vault = Vault(self.folder / "addresses.json")
        self.journal_error, self.journal_failures = "", 0
        self.worker, self.watchdog = Worker(self.engine), Watchdog(self)
        self.feed = Feed(self.journal)
        self.hooks = Hooks(allow_private=options.allow_private_urls)
        self.sessions: dict[str, Session] = {}
        self.latencies, self.ttfts = Histogram(), Histogram()
        self.began = time.time()
        self.closing = False
        self.on_over: Callable[[Session], None] = lambda session: None
        self._tasks: list[asyncio.Task[None]] = []

    # -- beginning and end --------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Start the engine, and the streams that were there when the server last stopped."""
        self.worker.start()
        self._tasks = [asyncio.create_task(self._tick()), asyncio.create_task(self.watchdog.run())]
        for record in self.journal.streams():
            if not record.about.get("open"):
                continue
            session = Session(self, record.id, spec_of(self.vault.reveal(record.id, record.about)), record.created)
            try:
                await self._admit(session)
            except NeverblinkError as error:
                session.state, session.trouble = "failed", str(error)
                continue
            state: Any = record.about.get("state")
            if state in ("starting", "running"):
                session.start()
            else:
                session.state = state

    async def close(self) -> None:
        """Stop every stream where it is; it goes on from there at the next start."""
        self.closing = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*(asyncio.to_thread(session.halt) for session in self.sessions.values()))
        if self.worker.alive:  # else the snapshots are as they were
            await self.call(self._save_all)
        await asyncio.to_thread(self.worker.stop)
        await asyncio.to_thread(self.engine.close)
        await asyncio.to_thread(self.hooks.close)
        self.journal.close()
        self._lock.close()

    def _save_all(self) -> None:
        end = time.monotonic() + DRAIN
        while self.engine.has_work and time.monotonic() < end:  # what was read is still watched
            for result in self.engine.advance():
                listener = self.worker.listeners.get(result.stream_id)
                if listener is not None:
                    listener.on_result(result)
        for stream_id in filter(self.engine.is_busy, self.engine.stream_ids):
            self.engine.remove(stream_id)  # its turn is undone, so that none is kept by halves; it is watched again
        for session in self.sessions.values():
            session.save()
            session.remember()

    async def call(self, work: Callable[[], T]) -> T:
        """Have something done on the engine's thread."""
        return await asyncio.wrap_future(self.worker.call(work))

    async def _tick(self) -> None:
        while True:
            self.feed.mention("", "server", {"memory_bytes": memory_bytes(), "clients": self.feed.clients})
            await asyncio.sleep(2)

    # -- streams ------------------------------------------------------------------------------------------------------

    async def create(self, spec: Spec, outputs: Sequence[Output] = ()) -> Session:
        """Start a stream.

        Raises:
            SourceRefused: the source is none. BudgetError: every slot is taken by a stream that runs.
        """
        session = Session(self, f"s-{secrets.token_hex(4)}", spec, time.time(), outputs)
        await self._admit(session)
        await self.call(session.remember)
        session.start()
        return session

    async def _admit(self, session: Session) -> None:
        while len([s for s in self.sessions.values() if s.stream is not None]) >= self.options.max_streams:
            over = [s for s in self.sessions.values() if s.state in ("ended", "failed") and s.stream is not None]
            if not over:
                raise BudgetError(
                    f"all {self.options.max_streams} places are taken; delete a stream, or serve with --max-streams"
                )
            await self.call(over[0].leave)  # it can no longer be asked, but is still in the journal
        await self.call(session.enter)
        self.sessions[session.id] = session

    def get(self, stream_id: str) -> Session:
        if stream_id not in self.sessions:
            raise Problem(404, f"no stream {stream_id!r}; here are: {', '.join(self.sessions) or 'none'}")
        return self.sessions[stream_id]

    async def pause(self, session: Session) -> None:
        if session.state not in ("starting", "running"):
            raise Problem(409, f"stream {session.id} is {session.state} and cannot be paused")
        await asyncio.to_thread(session.halt)

        def set_down() -> None:
            session.state = "paused"
            session.remember()
            self.feed.mention(session.id, "state", {"state": "paused"})

        await self.call(set_down)

    async def resume(self, session: Session) -> None:
        if session.state not in ("paused", "failed"):
            raise Problem(409, f"stream {session.id} is {session.state} and cannot be resumed")
        await asyncio.to_thread(session.halt)
        if session.stream is None:  # its failure has cost it its place, not its memory
            await self._admit(session)
        session.trouble = ""
        await self.call(session.start)

    async def delete(self, session: Session) -> None:
        """End a stream and let its memory go; its lines stay in the journal."""
        self.sessions.pop(session.id, None)
        await asyncio.to_thread(session.halt)
        await self.call(session.leave)
        await self.call(lambda: self._close_record(session))
        self.feed.forget(session.id)
        if session.spec.source.startswith("upload:"):
            Path(self.path_of(session.spec.source, must_exist=False)).unlink(missing_ok=True)

    def _close_record(self, session: Session) -> None:
        session.forget()
        session.remember(open=0)
        self.vault.forget(session.id)  # nobody starts it again

    async def talk(self) -> Talk:
        """A place for one conversation; the caller has it `leave`.

        Raises:
            Problem: too many are being held.
        """
        talk = Talk(self, f"talk-{secrets.token_hex(4)}")
        try:
            await self.call(talk.enter)
        except BudgetError as error:
            raise Problem(429, "too many conversations at once; try again in a moment", {"Retry-After": "1"}) from error
        return talk

    # -- what streams need --------------------------------------------------------------------------------------------

    def check_client_source(self, source: str) -> None:
        """Refuse what a client may not have us open; may look a name up, so not on the event loop.

        Raises:
            SourceRefused: says what is allowed.
        """
        if not CLIENT_SOURCE.fullmatch(source):
            raise SourceRefused(
                "a source is arcade:GAME, camera:0, rtsp:// http:// https://, push, or upload:ID from /v1/uploads; "
                "name files and screens on the command line of neverblink serve"
            )
        if source.startswith("upload:"):
            self.path_of(source)
        elif source != "push":
            try:
                kind = kind_of(source)
            except ValueError as error:
                raise SourceRefused(f"{source} is not a URL: {error}") from error
            if kind not in NEW_KINDS:
                raise SourceRefused(f"{redact(source)}: a client may not start a {kind}")
            if kind == "network":
                public_addresses(source, allow_private=self.options.allow_private_urls)
            if kind == "arcade":
                from neverblink.arcade.sport import sports
                from neverblink.sources.arcade import parse_name

                game = parse_name(source)[0]
                if game not in set(sports):
                    raise SourceRefused(f"no arcade game {game!r}; known: {', '.join(sports)}")

    @property
    def reach_of_clients(self) -> ReachRule:
        """Where a source that a client has named may lead, from its first address to its last redirect."""
        return "any" if self.options.allow_private_urls else "public"

    def path_of(self, source: str, *, must_exist: bool = True) -> str:
        """The name that sources know for ours: an upload is a file."""
        if not source.startswith("upload:"):
            return source
        number = source.removeprefix("upload:")
        path = self.folder / "uploads" / number
        if not re.fullmatch(r"[0-9a-f]{16}", number) or (must_exist and (path.is_symlink() or not path.is_file())):
            raise SourceRefused(f"no upload {number!r}; send the file to /v1/uploads first")
        return str(path)

    def seen_at(self, stream_id: str) -> float:
        """Wall time of a stream's last sign of life."""
        entries = self.journal.events(stream_id, newest=True, limit=1)
        return entries[0].event.wall_time if entries else time.time()

    def stream_options(self, spec: Spec | None) -> StreamOptions:
        if spec is None or spec.fps is None:
            return self._own
        return replace(self._own, fps=spec.fps)

    def _script(self, spec: Spec | None) -> Script:
        return self.model.script(self.model.words((spec.query or None) if spec is not None else None))

    # -- how it is ----------------------------------------------------------------------------------------------------

    def troubles(self) -> list[str]:
        """Why it cannot work at this moment."""
        found = [text for text in (self.worker.trouble(), self.watchdog.trouble()) if text]
        if self.journal_error:
            found.append(f"the journal cannot be written: {self.journal_error}")
        with contextlib.suppress(OSError):
            if shutil.disk_usage(self.folder).free < 16 * 2**20:
                found.append(f"less than 16 MiB free in {self.folder}")
        if self.closing:
            found.append("the server shuts down")
        return found


def memory_bytes() -> int:
    """Memory that this process holds now."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):  # no Linux: the most it ever held
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
