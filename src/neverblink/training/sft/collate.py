"""Examples to one batch: padded rows, or packed into one row in which no sample sees another.

`position_ids` has four rows: the first counts the tokens of each sample from 0, which is how transformers (5.23, for
every attention implementation) knows where a sample begins; the others are the t, h, w positions of the stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from neverblink.training.sft.dataset import Example

IGNORED = -100  # label of a token that is not to be predicted


def collate(examples: Sequence[Example], *, pad_id: int, pack: bool) -> dict[str, Any]:
    """One batch.

    Returns:
        input_ids [B, L], position_ids [4, B, L], labels [B, L] (the token itself where it is to be predicted),
        patches [P, values] uint8, grids [N, 3], faults (reasons, one for each example that is empty). Packed, B is 1.
    """
    lengths = [len(e.sample.ids) for e in examples]
    rows, length = (1, sum(lengths)) if pack else (len(examples), max(lengths))
    ids = torch.full((rows, length), pad_id)
    positions = torch.zeros(4, rows, length, dtype=torch.long)
    labels = torch.full((rows, length), IGNORED)
    at = 0
    for i, (e, n) in enumerate(zip(examples, lengths, strict=True)):
        row, a = (0, at) if pack else (i, 0)
        b, at = a + n, at + n
        places = e.sample.positions
        assert (places == np.rint(places)).all(), "positions of a stock time grid are whole numbers"
        ids[row, a:b] = torch.from_numpy(e.sample.ids)
        positions[0, row, a:b] = torch.arange(n)
        positions[1:, row, a:b] = torch.from_numpy(places.astype(np.int64))
        labels[row, a:b][torch.from_numpy(e.sample.learn)] = ids[row, a:b][torch.from_numpy(e.sample.learn)]
        if not pack:  # the padding is a sample of its own, which sees itself: no row of a mask is empty
            positions[:, row, b:] = torch.arange(length - b)
    return {
        "input_ids": ids,
        "position_ids": positions,
        "labels": labels,
        "patches": torch.from_numpy(np.concatenate([e.patches for e in examples])),
        "grids": torch.tensor([grid for e in examples for grid in e.grids]),
        "faults": [e.fault for e in examples if e.fault],
    }
