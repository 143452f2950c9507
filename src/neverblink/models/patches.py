"""The patch embedding of the Qwen-VL towers: one matrix product, of floats or of the pictures' own bytes.

A byte picture needs no float copy. (b / 255 - mean) / std is linear, so it goes into the weights, and these are written
as whole numbers of 24 bits in three digits of a byte: y = scale * (65,536 A + 256 B + C) + shift, where A, B and C are
products of bytes that a CPU with VNNI sums exactly. What is lost is the rounding of a weight to 2^-24 of its row's
largest, about what float32 loses in its sums (of two CPUs the one loses less, the other more), and a row's result does
not depend on how many rows there are.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from neverblink.vision.pixels import PixelOptions

DIGITS = 3  # of base 256, from -128 to 127
MOST_VALUES = 2**31 // (255 * 128)  # of a patch, that a sum of 32 bits holds


class LinearPatches(torch.nn.Module):
    """The stock patch embedding as the matrix product that it is (kernel == stride), with the stock weights and names.

    The stock Conv3d takes two thirds of a training step on a CPU, and its backward in bfloat16 runs 30 times longer.

    Args:
        stock: a module with the `proj`. pixels: how bytes are normalised.
    """

    def __init__(self, stock: torch.nn.Module, pixels: PixelOptions):
        super().__init__()
        self.proj: Any = stock.proj
        self.train(stock.training)
        self._pixels = pixels
        self._bytes: BytePatches | None = None
        self._made_of: tuple[int, int] | None = None  # the weights that `_bytes` was made of

    @property
    def takes_bytes(self) -> bool:
        """Whether `forward` may be given uint8: in float32, on a CPU that multiplies bytes fast and exactly."""
        weight = self.proj.weight
        return bool(
            not self.training
            and not torch.is_grad_enabled()
            and weight.device.type == "cpu"
            and weight.dtype == torch.float32
            and weight[0].numel() <= MOST_VALUES
            and multiplies_bytes()
        )

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """[patches, values] -> [patches, hidden]; uint8 patches are as `vision.pixels.cut` gives them."""
        weight: torch.Tensor = self.proj.weight
        if patches.dtype != torch.uint8:
            return torch.nn.functional.linear(patches, weight.flatten(1), self.proj.bias)
        made_of = weight.data_ptr(), 0 if weight.is_inference() else weight._version
        if self._bytes is None or self._made_of != made_of:
            self._bytes, self._made_of = BytePatches(weight.flatten(1), self.proj.bias, self._pixels), made_of
        return self._bytes(patches)


class BytePatches:
    """Weights [hidden, values] float32 for patches of bytes.

    Args:
        weight: as it is for normalised patches. bias: [hidden], or None.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, pixels: PixelOptions):
        mean, std = (255 * torch.tensor(x, dtype=torch.float64)[None, :, None] for x in (pixels.mean, pixels.std))
        folded = weight.detach().double().view(len(weight), 3, -1) / std
        top = 127 * 256 ** (DIGITS - 1)
        self._scale = folded.abs().amax((1, 2)).clamp_min_(1e-30) / top  # [hidden]
        left = (folded / self._scale[:, None, None]).round_()
        self._shift = -(left * mean).sum((1, 2)) * self._scale
        if bias is not None:
            self._shift += bias.detach().double()
        digits = []
        for _ in range(DIGITS - 1):
            digit = (left + 128) % 256 - 128
            digits.append(digit)
            left = (left - digit) / 256
        # Highest digit first; [DIGITS * hidden, values].
        self._digits = torch.stack([left, *reversed(digits)]).flatten(0, 1).flatten(1).to(torch.int8)

    def __call__(self, patches: torch.Tensor) -> torch.Tensor:
        """[patches, values] uint8 -> [patches, hidden] float32."""
        sums = torch._int_mm(patches, self._digits.T).view(len(patches), DIGITS, -1)
        total = sums[:, 0].double()
        for digit in range(1, DIGITS):
            total = total * 256 + sums[:, digit]
        return (total * self._scale + self._shift).float()


@cache
def multiplies_bytes() -> bool:
    """Whether this CPU has instructions for products of bytes, and torch's product of uint8 and int8 is exact here.

    Without VNNI pairs of products are summed in 16 bits, which overflow: the worst case is tried, not trusted.
    """
    ask = getattr(torch.cpu, "get_capabilities", dict)  # torch 2.9 does not have it yet
    known: dict[str, bool] = ask()
    if not any(known.get(name) for name in ("avx512_vnni", "avx_vnni", "amx_int8")):
        return False
    most = torch.full((32, 64), 255, dtype=torch.uint8)
    for extreme in (-128, 127):
        weights = torch.full((32, 64), extreme, dtype=torch.int8)
        try:
            if not bool((torch._int_mm(most, weights.T) == 255 * extreme * 64).all()):
                return False
        except RuntimeError:  # a build of torch without it
            return False
    return True
