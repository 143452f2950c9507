"""Checkpoints of toy size for tests, built from the real classes or regenerated from seeds."""

from __future__ import annotations

import json
import lzma
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

DATA = Path(__file__).parent / "data"
MARKS = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]


def write_qwen_tokenizer(folder: Path) -> None:
    """The Qwen2.5 tokenizer (Apache-2.0), kept compressed in tests/data."""
    (folder / "tokenizer.json").write_bytes(lzma.decompress((DATA / "qwen2_5_tokenizer.json.xz").read_bytes()))
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "additional_special_tokens": MARKS,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(about))


@cache
def trace_checkpoint(maker: Path) -> Path:
    """The tiny Qwen2.5-VL of the reference traces, made by their own script, plus the tokenizer."""
    folder = Path(mkdtemp(prefix="neverblink-trace-model-"))
    done = subprocess.run([sys.executable, maker, folder], capture_output=True, text=True, check=True)
    assert "2e712720a44b7ad9b65287e8da8a09705cb5d52af90c70645f236600daf62e4e" in done.stdout
    write_qwen_tokenizer(folder)
    return folder


@cache
def toy_checkpoint(layers: int = 2, hidden: int = 64, kv_heads: int = 2, patch: int = 14, seed: int = 0) -> Path:
    """A local checkpoint of the real Qwen2.5-VL class with random weights and a byte-level tokenizer."""
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    from neverblink.training.tokenizer import train_tokenizer

    folder = Path(mkdtemp(prefix="neverblink-toy-"))
    words = ["You are a helpful assistant. Time=0.0-1.0s previous text user assistant ...", "What happens now?"]
    tokenizer = train_tokenizer(words * 20, folder, vocabulary=400)
    ids = tokenizer.convert_tokens_to_ids
    heads = 4
    half = hidden // heads // 2
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": hidden,
            "intermediate_size": hidden * 2,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": [half - 2 * (half * 3 // 8), half * 3 // 8, half * 3 // 8],
            },
            "initializer_range": 0.1,
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
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = ids("<|im_end|>")
    model.save_pretrained(folder)
    pixels = {"min_pixels": 56 * 56, "max_pixels": 112 * 84, "stream_max_pixels": 112 * 84}
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels))
    return folder
