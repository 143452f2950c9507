"""The decoder's products in bytes, for a CPU: a quarter of the weights to read, at the price of a rounding.

Every output channel of a weight has a scale of its own, and so has every token: one scale for a whole prompt wrecks a
language model (NLL 3.52 -> 4.67), one a token does not (3.521). The vision tower stays as it is.
"""

from __future__ import annotations

from typing import Any

import torch

from neverblink.errors import ModelError


class Int8Linear(torch.nn.Module):
    """A linear layer [in] -> [out] whose weights are bytes."""

    def __init__(self, stock: torch.nn.Linear):
        super().__init__()
        whole, scale = in_bytes(stock.weight.detach())
        self.weight = torch.nn.Parameter(whole, requires_grad=False)  # [out, in] int8
        self.scale = torch.nn.Parameter(scale, requires_grad=False)  # [out]
        self.bias = stock.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[.., in] -> [.., out], the dtype of x."""
        rough, step = in_bytes(x.reshape(-1, x.shape[-1]))
        out = torch._int_mm(rough, self.weight.T) * self.scale
        out *= step[:, None]
        if self.bias is not None:
            out += self.bias
        return out.view(*x.shape[:-1], -1)


def in_bytes(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows [n, width] as int8 and the scale [n] of each."""
    scale = rows.abs().amax(1).clamp_min_(1e-12).div_(127)
    return (rows / scale[:, None]).round_().to(torch.int8), scale


def quantise(model: Any) -> None:
    """Put bytes in the place of every linear layer of a stock model's decoder, and of its head.

    Raises:
        ModelError: most of its weights are in no linear layer, as in a mixture of experts.
    """
    layers = model.get_decoder().layers
    for part in list(layers.modules()):
        for name, child in list(part.named_children()):
            if isinstance(child, torch.nn.Linear):
                setattr(part, name, Int8Linear(child))
    floats = sum(w.numel() for w in layers.parameters() if w.dtype != torch.int8)
    total = sum(w.numel() for w in layers.parameters())
    if 2 * floats > total:
        raise ModelError(
            f"dtype int8 knows linear layers only, and {floats:,} of the decoder's {total:,} weights are in none; "
            f"use float32"
        )
    model.set_output_embeddings(Int8Linear(model.get_output_embeddings()))
