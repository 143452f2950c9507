"""Gates, encoder caches and compressors within streams: exact when turned off, bounded, undone, saved, side by side."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neverblink import Chunk, Frame, Model, ScriptOptions, Stream, StreamOptions
from neverblink.bench.behaviour import Counter
from neverblink.drills.twin import Gone, Twin, Watched
from neverblink.errors import ConfigError, UnknownName
from neverblink.eye import Eye
from neverblink.models.base import drive
from neverblink.types import Kind
from tests.checkpoints import toy_checkpoint
from tests.engine import crowd
from tests.forced import Forced
from tests.kv.test_invariants import assert_same as assert_same_state
from tests.kv.test_invariants import poison
from tests.kv.test_invariants import state as state_of
from tests.models import families

# Each method with its knob at "nothing is saved".
EXACT: dict[str, dict[str, Any]] = {
    "pixel": {"gate": "pixel:similarity=1"},
    "grt": {"gate": "grt:theta=-1"},
    "curvestream": {"gate": "curvestream:clear=-1e9,floor=-1"},
    "curvestream-thumbnail": {"gate": "curvestream:features=thumbnail,clear=-1e9,floor=-1"},
    "slow-fast": {"gate": "slow-fast:share=1"},
    "key-frames": {"gate": "key-frames:share=1"},
    "stc cache": {"encoder_cache": "stc:recompute=1,cut=-1"},
    "stc": {"compress": "stc:keep=1"},
    "differential": {"compress": "differential:threshold=1"},
    "evs": {"compress": "evs:prune=0"},
    "decay": {"compress": "decay:least=1"},
    "all": {
        "gate": "pixel:similarity=1",
        "encoder_cache": "stc:recompute=1,every=99",
        "compress": "differential:threshold=1+stc:keep=1",
    },
}
# Each method at work, all kinds together in few streams.
LOSSY: tuple[dict[str, Any], ...] = (
    {"gate": "pixel:similarity=0.99", "compress": "differential:threshold=0.99+stc:keep=0.5"},
    {"gate": "grt:theta=0.02", "encoder_cache": "stc:every=3"},
    {"gate": "curvestream:skipped=reuse", "compress": "stc:keep=0.4"},
    {"encoder_cache": "stc:recompute=0.2", "compress": "decay"},
    {"gate": "key-frames:tokens_per_second=9,max_gap=2", "compress": "stc"},
    {"gate": "slow-fast:max_gap=1,threshold=0.99", "encoder_cache": "stc"},
    {"compress": "evs"},
)


def calm(stream: int, second: int, count: int | None = None) -> Chunk:
    """A pattern that stays, a square that crosses it; from second 3 on another one and, for some, of another size."""
    size = (84, 56) if second >= 3 and stream % 3 == 2 else (84, 84)
    pattern = np.random.default_rng((stream, second >= 3)).integers(40, 160, (6, 6, 3), dtype=np.uint8)
    ground = np.kron(pattern, np.ones((14, 14, 1), dtype=np.uint8))[: size[0], : size[1]]
    frames = []
    for i in range(count or (3 if second == 1 else 4)):
        picture = ground.copy()
        left = (6 * second + i) % 30
        picture[30:50, left : left + 20] = 255
        frames.append(Frame(second + i / 4, picture))
    return Chunk(float(second), second + 1.0, tuple(frames))


@pytest.fixture(autouse=True)
def _calm_crowd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crowd, "chunk_of", calm)


@cache
def plain(index: int) -> crowd.Life:
    return crowd.run_alone(index, range(5))


@cache
def sparing(index: int) -> crowd.Life:
    return crowd.run_alone(index, range(5), **LOSSY[index])


@pytest.mark.parametrize("name", EXACT)
def test_turned_off_is_the_plain_path(name: str) -> None:
    """The same words, rows, places, random numbers and, to 1e-9, logits; a question on the way included."""
    index = list(EXACT).index(name) % 3
    crowd.assert_same(plain(index), crowd.run_alone(index, range(5), **EXACT[name]))


@pytest.mark.parametrize("pipeline", [False, True])
def test_a_crowd_that_sees_less_says_what_each_says_alone(pipeline: bool) -> None:
    """Seven streams, each with other parts, in packed calls, with and without a tower that sees ahead; nobody's
    reference or memory reaches another."""
    engine = crowd.make_engine(len(LOSSY), pipeline=pipeline)
    lives = {i: crowd.join(engine, i, **parts) for i, parts in enumerate(LOSSY)}
    for second in range(5):
        crowd.play(engine, lives, second)
        if second % 2:
            crowd.run(engine, lives)
    crowd.run(engine, lives)
    engine.close()
    assert engine.packs_broken == 0
    for i, parts in enumerate(LOSSY):
        expected = sparing(i)
        crowd.assert_same(expected, lives[i])
        assert_same_seen(expected.stream.seen, lives[i].stream.seen)
        assert len(plain(i).stream.rows()) > len(lives[i].stream.rows()) or parts.get("compress") is None


def assert_same_seen(expected: Any, actual: Any) -> None:
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, atol=1e-9, rtol=0)


def make_stream(index: int, dtype: str = "float64", **changes: Any) -> tuple[Stream, Watched, Forced]:
    model, forced = crowd.model(dtype), Forced()
    options = crowd.options_of(index, **changes)
    stream = model.stream(options, ScriptOptions(query="Say it."), processor=forced)
    watched = Watched(model.adapter)
    watched.native = options.positions == "native"
    stream.adapter = watched
    return stream, watched, forced


def play(stream: Stream, index: int, first: int, last: int) -> list[Any]:
    captions = []
    for second in range(first, last):
        captions.append(stream.step(calm(index, second), crowd.question_of(index, second)))
    return captions


def whole_state(stream: Stream) -> dict[str, Any]:
    return {**state_of(stream), **{f"seen {name}": value for name, value in stream.seen.items()}}


@pytest.mark.parametrize("index", range(len(LOSSY)))
def test_peek_snapshot_fork_and_failure(index: int, tmp_path: Path) -> None:
    """A question touches nothing; a snapshot and a fork go on alike; a second that fails in the encoder, in reading or
    in speaking comes again as if it had not failed."""
    stream, _, _ = make_stream(index, **LOSSY[index])
    play(stream, index, 0, 2)
    before = whole_state(stream)
    stream.ask("What now?")
    assert_same_state(before, whole_state(stream))
    stream.save(tmp_path / "s")
    restored, _, _ = make_stream(index, **LOSSY[index])
    restored.restore(tmp_path / "s")
    fork = stream.fork()
    failing, watched, _ = make_stream(index, **LOSSY[index])
    play(failing, index, 0, 2)
    for fail_in in (1, 2):
        watched.fail_in = fail_in
        with pytest.raises(Gone):
            play(failing, index, 2, 3)
        assert_same_state({k: v for k, v in before.items() if k.startswith("seen")}, only_seen(failing))
    failing.adapter = Blind(watched)
    with pytest.raises(Gone):
        play(failing, index, 2, 3)
    failing.adapter = watched
    expected = [(c.text, c.answer, c.vision_tokens, c.frames_skipped) for c in play(stream, index, 2, 5)]
    for other in (restored, fork, failing):
        found = [(c.text, c.answer, c.vision_tokens, c.frames_skipped) for c in play(other, index, 2, 5)]
        assert expected == found
        assert_same_state(whole_state(stream), whole_state(other))


def only_seen(stream: Stream) -> dict[str, Any]:
    return {f"seen {name}": value for name, value in stream.seen.items()}


class Blind:
    """An adapter whose encoder has failed."""

    def __init__(self, adapter: Any):
        self._adapter = adapter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)

    def encode(self, *args: Any) -> Any:
        raise Gone

    encode_packed = encode


@pytest.mark.parametrize("index", range(len(LOSSY)))
def test_bounded_stream_equals_its_plain_twin(index: int) -> None:
    """Every token saw exactly what was held when it was fed, whatever was pruned and evicted."""
    stream, watched, _ = make_stream(index, **LOSSY[index])
    watched.twin = Twin(watched._adapter, torch.float64)
    for second in range(5):
        poison(stream)
        play(stream, index, second, second + 1)
        assert stream.table.n <= stream.budget
    assert watched.worst < 2e-5


@pytest.mark.parametrize("index", range(len(LOSSY)))
def test_what_is_told_stands_where_it_stood(index: int) -> None:
    """With the same words said, text stands where it stands behind whole blocks, and each told token at a place of the
    whole block of its turn; every turn is told by one at least."""

    # Eight glances of one picture: the block is longer than it is wide, and most of it is left out.
    picture = calm(index, 1).frames[0].pixels
    long = Chunk(2.0, 3.0, tuple(Frame(2 + i / 16, picture) for i in range(16)))

    def held(**parts: Any) -> Any:
        stream, _, forced = make_stream(
            0, policy="full", policy_options={"kv_budget": 1400}, positions="native", **parts
        )
        for second in range(5):
            forced.script = [40, 41, stream.script.end_id]
            stream.step(calm(index, second) if second != 2 else long)
        return stream.rows()

    whole, told = held(), held(**LOSSY[index])
    np.testing.assert_array_equal(
        whole.pos[: whole.n][whole.cells[: whole.n] < 0], told.pos[: told.n][told.cells[: told.n] < 0]
    )
    for turn in range(5):
        places, mine = (
            {tuple(p) for p in r.pos[(r.kinds == Kind.PIXELS) & (r.turns == turn)].tolist()} for r in (whole, told)
        )
        assert mine
        assert mine <= places
        assert len(mine) == int(((told.kinds == Kind.PIXELS) & (told.turns == turn)).sum()), "no place is told twice"
    assert told.n < whole.n or "stc" in LOSSY[index].get("encoder_cache", "")


@pytest.mark.parametrize("index", [i for i, p in enumerate(LOSSY) if "cache" not in str(p) and "reuse" not in str(p)])
def test_each_told_token_brings_its_own_place(index: int) -> None:
    """A token of the block is, to the last bit or nearly so, the whole block's token of the same place."""
    adapter = crowd.model().adapter
    eye, state, told = Eye(adapter, StreamOptions(fps=4.0, **LOSSY[index])), Eye.NOTHING, 0
    for second in range(5):
        chunk = calm(index, second)
        with torch.inference_mode():
            whole = adapter.encode([frame.pixels for frame in chunk.frames], 4.0)
            block = drive(adapter, eye.see(state, chunk, asked=False))
        state, told = block.state, told + block.tokens
        assert whole.advance == block.advance
        at = [np.flatnonzero((whole.loc == place).all(1))[0] for place in block.loc]
        if block.frames_skipped < len(chunk.frames):  # else the anchor is of an earlier chunk
            torch.testing.assert_close(block.embeds, whole.embeds[at], atol=1e-9, rtol=0)
    assert told < 5 * 18


