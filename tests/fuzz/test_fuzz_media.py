"""Any bytes into the decode child, by way of the real source: small videos of twelve containers, edited anywhere.

The 20,000 inputs of the corpus (drill S4) are made blindly; here Hypothesis finds the smallest edit that breaks."""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from hypothesis import example, given
from hypothesis import strategies as st

from neverblink.drills.corpus import HANG_SECONDS, SEEDS, write_seeds
from neverblink.errors import SourceError
from neverblink.sources import SourceOptions, open_source
from tests.properties import tries

EDITS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=12), st.booleans()), max_size=5)


@cache
def folder() -> Path:
    return Path(mkdtemp(prefix="fuzz-media-"))


@cache
def whole() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in write_seeds(folder() / "seeds")}


def edited(data: bytes, edits: list[tuple[float, bytes, bool]]) -> bytes:
    """Each edit puts bytes at a share of the length, in place of what stood there or in between."""
    changed = bytearray(data)
    for share, piece, inserted in edits:
        at = int(share * len(changed))
        changed[at : at + (0 if inserted else len(piece))] = piece
    return bytes(changed)


@tries(25)
@given(st.sampled_from(sorted(SEEDS)), EDITS, st.floats(0, 1))
@example("a.mp4", [], 1.0)
@example("a.mp4", [], 0.0)
def test_any_bytes_are_played_or_refused_in_one_line(name: str, edits: list[tuple[float, bytes, bool]], kept: float):
    """Times only go up, an error is one of ours and one line long, and nothing takes longer than a few seconds."""
    data = edited(whole()[name], edits)
    data = data[: round(kept * len(data))]
    path = folder() / name
    path.write_bytes(data)
    times: list[float] = []
    said = f"{path}: played"
    began = time.monotonic()
    try:
        with open_source(str(path), SourceOptions(fps=4, end=8.0)) as source:
            times += [frame.time for frame in source.frames()]
    except SourceError as error:
        said = str(error)
    assert str(path) in said
    assert "\n" not in said
    assert time.monotonic() - began < HANG_SECONDS
    assert times == sorted(set(times))
    assert times or data != whole()[name]
