"""A small byte-level BPE tokenizer with the chat marks of the Qwen-VL families, trained on the sport's own words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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


def train_tokenizer(
    lines: Iterable[str],
    folder: Path,
    vocabulary: int = 1024,
    marks: Sequence[str] = MARKS,
    end: str = "<|im_end|>",
    padding: str = "<|endoftext|>",
    template: str | None = None,
) -> Any:
    """Train, save into `folder`, and return a Hugging Face tokenizer. Each digit is a token of its own.

    Args:
        marks: special tokens. end, padding: two of them. template: a chat template.
    """
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
        special_tokens=list(marks),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        min_frequency=2,
    )
    tokenizer.train_from_iterator(lines, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=end,
        pad_token=padding,
        additional_special_tokens=list(marks),
        clean_up_tokenization_spaces=False,
    )
    if template is not None:
        fast.chat_template = template
    fast.save_pretrained(folder)
    return fast
