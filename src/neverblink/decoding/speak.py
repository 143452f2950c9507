"""Choosing the next token: stock logits processors, greedy or sampled from a seed of the stream's own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from neverblink.errors import ConfigError, ModelError


@dataclass(frozen=True, slots=True)
class SpeakOptions:
    """How a second is spoken."""

    max_tokens_per_second: float = 20  # the paper's 20 new tokens a chunk of 1 s
    temperature: float = 0.0  # 0 is greedy; the paper's demo samples at 0.9
    top_p: float = 1.0
    repetition_penalty: float = 1.0  # over the text that is held; the reference uses 1.05
    seed: int = 0
    answer_tokens: int = 64  # most tokens of an answer to a question
    quiet_from: float = 0.0  # probability of silence from which a second is silent; 0: where it is the likeliest word

    def __post_init__(self) -> None:
        if self.max_tokens_per_second <= 0 or self.answer_tokens < 1:
            raise ConfigError(
                f"max tokens must be above 0, got {self.max_tokens_per_second} a second and {self.answer_tokens} "
                f"an answer"
            )
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.repetition_penalty <= 0:
            raise ConfigError(
                f"temperature {self.temperature} must be 0 or more, top_p {self.top_p} in (0, 1], "
                f"repetition_penalty {self.repetition_penalty} above 0"
            )
        if not 0 <= self.quiet_from <= 1:
            raise ConfigError(f"quiet_from {self.quiet_from} must be a probability, 0 to 1")


class Sampler:
    """Turns logits into a token id.

    Args:
        options: how to choose.
        processor: an extra stock LogitsProcessor, applied last (tests force tokens with it).
        quiet: ids that a second begins with in which nothing is said.
    """

    def __init__(self, options: SpeakOptions, processor: Any | None = None, quiet: tuple[int, ...] = ()):
        from transformers import (
            LogitsProcessorList,
            RepetitionPenaltyLogitsProcessor,
            TemperatureLogitsWarper,
            TopPLogitsWarper,
        )

        self.options = options
        self.generator = torch.Generator().manual_seed(options.seed)
        self._needs_ids = options.repetition_penalty != 1.0 or processor is not None
        chain = LogitsProcessorList()
        if options.repetition_penalty != 1.0:
            chain.append(RepetitionPenaltyLogitsProcessor(options.repetition_penalty))
        if options.temperature > 0:
            chain.append(TemperatureLogitsWarper(options.temperature))
            if options.top_p < 1:
                chain.append(TopPLogitsWarper(options.top_p))
        if processor is not None:
            chain.append(processor)
        self._chain = chain
        self._quiet, self._opens = list(quiet) if options.quiet_from else [], False

    def begin(self, *, second: bool) -> torch.Generator:
        """Before what a second, or an answer, begins with is picked. Returns what the draws change."""
        self._opens = second and bool(self._quiet)
        return self.generator

    @property
    def is_greedy(self) -> bool:
        """The largest logit is taken, at most behind a repetition penalty."""
        plain = len(self._chain) == (self.options.repetition_penalty != 1.0)
        return self.options.temperature == 0 and plain and not self._opens

    def pick(self, logits: torch.Tensor, context: Any) -> int:
        """One id from logits [vocabulary]; `context()` gives the held ids [n] that a penalty looks at.

        There are many ways to say that something happened and one to say nothing, so silence may be the likeliest word
        of a second in which it is likelier that something is said. `SpeakOptions.quiet_from` weighs it against all.

        Raises:
            ModelError: the logits are no numbers.
        """
        best = float(logits.max())  # NaN if any is
        if not math.isfinite(best):
            raise ModelError(f"the model's largest logit is {best}; use --dtype float32, or another checkpoint")
        if self._opens:
            self._opens = False
            silent = torch.zeros_like(logits, dtype=torch.bool)
            silent[self._quiet] = True
            chance = float(torch.softmax(logits.float(), -1)[silent].sum())
            logits = logits.masked_fill(~silent if chance >= self.options.quiet_from else silent, -math.inf)
        scores = logits[None]
        if self._chain:
            ids = context() if self._needs_ids else torch.empty(1, 0, dtype=torch.long)
            scores = self._chain(ids.view(1, -1).to(logits.device), scores)
        if self.options.temperature == 0:
            return int(scores.argmax(-1))
        chances = torch.softmax(scores.float(), -1).cpu()
        return int(torch.multinomial(chances, 1, generator=self.generator))
