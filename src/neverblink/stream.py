"""THE MAIN PATH: one stream of video through one model, one chunk at a time.

    frames -> see -> make room -> read -> speak -> caption

Only `_feed` writes into the KV cache, only `_make_room` drops or moves what is in it. The CLI, the benchmarks and (for
the format) training walk this same path.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from neverblink.decoding.speak import Sampler
from neverblink.decoding.timing import timed
from neverblink.errors import ConfigError
from neverblink.eye import Eye
from neverblink.kv import snapshot
from neverblink.kv.arena import Arena
from neverblink.kv.cache import StreamCache, make_arena
from neverblink.kv.policies import check_room
from neverblink.kv.relocate import relocate
from neverblink.kv.reread import reread
from neverblink.kv.table import Rows, Table
from neverblink.kv.undo import undone_on_error
from neverblink.models.base import Adapter, Feed, Greedy, Reply, Steps, VisionBlock, attempt, drive
from neverblink.options import StreamOptions
from neverblink.script import Script
from neverblink.types import Caption, Chunk, Kind, Piece, WhyStopped


class Stream:
    """A video that one model watches.

    Args:
        adapter: the model. script: how turns are written. options: how to remember and speak.
        processor: an extra stock LogitsProcessor, applied last.
        arena: shared with other streams, of which this one holds `slot`; None allocates one of its own.

    Raises:
        BudgetError: the KV cache does not fit in memory, or in the arena. This is known before the first frame.
    """

    def __init__(
        self,
        adapter: Adapter,
        script: Script,
        options: StreamOptions = StreamOptions(),
        processor: Any | None = None,
        arena: Arena | None = None,
        slot: int = 0,
    ):
        self.adapter, self.script, self.options = adapter, script, options
        need = options.needs(adapter, script)
        self.policy, self.budget = options.make_policy(need), need.total
        self.arena, self.slot = arena or make_arena(adapter, need), slot
        self.arena.check_slot(slot, need)
        self.table, self.sampler = Table(self.budget), Sampler(options.speak, processor, script.quiet_ids)
        self.cache = StreamCache(self.arena, self.table, slot)
        self.eye, self.seen = Eye(adapter, options), Eye.NOTHING  # what the eye remembers of this stream
        self.stops, self.turn, self.end = adapter.stop_ids | {script.end_id}, 0, 0.0
        self.embeds: dict[int, torch.Tensor] = {}  # vision embeddings of turns that may be fed (again)
        self.table.append(script.opening(), turn=-1, time=0.0)

    @torch.inference_mode()
    def step(
        self, chunk: Chunk, question: str | None = None, *, remember: bool = False, seen: VisionBlock | None = None
    ) -> Caption:
        """Watch one chunk and say what happens in it.

        Args:
            question: answered after the commentary, from what the stream holds; leaves no trace in the stream...
            remember: ...unless this is set. seen: the chunk's pictures, where they were encoded ahead.

        Raises:
            BudgetError: the chunk does not fit, whatever is dropped. The stream goes on as if it had not come.
        """
        return drive(self.adapter, self.steps(chunk, question, remember=remember, seen=seen))

    @torch.inference_mode()
    def ask(self, question: str, *, remember: bool = False) -> str:
        """Answer from what the stream holds now. Costs no copy: the rows are appended, read, and cut off again."""
        return drive(self.adapter, self.answer_steps(question, remember=remember))

    def steps(
        self, chunk: Chunk, question: str | None = None, *, remember: bool = False, seen: VisionBlock | None = None
    ) -> Steps[Caption]:
        """`step` for a driver that answers the requests of many streams; run it under `torch.inference_mode()`."""
        seconds: dict[str, float] = {}
        with timed(seconds, "see"):
            vision = seen or (yield from self.eye.see(self.seen, chunk, asked=question is not None))
        pieces = self.script.turn(chunk.start, chunk.end, vision.parts, first=self.turn == 0)
        with timed(seconds, "make_room"):
            forgot = yield from self._make_room(chunk, pieces)
        with undone_on_error(self.cache, self.sampler.begin(second=True)):
            with timed(seconds, "read"):
                logits = yield from self._read(pieces, vision, chunk.end, self.turn)
            with timed(seconds, "speak"):
                most = self.options.most_tokens(chunk.seconds)
                said, why = yield from self._speak(logits, most, chunk.end, self.turn)
        self.turn, self.end, self.seen = self.turn + 1, chunk.end, vision.state
        answer = unanswered = None
        if question is not None:
            with timed(seconds, "answer"):
                answer, unanswered = yield from attempt(self.answer_steps(question, remember=remember))
        text = self.script.text_of(said)
        why = "silence" if not text and why == "end" else why
        numbers, held = (len(said), self.table.n, len(chunk.frames), chunk.dropped, seconds), self.cache.nbytes
        told = (question, answer, self.budget, vision.frames_skipped, vision.tokens)
        return Caption(chunk.start, chunk.end, text, not text, why, *numbers, *told, unanswered, forgot, held)

    def answer_steps(self, question: str, *, remember: bool = False) -> Steps[str]:
        """`ask` as steps."""
        if not self.turn:
            raise ConfigError("nothing was watched yet; ask after the first chunk")
        pieces = self.options.question(self.script, question)
        with undone_on_error(self.cache, self.sampler.begin(second=False), always=not remember):
            logits = yield from self._read(pieces, None, self.end, self.turn - 1)
            said, _ = yield from self._speak(logits, self.options.speak.answer_tokens, self.end, self.turn - 1)
        return self.script.text_of(said)

    def fork(self) -> Stream:
        """A second stream that has seen the same, and goes its own way from here; copies the used rows."""
        twin = Stream(self.adapter, self.script, self.options)
        snapshot.put(twin, *snapshot.state_of(self))
        return twin

    def save(self, path: str | Path) -> None:
        """Write a snapshot (safetensors); see kv/snapshot.py."""
        snapshot.save(self, path)

    def restore(self, path: str | Path) -> None:
        """Go on from a snapshot of the same model, options and script.

        Raises:
            SnapshotError: it does not belong here, or is damaged; the stream is unchanged.
        """
        snapshot.load(self, path)

    def rows(self) -> Rows:
        """What the stream holds, row by row, pending rows last; row i < n stands at cache row i."""
        return self.table.rows()

    def places(self) -> np.ndarray:
        """Positions [rows, 3] that the model is told; under contiguous positions the first held row counts as 0."""
        return self.table.places(self.options.positions == "contiguous")

    def _make_room(self, chunk: Chunk, pieces: list[Piece]) -> Steps[int]:
        coming = self.options.coming(self.turn, chunk, pieces, self.budget, self.script.silence_ids)
        plan = self.policy(self.rows(), coming)
        check_room(plan, coming)
        relocate(self.table, self.arena, self.slot, plan, self.adapter, self.options.positions, self.options.rebase_at)
        self.embeds = {t: e for t, e in self.embeds.items() if not plan.reuse and t in self.rows().turns}
        yield from reread(self.cache, self._feed)
        return plan.forgot

    def _read(self, pieces: list[Piece], vision: VisionBlock | None, end: float, turn: int) -> Steps[Reply]:
        """Append a turn and feed it; returns the logits [vocabulary] of its last token, or the token they come to."""
        if self.turn and self.table.ids[self.table.m - 1] != self.script.newline_id:
            self.table.append([self.script.close()], turn=self.turn - 1, time=self.end)
        if vision is not None:
            self.embeds[turn] = vision.embeds
        self.table.append(pieces, turn=turn, time=end, vision=vision)
        return (yield from self._feed())

    def _speak(self, logits: Reply, most: int, end: float, turn: int) -> Steps[tuple[list[int], WhyStopped]]:
        """Say up to `most` tokens; the last one stays pending and is fed with the next turn."""
        said: list[int] = []
        while True:
            token = logits if isinstance(logits, int) else self.sampler.pick(logits, self._context)
            said.append(token)
            kind = Kind.CLOSE if token == self.script.end_id else Kind.SAID
            self.table.append([Piece(kind, (token,))], turn=turn, time=end)
            if token in self.stops or len(said) == most:
                break
            logits = yield from self._feed()
        if token != self.script.end_id:
            self.table.append([Piece(Kind.CLOSE, (self.script.end_id,))], turn=turn, time=end)
        return said, "end" if token in self.stops else "length"

    def _feed(self) -> Steps[Reply]:
        """Feed every pending row; what `_read` returns."""
        table, a, b = self.table, self.table.n, self.table.m
        positions = torch.from_numpy(table.place_pending(b).T.astype(np.float32))
        embeds = self.adapter.embed(torch.from_numpy(table.ids[a:b].copy()))
        for turn, at, cells in table.vision_cells(a, b):
            embeds[torch.from_numpy(at)] = self.embeds[turn][torch.from_numpy(cells)]
        greedy = Greedy(self.options.speak.repetition_penalty, self._context) if self.sampler.is_greedy else None
        logits: Reply = yield Feed(embeds, positions, self.cache, greedy)
        table.commit(b)
        return logits

    def _context(self) -> torch.Tensor:
        """Held ids that a repetition penalty looks at."""
        ids, cells = self.table.ids[: self.table.m], self.table.cells[: self.table.m]
        return torch.from_numpy(ids.copy() if self.options.penalise_vision else ids[cells < 0])
