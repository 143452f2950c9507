"""Vision held in bytes: what a stream says is what a plain pass says whose vision went through a byte and back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neverblink import ScriptOptions, StreamOptions
from neverblink.cli import options as cli
from neverblink.drills.twin import Watched
from neverblink.engine.memory import plan
from neverblink.errors import BudgetError, ConfigError, SnapshotError
from neverblink.kv.compact import LARGEST, CompactArena, from_bytes, to_bytes
from neverblink.kv.policies import Coming, Parted, Plan, Shape, Streaming, policies
from neverblink.kv.table import Rows
from neverblink.options import KV_DTYPES
from neverblink.types import Kind
from tests.engine import crowd
from tests.kv.test_invariants import (
    DTYPES,
    a_plot,
    assert_asking_leaves_no_trace,
    assert_same,
    make_stream,
    model,
    play,
    poison,
    state,
)
from tests.properties import tries
from tests.strategies import END, Plot, Second, plots

KINDS = ("int8", "fp8")
WINDOWED = ("streaming", "recompute", "reread", "sliding", "last-frames")
FEW = tries(8)
TWINS = tries(25)
compact_plots = plots().filter(lambda plot: plot.policy in WINDOWED)


@dataclass(frozen=True)
class LongSight(Streaming):
    """Words leave before the pictures that they were said about, so vision stands among the anchors."""

    text_seconds: float = 1.0

    def anchors_needed(self, shape: Shape) -> int:
        return self.rows_needed(shape)

    def __call__(self, rows: Rows, coming: Coming) -> Plan:
        plan = super().__call__(rows, coming)
        words = np.isin(rows.kinds, (Kind.HEAD, Kind.SAID, Kind.CLOSE)) & (rows.turns >= 0)
        gone = (words & (rows.times <= coming.end - self.text_seconds + 1e-6))[plan.keep] & ~plan.moved
        return replace(plan, keep=plan.keep[~gone], moved=plan.moved[~gone])


@pytest.fixture(scope="module", autouse=True)
def _long_sight() -> Iterator[None]:
    policies.add("long-sight", LongSight)
    yield
    policies.remove("long-sight")


def far_sighted(plot: Plot) -> Plot:
    """The same plot, remembered by LongSight."""
    windows = {"sink_tokens": 2, "text_window": 3, "vision_seconds": 4.5, "text_seconds": 2.0}
    return replace(plot, policy="long-sight", policy_options=windows)


def assert_as_the_twin(watched: Watched) -> None:
    """Every byte is what its value is rounded to, and everything that follows from the bytes is exact."""
    assert watched.twin is not None
    assert watched.twin.astray == 0
    assert watched.worst < DTYPES["float64"]


def a_window(**changes: Any) -> Plot:
    """Twenty seconds, three of them held, with questions; places are turned back to zero again and again."""
    seconds = tuple(
        Second((56, 84), 2, (40, 41, 42, END), "What now?" if i % 4 == 3 else None, i % 8 == 7) for i in range(20)
    )
    return a_plot(**{"seconds": seconds, "rebase_at": 120.0, **changes})


SILENT = tuple(replace(second, question=None) for second in a_window().seconds)  # nobody asks


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_value_is_off_by_half_a_step_at_most(kind: str, dtype: torch.dtype) -> None:
    """int8: half of 1/127 of the row's largest value; fp8: 1/16 of the value itself, or half its smallest step."""
    rows = (
        torch.randn(3, 50, 16, dtype=dtype, generator=torch.Generator().manual_seed(0))
        * torch.logspace(-3, 3, 50, dtype=dtype)[:, None]
    )
    rows[0, 0] = 0
    out = torch.empty_like(rows)
    from_bytes(*to_bytes(rows, kind), kind, out)
    largest = rows.double().abs().amax(-1, keepdim=True)
    bound = largest / 254 if kind == "int8" else (rows.double().abs() / 16).maximum(largest / 448 / 2**10)
    assert bool(((out - rows).double().abs() <= bound * (1.02 if dtype == torch.bfloat16 and kind == "fp8" else 1.0001)
                 + largest * (2**-8 if dtype == torch.bfloat16 else 1e-7)).all())  # fmt: skip
    assert 0.0 == float(out[0, 0].abs().max())


