"""A server that ends, orderly or by kill -9: its streams go on, nothing is lost twice, nothing is said twice."""

import json
import struct
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.sync.client import connect

from neverblink.drills.cameras import free_port, mjpeg, web
from neverblink.errors import ConfigError
from neverblink.memory.journal import Journal
from neverblink.pictures import to_jpeg
from neverblink.server.alerts import Rule
from neverblink.server.hub import Hub
from neverblink.server.spec import Spec, spec_of
from neverblink.server.vault import Vault
from tests.server.running import OPTIONS, Server, wait_for


def steps(journal: Path, stream_id: str) -> list[tuple[float, float]]:
    """Start and end of every second that was watched, in the order of the journal."""
    with Journal(journal, read_only=True) as book:
        entries = book.events(stream_id, limit=10**6)
        assert sorted({e.event.seq for e in entries}) == [e.event.seq for e in entries] == list(range(len(entries)))
        assert "ok" == book._one("PRAGMA integrity_check")
        return [(e.event.t_start, e.event.t_end) for e in entries if e.event.type in ("caption", "silence")]


def told(server: Server, stream_id: str) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = server.call(f"/v1/journal?stream={stream_id}&limit=1000")["lines"]
    return lines


@pytest.mark.parametrize("kv_dtype", ["", "int8"])
def test_an_orderly_stop_loses_nothing(tmp_path: Path, kv_dtype: str) -> None:
    """The stream has its memory back: it is at the same turn with the same rows, and goes on with the next second."""
    with Server(tmp_path, kv_dtype=kv_dtype, max_streams=2) as server:
        stream_id = server.start(source="arcade:pong?seed=5", realtime=False, seconds=500.0, name="a game")
        paused = server.start(source="push")
        wait_for(lambda: server.call(f"/v1/streams/{paused}")["state"] == "running")
        server.call(f"/v1/streams/{paused}/pause", "POST")
        server.call(f"/v1/streams/{stream_id}/alerts", "POST", {"pattern": "never said"})
        server.watched(stream_id, 4)
        session = server.hub.sessions[stream_id]
    turn, rows = session.stream.turn, session.stream.rows().ids.tolist()
    before = steps(tmp_path / "journal.db", stream_id)
    assert len(before) == turn
    restored: list[tuple[int, list[int]]] = []
    restore = type(session.stream).restore

    def watched_restore(stream: object, path: Path) -> None:
        restore(stream, path)  # type: ignore[arg-type]
        restored.append((stream.turn, stream.rows().ids.tolist()))  # type: ignore[attr-defined]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(session.stream), "restore", watched_restore)
        with Server(tmp_path, kv_dtype=kv_dtype, max_streams=2) as server:
            assert ["paused", "a game"] == [
                server.call(f"/v1/streams/{paused}")["state"],
                server.call(f"/v1/streams/{stream_id}")["name"],
            ]
            assert "never said" == server.call(f"/v1/streams/{stream_id}/alerts")["alerts"][0]["pattern"]
            server.watched(stream_id, before[-1][1] + 2)
            with pytest.raises(ConfigError, match="another neverblink serve uses"):
                Hub(server.hub.model, server.options, OPTIONS)
    assert [(turn, rows)] == restored
    after = steps(tmp_path / "journal.db", stream_id)
    assert [(float(i), float(i + 1)) for i in range(len(after))] == after
    assert len(after) >= len(before) + 2


def test_a_slow_model_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """What was read and cannot be watched in time is undone, not cut in two: it is watched after the next start."""
    with Server(tmp_path, max_streams=1) as server:
        stream_id = server.start(source="arcade:pong", realtime=False, seconds=500.0)
        server.watched(stream_id, 2)
        adapter = server.hub.engine.adapter
        forward = adapter.forward_packed
        calls: list[None] = []
        adapter.forward_packed = lambda *given: (calls.append(time.sleep(0.5)), forward(*given))[1]  # 4 chunks wait: 24
        time.sleep(1)
        server._server.should_exit = True
        before_the_end = len(calls)
        server._thread.join()
        assert len(calls) - before_the_end < 20
        del adapter.forward_packed
        session = server.hub.sessions[stream_id]
        table = session.stream.table
        assert table.turns[: table.m].max() == session.stream.turn - 1, "no turn by halves"
    before = steps(tmp_path / "journal.db", stream_id)
    with Server(tmp_path, max_streams=1) as server:
        server.watched(stream_id, before[-1][1] + 2)
    after = steps(tmp_path / "journal.db", stream_id)
    assert [(float(i), float(i + 1)) for i in range(len(after))] == after


