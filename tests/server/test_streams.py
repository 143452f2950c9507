"""Streams over HTTP: their life, their events, questions, alerts, pictures."""

import json
import struct
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.sync.client import connect

from neverblink.pictures import from_bytes, to_jpeg
from neverblink.server import watchdog
from tests.server.running import Refused, Server, listen, sse, wait_for


def test_a_stream_lives_from_start_to_end(server: Server) -> None:
    """Started, paused, asked while paused, resumed without a second twice, deleted; the journal keeps its words."""
    stream_id = server.start(source="arcade:pong?seed=1", realtime=False, seconds=200.0)
    server.watched(stream_id, 3)
    paused = server.call(f"/v1/streams/{stream_id}/pause", "POST")
    assert "paused" == paused["state"]
    wait_for(lambda: not server.hub.engine.has_work)
    at = server.call(f"/v1/streams/{stream_id}")["media_seconds"]
    assert server.call(f"/v1/streams/{stream_id}/ask", "POST", {"question": "What?", "stream": False})["at"] == at
    with pytest.raises(Refused, match="is paused and cannot be paused"):
        server.call(f"/v1/streams/{stream_id}/pause", "POST")
    server.call(f"/v1/streams/{stream_id}/resume", "POST")
    server.watched(stream_id, at + 3)
    assert 0 < len(server.call(f"/v1/streams/{stream_id}/snapshot.jpg"))
    server.call(f"/v1/streams/{stream_id}", "DELETE")
    with pytest.raises(Refused, match="404"):
        server.call(f"/v1/streams/{stream_id}")
    lines = server.call(f"/v1/journal?stream={stream_id}&silence=1&limit=1000")["lines"]
    starts = [line["t_start"] for line in lines if line["type"] in ("caption", "silence")]
    assert list(map(float, range(len(starts)))) == starts
    assert sorted({line["seq"] for line in lines}) == [line["seq"] for line in lines]


def test_a_video_is_uploaded_watched_to_its_end_and_asked(server: Server, tmp_path: Path) -> None:
    """Every second of a file is watched, however late the model is; then its place is free for others."""
    import av

    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=4)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(24):
            picture = np.full((48, 64, 3), i * 10, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    sent = server.call("/v1/uploads", "POST", (tmp_path / "clip.mp4").read_bytes())
    stream_id = server.start(source=sent["source"], name="clip")
    wait_for(lambda: server.call(f"/v1/streams/{stream_id}")["state"] == "ended")
    told = server.watched(stream_id, 6)
    assert (12, 0, 6.0) == (told["frames_used"], told["frames_dropped"], told["media_seconds"])
    answer = server.call(f"/v1/streams/{stream_id}/ask", "POST", {"question": "And?", "stream": False})
    assert (6.0, str) == (answer["at"], type(answer["answer"]))
    vtt = server.call(f"/v1/streams/{stream_id}/captions.vtt").decode()
    lines = server.call(f"/v1/journal?stream={stream_id}&limit=1000")["lines"]
    spoken = [line for line in lines if line["type"] in ("caption", "answer") and line["text"].strip()]
    assert vtt.startswith("WEBVTT\n\n")
    assert abs(vtt.count(" --> ") - len(spoken)) <= 1  # a text of marks only is no cue
    server.call(f"/v1/streams/{stream_id}", "DELETE")
    assert [] == list((server.hub.folder / "uploads").glob("*"))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("/etc/passwd", "a source is arcade:GAME"),
        ("file:/etc/passwd", "a source is arcade:GAME"),
        ("screen", "a source is arcade:GAME"),
        ("upload:../../etc/passwd", "a source is arcade:GAME"),
        ("upload:0123456789abcdef", "no upload"),
        ("arcade:chess", "no arcade game 'chess'; known: boxing"),
        ("arcade:pong?x=1", "x=1 is unknown"),
        ("concat:a|b", "a source is arcade:GAME"),
        ("http://[::x/y", "is not a URL"),
    ],
)
def test_clients_may_not_have_anything_opened(server: Server, source: str, words: str) -> None:
    with pytest.raises(Refused) as refused:
        server.call("/v1/streams", "POST", {"source": source})
    assert 422 == refused.value.status
    assert words in refused.value.body["detail"]
    assert "application/problem+json" == refused.value.headers["content-type"]


