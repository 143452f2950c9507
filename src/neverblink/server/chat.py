"""What OpenAI clients speak: /v1/models and /v1/chat/completions, on pictures, videos and running streams."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from neverblink.server import problems
from neverblink.server.hub import Hub
from neverblink.server.media import Viewer, stream_of
from neverblink.server.problems import Problem
from neverblink.server.saying import Answering
from neverblink.server.sessions import Session
from neverblink.server.sse import EventStream
from neverblink.server.talks import Talk

router = APIRouter(tags=["openai"])


class Url(BaseModel):
    url: str = Field(max_length=64 * 2**20)


class Part(BaseModel):
    type: Literal["text", "image_url", "video_url"]
    text: str | None = None
    image_url: Url | None = None
    video_url: Url | None = None


class Message(BaseModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part] | None = None


class StreamOptionsIn(BaseModel):
    include_usage: bool = False


class ChatIn(BaseModel):
    """Options of sampling are the stream's own, so `temperature` and the like are accepted and have no effect."""

    model_config = ConfigDict(extra="allow")
    model: str = Field(max_length=500)
    messages: list[Message] = Field(min_length=1, max_length=200)
    stream: bool = False
    stream_options: StreamOptionsIn | None = None
    n: int = 1


@dataclass
class Asked:
    """What the messages come to."""

    question: str = ""
    stream_id: str | None = None
    media: list[tuple[str, str]] = field(default_factory=list)  # (image_url | video_url, url), oldest first


@router.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    hub: Hub = request.app.state.hub
    return {"object": "list", "data": [_model(hub)]}


@router.get("/v1/models/{name:path}")
async def model(request: Request, name: str) -> dict[str, Any]:
    hub: Hub = request.app.state.hub
    _check_model(hub, name)
    return _model(hub)


@router.post("/v1/chat/completions")
async def completions(request: Request, wanted: ChatIn) -> Response:
    """Ask about pictures, a video, or a stream that runs (`stream://ID` as image_url or video_url)."""
    hub: Hub = request.app.state.hub
    _check_model(hub, wanted.model)
    if wanted.n != 1:
        raise Problem(400, f"n is {wanted.n}; one answer is given")
    asked = read(hub, wanted.messages)
    answering = Answering(asked.question)
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    if asked.stream_id is not None:
        asking: Session | Talk = hub.get(asked.stream_id)

        async def leave() -> None:
            """The stream stays."""
    else:
        if not asked.media:
            raise Problem(400, "there is nothing to look at; add an image_url, a video_url, or stream://ID")
        asking = talk = await hub.talk()

        async def leave() -> None:
            await asyncio.shield(hub.call(talk.leave))  # a client that goes now must not keep the place taken

    try:
        if isinstance(asking, Talk):
            viewer = Viewer(hub, asking)
            for kind, url in asked.media:
                await (viewer.picture(url) if kind == "image_url" else viewer.video(url))
        usage["prompt_tokens"] = await hub.call(lambda: _ask(asking, answering))
    except BaseException:
        await leave()
        raise
    about = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": hub.model.name}
    if wanted.stream:
        with_usage = wanted.stream_options is not None and wanted.stream_options.include_usage
        return EventStream(_parts(hub, about, answering, usage if with_usage else None, leave))
    try:
        text = await answering.whole()
    finally:
        await leave()
    choice = {"index": 0, "message": {"role": "assistant", "content": text, "refusal": None}, "finish_reason": "stop"}
    full = {**about, "object": "chat.completion", "choices": [{**choice, "logprobs": None}]}
    return JSONResponse({**full, "usage": _count(hub, usage, text)})


def _ask(asked: Session | Talk, answering: Answering) -> int:
    """Rows that the question is asked about; on the engine's thread, which has fed nothing of it yet."""
    asked.ask(answering)
    return asked.stream.table.n if asked.stream is not None else 0


async def _parts(
    hub: Hub,
    about: dict[str, Any],
    answering: Answering,
    usage: dict[str, int] | None,
    leave: Callable[[], Awaitable[None]],
) -> AsyncIterator[bytes]:
    def chunk(delta: dict[str, str], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return line({**about, "object": "chat.completion.chunk", "choices": [choice]})

    def line(value: dict[str, Any]) -> bytes:
        return b"data: " + json.dumps(value).encode() + b"\n\n"

    try:
        yield chunk({"role": "assistant", "content": ""})
        async for text in answering.deltas():
            yield chunk({"content": text})
        yield chunk({}, "stop")
        if usage is not None:
            counted = _count(hub, usage, answering.answer or "")
            yield line({**about, "object": "chat.completion.chunk", "choices": [], "usage": counted})
        yield b"data: [DONE]\n\n"
    except Exception as error:  # the head is sent: all that is left is to say so
        yield line({"error": problems.body(500, str(error))["error"]})
    finally:
        await leave()


def read(hub: Hub, messages: list[Message]) -> Asked:
    """The question, what was said before it, and what there is to look at."""
    asked, turns = Asked(), list[tuple[str, str]]()
    for message in messages:
        parts = [Part(type="text", text=message.content)] if isinstance(message.content, str) else message.content or []
        words = []
        for part in parts:
            if part.type == "text":
                words.append(part.text or "")
                continue
            given = part.image_url if part.type == "image_url" else part.video_url
            if given is None:
                raise Problem(400, f"a part of type {part.type} needs {part.type}.url")
            stream_id = stream_of(hub, given.url)
            if stream_id is not None:
                asked.stream_id = stream_id
            else:
                asked.media.append((part.type, given.url))
        if any(words):
            turns.append((message.role, "\n".join(words).strip()))
    if not turns or turns[-1][0] != "user":
        raise Problem(400, "the last message with words must be the user's: it is the question")
    if asked.stream_id is not None and asked.media:
        raise Problem(400, "ask about a running stream or about pictures of your own, not both at once")
    before = [f"{role}: {text}" if role == "assistant" else text for role, text in turns[:-1] if text]
    asked.question = "\n".join([*before, turns[-1][1]])
    return asked


def _count(hub: Hub, usage: dict[str, int], text: str) -> dict[str, int]:
    said = len(hub.script(None).encode(text)) if text else 0
    return {**usage, "completion_tokens": said, "total_tokens": usage["prompt_tokens"] + said}


def _model(hub: Hub) -> dict[str, Any]:
    return {"id": hub.model.name, "object": "model", "created": int(hub.began), "owned_by": "neverblink"}


def _check_model(hub: Hub, name: str) -> None:
    if name not in (hub.model.name, "neverblink"):
        raise Problem(404, f"no model {name!r}; here is {hub.model.name!r}")
