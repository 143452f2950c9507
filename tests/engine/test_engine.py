"""N streams on one engine say what each says alone, whoever comes, goes, asks or fails beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neverblink import Chunk, Frame
from neverblink.engine.engine import Engine
from neverblink.engine.memory import MOST, SHARE, free_bytes
from neverblink.errors import BudgetError, ConfigError, ModelError
from neverblink.models.base import Look, VisionBlock
from tests.engine.crowd import (
    Life,
    advance,
    alone,
    assert_same,
    chunk_of,
    join,
    make_engine,
    model,
    options_of,
    play,
    question_of,
    run,
    run_alone,
)
from tests.properties import tries


@pytest.mark.parametrize(
    ("dtype", "how"),
    [
        ("float64", {"packed": True}),
        ("float64", {"packed": False}),
        ("float64", {"packed": True, "pipeline": True}),
        ("float64", {"packed": False, "pipeline": True}),
        ("float32", {"packed": True}),
        ("float32", {"packed": True, "pipeline": True}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(k for k, on in value.items() if on) or "plain",
)
@pytest.mark.parametrize("count", [1, 3, 8])
def test_a_crowd_says_what_each_says_alone(count: int, dtype: str, how: dict[str, bool]) -> None:
    """Ragged chunks, every policy, samplers of their own, questions with the chunks."""
    engine = make_engine(count, dtype, **how)
    lives = {index: join(engine, index) for index in range(count)}
    for second in range(5):
        play(engine, lives, second)
        if second % 2:  # two seconds wait in some rounds
            run(engine, lives)
    run(engine, lives)
    for index, life in lives.items():
        assert_same(alone(index, range(5), dtype), life, dtype)
    assert engine.packs_broken == 0


@tries(4)
@given(data=st.data())
def test_who_comes_and_goes_touches_nobody_else(data: st.DataObject) -> None:
    """Streams join and leave in the middle of a round, take over each other's slots, and get rounds in any number."""
    engine = make_engine(3, pack_tokens=data.draw(st.sampled_from([1, 30, 1024])), pipeline=data.draw(st.booleans()))
    lives: dict[int, Life] = {}
    born: dict[int, int] = {}
    cut: set[int] = set()
    for second in range(5):
        for index in list(lives):
            if index not in cut and data.draw(st.integers(0, 4)) == 0:
                engine.remove(str(index))
                cut.add(index)
        while len(lives) - len(cut) < 3 and data.draw(st.booleans()):
            born[len(lives)] = second
            lives[len(lives)] = join(engine, len(lives))
        play(engine, lives, second)
        advance(engine, lives, data.draw(st.integers(0, 12)))
        if any(len(engine._member(i).queue) == 4 for i in engine.stream_ids):
            run(engine, lives)
    run(engine, lives)
    for index, life in lives.items():
        expected = alone(index, range(born[index], 5))
        if index in cut:
            assert life.said == expected.said[: len(life.said)]
        else:
            assert_same(expected, life)


def test_a_question_overtakes_frames_and_leaves_no_trace() -> None:
    """Asked in the middle of a round: answered before the chunks that wait, and after the one that is being spoken."""
    engine = make_engine(3)
    lives = {index: join(engine, index) for index in range(3)}
    for second in range(4):
        play(engine, lives, second)
    while not lives[1].said:
        advance(engine, lives)
    engine.ask("1", "Who is it?")
    answers: list[Any] = []
    while not answers:
        answers += [result for result in advance(engine, lives) if result.question == "Who is it?"]
    assert answers[0].ttft > 0
    assert engine._member("1").queue, "chunks that came before the question still wait"
    run(engine, lives)
    at = lives[1].said.index(("Who is it?", answers[0].answer))
    expected = run_alone(1, range(at))
    assert expected.said == lives[1].said[:at]
    # Asked alone at the same place, and going on from there, the stream says the same: dice of `Ends` included.
    assert expected.stream.ask("Who is it?") == answers[0].answer
    for second in range(at, 4):
        caption = expected.stream.step(chunk_of(1, second), question_of(1, second))
        assert (caption.start, caption.text, caption.tokens) == lives[1].said[second + 1][:3]
    for index in (0, 2):
        assert_same(alone(index, range(4)), lives[index])