def test_a_source_that_cannot_be_opened_is_told(server: Server) -> None:
    stream_id = server.start(source="camera:97")
    wait_for(lambda: server.call(f"/v1/streams/{stream_id}")["state"] == "failed")
    assert "no camera /dev/video97" in server.call(f"/v1/streams/{stream_id}")["trouble"]
    server.call(f"/v1/streams/{stream_id}", "DELETE")


def test_events_go_on_where_a_client_left_off(server: Server, pong: str) -> None:
    """Any number of reconnects: every sequence number once."""
    url = f"{server.url}/v1/streams/{pong}/events"
    seen = [event["id"] for event in listen(f"{url}?after=-1", 3)]
    for _ in range(4):
        seen += [event["id"] for event in listen(url, 2, Last_Event_ID=str(seen[-1]))]
    assert list(range(11)) == seen
    events = listen(f"{server.url}/v1/events?after=0", 3)
    assert all(event["id"] == event["data"]["row"] for event in events)


def test_what_the_journal_no_longer_has_is_a_gap(server: Server, pong: str) -> None:
    url = f"{server.url}/v1/streams/{pong}/events"
    (gap,) = listen(url, 1, Last_Event_ID="1000000")
    assert ("gap", 1000000) == (gap["event"], gap["data"]["to"])
    (gap,) = listen(f"{server.url}/v1/events?after=100000000", 1)
    assert "gap" == gap["event"]
    for bad in ("x", "-1", "1e3", "9" * 19):
        with pytest.raises(urllib.error.HTTPError, match="400"):
            listen(url, 1, Last_Event_ID=bad)


def test_pruned_lines_are_a_gap_and_nothing_else_is_lost(tmp_path: Path) -> None:
    with Server(tmp_path, max_streams=1) as server:
        stream_id = server.start(source="arcade:pong", realtime=False, seconds=8.0)
        wait_for(lambda: server.call(f"/v1/streams/{stream_id}")["state"] == "ended")
        with server.hub.journal._lock:
            server.hub.journal._db.execute("DELETE FROM events WHERE seq < 4")
        gap, first, second = listen(f"{server.url}/v1/streams/{stream_id}/events?after=1", 3)
        assert ({"from": 2, "to": 3}, 4, 5) == (gap["data"], first["id"], second["id"])