def still(second: int, picture: np.ndarray) -> Chunk:
    return Chunk(float(second), second + 1.0, tuple(Frame(second + i / 4, picture) for i in range(4)))


@pytest.mark.parametrize("gate", ["pixel", "grt"])
def test_a_static_stream_costs_next_to_nothing_and_sounds_the_same(gate: str) -> None:
    """24 s of one picture: at least 90 % of the frames never reach the encoder; captions and the keys of every held
    token are those of the plain path."""
    picture = calm(0, 0).frames[0].pixels
    plain, less = make_stream(0)[0], make_stream(0, gate=f"{gate}:skipped=reuse")[0]
    less.adapter = counted = Counter(less.adapter)
    for second in range(24):
        expected, told = (stream.step(still(second, picture)) for stream in (plain, less))
        assert (expected.text, expected.kv_tokens, expected.vision_tokens) == (
            told.text,
            told.kv_tokens,
            told.vision_tokens,
        )
    assert counted.frames <= 0.1 * 24 * 4
    assert_same_state(state_of(plain), state_of(less))


@pytest.mark.parametrize("gate", ["pixel", "grt"])
def test_a_static_stream_that_drops_tells_one_token_a_chunk(gate: str) -> None:
    stream, _, _ = make_stream(0, gate=gate)
    picture = calm(0, 0).frames[0].pixels
    captions = [stream.step(still(second, picture)) for second in range(9)]
    assert [9, *[1] * 7, 9] == [c.vision_tokens for c in captions]  # a whole glance again after 8 s
    assert [2, *[4] * 7, 2] == [c.frames_skipped for c in captions]


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"gate": "pixel"}, [9, 1, 6]),
        ({"gate": "pixel:skipped=reuse"}, [18, 18, 12]),
        ({"compress": "differential:threshold=0.9"}, [10, 2, 7]),
    ],
)
def test_a_picture_of_another_size_is_told_whole(parts: dict[str, Any], told: list[int]) -> None:
    """Grey before and grey after, in 3x3 tokens and in 3x2: nothing is compared over the change."""
    stream, _, _ = make_stream(0, **parts)
    wide, narrow = (np.full((84, width, 3), 90, dtype=np.uint8) for width in (84, 56))
    assert told == [stream.step(still(s, wide if s < 2 else narrow)).vision_tokens for s in range(3)]


