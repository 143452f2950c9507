"""Every family has a row in the bench of latency, from a toy that the command line makes."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from neverblink.bench.floor import Rates
from neverblink.bench.latency import load, run
from neverblink.bench.latency_figures import Workload
from neverblink.errors import UnknownName
from neverblink.training.toys import RECIPES

WINDOWS = {"sink_tokens": 8, "text_window": 8, "vision_seconds": 2.0}


def named(model: str) -> argparse.Namespace:
    none = dict.fromkeys(("shape", "random_weights", "layers", "dtype"))
    return argparse.Namespace(model=model, device="cpu", size=(96, 64), **none)


@pytest.mark.parametrize("family", RECIPES)
def test_every_family_has_a_row(family: str, tmp_path: Path) -> None:
    """Four seconds of streaming: what was fed and held is counted, and vision has its floor too."""
    model = load(named(f"toy:{family}"), tmp_path)
    work = Workload(4, fps=2.0, size=(96, 64), tokens=3, windows=WINDOWS, ask_every=2.0)
    [(line, measured)] = run(model, ["streaming"], work, Rates(1e9, 1e10))
    assert (f"toy:{family}", None, 2, 4) == (line["model"], line["ended"], line["questions"], len(measured.steps))
    adapter = model.adapter
    assert 0 < line["vision_tokens_per_chunk"] <= adapter.max_vision_tokens(2)
    row = 2 * adapter.layers * adapter.kv_heads * adapter.head_dim * 4
    assert line["kv_bytes"] == line["kv_tokens_max"] * row
    assert line["floor_ms_vision"] > 0


def test_an_unknown_toy_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="no toy of family 'mine'; known: qwen2_vl, "):
        load(named("toy:mine"), tmp_path)
