"""STC-Cacher against the stock towers: windowed (Qwen2.5-VL) and plain (SigLIP)."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from neverblink import Model
from neverblink.economy import State
from neverblink.vision.cacher import StcCacher
from neverblink.vision.towers import QwenTower, SiglipTower, Windows, windowed
from tests.checkpoints import toy_checkpoint

GRID = (10, 6)  # windows of 4x4 patches: whole ones, and narrow ones at two edges


@cache
def qwen() -> Any:
    return Model.from_pretrained(toy_checkpoint(), device="cpu", dtype="float64").adapter.model.model.visual


@cache
def siglip() -> Any:
    from transformers import SiglipVisionConfig, SiglipVisionModel

    config = SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=56,
        patch_size=14,
        vision_use_head=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SiglipVisionModel(config).double().eval()


def towers(name: str) -> tuple[Any, Any]:
    """A tower, and its stock forward."""
    if name == "qwen":
        grid = torch.tensor([[1, *GRID]])
        return QwenTower(qwen()), lambda patches: qwen()(patches, grid_thw=grid).pooler_output
    return SiglipTower(siglip()), lambda pixels: siglip()(pixel_values=pixels[None]).last_hidden_state[0]


def picture(name: str, seed: int = 0) -> torch.Tensor:
    shape = (GRID[0] * GRID[1], 3 * 2 * 14 * 14) if name == "qwen" else (3, 56, 56)
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def changed(name: str, by: float = 1.0) -> torch.Tensor:
    """The picture with one patch in each of two places changed."""
    other = picture(name).clone()
    if name == "qwen":
        other[[9, 40]] += by * picture(name, 5)[[9, 40]]
    else:
        other[:, 14:28, 14:28] += by * picture(name, 5)[:, 14:28, 14:28]
    return other


def walk(cacher: StcCacher, tower: Any, *pictures: torch.Tensor, every: float = 0.4) -> tuple[list[Any], State]:
    state: State = {}
    out = []
    with torch.inference_mode():
        for i, one in enumerate(pictures):
            told, state = cacher(tower, one, GRID, i * every, state)
            out.append(told)
    return out, state


@pytest.mark.parametrize("name", ["qwen", "siglip"])
def test_references_and_recomputing_all_are_the_stock_forward(name: str) -> None:
    tower, stock = towers(name)
    pictures = [picture(name), changed(name), picture(name, 3), changed(name)]
    for cacher in (StcCacher(every=1), StcCacher(recompute=1, cut=-1, every=100)):
        told, _ = walk(cacher, tower, *pictures)
        for one, ours in zip(pictures, told, strict=True):
            with torch.inference_mode():
                torch.testing.assert_close(ours, stock(one), atol=1e-10, rtol=0)


@pytest.mark.parametrize("name", ["qwen", "siglip"])
@pytest.mark.parametrize("recompute", [0.0, 0.3])
def test_the_same_picture_is_exact_at_any_ratio(name: str, recompute: float) -> None:
    tower, stock = towers(name)
    told, state = walk(StcCacher(recompute=recompute, every=9), tower, *[picture(name)] * 3)
    assert int(state["used"]) == 3
    with torch.inference_mode():
        torch.testing.assert_close(told[2], stock(picture(name)), atol=1e-10, rtol=0)


@pytest.mark.parametrize("name", ["qwen", "siglip"])
def test_the_error_falls_with_the_ratio(name: str) -> None:
    tower, stock = towers(name)
    errors = []
    for recompute in (0.0, 0.1, 0.5, 0.9):
        told, _ = walk(StcCacher(recompute=recompute), tower, picture(name), changed(name))
        with torch.inference_mode():
            errors.append(float((told[1] - stock(changed(name))).square().mean()))
    assert errors == sorted(errors, reverse=True)
    assert errors[1] < 0.7 * errors[0]


def test_what_changed_is_what_is_recomputed() -> None:
    """The MLP runs on as many rows as the ratio says, and the changed patches are among them in the first layer."""
    tower, _ = towers("qwen")
    seen: list[torch.Tensor] = []

    class Watched(QwenTower):
        def attend(self, layer: int, normed: torch.Tensor, rows: torch.Tensor, *rest: Any) -> torch.Tensor:
            seen.append(rows)
            return super().attend(layer, normed, rows, *rest)

    watched = Watched(qwen())
    walk(StcCacher(recompute=0.1), watched, picture("qwen"), changed("qwen"))
    _, place = tower.begin(picture("qwen"), GRID)
    layers = tower.layers
    assert [6] * layers == [len(rows) for rows in seen[layers:]]
    # Rows stand in the order of the windows; patches 9 and 40 are in merged tokens 2 and 10.
    tokens = {int(place.back.argsort()[row // 4]) for row in seen[layers].tolist()}
    assert {2, 10} <= tokens


def test_windows_hide_what_is_outside() -> None:
    """Against a dense mask, with ragged windows and any selection of rows."""
    ends = torch.tensor([0, 3, 3, 8, 12])
    draw = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(12, 8, generator=draw, dtype=torch.float64) for _ in range(3))
    rows = torch.tensor([1, 2, 5, 11])
    window = torch.bucketize(torch.arange(12), torch.tensor([2, 7, 11]))
    see = window[rows][:, None] == window[None]
    heads = [part.view(-1, 2, 4).transpose(0, 1) for part in (q[rows], k, v)]
    weights = (heads[0] @ heads[1].transpose(1, 2) * 0.5).masked_fill(~see, -torch.inf).softmax(-1)
    expected = (weights @ heads[2]).transpose(0, 1).flatten(1)
    torch.testing.assert_close(windowed(q[rows], rows, k, v, Windows.of(ends), 2, 0.5), expected)


def test_a_reference_is_taken_anew() -> None:
    """Every N glances, when it is old, after a cut, and for another size."""
    tower, stock = towers("qwen")

    def references(cacher: StcCacher, *pictures: torch.Tensor, every: float = 0.4) -> list[int]:
        state: State = {}
        taken = []
        with torch.inference_mode():
            for i, one in enumerate(pictures):
                grid = GRID if len(one) == 60 else (4, 6)
                _, after = cacher(tower, one, grid, i * every, state)
                if not state or after["start"] is not state["start"]:
                    taken.append(i)
                state = after
        return taken

    same = [picture("qwen")] * 9
    assert [0, 4, 8] == references(StcCacher(), *same)
    assert [0, 3, 6] == references(StcCacher(every=99, max_age=1.2), *same)
    assert [0, 2] == references(StcCacher(every=99), *same[:2], picture("qwen", 8), picture("qwen", 8))
    assert [0, 2] == references(StcCacher(every=99), *same[:2], picture("qwen")[:24], picture("qwen")[:24])
    del stock
