"""The wires of others, with the real clients: OpenAI's for chat and realtime, schemathesis for the OpenAPI."""

import base64
from typing import Any

import numpy as np
import openai
import pytest

from neverblink.pictures import to_jpeg
from tests.server.running import Refused, Server, wait_for

PICTURE = "data:image/jpeg;base64," + base64.b64encode(to_jpeg(np.full((60, 80, 3), 120, np.uint8))).decode()


@pytest.fixture(scope="module")
def client(server: Server) -> Any:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def about(*media: Any, text: str = "What is it?") -> list[Any]:
    return [{"role": "user", "content": [*media, {"type": "text", "text": text}]}]


def image(url: str = PICTURE) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def test_the_openai_client_asks_about_pictures(server: Server, client: Any) -> None:
    """Streamed and whole; a talk leaves no stream behind."""
    name = client.models.list().data[0].id
    assert name == client.models.retrieve(name).id
    before = server.hub.engine.stream_ids
    whole = client.chat.completions.create(model=name, messages=about(image(), image()), temperature=0.2, max_tokens=9)
    assert ("assistant", "stop") == (whole.choices[0].message.role, whole.choices[0].finish_reason)
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens > 10
    again = client.chat.completions.create(model=name, messages=about(image(), image()))
    assert whole.choices[0].message.content == again.choices[0].message.content, "the same seed, the same pictures"
    parts = list(
        client.chat.completions.create(
            model=name, messages=about(image(), image()), stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    assert whole.choices[0].message.content == text
    assert whole.usage == parts[-1].usage
    wait_for(lambda: before == server.hub.engine.stream_ids)


def test_the_openai_client_asks_about_a_running_stream(server: Server, client: Any, pong: str) -> None:
    video = {"type": "video_url", "video_url": {"url": f"stream://{pong}"}}
    for media in (video, image(f"stream://{pong}")):
        told = client.chat.completions.create(model="neverblink", messages=about(media, text="Who leads, openai?"))
        assert isinstance(told.choices[0].message.content, str)
    lines = server.call(f"/v1/journal?stream={pong}&limit=1000&silence=1")["lines"]
    assert [] == [line for line in lines if line["type"] == "error"]
    assert "running" == server.call(f"/v1/streams/{pong}")["state"]


def test_a_video_inside_a_message_is_watched(client: Any, tmp_path: Any) -> None:
    import av

    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=4)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    url = "data:video/mp4;base64," + base64.b64encode((tmp_path / "a.mp4").read_bytes()).decode()
    two = client.chat.completions.create(
        model="neverblink", messages=about({"type": "video_url", "video_url": {"url": url}})
    )
    assert two.usage.prompt_tokens > 0
    bad = {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}}
    with pytest.raises(openai.UnprocessableEntityError):
        client.chat.completions.create(model="neverblink", messages=about(bad))


@pytest.mark.parametrize(
    ("model", "messages", "error", "words"),
    [
        ("gpt-9", about(image()), openai.NotFoundError, "no model 'gpt-9'"),
        ("neverblink", about(), openai.BadRequestError, "nothing to look at"),
        ("neverblink", about(image("stream://s-00000000")), openai.NotFoundError, "no stream"),
        ("neverblink", about(image("https://a.example/x.jpg")), openai.UnprocessableEntityError, "fetches no pictures"),
        ("neverblink", about(image("data:image/png;base64,AAAA")), openai.UnprocessableEntityError, "damaged"),
        ("neverblink", about(image(), text="x" * 3000), openai.ConflictError, "shorten it"),
        ("neverblink", about(image(), text="<|im_end|>"), openai.BadRequestError, "im_end"),
        ("neverblink", [{"role": "assistant", "content": "x"}], openai.BadRequestError, "must be the user's"),
        ("neverblink", [], openai.UnprocessableEntityError, "messages"),
    ],
)
def test_what_cannot_be_answered_is_said_in_the_clients_own_errors(
    server: Server, client: Any, model: str, messages: Any, error: Any, words: str
) -> None:
    before = server.hub.engine.stream_ids
    with pytest.raises(error, match=words):
        client.chat.completions.create(model=model, messages=messages)
    wait_for(lambda: before == server.hub.engine.stream_ids)


def test_too_many_conversations_wait(server: Server) -> None:
    import asyncio

    async def fill() -> Any:
        talks = []
        try:
            while True:
                talks.append(await server.hub.talk())
        finally:
            for talk in talks:
                await server.hub.call(talk.leave)

    from neverblink.server.problems import Problem

    with pytest.raises(Problem, match="too many conversations"):
        asyncio.run_coroutine_threadsafe(fill(), server.hub.feed._loop).result(60)
    with pytest.raises(Refused, match="nothing to look at"):
        server.call("/v1/chat/completions", "POST", {"model": "neverblink", "messages": about()})


def test_the_openai_realtime_client(server: Server, client: Any) -> None:
    """Session, a picture, a question, deltas that together are the answer; wrong events are told, and it goes on."""
    with client.realtime.connect(model="neverblink") as connection:
        assert "session.created" == connection.recv().type
        connection.session.update(
            session={"type": "realtime", "output_modalities": ["text"], "instructions": "Be brief."}
        )
        updated = connection.recv()
        assert ("session.updated", "Be brief.") == (updated.type, updated.session.instructions)
        connection.response.create()
        assert "nothing to look at" in connection.recv().error.message
        content = [{"type": "input_image", "image_url": PICTURE}, {"type": "input_text", "text": "What is it?"}]
        for _ in range(2):
            connection.conversation.item.create(item={"type": "message", "role": "user", "content": content})
            added, done = connection.recv(), connection.recv()
            assert ("conversation.item.added", "conversation.item.done") == (added.type, done.type)
            assert added.item.id == done.item.id
            connection.response.create()
            events = []
            while not events or events[-1].type != "response.done":
                events.append(connection.recv())
            kinds = [event.type for event in events if event.type != "response.output_text.delta"]
            begin = ["response.created", "response.output_item.added", "response.content_part.added"]
            end = [
                "response.output_text.done",
                "response.content_part.done",
                "response.output_item.done",
                "response.done",
            ]
            assert [*begin, *end] == kinds
            text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
            response = events[-1].response
            assert ("completed", text) == (response.status, response.output[0].content[0].text)
        connection.send({"type": "input_audio_buffer.append", "audio": ""})
        assert "is not known here" in connection.recv().error.message
        connection.session.update(session={"type": "realtime", "output_modalities": ["audio"]})
        assert "text only" in connection.recv().error.message
    wait_for(lambda: not [name for name in server.hub.engine.stream_ids if name.startswith("talk-")])


def test_no_request_that_the_openapi_allows_breaks_the_server(server: Server, pong: str) -> None:
    """schemathesis walks the schema; nothing is answered with a 5xx. Streams without end are left out: their tests
    stand in test_streams.py."""
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings

    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) >= 20
    for operation in operations:
        if (
            operation.path.endswith("/events")
            or operation.method.upper() == "DELETE"
            or "{stream_id}/pause" in operation.path
        ):
            continue

        @given(case=operation.as_strategy())
        @settings(
            max_examples=4,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
        )
        def check(case: Any) -> None:
            if "stream_id" in (case.path_parameters or {}):
                case.path_parameters["stream_id"] = pong if case.path_parameters["stream_id"] < "m" else "s-1"
            if isinstance(case.body, dict) and "source" in case.body:
                case.body["source"] = "arcade:pong" if case.body["source"] == "x" else str(case.body["source"])
            answer = case.call(timeout=30)
            assert answer.status_code < 500, (case.path, case.body, answer.text[:300])

        check()
