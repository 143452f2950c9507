"""The routes of streams, events, journal and alerts, and those about the server. What they do lies in hub.py and
sessions.py; page.py, chat.py, realtime.py and push.py have the others."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any, get_args

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from neverblink import __version__
from neverblink.memory.journal import Entry
from neverblink.outputs.base import clock
from neverblink.outputs.vtt import Vtt
from neverblink.pictures import to_jpeg
from neverblink.server import metrics, problems
from neverblink.server.alerts import Rule, Watch
from neverblink.server.feed import as_dict
from neverblink.server.guard import public_addresses
from neverblink.server.hub import Hub
from neverblink.server.problems import Problem
from neverblink.server.saying import Answering
from neverblink.server.sessions import Session
from neverblink.server.spec import Spec
from neverblink.server.sse import EventStream
from neverblink.types import EventType

MOST_LINES = 1000
MOST_INT = 2**53  # what every JSON reader still knows exactly

router = APIRouter()


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class StreamIn(Strict):
    """A stream to start."""

    source: str = Field(
        max_length=4096,
        description="arcade:GAME, camera:0, an rtsp:// http:// https:// URL, push, or upload:ID",
        examples=["arcade:pong"],
    )
    name: str = Field("", max_length=200)
    realtime: bool | None = Field(None, description="Play a file by the clock; arcade games do, files do not.")
    fps: float | None = Field(None, gt=0, le=60, description="Frames looked at per second; else the model's own.")
    query: str | None = Field(None, max_length=2000, description="What to talk about.")
    seconds: float | None = Field(None, gt=0, description="Stop after so many seconds of video.")


class AskIn(Strict):
    """A question about what a stream holds now."""

    question: str = Field(min_length=1, max_length=4000)
    stream: bool = Field(True, description="Send the answer as it is spoken (server-sent events).")
    remember: bool = Field(False, description="Let the question and its answer stay in the stream's memory.")
    recall: bool = Field(False, description="Put lines of the journal in front of it; their times are cited.")


class AlertIn(Strict):
    """Something to be told about: a pattern in the captions, or a condition that the model is asked about."""

    pattern: str | None = Field(None, max_length=200, description="Words; | is or, * is anything.", examples=["scores"])
    condition: str | None = Field(None, max_length=500, examples=["Left is in the lead"])
    every: float = Field(Rule.every, ge=1, le=3600, description="Seconds of video between two looks at a condition.")
    debounce: float = Field(Rule.debounce, ge=0, le=86400, description="Seconds in which it is not told again.")
    webhook: str | None = Field(None, max_length=2000, pattern=r"^https?://")


def hub_of(request: Request) -> Hub:
    hub: Hub = request.app.state.hub
    return hub


def session_of(request: Request, stream_id: str) -> Session:
    return hub_of(request).get(stream_id)


def number_of(header: str | None, query: int | None) -> int | None:
    """Where a client goes on; the header of a reconnecting browser comes before the URL that it began with."""
    if not header:
        return query
    if not header.isascii() or not header.isdigit() or int(header) > MOST_INT:
        raise Problem(400, f"Last-Event-ID {header!r} is no number of ours")
    return int(header)


def count_cut(hub: Hub) -> None:
    hub.feed.cut += 1


# -- streams ----------------------------------------------------------------------------------------------------------


@router.post("/v1/uploads", status_code=201, tags=["streams"])
async def upload(request: Request) -> dict[str, Any]:
    """Send a video file as the body; its id is then a source: `upload:ID`."""
    hub = hub_of(request)
    number, most = secrets.token_hex(8), int(hub.options.max_upload_mb * 2**20)
    path, size = hub.folder / "uploads" / f"{number}.part", 0
    try:
        with path.open("wb") as file:
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise Problem(413, f"the file has more than {hub.options.max_upload_mb:g} MB; see --max-upload-mb")
                await asyncio.to_thread(file.write, part)
        if not size:
            raise Problem(400, "the body is empty; send the file as it is")
        path.rename(path.with_suffix(""))
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return {"id": number, "source": f"upload:{number}", "bytes": size}


@router.post("/v1/streams", status_code=201, tags=["streams"])
async def create(request: Request, wanted: StreamIn) -> dict[str, Any]:
    """Start a stream. Whether its source can be opened shows in its `state`."""
    hub = hub_of(request)
    await asyncio.to_thread(hub.check_client_source, wanted.source)
    return (await hub.create(Spec(**wanted.model_dump(), by_client=True))).describe()


@router.get("/v1/streams", tags=["streams"])
async def list_streams(request: Request) -> dict[str, Any]:
    """Every stream that is here."""
    return {"streams": [session.describe() for session in hub_of(request).sessions.values()]}


@router.get("/v1/streams/{stream_id}", tags=["streams"])
async def get(request: Request, stream_id: str) -> dict[str, Any]:
    return session_of(request, stream_id).describe()


@router.post("/v1/streams/{stream_id}/pause", tags=["streams"])
async def pause(request: Request, stream_id: str) -> dict[str, Any]:
    """Stop reading; the stream keeps its memory and can still be asked."""
    session = session_of(request, stream_id)
    await hub_of(request).pause(session)
    return session.describe()


@router.post("/v1/streams/{stream_id}/resume", tags=["streams"])
async def resume(request: Request, stream_id: str) -> dict[str, Any]:
    session = session_of(request, stream_id)
    await hub_of(request).resume(session)
    return session.describe()


@router.delete("/v1/streams/{stream_id}", status_code=204, tags=["streams"])
async def delete(request: Request, stream_id: str) -> Response:
    """End a stream and let its memory go. What it said stays in the journal."""
    await hub_of(request).delete(session_of(request, stream_id))
    return Response(status_code=204)


@router.get("/v1/streams/{stream_id}/snapshot.jpg", tags=["streams"], response_class=Response)
async def snapshot(
    request: Request, stream_id: str, width: Annotated[int | None, Query(ge=16, le=4096)] = None
) -> Response:
    """The newest frame."""
    frame = session_of(request, stream_id).frame
    if frame is None:
        raise Problem(404, f"stream {stream_id} has shown nothing yet")
    jpeg = await asyncio.to_thread(to_jpeg, frame.pixels, width=width)
    headers = {"Cache-Control": "no-store", "X-Media-Seconds": f"{frame.time:.3f}"}
    return Response(jpeg, media_type="image/jpeg", headers=headers)


# -- what it says -----------------------------------------------------------------------------------------------------


@router.get("/v1/streams/{stream_id}/events", tags=["events"], response_class=Response)
async def events(
    request: Request,
    stream_id: str,
    after: Annotated[int | None, Query(ge=-1, le=MOST_INT, description="Begin behind this sequence number.")] = None,
    last_event_id: Annotated[str | None, Header(max_length=20)] = None,
) -> Response:
    """Events of one stream as they happen (server-sent events). Ids are sequence numbers; after a lost connection the
    journal gives what was missed. An `event: gap` tells what the journal no longer has."""
    hub, session = hub_of(request), session_of(request, stream_id)
    start = number_of(last_event_id, after)

    row, gap = await asyncio.to_thread(hub.feed.begin, session.id, start)
    return EventStream(hub.feed.follow(session.id, row, by_seq=True, gap=gap), on_cut=lambda: count_cut(hub))


@router.get("/v1/events", tags=["events"], response_class=Response)
async def all_events(
    request: Request,
    after: Annotated[int | None, Query(ge=0, le=MOST_INT, description="Begin behind this row.")] = None,
    last_event_id: Annotated[str | None, Header(max_length=20)] = None,
) -> Response:
    """Events of all streams; ids are rows of the journal."""
    hub = hub_of(request)
    start, last = number_of(last_event_id, after), await asyncio.to_thread(hub.journal.last_row)
    gap = None
    if start is not None and start > last:
        start, gap = last, {"from": last + 1, "to": start}
    elif start is not None:
        oldest = await asyncio.to_thread(lambda: hub.journal.events(after_row=start, limit=1))
        if oldest and oldest[0].row > start + 1:
            gap = {"from": start + 1, "to": oldest[0].row - 1}
    row = last if start is None else start
    return EventStream(hub.feed.follow(None, row, by_seq=False, gap=gap), on_cut=lambda: count_cut(hub))


@router.get("/v1/streams/{stream_id}/captions.vtt", tags=["events"], response_class=Response)
async def captions(request: Request, stream_id: str) -> Response:
    """Everything said so far as WebVTT."""
    hub, session = hub_of(request), session_of(request, stream_id)

    def cues() -> Iterator[bytes]:
        vtt, row = Vtt("captions"), 0
        yield vtt.header
        while entries := hub.journal.events(session.id, after_row=row, limit=MOST_LINES):
            yield "".join(vtt.record(entry.event) for entry in entries).encode()
            row = entries[-1].row

    return StreamingResponse(cues(), media_type="text/vtt", headers={"Cache-Control": "no-store"})


@router.post("/v1/streams/{stream_id}/ask", tags=["events"])
async def ask(request: Request, stream_id: str, asked: AskIn) -> Response:
    """Ask about what a stream holds now; it goes on meanwhile. Server-sent events `delta` and `done`, or JSON."""
    hub, session = hub_of(request), session_of(request, stream_id)
    words, recalled = asked.question, list[Entry]()
    if asked.recall:
        words, recalled = await asyncio.to_thread(session.recalling, asked.question)
    answering = Answering(asked.question, words, recalled)
    await hub.call(lambda: session.ask(answering, remember=asked.remember))

    def done() -> dict[str, Any]:
        lines = [(e.row, e.event) for e in recalled]
        cited = [{"row": row, "t": e.t_start, "at": clock(e.t_start), "text": e.text} for row, e in lines]
        ttft = round(answering.ttft * 1000, 1)
        return {"answer": answering.answer, "at": answering.at, "ttft_ms": ttft, "cited": cited}

    if not asked.stream:
        await answering.whole()
        return JSONResponse(done())

    async def parts() -> AsyncIterator[bytes]:
        try:
            async for text in answering.deltas():
                yield b"event: delta\ndata: " + json.dumps({"text": text}).encode() + b"\n\n"
            yield b"event: done\ndata: " + json.dumps(done()).encode() + b"\n\n"
        except Exception as error:  # the stream went away under the question
            yield b"event: error\ndata: " + json.dumps(problems.body(409, str(error))).encode() + b"\n\n"

    return EventStream(parts())


@router.get("/v1/journal", tags=["journal"])
async def journal(
    request: Request,
    stream: Annotated[str | None, Query(max_length=100)] = None,
    before: Annotated[int | None, Query(ge=0, le=MOST_INT, description="Lines before this row.")] = None,
    limit: Annotated[int, Query(ge=1, le=MOST_LINES)] = 200,
    silence: Annotated[bool, Query(description="Silent seconds too.")] = False,
) -> dict[str, Any]:
    """The newest lines, oldest first; `last_row` is where /v1/events goes on."""
    hub = hub_of(request)
    types = None if silence else [name for name in get_args(EventType) if name != "silence"]

    def read() -> dict[str, Any]:
        last = hub.journal.last_row()
        wanted = last + 1 if before is None else before
        found = hub.journal.events(stream, types=types, before_row=wanted, newest=True, limit=limit)
        return {"lines": [as_dict(entry) for entry in found], "last_row": last}

    return await asyncio.to_thread(read)


@router.get("/v1/search", tags=["journal"])
async def search(
    request: Request,
    q: Annotated[str, Query(max_length=500)],
    stream: Annotated[str | None, Query(max_length=100)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> dict[str, Any]:
    """Lines with these words in any form, best first."""
    hub = hub_of(request)
    types = ("caption", "question", "answer", "alert")
    found = await asyncio.to_thread(hub.journal.search, q, stream, types=types, limit=limit, prefix=True)
    return {"lines": [as_dict(entry) for entry in found]}


@router.get("/v1/journal/{row}/picture.jpg", tags=["journal"], response_class=Response)
async def picture(request: Request, row: Annotated[int, "row"]) -> Response:
    """What the stream looked at when it said a line."""
    if not 0 <= row <= MOST_INT:
        raise Problem(404, f"no line {row}")
    jpeg = await asyncio.to_thread(hub_of(request).journal.picture, row)
    if jpeg is None:
        raise Problem(404, f"line {row} has no picture")
    return Response(jpeg, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=31536000, immutable"})


# -- alerts -----------------------------------------------------------------------------------------------------------


@router.post("/v1/streams/{stream_id}/alerts", status_code=201, tags=["alerts"])
async def add_alert(request: Request, stream_id: str, wanted: AlertIn) -> dict[str, Any]:
    """Be told, as an `alert` event and by webhook, when something is said or has become true."""
    hub, session = hub_of(request), session_of(request, stream_id)
    if wanted.webhook is not None:
        url, allow = wanted.webhook, hub.options.allow_private_urls
        await asyncio.to_thread(lambda: public_addresses(url, allow_private=allow))
    if len(session.watches) >= 50:
        raise Problem(409, f"stream {stream_id} has 50 alerts; delete one")
    rule = Rule(id=f"a-{secrets.token_hex(4)}", **wanted.model_dump())

    def put() -> None:
        if rule.condition is not None and session.stream is not None:
            session.stream.options.question(session.stream.script, rule.question)
        session.watches[rule.id] = Watch(rule)
        session.remember()

    await hub.call(put)
    return rule.shown()


@router.get("/v1/streams/{stream_id}/alerts", tags=["alerts"])
async def list_alerts(request: Request, stream_id: str) -> dict[str, Any]:
    return {"alerts": [watch.rule.shown() for watch in session_of(request, stream_id).watches.values()]}


@router.delete("/v1/streams/{stream_id}/alerts/{alert_id}", status_code=204, tags=["alerts"])
async def delete_alert(request: Request, stream_id: str, alert_id: str) -> Response:
    hub, session = hub_of(request), session_of(request, stream_id)
    if alert_id not in session.watches:
        raise Problem(404, f"no alert {alert_id!r} on stream {stream_id}")

    def drop() -> None:
        session.watches.pop(alert_id, None)
        session.remember()

    await hub.call(drop)
    return Response(status_code=204)


# -- about the server -------------------------------------------------------------------------------------------------


@router.get("/v1/info", tags=["server"])
async def info(request: Request) -> dict[str, Any]:
    """The model, the version, and what a stream can be started from."""
    from neverblink.arcade.sport import sports

    hub = hub_of(request)
    games = await asyncio.to_thread(lambda: [{"name": name, "title": sports[name].title} for name in sports])
    return {
        "version": __version__,
        "model": hub.model.name,
        "domain": hub.model.domain,
        "device": hub.model.device,
        "fps": hub.model.fps,
        "games": games,
        "cameras": sorted(str(path) for path in Path("/dev").glob("video[0-9]*")),
        "max_streams": hub.options.max_streams,
    }


@router.get("/health/live", tags=["server"])
async def live() -> dict[str, str]:
    """This process answers."""
    return {"status": "live"}


@router.get("/health/ready", tags=["server"])
async def ready(request: Request) -> Response:
    """It can do its work: the engine runs and the journal can be written. Else 503, and why."""
    troubles = await asyncio.to_thread(hub_of(request).troubles)
    if troubles:
        return problems.answer(503, "; ".join(troubles))
    return JSONResponse({"status": "ready"})


@router.get("/metrics", tags=["server"], response_class=PlainTextResponse)
async def prometheus(request: Request) -> Response:
    hub, guard = hub_of(request), request.app.state.refused
    text = await asyncio.to_thread(metrics.text, hub, guard())
    return Response(text, media_type="text/plain; version=0.0.4")
