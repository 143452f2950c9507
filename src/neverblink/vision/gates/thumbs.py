"""Small grey pictures that gates compare: averages over areas, so that sensor noise goes and a moved thing stays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

GREY = (0.299, 0.587, 0.114)


def thumbs(frames: Sequence[np.ndarray], size: tuple[int, int]) -> torch.Tensor:
    """Frames [H, W, 3] uint8 to grey [n, *size] in 0..1, the mean over each area."""
    grey = [torch.from_numpy(frame).float() @ torch.tensor(GREY) for frame in frames]
    return torch.cat([torch.nn.functional.adaptive_avg_pool2d(g[None, None], size)[:, 0] for g in grey]) / 255


def likeness(frames: torch.Tensor, reference: torch.Tensor, blocks: int = 8) -> float:
    """1 - the largest mean change of any of blocks x blocks parts, over frames [n, h, w] against one [h, w].

    The largest part and not the whole picture: a ball that crosses a field changes little of it.
    """
    change = (frames - reference).abs()[:, None]
    return 1.0 - float(torch.nn.functional.adaptive_avg_pool2d(change, blocks).max())
