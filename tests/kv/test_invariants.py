"""The invariants of the streaming cache, over random streams, policies, grids, answers and questions."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from neverblink import Model, ScriptOptions, SpeakOptions, Stream, StreamOptions
from neverblink.drills.twin import Gone, Twin, Watched
from neverblink.errors import BudgetError, ModelError, SnapshotError
from neverblink.kv import relocate as relocation
from neverblink.kv.compact import CompactArena
from neverblink.kv.relocate import turn as rotate
from neverblink.types import Kind
from tests.checkpoints import toy_checkpoint
from tests.forced import Forced
from tests.properties import tries
from tests.strategies import END, Plot, Second, chunk_of, plots

DTYPES = {"float32": 1e-4, "float64": 2e-5, "bfloat16": 0.3}  # logits are about 3 wide; angles are float32 in all
QUICK = tries(25)


@cache
def model(dtype: str = "float32") -> Model:
    return Model.from_pretrained(toy_checkpoint(), device="cpu", dtype=dtype)


def make_stream(
    plot: Plot, dtype: str = "float32", twin: bool = False, loop_tokens: int = 0, kv_dtype: str = ""
) -> tuple[Stream, Watched, Forced]:
    loaded, forced = model(dtype), Forced()
    options = StreamOptions(
        fps=4.0,
        policy=plot.policy,
        policy_options=plot.policy_options,
        positions=plot.positions,
        speak=SpeakOptions(max_tokens_per_second=8, answer_tokens=4, temperature=plot.temperature, seed=plot.seed),
        rebase_at=plot.rebase_at,
        question_tokens=24,
        loop_tokens=loop_tokens,
        kv_dtype=kv_dtype,
    )
    script = ScriptOptions(query="Say it.", query_in=plot.query_in, previous_text=plot.previous_text)
    stream = loaded.stream(options, script, processor=forced)
    watched = Watched(loaded.adapter, Twin(loaded.adapter, loaded.adapter.dtype, kv_dtype) if twin else None)
    watched.native = plot.positions == "native"
    stream.adapter = watched
    return stream, watched, forced


def play(plot: Plot, stream: Stream, forced: Forced, first: int = 0, last: int | None = None) -> list[Any]:
    """Step through a plot's seconds [first, last)."""
    captions = []
    for i in range(first, len(plot.seconds) if last is None else last):
        second = plot.seconds[i]
        forced.script = [stream.script.end_id if t == END else t for t in second.said]
        captions.append(stream.step(chunk_of(plot, i), second.question, remember=second.remember))
    return captions


def poison(stream: Stream) -> None:
    """Rows that nothing may read hold NaN from now on."""
    table = stream.table
    for _, layers, rows in stream.arena.parts(table.n, table.anchors, table.cells):
        for tensor in layers:
            tensor[..., rows:, :] = torch.nan if tensor.is_floating_point() else 99
    if isinstance(stream.arena, CompactArena):
        stream.arena.scratch[:] = torch.nan


def state(stream: Stream) -> dict[str, Any]:
    """Everything that the next second depends on."""
    table = stream.table
    held = {
        f"{name}{i}": tensor[0, ..., :used, :].clone()
        for name, layers, used in stream.arena.parts(table.n, table.anchors, table.cells)
        for i, tensor in enumerate(layers)
    }
    rows = {n: c for n, c in table.columns().items() if n not in ("pos", "pos0")}
    rows["pos"], rows["pos0"] = table.pos[: table.n].copy(), table.pos0[: table.anchors].copy()
    if isinstance(stream.arena, CompactArena):
        rows["pos0 of bytes"] = table.pos0[: table.n][table.cells[: table.n] >= 0]
    numbers = (table.n, table.m, table.anchors, table.next_pos, table.next_serial, stream.turn, stream.end)
    return {**held, **rows, "numbers": numbers, "random": stream.sampler.generator.get_state().clone()}


def assert_asking_leaves_no_trace(stream: Stream) -> None:
    before = state(stream)
    stream.ask("What now?")
    assert_same(before, state(stream))
    stream.ask("What now?", remember=True)
    assert stream.table.m > before["numbers"][1]


def assert_same(expected: dict[str, Any], actual: dict[str, Any]) -> None:
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        if isinstance(value, tuple):
            assert value == actual[name], name
        else:
            np.testing.assert_array_equal(torch.as_tensor(value).float(), torch.as_tensor(actual[name]).float(), name)


@pytest.mark.parametrize("dtype", DTYPES)
@QUICK
@given(plot=plots())
def test_stream_equals_its_plain_twin(dtype: str, plot: Plot) -> None:
    """Invariants 1 and 5: each token saw exactly what was held when it was fed, and nothing behind it."""
    stream, watched, forced = make_stream(plot, dtype, twin=True)
    for i in range(len(plot.seconds)):
        poison(stream)
        play(plot, stream, forced, i, i + 1)
        assert stream.table.n <= stream.budget
    assert watched.worst < DTYPES[dtype]