def test_what_cannot_be_seen_again_is_a_gap(tmp_path: Path) -> None:
    """A push stream goes on behind what was told before the stop, however its own clock begins again."""
    jpeg = to_jpeg(np.full((48, 64, 3), 90, np.uint8))

    def push(server: Server, stream_id: str, seconds: int) -> None:
        wait_for(lambda: server.call(f"/v1/streams/{stream_id}")["state"] == "running")
        with connect(f"{server.url.replace('http', 'ws')}/v1/streams/{stream_id}/push?timestamps=1") as socket:
            for half in range(2 * seconds + 1):
                wait_for(lambda: not server.hub.sessions[stream_id].push._waiting)
                socket.send(struct.pack(">d", half / 2) + jpeg)
                assert "used" in socket.recv()

    with Server(tmp_path, max_streams=1) as server:
        stream_id = server.start(source="push")
        push(server, stream_id, 3)
        server.watched(stream_id, 3)
    before = steps(tmp_path / "journal.db", stream_id)
    with Server(tmp_path, max_streams=1) as server:
        push(server, stream_id, 3)
        server.watched(stream_id, before[-1][1] + 2)
        lines = server.call(f"/v1/journal?stream={stream_id}")["lines"]
    after = steps(tmp_path / "journal.db", stream_id)
    assert before == after[: len(before)]
    starts = [start for start, _ in after]
    assert starts == sorted(set(starts))
    assert 1 == len([line for line in lines if line["type"] == "gap"])


def test_a_camera_that_is_away_when_the_server_is_back_is_waited_for(tmp_path: Path) -> None:
    """It was watched before the stop, so it is no typing error: one error event, and captions once it is there."""
    port = free_port()
    source = f"http://127.0.0.1:{port}/cam"
    with web(mjpeg(8), port), Server(tmp_path, max_streams=1, allow_private_urls=True) as server:
        stream_id = server.start(source=source)
        server.watched(stream_id, 2)
    before = steps(tmp_path / "journal.db", stream_id)
    with Server(tmp_path, max_streams=1, allow_private_urls=True) as server:
        wait_for(lambda: any(e["type"] == "error" for e in told(server, stream_id)))
        assert "starting" == server.call(f"/v1/streams/{stream_id}")["state"]
        with web(mjpeg(8), port):
            server.watched(stream_id, before[-1][1] + 3)
        new = told(server, stream_id)
    assert ["error"] == [e["type"] for e in new if e["type"] == "error" and "reconnecting" in e["text"]][:1]
    assert 1 <= len([e for e in new if e["type"] == "gap"])
    starts = [start for start, _ in steps(tmp_path / "journal.db", stream_id)]
    assert starts == sorted(set(starts))


def test_a_camera_that_was_never_there_fails_at_once(tmp_path: Path) -> None:
    with Server(tmp_path, max_streams=1, allow_private_urls=True) as server:
        stream_id = server.start(source=f"http://127.0.0.1:{free_port()}/cam")
        wait_for(lambda: server.call(f"/v1/streams/{stream_id}")["state"] == "failed")


def test_half_files_of_a_killed_server_are_swept(tmp_path: Path) -> None:
    for name in ("snapshots", "uploads"):
        (tmp_path / name).mkdir()
    halves = [tmp_path / "snapshots" / ".s-1.safetensors.7.part", tmp_path / "uploads" / "0123456789abcdef.part"]
    whole = tmp_path / "uploads" / "0123456789abcdef"
    for path in (*halves, whole):
        path.write_bytes(b"x")
    with Server(tmp_path, max_streams=1):
        assert [False, False, True] == [path.exists() for path in (*halves, whole)]


def test_passwords_are_kept_apart(tmp_path: Path) -> None:
    """Hidden in what the journal gets, back in what the stream gets, also after a restart; gone with their stream."""
    about = {
        "source": "rtsp://u:pass@cam/x?key=1",
        "name": "at http://u:pass@cam/",
        "alerts": [{"id": "a", "webhook": "https://h:pass@hook/x?k=1"}, {"id": "b", "webhook": None}],
    }
    vault = Vault(tmp_path / "addresses.json")
    hidden = vault.hide("s", about)
    assert "pass" not in str(hidden)
    assert "key=1" not in str(hidden)
    assert {"source": "arcade:pong", "name": "", "alerts": []} == vault.hide(
        "t", {"source": "arcade:pong", "name": "", "alerts": []}
    )
    again = Vault(tmp_path / "addresses.json")
    assert {**about, "name": hidden["name"]} == again.reveal("s", hidden)
    assert ["s"] == list(json.loads((tmp_path / "addresses.json").read_text()))
    again.forget("s")
    assert "{}" == (tmp_path / "addresses.json").read_text()
    (tmp_path / "addresses.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot read the addresses in"):
        Vault(tmp_path / "addresses.json")


def test_what_a_stream_is_survives_the_journal(tmp_path: Path) -> None:
    spec = Spec("arcade:pong", "x", True, 4.0, "q", 9.0, (Rule("a-1", "goal", None, 5, 1, None),))
    about = {**asdict(spec), "alerts": [rule.as_json() for rule in spec.alerts], "state": "running", "open": 1}
    assert spec == spec_of(about)
