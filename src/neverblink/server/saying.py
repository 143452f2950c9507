"""What a stream is saying at this moment, read from its table between two rounds; and answers that grow."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import NamedTuple

import numpy as np

from neverblink.memory.journal import Entry
from neverblink.stream import Stream
from neverblink.types import Kind

UNSTABLE = " .\n\ufffd"  # at the end of a text that grows: may turn out to be a silence mark, or half a character


class Saying(NamedTuple):
    """A turn of the model that is not over."""

    answer: bool  # else a caption
    text: str


def being_said(stream: Stream) -> Saying | None:
    """The turn that the stream is in the middle of; None between two turns."""
    table = stream.table
    kinds, ids = table.kinds[: table.m], table.ids[: table.m]
    heads = np.flatnonzero(kinds == Kind.HEAD)
    if not len(heads):
        return None
    behind = kinds[heads[-1] + 1 :]
    if (behind == Kind.CLOSE).any() or not (behind == Kind.SAID).any():
        return None
    users = np.flatnonzero(kinds[: heads[-1]] == Kind.USER)
    turn = kinds[users[-1] : heads[-1]] if len(users) else kinds[:0]
    said = ids[heads[-1] + 1 :][behind == Kind.SAID]
    return Saying(not (turn == Kind.PIXELS).any(), stream.script.text_of([int(token) for token in said]))


class Answering:
    """A question on its way. The engine's thread makes it grow, one coroutine reads it.

    Args:
        words: what the model is asked; the question, with what was recalled in front of it.
    """

    def __init__(self, question: str, words: str | None = None, recalled: list[Entry] | None = None):
        self.question, self.words, self.recalled = question, words or question, recalled or []
        self.answer: str | None = None
        self.at = 0.0  # media second of the newest picture that the answer knows
        self.ttft = 0.0  # wall seconds to the first word
        self.began = time.perf_counter()
        self._loop = asyncio.get_running_loop()
        self._grown = asyncio.Event()
        self._text = ""
        self._error: BaseException | None = None

    def grow(self, text: str) -> None:
        if text != self._text:
            self._text = text
            self._wake()

    def end(self, answer: str, at: float, ttft: float) -> None:
        self.at, self.ttft, self.answer = at, ttft, answer
        self._wake()

    def fail(self, error: BaseException) -> None:
        self._error = error
        self._wake()

    def _wake(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._grown.set)

    async def deltas(self) -> AsyncIterator[str]:
        """Pieces of the answer as they come; together they are the answer.

        Raises:
            whatever ended the stream before its answer was there.
        """
        sent = ""
        while True:
            await self._grown.wait()
            self._grown.clear()
            if self._error is not None:
                raise self._error
            answer = self.answer
            text = answer if answer is not None else self._text.rstrip(UNSTABLE)
            if text.startswith(sent) and len(text) > len(sent):
                yield text[len(sent) :]
                sent = text
            if answer is not None:
                return

    async def whole(self) -> str:
        async for _ in self.deltas():
            pass
        return self.answer or ""
