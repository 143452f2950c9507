"""A server that ends, orderly or by kill -9: its streams go on, nothing is lost twice, nothing is said twice."""

import re
from dataclasses import asdict
from pathlib import Path

import pytest

from neverblink.errors import ConfigError
from neverblink.memory.journal import Journal
from neverblink.server.alerts import Rule
from neverblink.server.hub import Hub
from neverblink.server.spec import Spec, spec_of
from tests.server.running import OPTIONS, Process, Server, call, wait_for


def steps(journal: Path, stream_id: str) -> list[tuple[float, float]]:
    """Start and end of every second that was watched, in the order of the journal."""
    with Journal(journal, read_only=True) as book:
        entries = book.events(stream_id, limit=10**6)
        assert sorted({e.event.seq for e in entries}) == [e.event.seq for e in entries] == list(range(len(entries)))
        assert "ok" == book._one("PRAGMA integrity_check")
        return [(e.event.t_start, e.event.t_end) for e in entries if e.event.type in ("caption", "silence")]


def test_an_orderly_stop_loses_nothing(tmp_path: Path) -> None:
    """The stream has its memory back: it is at the same turn with the same rows, and goes on with the next second."""
    with Server(tmp_path, max_streams=2) as server:
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
        with Server(tmp_path, max_streams=2) as server:
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


def test_kill_9_in_mid_stream(tmp_path: Path) -> None:
    """The journal is sound, no second is told twice, and the stream goes on with the memory of its snapshot."""
    process = Process(tmp_path, "arcade:pong?seed=2")
    stream_id, reached = "", 0.0
    for run in range(2):
        process.start()
        (stream,) = call(process.url + "/v1/streams")["streams"]
        assert stream["id"] == (stream_id or stream["id"]), "the same stream goes on"
        stream_id, goal = stream["id"], max(8.0, reached + 3)
        wait_for(lambda: call(f"{process.url}/v1/streams/{stream_id}")["media_seconds"] >= goal, 120)  # noqa: B023
        assert 0 == process.kill(15) if run == 1 else process.kill() != 0
        told = steps(tmp_path / "journal.db", stream_id)
        starts = [start for start, _ in told]
        assert starts == sorted(set(starts)), "no second twice"
        reached = told[-1][1]
        assert reached >= goal - 1
    with Journal(tmp_path / "journal.db", read_only=True) as book:
        texts = [e.event.text for e in book.events(stream_id, types=["source"])]
    seconds = [int(re.findall(r"memory of second (\d+)", text)[0]) for text in texts if "memory of" in text]
    assert 1 == len(seconds), texts
    assert seconds[0] > 0


def test_what_a_stream_is_survives_the_journal(tmp_path: Path) -> None:
    spec = Spec("arcade:pong", "x", True, 4.0, "q", 9.0, (Rule("a-1", "goal", None, 5, 1, None),))
    about = {**asdict(spec), "alerts": [rule.as_json() for rule in spec.alerts], "state": "running", "open": 1}
    assert spec == spec_of(about)
