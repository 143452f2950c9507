"""A response of server-sent events that never waits long for a slow reader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

SLOW = 10.0  # seconds that a client may let its buffers stay full before it is cut


class TooSlow(ConnectionError):
    """What ends a response that nobody reads: a raised error is all that has a server close a connection at once."""


class EventStream(Response):
    """Sends what `events` yields, one write each, until they end, the client goes, or it reads too slowly.

    Args:
        on_cut: told when the client was too slow.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], *, slow: float = SLOW, on_cut: Callable[[], None] = lambda: None):
        super().__init__(None, 200, {"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events, self._slow, self._on_cut = events, slow, on_cut

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.create_task(self._gone(receive))
        sending = asyncio.create_task(self._send(send))
        try:
            await asyncio.wait((gone, sending), return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            sending.cancel()
            await asyncio.gather(gone, sending, return_exceptions=True)
        if not sending.cancelled() and sending.exception() is not None:
            raise sending.exception()  # type: ignore[misc]  # ours to see, not the client's

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            async for part in self._events:
                async with asyncio.timeout(self._slow):
                    await send({"type": "http.response.body", "body": part, "more_body": True})
        except TimeoutError:
            self._on_cut()
            raise TooSlow("a listener reads too slowly and was cut; it may go on with Last-Event-ID") from None
        finally:
            close: Any = getattr(self._events, "aclose", None)
            if close is not None:
                await close()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    @staticmethod
    async def _gone(receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
