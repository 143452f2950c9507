"""The thread that reads a stream's source: how it is stopped, and on which clock it tells."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from neverblink.errors import SourceError
from neverblink.server import reader
from neverblink.sources.base import SourceOptions


class Opening:
    """A source that is opening until somebody closes it."""

    def __init__(self) -> None:
        self.begun, self.closed = threading.Event(), threading.Event()

    def __enter__(self) -> Any:
        self.begun.set()
        assert self.closed.wait(60)
        raise SourceError("closed while it was opening")

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self.closed.set()


def session_of(told: list[tuple[str, str, float]]) -> Any:
    """As much of a session as a reader asks for."""
    worker = SimpleNamespace(call=lambda work: None)
    hub = SimpleNamespace(seen_at=lambda name: 0.0, path_of=lambda name: name, reach_of_clients="public", worker=worker)
    spec = SimpleNamespace(source="http://x/cam", runs_by_the_clock=True, seconds=None, by_client=True)
    on_source = lambda *event: told.append(event)  # noqa: E731
    return SimpleNamespace(
        id="s", hub=hub, spec=spec, kind="network", fps=2.0, push=None, caption=None, begun=0.0, on_source=on_source
    )


def test_a_source_that_is_still_opening_is_closed_by_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Opening()
    monkeypatch.setattr(reader, "open_source", lambda name, options: source)
    reading = reader.Reader(session_of([]))
    reading.start()
    assert source.begun.wait(60)
    reading.stop()
    assert source.closed.is_set()
    assert not reading._thread.is_alive()


def test_a_stop_before_the_opening_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stop comes while the source is being made, when there is nothing yet that it could close."""
    source = Opening()

    def make(name: str, options: SourceOptions) -> Opening:
        reading.give_up()
        return source

    monkeypatch.setattr(reader, "open_source", make)
    reading = reader.Reader(session_of([]))
    reading.start()
    reading._thread.join(60)
    assert not reading._thread.is_alive()
    assert not source.begun.is_set()


def test_what_a_resumed_source_tells_is_on_the_streams_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, str, float]] = []
    given: list[SourceOptions] = []
    monkeypatch.setattr(reader, "open_source", lambda name, options: given.append(options))
    tap = reader.Reader(session_of(told))._tap()
    given[0].on_event("gap", "a moment", 1.5)
    tap.offset = 40.0
    given[0].on_event("gap", "a moment", 1.5)
    assert [("gap", "a moment", 1.5), ("gap", "a moment", 41.5)] == told
