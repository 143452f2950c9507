"""Everything that happens, to whoever listens. Nobody has a queue of their own: a listener keeps the number of what it
has got, and reads on from the newest events in memory or, where those do not reach back, from the journal."""

from __future__ import annotations

import asyncio
import json
from bisect import bisect_right
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any, NamedTuple

from neverblink.memory.journal import Entry, Journal

KEEP = 512  # newest events in memory
PAGE = 50  # events read from the journal at once
HEARTBEAT = 10.0  # seconds


class Told(NamedTuple):
    """An event that is in the journal."""

    row: int
    seq: int
    stream_id: str
    data: bytes  # JSON
    type: bytes


def told(entry: Entry) -> Told:
    event = entry.event
    return Told(entry.row, event.seq, event.stream_id, as_json(entry), event.type.encode())


def as_json(entry: Entry) -> bytes:
    """An event on the wire: its fields, and `row` and `picture` of the journal."""
    return json.dumps(as_dict(entry), ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")


def as_dict(entry: Entry) -> dict[str, Any]:
    return {**asdict(entry.event), "row": entry.row, "picture": entry.has_picture}


class Feed:
    """The newest events, and who waits for more. Lives on the event loop; any thread may `publish`."""

    def __init__(self, journal: Journal):
        self.journal = journal
        self.clients = 0
        self.cut = 0  # listeners that read too slowly
        self._loop = asyncio.get_running_loop()
        self._ring: list[Told] = []
        self._since = journal.last_row()  # everything behind this row is in the ring
        self._passing: dict[tuple[str, str], tuple[int, bytes]] = {}  # what no journal keeps: only the newest counts
        self._number = 0
        self._waiting: set[asyncio.Event] = set()
        self._over = False

    def publish(self, entry: Entry) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._add, told(entry))

    def mention(self, stream_id: str, kind: str, value: dict[str, Any]) -> None:
        """Something that is worth nothing a moment later: words half said, numbers."""
        data = json.dumps({"stream_id": stream_id, **value}, ensure_ascii=False).encode("utf-8", "replace")
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._pass, (stream_id, kind), data)

    def forget(self, stream_id: str) -> None:
        """A stream is gone; on the event loop."""
        for key in [key for key in self._passing if key[0] == stream_id]:
            del self._passing[key]

    def end(self) -> None:
        """Let every listener go, so that the server can stop; on the event loop."""
        self._over = True
        self._wake()

    def _add(self, item: Told) -> None:
        self._ring.append(item)
        if len(self._ring) > 2 * KEEP:
            self._since = self._ring[-KEEP - 1].row
            del self._ring[:-KEEP]
        self._wake()

    def _pass(self, key: tuple[str, str], data: bytes) -> None:
        self._number += 1
        self._passing[key] = (self._number, data)
        self._wake()

    def _wake(self) -> None:
        for event in self._waiting:
            event.set()

    def begin(self, stream_id: str, after_seq: int | None) -> tuple[int, dict[str, int] | None]:
        """The row behind which a listener of a stream begins, and the sequence numbers that it asks for in vain; any
        thread. None begins now."""
        newest = self.journal.last_row()  # first: what comes while we look is behind it
        if after_seq is None:
            return newest, None
        first, last = self.journal.first_seq(stream_id), self.journal.last_seq(stream_id)
        if after_seq > last:
            return newest, {"from": last + 1, "to": after_seq}
        rows = self.journal.events(stream_id, after_seq=after_seq, limit=1)
        gap = {"from": after_seq + 1, "to": first - 1} if first is not None and first > after_seq + 1 else None
        return (rows[0].row - 1 if rows else newest), gap

    async def follow(
        self, stream_id: str | None, after: int, *, by_seq: bool, gap: dict[str, int] | None = None
    ) -> AsyncIterator[bytes]:
        """Server-sent events of one stream, or of all, behind row `after`, for ever.

        Args:
            by_seq: ids are the stream's sequence numbers, else rows of the journal.
            gap: told first: what was asked for and is no longer there.
        """
        fresh, seen = asyncio.Event(), self._number
        self._waiting.add(fresh)
        self.clients += 1
        try:
            yield b"retry: 1000\n\n"
            if gap is not None:
                yield b"event: gap\ndata: " + json.dumps(gap).encode() + b"\n\n"
            while not self._over:
                fresh.clear()
                while after < (since := self._since):
                    page = await asyncio.to_thread(self._older, stream_id, after, since)
                    for item in page:
                        yield line(item, by_seq)
                    after = page[-1].row if page else since  # of then: memory has gone on meanwhile
                start = bisect_right(self._ring, after, key=lambda item: item.row)
                for item in self._ring[start:]:
                    if stream_id is None or item.stream_id == stream_id:
                        yield line(item, by_seq)
                    after = item.row
                if after < self._since:
                    continue  # the client was so slow that the ring went on without it
                passing = sorted(
                    (number, kind, data)
                    for (name, kind), (number, data) in self._passing.items()
                    if number > seen and (stream_id is None or name == stream_id)
                )
                seen = self._number
                for _, kind, data in passing:
                    yield b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"
                if not fresh.is_set():
                    try:
                        # Not wait_for: before Python 3.12 it can swallow a cancellation, and the listener would stay.
                        async with asyncio.timeout(HEARTBEAT):
                            await fresh.wait()
                    except TimeoutError:
                        yield b": still here\n\n"
        finally:
            self._waiting.discard(fresh)
            self.clients -= 1

    def _older(self, stream_id: str | None, after: int, since: int) -> list[Told]:
        return [told(e) for e in self.journal.events(stream_id, after_row=after, limit=PAGE) if e.row <= since]


def line(item: Told, by_seq: bool) -> bytes:
    number = item.seq if by_seq else item.row
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (number, item.type, item.data)