def test_until_the_first_word_of_an_answer_only_the_asked_are_served() -> None:
    engine = make_engine(3)
    lives = {index: join(engine, index) for index in range(3)}
    play(engine, lives, 0)
    run(engine, lives)
    play(engine, lives, 1)
    advance(engine, lives, 2)
    engine.ask("2", "Who is it?")
    held = [engine._member(i).stream.table.n for i in ("0", "1")]
    while engine._member("2").urgent:
        assert held == [engine._member(i).stream.table.n for i in ("0", "1")]
        advance(engine, lives)
    run(engine, lives)
    assert len(lives[2].said) == 3
    for index in (0, 1):
        assert_same(alone(index, range(2)), lives[index])


class Faulty:
    """An adapter whose device fails in the forwards of some slots, and whose tower gives NaN for black pictures."""

    def __init__(self, adapter: Any):
        self._adapter, self.bad_slots = adapter, set[int]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)

    def encode(self, frames: Sequence[np.ndarray], fps: float) -> VisionBlock:
        return self.encode_packed([Look(frames, fps)])[0]

    def encode_packed(self, looks: Sequence[Look]) -> list[VisionBlock]:
        blocks = self._adapter.encode_packed(looks)
        for look, block in zip(looks, blocks, strict=True):
            if not look.frames[0].any():
                block.embeds.fill_(torch.nan)
        return blocks

    def forward(self, embeds: torch.Tensor, positions: torch.Tensor, cache: Any) -> torch.Tensor:
        hidden = self._adapter.forward(embeds, positions, cache)
        if cache.slot in self.bad_slots:
            raise RuntimeError("the device has failed")
        return hidden

    def forward_packed(self, embeds: torch.Tensor, positions: torch.Tensor, cache: Any) -> torch.Tensor:
        hidden = self._adapter.forward_packed(embeds, positions, cache)
        if self.bad_slots & {segment.cache.slot for segment in cache.segments}:
            raise RuntimeError("the device has failed")
        return hidden


@pytest.mark.parametrize(
    "how", [{"packed": True}, {"packed": False}, {"pipeline": True}], ids=["packed", "plain", "pipeline"]
)
@pytest.mark.parametrize("fault", ["encode", "nan", "budget", "forward"])
def test_a_stream_that_fails_ends_alone(fault: str, how: dict[str, bool]) -> None:
    """Its error is told, its slot is free for the next, and what it held is as it was before the chunk."""
    adapter = Faulty(model().adapter)
    engine = make_engine(3, adapter=adapter, **how)
    full = {"policy": "full", "policy_options": {"kv_budget": 190}} if fault == "budget" else {}
    lives = {index: join(engine, index, **(full if index == 1 else {})) for index in range(3)}
    for second in range(2):
        play(engine, lives, second)
        run(engine, lives)
    before = alone(1, range(2)).stream if fault != "budget" else None
    for index in (0, 2):
        engine.submit(str(index), chunk_of(index, 2), question_of(index, 2))
    if "1" in engine.stream_ids:
        shape = {"encode": (0, 4, 3), "nan": (56, 56, 3)}.get(fault)
        broken = Chunk(2.0, 3.0, (Frame(2.0, np.zeros(shape, dtype=np.uint8)),)) if shape else chunk_of(1, 2)
        engine.submit("1", broken)
        advance(engine, lives, 3)  # the fault comes in the middle of its sentence
        adapter.bad_slots = {lives[1].stream.slot} if fault == "forward" else set()
        for second in range(3, 6 if fault == "budget" else 3):
            engine.submit("1", chunk_of(1, second))
    run(engine, lives)
    if how.get("packed") and fault == "forward":
        assert engine.packs_broken > 0
        assert str(engine.last_broken) == "the device has failed"
    kind = {"encode": Exception, "nan": ModelError, "budget": BudgetError, "forward": RuntimeError}[fault]
    assert isinstance(lives[1].error, kind)
    assert engine.stream_ids == ["0", "2"]
    if before is not None:
        table = lives[1].stream.table
        assert torch.equal(before.sampler.generator.get_state(), lives[1].stream.sampler.generator.get_state())
        assert lives[1].stream.turn == before.turn
        # Where a fault lies behind make_room, the plan was carried out already; nothing is held that was not before.
        assert set(table.ids[: table.m]) <= set(before.table.ids[: before.table.m])
        assert table.turns[: table.m].max() == 1
        assert np.isfinite(np.stack([k[lives[1].stream.slot, :, : table.n] for k in engine.arena.k])).all()
    adapter.bad_slots = set()
    lives[7] = join(engine, 7)
    assert lives[7].stream.slot == lives[1].stream.slot
    for second in range(3, 5):
        play(engine, lives, second)
    run(engine, lives)
    for index, seconds in ((0, range(5)), (2, range(5)), (7, range(3, 5))):
        assert_same(alone(index, seconds), lives[index])


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "plain"])
def test_a_question_that_fails_costs_its_answer_only(packed: bool) -> None:
    """The second it came with is told, and its stream and those beside it go on as if nobody had asked."""
    adapter = Faulty(model().adapter)
    engine = make_engine(2, adapter=adapter, packed=packed)
    lives = {index: join(engine, index) for index in range(2)}
    for index in range(2):
        engine.submit(str(index), chunk_of(index, 0), "What now?" if index == 1 else question_of(index, 0))
    while not lives[1].stream.turn:
        advance(engine, lives)
    adapter.bad_slots = {lives[1].stream.slot}
    while not lives[1].said and engine.has_work:
        advance(engine, lives)
    adapter.bad_slots = set()
    run(engine, lives)
    assert ["0", "1"] == engine.stream_ids
    assert (None, None) == (question_of(1, 0), lives[1].said[0][-1]), "its twin is asked nothing"
    for second in range(1, 3):
        play(engine, lives, second)
    run(engine, lives)
    for index in range(2):
        assert_same(alone(index, range(3)), lives[index])