@QUICK
@given(plot=plots())
def test_positions_have_one_offset_and_anchors_come_from_masters(plot: Plot) -> None:
    """Invariants 2 and 3, and the budget at every step."""
    stream, _, forced = make_stream(plot)
    kinds = []
    for i in range(len(plot.seconds)):
        play(plot, stream, forced, i, i + 1)
        table, rows = stream.table, stream.rows()
        assert rows.n <= stream.budget == table.max_rows
        if plot.positions == "contiguous":
            offset = rows.pos[: rows.n] - stream.places()[: rows.n]
            np.testing.assert_allclose(offset, np.full_like(offset, offset[0, 0]), atol=1e-9)
            assert table.next_pos - rows.adv[: rows.n].sum() == pytest.approx(offset[0, 0])
        old, new = (
            torch.from_numpy(rows.pos0[: table.anchors].copy()),
            torch.from_numpy(rows.pos[: table.anchors].copy()),
        )
        cos, sin = stream.adapter.rotation(old, new)
        for k, masters in zip(stream.arena.k, stream.arena.masters, strict=True):
            turned = rotate(masters[0, :, : table.anchors], cos, sin)
            # What was read once more is its own master: not turned yet, as a turn by nothing is off by a rounding.
            off = 3e-7 if plot.policy == "reread" else 0
            torch.testing.assert_close(k[0, :, : table.anchors], turned, atol=off, rtol=off)
        kinds = rows.kinds.tolist()
    assert kinds[0] == Kind.SYSTEM
    assert sorted(kinds.index(k) for k in set(kinds) if k <= Kind.PREVIOUS_CLOSE) == [
        kinds.index(k) for k in sorted(set(kinds)) if k <= Kind.PREVIOUS_CLOSE
    ]


