"""Qwen3-VL, dense and mixture of experts, on the stock transformers classes.

Three things differ from Qwen2.5-VL. Time is written as text in front of each temporal patch, so a chunk has as many
parts as it has temporal patches, each of which starts at the place behind the text before it. The rotary axes are
interleaved, which is the rotary embedding's own business. And features of earlier layers of the tower are added to the
first layers of the decoder (DeepStack, arXiv 2406.04334): they travel behind the embedding, as more columns of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import pad

from neverblink.models.base import Look, VisionBlock
from neverblink.models.qwen2_5_vl import Qwen25VL
from neverblink.models.stock import StockAdapter
from neverblink.types import QWEN, Marks, Part
from neverblink.vision.pixels import cut_frames


class Qwen3VL(Qwen25VL):
    """Adapter of `Qwen3VLForConditionalGeneration`."""

    family, kind = "qwen3_vl", "Qwen3VLForConditionalGeneration"
    about = "Qwen3-VL, dense: any size of picture, time as text, DeepStack"
    takes = frozenset()  # its parts stand apart, with text between them
    marks = Marks(
        QWEN.pad,
        before="<{seconds:.1f} seconds>" + QWEN.before,
        after=QWEN.after,
        time="",
        placeholder=QWEN.placeholder,
    )

    def encode_packed(self, looks: Sequence[Look]) -> list[VisionBlock]:
        cut = [cut_frames(look.frames, self.pixels, self.device) for look in looks]
        grids = torch.tensor([grid for _, grid in cut])
        embeds = self.encode_patches(torch.cat([patches for patches, _ in cut]), grids)
        sizes = (grids.prod(1) // self.pixels.merge**2).tolist()
        blocks = []
        for look, (_, (t, h, w)), own in zip(looks, cut, embeds.split(sizes), strict=True):
            loc, advance = self.places((1, h, w), 0.0)
            times = patch_times(len(look.frames), look.fps, self.pixels.temporal_patch)
            parts = tuple(Part(len(loc), time) for time in times)
            blocks.append(VisionBlock(own, np.tile(loc, (t, 1)), advance, parts))
        return blocks

    def encode_patches(self, patches: torch.Tensor, grids: torch.Tensor) -> torch.Tensor:
        """[patches, values], bytes or not, grids [n, 3] -> [tokens, (1 + deep layers) x hidden], block after block."""
        out = self._visual(self._ready(patches), grid_thw=grids.to(self.device))
        return torch.cat([out.pooler_output, *(getattr(out, "deepstack_features", None) or ())], dim=-1)

    def _step(self, seconds_per_grid: float) -> float:
        return 0.0  # every part is one moment

    def max_parts(self, frames: int) -> tuple[Part, ...]:
        return (Part(self.pixels.max_tokens_per_grid),) * -(-frames // self.pixels.temporal_patch)

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        deep = len(getattr(self.model.config.vision_config, "deepstack_visual_indexes", None) or ())
        return pad(super().embed(ids), (0, deep * self._lm.config.hidden_size))

    _masks = StockAdapter._masks

    def _call(self, embeds: torch.Tensor, positions: torch.Tensor, cache: Any, mask: Any, **more: Any) -> torch.Tensor:
        plain, *deep = embeds.split(self._lm.config.hidden_size, dim=-1)
        if deep and len(embeds) > 1:  # one token is never a picture's
            # Text has zeros there, and adding zero is exact; so nobody has to know which tokens are pictures.
            everywhere = torch.ones(1, len(embeds), dtype=torch.bool, device=embeds.device)
            more |= {"visual_pos_masks": everywhere, "deepstack_visual_embeds": deep}
        return super()._call(plain, positions, cache, mask, **more)


class Qwen3VLMoe(Qwen3VL):
    """Adapter of `Qwen3VLMoeForConditionalGeneration`."""

    family, kind = "qwen3_vl_moe", "Qwen3VLMoeForConditionalGeneration"
    about = "Qwen3-VL, mixture of experts: as qwen3_vl"


def patch_times(frames: int, fps: float, size: int) -> list[float]:
    """Seconds from a chunk's start to the middle of each temporal patch; the last frame fills the last patch."""
    taken = [min(k, frames - 1) / fps for k in range(-(-frames // size) * size)]
    return [(taken[k] + taken[k + size - 1]) / 2 for k in range(0, len(taken), size)]
