"""What fails ends one stream, which can be resumed; an engine that dies comes back with every stream's memory."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from neverblink.memory.journal import Journal
from neverblink.server import worker as workers
from tests.server.running import Refused, Server, wait_for
from tests.server.test_restart import steps

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Server, str, str]]:
    """A server with two games, each three seconds old at least."""
    with Server(tmp_path, max_streams=3) as server:
        ids = [server.start(source=f"arcade:pong?seed={i}", realtime=False, seconds=9000.0) for i in (1, 2)]
        for stream_id in ids:
            server.watched(stream_id, 3)
        yield server, *ids


def reached(server: Server, stream_id: str) -> float:
    return float(server.call(f"/v1/streams/{stream_id}")["media_seconds"])


def goes_on(server: Server, stream_id: str) -> None:
    server.watched(stream_id, reached(server, stream_id) + 3)


def come_to_rest(server: Server, *ids: str) -> None:
    for stream_id in ids:
        server.call(f"/v1/streams/{stream_id}/pause", "POST")
    wait_for(lambda: not server.hub.engine.has_work)
    server.hub.worker.call(lambda: None).result(30)  # what the last round said is in the journal


def texts(journal: Path, stream_id: str, kind: Any) -> list[str]:
    with Journal(journal, read_only=True) as book:
        return [entry.event.text for entry in book.events(stream_id, types=[kind])]


def no_second_twice(server: Server, *ids: str) -> None:
    for stream_id in ids:
        told = steps(server.hub.folder / "journal.db", stream_id)
        assert [(float(i), float(i + 1)) for i in range(len(told))] == told


def test_a_failing_stream_ends_alone_and_goes_on_when_resumed(two: tuple[Server, str, str]) -> None:
    """Out of memory in every forward of one slot: packed calls go on without it, its memory is kept."""
    server, bad, good = two
    adapter = server.hub.engine.adapter
    session = server.hub.sessions[bad]
    slot = session.stream.slot
    forward, forward_packed = adapter.forward, adapter.forward_packed

    def broken(embeds: Any, positions: Any, cache: Any) -> Any:
        if cache.slot == slot:
            raise MemoryError("no memory")
        return forward(embeds, positions, cache)

    def broken_packed(embeds: Any, positions: Any, cache: Any) -> Any:
        if slot in {segment.cache.slot for segment in cache.segments}:
            raise MemoryError("no memory")
        return forward_packed(embeds, positions, cache)

    adapter.forward, adapter.forward_packed = broken, broken_packed
    try:
        wait_for(lambda: server.call(f"/v1/streams/{bad}")["state"] == "failed")
        told = server.call(f"/v1/streams/{bad}")
        at = int(told["media_seconds"])
        assert f"MemoryError: no memory; resume it to go on from second {at}" == told["trouble"]
        goes_on(server, good)
        assert {"status": "ready"} == server.call("/health/ready")
    finally:
        del adapter.forward, adapter.forward_packed
    with pytest.raises(Refused, match="409"):
        server.call(f"/v1/streams/{good}/resume", "POST")
    server.call(f"/v1/streams/{bad}/resume", "POST")
    goes_on(server, bad)
    come_to_rest(server, bad, good)
    assert session.stream.turn == len(steps(server.hub.folder / "journal.db", bad)), "it remembers every second"
    assert f"goes on with its memory of second {at}" in texts(server.hub.folder / "journal.db", bad, "source")
    no_second_twice(server, bad, good)


def test_an_engine_that_dies_is_back_with_every_stream(two: tuple[Server, str, str]) -> None:
    """A fault of ours in a round: not ready, ready again, and no stream has lost its memory."""
    server, one, other = two
    died = threading.Event()
    advance = server.hub.engine.advance
    troubles: list[list[str]] = []

    def die() -> Any:
        server.hub.engine.advance = advance
        died.set()
        raise SystemError("a fault of ours")

    bring_back = server.hub.watchdog._bring_back

    async def seen(why: str) -> None:
        troubles.append(server.hub.troubles())
        await bring_back(why)

    server.hub.watchdog._bring_back = seen
    server.hub.engine.advance = die
    assert died.wait(10)
    wait_for(lambda: server.hub.watchdog.revived, 10)
    assert [["the engine has stopped: SystemError: a fault of ours"]] == troubles
    assert {"status": "ready"} == server.call("/health/ready")
    for stream_id in (one, other):
        goes_on(server, stream_id)
    come_to_rest(server, one, other)
    for stream_id in (one, other):
        told = steps(server.hub.folder / "journal.db", stream_id)
        assert server.hub.sessions[stream_id].stream.turn == len(told), "it remembers every second"
        wrong = texts(server.hub.folder / "journal.db", stream_id, "error")
        assert ["the engine has stopped: SystemError: a fault of ours"] == wrong
    no_second_twice(server, one, other)


def test_a_fault_of_ours_in_one_stream_ends_that_stream(
    two: tuple[Server, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a stream says cannot be dealt with: the other stream and the engine do not notice."""
    server, bad, good = two

    def fail(caption: Any) -> None:
        raise KeyError("a fault of ours")

    monkeypatch.setattr(server.hub.sessions[bad], "_on_caption", fail)
    wait_for(lambda: server.call(f"/v1/streams/{bad}")["state"] == "failed")
    goes_on(server, good)
    assert server.hub.worker.alive
    assert bad not in server.hub.engine.stream_ids
    assert 0 == server.hub.watchdog.revived


def test_an_engine_that_hangs_is_told(two: tuple[Server, str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    server, one, _ = two
    monkeypatch.setattr(workers, "LEAST", 0.2)
    server.hub.worker._slowest, server.hub.worker._rounds = 0.01, 100
    go_on, advance = threading.Event(), server.hub.engine.advance

    def hang() -> Any:
        go_on.wait(20)
        return advance()

    server.hub.engine.advance = hang
    try:
        wait_for(lambda: server.hub.troubles(), 10)
        with pytest.raises(Refused, match=r"503.*the engine has been in one call for"):
            server.call("/health/ready")
    finally:
        server.hub.engine.advance = advance
        go_on.set()
    wait_for(lambda: not server.hub.troubles(), 10)
    goes_on(server, one)


def test_streams_that_fail_one_after_the_other_are_told() -> None:
    """A device that is gone fails every stream; one that has said too much is no sign of that."""
    from neverblink.engine import Result
    from neverblink.errors import BudgetError

    class Rounds:
        has_work = True
        stream_ids: tuple[str, ...] = ()
        results: list[Result]

        def advance(self) -> list[Result]:
            return self.results

    engine: Any = Rounds()
    worker = workers.Worker(engine)
    for error, expected in ((RuntimeError("CUDA error"), 3), (BudgetError("full"), 0)):
        engine.results = [Result(str(i), error=error) for i in range(3)]
        worker.failing.clear()
        worker._round()
        assert expected == len(worker.failing)
    engine.results = [Result(str(i), error=RuntimeError("CUDA error")) for i in range(2)]
    worker._round()
    engine.results = [Result("9", answer="still here")]
    worker._round()
    assert not worker.failing
