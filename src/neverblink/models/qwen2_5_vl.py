"""Qwen2.5-VL (every size, and the released StreamingVLM checkpoint) on the stock transformers class."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self, cast

import numpy as np
import torch

from neverblink.models import lean
from neverblink.models.base import Look, VisionBlock, Whole
from neverblink.models.graph import DecodeStep
from neverblink.models.patches import LinearPatches
from neverblink.models.stock import Checkpoint, StockAdapter, stock_time_only
from neverblink.models.windows import in_one_call
from neverblink.vision.pixels import PixelOptions, cut_frames, fit, normalise, patchify
from neverblink.vision.towers import QwenTower

TimeGrid = Literal["stock", "exact", "flat"]


class Qwen25VL(StockAdapter):
    """Adapter of `Qwen2_5_VLForConditionalGeneration`.

    Args:
        model: the stock model, in eval mode on its device.
        tokenizer: its tokenizer.
        pixels: how its pictures are cut.
        name: shown to people.
        time_grid: how time becomes a position. "stock" floors `k * tokens_per_second * seconds_per_grid` as the
            family's own index does; "exact" keeps fractions and "flat" counts vision tokens as text (1-D): the two
            quirks of the public StreamingVLM reference.
    """

    family, kind = "qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration"
    about = "Qwen2.5-VL and StreamingVLM: any size of picture, time as a position"
    takes = frozenset({"gate", "encoder_cache", "compress"})

    def __init__(self, model: Any, tokenizer: Any, pixels: PixelOptions, name: str = "", time_grid: TimeGrid = "stock"):
        super().__init__(model, tokenizer, name)
        self.pixels, self.time_grid, self._visual = pixels, time_grid, model.model.visual
        self.patches_per_token = float(pixels.merge**2)
        if not isinstance(self._visual.patch_embed, LinearPatches):
            self._visual.patch_embed = LinearPatches(self._visual.patch_embed, pixels)
        in_one_call(self._visual)
        self._shared = model.config.text_config.num_attention_heads // self.kv_heads
        self.lean = lean.can_run(self._lm)  # False takes the stock forward
        self.can_graph = lean.knows(self._lm)
        self.graph = False  # one token of one stream through models/graph.py; for CUDA
        self.compile = ""  # backend of torch.compile for that step
        self._steps: weakref.WeakKeyDictionary[Any, DecodeStep] = weakref.WeakKeyDictionary()  # of each stream's cache

    @classmethod
    def load(cls, checkpoint: Checkpoint) -> Self:
        """A checkpoint to an adapter."""
        if cls.family != "qwen2_5_vl":
            stock_time_only(checkpoint)
        model = checkpoint.model(cls.kind)
        pixels = pixel_options(checkpoint.preprocessor(), model.config)
        return cls(model, checkpoint.tokenizer(), pixels, checkpoint.name, cast(TimeGrid, checkpoint.time_grid))

    def encode_packed(self, looks: Sequence[Look]) -> list[VisionBlock]:
        if any(look.cached for look in looks):
            # A cache has a reference of its own for each stream, so its pictures go alone.
            return [self._encode_cached(look) if look.cached else self.encode_packed([look])[0] for look in looks]
        cut = [cut_frames(look.frames, self.pixels, self.device) for look in looks]
        grids = torch.tensor([grid for _, grid in cut])
        embeds = self.encode_patches(torch.cat([patches for patches, _ in cut]), grids)
        sizes = (grids.prod(1) // self.pixels.merge**2).tolist()
        blocks = []
        for look, (_, grid), own in zip(looks, cut, embeds.split(sizes), strict=True):
            loc, advance = self.places(grid, self.pixels.temporal_patch / look.fps)
            blocks.append(VisionBlock(own, loc, advance))
        return blocks

    def _encode_cached(self, look: Look) -> VisionBlock:
        assert look.cached is not None
        cache, times, state = look.cached
        patches, grid = patchify(look.frames, self.pixels, self.device)
        tower, told = QwenTower(self._visual), []
        for glance, time in zip(patches.to(self.dtype).chunk(grid[0]), times, strict=True):
            embeds, state = cache(tower, glance, grid[1:], time, state)
            told.append(embeds)
        loc, advance = self.places(grid, self.pixels.temporal_patch / look.fps)
        return VisionBlock(torch.cat(told), loc, advance, state=state)

    @property
    def frames_per_glance(self) -> int:
        return self.pixels.temporal_patch

    def whole(self, frame: np.ndarray, glances: int, fps: float) -> Whole:
        height, width = fit(frame.shape[0], frame.shape[1], self.pixels)
        grid = (glances, height // self.pixels.patch, width // self.pixels.patch)
        loc, advance = self.places(grid, self.pixels.temporal_patch / fps)
        h, w = grid[1] // self.pixels.merge, grid[2] // self.pixels.merge
        return Whole((h, w), loc.reshape(glances, h * w, 3), advance)

    def encode_patches(self, patches: torch.Tensor, grids: torch.Tensor) -> torch.Tensor:
        """[patches, values], bytes or normalised, grids [n, 3] -> [tokens, hidden], block after block."""
        out = self._visual(self._ready(patches), grid_thw=grids.to(self.device))
        return out.pooler_output

    def _ready(self, patches: torch.Tensor) -> torch.Tensor:
        """Patches as the tower takes them: bytes where it can, else normalised and in the model's dtype."""
        if patches.dtype == torch.uint8:
            if self._visual.patch_embed.takes_bytes:
                return patches
            patches = normalise(patches, self.pixels)
        return patches if torch.is_autocast_enabled(patches.device.type) else patches.to(self.dtype)

    def places(self, grid: tuple[int, int, int], seconds_per_grid: float) -> tuple[np.ndarray, float]:
        """Places of a block's tokens from its start [tokens, 3], and its advance (max over the axes + 1).

        transformers 5.23 lets the text behind a block start at max(h, w); the released models were trained with the
        maximum over t, h and w, + 1.
        """
        t, h, w = grid[0], grid[1] // self.pixels.merge, grid[2] // self.pixels.merge
        if self.time_grid == "flat":
            flat = np.arange(t * h * w, dtype=np.float64)
            return np.repeat(flat[:, None], 3, axis=1), float(t * h * w)
        times = np.arange(t, dtype=np.float64) * self._step(seconds_per_grid)
        if self.time_grid == "stock":
            times = np.floor(times + 1e-9)
        loc = np.stack(np.meshgrid(times, np.arange(float(h)), np.arange(float(w)), indexing="ij"), -1).reshape(-1, 3)
        return loc, float(loc.max()) + 1.0

    def _step(self, seconds_per_grid: float) -> float:
        """From one temporal patch to the next."""
        step: float = self.model.config.vision_config.tokens_per_second * seconds_per_grid
        return step

    def max_vision_tokens(self, frames: int) -> int:
        return -(-frames // self.pixels.temporal_patch) * self.pixels.max_tokens_per_grid

    def forward(self, embeds: torch.Tensor, positions: torch.Tensor, cache: Any) -> torch.Tensor:
        if self.graph and len(embeds) == 1 and not cache.arena.kv_dtype:
            return self._step_of(cache)(embeds, positions, cache.get_seq_length())
        if not self.lean:
            return super().forward(embeds, positions, cache)
        seen = lean.mask(embeds, cache.get_seq_length(), self._shared)

        def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            keys, values = cache.update(k, v, layer)
            return lean.attention(q, keys, values, seen)

        return lean.decode(self._lm, embeds, positions, attend)

    def _step_of(self, cache: Any) -> DecodeStep:
        if cache not in self._steps:
            layers = cache.layers
            keys, values = [own.keys for own in layers], [own.values for own in layers]
            self._steps[cache] = DecodeStep(self._lm, keys, values, self.compile)
        return self._steps[cache]

    def forward_packed(self, embeds: torch.Tensor, positions: torch.Tensor, cache: Any) -> torch.Tensor:
        if not self.lean:
            return super().forward_packed(embeds, positions, cache)
        seen = [lean.mask(embeds[p.start : p.end], p.rows - (p.end - p.start), self._shared) for p in cache.segments]

        def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            mixed = []
            for (own, start, end, _, _), mask in zip(cache.segments, seen, strict=True):
                keys, values = own.layers[layer].update(k[:, :, start:end], v[:, :, start:end])
                mixed.append(lean.attention(q[:, :, start:end], keys, values, mask))
            return torch.cat(mixed)

        return lean.decode(self._lm, embeds, positions, attend)

    def _masks(self, new: int, positions: torch.Tensor, cache: Any) -> Any:
        # A ready-made mapping keeps transformers from building a mask of its own out of the cache's length.
        return {"full_attention": self._mask(new, cache.get_seq_length())}

    def hidden(self, embeds: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Whole sequences without a cache, for training: [B, L, hidden] at [3, B, L] -> [B, L, hidden]."""
        out = self._lm(inputs_embeds=embeds, position_ids=positions.to(self.device), use_cache=False)
        states: torch.Tensor = out.last_hidden_state
        return states


def read_pixel_options(folder: Path, config: Any, max_pixels: int | None = None) -> PixelOptions:
    """Pixel options from a checkpoint folder's preprocessor files; the config's own sizes win over the files'."""
    return pixel_options(Checkpoint(folder, "cpu", torch.float32, "sdpa", "").preprocessor(), config, max_pixels)


def pixel_options(found: dict[str, Any], config: Any, max_pixels: int | None = None) -> PixelOptions:
    """The same, from what the files say."""
    vision, size = config.vision_config, found.get("size") or {}
    least = found.get("min_pixels") or size.get("shortest_edge") or PixelOptions().min_pixels
    most = max_pixels or found.get("stream_max_pixels") or PixelOptions().max_pixels
    factor = vision.patch_size * vision.spatial_merge_size
    return PixelOptions(
        patch=vision.patch_size,
        temporal_patch=vision.temporal_patch_size,
        merge=vision.spatial_merge_size,
        min_pixels=min(int(least), int(most)),
        max_pixels=max(int(most), factor * factor),
        mean=tuple(found.get("image_mean", PixelOptions().mean)),
        std=tuple(found.get("image_std", PixelOptions().std)),
    )
