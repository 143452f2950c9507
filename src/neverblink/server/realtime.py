"""The text subset of the Realtime events: pictures and words in, words out, over one WebSocket.

Taken: session.update, conversation.item.create (input_text, input_image), response.create, response.cancel. Sound is
refused by name.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from typing import Any

from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect

from neverblink.errors import NeverblinkError
from neverblink.server.hub import Hub
from neverblink.server.media import Viewer
from neverblink.server.problems import Problem
from neverblink.server.saying import Answering
from neverblink.server.sockets import hang_up, receive_json
from neverblink.server.talks import Talk

router = APIRouter()
MOST_BYTES = 48 * 2**20  # of one event


@router.websocket("/v1/realtime")
async def realtime(socket: WebSocket) -> None:
    hub: Hub = socket.app.state.hub
    await socket.accept()
    try:
        talk = await hub.talk()
    except Problem as problem:
        await hang_up(socket, 1013, problem.detail)
        return
    conversation = Conversation(hub, socket, talk)
    try:
        with contextlib.suppress(WebSocketDisconnect):
            await conversation.run()
    finally:
        await conversation.close()
        await asyncio.shield(hub.call(talk.leave))


class Conversation:
    """One session of a client."""

    def __init__(self, hub: Hub, socket: WebSocket, talk: Talk):
        self.hub, self.socket, self.talk = hub, socket, talk
        self.viewer = Viewer(hub, talk)
        self.words: list[str] = []  # of the user since the last response
        self.last_item: str | None = None
        self.responding: asyncio.Task[None] | None = None
        self.session: dict[str, Any] = {
            "id": new_id("sess"),
            "object": "realtime.session",
            "type": "realtime",
            "model": hub.model.name,
            "output_modalities": ["text"],
            "instructions": "",
        }

    async def run(self) -> None:
        await self.send("session.created", session=self.session)
        while True:
            event: dict[str, Any] = {}
            try:
                value = await receive_json(self.socket, MOST_BYTES)
                if not isinstance(value, dict):
                    raise Problem(400, "an event is a JSON object with a type")
                event = value
                await self.take(event)
            except (NeverblinkError, Problem, ValueError, TypeError, KeyError, AttributeError) as error:
                await self.fail(str(error) or type(error).__name__, event.get("event_id"))

    async def take(self, event: dict[str, Any]) -> None:
        kind = event.get("type")
        if kind == "session.update":
            wanted = event.get("session") or {}
            sound = [name for name in wanted.get("output_modalities") or ["text"] if name != "text"]
            if sound or wanted.get("audio"):
                raise Problem(400, "this server speaks text only: output_modalities ['text'], no audio")
            if wanted.get("instructions") is not None:
                self.session["instructions"] = str(wanted["instructions"])
            await self.send("session.updated", session=self.session)
        elif kind == "conversation.item.create":
            await self.item(event.get("item") or {})
        elif kind == "response.create":
            if self.responding is not None and not self.responding.done():
                raise Problem(409, "a response is on its way; wait for response.done, or cancel it")
            answering = await self.ask()
            self.responding = asyncio.create_task(self.respond(answering))
        elif kind == "response.cancel":
            if self.responding is None or self.responding.done():
                raise Problem(409, "there is no response to cancel")
            self.responding.cancel()
        else:
            known = "session.update, conversation.item.create, response.create, response.cancel"
            raise Problem(400, f"event {kind!r} is not known here; known: {known}")

    async def item(self, item: dict[str, Any]) -> None:
        if item.get("type") != "message":
            raise Problem(400, f"an item of type {item.get('type')!r} is not known here; known: message")
        for part in item.get("content") or []:
            kind = part.get("type")
            if kind in ("input_text", "output_text", "text"):
                self.words.append(str(part["text"]))
            elif kind == "input_image":
                await self.viewer.picture(str(part["image_url"]))
            else:
                raise Problem(400, f"content of type {kind!r} is not known here; known: input_text, input_image")
        role = item.get("role", "user")
        told = {**item, "id": item.get("id") or new_id("item"), "object": "realtime.item", "status": "completed"}
        told["content"] = [{k: v for k, v in part.items() if k != "image_url"} for part in item.get("content") or []]
        before, self.last_item = self.last_item, told["id"]
        for kind in ("conversation.item.added", "conversation.item.done"):
            await self.send(kind, previous_item_id=before, item={**told, "role": role})

    async def ask(self) -> Answering:
        question = "\n".join(part for part in (self.session["instructions"], *self.words) if part)
        answering = Answering(question)
        if self.talk.stream is None or not self.talk.stream.turn:
            raise Problem(400, "there is nothing to look at yet; add an input_image first")
        await self.hub.call(lambda: self.talk.ask(answering, remember=True))
        self.words.clear()
        return answering

    async def respond(self, answering: Answering) -> None:
        response_id, item_id = new_id("resp"), new_id("item")
        at = {"response_id": response_id, "item_id": item_id, "output_index": 0, "content_index": 0}
        item: dict[str, Any] = {
            "id": item_id,
            "object": "realtime.item",
            "type": "message",
            "role": "assistant",
            "status": "in_progress",
            "content": [],
        }
        response: dict[str, Any] = {
            "id": response_id,
            "object": "realtime.response",
            "status": "in_progress",
            "output_modalities": ["text"],
            "output": [],
        }
        status, text = "completed", ""
        detail: dict[str, Any] | None = None
        await self.send("response.created", response=response)
        await self.send("response.output_item.added", response_id=response_id, output_index=0, item=item)
        await self.send("response.content_part.added", **at, part={"type": "text", "text": ""})
        try:
            async for delta in answering.deltas():
                text += delta
                await self.send("response.output_text.delta", **at, delta=delta)
        except asyncio.CancelledError:
            status, detail = "cancelled", {"type": "cancelled", "reason": "client_cancelled"}
        except Exception as error:
            status, detail = "failed", {"type": "failed", "error": {"type": "server_error", "code": str(error)[:200]}}
        item = {**item, "status": "completed" if status == "completed" else "incomplete"}
        item["content"] = [{"type": "output_text", "text": text}]
        await self.send("response.output_text.done", **at, text=text)
        await self.send("response.content_part.done", **at, part={"type": "text", "text": text})
        await self.send("response.output_item.done", response_id=response_id, output_index=0, item=item)
        done = {**response, "status": status, "status_details": detail, "output": [item]}
        await self.send("response.done", response=done)
        self.last_item = item_id

    async def fail(self, message: str, event_id: Any) -> None:
        error = {"type": "invalid_request_error", "code": "invalid_value", "message": message, "param": None}
        await self.send("error", error={**error, "event_id": event_id if isinstance(event_id, str) else None})

    async def send(self, kind: str, **values: Any) -> None:
        await self.socket.send_text(json.dumps({"type": kind, "event_id": new_id("event"), **values}))

    async def close(self) -> None:
        if self.responding is not None:
            self.responding.cancel()
            await asyncio.gather(self.responding, return_exceptions=True)


def new_id(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(10)}"
