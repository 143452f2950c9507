"""Many streams on one model.

    submit -> (one round: begin, pick, see and read in one packed call each, go on) -> results

Every stream is a `Stream` with a slot of one arena, and walks the one path of stream.py; a round answers the requests
of many at once. What a stream says does not depend on who else is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar

import torch

from neverblink.engine.member import Member, Overload, Result
from neverblink.engine.memory import plan
from neverblink.errors import BudgetError, ConfigError
from neverblink.kv.cache import PackedCache
from neverblink.models.base import Adapter, Feed, Look, answer
from neverblink.options import StreamOptions
from neverblink.script import Script
from neverblink.stream import Stream
from neverblink.types import Chunk

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
    ):
        self.adapter, self.script, self.options = adapter, script, tuple(options)
        self.packed, self.pack_tokens = packed, pack_tokens
        self.memory = plan(adapter, script, self.options, max_streams)
        self.arena = self.memory.arena(adapter)
        self._free = list(reversed(range(self.memory.streams)))
        self._members: dict[str, Member] = {}
        self.packs_broken = 0  # packed calls that failed, and whose requests were then answered one by one

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
        """One round: every picked stream gets one request answered. A stream that fails ends, and is removed."""
        results: list[Result] = []
        for member in self._pick(list(self._members.values())):
            if member.doing is None:
                self._note(member.begin(), results)
        asking = [member for member in self._members.values() if member.request is not None]
        for member, reply in self._answer(self._within_pack(self._pick(asking))):
            self._note(member.resume(reply), results)
        return results

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

    def _within_pack(self, members: list[Member]) -> list[Member]:
        """As many as `pack_tokens` allows, one at least."""
        taken: list[Member] = []
        tokens = 0
        for member in members:
            if taken and tokens + member.tokens > self.pack_tokens:
                continue  # a later one may be a single token
            taken.append(member)
            tokens += member.tokens
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
        """Answers to requests of one kind. A packed call that fails may do so for one stream's sake: each is then
        asked alone, which is safe since nothing is committed before its stream goes on."""
        replies: list[Any] | None = None
        if self.packed and asking:
            try:
                replies = pack([request for _, request in asking])
            except Exception:
                self.packs_broken += 1
        if replies is None:
            replies = [self._alone(request) for _, request in asking]
        yield from zip([member for member, _ in asking], replies, strict=True)

    def _alone(self, request: Look | Feed) -> Any:
        try:
            return answer(self.adapter, request)
        except Exception as error:  # handed to the stream whose request it is
            return error

    def _see(self, looks: list[Look]) -> list[Any]:
        return list(self.adapter.encode_packed(looks))

    def _read(self, feeds: list[Feed]) -> list[torch.Tensor]:
        """Logits [vocabulary] of each feed's last token, from one packed forward."""
        sizes = [len(feed.embeds) for feed in feeds]
        hidden = self.adapter.forward_packed(
            torch.cat([feed.embeds for feed in feeds]),
            torch.cat([feed.positions for feed in feeds], 1),
            PackedCache([feed.cache for feed in feeds], sizes),
        )
        last = torch.tensor(sizes, device=hidden.device).cumsum(0) - 1
        return list(self.adapter.logits(hidden[last]))
