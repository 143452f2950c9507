"""Products by oneDNN, beside the stock linear layer and float64."""

from __future__ import annotations

import pytest
import torch

from neverblink import Model
from neverblink.models import products
from neverblink.models.products import Linear, quicken
from tests.checkpoints import toy_checkpoint


def layer(inner: int, outer: int, bias: bool = True) -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(inner, outer, bias=bias).eval()


class Counting:
    """Stands for the operator and counts its calls."""

    def __init__(self) -> None:
        self.calls, self._real = 0, torch.ops.mkldnn._linear_pointwise

    def __call__(self, *args: object) -> torch.Tensor:
        self.calls += 1
        out: torch.Tensor = self._real(*args)
        return out


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Counting:
    found = Counting()
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", found)
    return found


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 700), (2, 700), (300, 700), (2, 150, 700)])
def test_the_product_is_the_stock_one(shape: tuple[int, ...], bias: bool, counting: Counting) -> None:
    """Large and small, of whole batches, with rows that do not stand side by side."""
    stock = layer(700, 900, bias)
    ours, x = Linear(stock), torch.randn(*shape)
    truth = stock.double()(x.double())
    stock.float()
    with torch.inference_mode():
        torch.testing.assert_close(ours(x).double(), truth, atol=2e-5, rtol=0)
        strided = x.transpose(-1, -2).contiguous().transpose(-1, -2)
        torch.testing.assert_close(ours(strided).double(), truth, atol=2e-5, rtol=0)
    assert counting.calls == (2 if shape[0] > 1 else 0)


def test_gradients_and_other_dtypes_take_the_stock_product(counting: Counting) -> None:
    stock = layer(700, 900)
    ours, x = Linear(stock), torch.randn(300, 700)
    ours(x).sum().backward()
    assert stock.weight.grad is not None
    with torch.no_grad():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert ours(x).dtype == torch.bfloat16
        ours.double()(x.double())
        assert counting.calls == 0
        ours.float()(x)
        assert counting.calls == 1


@pytest.mark.parametrize("slow", [True, False])
def test_a_model_keeps_its_weights_and_their_names(slow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "stock_is_slow", lambda: slow)
    model = torch.nn.Sequential(layer(4, 5), torch.nn.ModuleDict({"deep": layer(5, 6, bias=False)}))
    before = dict(model.named_parameters())
    quicken(model)
    quicken(model)
    after = dict(model.named_parameters())
    assert list(before) == list(after)
    assert all(before[name] is after[name] for name in before)
    assert [slow, slow] == [isinstance(x, Linear) for x in model.modules() if isinstance(x, torch.nn.Linear)]


def test_an_adapter_is_quickened_where_it_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    for slow in (True, False):
        monkeypatch.setattr(products, "stock_is_slow", lambda slow=slow: slow)
        adapter = Model.from_pretrained(toy_checkpoint(), device="cpu", dtype="float32").adapter
        heads = adapter.model.lm_head, adapter.model.model.visual.merger.mlp[0]
        assert [slow] * 2 == [isinstance(part, Linear) for part in heads]
        assert adapter.model.lm_head.weight is adapter.model.model.language_model.embed_tokens.weight or not (
            adapter.model.config.tie_word_embeddings
        )
