"""Conversations: streams that live as long as a client's messages are answered."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from neverblink.engine import Result
from neverblink.errors import ConfigError
from neverblink.server.saying import Answering, being_said
from neverblink.stream import Stream
from neverblink.types import Chunk

if TYPE_CHECKING:
    from neverblink.server.hub import Hub


class Talk:
    """A stream that lives as long as one conversation: a chat completion, or a realtime session."""

    def __init__(self, hub: Hub, id: str):
        self.hub, self.id = hub, id
        self.stream: Stream | None = None
        self.said = 0  # tokens of what was shown
        self._asked: deque[Answering] = deque()
        self._seen: deque[Callable[[Exception | None], None]] = deque()

    def enter(self) -> None:
        options, script = self.hub.stream_options(None), self.hub.script(None)
        self.stream = self.hub.engine.add(self.id, options=options, script=script, overload="slow", most_waiting=10**6)
        self.hub.worker.listeners[self.id] = self

    def leave(self) -> None:
        self.hub.worker.listeners.pop(self.id, None)
        if self.id in self.hub.engine.stream_ids:
            self.hub.engine.remove(self.id)
        self._fail(ConfigError("the conversation is over"))

    def show(self, chunk: Chunk, then: Callable[[Exception | None], None]) -> None:
        self.hub.engine.submit(self.id, chunk)
        self._seen.append(then)

    def ask(self, answering: Answering, *, remember: bool = False) -> None:
        self.hub.engine.ask(self.id, answering.words, remember=remember)
        self._asked.append(answering)

    def on_result(self, result: Result) -> None:
        if result.error is not None:
            self.hub.worker.listeners.pop(self.id, None)
            self._fail(result.error)
        elif result.caption is not None:
            self._seen.popleft()(None)
        else:
            at = self.stream.end if self.stream else 0.0
            self._asked.popleft().end(result.answer or "", at, result.ttft or 0.0)

    def on_round(self) -> None:
        saying = being_said(self.stream) if self.stream is not None and self._asked else None
        if saying is not None and saying.answer and saying.text:
            self._asked[0].grow(saying.text)

    def _fail(self, error: Exception) -> None:
        for asked in self._asked:
            asked.fail(error)
        for then in self._seen:
            with contextlib.suppress(RuntimeError):  # the loop of whoever waited is closed
                then(error)
        self._asked.clear()
        self._seen.clear()
