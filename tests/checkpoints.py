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
def toy_checkpoint(**size: int) -> Path:
    """A local checkpoint of the real Qwen2.5-VL class with random weights and a byte-level tokenizer."""
    from neverblink.training.toy import write_toy_checkpoint

    return write_toy_checkpoint(Path(mkdtemp(prefix="neverblink-toy-")), **size)
