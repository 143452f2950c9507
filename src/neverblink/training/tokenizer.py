"""A small byte-level BPE tokenizer with the chat marks of the Qwen-VL families, trained on the sport's own words."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

MARKS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)


def train_tokenizer(lines: Iterable[str], folder: Path, vocabulary: int = 1024) -> Any:
    """Train, save into `folder`, and return a Hugging Face tokenizer. Each digit is a token of its own."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    # White space joins the word behind it, newlines and digits stand alone: "Time=12.0" is cut the same everywhere.
    pattern = Regex(r" ?\.\.\.| ?\p{L}+| ?\p{N}|\n| ?[^\s\p{L}\p{N}]+|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(MARKS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        min_frequency=2,
    )
    tokenizer.train_from_iterator(lines, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(MARKS),
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(folder)
    return fast
