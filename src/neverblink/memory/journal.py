"""The journal: one SQLite file with every event of every stream, its picture, and an index of its words.

WAL and one transaction an event: what `add` has returned is there after kill -9, and readers never wait for the
writer. Old lines go by age and by size; their pages are given back to the disk.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, Self

from neverblink.errors import ConfigError
from neverblink.types import Event

VERSION = 1
APPLICATION_ID = 0x6E626A31  # "nbj1" in the file's header: this is a journal and nothing else
PRUNE_EVERY = 500  # events between two looks at age and size
BATCH = 500  # events that one step of pruning lets go
STOP_WORDS = frozenset(  # too common to find anything by
    re.findall(
        r"\w+",
        "a an and are at did do does for from had has have he her his how i in is it me of on or she that the "
        "their them they this to was were what when where which who whom whose why will with you",
    )
)
EVENT_FIELDS = tuple(field.name for field in fields(Event))
COLUMNS = ", ".join(f"e.{name}" for name in EVENT_FIELDS)

SCHEMA = f"""
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {VERSION};
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT, seq INTEGER NOT NULL, stream_id TEXT NOT NULL, t_start REAL NOT NULL,
    t_end REAL NOT NULL, wall_time REAL NOT NULL, type TEXT NOT NULL, text TEXT NOT NULL, model TEXT NOT NULL,
    latency_ms REAL NOT NULL, tokens INTEGER NOT NULL, kv_tokens INTEGER NOT NULL, frames_used INTEGER NOT NULL,
    frames_dropped INTEGER NOT NULL, frames_skipped INTEGER NOT NULL, UNIQUE (stream_id, seq)
);
CREATE INDEX events_by_wall_time ON events (wall_time);
CREATE TABLE pictures (id INTEGER PRIMARY KEY, jpeg BLOB NOT NULL);
CREATE TABLE streams (id TEXT PRIMARY KEY, created REAL NOT NULL, about TEXT NOT NULL);
CREATE VIRTUAL TABLE words USING fts5 (text, content='events', content_rowid='id', tokenize='porter unicode61');
CREATE TRIGGER words_in AFTER INSERT ON events WHEN new.text <> '' BEGIN
    INSERT INTO words (rowid, text) VALUES (new.id, new.text);
END;
CREATE TRIGGER words_out AFTER DELETE ON events BEGIN
    INSERT INTO words (words, rowid, text) SELECT 'delete', old.id, old.text WHERE old.text <> '';
    DELETE FROM pictures WHERE id = old.id;
END;
"""


class Entry(NamedTuple):
    """One line of the journal."""

    row: int  # grows over all streams; never used twice
    event: Event
    has_picture: bool


@dataclass(frozen=True, slots=True)
class StreamRecord:
    """What is known about a stream, for as long as the journal has it."""

    id: str
    created: float  # wall seconds
    about: dict[str, Any]  # JSON: name, source, and whatever the owner needs to start it again


def default_folder() -> Path:
    """Where journals live when nobody names a place: $NEVERBLINK_DATA, else the user's data folder."""
    named = os.environ.get("NEVERBLINK_DATA")
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(named) if named else Path(home) / "neverblink"


def default_path() -> Path:
    return default_folder() / "journal.db"