def test_the_frame_at_question_time_is_kept() -> None:
    stream, _, _ = make_stream(0, gate="pixel")
    picture = calm(0, 0).frames[0].pixels
    told = [stream.step(still(s, picture), "What now?" if s == 2 else None).vision_tokens for s in range(4)]
    assert [9, 1, 9, 1] == told


@pytest.mark.parametrize("parts", [p for p in LOSSY if "evs" not in p.get("compress", "")], ids=str)
def test_a_scene_cut_is_told_within_its_chunk(parts: dict[str, Any]) -> None:
    """Everything new in second 3: more is told, and more is encoded, than in the still second before."""
    first, second = calm(0, 0).frames[0].pixels, calm(0, 4).frames[0].pixels
    stream, _, _ = make_stream(0, **{**parts, "gate": parts.get("gate", "").replace("tokens_per_second=9,", "")})
    told = [stream.step(still(s, first if s < 3 else second)) for s in range(4)]
    assert told[3].vision_tokens > told[2].vision_tokens or parts.get("compress") in ("stc", "stc:keep=0.4", None)
    assert told[3].frames_skipped < told[2].frames_skipped or not told[2].frames_skipped
    if "encoder_cache" in parts:
        assert float(stream.seen["cache/time"]) >= 3.0


def test_what_does_not_go_together_is_refused_before_the_first_frame() -> None:
    model = crowd.model()
    for parts, error, message in (
        ({"compress": "stc+differential"}, ConfigError, "compressor 'differential' compares whole pictures and 'stc'"),
        ({"gate": "grt", "compress": "evs"}, ConfigError, "compressor 'evs' compares whole pictures and 'grt'"),
        ({"gate": "pixel:skipped=hide"}, ConfigError, "skipped is 'hide'; known: drop, reuse"),
        ({"gate": "none"}, UnknownName, "no gate 'none'; known: curvestream, grt, key-frames, pixel, slow-fast"),
        ({"encoder_cache": "none"}, UnknownName, "no encoder cache 'none'; known: stc"),
    ):
        with pytest.raises(error, match=message):
            model.stream(StreamOptions(**parts))

    class Other:
        family = "other"

    with pytest.raises(ConfigError, match="the family other takes no --compress yet; leave it out"):
        Eye(Other(), StreamOptions(compress="stc"))  # type: ignore[arg-type]


