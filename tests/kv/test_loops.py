"""A commentary that only repeats itself is forgotten; honest commentary is not touched."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neverblink.arcade.sport import sports
from neverblink.cli import main
from neverblink.drills.loops import longest_cycle
from neverblink.errors import ConfigError
from neverblink.kv.loops import CYCLES, period
from neverblink.model import Model
from neverblink.options import StreamOptions
from neverblink.outputs.base import Recorder
from neverblink.training.data import game_stream
from neverblink.types import Kind
from tests.kv.test_invariants import DTYPES, make_stream, play, poison
from tests.properties import tries
from tests.strategies import END, Plot, Second

LOOP = 24
PLOT = Plot(
    seconds=tuple(Second((56, 56), 2, (40, 41, 42, END), None, False) for _ in range(24)),
    policy="streaming",
    policy_options={"sink_tokens": 4, "text_window": 30, "vision_seconds": 3.0},
    positions="contiguous",
    rebase_at=4096.0,
    query_in="system",
    previous_text="It began well.",
    temperature=0.0,
    seed=3,
)


def plainly(ids: list[int]) -> int:
    """The cycle found by trying to rebuild the whole from its beginning."""
    for size in range(1, len(ids) // CYCLES + 1):
        if (ids[:size] * len(ids))[: len(ids)] == ids:
            return size
    return 0


@tries(300)
@given(cycle=st.lists(st.integers(0, 3), min_size=1, max_size=9), length=st.integers(1, 60), flaw=st.integers(0, 120))
def test_a_cycle_is_found_as_a_plain_search_finds_it(cycle: list[int], length: int, flaw: int) -> None:
    ids = (cycle * 60)[:length]
    if flaw < length:
        ids[flaw] = 7
    assert plainly(ids) == period(np.array(ids))


@pytest.mark.parametrize(
    ("policy", "positions"), [*product(("streaming", "recompute"), ("contiguous", "native")), ("reread", "contiguous")]
)
def test_a_loop_is_forgotten_and_every_token_still_sees_what_is_held(policy: str, positions: str) -> None:
    """The same line every second until the guard fires: only the opening is left, and the stream equals its twin."""
    plot = replace(PLOT, policy=policy, positions=positions)
    stream, watched, forced = make_stream(plot, twin=True, loop_tokens=LOOP)
    opening = stream.rows().ids[stream.rows().turns < 0].tolist()
    fired = []
    for i in range(len(plot.seconds)):
        poison(stream)
        (caption,) = play(plot, stream, forced, i, i + 1)
        rows = stream.rows()
        if caption.forgot:
            assert opening == rows.ids[: len(opening)].tolist(), "what was given at the start stays"
            assert int(Kind.PREVIOUS) in rows.kinds[: len(opening)]
            fired.append(i)
            assert caption.forgot >= LOOP
            assert [i] == np.unique(rows.turns[len(opening) :]).tolist()
    # Three words a second, the newest second is not told yet when the guard looks: 8 seconds, and again 8 after each.
    assert [LOOP // 3, 2 * LOOP // 3] == fired
    assert watched.worst < DTYPES["float32"]
    assert stream.turn == len(plot.seconds)


def test_a_guard_that_does_not_fire_changes_nothing() -> None:
    """Off, or on and never needed: the same tokens from the same rows."""
    said = []
    varied = tuple(replace(s, said=(40 + i, 41, 42, END)) for i, s in enumerate(PLOT.seconds))
    for loop_tokens in (0, LOOP):
        stream, _, forced = make_stream(replace(PLOT, seconds=varied), loop_tokens=loop_tokens)
        captions = play(replace(PLOT, seconds=varied), stream, forced)
        assert not any(caption.forgot for caption in captions)
        said.append(([c.text for c in captions], stream.rows().ids.tolist(), stream.ask("What now?")))
    assert said[0] == said[1]
    stream, _, forced = make_stream(PLOT, loop_tokens=0)
    assert not any(caption.forgot for caption in play(PLOT, stream, forced))


def test_a_loop_that_spans_a_snapshot_is_found_all_the_same(tmp_path: Path) -> None:
    """What it has said is read off the rows, so a restart does not begin to count anew."""
    stream, _, forced = make_stream(PLOT, loop_tokens=LOOP)
    play(PLOT, stream, forced, 0, 6)
    stream.save(tmp_path / "s.safetensors")
    fresh, _, again = make_stream(PLOT, loop_tokens=LOOP)
    fresh.restore(tmp_path / "s.safetensors")
    expected = [c.forgot for c in play(PLOT, stream, forced, 6, 10)]
    assert any(expected)
    assert expected == [c.forgot for c in play(PLOT, fresh, again, 6, 10)]


def test_silence_is_no_loop() -> None:
    """A stream that says nothing for minutes repeats nothing, also while all its turns are held."""
    stream, _, _ = make_stream(PLOT)
    quiet = Second((56, 56), 2, (*stream.script.silence_ids, END), None, False)
    plot = replace(PLOT, seconds=(quiet,) * 30, policy="full", policy_options={"kv_budget": 4000})
    stream, _, forced = make_stream(plot, loop_tokens=LOOP)
    assert len(stream.script.silence_ids) * 30 > LOOP
    assert not any(caption.forgot for caption in play(plot, stream, forced))


def test_honest_commentary_is_far_from_the_threshold() -> None:
    """What training writes of a minute of every game: the longest cycle is less than half of what the guard needs."""
    encode = Model.from_pretrained("bundled").script().encode
    for name in sports:
        seconds = islice(game_stream(name, 5, fps=1), 60)
        said = [token for second in seconds if second.text for token in encode(second.text)]
        assert longest_cycle(np.array(said)) < StreamOptions().loop_tokens / 2, name


def test_the_event_comes_before_the_caption() -> None:
    from neverblink.testing import make_caption

    first, second = Recorder("m").caption(make_caption(3.0, "Left hits.", forgot=160))
    assert ("drop", "caption") == (first.type, second.type)
    assert "its last 160 tokens are forgotten" in first.text
    assert (0, 1) == (first.seq, second.seq)


def test_the_option_is_checked_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="loop_tokens 3 must be 16 or more, or 0"):
        StreamOptions(loop_tokens=3)
    for command in ("watch", "serve"):
        assert main([command, "--help"]) == 0
        words = " ".join(capsys.readouterr().out.split())
        assert f"repeat themselves; 0 never. [default: {StreamOptions().loop_tokens}]" in words