@pytest.mark.parametrize("guilty", [[], [0], [5], [2, 3], [0, 7], list(range(8))])
def test_the_guilty_of_a_pack_are_found_in_few_calls(guilty: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each innocent request is answered in a pack, the guilty ones alone; a pack is halved, not taken apart."""
    engine = make_engine(1)
    packs: list[list[int]] = []

    def pack(requests: list[int]) -> list[str]:
        packs.append(requests)
        if set(requests) & set(guilty):
            raise RuntimeError("the device has failed")
        return [f"packed {request}" for request in requests]

    monkeypatch.setattr(engine, "_alone", lambda request: f"alone {request}")
    expected = [f"{'alone' if request in guilty else 'packed'} {request}" for request in range(8)]
    assert expected == engine._replies(list(range(8)), pack)  # type: ignore[type-var]
    most = {0: 1, 1: 2 * 3 + 1}.get(len(guilty), 15)
    assert len(packs) <= most
    assert engine.packs_broken == sum(bool(set(requests) & set(guilty)) for requests in packs)


def test_a_refused_call_touches_nobody() -> None:
    engine = make_engine(2)
    lives = {0: join(engine, 0)}
    with pytest.raises(ConfigError, match="already here"):
        join(engine, 0)
    with pytest.raises(ConfigError, match="no stream '5'; here are: 0"):
        engine.submit("5", chunk_of(5, 0))
    with pytest.raises(ConfigError, match="holds no frame"):
        engine.submit("0", Chunk(0.0, 1.0, ()))
    with pytest.raises(BudgetError, match=r"the question has \d+ tokens > 24"):
        engine.submit("0", chunk_of(0, 0), "word " * 60)
    with pytest.raises(ConfigError, match="the question is empty"):
        engine.ask("0", " ")
    with pytest.raises(BudgetError, match=r"the stream needs \d+ rows .* of a slot"):
        engine.add("large", options=options_of(0, policy="full", policy_options={"kv_budget": 4000}))
    with pytest.raises(ConfigError, match="use drop-oldest, skip, slow"):
        engine.add("odd", overload="later")  # type: ignore[arg-type]
    lives[1] = join(engine, 1)
    with pytest.raises(BudgetError, match="all 2 slots are taken"):
        join(engine, 2)
    play(engine, lives, 0)
    run(engine, lives)
    for index, life in lives.items():
        assert_same(alone(index, range(1)), life)


@pytest.mark.parametrize("pipeline", [False, True])
@pytest.mark.parametrize(
    ("overload", "taken", "watched", "dropped"),
    [
        ("drop-oldest", [True] * 5, [3, 4], [6, 0]),
        ("skip", [True, True, False, False, False], [0, 1], [0, 0]),
        ("slow", [True, True, False, False, False], [0, 1], [0, 0]),
    ],
)
def test_overload_is_bounded_and_told(
    overload: str, taken: list[bool], watched: list[int], dropped: list[int], pipeline: bool
) -> None:
    """Five seconds of two frames come at once, and two may wait."""
    engine = make_engine(1, pipeline=pipeline)
    life = join(engine, 0, overload=overload, most_waiting=2)
    questions = ["Who is it?", None, None, None, None]
    assert taken == [engine.submit("0", chunk_of(0, s, 2), questions[s]) for s in range(5)]
    run(engine, {0: life})
    captions = [said for said in life.said if len(said) == 7]
    assert watched == [int(said[0]) for said in captions]
    assert dropped == [said[5] for said in captions]
    # The question of a chunk that was lost is answered all the same.
    assert len([said for said in life.said if len(said) == 2 or said[6] is not None]) == 1
    assert engine.frames_dropped("0") == {"drop-oldest": 6, "skip": 6, "slow": 0}[overload]
    engine.submit("0", chunk_of(0, 5, 2))
    run(engine, {0: life})
    assert life.said[-1][5] == (6 if overload == "skip" else 0)


def test_a_chunk_that_is_dropped_takes_along_what_was_seen_of_it() -> None:
    """The tower has looked at a waiting second already when a newer one pushes it out."""
    engine = make_engine(1, pipeline=True)
    lives = {0: join(engine, 0, overload="drop-oldest", most_waiting=1)}
    engine.submit("0", chunk_of(0, 0, 2))
    advance(engine, lives)
    engine.submit("0", chunk_of(0, 1, 2))
    while engine._member("0").seen is None:
        assert engine._eyes is not None
        engine._eyes.result()
        advance(engine, lives)
    engine.submit("0", chunk_of(0, 2, 2))
    for _ in range(200):
        advance(engine, lives)
    assert not engine.has_work
    assert [(0, 0), (2, 2)] == [(int(said[0]), said[5]) for said in lives[0].said]


def test_the_latest_stream_goes_first() -> None:
    """Lateness is media time that waits, whatever the stream's own clock says."""
    engine = make_engine(3, pack_tokens=1)
    lives = {index: join(engine, index) for index in range(3)}
    for index, seconds in ((0, (1000, 1001)), (1, (0, 1, 2, 3)), (2, (50, 51, 52))):
        for second in seconds:
            engine.submit(str(index), chunk_of(index, second))
    order = [result.stream_id for result in engine.run()]
    assert order[0] == "1"
    assert order[:3] == ["1", "2", "1"] or order[:3] == ["1", "1", "2"]
    assert sorted(order) == ["0"] * 2 + ["1"] * 4 + ["2"] * 3
    del lives


def test_auto_takes_what_fits_and_shows_its_arithmetic() -> None:
    one = make_engine(1)
    assert f"= {one.arena.nbytes / 2**20:.1f} MiB, allocated once" in one.memory.text()
    assert one.memory.nbytes == one.arena.nbytes
    auto = Engine(one.adapter, one.script, one.options)
    assert auto.memory.free is not None
    fit = int(auto.memory.free * SHARE) // auto.memory.stream_bytes
    assert auto.memory.streams == auto.arena.slots == min(MOST, fit) > 0
    assert f"MiB free x {SHARE:g} / one stream = {fit}" in auto.memory.text()
    assert 0 < free_bytes(torch.device("cpu")) < 2**50
    with pytest.raises(ConfigError, match="got 0"):
        make_engine(0)
