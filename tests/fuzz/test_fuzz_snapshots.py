"""Snapshots that somebody or something has changed: one clear error, or the same memory; never another one."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from neverblink.errors import SnapshotError
from neverblink.kv import snapshot
from tests.kv.test_invariants import assert_same, make_stream, play, state
from tests.kv.test_loops import PLOT
from tests.properties import tries

QUICK = tries(60)
JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just([]), st.just({}), st.just(2**70)
)


@cache
def saved() -> tuple[bytes, Any, Any]:
    """A snapshot's bytes, the stream that wrote it, and a fresh one of its kind."""
    stream, _, forced = make_stream(PLOT)
    play(PLOT, stream, forced, 0, 6)
    path = Path(mkdtemp(prefix="neverblink-fuzz-")) / "s.safetensors"
    stream.save(path)
    return path.read_bytes(), stream, make_stream(PLOT)[0]


def restore(change: Callable[[Path], None]) -> str:
    """What comes of restoring a changed snapshot: the error's line, or "" where the memory is the right one."""
    good, stream, fresh = saved()
    path = Path(mkdtemp(prefix="neverblink-fuzz-")) / "s.safetensors"
    path.write_bytes(good)
    change(path)
    before, error = state(fresh), refusal(lambda: fresh.restore(path))
    assert "\n" not in error
    assert_same(before if error else state(stream), state(fresh))
    return error


def refusal(work: Callable[[], None]) -> str:
    """The text of the SnapshotError that it raises; "" where it raises none."""
    try:
        work()
    except SnapshotError as error:
        return str(error)
    return ""


@QUICK
@given(data=st.data())
def test_a_changed_byte_is_an_error_or_changes_nothing(data: st.DataObject) -> None:
    good = saved()[0]
    head = int.from_bytes(good[:8], "little") + 8
    at = data.draw(st.one_of(st.integers(0, head - 1), st.integers(0, len(good) - 1)))
    flip = data.draw(st.integers(1, 255))
    restore(lambda path: path.write_bytes(good[:at] + bytes([good[at] ^ flip]) + good[at + 1 :]) and None)


@QUICK
@given(cut=st.integers(0, 10**9), more=st.binary(max_size=20))
def test_a_cut_or_longer_file_is_an_error(cut: int, more: bytes) -> None:
    good = saved()[0]
    kept = good[: cut % (len(good) + 1)] + more
    if kept != good:
        assert restore(lambda path: path.write_bytes(kept) and None)


@QUICK
@given(junk=st.binary(max_size=300))
@example(b"\xff" * 8)
@example((10**6).to_bytes(8, "little") + b"{")
@example((2).to_bytes(8, "little") + b"{}")
def test_junk_is_an_error(junk: bytes) -> None:
    assert restore(lambda path: path.write_bytes(junk) and None)


def rewrite(path: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> None:
    """Change head and tensors, with a checksum that is right again: what malice can do and accident cannot."""
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as file:
        head = json.loads(file.metadata()["neverblink"])
    tensors = load_file(path)
    head.pop("crc32")
    change(head, tensors)
    head["crc32"] = snapshot._checksum(tensors, head)
    save_file(tensors, path, metadata={"neverblink": json.dumps(head)})


@QUICK
@given(data=st.data())
def test_a_head_with_a_right_checksum_is_still_checked(data: st.DataObject) -> None:
    """Every number that a stream's memory is addressed by."""
    name = data.draw(
        st.sampled_from(["n", "m", "anchors", "next_pos", "next_serial", "turn", "end", "state", "identity"])
    )
    value = data.draw(JUNK)

    def change(head: dict[str, Any], tensors: dict[str, Any]) -> None:
        (head["state"] if name in head["state"] else head)[name] = value

    good = saved()[0]
    path = Path(mkdtemp(prefix="neverblink-fuzz-")) / "s.safetensors"
    path.write_bytes(good)
    rewrite(path, change)
    stream, _, forced = make_stream(PLOT)
    if refusal(lambda: stream.restore(path)):
        return
    assert stream.table.n <= stream.table.m <= stream.budget
    play(PLOT, stream, forced, 6, 7)  # whatever it was given holds together


@pytest.mark.parametrize(
    ("column", "value"), [("kinds", 99), ("ids", -5), ("ids", 10**7), ("cells", 10**6), ("adv", 1e30)]
)
def test_columns_with_a_right_checksum_are_still_checked(tmp_path: Path, column: str, value: float) -> None:
    path = tmp_path / "s.safetensors"
    path.write_bytes(saved()[0])

    def change(head: dict[str, Any], tensors: dict[str, Any]) -> None:
        tensors[f"table.{column}"][-1] = value

    rewrite(path, change)
    stream, _, _ = make_stream(PLOT)
    with pytest.raises(SnapshotError, match="the snapshot is damaged"):
        stream.restore(path)
