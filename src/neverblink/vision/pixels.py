"""Frames to what vision towers take, in torch only: patches for the Qwen-VL families, squares for the others.

torchvision has no CPU build for current torch; the stock PIL image processor is the oracle (at most one uint8 level).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, slots=True)
class PixelOptions:
    """What a checkpoint's preprocessor_config.json says about its pictures."""

    patch: int = 14  # pixels a side
    temporal_patch: int = 2  # frames
    merge: int = 2  # patches a side that become one token
    min_pixels: int = 56 * 56
    max_pixels: int = 640 * 360  # of one frame, after the resize
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD

    @property
    def max_tokens_per_grid(self) -> int:
        """Upper bound of the tokens of one temporal patch."""
        return self.max_pixels // (self.patch * self.merge) ** 2


def fit(height: int, width: int, options: PixelOptions) -> tuple[int, int]:
    """Height and width that the model sees: multiples of patch x merge, within the pixel budget, aspect kept.

    The rule of the Qwen-VL processors, except that a picture thinner than 200:1 is fitted instead of refused.
    """
    factor = options.patch * options.merge
    h, w = max(factor, round(height / factor) * factor), max(factor, round(width / factor) * factor)
    if h * w > options.max_pixels:
        scale = math.sqrt(height * width / options.max_pixels)
        h = max(factor, math.floor(height / scale / factor) * factor)
        w = max(factor, math.floor(width / scale / factor) * factor)
        # A thin picture is held at one factor a side, so the other side has to give.
        h, w = min(h, options.max_pixels // w // factor * factor or factor), w
        w = min(w, options.max_pixels // h // factor * factor or factor)
    elif h * w < options.min_pixels:
        scale = math.sqrt(options.min_pixels / (height * width))
        h, w = math.ceil(height * scale / factor) * factor, math.ceil(width * scale / factor) * factor
    return h, w


def resize(stack: torch.Tensor, options: PixelOptions) -> torch.Tensor:
    """Frames [n, 3, H, W] uint8 to the size that the model sees, whole uint8 levels; unchanged where they fit."""
    return _resize(stack, fit(stack.shape[2], stack.shape[3], options))


def _resize(stack: torch.Tensor, size: tuple[int, int], mode: str = "bicubic") -> torch.Tensor:
    if size == tuple(stack.shape[2:]):
        return stack
    if mode == "lanczos":
        rows, columns = (_lanczos(*sides).to(stack.device) for sides in zip(stack.shape[2:], size, strict=True))
        across = (stack.float() @ columns.T).round_().clamp_(0, 255)
        return (rows @ across).round_().clamp_(0, 255).to(torch.uint8)
    if stack.device.type == "cpu":
        # On bytes torch rounds and clips between the two passes, as PIL and so the stock processors do.
        return torch.nn.functional.interpolate(stack, size, mode=mode, antialias=True)
    resized = torch.nn.functional.interpolate(stack.float(), size, mode=mode, antialias=True)
    return resized.round_().clamp_(0, 255).to(torch.uint8)


def patchify(
    frames: Sequence[np.ndarray], options: PixelOptions, device: torch.device | str = "cpu"
) -> tuple[torch.Tensor, tuple[int, int, int]]:
    """`cut_frames`, normalised: patches float32."""
    patches, grid = cut_frames(frames, options, device)
    return normalise(patches, options), grid


def cut_frames(
    frames: Sequence[np.ndarray], options: PixelOptions, device: torch.device | str = "cpu"
) -> tuple[torch.Tensor, tuple[int, int, int]]:
    """Frames of one chunk to the flat patches of a vision tower.

    Args:
        frames: each [H, W, 3] uint8 RGB. The last one is repeated to fill a temporal patch; where a camera changed its
            resolution in mid-chunk, all take the size of the last one.

    Returns:
        patches [t*h*w, 3 * temporal_patch * patch * patch] uint8, ordered as the towers want them (the patches of
        one merged token stand together), and the grid (t, h, w) in patches.
    """
    size = fit(frames[-1].shape[0], frames[-1].shape[1], options)
    if len({f.shape for f in frames}) == 1:
        stack = _resize(_upload(np.stack(frames), device).permute(0, 3, 1, 2), size)
    else:
        stack = torch.cat([_resize(_upload(f, device).permute(2, 0, 1)[None], size) for f in frames])
    return cut(stack, options)


def _upload(pixels: np.ndarray, device: torch.device | str) -> torch.Tensor:
    """Bytes to a device; from pinned memory a CUDA device fetches them while this thread goes on."""
    tensor = torch.from_numpy(pixels)
    if torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def cut(stack: torch.Tensor, options: PixelOptions) -> tuple[torch.Tensor, tuple[int, int, int]]:
    """Frames [n, 3, h, w] uint8 to patches [t*h*w, values] uint8 and their grid: whole bytes move four times faster."""
    n, p, t, m = stack.shape[0], options.patch, options.temporal_patch, options.merge
    h, w = stack.shape[2:]
    if n % t:
        stack = torch.cat([stack, stack[-1:].expand(t - n % t, -1, -1, -1)])
    gt, gh, gw = stack.shape[0] // t, h // p, w // p
    x = stack.reshape(gt, t, 3, gh // m, m, p, gw // m, m, p)
    x = x.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)  # gt, rows, columns, m, m, channel, time, p, p
    return x.reshape(gt * gh * gw, 3 * t * p * p), (gt, gh, gw)


def uncut(patches: torch.Tensor, grid: tuple[int, int, int], options: PixelOptions) -> torch.Tensor:
    """The frames [n, 3, h, w] that `cut` made patches [t*h*w, values] of."""
    (gt, gh, gw), p, t, m = grid, options.patch, options.temporal_patch, options.merge
    x = patches.reshape(gt, gh // m, gw // m, m, m, 3, t, p, p).permute(0, 6, 5, 1, 3, 7, 2, 4, 8)
    return x.reshape(gt * t, 3, gh * p, gw * p)


def normalise(patches: torch.Tensor, options: PixelOptions, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Bytes of `cut` to the values that the vision tower was trained on."""
    values = patches.view(len(patches), 3, -1).to(dtype, copy=True)
    mean = (torch.tensor(options.mean, device=patches.device).view(1, 3, 1) * 255).to(dtype)
    std = (torch.tensor(options.std, device=patches.device).view(1, 3, 1) * 255).to(dtype)
    return values.sub_(mean).div_(std).view(len(patches), -1)


Resample = Literal["bilinear", "bicubic", "lanczos"]


@dataclass(frozen=True, slots=True)
class SquareOptions:
    """How frames become squares, as a checkpoint's preprocessor files say."""

    side: int  # pixels
    resample: Resample = "bicubic"
    first: int = 0  # longer side of a resize before the one to the square; 0: there is none
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD


def squares(frames: Sequence[np.ndarray], options: SquareOptions, device: torch.device | str = "cpu") -> torch.Tensor:
    """Frames, each [H, W, 3] uint8 RGB and of any size, to [n, 3, side, side] float32, whatever their shape was."""
    stack = torch.cat([_square(torch.from_numpy(f).to(device).permute(2, 0, 1)[None], options) for f in frames])
    mean, std = (torch.tensor(x, device=stack.device).view(1, 3, 1, 1) for x in (options.mean, options.std))
    return (stack.float() / 255 - mean) / std


def _square(picture: torch.Tensor, options: SquareOptions) -> torch.Tensor:
    if options.first:
        longest = _longest(picture.shape[2], picture.shape[3], options.first)
        picture = _resize(picture, longest, options.resample)
    return _resize(picture, (options.side, options.side), options.resample)


def _longest(high: int, wide: int, edge: int, most: int = 4096) -> tuple[int, int]:
    """Height and width with the longer side at `edge` and an even shorter one, the rule of the Idefics processors."""
    ratio, edge = wide / high, min(edge, most)
    short = int(edge / ratio) if wide >= high else int(edge * ratio)
    short = max(1, short + short % 2)
    return (short, edge) if wide >= high else (edge, short)


@lru_cache(maxsize=32)
def _lanczos(old: int, new: int) -> torch.Tensor:
    """Weights [new, old] float32 of a resize with a Lanczos window of 3, widened when it shrinks, as PIL has it."""
    if old == new:
        return torch.eye(old)
    scale = old / new
    wide = max(scale, 1.0)
    centre = (np.arange(new)[:, None] + 0.5) * scale
    at = np.arange(old)[None]
    first = np.maximum(0, np.floor(centre - 3 * wide + 0.5))
    last = np.minimum(old, np.floor(centre + 3 * wide + 0.5))
    x = (at - centre + 0.5) / wide
    weights = np.where((np.abs(x) < 3) & (at >= first) & (at < last), np.sinc(x) * np.sinc(x / 3), 0.0)
    return torch.from_numpy(weights / weights.sum(1, keepdims=True)).float()
