"""What each compressor keeps, on planted tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from neverblink.economy import State, Tokens, compressors, make
from neverblink.errors import ConfigError, UnknownName
from neverblink.testing import check_compressor_contract

GRID = (4, 5)
N = 20


def pictures(*rows: torch.Tensor) -> Tokens:
    embeds = torch.stack(rows)
    return Tokens(embeds, torch.ones(embeds.shape[:2], dtype=torch.bool), GRID, tuple(map(float, range(len(rows)))))


def still(seed: int = 0) -> torch.Tensor:
    """[20, 16]: a picture of different tokens."""
    return torch.randn(N, 16, generator=torch.Generator().manual_seed(seed))


def plain(seed: int = 0) -> torch.Tensor:
    """[20, 16]: a picture whose tokens are much alike."""
    return torch.ones(N, 16) + 0.01 * still(seed)


def changed(picture: torch.Tensor, *cells: int) -> torch.Tensor:
    picture = picture.clone()
    picture[list(cells)] = -3 * picture[list(cells)].flip(-1) - 1
    return picture


def run(compressor: Any, *rows: torch.Tensor) -> list[list[int]]:
    """Kept cells of each picture, fed one a chunk."""
    state: State = {}
    kept = []
    for row in rows:
        mask, state = compressor(pictures(row), state)
        kept.append(torch.nonzero(mask[0]).flatten().tolist())
    return kept


EVERYTHING = ["stc:keep=1", "differential:threshold=1", "evs:prune=0", "decay:least=1"]


@pytest.mark.parametrize("name", ["stc", "differential", "evs", "decay"])
def test_contract(name: str) -> None:
    check_compressor_contract(lambda: make(compressors, name))


@pytest.mark.parametrize("text", EVERYTHING)
def test_keep_all_keeps_all(text: str) -> None:
    mask, _ = make(compressors, text)(pictures(still(), still(1), still(1), plain()), {})
    assert mask.all()


@pytest.mark.parametrize("name", ["stc:keep=0.25", "differential", "evs", "decay"])
def test_chunks_of_one_picture_are_as_one_chunk_of_many_for_what_has_no_common_budget(name: str) -> None:
    """Cutting the same pictures into other chunks changes nothing (EVS shares one budget within a chunk)."""
    rows = [still(), changed(still(), 3), changed(still(), 3, 7), still(5)]
    one, _ = make(compressors, name)(pictures(*rows), {})
    apart = run(make(compressors, name), *rows)
    same = [torch.nonzero(row).flatten().tolist() for row in one]
    assert (apart == same) is (not name.startswith("evs"))


def test_stc_keeps_a_planted_outlier_and_as_many_as_asked() -> None:
    stc = make(compressors, "stc:keep=0.25")
    kept = run(stc, plain(), changed(plain(), 13))
    assert [5, 5] == [len(cells) for cells in kept]
    assert 13 in kept[1]


def test_stc_does_not_mind_the_order_of_tokens() -> None:
    order = torch.randperm(N, generator=torch.Generator().manual_seed(3))
    stc = make(compressors, "stc:keep=0.3")
    kept = run(stc, still(), still(1))
    moved = run(stc, still()[order], still(1)[order])
    assert [set(k) for k in kept] == [{int(order[i]) for i in m} for m in moved]


def test_stc_memory_is_bounded_and_a_picture_is_scored_before_it_enters() -> None:
    """Against a past of one direction the tokens of another stand out, however many of them the picture holds."""
    stc, state = make(compressors, "stc:keep=0.25,window=3,alpha=1"), {}
    before, other = torch.eye(16)[0].expand(N, 16), torch.eye(16)[1]
    for _ in range(5):
        _, state = stc(pictures(before), state)
    assert (3, 16) == tuple(state["means"].shape)
    mixed = before.clone()
    mixed[5:10] = other
    mask, _ = stc(pictures(mixed), state)
    assert [5, 6, 7, 8, 9] == torch.nonzero(mask[0]).flatten().tolist()
    # Most tokens are new to the past, a few a little less so: had the picture entered first, most would be known.
    crowd = torch.eye(16)[1].expand(N, 16).clone()
    crowd[5:10] = torch.eye(16)[2] + 0.1 * torch.eye(16)[0]
    mask, _ = stc(pictures(crowd), state)
    assert not mask[0, 5:10].any()


def test_differential_tells_only_what_changed_and_the_first_whole() -> None:
    kept = run(make(compressors, "differential:threshold=0.8"), still(), changed(still(), 7), changed(still(), 7))
    assert [list(range(N)), [7], []] == kept


def turned(by: float) -> torch.Tensor:
    """[20, 16]: every token the same, turned by an angle."""
    row = torch.zeros(N, 16)
    row[:, 0], row[:, 1] = torch.cos(torch.tensor(by)), torch.sin(torch.tensor(by))
    return row


@pytest.mark.parametrize("name", ["differential:threshold=0.9", "decay:least=0.3"])
def test_a_slow_drift_is_told_in_the_end(name: str) -> None:
    """Six degrees a picture: never far from the picture before, often far from what was last told."""
    kept = run(make(compressors, name), *(turned(0.1 * i) for i in range(30)))
    times = torch.zeros(N)
    for cells in kept[8:]:
        times[cells] += 1
    assert int(times.min()) >= 3


def test_evs_has_one_budget_for_a_chunk_and_spends_it_where_much_is_new() -> None:
    evs = make(compressors, "evs:prune=0.875")
    _, state = evs(pictures(still()), {})
    busy = changed(still(), *range(10))
    mask, _ = evs(pictures(still(), still(), busy, busy), state)
    assert [0, 0, 10, 0] == mask.sum(1).tolist()
    first, _ = evs(pictures(still(), still()), {})
    assert first[0].all()


def test_decay_halves_the_budget_tells_the_new_and_starts_anew_after_a_cut() -> None:
    decay = make(compressors, "decay:least=0")
    kept = run(decay, still(), still(), changed(still(), 2, 9, 17), *[changed(still(), 2, 9, 17)] * 6)
    assert [20, 10, 5, 2, 1, 1, 1, 1, 1] == [len(cells) for cells in kept]
    assert {2, 9, 17} <= set(kept[2])
    static = run(decay, *[still()] * 12)
    assert sum(map(len, static)) <= 2 * N + 12  # one token a picture at least
    assert N == len(run(decay, still(), still(), still(), still(9))[-1])


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("blur", UnknownName, "no compressor 'blur'; known: decay, differential, evs, stc"),
        ("stc:keeep=1", ConfigError, "has no option 'keeep=1'; it has: keep, alpha, window"),
        ("stc:keep", ConfigError, "has no option 'keep'; it has"),
        ("stc:keep=2", ConfigError, "StcPruner: keep is 2; it must be from 0 to 1"),
        ("stc:keep=much", ConfigError, "StcPruner: keep is 'much'; it must be from 0 to 1"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as raised:
        make(compressors, text)
    assert "\n" not in str(raised.value)
