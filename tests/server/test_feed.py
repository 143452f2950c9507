"""Events to listeners: all of them, once, in order, however far behind; and an end for those who do not read."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from neverblink.memory.journal import Entry, Journal
from neverblink.outputs.base import Recorder
from neverblink.server.feed import KEEP, PAGE, Feed
from neverblink.server.run import in_one_line
from neverblink.server.sse import EventStream, TooSlow
from tests.server.running import wait_for


def test_a_listener_gets_every_event_once_from_journal_and_memory(tmp_path: Path) -> None:
    """From the first line on, over many pages, while more is told than memory keeps; other streams are left out."""
    before, during = 3 * PAGE + 7, 2 * KEEP + 50

    async def listen(journal: Journal) -> list[int]:
        recorders = {name: Recorder("m", name) for name in ("a", "b")}

        def tell(number: int) -> Entry:
            event = recorders["ab"[number % 3 == 0]].note("source", str(number), 0.0)
            return Entry(journal.add(event), event, False)

        for number in range(before):
            tell(number)
        feed, heard = Feed(journal), list[int]()
        coming = feed.follow("a", 0, by_seq=True)
        assert b"retry" in await anext(coming)
        for number in range(during):
            feed.publish(tell(before + number))
            if number % 50 == 0:  # a slow reader: memory goes on without it
                heard.append(await number_of(coming))
        last = journal.last_seq("a")
        while heard[-1] < last:
            heard.append(await number_of(coming))
        await coming.aclose()  # type: ignore[attr-defined]
        assert not feed.clients
        return heard

    with Journal(tmp_path / "j.db") as journal:
        heard = asyncio.run(listen(journal))
        assert list(range(journal.last_seq("a") + 1)) == heard


class Book:
    """A journal of streams a and b, with a feed."""

    def __init__(self, journal: Journal):
        self.journal = journal
        self.recorders = {name: Recorder("m", name) for name in ("a", "b")}
        self.tell("a")  # row 1
        self.tell("b")
        self.feed = Feed(journal)

    def tell(self, name: str) -> Entry:
        event = self.recorders[name].note("source", "x", 0.0)
        return Entry(self.journal.add(event), event, False)

    def publish(self, *names: str) -> None:
        for entry in [self.tell(name) for name in names]:
            self.feed.publish(entry)

    def after_next_read(self, then: Callable[[], None]) -> None:
        """`then` is done when the journal has been read and its reader does not know yet what was read."""
        read = self.journal.events

        def events(*args: Any, **how: Any) -> list[Entry]:
            page = read(*args, **how)
            self.journal.events = read  # type: ignore[method-assign]
            then()
            return page

        self.journal.events = events  # type: ignore[method-assign]

    async def first_heard(self, row: int) -> int:
        coming = self.feed.follow("a", row, by_seq=True)
        try:
            return await number_of(coming)
        finally:
            await coming.aclose()  # type: ignore[attr-defined]


def test_what_comes_while_a_listener_looks_where_to_begin_is_told(tmp_path: Path) -> None:
    async def listen(journal: Journal) -> int:
        book = Book(journal)
        book.after_next_read(lambda: book.publish("a"))
        row, gap = book.feed.begin("a", 0)
        assert gap is None
        return await book.first_heard(row)

    with Journal(tmp_path / "j.db") as journal:
        assert 1 == asyncio.run(listen(journal))


def test_what_memory_passes_by_while_a_page_is_read_is_told(tmp_path: Path) -> None:
    """The page has nothing for the listener; before it hears so, one event for it and many for others have come."""

    async def listen(journal: Journal) -> int:
        book = Book(journal)

        def much() -> None:  # in the thread that reads the page
            book.publish("a", *"b" * (2 * KEEP))
            wait_for(lambda: book.feed._since > 3)

        book.after_next_read(much)
        return await book.first_heard(1)

    with Journal(tmp_path / "j.db") as journal:
        assert 1 == asyncio.run(listen(journal))


async def number_of(coming: AsyncIterator[bytes]) -> int:
    async with asyncio.timeout(5):
        while not (part := await anext(coming)).startswith(b"id: "):
            pass
    return int(part[4:].split(b"\n")[0])


def test_a_listener_that_does_not_read_is_cut() -> None:
    """After its time, with the feed told and let go; the log has one line and no traceback."""
    told: list[str] = []

    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x"
        finally:
            told.append("let go")

    async def serve() -> None:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)
            if len(sent) > 3:
                await asyncio.Event().wait()  # its buffers are full

        async def receive() -> Any:
            await asyncio.Event().wait()

        response = EventStream(endless(), slow=0.05, on_cut=lambda: told.append("cut"))
        await asyncio.wait_for(response({"type": "http"}, receive, send), 10)

    with pytest.raises(TooSlow) as cut:
        asyncio.run(serve())
    assert ["cut", "let go"] == told
    record = logging.LogRecord("x", logging.ERROR, "", 0, "Exception", (), (TooSlow, cut.value, None))
    assert in_one_line(record)
    assert ("a listener reads too slowly", None) == (record.getMessage()[:27], record.exc_info)
