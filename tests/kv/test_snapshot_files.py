"""Snapshots as files: what a process keeps of writing thousands of them, and types that numpy does not know."""

import ctypes
from pathlib import Path

import pytest
import torch

from tests.kv.test_invariants import assert_same, make_stream, play, state
from tests.kv.test_loops import PLOT


def test_nothing_stays_of_a_snapshot_that_was_written(tmp_path: Path) -> None:
    """A server writes one every few seconds, each of another length. safetensors.torch leaves a ctypes type behind for
    each length it meets: 14 MB an hour with three streams."""
    stream, _, forced = make_stream(PLOT)
    types: list[int] = []
    for second in range(8):
        play(PLOT, stream, forced, second, second + 1)
        stream.save(tmp_path / "s.safetensors")
        types.append(len(ctypes._pointer_type_cache))  # type: ignore[attr-defined]
    assert types[0] == types[-1]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_snapshot_is_the_same_stream_in_every_type(tmp_path: Path, dtype: str) -> None:
    (stream, _, forced), (other, _, _) = make_stream(PLOT, dtype), make_stream(PLOT, dtype)
    play(PLOT, stream, forced, 0, 3)
    seen = {"one": torch.tensor(1.5, dtype=torch.bfloat16), "small": torch.ones(2, 3).to(torch.float8_e5m2)}
    stream.seen = dict(seen)  # what a plug-in remembers may be of any type
    stream.save(tmp_path / "s.safetensors")
    other.restore(tmp_path / "s.safetensors")
    assert {n: (v.dtype, v.shape) for n, v in seen.items()} == {n: (v.dtype, v.shape) for n, v in other.seen.items()}
    assert other.arena.k[0].dtype == getattr(torch, dtype)
    assert_same(state(stream), state(other))