def test_each_family_says_what_it_takes() -> None:
    """Qwen2-VL has no tower for an encoder cache yet; a gate and a compressor that spare nothing change nothing."""
    less = {"gate": "pixel:similarity=1", "compress": "stc:keep=1"}
    whole, told = families.stream("qwen2_vl"), families.stream("qwen2_vl", **less)
    for second in range(3):
        assert whole.step(families.chunk(second)).text == told.step(families.chunk(second)).text
    np.testing.assert_array_equal(whole.rows().pos, told.rows().pos)
    assert families.stream("qwen2_vl", compress="stc:keep=0.5").step(families.chunk(0)).vision_tokens == 3
    for family, parts, name in (
        ("qwen2_vl", {"encoder_cache": "stc"}, "--encoder-cache"),
        ("qwen3_vl", {"gate": "pixel"}, "--gate"),
        ("gemma3", {"compress": "stc"}, "--compress"),
    ):
        with pytest.raises(ConfigError, match=f"the family {family} takes no {name} yet"):
            families.stream(family, **parts)


def test_watch_takes_the_parts(tmp_path: Path) -> None:
    """From the command line's dataclass to the stream: one made-up video, told by fewer tokens."""
    from neverblink.testing import SyntheticSource

    model = Model.from_pretrained(toy_checkpoint(), device="cpu")
    tokens = []
    for parts in ({}, {"gate": "pixel", "encoder_cache": "stc", "compress": "stc:keep=0.5"}):
        source = SyntheticSource(seconds=3, fps=2, width=112, height=84)
        captions = list(model.watch(source, max_tokens_per_second=2, **parts))
        tokens.append(sum(c.vision_tokens for c in captions))
    assert tokens[1] <= tokens[0] / 2