def test_every_bit_pattern_of_fp8_is_what_torch_says() -> None:
    """Also the values below its normal ones, and zero of both signs; NaN comes from the scale."""
    bits = torch.arange(256).to(torch.uint8).view(torch.int8)
    known = bits.view(torch.float8_e4m3fn).float()
    out = torch.empty(256)
    from_bytes(bits, torch.ones(1), "fp8", out)
    finite = ~known.isnan()
    assert 254 == int(finite.sum())
    torch.testing.assert_close(out[finite], known[finite], atol=0, rtol=0)
    from_bytes(*to_bytes(torch.tensor([[1.0, torch.nan]]), "fp8"), "fp8", out[:2][None])
    assert out[:2].isnan().all()


@pytest.mark.parametrize("kind", KINDS)
@TWINS
@given(plot=st.one_of(compact_plots, compact_plots.map(far_sighted)))
def test_a_stream_equals_its_plain_twin(kind: str, plot: Plot) -> None:
    """Each token saw what was held, vision rounded once where it was fed, whatever was dropped and turned since."""
    stream, watched, forced = make_stream(plot, "float64", twin=True, kv_dtype=kind)
    for i in range(len(plot.seconds)):
        poison(stream)
        play(plot, stream, forced, i, i + 1)
        assert stream.table.n <= stream.budget
    assert_as_the_twin(watched)


@pytest.mark.parametrize("kind", KINDS)
def test_vision_that_was_turned_back_to_zero_equals_the_twin(kind: str) -> None:
    """Rebased in most seconds: the bytes stay and are turned as they are read."""
    plot, turned = a_window(rebase_at=60.0), 0
    stream, watched, forced = make_stream(plot, "float64", twin=True, kv_dtype=kind)
    for i in range(len(plot.seconds)):
        play(plot, stream, forced, i, i + 1)
        table = stream.table
        vision = table.cells[: table.n] >= 0
        turned += bool(np.abs(table.pos0[: table.n] - table.pos[: table.n])[vision].max() > 1)
    assert turned > 3
    assert_as_the_twin(watched)


@pytest.mark.parametrize("kind", KINDS)
def test_vision_among_the_anchors_equals_the_twin(kind: str) -> None:
    """A turned picture whose words leave becomes an anchor: it has no master, its bytes keep the place of their own."""
    plot, front = far_sighted(a_window(rebase_at=60.0)), 0
    stream, watched, forced = make_stream(plot, "float64", twin=True, kv_dtype=kind)
    for i in range(len(plot.seconds)):
        poison(stream)
        play(plot, stream, forced, i, i + 1)
        table = stream.table
        moved = np.abs(table.pos0[: table.anchors] - table.pos[: table.anchors]).max(-1) > 1
        front += int((moved & (table.cells[: table.anchors] >= 0)).sum())
    assert front > 20
    assert_as_the_twin(watched)


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_are_written_once(kind: str) -> None:
    """A row's bytes are the same from its first second to its last, through evictions and turns."""
    plot = a_window()
    stream, _, forced = make_stream(plot, kv_dtype=kind)
    known: dict[int, torch.Tensor] = {}
    for i in range(len(plot.seconds)):
        play(plot, stream, forced, i, i + 1)
        rows = stream.rows()
        serials = rows.serials[: rows.n][rows.cells[: rows.n] >= 0].tolist()
        held = stream.arena.bytes[0][0, :, :, : len(serials)]
        for at, serial in enumerate(serials):
            assert torch.equal(known.setdefault(serial, held[:, :, at].clone()), held[:, :, at])
    assert len(known) > 100


