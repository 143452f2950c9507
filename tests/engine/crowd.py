"""A crowd of streams that differ in everything, run by an engine or one by one."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch

from neverblink import Chunk, Frame, Model, Script, ScriptOptions, SpeakOptions, Stream, StreamOptions
from neverblink.engine import Engine, Result
from tests.checkpoints import toy_checkpoint
from tests.strategies import SIZES

SCRIPT = ScriptOptions(query="Say it.")
WINDOWS = {"sink_tokens": 5, "text_window": 7}
# Every way to remember, with a different window each; contiguous and native places, rebased soon and late.
KINDS: tuple[dict[str, Any], ...] = (
    {"policy": "streaming", "policy_options": {**WINDOWS, "vision_seconds": 2.0}, "rebase_at": 90.0},
    {"policy": "sliding", "policy_options": {"vision_seconds": 3.0}},
    {"policy": "recompute", "policy_options": {**WINDOWS, "vision_seconds": 2.0}},
    {"policy": "streaming", "policy_options": {**WINDOWS, "vision_seconds": 3.0}, "positions": "native"},
    {"policy": "reread", "policy_options": {**WINDOWS, "vision_seconds": 2.0}, "rebase_at": 120.0},
    {"policy": "last-frames", "policy_options": {"frames": 4}},
)


@cache
def model(dtype: str = "float64") -> Model:
    return Model.from_pretrained(toy_checkpoint(), device="cpu", dtype=dtype)


def options_of(index: int, **changes: Any) -> StreamOptions:
    """Options of the crowd's stream number `index`: greedy ones and such that sample, from seeds of their own."""
    speak = SpeakOptions(
        max_tokens_per_second=4 + index % 3,
        answer_tokens=4,
        temperature=(0.0, 0.9)[index % 2],
        repetition_penalty=(1.0, 1.1)[index // 2 % 2],
        seed=index,
        quiet_from=(0.0, 1.0)[index // 3 % 2],  # at 1 a second is never silent
    )
    kind = KINDS[index % len(KINDS)]
    return StreamOptions(**{"fps": 4.0, "speak": speak, "question_tokens": 24, **kind, **changes})


class Ends:
    """A logits processor that writes down what it sees, and ends some answers early, by dice of its own."""

    def __init__(self, seed: int, end_id: int):
        self.dice, self.end_id, self.seen = np.random.default_rng(seed), end_id, list[torch.Tensor]()

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.seen.append(scores[0].clone())
        if self.dice.random() < 0.2:
            scores = torch.full_like(scores, -torch.inf)
            scores[:, self.end_id] = 0.0
        return scores


def chunk_of(stream: int, second: int, count: int | None = None) -> Chunk:
    """Pictures of one second of one stream: ragged in size and number."""
    rng = np.random.default_rng((stream, second))
    size, count = SIZES[rng.integers(len(SIZES))], count or int(rng.integers(1, 5))
    frames = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(count)]
    return Chunk(float(second), second + 1.0, tuple(Frame(second + i / count, f) for i, f in enumerate(frames)))


def question_of(stream: int, second: int) -> str | None:
    return "What now?" if (stream + second) % 3 == 2 else None


@dataclass
class Life:
    """What a stream has said, and the logits behind every token."""

    stream: Stream
    ends: Ends
    said: list[tuple[Any, ...]] = field(default_factory=list)
    error: Exception | None = None

    def hear(self, result: Result) -> None:
        self.error = result.error
        if result.caption is not None:
            c = result.caption
            self.said.append((c.start, c.text, c.tokens, c.why_stopped, c.kv_tokens, c.frames_dropped, c.answer))
        elif result.error is None:
            self.said.append((result.question, result.answer))


def run_alone(index: int, seconds: range, dtype: str = "float64", **changes: Any) -> Life:
    """Stream `index` by itself."""
    loaded = model(dtype)
    script = Script(loaded.adapter.tokenizer, SCRIPT)
    ends = Ends(index, script.end_id)
    life = Life(Stream(loaded.adapter, script, options_of(index, **changes), ends), ends)
    for second in seconds:
        life.hear(Result("", life.stream.step(chunk_of(index, second), question_of(index, second))))
    return life


@cache
def alone(index: int, seconds: range, dtype: str = "float64") -> Life:
    """The oracle; to be looked at, not to be gone on with."""
    return run_alone(index, seconds, dtype)


def make_engine(slots: int, dtype: str = "float64", adapter: Any = None, **options: Any) -> Engine:
    kinds = [options_of(index) for index in range(len(KINDS) * 3)]
    return make_engine_of(kinds, slots, dtype, adapter, **options)


def make_engine_of(
    kinds: list[StreamOptions], slots: int, dtype: str = "float64", adapter: Any = None, **options: Any
) -> Engine:
    adapter = adapter or model(dtype).adapter
    return Engine(adapter, Script(adapter.tokenizer, SCRIPT), kinds, max_streams=slots, **options)


def join(engine: Engine, index: int, *, overload: Any = "slow", most_waiting: int = 4, **changes: Any) -> Life:
    """Stream `index` of the crowd comes to an engine. The slot that it gets is full of NaN: nobody may read that."""
    ends = Ends(index, engine.script.end_id)
    options = options_of(index, **changes)
    stream = engine.add(str(index), options=options, processor=ends, overload=overload, most_waiting=most_waiting)
    for _, layers, _ in engine.arena.parts(0, 0, stream.table.cells):
        for tensor in layers:
            tensor[stream.slot] = torch.nan if tensor.is_floating_point() else 99
    return Life(stream, ends)


def advance(engine: Engine, lives: dict[int, Life], rounds: int = 1) -> list[Result]:
    """So many rounds; gives the results of the last one."""
    results: list[Result] = []
    for _ in range(rounds):
        results = engine.advance()
        for result in results:
            lives[int(result.stream_id)].hear(result)
    return results


def run(engine: Engine, lives: dict[int, Life]) -> None:
    while engine.has_work:
        advance(engine, lives)


def play(engine: Engine, lives: dict[int, Life], second: int) -> None:
    """One second for everyone who is here."""
    for index in sorted(lives):
        if str(index) in engine.stream_ids:
            assert engine.submit(str(index), chunk_of(index, second), question_of(index, second))


def assert_same(expected: Life, actual: Life, dtype: str = "float64") -> None:
    """The same words, rows and places, and for every token the same logits."""
    assert expected.said == actual.said
    close = {"float64": 1e-9, "float32": 1e-3}[dtype]
    torch.testing.assert_close(torch.stack(actual.ends.seen), torch.stack(expected.ends.seen), atol=close, rtol=0)
    one, other = expected.stream.rows(), actual.stream.rows()
    for name in ("ids", "kinds", "turns", "cells", "pos"):
        np.testing.assert_array_equal(getattr(one, name)[: one.n], getattr(other, name)[: other.n], name)
    assert torch.equal(expected.stream.sampler.generator.get_state(), actual.stream.sampler.generator.get_state())
