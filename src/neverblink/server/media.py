"""Pictures and videos that come inside a message, as chunks for a conversation."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from neverblink.errors import SourceRefused
from neverblink.pictures import from_bytes
from neverblink.server.hub import Hub
from neverblink.server.problems import Problem
from neverblink.server.talks import Talk
from neverblink.sources import open_source
from neverblink.sources.base import SourceOptions
from neverblink.sources.chunks import chunks
from neverblink.types import Chunk, Frame

MOST_BYTES = 32 * 2**20  # of one picture or video inside a message
MOST_SECONDS = 600.0  # of a video that is watched for one answer
DATA_URL = re.compile(r"data:(?P<type>[\w.+-]+/[\w.+-]+)?(?:;[\w=.+-]+)*;base64,", re.ASCII)


def data_of(url: str) -> tuple[str, bytes]:
    """Type and bytes of a data: URL.

    Raises:
        SourceRefused: it is none, or too large.
    """
    head = DATA_URL.match(url)
    if head is None:
        raise SourceRefused("a picture is a data: URL in base64; the server fetches no pictures")
    if len(url) > MOST_BYTES * 4 // 3 + 200:
        raise SourceRefused(f"the data has more than {MOST_BYTES >> 20} MiB; upload it to /v1/uploads instead")
    try:
        return head["type"] or "", base64.b64decode(url[head.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise SourceRefused(f"the data: URL is no base64 ({error})") from error


class Viewer:
    """Shows pictures and videos to a conversation, one after the other, on one clock."""

    def __init__(self, hub: Hub, talk: Talk):
        self._hub, self._talk = hub, talk
        self._at = 0.0  # media seconds
        options = hub.stream_options(None)
        self._fps, self._seconds = options.fps, options.chunk_seconds

    async def picture(self, url: str) -> None:
        """One chunk of one frame."""
        pixels = await asyncio.to_thread(lambda: from_bytes(data_of(url)[1]))
        await self._show(Chunk(self._at, self._at + self._seconds, (Frame(self._at, pixels),)))

    async def video(self, url: str) -> None:
        """Every second of a video: a data: URL, an upload, or an address."""
        if not url.startswith("data:"):
            await asyncio.to_thread(self._hub.check_client_source, url)
            if url.startswith(("push", "camera:", "arcade:")):
                raise SourceRefused("a video that ends is needed: data:, http(s):// or upload:ID; or name stream://ID")
            await self._watch(self._hub.path_of(url))
            return
        data = await asyncio.to_thread(lambda: data_of(url)[1])
        with tempfile.NamedTemporaryFile(dir=self._hub.folder / "uploads", suffix=".part") as file:
            await asyncio.to_thread(Path(file.name).write_bytes, data)
            await self._watch(file.name)

    async def _watch(self, name: str) -> None:
        start, seen = self._at, 0
        async for chunk in self._chunks(name):
            moved = tuple(Frame(start + f.time, f.pixels) for f in chunk.frames)
            await self._show(Chunk(start + chunk.start, start + chunk.end, moved))
            seen += 1
        if not seen:
            raise SourceRefused("the video has no frame")

    async def _chunks(self, name: str) -> AsyncIterator[Chunk]:
        reach = self._hub.reach_of_clients
        source = open_source(name, SourceOptions(fps=self._fps, end=MOST_SECONDS, retry=False, reach=reach))
        await asyncio.to_thread(source.__enter__)
        try:
            waiting = chunks(source, self._fps, self._seconds)
            while (chunk := await asyncio.to_thread(next, waiting, None)) is not None:
                yield chunk
        finally:
            await asyncio.to_thread(source.close)

    async def _show(self, chunk: Chunk) -> None:
        loop = asyncio.get_running_loop()
        seen: asyncio.Future[None] = loop.create_future()

        def settle(error: Exception | None) -> None:
            if not seen.done():
                seen.set_exception(error) if error is not None else seen.set_result(None)

        def then(error: Exception | None) -> None:
            loop.call_soon_threadsafe(settle, error)

        await self._hub.call(lambda: self._talk.show(chunk, then))
        await seen
        self._at = chunk.end


def stream_of(hub: Hub, url: str) -> str | None:
    """The stream that stream://ID names; None for other URLs."""
    if not url.startswith("stream://"):
        return None
    name = url.removeprefix("stream://").rstrip("/")
    if name not in hub.sessions:
        raise Problem(404, f"no stream {name!r}; here are: {', '.join(hub.sessions) or 'none'}")
    return name