@pytest.mark.parametrize("kind", KINDS)
@FEW
@given(plot=st.one_of(compact_plots, compact_plots.map(far_sighted)), data=st.data())
def test_fork_and_restore_go_on_like_the_stream_itself(
    kind: str, plot: Plot, data: st.DataObject, tmp_path_factory: Any
) -> None:
    at = data.draw(st.integers(1, len(plot.seconds) - 1))
    stream, _, forced = make_stream(plot, kv_dtype=kind)
    play(plot, stream, forced, 0, at)
    path: Path = tmp_path_factory.mktemp("snapshot") / "stream.safetensors"
    stream.save(path)
    restored, _, restored_forced = make_stream(plot, kv_dtype=kind)
    poison(restored)
    restored.restore(path)
    assert_same(state(stream), state(restored))
    fork = stream.fork()
    assert_same(state(stream), state(fork))
    expected = play(plot, stream, forced, at)
    actual = play(plot, restored, restored_forced, at)
    assert [(c.text, c.answer) for c in expected] == [(c.text, c.answer) for c in actual]
    assert_same(state(stream), state(restored))


def test_a_snapshot_of_another_kv_dtype_is_refused(tmp_path: Path) -> None:
    plot = a_window()
    streams = {kind: make_stream(plot, kv_dtype=kind)[::2] for kind in ("", *KINDS)}
    for kind, (stream, forced) in streams.items():
        play(plot, stream, forced, 0, 3)
        stream.save(tmp_path / f"{kind}.safetensors")
    for kind, (stream, _) in streams.items():
        for other in streams:
            if other != kind:
                with pytest.raises(SnapshotError, match="options differs"):
                    stream.restore(tmp_path / f"{other}.safetensors")


def test_a_damaged_snapshot_of_bytes_is_refused(tmp_path: Path) -> None:
    stream, _, forced = make_stream(plot := a_window(), kv_dtype="int8")
    play(plot, stream, forced, 0, 4)
    stream.save(path := tmp_path / "s.safetensors")
    good, before = path.read_bytes(), state(stream)
    for at in range(len(good) - 60_000, len(good), 2_999):
        path.write_bytes(good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :])
        with pytest.raises(SnapshotError):
            stream.restore(path)
    assert_same(before, state(stream))


@pytest.mark.parametrize("kind", KINDS)
@FEW
@given(plot=compact_plots, seed=st.integers(0, 99))
def test_a_question_leaves_no_trace(kind: str, plot: Plot, seed: int) -> None:
    """Rows, bytes, scales, positions and random numbers are as before; a remembered one stays."""
    stream, _, forced = make_stream(plot, kv_dtype=kind)
    play(plot, stream, forced)
    assert_asking_leaves_no_trace(stream)


@pytest.mark.parametrize("fail_in", [1, 2, 3])
def test_a_failed_forward_leaves_nothing_behind(fail_in: int) -> None:
    plot = a_window(seconds=SILENT)
    healthy, _, forced = make_stream(plot, kv_dtype="int8")
    expected = play(plot, healthy, forced)
    stream, watched, forced = make_stream(plot, kv_dtype="int8")
    play(plot, stream, forced, 0, 11)
    watched.fail_in = fail_in
    with pytest.raises(RuntimeError):
        play(plot, stream, forced, 11, 12)
    poison(stream)
    actual = play(plot, stream, forced, 11)
    assert [c.text for c in expected[11:]] == [c.text for c in actual]
    assert_same(state(healthy), state(stream))


