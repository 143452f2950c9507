"""Events to listeners: all of them, once, in order, however far behind; and an end for those who do not read."""

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from neverblink.memory.journal import Entry, Journal
from neverblink.outputs.base import Recorder
from neverblink.server.feed import KEEP, PAGE, Feed
from neverblink.server.run import in_one_line
from neverblink.server.sse import EventStream, TooSlow


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


async def number_of(coming: AsyncIterator[bytes]) -> int:
    async with asyncio.timeout(30):
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
