"""Anything at all into the server's doors: JSON of any shape on every route, any message on every WebSocket."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from neverblink.drills.doors import filled, routes
from neverblink.pictures import to_jpeg
from tests.properties import tries
from tests.server.running import Server, wait_for

WORDS = ("source", "name", "fps", "model", "messages", "role", "user", "content", "type", "text", "image_url", "url",
         "stream", "stream://s-1", "question", "pattern", "webhook", "arcade:pong", "session.update", "session", "item",
         "conversation.item.create", "message", "input_text", "input_image", "response.create", "response.cancel",
         "data:image/jpeg;base64,/9j/", "event_id", "seconds", "query", "instructions")  # fmt: skip
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(WORDS), st.text(st.characters(), max_size=8)
)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.sampled_from(WORDS), st.text(max_size=5)), inner, max_size=5),
    ),
    max_leaves=12,
)
DEEP = "[" * 100_000
BODIES = st.one_of(JSON.map(lambda value: json.dumps(value).encode()), st.binary(max_size=60))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One of its own, as streams come and go on it."""
    with Server(tmp_path_factory.mktemp("doors"), max_streams=2) as running:
        yield running


@pytest.fixture(scope="module")
def stream(server: Server) -> str:
    stream_id = server.start(source="push")
    wait_for(lambda: server.call(f"/v1/streams/{stream_id}")["state"] == "running")
    return stream_id


def is_well(server: Server) -> bool:
    return bool(server.call("/health/live")) and server.hub.worker.failure is None


def test_no_json_breaks_a_route(server: Server, stream: str) -> None:
    """Every route that takes a body; answers are below 500 and, where they refuse, say so in RFC 9457 or the client's
    own errors."""
    doors = sorted((m, p) for m, p in routes(server.app) if m in ("POST", "PUT", "PATCH") and not p.endswith("pause"))
    assert len(doors) >= 5

    @tries(150)
    @given(door=st.sampled_from(doors), body=BODIES)
    @example(door=("POST", "/v1/streams"), body=DEEP.encode())
    @example(door=("POST", "/v1/chat/completions"), body=DEEP.encode())
    @example(door=("POST", "/v1/streams"), body=b'{"source": "arcade:pong", "fps": NaN}')
    def knock(door: tuple[str, str], body: bytes) -> None:
        method, path = door
        with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)) as connection:
            connection.request(method, filled(path, stream), body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            said = answer.read()
        assert answer.status < 500 or answer.status == 503, (door, body, answer.status, said[:300])
        if answer.status >= 400:
            assert said.startswith(b"{"), (door, body, said[:300])
        for other in server.call("/v1/streams")["streams"]:
            if other["id"] != stream:
                server.call(f"/v1/streams/{other['id']}", "DELETE")

    knock()
    assert is_well(server)


MESSAGES = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.text(st.characters(exclude_categories=("Cs",)), max_size=40).filter(lambda text: text != "end"),
        JSON.map(json.dumps),
        st.just(DEEP),
        st.integers(0, 400).map(lambda cut: PICTURE[:cut]),
    ),
    min_size=1,
    max_size=6,
)
PICTURE = to_jpeg(np.full((48, 64, 3), 90, np.uint8))


def test_every_message_to_a_push_stream_gets_one_reply(server: Server, stream: str) -> None:
    @tries(40)
    @given(MESSAGES, st.booleans())
    def push(messages: list[str | bytes], timed: bool) -> None:
        url = f"ws://127.0.0.1:{server.port}/v1/streams/{stream}/push?timestamps={int(timed)}"
        with connect(url) as socket:
            for number, message in enumerate(messages):
                socket.send(message)
                reply = json.loads(socket.recv(timeout=30))
                assert number == reply["n"]
                assert reply["result"] in ("used", "dropped", "error"), reply

    push()
    assert "running" == server.call(f"/v1/streams/{stream}")["state"]
    assert is_well(server)


@pytest.mark.parametrize("path", ["/v1/realtime", "/v1/frames"])
def test_no_message_breaks_a_socket(server: Server, path: str, caplog: pytest.LogCaptureFixture) -> None:
    """What /v1/realtime does not understand is an error event, and it goes on; /v1/frames says what it wants and ends.
    Neither leaves a traceback behind."""

    @tries(60)
    @given(MESSAGES)
    def talk(messages: list[str | bytes]) -> None:
        with connect(f"ws://127.0.0.1:{server.port}{path}") as socket:
            for message in messages:
                with suppress(ConnectionClosed):
                    socket.send(message)
            if path == "/v1/realtime":
                socket.send('{"type": "nobody knows this", "event_id": "the last"}')
                while not _is_last(json.loads(socket.recv(timeout=30))):
                    pass
            elif not all(_is_wish(message) for message in messages):
                with pytest.raises(ConnectionClosed) as closed:
                    socket.recv(timeout=30)
                assert (1003, "say which streams as JSON: {id: width}") == (
                    closed.value.rcvd.code,
                    closed.value.rcvd.reason,
                )

    talk()
    assert is_well(server)
    assert not [record for record in caplog.records if record.exc_info]


def _is_wish(message: str | bytes) -> bool:
    """Does /v1/frames take this?"""
    try:
        [int(width) for width in dict(json.loads(str(message))).values()]
    except (ValueError, TypeError, OverflowError, RecursionError):
        return False
    return isinstance(message, str)


def _is_last(event: dict[str, Any]) -> bool:
    return bool(event["type"] == "error" and event["error"]["event_id"] == "the last")
