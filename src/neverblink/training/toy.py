"""A checkpoint of toy size: the real Qwen2.5-VL class, random weights, a byte-level tokenizer. For tests and soaks.

toys.py has the other families.
"""

from __future__ import annotations

import json
from pathlib import Path

from neverblink.models.stock import no_bars
from neverblink.training.tokenizer import train_tokenizer


def write_toy_checkpoint(
    folder: Path,
    *,
    layers: int = 2,
    hidden: int = 64,
    heads: int = 4,
    kv_heads: int = 2,
    patch: int = 14,
    seed: int = 0,
) -> Path:
    """Write a checkpoint that `Model.from_pretrained(folder)` loads; the same seed gives the same weights."""
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    folder.mkdir(parents=True, exist_ok=True)
    words = ["You are a helpful assistant. Time=0.0-1.0s previous text user assistant ...", "What happens now?"]
    tokenizer = train_tokenizer(words * 20, folder, vocabulary=400)
    ids = tokenizer.convert_tokens_to_ids
    half = hidden // heads // 2
    sections = [half - 2 * (half * 3 // 8), half * 3 // 8, half * 3 // 8]
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": hidden,
            "intermediate_size": hidden * 2,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": sections},
            "initializer_range": 0.1,  # above 0.2 a random model is chaotic and no tolerance means anything
            "eos_token_id": ids("<|im_end|>"),
            "bos_token_id": None,
            "pad_token_id": ids("<|endoftext|>"),
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "patch_size": patch,
            "spatial_patch_size": patch,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
            "window_size": patch * 4,
            "fullatt_block_indexes": [1],
            "tokens_per_second": 2,
            "out_hidden_size": hidden,
            "initializer_range": 0.1,
        },
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = ids("<|im_end|>")
    with no_bars():
        model.save_pretrained(folder)
    pixels = {"min_pixels": 56 * 56, "max_pixels": 112 * 84, "stream_max_pixels": 112 * 84}
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels))
    return folder
