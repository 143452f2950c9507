"""The tensors of the KV cache: allocated once, one pair a layer; a slot is a stream."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from neverblink.errors import BudgetError, ConfigError
from neverblink.models.base import Adapter


class Need(NamedTuple):
    """Rows that a stream will never pass."""

    rows: int  # exact ones; with a kv_dtype all but vision
    anchors: int  # of these can have a master
    vision: int = 0  # in bytes, beside them
    kv_dtype: str = ""  # of vision; "" is the model's own, and vision is among the exact rows

    @property
    def total(self) -> int:
        return self.rows + self.vision


class Arena:
    """Per-layer K and V [slots, kv_heads, max_rows, head_dim] and masters of anchor keys [.., anchor_rows, ..].

    A master is a key as it was first written. Anchors are turned forward at every chunk; turning the same bfloat16
    key in place is off by 21 % after 1,000 turns, turning a master is off by one rounding for ever.

    Args:
        max_rows: rows of a slot.
        anchor_rows: rows of a slot that can have a master.
        layers: those that keep rows. recurrent: numbers of the model's other layers, which keep a state instead.

    Raises:
        BudgetError: the memory is not there; the message holds the arithmetic.
    """

    kv_dtype, vision_rows = "", 0  # see compact.py

    def __init__(
        self,
        *,
        layers: int,
        slots: int,
        kv_heads: int,
        max_rows: int,
        anchor_rows: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device | str,
        recurrent: frozenset[int] = frozenset(),
    ):
        self.recurrent = recurrent
        self.layers, self.slots, self.max_rows, self.anchor_rows = layers, slots, max_rows, min(anchor_rows, max_rows)
        self.dtype, self.device = dtype, torch.device(device)
        self.row_bytes = (2 * layers * kv_heads * head_dim * dtype.itemsize, 0)  # of an exact row, of one in bytes
        self.nbytes = layers * slots * kv_heads * (2 * max_rows + self.anchor_rows) * head_dim * dtype.itemsize
        full, front = (slots, kv_heads, max_rows, head_dim), (slots, kv_heads, self.anchor_rows, head_dim)
        try:
            # Zeroed, so that the memory is really there before the first frame and not in hour two.
            self.k = [torch.zeros(full, dtype=dtype, device=device) for _ in range(layers)]
            self.v = [torch.zeros(full, dtype=dtype, device=device) for _ in range(layers)]
            self.masters = [torch.zeros(front, dtype=dtype, device=device) for _ in range(layers)]
        except (torch.OutOfMemoryError, RuntimeError) as error:
            raise BudgetError(
                f"the KV cache needs {self.nbytes / 2**20:.0f} MiB ({layers} layers x {slots} streams x {kv_heads} "
                f"heads x {max_rows} rows x {head_dim} x {dtype}) and {device} has not so much free; lower "
                f"--vision-window, --text-window or the frame size"
            ) from error

    def check_slot(self, slot: int, need: Need) -> None:
        """Refuse a stream that needs more than a slot has.

        Raises:
            BudgetError: its rows or its anchors do not fit. ConfigError: it keeps vision in another dtype.
        """
        assert 0 <= slot < self.slots, f"slot {slot} of {self.slots}"
        rows, anchor_rows, vision, kv_dtype = need
        if kv_dtype != self.kv_dtype:
            raise ConfigError(
                f"the stream's kv_dtype is {kv_dtype!r} and that of the slots {self.kv_dtype!r}; streams that share "
                f"slots have the same"
            )
        if vision > self.vision_rows:
            raise BudgetError(
                f"the stream needs {vision} rows of vision > {self.vision_rows} of a slot; give it smaller windows, or "
                f"name its options when the slots are made"
            )
        if rows > self.max_rows or min(anchor_rows, rows) > self.anchor_rows:
            raise BudgetError(
                f"the stream needs {rows} rows with {min(anchor_rows, rows)} anchors > {self.max_rows} with "
                f"{self.anchor_rows} of a slot; give it smaller windows, or name its options when the slots are made"
            )

    def rewritten(self, slot: int, a: int, b: int) -> None:
        """Keys of anchors [a, b) were computed anew where they stand: their masters are these now."""
        for k, masters in zip(self.k, self.masters, strict=True):
            masters[slot, :, a:b] = k[slot, :, a:b]

    def parts(self, n: int, anchors: int, cells: np.ndarray) -> list[tuple[str, list[torch.Tensor], int]]:
        """What a slot holds of `n` rows: a name, tensors [slots, .., rows, width] of each layer, rows in use.

        Args:
            cells: the table's, [n] or more.
        """
        return [("k", self.k, n), ("v", self.v, n), ("masters", self.masters, anchors)]

    def held_bytes(self, n: int, cells: np.ndarray) -> int:
        """Bytes of the keys and values of `n` held rows; cells: the table's, [n] or more."""
        return n * self.row_bytes[0]

    @classmethod
    def of(cls, adapter: Adapter, max_rows: int, anchor_rows: int, slots: int = 1) -> Arena:
        """An arena of a model's own shapes, on its device."""
        return cls(
            layers=adapter.layers,
            slots=slots,
            kv_heads=adapter.kv_heads,
            max_rows=max_rows,
            anchor_rows=anchor_rows,
            head_dim=adapter.head_dim,
            dtype=adapter.dtype,
            device=adapter.device,
            recurrent=adapter.recurrent,
        )
