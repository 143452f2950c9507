"""Qwen2.5-VL (every size, and the released StreamingVLM checkpoint) on the stock transformers class."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from neverblink.errors import ModelError
from neverblink.models.base import Look, VisionBlock, Whole
from neverblink.models.packed import packed_calls
from neverblink.vision.pixels import PixelOptions, fit, patchify
from neverblink.vision.towers import QwenTower

TimeGrid = Literal["stock", "exact", "flat"]


class LinearPatches(torch.nn.Module):
    """The stock patch embedding as the matrix product that it is (kernel == stride), with the stock weights and names.

    The stock Conv3d takes two thirds of a training step on a CPU, and its backward in bfloat16 runs 30 times longer.
    """

    def __init__(self, stock: torch.nn.Module):
        super().__init__()
        self.proj: Any = stock.proj

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """[patches, values] -> [patches, hidden]."""
        weight: torch.Tensor = self.proj.weight
        return torch.nn.functional.linear(patches, weight.flatten(1))


class Qwen25VL:
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

    family = "qwen2_5_vl"

    def __init__(self, model: Any, tokenizer: Any, pixels: PixelOptions, name: str = "", time_grid: TimeGrid = "stock"):
        rope = model.model.language_model.rotary_emb.rope_type
        if rope not in ("default", "mrope", "linear", "yarn"):
            raise ModelError(
                f"rope type {rope!r} changes its frequencies with the length, so cached keys cannot be turned; "
                f"use a checkpoint with rope type default, linear or yarn"
            )
        self.model, self.tokenizer, self.pixels, self.name, self.time_grid = model, tokenizer, pixels, name, time_grid
        self._lm, self._head, self._visual = model.model.language_model, model.lm_head, model.model.visual
        text, vision = model.config.text_config, model.config.vision_config
        if not isinstance(self._visual.patch_embed, LinearPatches):
            self._visual.patch_embed = LinearPatches(self._visual.patch_embed)
        self.layers, self.kv_heads = text.num_hidden_layers, text.num_key_value_heads
        self.head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        self._tokens_per_second = vision.tokens_per_second
        stops = model.generation_config.eos_token_id
        stops = {stops} if isinstance(stops, int) else set(stops or ())
        self.stop_ids = frozenset(stops | {tokenizer.convert_tokens_to_ids("<|im_end|>")})
        self._sdpa = text._attn_implementation == "sdpa"

    @property
    def device(self) -> torch.device:
        return self._lm.embed_tokens.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self._lm.embed_tokens.weight.dtype

    @property
    def fingerprint(self) -> str:
        """Hash of the config and of a sample of every weight: cheap, and different after any training step."""
        digest = hashlib.sha256(json.dumps(self.model.config.to_dict(), sort_keys=True, default=str).encode())
        for name, weight in sorted(self.model.named_parameters()):
            flat = weight.detach().reshape(-1)
            sample = flat[:: max(1, flat.numel() // 64)][:64].float().cpu().numpy()
            digest.update(name.encode() + sample.tobytes())
        return digest.hexdigest()

    def encode(self, frames: Sequence[np.ndarray], fps: float) -> VisionBlock:
        return self.encode_packed([Look(frames, fps)])[0]

    def encode_packed(self, looks: Sequence[Look]) -> list[VisionBlock]:
        if any(look.cached for look in looks):
            # A cache has a reference of its own for each stream, so its pictures go alone.
            return [self._encode_cached(look) if look.cached else self.encode_packed([look])[0] for look in looks]
        cut = [patchify(look.frames, self.pixels, self.device) for look in looks]
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
        return VisionBlock(torch.cat(told), loc, advance, state)

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
        """[patches, values], grids [n, 3] -> [tokens, hidden], block after block."""
        if not torch.is_autocast_enabled(patches.device.type):
            patches = patches.to(self.dtype)
        out = self._visual(patches, grid_thw=grids.to(self.device))
        return out.pooler_output

    def places(self, grid: tuple[int, int, int], seconds_per_grid: float) -> tuple[np.ndarray, float]:
        """Places of a block's tokens from its start [tokens, 3], and its advance (max over the axes + 1).

        transformers 5.23 lets the text behind a block start at max(h, w); the released models were trained with the
        maximum over t, h and w, + 1.
        """
        t, h, w = grid[0], grid[1] // self.pixels.merge, grid[2] // self.pixels.merge
        if self.time_grid == "flat":
            flat = np.arange(t * h * w, dtype=np.float64)
            return np.repeat(flat[:, None], 3, axis=1), float(t * h * w)
        times = np.arange(t, dtype=np.float64) * self._tokens_per_second * seconds_per_grid
        if self.time_grid == "stock":
            times = np.floor(times + 1e-9)
        loc = np.stack(np.meshgrid(times, np.arange(float(h)), np.arange(float(w)), indexing="ij"), -1).reshape(-1, 3)
        return loc, float(loc.max()) + 1.0

    def max_vision_tokens(self, frames: int) -> int:
        return -(-frames // self.pixels.temporal_patch) * self.pixels.max_tokens_per_grid

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        return self._lm.embed_tokens(ids.to(self.device))

    def forward(self, embeds: torch.Tensor, positions: torch.Tensor, cache: Any) -> torch.Tensor:
        # A ready-made mapping keeps transformers from building a mask of its own out of the cache's length.
        mask = {"full_attention": self._mask(embeds.shape[0], cache.get_seq_length())}
        out = self._lm(
            inputs_embeds=embeds[None],
            position_ids=positions[:, None].to(self.device),
            past_key_values=cache,
            attention_mask=mask,
            use_cache=True,
        )
        return out.last_hidden_state[0]

    def forward_packed(self, embeds: torch.Tensor, positions: torch.Tensor, cache: Any) -> torch.Tensor:
        with packed_calls(self._lm.config):
            out = self._lm(
                inputs_embeds=embeds[None],
                position_ids=positions[:, None].to(self.device),
                past_key_values=cache,
                attention_mask={"full_attention": None},  # ready-made as above; each segment has a mask of its own
                use_cache=True,
                packed=cache,
            )
        hidden: torch.Tensor = out.last_hidden_state[0]
        return hidden

    def hidden(self, embeds: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Whole sequences without a cache, for training: [B, L, hidden] at [3, B, L] -> [B, L, hidden]."""
        out = self._lm(inputs_embeds=embeds, position_ids=positions.to(self.device), use_cache=False)
        states: torch.Tensor = out.last_hidden_state
        return states

    def _mask(self, new: int, past: int) -> torch.Tensor | None:
        """Causal mask [1, 1, new, past + new] for a chunk behind a cache; one token sees everything."""
        if new == 1:
            return None
        see = torch.ones(new, past + new, dtype=torch.bool, device=self.device).tril(past)[None, None]
        if self._sdpa:
            return see
        return torch.zeros_like(see, dtype=self.dtype).masked_fill(~see, torch.finfo(self.dtype).min)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self._head(hidden)
        return out if out.dtype == torch.float64 else out.float()

    def rotation(self, old: torch.Tensor, new: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        (cos0, sin0), (cos1, sin1) = self._angles(old), self._angles(new)
        return cos1 * cos0 + sin1 * sin0, sin1 * cos0 - cos1 * sin0

    def _angles(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin [n, head_dim] float64 of positions [n, 3], as the model itself rounds them to float32."""
        rope = self._lm.rotary_emb
        cos, sin = rope(torch.zeros(1, device=self.device), positions.T.float().to(self.device)[:, None])
        # A scaled rope (yarn) bakes its factor into every key once; turning must not apply it again.
        return cos[0].double() / rope.attention_scaling, sin[0].double() / rope.attention_scaling


def read_pixel_options(folder: Path, config: Any, max_pixels: int | None = None) -> PixelOptions:
    """Pixel options from a checkpoint folder's preprocessor files; the config's own sizes win over the files'."""
    found: dict[str, Any] = {}
    for file in ("preprocessor_config.json", "video_preprocessor_config.json"):
        if (folder / file).is_file():
            found |= json.loads((folder / file).read_text())
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


def load(folder: Path, *, device: str, dtype: torch.dtype, attn: str, name: str, time_grid: TimeGrid) -> Qwen25VL:
    """A checkpoint folder in Hugging Face form to an adapter. Only safetensors are read and no remote code is run."""
    from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            folder, dtype=dtype, attn_implementation=attn, use_safetensors=True, local_files_only=True
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    finally:
        if bars:
            logging.enable_progress_bar()
    return Qwen25VL(
        model.to(device).eval(), tokenizer, read_pixel_options(folder, model.config), name=name, time_grid=time_grid
    )
