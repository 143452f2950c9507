"""Rows of vision in bytes: one byte a value and one scale a row and head, for keys and for values. The rest is exact.

A row is rounded once, as it is written, and every token sees it so, those of its own feed too. A key keeps the angle at
which it was first fed (the table's `pos0`) and is turned as it is read where its place has changed since, so roundings
never add up. What stands where follows from the table alone: a row is vision where it has a cell, and both kinds stand
in the order of the table, each in tensors of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from neverblink.errors import BudgetError
from neverblink.kv.arena import Arena, Need
from neverblink.models.base import Adapter

LARGEST = {"int8": 127.0, "fp8": 448.0}  # that a byte of each kind holds; fp8 is float8_e4m3fn
SCALE = torch.float32


def to_bytes(rows: torch.Tensor, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows [.., dim] as bytes [.., dim] int8 (of fp8 the bits) and their scales [.., 1] float32."""
    scale = rows.abs().amax(-1, keepdim=True).to(SCALE).clamp_min_(1e-12).div_(LARGEST[kind])
    scaled = rows / scale
    if kind == "int8":
        return scaled.round_().to(torch.int8), scale
    return scaled.to(torch.float8_e4m3fn).view(torch.int8), scale


def from_bytes(rows: torch.Tensor, scale: torch.Tensor, kind: str, out: torch.Tensor) -> None:
    """What `to_bytes` gave, written into `out` [.., dim]."""
    if kind == "int8":
        out.copy_(rows).mul_(scale)
        return
    # The four bits of the exponent and the three behind them, put where a half has them, are the value / 2^8. torch's
    # own conversion takes fifty times as long on a CPU.
    half = rows.to(torch.int16).bitwise_left_shift_(7).bitwise_and_(-0x4080).view(torch.float16)
    out.copy_(half).mul_(scale * 256.0)


class CompactArena(Arena):
    """An arena whose slots hold exact rows and, beside them, rows of vision in bytes.

    `max_rows` and `anchor_rows` count exact rows. `scratch` is where the held rows of one stream stand as one layer
    reads them; streams and layers take turns.

    Args:
        need: of a slot. layers ... device: as of an `Arena`. adapter: whose keys are turned.

    Raises:
        BudgetError: the memory is not there.
    """

    def __init__(self, adapter: Adapter, need: Need, slots: int):
        heads, dim, device = adapter.kv_heads, adapter.head_dim, adapter.device
        super().__init__(
            layers=adapter.layers,
            slots=slots,
            kv_heads=heads,
            max_rows=need.rows,
            anchor_rows=need.anchors,
            head_dim=dim,
            dtype=adapter.dtype,
            device=device,
        )
        self.kv_dtype, self.vision_rows = need.kv_dtype, need.vision
        self.ropes, self.rotation = adapter.ropes, adapter.rotation
        self.row_bytes = (self.row_bytes[0], 2 * adapter.layers * heads * vision_row_bytes(dim))
        exact = self.nbytes
        self.nbytes += slots * need.vision * self.row_bytes[1] + scratch_bytes(adapter, need)
        shape = (slots, 2, heads, need.vision)  # 2: keys and values
        try:
            self.bytes = [torch.zeros(*shape, dim, dtype=torch.int8, device=device) for _ in range(self.layers)]
            self.scales = [torch.zeros(*shape, 1, dtype=SCALE, device=device) for _ in range(self.layers)]
            self.scratch = torch.zeros(2, heads, need.total, dim, dtype=self.dtype, device=device)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            raise BudgetError(
                f"the KV cache needs {(self.nbytes - exact) / 2**20:.0f} MiB for vision in {self.kv_dtype} beside "
                f"{exact / 2**20:.0f} MiB and {device} has not so much free; lower --vision-window or the frame size"
            ) from error

    def parts(self, n: int, anchors: int, cells: np.ndarray) -> list[tuple[str, list[torch.Tensor], int]]:
        vision = cells[:n] >= 0
        held, exact = int(vision.sum()), super().parts(int((~vision).sum()), int((~vision[:anchors]).sum()), cells)
        return [*exact, ("bytes", self.bytes, held), ("scales", self.scales, held)]

    def held_bytes(self, n: int, cells: np.ndarray) -> int:
        vision = int((cells[:n] >= 0).sum())
        return (n - vision) * self.row_bytes[0] + vision * self.row_bytes[1]


def vision_row_bytes(head_dim: int) -> int:
    """Bytes of one head's key, or value, of a row of vision: its values and their scale."""
    return head_dim + SCALE.itemsize


def scratch_bytes(adapter: Any, need: Need) -> int:
    """Bytes that a compact arena has once, however many its slots."""
    size: int = 2 * adapter.kv_heads * need.total * adapter.head_dim * adapter.dtype.itemsize
    return size if need.kv_dtype else 0