class Journal:
    """Open a journal, or make one. Safe to use from several threads; other processes may read at the same time.

    Args:
        path: the file. keep_days: lines older than this go; None keeps them for ever.
        keep_mb: the file stays below this by letting the oldest lines go; None sets no limit.
        read_only: never makes or changes the file.
        now: wall seconds, for tests.

    Raises:
        ConfigError: no journal is there (read only), or the file is something else, or cannot be opened.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        keep_days: float | None = None,
        keep_mb: float | None = None,
        read_only: bool = False,
        now: Callable[[], float] = time.time,
    ):
        for name, value in (("keep_days", keep_days), ("keep_mb", keep_mb)):
            if value is not None and not value > 0:
                raise ConfigError(f"{name} is {value}; it must be above 0")
        self.path, self.keep_days, self.keep_mb, self._now = Path(path), keep_days, keep_mb, now
        self._lock = threading.RLock()
        self._since_prune = 0
        if read_only and not self.path.is_file():
            raise ConfigError(f"no journal at {self.path}; name one with --journal, or make one with neverblink serve")
        try:
            if not read_only:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            where = f"{self.path.resolve().as_uri()}?mode={'ro' if read_only else 'rwc'}"
            self._db = sqlite3.connect(where, uri=True, timeout=10, isolation_level=None, check_same_thread=False)
            self._open(read_only)
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"cannot open the journal {self.path}: {error}; name another file") from error

    def _open(self, read_only: bool) -> None:
        one = self._one
        if not read_only and not one("SELECT count(*) FROM sqlite_schema") and not one("PRAGMA user_version"):
            self._db.executescript(
                f"PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL; BEGIN; {SCHEMA} COMMIT;"
            )
        found, version = one("PRAGMA application_id"), one("PRAGMA user_version")
        if found != APPLICATION_ID or version != VERSION:
            self._db.close()
            raise ConfigError(
                f"{self.path} is no neverblink journal of version {VERSION} (found {version}); name another file"
            )
        # A process that is killed loses nothing; a power cut may lose the last seconds, never the file.
        self._db.execute("PRAGMA synchronous = NORMAL")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        with self._lock:
            self._db.close()

    # -- writing ------------------------------------------------------------------------------------------------------

    def add(self, event: Event, picture: bytes | None = None) -> int:
        """Keep an event, and the JPEG that belongs to it; on disk when this returns. Gives its row.

        Raises:
            sqlite3.Error: it could not be written (disk full, the sequence number is taken ...); nothing of it is kept.
        """
        marks = ", ".join("?" * len(EVENT_FIELDS))
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                text = event.text.encode("utf-8", "replace").decode()  # SQLite takes no half of a UTF-16 pair
                values = {**dict(zip(EVENT_FIELDS, astuple(event), strict=True)), "text": text}
                done = self._db.execute(
                    f"INSERT INTO events ({', '.join(EVENT_FIELDS)}) VALUES ({marks})", list(values.values())
                )
                row = int(done.lastrowid or 0)
                if picture is not None:
                    self._db.execute("INSERT INTO pictures (id, jpeg) VALUES (?, ?)", (row, picture))
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                with contextlib.suppress(sqlite3.Error):  # on a full disk the log of changes is what can be given back
                    self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                raise
            self._since_prune += 1
            if self._since_prune >= PRUNE_EVERY:
                self.prune()
            return row

    def put_stream(self, record: StreamRecord) -> None:
        """Remember a stream, or what has changed about it."""
        with self._lock:
            self._db.execute(
                "INSERT INTO streams (id, created, about) VALUES (?, ?, ?) "
                "ON CONFLICT (id) DO UPDATE SET about = excluded.about",
                (record.id, record.created, json.dumps(record.about)),
            )

    def prune(self) -> int:
        """Let go what is too old or too much; the number of lines that went."""
        gone = 0
        with self._lock:
            self._since_prune = 0
            if self.keep_days is not None:
                oldest = self._now() - self.keep_days * 86400
                gone += self._db.execute("DELETE FROM events WHERE wall_time < ?", (oldest,)).rowcount
            while self.keep_mb is not None and self.nbytes > self.keep_mb * 2**20:
                last = self._one("SELECT max(id) FROM (SELECT id FROM events ORDER BY id LIMIT ?)", BATCH)
                if last is None:
                    break
                gone += self._db.execute("DELETE FROM events WHERE id <= ?", (last,)).rowcount
            if gone:
                self._db.execute(
                    "DELETE FROM streams WHERE created < ? AND id NOT IN (SELECT stream_id FROM events) "
                    "AND json_extract(about, '$.open') IS NOT 1",
                    (self._now() - 86400,),
                )
                self._db.execute("PRAGMA incremental_vacuum").fetchall()
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return gone

    # -- reading ------------------------------------------------------------------------------------------------------

    @property
    def nbytes(self) -> int:
        """Bytes in use inside the file."""
        pages = int(self._one("PRAGMA page_count")) - int(self._one("PRAGMA freelist_count"))
        return pages * int(self._one("PRAGMA page_size"))

    def streams(self) -> list[StreamRecord]:
        """Oldest first."""
        with self._lock:
            rows = self._db.execute("SELECT id, created, about FROM streams ORDER BY created, id").fetchall()
        return [StreamRecord(name, created, json.loads(about)) for name, created, about in rows]

    def stream_ids(self) -> list[str]:
        """Streams that have a line here, the one with the newest line last."""
        with self._lock:
            rows = self._db.execute("SELECT stream_id FROM events GROUP BY stream_id ORDER BY max(id)").fetchall()
        return [row[0] for row in rows]

    def last_seq(self, stream_id: str) -> int:
        """The newest sequence number of a stream; -1 where it has none."""
        found = self._one("SELECT max(seq) FROM events WHERE stream_id = ?", stream_id)
        return -1 if found is None else int(found)

    def first_seq(self, stream_id: str) -> int | None:
        """The oldest sequence number that is still kept."""
        found = self._one("SELECT min(seq) FROM events WHERE stream_id = ?", stream_id)
        return None if found is None else int(found)

    def last_row(self) -> int:
        """The newest row of all; 0 in an empty journal. Rows that were let go count."""
        return int(self._one("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'events'"))

    def last_second(self, stream_id: str) -> float:
        """Media second up to which a stream was watched."""
        found = self._one(
            "SELECT max(t_end) FROM events WHERE stream_id = ? AND type IN ('caption', 'silence')", stream_id
        )
        return 0.0 if found is None else float(found)

    def picture(self, row: int) -> bytes | None:
        """The JPEG of a line."""
        found = self._one("SELECT jpeg FROM pictures WHERE id = ?", row)
        return None if found is None else bytes(found)

    def events(
        self,
        stream_id: str | None = None,
        *,
        after_seq: int | None = None,
        after_row: int | None = None,
        before_row: int | None = None,
        types: Iterable[str] | None = None,
        since: float | None = None,
        newest: bool = False,
        limit: int = 1000,
    ) -> list[Entry]:
        """Lines in their order.

        Args:
            after_seq, after_row, before_row: only those behind or before. since: wall seconds.
            newest: of more than `limit` lines the newest, not the oldest.
        """
        where, values = _where(stream_id, types, since)
        for test, value in (("e.seq > ?", after_seq), ("e.id > ?", after_row), ("e.id < ?", before_row)):
            if value is not None:
                where.append(test)
                values.append(value)
        order = "DESC" if newest else "ASC"
        entries = self._entries("", where, f"e.id {order}", [*values, limit])
        return entries[::-1] if newest else entries

    def search(
        self,
        words: str,
        stream_id: str | None = None,
        *,
        types: Iterable[str] | None = None,
        since: float | None = None,
        until: float | None = None,
        limit: int = 20,
        prefix: bool = False,
    ) -> list[Entry]:
        """Lines with these words in any form ("scored" finds "scores"), best first, the newer of two equals first.

        Args:
            words: plain words; "in quotes" they must follow each other. Nothing in them is a command.
            until: media seconds. prefix: the last word may be half typed.
        """
        query = fts_query(words, prefix=prefix)
        if not query:
            return []
        where, values = _where(stream_id, types, since)
        if until is not None:
            where.append("e.t_end <= ?")
            values.append(until)
        where.append("words MATCH ?")
        return self._entries(
            "JOIN words ON words.rowid = e.id", where, "round(bm25(words), 1), e.id DESC", [*values, query, limit]
        )

    def _entries(self, join: str, where: list[str], order: str, values: Sequence[Any]) -> list[Entry]:
        text = (
            f"SELECT e.id, p.id IS NOT NULL, {COLUMNS} FROM events e {join} LEFT JOIN pictures p ON p.id = e.id "
            f"{'WHERE ' + ' AND '.join(where) if where else ''} ORDER BY {order} LIMIT ?"
        )
        with self._lock:
            rows = self._db.execute(text, list(values)).fetchall()
        return [Entry(row, Event(*values), bool(has)) for row, has, *values in rows]

    def _one(self, text: str, *values: Any) -> Any:
        with self._lock:
            row = self._db.execute(text, values).fetchone()
        return None if row is None else row[0]


def _where(stream_id: str | None, types: Iterable[str] | None, since: float | None) -> tuple[list[str], list[Any]]:
    where: list[str] = []
    values: list[Any] = []
    if stream_id is not None:
        where.append("e.stream_id = ?")
        values.append(stream_id)
    if types is not None:
        wanted = list(types)
        where.append(f"e.type IN ({', '.join('?' * len(wanted))})")
        values += wanted
    if since is not None:
        where.append("e.wall_time >= ?")
        values.append(since)
    return where, values


def fts_query(words: str, *, prefix: bool = False) -> str:
    """What a person typed as an FTS5 query: any of the words, phrases whole, little words left out; "" for none."""
    parts = re.findall(r'"([^"]*\w[^"]*)"|(\w+(?:[-:]\w+)*)', words)
    # Each part goes in quotes, inside which FTS5 knows no operator.
    terms = [(phrase or word, bool(phrase)) for phrase, word in parts]
    told = [term for term, whole in terms if whole or term.lower() not in STOP_WORDS] or [term for term, _ in terms]
    quoted = [f'"{term}"' for term in told]
    if prefix and quoted and words[-1:].isalnum():
        quoted[-1] += "*"
    return " OR ".join(quoted)
