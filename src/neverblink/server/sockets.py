"""What the WebSockets of the server share: messages of JSON, and a close that may come too late."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from fastapi import WebSocket
from starlette.websockets import WebSocketDisconnect


async def receive_json(socket: WebSocket, most_bytes: int) -> Any:
    """The next message, which must be JSON.

    Raises:
        ValueError: it is not; the socket can go on.
        WebSocketDisconnect: the client has gone.
    """
    message = await socket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code") or 1005)
    text = message.get("text")
    if text is None:
        raise ValueError("a message is JSON in a text message, not a binary one")
    if len(text) > most_bytes:
        raise ValueError(f"the message has more than {most_bytes >> 20} MiB")
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("the message is nested too deeply") from None


async def hang_up(socket: WebSocket, code: int, why: str) -> None:
    """Close with a reason, if anybody is still there."""
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        await socket.close(code, why)
