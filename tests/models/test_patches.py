"""The patch embedding of whole bytes, beside the product of normalised floats and beside float64."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from neverblink import Model
from neverblink.models import patches
from neverblink.models.patches import BytePatches, LinearPatches, multiplies_bytes
from neverblink.vision.pixels import PixelOptions, cut, cut_frames, normalise, uncut
from tests.checkpoints import toy_checkpoint

PIXELS = PixelOptions(patch=8, mean=(0.6, 0.2, 0.05), std=(0.25, 0.3, 0.1))
WIDTH = 3 * 2 * 8 * 8


@pytest.fixture(autouse=True)
def exact_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU without such instructions the sums come from whole numbers, so that this file can fail there too."""
    if not multiplies_bytes():
        monkeypatch.setattr(torch, "_int_mm", lambda a, b: (a.long() @ b.long()).int())


def weights() -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of very different size, one with a single huge value, one of zeros."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(24, WIDTH, generator=generator) * torch.logspace(-4, 2, 24)[:, None]
    weight[3, 7] = 900.0
    weight[5] = 0.0
    return weight, torch.randn(24, generator=generator)


def pictures() -> torch.Tensor:
    """Patches [n, values] of noise, black, white, and one bright value."""
    noise = torch.randint(0, 256, (9, WIDTH), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    flat = torch.stack([torch.zeros(WIDTH), torch.full((WIDTH,), 255.0)]).to(torch.uint8)
    single = torch.zeros(1, WIDTH, dtype=torch.uint8)
    single[0, 200] = 255
    return torch.cat([noise, flat, single])


def in_float64(seen: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    b = seen.double().view(len(seen), 3, -1)
    mean, std = (torch.tensor(x, dtype=torch.float64)[:, None] for x in (PIXELS.mean, PIXELS.std))
    return ((b / 255 - mean) / std).flatten(1) @ weight.double().T + bias.double()


def test_bytes_lose_no_more_than_the_rounding_of_their_weights() -> None:
    """Half a step of 24 bits of each weight, and the last rounding to float32; floats lose about as much, on one CPU
    less and on another more."""
    weight, bias = weights()
    seen = pictures()
    truth = in_float64(seen, weight, bias)
    std, mean = (torch.tensor(x, dtype=torch.float64)[:, None] * 255 for x in (PIXELS.std, PIXELS.mean))
    step = (weight.double().view(len(weight), 3, -1) / std).abs().amax((1, 2)) / (127 * 256**2)
    far = (seen.double().view(len(seen), 3, -1) - mean).abs().sum((1, 2))
    lost = (BytePatches(weight, bias, PIXELS)(seen) - truth).abs()
    assert bool((lost <= step * far[:, None] / 2 + truth.abs() * 2**-24 + 1e-12).all())
    floats = (torch.nn.functional.linear(normalise(seen, PIXELS), weight, bias) - truth).abs()
    size = weight.abs().amax(1) * WIDTH**0.5 + bias.abs()
    assert float((lost / size).mean()) < 1e-7
    assert float((floats / size).mean()) < 1e-6  # the oracle itself


def test_a_patch_does_not_see_who_else_is_there() -> None:
    """To the last bit, so packed streams see what lone ones see."""
    made, seen = BytePatches(*weights(), PIXELS), pictures()
    together = made(seen)
    assert all(torch.equal(together[i : i + 1], made(seen[i : i + 1])) for i in range(len(seen)))


def test_new_weights_are_seen_at_once() -> None:
    """A step of training or a merge changes them in place, or puts another tensor there."""
    weight, bias = weights()
    proj = torch.nn.Linear(WIDTH, 24)
    embedding = LinearPatches(SimpleNamespace(proj=proj, training=False), PIXELS)  # type: ignore[arg-type]
    seen = pictures()
    with torch.no_grad():
        embedding(seen)
        proj.weight.copy_(weight)
        proj.bias.copy_(bias)
        assert torch.equal(embedding(seen), BytePatches(weight, bias, PIXELS)(seen))
        proj.weight = torch.nn.Parameter(2 * weight)
        assert torch.equal(embedding(seen), BytePatches(2 * weight, bias, PIXELS)(seen))


def frames(seed: int, count: int = 4) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (60, 90, 3), dtype=np.uint8) for _ in range(count)]


@pytest.mark.parametrize("fast", [True, False])
def test_the_tower_sees_the_same_from_bytes(monkeypatch: pytest.MonkeyPatch, fast: bool) -> None:
    """Whether the CPU multiplies bytes or not; the oracle is the tower on normalised floats."""
    adapter = Model.from_pretrained(toy_checkpoint(), device="cpu", dtype="float32").adapter
    monkeypatch.setattr(patches, "multiplies_bytes", lambda: fast)
    with torch.inference_mode():
        assert adapter._visual.patch_embed.takes_bytes is fast
        seen, grid = cut_frames(frames(0), adapter.pixels)
        expected = adapter.encode_patches(normalise(seen, adapter.pixels), torch.tensor([grid]))
        torch.testing.assert_close(adapter.encode(frames(0), 2.0).embeds, expected, atol=2e-5, rtol=1e-5)


def test_bytes_are_for_float32_without_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches, "multiplies_bytes", lambda: True)
    embedding = Model.from_pretrained(toy_checkpoint(), device="cpu", dtype="float32").adapter._visual.patch_embed
    assert not embedding.takes_bytes  # gradients are on
    with torch.no_grad():
        assert embedding.takes_bytes
        assert not embedding.train().takes_bytes
        assert not embedding.eval().to(torch.bfloat16).takes_bytes


@pytest.mark.parametrize(("patch", "merge", "frames"), [(8, 2, 2), (4, 4, 6), (16, 1, 4)])
def test_what_is_cut_can_be_put_together_again(patch: int, merge: int, frames: int):
    options = PixelOptions(patch=patch, merge=merge)
    stack = torch.randint(0, 256, (frames, 3, 32, 64), dtype=torch.uint8)
    patches, grid = cut(stack, options)
    assert torch.equal(stack, uncut(patches, grid, options))
