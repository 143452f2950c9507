"""Attention of a tower's windows in one call, beside the stock one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from neverblink.models.windows import WindowAttention, in_one_call


def stock(dtype: torch.dtype, kind: str = "sdpa") -> Any:
    from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLVisionAttention

    torch.manual_seed(0)
    config = Qwen2_5_VLVisionConfig(hidden_size=32, num_heads=4, attn_implementation=kind)
    config._attn_implementation = kind
    return Qwen2_5_VLVisionAttention(config).to(dtype).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sizes", [[6], [4, 4, 4], [1, 1], [4, 5, 3]])
def test_one_call_is_the_stock_attention(sizes: list[int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of one size in one call, others as they were."""
    theirs = stock(dtype)
    ours, count = WindowAttention(theirs), sum(sizes)
    x = torch.randn(count, 32, dtype=dtype)
    angles = torch.rand(count, 8) * 6
    ends = torch.tensor([0, *sizes]).cumsum(0)
    expected = theirs(x, ends, position_embeddings=(angles.cos(), angles.sin()))
    if len(set(sizes)) == 1:
        monkeypatch.setattr(theirs, "forward", None)
    close = {torch.float32: 1e-6, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(
        ours(x, ends, position_embeddings=(angles.cos(), angles.sin())), expected, atol=close, rtol=close
    )


def test_another_attention_implementation_is_the_stock_one(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = stock(torch.float32, "eager")
    monkeypatch.setattr(theirs, "forward", lambda *args, **more: "the stock one")
    assert WindowAttention(theirs)(torch.zeros(2, 32), torch.tensor([0, 1, 2]), (None, None)) == "the stock one"


def test_weights_keep_their_names() -> None:
    class Tower(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = torch.nn.ModuleList([torch.nn.ModuleDict()])
            self.blocks[0].attn = stock(torch.float32)

    tower = Tower()
    before = dict(tower.named_parameters())
    in_one_call(tower)
    in_one_call(tower)
    after = dict(tower.named_parameters())
    assert list(before) == list(after)
    assert all(before[name] is after[name] for name in before)
    assert isinstance(tower.blocks[0].attn, WindowAttention)
