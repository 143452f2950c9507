"""One stream of an engine: what waits for it, what it is doing, and what it has to tell."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, get_args

from neverblink.errors import ConfigError
from neverblink.models.base import Feed, Look, Request, Steps
from neverblink.stream import Stream
from neverblink.types import Caption, Chunk, Frame

# What becomes of a chunk for which there is no room in the queue: the oldest waiting one makes room, it is not taken,
# or its source is told to wait.
Overload = Literal["drop-oldest", "skip", "slow"]


@dataclass(frozen=True, slots=True)
class Result:
    """What a stream has to tell: a caption, the answer to a question asked apart, or the error that ended it."""

    stream_id: str
    caption: Caption | None = None
    question: str | None = None
    answer: str | None = None
    ttft: float | None = None  # wall seconds from the question to the first token of its answer
    error: Exception | None = None


class Waiting(NamedTuple):
    """A chunk in the queue."""

    chunk: Chunk
    question: str | None


@dataclass(slots=True)
class Asked:
    """A question asked apart from any chunk."""

    question: str
    remember: bool
    asked_at: float  # time.perf_counter
    ttft: float | None = None


class Member:
    """A stream and its queue.

    Args:
        overload: what to do with a chunk that finds the queue full. most_waiting: chunks that the queue holds.
    """

    def __init__(self, stream_id: str, stream: Stream, overload: Overload, most_waiting: int):
        if overload not in get_args(Overload) or most_waiting < 1:
            known = ", ".join(get_args(Overload))
            raise ConfigError(f"overload {overload!r} with {most_waiting} waiting chunks; use {known} with 1 or more")
        self.id, self.stream, self.overload, self.most_waiting = stream_id, stream, overload, most_waiting
        self.queue: deque[Waiting] = deque()
        self.questions: deque[Asked] = deque()
        self.doing: Waiting | Asked | None = None
        self.request: Request | None = None
        self.frames_dropped = 0  # in all, for want of room in the queue
        self.seen: tuple[tuple[Frame, ...], Any] | None = None  # frames of a chunk, and the tower's answer to them
        self._newest = 0.0  # media seconds at which the newest chunk ends
        self._lost = 0  # frames dropped behind everything that waits; the next chunk reports them
        self._steps: Steps[Any] | None = None

    def submit(self, chunk: Chunk, question: str | None = None) -> bool:
        """Put a chunk into the queue; False when it was not taken (`skip`: it is lost, `slow`: come again)."""
        self._newest = max(self._newest, chunk.end)
        if len(self.queue) >= self.most_waiting:
            if self.overload == "slow":
                return False
            if self.overload == "skip":
                self._lose(chunk)
                if question is not None:
                    self.ask(question)
                return False
            oldest = self.queue.popleft()
            if self.seen is not None and self.seen[0] is oldest.chunk.frames:
                self.seen = None
            lost = self._lose(oldest.chunk)
            if oldest.question is not None:
                self.ask(oldest.question)
            if self.queue:  # the next one in line is the first that comes after the gap, so it tells of it
                head = self.queue[0]
                self.queue[0] = head._replace(chunk=replace(head.chunk, dropped=head.chunk.dropped + lost))
                self._lost -= lost
        chunk, self._lost = replace(chunk, dropped=chunk.dropped + self._lost), 0
        self.queue.append(Waiting(chunk, question))
        return True

    def ask(self, question: str, *, remember: bool = False) -> None:
        """Put a question in front of every chunk that waits; the first chunk of all still comes before it."""
        self.questions.append(Asked(question, remember, time.perf_counter()))

    def _lose(self, chunk: Chunk) -> int:
        """Count a chunk that nobody will watch, and what was lost before it; the frames."""
        self.frames_dropped += len(chunk.frames)
        self._lost += len(chunk.frames) + chunk.dropped
        return len(chunk.frames) + chunk.dropped

    @property
    def must_wait(self) -> bool:
        return self.overload == "slow" and len(self.queue) >= self.most_waiting

    @property
    def has_work(self) -> bool:
        return self.doing is not None or bool(self.queue) or bool(self.questions and self.stream.turn)

    @property
    def urgent(self) -> bool:
        """Somebody waits for the first word of an answer."""
        if isinstance(self.doing, Asked):
            return self.doing.ttft is None
        return bool(self.questions) and self.has_work

    @property
    def has_question(self) -> bool:
        """A question waits or is being answered, apart or with a chunk."""
        return bool(self.questions) or any(work is not None and work.question for work in (self.doing, *self.queue))

    @property
    def lateness(self) -> float:
        """How far, in media seconds, the oldest moment that is not done lies behind the newest that has come."""
        if isinstance(self.doing, Waiting):
            return self._newest - self.doing.chunk.start
        return self._newest - self.queue[0].chunk.start if self.queue else 0.0

    @property
    def tokens(self) -> int:
        """Tokens that the request costs."""
        if isinstance(self.request, Look):
            return self.look_tokens
        return len(self.request.embeds) if isinstance(self.request, Feed) else 0

    @property
    def unseen(self) -> tuple[tuple[Frame, ...], Look] | None:
        """Frames that it waits for the tower to see, or will next; None when it has an answer that it did not use."""
        if self.seen is not None:
            return None
        if isinstance(self.request, Look) and isinstance(self.doing, Waiting):
            return self.doing.chunk.frames, self.request
        if not self.queue or not self.stream.eye.plain:
            return None  # what the eye spares depends on what it has seen
        chunk = self.queue[0].chunk
        return chunk.frames, self.stream.options.look(chunk)

    @property
    def look_tokens(self) -> int:
        """Upper bound of the vision tokens that `unseen` costs."""
        unseen = self.unseen
        return self.stream.adapter.max_vision_tokens(len(unseen[0])) if unseen else 0

    def see(self, frames: tuple[Frame, ...], reply: Any) -> None:
        """Take the tower's answer, unless the chunk has been dropped in the meantime."""
        coming = [work.chunk.frames for work in (self.doing, *self.queue) if isinstance(work, Waiting)]
        if any(frames is own for own in coming):
            self.seen = frames, reply

    def take_seen(self) -> tuple[Any] | None:
        """The tower's answer to the chunk that is being done, once; in a tuple, since it may be an exception."""
        seen, doing = self.seen, self.doing
        if seen is None or not isinstance(doing, Waiting) or seen[0] is not doing.chunk.frames:
            return None
        self.seen = None
        return (seen[1],)

    def begin(self) -> Result | None:
        """Take up the next work, questions first, up to its first request."""
        if self.questions and self.stream.turn:
            self.doing = asked = self.questions.popleft()
            self._steps = self.stream.answer_steps(asked.question, remember=asked.remember)
        else:
            self.doing = waiting = self.queue.popleft()
            self._steps = self.stream.steps(waiting.chunk, waiting.question)
        return self.resume(None)

    def resume(self, reply: Any) -> Result | None:
        """Go on with the answer to the request (an exception: it has failed) up to the next one, or to the end."""
        assert self._steps is not None, "resume follows begin"
        doing, fed = self.doing, isinstance(self.request, Feed)
        try:
            failed = isinstance(reply, Exception)
            self.request = self._steps.throw(reply) if failed else self._steps.send(reply)
        except StopIteration as done:
            result = done.value
        except Exception as error:  # whatever went wrong, it is this stream's own and ends only this stream
            self.close()
            return Result(self.id, error=error)
        else:
            if fed and isinstance(doing, Asked):
                doing.ttft = doing.ttft or time.perf_counter() - doing.asked_at
            return None
        self.doing = self.request = self._steps = None
        if isinstance(doing, Asked):
            ttft = doing.ttft or time.perf_counter() - doing.asked_at
            return Result(self.id, question=doing.question, answer=result, ttft=ttft)
        return Result(self.id, caption=result)

    def close(self) -> None:
        """Stop where it is; a turn that was begun is undone."""
        if self._steps is not None:
            self._steps.close()
        self.doing = self.request = self._steps = self.seen = None
        self.queue.clear()
        self.questions.clear()
