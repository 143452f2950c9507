"""Many streams on one model.

    submit -> (one round: begin, pick, see and read in one packed call each, go on) -> results

Every stream is a `Stream` with a slot of one arena, and walks the one path of stream.py; a round answers the requests
of many at once. What a stream says does not depend on who else is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Literal, TypeVar

import torch

from neverblink.engine.member import Member, Overload, Result
from neverblink.engine.memory import MOST, plan
from neverblink.errors import BudgetError, ConfigError
from neverblink.kv.cache import PackedCache
from neverblink.models.base import Adapter, Feed, Look, answer, replies
from neverblink.options import StreamOptions
from neverblink.script import Script
from neverblink.stream import Stream
from neverblink.types import Chunk, Frame

A = TypeVar("A", Look, Feed)


class Engine:
    """Endless streams on one model, in slots that are allocated here, before the first frame.

    Not for several threads at once: submit and advance from one.

    Args:
        adapter: the model. script: how turns are written, unless a stream brings its own.
        options: what streams may be; slots are large enough for each of them. The first is the default of a stream.
        max_streams: number of slots; "auto" takes what fits in memory, see `memory.text()`.
        packed: False answers one request at a time, in the same order: the plain twin.
        pack_tokens: most tokens of one packed call, so that no round keeps a question waiting for long; one request
            that is larger goes alone.
        pipeline: the tower sees in a thread of its own what streams will speak about next, one chunk of each ahead,
            while this thread speaks. What streams say is the same.
        most_streams: what "auto" stops at.

    Raises:
        BudgetError: the slots do not fit in memory.
    """

    def __init__(
        self,
        adapter: Adapter,
        script: Script,
        options: Sequence[StreamOptions] = (StreamOptions(),),
        *,
        max_streams: int | Literal["auto"] = "auto",
        packed: bool = True,
        pack_tokens: int = 1024,
        pipeline: bool = False,
        most_streams: int = MOST,
    ):
        self.adapter, self.script, self.options = adapter, script, tuple(options)
        self.packed, self.pack_tokens = packed, pack_tokens
        self.memory = plan(adapter, script, self.options, max_streams, most_streams)
        self.arena = self.memory.arena(adapter)
        self._free = list(reversed(range(self.memory.streams)))
        self._members: dict[str, Member] = {}
        self._eyes: Future[list[Any]] | None = None  # answers to `_looking`, on their way
        self._looking: list[tuple[Member, tuple[Frame, ...]]] = []
        self._thread = ThreadPoolExecutor(1, "neverblink tower") if pipeline else None
        self.packs_broken = 0  # packed calls that failed, and whose requests were then answered one by one
        self.last_broken: Exception | None = None  # why the latest of them did

    def add(
        self,
        stream_id: str,
        *,
        script: Script | None = None,
        options: StreamOptions | None = None,
        seed: int | None = None,
        processor: Any | None = None,
        overload: Overload = "drop-oldest",
        most_waiting: int = 4,
    ) -> Stream:
        """Admit a stream; gives it, to look at or to save between two rounds. Step it only through the engine.

        Args:
            seed: of its own random numbers, in place of the options'.
            overload: what becomes of a chunk that finds `most_waiting` others waiting: "drop-oldest" and "skip" lose
                frames and count them in the next caption, "slow" has `submit` refuse it.

        Raises:
            BudgetError: no slot is free, or the stream needs more rows than a slot has.
            ConfigError: the id is taken, or an option is unknown.
        """
        if stream_id in self._members:
            raise ConfigError(f"a stream {stream_id!r} is already here; remove it first, or take another id")
        if not self._free:
            raise BudgetError(f"all {self.memory.streams} slots are taken; remove a stream, or raise max_streams")
        options = options or self.options[0]
        if seed is not None:
            options = replace(options, speak=replace(options.speak, seed=seed))
        slot = self._free[-1]
        stream = Stream(self.adapter, script or self.script, options, processor, self.arena, slot)
        self._members[stream_id] = Member(stream_id, stream, overload, most_waiting)
        self._free.pop()
        return stream

    def remove(self, stream_id: str) -> None:
        """Let a stream go, with all that waits for it; its slot is free at once."""
        member = self._member(stream_id)
        member.close()
        self._free.append(member.stream.slot)
        del self._members[stream_id]

    def submit(self, stream_id: str, chunk: Chunk, question: str | None = None) -> bool:
        """Hand a stream its next chunk, and a question to be answered with it.

        Returns:
            Whether it was taken; see `overload`.

        Raises:
            ConfigError, BudgetError: there is no such stream, the chunk is empty, or the question cannot be asked.
        """
        member = self._member(stream_id)
        if not chunk.frames:
            raise ConfigError(f"chunk {chunk.start}-{chunk.end} s of stream {stream_id!r} holds no frame; skip it")
        if question is not None:
            member.stream.options.question(member.stream.script, question)
        return member.submit(chunk, question)

    def ask(self, stream_id: str, question: str, *, remember: bool = False) -> None:
        """Ask a stream about what it holds. The question overtakes waiting chunks, and until the first word of its
        answer the other streams wait.

        Raises:
            ConfigError, BudgetError: there is no such stream, or the question cannot be asked.
        """
        member = self._member(stream_id)
        member.stream.options.question(member.stream.script, question)
        member.ask(question, remember=remember)

    def run(self) -> Iterator[Result]:
        """Rounds until nothing waits; results as they come."""
        while self.has_work:
            yield from self.advance()

    @torch.inference_mode()
    def advance(self) -> list[Result]:
        """One round: every picked stream gets one request answered. A stream that fails ends, and is removed; until
        the next `add` takes its slot, the `Stream` holds what it held before the turn that failed, and can be saved."""
        results: list[Result] = []
        for member in self._pick(list(self._members.values())):
            if member.doing is None:
                self._note(member.begin(), results)
        asking = [member for member in self._members.values() if member.request is not None]
        if self._thread is not None:
            asking = self._look_ahead(self._thread, asking, results)
        for member, reply in self._answer(self._within_pack(self._pick(asking))):
            self._note(member.resume(reply), results)
        return results

    def quiet(self) -> None:
        """After a round that raised, which is a fault of ours: what was begun is undone and what waits is let go; the
        streams stay, at the end of their last whole turn."""
        self._eyes, self._looking = None, []
        for member in self._members.values():
            member.close()

    def close(self) -> None:
        """End the tower's thread, where there is one; the engine is not to be used afterwards."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def _look_ahead(self, thread: ThreadPoolExecutor, asking: list[Member], results: list[Result]) -> list[Member]:
        """Hand on what the tower has seen and let it see more; gives those who ask for something else."""
        feeding = [member for member in asking if isinstance(member.request, Feed)]
        if self._eyes is not None and (self._eyes.done() or not feeding):
            for (member, frames), reply in zip(self._looking, self._eyes.result(), strict=True):
                member.see(frames, reply)
            self._eyes, self._looking = None, []
        for member in asking:
            seen = member.take_seen()
            if seen is not None:
                self._note(member.resume(seen[0]), results)
        if self._eyes is None:
            # Those whom the next word waits for come first.
            picked = sorted(self._pick(list(self._members.values())), key=lambda m: not isinstance(m.request, Look))
            unseen = self._within_pack([m for m in picked if m.unseen], lambda m: m.look_tokens)
            if unseen:
                wanted = [m.unseen for m in unseen if m.unseen]
                self._looking = [(member, frames) for member, (frames, _) in zip(unseen, wanted, strict=True)]
                self._eyes = thread.submit(self._in_thread, [look for _, look in wanted])
        return [member for member in self._members.values() if isinstance(member.request, Feed)]

    @torch.inference_mode()
    def _in_thread(self, looks: list[Look]) -> list[Any]:
        return self._replies(looks, self._see)

    @property
    def has_work(self) -> bool:
        return any(member.has_work for member in self._members.values())

    @property
    def stream_ids(self) -> list[str]:
        """Streams that are here, oldest first."""
        return list(self._members)

    def frames_dropped(self, stream_id: str) -> int:
        """Frames that a stream has lost for want of room in its queue."""
        return self._member(stream_id).frames_dropped

    def stream(self, stream_id: str) -> Stream:
        """What `add` gave."""
        return self._member(stream_id).stream

    def must_wait(self, stream_id: str) -> bool:
        """Whether `submit` would refuse the next chunk now; only where `overload` is "slow"."""
        return self._member(stream_id).must_wait

    def is_busy(self, stream_id: str) -> bool:
        """Something of the stream waits, or is being done."""
        return self._member(stream_id).has_work

    def _member(self, stream_id: str) -> Member:
        if stream_id not in self._members:
            raise ConfigError(f"no stream {stream_id!r}; here are: {', '.join(self._members) or 'none'}")
        return self._members[stream_id]

    @staticmethod
    def _pick(members: list[Member]) -> list[Member]:
        """Those with work: with a question first, then the latest. While somebody waits for the first word of an
        answer, only the asked."""
        working = [member for member in members if member.has_work]
        urgent = [member for member in working if member.urgent]
        return sorted(urgent or working, key=lambda member: (not member.has_question, -member.lateness))

    def _within_pack(self, members: list[Member], cost: Callable[[Member], int] = lambda m: m.tokens) -> list[Member]:
        """As many as `pack_tokens` allows, one at least."""
        taken: list[Member] = []
        tokens = 0
        for member in members:
            if taken and tokens + cost(member) > self.pack_tokens:
                continue  # a later one may be a single token
            taken.append(member)
            tokens += cost(member)
        return taken

    def _note(self, result: Result | None, results: list[Result]) -> None:
        if result is None:
            return
        results.append(result)
        if result.error is not None:
            self.remove(result.stream_id)

    def _answer(self, members: list[Member]) -> Iterator[tuple[Member, Any]]:
        """What the model says to each one's request; an exception where it fails."""
        looks = [(m, m.request) for m in members if isinstance(m.request, Look)]
        feeds = [(m, m.request) for m in members if isinstance(m.request, Feed)]
        yield from self._together(looks, self._see)
        yield from self._together(feeds, self._read)

    def _together(
        self, asking: list[tuple[Member, A]], pack: Callable[[list[A]], list[Any]]
    ) -> Iterator[tuple[Member, Any]]:
        """Answers to requests of one kind. A packed call that fails may do so for one stream's sake: its halves are
        then asked, down to one alone, which is safe since nothing is committed before its stream goes on."""
        replies = self._replies([request for _, request in asking], pack)
        yield from zip([member for member, _ in asking], replies, strict=True)

    def _replies(self, requests: list[A], pack: Callable[[list[A]], list[Any]]) -> list[Any]:
        if self.packed and requests:
            try:
                return pack(requests)
            except Exception as error:
                # Any kind: models and devices raise what they like, and most often it is for one stream's sake. That
                # one fails again alone below, with its own error; the others go on. What only packing breaks is kept.
                self.packs_broken, self.last_broken = self.packs_broken + 1, error.with_traceback(None)
            half = len(requests) // 2
            if half:  # the guilty one is found in few calls, and so is a pack that memory has room for
                return self._replies(requests[:half], pack) + self._replies(requests[half:], pack)
        return [self._alone(request) for request in requests]

    def _alone(self, request: Look | Feed) -> Any:
        try:
            return answer(self.adapter, request)
        except Exception as error:  # handed to the stream whose request it is
            return error

    def _see(self, looks: list[Look]) -> list[Any]:
        return list(self.adapter.encode_packed(looks))

    def _read(self, feeds: list[Feed]) -> list[torch.Tensor | int]:
        """The answers to all feeds from one packed forward."""
        sizes = [len(feed.embeds) for feed in feeds]
        hidden = self.adapter.forward_packed(
            torch.cat([feed.embeds for feed in feeds]),
            torch.cat([feed.positions for feed in feeds], 1),
            PackedCache([feed.cache for feed in feeds], sizes),
        )
        last = torch.tensor(sizes, device=hidden.device).cumsum(0) - 1
        return replies(self.adapter, feeds, hidden[last])
