"""Drills that need no server, held at a small scale: they must not rot between two publications."""

from pathlib import Path

import pytest

from neverblink.drills import drills
from neverblink.drills.engine import found_in_soak
from neverblink.drills.loops import longest_cycle, repeated


@pytest.mark.parametrize(("key", "scale"), [("R11", 0.012), ("R14d", 0.1), ("S10", 1.0), ("S11", 0.02)])
def test_a_drill_is_held(key: str, scale: float, tmp_path: Path) -> None:
    finding = drills[key].run(tmp_path, scale)
    assert finding.held, finding.figure
    assert finding.measured


def test_a_soak_that_grows_is_not_held() -> None:
    """R9 is read from a line of `bench soak`: each of its three promises alone decides."""
    good = {
        "chunks": 100_000,
        "kv_budget": 1415,
        "kv_tokens_max": 1029,
        "kv_within_budget_at_every_step": True,
        "rss_mb_per_10k_chunks": 0.8,
        "growth_paired": 1.01,
        "growth_cpu": 1.01,
        "growth_wall": 1.3,
    }
    assert found_in_soak(good).held
    for wrong in ({"kv_within_budget_at_every_step": False}, {"rss_mb_per_10k_chunks": 1.2}, {"growth_paired": 1.03}):
        assert not found_in_soak({**good, **wrong}).held


def test_repetition_is_counted_as_a_plain_count_does() -> None:
    import numpy as np

    ids = np.array([1, 2, 3] * 120)
    assert [1 - 3 / 157] * 2 == pytest.approx(repeated(ids))
    assert 360 == longest_cycle(ids)
    assert 0 == longest_cycle(np.arange(300))
    ids[200] = 9
    assert 200 == longest_cycle(ids)
