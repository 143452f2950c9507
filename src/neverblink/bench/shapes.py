"""Published model shapes with random weights: the real class at its real size, built on the device, nothing loaded.

Speed does not depend on what the weights say, so a machine without a download measures what a checkpoint would cost.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from neverblink.errors import UnknownName
from neverblink.model import Model
from neverblink.models.choices import DTYPES, choose_attention, choose_device, choose_dtype
from neverblink.models.int8 import quantise
from neverblink.models.qwen2_5_vl import Qwen25VL
from neverblink.training.tokenizer import train_tokenizer
from neverblink.vision.pixels import PixelOptions

# The numbers of each checkpoint's config.json on the hub.
_VISION: dict[str, Any] = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "patch_size": 14,
    "spatial_patch_size": 14,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "tokens_per_second": 2,
}
_ROPE: dict[str, Any] = {"rope_type": "default", "rope_theta": 1_000_000.0, "mrope_section": [16, 24, 24]}
_TEXT: dict[str, Any] = {"rms_norm_eps": 1e-6, "max_position_embeddings": 128_000, "rope_parameters": _ROPE}
SHAPES: dict[str, dict[str, Any]] = {
    "qwen2.5-vl-7b": {
        "text_config": {
            **_TEXT,
            "vocab_size": 152_064,
            "hidden_size": 3584,
            "intermediate_size": 18_944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
        },
        "vision_config": {**_VISION, "out_hidden_size": 3584},
        "tie_word_embeddings": False,
    },
    "qwen2.5-vl-3b": {
        "text_config": {
            **_TEXT,
            "vocab_size": 151_936,
            "hidden_size": 2048,
            "intermediate_size": 11_008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
        },
        "vision_config": {**_VISION, "out_hidden_size": 2048},
        "tie_word_embeddings": True,
    },
}


def config_of(
    shape: str, layers: int | None = None, vocabulary: int | None = None, decoder_layers: int | None = None
) -> Any:
    """The stock config of a shape.

    Args:
        layers: of decoder and vision tower, where they are to be fewer; full attention is then in the tower's last.
        vocabulary: ids, where they are to be fewer.
        decoder_layers: of the decoder alone, in place of `layers`.

    Raises:
        UnknownName: no such shape.
    """
    from transformers import Qwen2_5_VLConfig

    if shape not in SHAPES:
        raise UnknownName(f"no shape {shape!r}; known: {', '.join(SHAPES)}")
    numbers = SHAPES[shape]
    text, vision, tied = dict(numbers["text_config"]), dict(numbers["vision_config"]), numbers["tie_word_embeddings"]
    if layers is not None:
        text["num_hidden_layers"] = min(layers, text["num_hidden_layers"])
        vision["depth"] = min(layers, vision["depth"])
        vision["fullatt_block_indexes"] = [i for i in vision["fullatt_block_indexes"] if i < layers] or [layers - 1]
    if decoder_layers is not None:
        text["num_hidden_layers"] = decoder_layers
    if vocabulary is not None:
        text["vocab_size"] = vocabulary
    text |= {"tie_word_embeddings": tied, "bos_token_id": None, "eos_token_id": None}
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=tied)


def build(config: Any, device: str | torch.device, dtype: torch.dtype) -> Any:
    """The stock model with random weights, made where it will run; "meta" makes none."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # `.to(dtype)` afterwards would round the angles of the rotary embedding as well
    try:
        with torch.device(device), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return Qwen2_5_VLForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(before)


def random_model(
    shape: str,
    *,
    device: str | None = None,
    dtype: str | None = None,
    max_pixels: int | None = None,
    layers: int | None = None,
    vocabulary: int | None = None,
    decoder_layers: int | None = None,
) -> Model:
    """A shape with random weights, the package's own small tokenizer and the family's adapter.

    Args:
        device, dtype: as for `Model.from_pretrained`; None chooses.
        max_pixels: of one frame, after the resize; None is the package's default.
        layers, vocabulary, decoder_layers: see `config_of`.
    """
    config = config_of(shape, layers, vocabulary, decoder_layers)
    words = ["You are a helpful assistant. Time=0.0-1.0s previous text user assistant ...", "What happens now?"]
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = train_tokenizer(words * 20, Path(folder), vocabulary=400)
    ids = tokenizer.convert_tokens_to_ids
    config.text_config.eos_token_id = ids("<|im_end|>")
    config.vision_start_token_id, config.vision_end_token_id = ids("<|vision_start|>"), ids("<|vision_end|>")
    config.image_token_id, config.video_token_id = ids("<|image_pad|>"), ids("<|video_pad|>")
    chosen = [choose_device(device), choose_dtype(dtype, device), choose_attention(None)]
    config._attn_implementation = chosen[2][1]
    in_bytes = chosen[1][1] == "int8"
    model = build(config, chosen[0][1], torch.float32 if in_bytes else DTYPES[chosen[1][1]])
    if in_bytes:
        quantise(model)
    model.generation_config.eos_token_id = ids("<|im_end|>")
    vision = config.vision_config
    pixels = PixelOptions(
        patch=vision.patch_size,
        temporal_patch=vision.temporal_patch_size,
        merge=vision.spatial_merge_size,
        max_pixels=max_pixels or PixelOptions().max_pixels,
    )
    adapter: Any = Qwen25VL(model, tokenizer, pixels, name=shape)
    return Model(adapter, chosen=chosen)
