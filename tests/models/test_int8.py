"""Products in bytes: exactly what their plain twin gives, close to float32, and only where it is meant."""

from __future__ import annotations

import pytest
import torch

from neverblink import Model, SpeakOptions, StreamOptions
from neverblink.errors import ConfigError, ModelError
from neverblink.models.choices import choose_dtype
from neverblink.models.int8 import Int8Linear
from tests.checkpoints import toy_checkpoint
from tests.models import families
from tests.models.test_lean import Seeing, chunk_of


@pytest.mark.parametrize("bias", [True, False])
def test_bytes_are_the_plain_twin(bias: bool) -> None:
    """Scales a token and a channel, whole numbers in between; an outlier in one token leaves the others alone."""
    torch.manual_seed(0)
    stock = torch.nn.Linear(24, 40, bias=bias)
    own = Int8Linear(stock)
    x = torch.randn(2, 3, 24)
    x[0, 1] *= 1000
    x[1, 2] = 0
    with torch.inference_mode():
        weight = own.weight.double() * own.scale.double()[:, None]
        step = x.double().abs().amax(-1, keepdim=True).clamp_min(1e-12) / 127
        twin = (x.double() / step).round() * step @ weight.T + (stock.bias.double() if bias else 0)
        torch.testing.assert_close(own(x).double(), twin, atol=1e-2, rtol=1e-5)
        torch.testing.assert_close(own(x)[0, 0].double(), twin[0, 0], atol=1e-5, rtol=0)
        near = (own(x) - stock(x)).abs().amax(-1) / stock(x).abs().amax(-1).clamp_min(1e-6)
        assert near.max() < 0.03
        assert torch.equal(own(x)[0, :1], own(x[:1, :1])[0])


def test_a_model_in_bytes_is_close_to_the_model() -> None:
    seen = {}
    for dtype in ("float32", "int8"):
        model, seeing = Model.from_pretrained(toy_checkpoint(), device="cpu", dtype=dtype), Seeing()
        options = StreamOptions(speak=SpeakOptions(max_tokens_per_second=1))
        model.stream(options, processor=seeing).step(chunk_of(0))
        seen[dtype] = seeing.seen[0]
    off = (seen["int8"] - seen["float32"]).norm() / seen["float32"].norm()
    assert 0 < off < 0.05
    parts = [type(part) for part in model.adapter.model.get_decoder().layers.modules()]
    assert torch.nn.Linear not in parts
    assert 14 == parts.count(Int8Linear)
    assert isinstance(model.adapter.model.lm_head, Int8Linear)
    assert not any(isinstance(part, Int8Linear) for part in model.adapter.model.model.visual.modules())
    assert torch.float32 == model.adapter.dtype


def test_bytes_are_for_a_cpu() -> None:
    with pytest.raises(ConfigError, match="dtype int8 is for a CPU and the device is mps; use bfloat16"):
        choose_dtype("int8", "mps")
    assert ("dtype", "int8", "asked for") == choose_dtype("int8", "cpu")


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen3_5", "gemma3"])
def test_other_families_in_bytes_are_close_to_themselves(family: str) -> None:
    """No layer of their decoders is left in floats."""
    seen = {}
    for dtype in ("float32", "int8"):
        model, seeing = Model.from_pretrained(families.checkpoint(family), device="cpu", dtype=dtype), Seeing()
        options = StreamOptions(speak=SpeakOptions(max_tokens_per_second=1))
        model.stream(options, processor=seeing).step(chunk_of(0))
        seen[dtype] = seeing.seen[0]
    off = (seen["int8"] - seen["float32"]).norm() / seen["float32"].norm()
    assert 0 < off < 0.2
    assert not any(isinstance(part, torch.nn.Linear) for part in model.adapter.model.get_decoder().layers.modules())


def test_experts_are_not_in_linear_layers() -> None:
    with pytest.raises(ModelError, match=r"dtype int8 knows linear layers only, and .* weights are in none"):
        Model.from_pretrained(families.checkpoint("qwen3_vl_moe"), device="cpu", dtype="int8")
