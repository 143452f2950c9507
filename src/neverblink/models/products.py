"""Float32 products of a CPU by oneDNN where the stock library does badly.

torch multiplies float32 with MKL, which takes its AVX2 code on AMD processors: 90 of the 240 GFLOP/s that oneDNN, which
is in every build of torch too, gets out of the same core (Zen 5). Both are float32 throughout; sums are in another
order. Only for inference: the operator has no gradient.
"""

from __future__ import annotations

from functools import cache

import torch
from torch.nn.functional import linear

WORTH = 1_200_000  # multiplications; below, a call of oneDNN costs more than it saves (9 us)


class Linear(torch.nn.Linear):
    """A stock linear layer, its own parameters included, whose larger products go to oneDNN."""

    def __init__(self, stock: torch.nn.Linear):
        torch.nn.Module.__init__(self)
        self.in_features, self.out_features = stock.in_features, stock.out_features
        self.weight, self.bias = stock.weight, stock.bias
        self._least = max(2 * self.in_features, -(-WORTH // self.out_features))  # values, of two rows at least
        self.train(stock.training)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """[.., in] -> [.., out]."""
        if input.numel() < self._least or not can_take(input, self.weight):
            return linear(input, self.weight, self.bias)
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(input, self.weight, self.bias, "none", [], "")
        return out


def can_take(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether oneDNN gives what `torch.nn.functional.linear` would."""
    return (
        x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
    )


def quicken(model: torch.nn.Module) -> None:
    """Put `Linear` in the place of every plain linear layer of a model, on a machine where it is faster."""
    if not stock_is_slow():
        return
    for part in list(model.modules()):
        for name, child in list(part.named_children()):
            if type(child) is torch.nn.Linear:
                setattr(part, name, Linear(child))


@cache
def stock_is_slow() -> bool:
    """An AMD processor, a torch that multiplies with MKL, and one that has the operator of oneDNN."""
    about: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.9 does not have it yet
    amd = str(about.get("cpu_name", "")).startswith("AMD")
    return amd and torch.backends.mkl.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