def test_an_answer_grows_while_the_stream_goes_on(server: Server, pong: str) -> None:
    body = json.dumps({"question": "What is the score?"}).encode()

    before = server.call(f"/v1/streams/{pong}")["media_seconds"]
    request = urllib.request.Request(
        f"{server.url}/v1/streams/{pong}/ask", body, {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        text = answer.read().decode()
    events = [dict(line.split(": ", 1) for line in part.split("\n")) for part in text.strip().split("\n\n")]
    parts = [json.loads(event["data"]) for event in events]
    assert "done" == events[-1]["event"]
    assert "".join(part["text"] for part in parts[:-1]) == parts[-1]["answer"]
    server.watched(pong, before + 2)
    lines = server.call(f"/v1/journal?stream={pong}&limit=1000")["lines"]
    assert ("What is the score?", parts[-1]["answer"]) in [
        (a["text"], b["text"]) for a in lines for b in lines if (a["type"], b["type"]) == ("question", "answer")
    ]


def test_a_question_may_bring_lines_of_the_journal(server: Server, pong: str) -> None:
    lines = server.call(f"/v1/journal?stream={pong}&limit=1000")["lines"]
    said = next(w for line in lines if line["type"] == "caption" for w in line["text"].split() if w.isalnum())
    value = {"question": f"When {said}?", "recall": True, "stream": False}
    answer = server.call(f"/v1/streams/{pong}/ask", "POST", value)
    assert answer["cited"]
    assert any(said.lower() in line["text"].lower() for line in answer["cited"])
    assert [] == server.call(f"/v1/streams/{pong}/ask", "POST", {**value, "recall": False})["cited"]


def test_search_finds_what_was_said_and_its_picture(server: Server, pong: str) -> None:
    lines = server.call(f"/v1/journal?stream={pong}")["lines"]
    line = next(line for line in lines if line["type"] == "caption" and any(w.isalnum() for w in line["text"].split()))
    word = next(w for w in line["text"].split() if w.isalnum())
    found = server.call(f"/v1/search?stream={pong}&q={word}")["lines"]
    assert line["row"] in [f["row"] for f in server.call(f"/v1/search?q={word}&limit=200")["lines"]]
    assert 160 == from_bytes(server.call(f"/v1/journal/{found[0]['row']}/picture.jpg")).shape[1]


@pytest.fixture
def hook() -> Iterator[Any]:
    """A server that keeps what is posted to it."""
    got: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    listening = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listening.server_port}/x", got
    listening.shutdown()
    listening.server_close()


def test_an_alert_is_an_event_with_its_clip_and_a_webhook(server: Server, pong: str, hook: Any) -> None:
    url, got = hook
    alert = server.call(f"/v1/streams/{pong}/alerts", "POST", {"pattern": "*", "debounce": 0, "webhook": url})
    asked = server.call(f"/v1/streams/{pong}/alerts", "POST", {"condition": "it rains", "every": 1})
    wait_for(lambda: got)
    assert (alert["id"], pong) == (got[0]["alert"], got[0]["stream"])
    assert got[0]["clip"][1] - got[0]["clip"][0] == 1.0
    lines = server.call(f"/v1/journal?stream={pong}&limit=1000")["lines"]
    assert got[0]["row"] in [line["row"] for line in lines if line["type"] == "alert"]
    assert [alert["id"], asked["id"]] == [a["id"] for a in server.call(f"/v1/streams/{pong}/alerts")["alerts"]]
    for one in (alert, asked):
        server.call(f"/v1/streams/{pong}/alerts/{one['id']}", "DELETE")
    assert [] == server.call(f"/v1/streams/{pong}")["alerts"]
    assert not [line for line in lines if line["type"] == "question" and "it rains" in line["text"]]


def test_every_pushed_frame_gets_one_verdict(server: Server) -> None:
    """With times: used, too soon, too old; damaged and empty ones are errors; then the stream ends by itself."""
    stream_id = server.start(source="push")
    wait_for(lambda: server.call(f"/v1/streams/{stream_id}")["state"] == "running")
    jpeg = to_jpeg(np.full((48, 64, 3), 90, np.uint8))
    at = [0.0, 0.1, 0.5, 0.2, 1.0, 1.5]
    expected = ["used", "rate", "used", "stale", "used", "used"]
    with connect(f"{server.url.replace('http', 'ws')}/v1/streams/{stream_id}/push?timestamps=1") as socket:
        replies = []
        for second in at:
            socket.send(struct.pack(">d", second) + jpeg)
            replies.append(json.loads(socket.recv()))
            if second in (0.5, 1.5):
                wait_for(lambda: not server.hub.sessions[stream_id].push._waiting)
        assert expected == [reply.get("why", reply["result"]) for reply in replies]
        for bad in (struct.pack(">d", 5.0) + jpeg[:50], b"", struct.pack(">d", -1.0) + jpeg, "text"):
            socket.send(bad)
            replies.append(json.loads(socket.recv()))
        assert ["error"] * 4 == [reply["result"] for reply in replies[6:]]
        assert list(range(10)) == [reply["n"] for reply in replies]
        socket.send("end")
    wait_for(lambda: server.call(f"/v1/streams/{stream_id}")["state"] == "ended")
    assert 4 == server.watched(stream_id, 2)["frames_used"]
    server.call(f"/v1/streams/{stream_id}", "DELETE")


def test_a_full_push_queue_is_busy() -> None:
    from neverblink.sources.base import SourceOptions
    from neverblink.sources.push import PushSource

    source = PushSource("push", SourceOptions(fps=2.0), clock=lambda: 0.0)
    picture = np.zeros((4, 4, 3), np.uint8)
    assert ["used", "used", "busy"] == [source.offer(picture, at)[0] for at in (0.0, 0.5, 1.0)]
    frames = source.frames()
    assert (0.0, 1) == (next(frames).time, source.take_dropped())
    assert ("used", 1.0) == source.offer(picture, 1.2)
    source.finish()
    assert [0.5, 1.0] == [frame.time for frame in frames]


def test_the_page_gets_frames_of_every_stream(server: Server, pong: str) -> None:
    with connect(f"{server.url.replace('http', 'ws')}/v1/frames") as socket:
        socket.send(json.dumps({pong: 80, "s-00000000": 80}))
        data = socket.recv()
        size = data[0]
        assert pong == data[1 : 1 + size].decode()
        assert struct.unpack(">d", data[1 + size : 9 + size])[0] >= 0
        assert 80 == from_bytes(data[9 + size :]).shape[1]


def test_places_are_limited_and_those_of_ended_streams_are_given_on(tmp_path: Path) -> None:
    with Server(tmp_path, max_streams=1) as server:
        first = server.start(source="arcade:pong")
        with pytest.raises(Refused, match="all 1 places are taken"):
            server.start(source="arcade:pong")
        server.call(f"/v1/streams/{first}", "DELETE")
        second = server.start(source="arcade:pong", realtime=False, seconds=2.0)
        wait_for(lambda: server.call(f"/v1/streams/{second}")["state"] == "ended")
        third = server.start(source="arcade:pong")
        server.watched(third, 1)
        with pytest.raises(Refused, match="holds nothing that could be asked about"):
            server.call(f"/v1/streams/{second}/ask", "POST", {"question": "What?"})


def test_metrics_and_health(server: Server, pong: str) -> None:
    text = server.call("/metrics").decode()
    samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(samples[f'neverblink_frames_used_total{{stream="{pong}"}}']) >= 2
    assert float(samples["neverblink_step_seconds_count"]) == float(
        samples['neverblink_step_seconds_bucket{le="+Inf"}']
    )
    server.hub.engine.last_broken = RuntimeError('no "kernel"\nfor this')
    assert r'neverblink_packs_broken_last{reason="RuntimeError: no \"kernel\""} 1' in server.call("/metrics").decode()
    server.hub.engine.last_broken = None
    assert "neverblink_packs_broken_last{" not in server.call("/metrics").decode()
    assert {"status": "ready"} == server.call("/health/ready")
    server.hub.journal_error = "disk full"
    with pytest.raises(Refused, match=r"503.*disk full"):
        server.call("/health/ready")
    server.hub.journal_error = ""


def test_a_journal_that_cannot_be_written_is_told_and_the_stream_goes_on(tmp_path: Path) -> None:
    """Not ready while it lasts; then everything is kept again, and no number is used twice."""
    with Server(tmp_path, max_streams=1) as server:
        stream_id = server.start(source="arcade:pong", name="http://u:pass@host/")
        server.watched(stream_id, 1)
        server.hub.worker.call(lambda: server.hub.journal._db.execute("PRAGMA query_only = ON")).result()
        at = server.call(f"/v1/streams/{stream_id}")["media_seconds"]
        server.watched(stream_id, at + 2)
        with pytest.raises(Refused, match=r"503.*journal cannot be written"):
            server.call("/health/ready")
        server.hub.worker.call(lambda: server.hub.journal._db.execute("PRAGMA query_only = OFF")).result()
        server.watched(stream_id, at + 5)
        assert {"status": "ready"} == server.call("/health/ready")
        told = server.call(f"/v1/streams/{stream_id}")
        lines = server.call(f"/v1/journal?stream={stream_id}&silence=1")["lines"]
    assert ("running", "http://host/") == (told["state"], told["name"])
    seqs = [line["seq"] for line in lines]
    assert seqs == sorted(set(seqs))
    assert seqs != list(range(len(seqs))), "what could not be kept is missing, and its numbers with it"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_engine_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that dies again and again is given up: not ready, and whoever asks is told, not left waiting."""
    monkeypatch.setattr(watchdog, "MOST", 2)
    monkeypatch.setattr(watchdog, "WITHIN", 600.0)
    with Server(tmp_path, max_streams=1) as server:
        stream_id = server.start(source="arcade:pong", realtime=False)
        server.watched(stream_id, 1)

        def fail() -> Any:
            raise RuntimeError("no device")

        server.hub.engine.advance = fail
        wait_for(lambda: server.hub.watchdog.gave_up)
        with pytest.raises(
            Refused, match=r"503.*RuntimeError: no device; it died 2 times in 600 s, start the server again"
        ):
            server.call("/health/ready")
        with pytest.raises(Refused, match="the engine has stopped"):
            server.call(f"/v1/streams/{stream_id}/ask", "POST", {"question": "What?"})
        del server.hub.engine.advance


def test_many_clients_on_one_stream(server: Server, pong: str) -> None:
    """A crowd of listeners: each hears every number once, and leaves nothing behind."""
    url = f"{server.url}/v1/streams/{pong}/events?after=0"
    heard: list[list[int]] = []

    def one() -> None:
        heard.append([event["id"] for event in listen(url, 6)])

    threads = [threading.Thread(target=one) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [list(range(1, 7))] * 20 == heard
    wait_for(lambda: server.hub.feed.clients == 0)


def test_words_are_mentioned_as_they_are_spoken(server: Server, pong: str) -> None:
    for event in sse(f"{server.url}/v1/events"):
        if event["event"] in ("speaking", "server"):
            assert "id" not in event, "what no journal keeps has no number"
            break