@pytest.mark.parametrize("lean", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_three_streams_packed_say_what_each_says_alone(kind: str, lean: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One scratch serves them all, in the stock forward and in the lean one; each has its own window."""
    loaded = crowd.model("float32" if lean else "float64")
    monkeypatch.setattr(loaded.adapter, "lean", lean)
    dtype = "float32" if lean else "float64"
    members = (0, 1, 4)  # streaming, sliding and last-frames
    engine = crowd.make_engine_of([crowd.options_of(i, kv_dtype=kind) for i in members], 3, dtype)
    lives = {i: crowd.join(engine, i, kv_dtype=kind) for i in members}
    for second in range(8):
        crowd.play(engine, lives, second)
        crowd.run(engine, lives)
    assert not engine.packs_broken
    for i in members:
        alone = crowd.run_alone(i, range(8), dtype, kv_dtype=kind)
        assert alone.stream.arena.kv_dtype == kind
        crowd.assert_same(alone, lives[i], dtype)


def test_one_kernel_for_all_streams_is_not_given_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would read the exact rows and miss vision; such streams go the plain way, and still in one call."""
    calls: list[Any] = []
    monkeypatch.setattr(crowd.model("float64").adapter, "varlen", lambda *given, **_: calls.append(given))
    engine = crowd.make_engine_of([crowd.options_of(i, kv_dtype="int8") for i in (0, 1)], 2)
    lives = {i: crowd.join(engine, i, kv_dtype="int8") for i in (0, 1)}
    for second in range(3):
        crowd.play(engine, lives, second)
        crowd.run(engine, lives)
    assert not calls
    assert not engine.packs_broken
    for i in lives:
        crowd.assert_same(crowd.run_alone(i, range(3), kv_dtype="int8"), lives[i])


@pytest.mark.parametrize(("kind", "most", "mean"), [("int8", 0.013, 0.0014), ("fp8", 0.08, 0.007)])
def test_the_error_against_exact_vision_is_small(kind: str, most: float, mean: float) -> None:
    """Twice what was measured, of logits about 3 wide; evictions and rebases, both streams made to say the same."""
    plot = a_window(seconds=SILENT)
    exact, rounded = logits_of(plot, ""), logits_of(plot, kind)
    error = (exact - rounded).abs()
    assert 0.0 < float(error.max()) < most
    assert 0.0 < float(error.mean()) < mean


def logits_of(plot: Plot, kind: str) -> torch.Tensor:
    """Of every token that is said."""
    stream, _, forced = make_stream(plot, kv_dtype=kind)
    seen: list[torch.Tensor] = []
    pick = stream.sampler.pick

    def watch(logits: torch.Tensor, context: Any) -> int:
        seen.append(logits.clone())
        return pick(logits, context)

    stream.sampler.pick = watch  # type: ignore[method-assign]
    play(plot, stream, forced)
    return torch.stack(seen)


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_are_what_the_arithmetic_says(kind: str) -> None:
    """An arena's figure is that of its tensors, the plan's is the arena's, and a caption's that of what is held."""
    adapter, options = model().adapter, StreamOptions(fps=4.0, kv_dtype=kind)
    script = model().script(ScriptOptions(query="Say it."))
    for slots in (1, 3):
        memory = plan(adapter, script, [options], slots)
        arena = memory.arena(adapter)
        assert isinstance(arena, CompactArena)
        tensors = [*arena.k, *arena.v, *arena.masters, *arena.bytes, *arena.scales, arena.scratch]
        assert sum(tensor.nbytes for tensor in tensors) == arena.nbytes == memory.nbytes
        assert f"rows of vision x 20 bytes ({kind})" in memory.text()
    exact = plan(adapter, script, [replace(options, kv_dtype="")], 1)
    assert exact.rows == memory.rows + memory.vision_rows
    vision, masters = memory.vision_rows, exact.anchor_rows - memory.anchor_rows
    # 2 layers x 2 heads x (keys and values) x (16 floats or 16 bytes and a scale); vision has no masters.
    assert exact.stream_bytes - memory.stream_bytes == 2 * 2 * (2 * vision * (64 - 20) + masters * 64)
    plot = a_window()
    stream, _, forced = make_stream(plot, kv_dtype=kind)
    caption = play(plot, stream, forced)[-1]
    seen = int((stream.rows().cells[: stream.table.n] >= 0).sum())
    assert caption.kv_bytes == 2 * 2 * 2 * (64 * (stream.table.n - seen) + 20 * seen)


def test_auto_gives_more_streams_where_vision_is_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    from neverblink.engine import memory

    adapter, script = model().adapter, model().script(ScriptOptions(query="Say it."))
    options = StreamOptions(fps=8.0, policy_options={"sink_tokens": 8, "text_window": 8, "vision_seconds": 60.0})
    monkeypatch.setattr(memory, "free_bytes", lambda device: 40 * 2**20)
    exact = memory.plan(adapter, script, [options], "auto", 10**6)
    compact = memory.plan(adapter, script, [replace(options, kv_dtype="int8")], "auto", 10**6)
    assert compact.streams > 1.15 * exact.streams
    assert compact.nbytes <= 0.7 * 40 * 2**20 < compact.nbytes + compact.stream_bytes


def test_a_chunk_of_more_vision_than_expected_lets_the_oldest_leave() -> None:
    """Vision has rows of its own; what does not fit there makes room, and what never fits is refused in one line."""
    plot = a_window()
    stream, _, forced = make_stream(plot, kv_dtype="int8")
    play(plot, stream, forced, 0, 6)
    chunk = crowd.chunk_of(0, 6, 4)
    wide = np.zeros((84, 84, 3), dtype=np.uint8)
    frames = tuple(replace(chunk.frames[0], time=6 + i / 20, pixels=wide) for i in range(8))
    stream.step(replace(chunk, frames=frames))
    vision = stream.rows().cells >= 0
    assert int(vision.sum()) <= stream.arena.vision_rows
    many = tuple(replace(frames[0], time=7 + i / 100) for i in range(60))
    with pytest.raises(BudgetError, match=r"rows of vision > \d+, or"):
        stream.step(replace(chunk, start=7.0, end=8.0, frames=many))
    stream.step(replace(chunk, start=7.0, end=8.0, frames=chunk.frames))
    assert int(np.unique(stream.rows().kinds[stream.rows().cells >= 0]).item()) == Kind.PIXELS


def test_what_stays_fits_both_parts_to_the_row() -> None:
    """A plan stands as long as vision and the rest both fit, and gives way where either lacks a single row."""
    plot = a_window()
    stream, _, forced = make_stream(plot, kv_dtype="int8")
    play(plot, stream, forced, 0, 6)
    rows, policy = stream.rows(), Streaming(**plot.policy_options)
    coming = Coming(turn=6, start=6.0, end=7.0, frames=2, tokens=30, reserve=10, room=10_000, vision=12)
    whole = policy(rows, coming).keep
    seen = int((rows.cells[whole] >= 0).sum())
    vision, rest = seen + coming.vision, len(whole) - seen + coming.tokens - coming.vision + coming.reserve
    np.testing.assert_array_equal(Parted(policy, rest, vision)(rows, coming).keep, whole)
    for short in ((0, 1), (1, 0)):
        kept = Parted(policy, rest - short[0], vision - short[1])(rows, coming).keep
        assert 0 < len(kept) < len(whole)
        assert set(kept.tolist()) < set(whole.tolist())


def test_what_cannot_be_is_refused_in_one_line() -> None:
    assert cli.KV_DTYPES == KV_DTYPES == ("", *LARGEST)
    with pytest.raises(ConfigError, match="no --kv-dtype 'int4'; known: int8, fp8"):
        cli.WatchOptions(kv_dtype="int4").check()
    with pytest.raises(ConfigError, match="no kv_dtype 'int4'; known: int8, fp8, or nothing"):
        StreamOptions(kv_dtype="int4")
    for policy in ("full", "streaming-vlm"):
        with pytest.raises(ConfigError, match=f"kv_dtype int8 needs a policy with windows.*{policy} has none"):
            model().stream(StreamOptions(policy=policy, kv_dtype="int8"))
    adapter, script = model().adapter, model().script()
    with pytest.raises(ConfigError, match="have one kv_dtype; '', 'int8' were given"):
        plan(adapter, script, [StreamOptions(), StreamOptions(kv_dtype="int8")], 2)
    engine = model().engine([StreamOptions(kv_dtype="int8")], max_streams=1)
    with pytest.raises(ConfigError, match="kv_dtype is '' and that of the slots 'int8'"):
        engine.add("exact", options=StreamOptions())
    wider = {"policy_options": {"vision_seconds": 60.0}}
    with pytest.raises(BudgetError, match=r"needs \d+ rows of vision > \d+ of a slot"):
        engine.add("wide", options=StreamOptions(kv_dtype="int8", **wider))


def test_families_that_cannot_do_it_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    from neverblink.models.gemma3 import Gemma3
    from neverblink.models.qwen3_5 import Qwen35

    for family, why in ((Gemma3, "where a row stands"), (Qwen35, "keep no rows of vision")):
        assert why in family.refused_kv_dtype
    monkeypatch.setattr(type(model().adapter), "refused_kv_dtype", "it is a toy", raising=False)
    with pytest.raises(ConfigError, match="kv_dtype fp8 does not hold for qwen2_5_vl: it is a toy; leave it out"):
        model().stream(StreamOptions(kv_dtype="fp8"))
