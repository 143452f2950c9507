"""Models from scratch: sizes of the real classes that neverblink trains itself."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from neverblink.errors import ConfigError


@dataclass(frozen=True, slots=True)
class SmallVLM:
    """A small `Qwen2_5_VLForConditionalGeneration`.

    The class has no absolute place in its vision tower (2-D RoPE is relative) and hardly any in a small decoder, whose
    M-RoPE gives the width the slowest angles. So one token shows the whole picture: the merger sees its patches side
    by side, always in the same order. Few tokens (two of football, six of a size with a merge of 2) learn their places
    too, but slower; with a merge of 1, twenty tokens, nothing of where the ball is was learned in 200 steps.

    Raises:
        ConfigError: the picture is no whole number of tokens.
    """

    hidden: int = 256
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    mlp: int = 768
    vision_hidden: int = 256
    vision_layers: int = 2
    vision_heads: int = 8
    vision_mlp: int = 512
    patch: int = 40
    merge: int = 4
    tokens_per_second: int = 4  # at 8 fps a temporal patch lasts 1/4 s, so time axis steps are whole numbers
    width: int = 160
    height: int = 160
    widest: int = 2  # times as many pixels for a picture of another shape: football's is 320 x 160
    fps: float = 8.0
    # The court's own colour is nearly zero, so that a ball of eight pixels is not drowned in it; not zero, or the norms
    # of the tower would blow an empty patch up to the size of one that shows something.
    background: tuple[float, float, float] = (144 / 255 - 0.005, 72 / 255 - 0.005, 17 / 255 - 0.005)

    def __post_init__(self) -> None:
        side = self.patch * self.merge
        if self.width % side or self.height % side:
            raise ConfigError(
                f"a token of {self.merge} x {self.merge} patches of {self.patch} pixels does not divide a picture of "
                f"{self.width} x {self.height}; choose patch and merge so that {side} does"
            )

    @classmethod
    def tiled(cls, patch: int, merge: int, frame: tuple[int, int]) -> SmallVLM:
        """Pictures of (height, width) cut into tokens of `merge` x `merge` patches: the size that comes nearest.

        The merger has as many weights as (hidden x merge x merge) squared, so many small patches get a narrow tower,
        and a deeper one.
        """
        side = patch * merge
        height, width = (max(1, round(length / side)) * side for length in frame)
        size = cls(patch=patch, merge=merge, height=height, width=width)
        usual = cls()
        if merge <= usual.merge:
            return size
        hidden = max(32, usual.vision_hidden * usual.merge**2 // merge**2)
        return replace(size, vision_hidden=hidden, vision_mlp=4 * hidden, vision_heads=hidden // 16, vision_layers=5)

    @classmethod
    def of(cls, folder: Path) -> SmallVLM:
        """The size that a checkpoint's card tells."""
        size = json.loads((folder / "neverblink.json").read_text(encoding="utf-8"))["size"]
        return cls(**{**size, "background": tuple(size["background"])})


def build(size: SmallVLM, tokenizer: Any) -> Any:
    """The stock class with random weights, float32."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    ids = tokenizer.convert_tokens_to_ids
    head_dim = size.hidden // size.heads
    sections = [head_dim // 8, head_dim * 3 // 16, head_dim * 3 // 16]
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": size.hidden,
            "intermediate_size": size.mlp,
            "num_hidden_layers": size.layers,
            "num_attention_heads": size.heads,
            "num_key_value_heads": size.kv_heads,
            "max_position_embeddings": 32_768,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": sections},
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": ids("<|im_end|>"),
            "pad_token_id": ids("<|endoftext|>"),
        },
        vision_config={
            "depth": size.vision_layers,
            "hidden_size": size.vision_hidden,
            "intermediate_size": size.vision_mlp,
            "num_heads": size.vision_heads,
            "patch_size": size.patch,
            "spatial_patch_size": size.patch,
            "temporal_patch_size": 2,
            "spatial_merge_size": size.merge,
            "window_size": size.patch * size.merge * 4,
            "fullatt_block_indexes": list(range(size.vision_layers)),
            "tokens_per_second": size.tokens_per_second,
            "out_hidden_size": size.hidden,
        },
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        vision_token_id=ids("<|vision_pad|>"),
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        tie_word_embeddings=True,
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    start_with_waves(model.model.visual.patch_embed.proj.weight)
    model.generation_config.eos_token_id = ids("<|im_end|>")
    model.generation_config.pad_token_id = ids("<|endoftext|>")
    return model


def start_with_waves(weight: Any) -> None:
    """Fill a patch embedding [out, 3, 2, p, p] with low cosine waves of brightness and of green against red.

    From noise every pixel has to learn alone what a ball is; from smooth waves its place can be read at once.
    """
    import torch

    out, _, frames, size, _ = weight.shape
    kinds = ((torch.tensor([1.0, 1.0, 1.0]), 2 * out // 3), (torch.tensor([-1.0, 1.0, 0.0]), out - 2 * out // 3))
    x = (torch.arange(size) + 0.5) / size * math.pi
    rows = []
    for colour, count in kinds:
        waves = sorted(((i, j) for i in range(size) for j in range(size)), key=lambda w: (w[0] + w[1], w))
        for i, j in waves[: count // frames]:
            wave = torch.outer((i * x).cos(), (j * x).cos())
            for frame in range(frames):
                row = torch.zeros(3, frames, size, size)
                # A wall answers only to waves that are constant along it, and would drown the ball in its patch.
                row[:, frame] = colour[:, None, None] * wave * (0.05 if j else 0.005)
                rows.append(row)
    with torch.no_grad():
        weight[: len(rows)] = torch.stack(rows)


def save(model: Any, tokenizer: Any, folder: Path, size: SmallVLM, card: dict[str, Any]) -> None:
    """Write a checkpoint that `Model.from_pretrained` reads, with neverblink's own defaults beside it.

    Args:
        card: what `neverblink.json` is to say: domain, fps, script and policy options, and how it was trained.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    pixels = {
        "min_pixels": size.width * size.height,
        "max_pixels": size.width * size.height * size.widest,
        "stream_max_pixels": size.width * size.height * size.widest,
        "patch_size": size.patch,
        "temporal_patch_size": 2,
        "merge_size": size.merge,
        "image_mean": list(size.background),
        "image_std": [0.25, 0.25, 0.25],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels, indent=1))
    (folder / "neverblink.json").write_text(json.dumps({"size": asdict(size), **card}, indent=1))