@QUICK
@given(plot=plots())
def test_positions_are_the_familys_own(plot: Plot) -> None:
    """Invariant 6: the stock rope index over the whole held sequence, with max + 1 behind a block."""
    stream, _, forced = make_stream(plot)
    family = model().adapter.model.model
    play(plot, stream, forced)
    if plot.positions == "native":
        return  # native positions are those of feeding; the twin covers them
    rows, expected, at, i = stream.rows(), [], 0, 0
    while i < len(rows):
        if rows.kinds[i] != Kind.PIXELS:
            expected.append(torch.tensor([[at]] * 3))
            at, i = at + 1, i + 1
            continue
        turn = int(rows.turns[i])
        size, frames = plot.seconds[turn].size, plot.seconds[turn].frames
        grid = torch.tensor([-(-frames // 2), size[0] // 14, size[1] // 14])
        block = family.get_vision_position_ids(at, grid, 1, 2, time_interval=2 * (2 / 4.0))
        expected.append(block)
        at, i = int(block.max()) + 1, i + block.shape[1]
    np.testing.assert_array_equal(torch.cat(expected, 1).numpy(), stream.places().T)


@QUICK
@given(plot=plots(), data=st.data())
def test_a_failed_forward_leaves_nothing_behind(plot: Plot, data: st.DataObject) -> None:
    """Invariant 4: after a failure the same chunk gives what it would have given, random numbers included, whether the
    chunk itself failed or a token in mid-sentence."""
    at = data.draw(st.integers(0, len(plot.seconds) - 1))
    # A question that fails comes after its second, which stands.
    seconds = [replace(second, question=None) if i == at else second for i, second in enumerate(plot.seconds)]
    plot = replace(plot, seconds=tuple(seconds))
    healthy, _, forced = make_stream(plot)
    expected = play(plot, healthy, forced)
    stream, watched, forced = make_stream(plot)
    play(plot, stream, forced, 0, at)
    watched.fail_in = data.draw(st.integers(1, 3))
    before = stream.table.n, stream.turn
    with suppress(Gone):
        play(plot, stream, forced, at, at + 1)
    assume(not watched.fail_in)  # otherwise the second was shorter than that
    assert stream.table.n <= before[0]
    assert stream.turn == before[1]
    actual = play(plot, stream, forced, at)
    assert [c.text for c in expected[at:]] == [c.text for c in actual]
    assert_same(state(healthy), state(stream))


@QUICK
@given(plot=plots(), data=st.data())
def test_a_failed_question_costs_only_its_answer(plot: Plot, data: st.DataObject) -> None:
    """Its second was told before, and stands; the stream is as if nobody had asked, whatever was to be remembered."""
    at = data.draw(st.integers(0, len(plot.seconds) - 1))

    def with_question(question: str | None) -> Plot:
        asked = replace(plot.seconds[at], question=question, remember=data.draw(st.booleans()))
        return replace(plot, seconds=(*plot.seconds[:at], asked, *plot.seconds[at + 1 :]))

    healthy, watched, forced = make_stream(with_question(None))
    expected = play(plot, healthy, forced, 0, at)
    before = watched.feeds
    expected += play(with_question(None), healthy, forced, at, at + 1)
    fed = watched.feeds - before
    expected += play(plot, healthy, forced, at + 1)
    stream, watched, forced = make_stream(plot)
    actual = play(plot, stream, forced, 0, at)
    watched.fail_in = fed + data.draw(st.integers(1, 2))
    actual += play(with_question("What now?"), stream, forced, at, at + 1)
    assume(not watched.fail_in)  # otherwise the answer was shorter than that
    actual += play(plot, stream, forced, at + 1)
    assert [c.text for c in expected] == [c.text for c in actual]
    assert (None, True) == (actual[at].answer, "Gone" in (actual[at].unanswered or ""))
    assert [at] == [i for i, c in enumerate(actual) if c.unanswered is not None]
    assert_same(state(healthy), state(stream))


@QUICK
@given(plot=plots(), seed=st.integers(0, 99))
def test_a_question_leaves_no_trace(plot: Plot, seed: int) -> None:
    """Invariant 7: rows, positions, random numbers and the bits of every held key and value are as before."""
    stream, _, forced = make_stream(plot)
    play(plot, stream, forced)
    assert_asking_leaves_no_trace(stream)


@QUICK
@given(plot=plots(), data=st.data())
def test_fork_and_restore_go_on_like_the_stream_itself(plot: Plot, data: st.DataObject, tmp_path_factory: Any) -> None:
    """Invariant 7: fork == in place, restore == continue."""
    at = data.draw(st.integers(1, len(plot.seconds) - 1))
    stream, _, forced = make_stream(plot)
    play(plot, stream, forced, 0, at)
    path: Path = tmp_path_factory.mktemp("snapshot") / "stream.safetensors"
    stream.save(path)
    fork = stream.fork()
    fork_forced = Forced()
    fork.sampler._chain.append(fork_forced)
    fork.sampler._needs_ids = True
    restored, _, restored_forced = make_stream(plot)
    restored.restore(path)
    assert_same(state(stream), state(restored))
    expected = play(plot, stream, forced, at)
    for twin, force in ((fork, fork_forced), (restored, restored_forced)):
        assert [(c.text, c.answer) for c in play(plot, twin, force, at)] == [(c.text, c.answer) for c in expected]
        assert_same(state(stream), state(twin))


def a_plot(**changes: Any) -> Plot:
    from tests.strategies import Second

    base = {
        "seconds": tuple(Second((56, 84), 2, (40, 41, 42, END), None, False) for _ in range(12)),
        "policy": "streaming",
        "policy_options": {"sink_tokens": 4, "text_window": 4, "vision_seconds": 3.0},
        "positions": "contiguous",
        "rebase_at": 4096.0,
        "query_in": "system",
        "previous_text": "",
        "temperature": 0.0,
        "seed": 0,
    }
    return Plot(**{**base, **changes})


def test_bf16_anchors_do_not_drift() -> None:
    """A bfloat16 anchor that is turned at every chunk stays within one rounding of its own place for ever."""
    plot = a_plot()
    stream, _, forced = make_stream(plot, "bfloat16")
    play(plot, stream, forced)
    table, adapter = stream.table, stream.adapter
    count = table.anchors
    masters = stream.arena.masters[0][0, :, :count].clone()
    for i in range(300):
        play(a_plot(seconds=plot.seconds[:1], seed=i), stream, forced, 0, 0)
        second = a_plot(seed=i)
        stream.step(type(chunk_of(second, 0))(12.0 + i, 13.0 + i, chunk_of(second, 0).frames))
    opening = int((stream.rows().kinds <= Kind.PREVIOUS_OPEN).sum())
    torch.testing.assert_close(stream.arena.masters[0][0, :, :opening], masters[:, :opening], atol=0, rtol=0)
    old, new = torch.from_numpy(table.pos0[:opening].copy()), torch.from_numpy(table.pos[:opening].copy())
    exact = rotate(masters[:, :opening].double(), *adapter.rotation(old, new))
    held = stream.arena.k[0][0, :, :opening].double()
    assert float((held - exact).abs().max() / exact.abs().max()) < 0.005


def test_text_behind_a_long_block_stands_behind_its_last_moment() -> None:
    """Four temporal patches two positions apart end at 6, beyond a 2x2 picture: the text goes on at 7, not at 2."""
    loc, advance = model().adapter.places((4, 4, 4), 1.0)
    assert loc[:, 0].tolist() == [0.0] * 4 + [2.0] * 4 + [4.0] * 4 + [6.0] * 4
    assert advance == 7.0


def test_window_is_counted_in_seconds() -> None:
    """Three seconds of vision are three chunks of 1 s or six of 0.5 s, the coming one included."""
    for chunk_seconds, chunks in ((1.0, 3), (0.5, 6)):
        options = StreamOptions(
            fps=4.0,
            chunk_seconds=chunk_seconds,
            policy_options={"sink_tokens": 4, "text_window": 4, "vision_seconds": 3.0},
            speak=SpeakOptions(max_tokens_per_second=4),
        )
        stream = model().stream(options)
        for i in range(10):
            frames = chunk_of(a_plot(), 0).frames
            stream.step(type(chunk_of(a_plot(), 0))(i * chunk_seconds, (i + 1) * chunk_seconds, frames))
        rows = stream.rows()
        assert len(np.unique(rows.turns[rows.kinds == Kind.PIXELS])) == chunks


def test_text_budget_is_exact() -> None:
    """The previous text holds exactly its first and last tokens, without silence marks."""
    plot = a_plot()
    stream, _, forced = make_stream(plot)
    said = []
    for i, second in enumerate(plot.seconds):
        forced.script = [50 + i, 100 + i, *stream.script.silence_ids, stream.script.end_id]
        stream.step(chunk_of(plot, i))
        said += [50 + i, 100 + i]
        del second
    rows = stream.rows()
    gone = said[: 2 * (len(plot.seconds) - 3)]
    assert rows.ids[rows.kinds == Kind.PREVIOUS].tolist() == gone[:4] + gone[-4:]


def test_a_chunk_that_cannot_fit_is_refused_and_the_stream_goes_on() -> None:
    plot = a_plot(policy="full", policy_options={"kv_budget": 260})
    stream, _, forced = make_stream(plot)
    with pytest.raises(BudgetError, match=r"kept \d+ \+ coming \d+ \+ to say \d+ tokens > budget 260"):
        play(plot, stream, forced)
    assert stream.turn > 0
    assert stream.ask("What now?") is not None


def test_damaged_or_foreign_snapshots_are_refused(tmp_path: Path) -> None:
    """One line says what differs; the stream is as it was."""
    plot = a_plot()
    stream, _, forced = make_stream(plot)
    play(plot, stream, forced, 0, 4)
    path = tmp_path / "s.safetensors"
    stream.save(path)
    fresh, _, _ = make_stream(plot)
    before = state(fresh)
    good = path.read_bytes()
    for cut in (0, 8, 100, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:cut])
        with pytest.raises(SnapshotError):
            fresh.restore(path)
    for at in range(len(good) - 40_000, len(good), 1_999):
        path.write_bytes(good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :])
        with pytest.raises(SnapshotError):
            fresh.restore(path)
    path.write_bytes(good)
    other, _, _ = make_stream(a_plot(positions="native"))
    with pytest.raises(SnapshotError, match="options differs"):
        other.restore(path)
    with pytest.raises(SnapshotError, match="cannot read"):
        fresh.restore(tmp_path / "absent")
    assert_same(before, state(fresh))
    fresh.restore(path)
    assert_same(state(stream), state(fresh))


def test_a_stream_that_fails_while_rows_are_moved_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of its layers are moved and half are not: it neither goes on nor is saved; a snapshot heals it."""
    plot = Plot(
        seconds=tuple(Second((56, 56), 2, (30, 31, END), None, False) for _ in range(8)),
        policy="streaming",
        policy_options={"sink_tokens": 4, "text_window": 4, "vision_seconds": 3.0},
        positions="contiguous",
        rebase_at=4096.0,
        query_in="system",
        previous_text="",
        temperature=0.0,
        seed=3,
    )
    stream, _, forced = make_stream(plot)
    play(plot, stream, forced, 0, 6)
    stream.save(tmp_path / "s.safetensors")
    expected = play(plot, stream, forced, 6, 8)
    stream.restore(tmp_path / "s.safetensors")
    turned, calls = relocation.turn, []

    def fails_later(*given: Any) -> torch.Tensor:
        calls.append(given)
        if len(calls) == 2:
            raise MemoryError("no memory")
        return turned(*given)

    with monkeypatch.context() as patch:
        patch.setattr(relocation, "turn", fails_later)
        with pytest.raises(MemoryError):
            play(plot, stream, forced, 6, 7)
    for go_on in (lambda: play(plot, stream, forced, 6, 7), lambda: stream.ask("What now?")):
        with pytest.raises(ModelError, match="failed while its cache was rearranged"):
            go_on()
    with pytest.raises(SnapshotError, match="is left as it was"):
        stream.save(tmp_path / "s.safetensors")
    stream.restore(tmp_path / "s.safetensors")
    assert [c.text for c in expected] == [c.text for c in play(plot, stream, forced, 6, 8)]
