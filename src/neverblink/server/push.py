"""WebSockets of frames: into a push stream, and out of all streams to the live page."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from typing import Any

from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect

from neverblink.errors import SourceRefused
from neverblink.pictures import from_bytes, to_jpeg
from neverblink.server.hub import Hub
from neverblink.server.sessions import Session
from neverblink.server.sockets import hang_up, receive_json

router = APIRouter()
MOST_BYTES = 4 * 2**20  # of one message
SHOW_EVERY = 0.08  # seconds between two pictures of one stream on the page
MOST_WIDTH = 640


@router.websocket("/v1/streams/{stream_id}/push")
async def push(socket: WebSocket, stream_id: str) -> None:
    """Binary messages are JPEG frames; each gets exactly one reply, in order.

    Replies: {"n": 0, "result": "used", "t": 1.5}, {"n": 1, "result": "dropped", "why": "busy" | "stale" | "rate"}, or
    {"n": 2, "result": "error", "detail": ...}. With `?timestamps=1` a frame begins with its media second, a big-endian
    float64. The text message "end" ends the stream.
    """
    hub: Hub = socket.app.state.hub
    session = hub.sessions.get(stream_id)
    await socket.accept()
    if session is None or session.push is None:
        await hang_up(socket, 1008, f"{stream_id} is no push stream that runs")
        return
    timed = socket.query_params.get("timestamps") in ("1", "true")
    number = 0
    with contextlib.suppress(WebSocketDisconnect):
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            if message.get("text") == "end":
                if session.push is not None:
                    session.push.finish()
                await hang_up(socket, 1000, "")
                return
            reply = await _verdict(session, message.get("bytes"), timed)
            await socket.send_text(json.dumps({"n": number, **reply}))
            number += 1


async def _verdict(session: Session, data: bytes | None, timed: bool) -> dict[str, Any]:
    """What becomes of one message."""
    source = session.push
    if data is None:
        return {"result": "error", "detail": 'a frame is a binary message; the only text is "end"'}
    if source is None:
        return {"result": "error", "detail": f"stream {session.id} is {session.state}"}
    if len(data) > MOST_BYTES:
        return {"result": "error", "detail": f"the frame has {len(data)} bytes > {MOST_BYTES}"}
    at = None
    if timed:
        if len(data) < 8:
            return {"result": "error", "detail": "the frame does not begin with its media second (float64)"}
        (at,) = struct.unpack(">d", data[:8])
        data = data[8:]
        if not 0 <= at < 1e9:
            return {"result": "error", "detail": f"media second {at} is not between 0 and 1e9"}
    verdict, _ = source.judge(at)
    if verdict != "used":
        return {"result": "dropped", "why": verdict}
    try:
        pixels = await asyncio.to_thread(from_bytes, data, formats=("JPEG",))
    except SourceRefused as error:
        return {"result": "error", "detail": str(error)}
    session.size = (pixels.shape[1], pixels.shape[0])
    verdict, time = source.offer(pixels, at)
    return {"result": "used", "t": time} if verdict == "used" else {"result": "dropped", "why": verdict}


@router.websocket("/v1/frames")
async def frames(socket: WebSocket) -> None:
    """The newest frames of several streams. The client says which, as JSON: {"s-...": width, ...}; each binary message
    is one byte n, n bytes of the stream's id, the media second as a big-endian float64, and a JPEG."""
    hub: Hub = socket.app.state.hub
    await socket.accept()
    wanted: dict[str, int] = {}

    async def listen() -> None:
        while True:
            value = await receive_json(socket, MOST_BYTES)
            wanted.clear()
            wanted.update({str(k): max(16, min(int(v), MOST_WIDTH)) for k, v in dict(value).items()})

    async def show() -> None:
        sent: dict[str, int] = {}
        while True:
            for name, width in list(wanted.items()):
                session = hub.sessions.get(name)
                if session is None or session.frame is None or sent.get(name) == session.frame_number:
                    continue
                frame, sent[name] = session.frame, session.frame_number
                jpeg = await asyncio.to_thread(to_jpeg, frame.pixels, width=width, quality=85)
                label = name.encode()
                await socket.send_bytes(bytes([len(label)]) + label + struct.pack(">d", frame.time) + jpeg)
            await asyncio.sleep(SHOW_EVERY)

    tasks = [asyncio.create_task(listen()), asyncio.create_task(show())]
    done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    error = next(iter(done)).exception()
    if isinstance(error, ValueError | TypeError | OverflowError):
        await hang_up(socket, 1003, "say which streams as JSON: {id: width}")
    elif error is not None and not isinstance(error, WebSocketDisconnect | RuntimeError | OSError):
        raise error
