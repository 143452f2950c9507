"""Alerts: when to say that something happened. This file decides; sessions.py asks the model, hooks.py tells others."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from neverblink.errors import ConfigError
from neverblink.sources import redact

MOST_TEXT = 500  # characters of a caption that a pattern looks at
MOST_STARS = 3


@dataclass(frozen=True)
class Rule:
    """What somebody waits for: a pattern in the captions, or a condition that the model is asked about."""

    id: str
    pattern: str | None = None  # words; | is or, * is any run of characters
    condition: str | None = None  # a statement in natural language: "the red car has left"
    every: float = 5.0  # media seconds between two questions about a condition
    debounce: float = 10.0  # media seconds in which an alert is not told again
    webhook: str | None = None

    def __post_init__(self) -> None:
        if (self.pattern is None) == (self.condition is None):
            raise ConfigError("an alert needs either a pattern or a condition")
        if not (self.pattern or self.condition or "").strip():
            raise ConfigError("an alert's pattern or condition is empty")
        if self.pattern is not None and self.pattern.count("*") > MOST_STARS:
            raise ConfigError(f"the pattern has {self.pattern.count('*')} stars; use {MOST_STARS} at most")
        if not 0 <= self.debounce <= 86400 or not 1 <= self.every <= 3600:
            raise ConfigError(f"debounce {self.debounce} s must be 0 to 86400, every {self.every} s 1 to 3600")

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def shown(self) -> dict[str, Any]:
        """What the API tells of it."""
        return {**asdict(self), "webhook": redact(self.webhook) if self.webhook else None}

    @property
    def name(self) -> str:
        return (self.pattern or self.condition or "").strip()

    @property
    def question(self) -> str:
        """What the model is asked about a condition."""
        return f"Is this true now: {self.name}? Answer yes or no."


def matches(pattern: str, text: str) -> bool:
    """Whether words of a pattern stand in a text, in any case, whole words only."""
    parts = [part.strip() for part in pattern.split("|") if part.strip()]
    ways = "|".join(".*?".join(map(re.escape, part.split("*"))) for part in parts)
    return bool(parts) and re.search(rf"(?<!\w)(?:{ways})(?!\w)", text[:MOST_TEXT], re.IGNORECASE) is not None


def is_yes(answer: str) -> bool:
    return re.match(r"\W*(yes|true|right)\b", answer, re.IGNORECASE) is not None


class Watch:
    """A rule on a running stream."""

    def __init__(self, rule: Rule):
        self.rule = rule
        self.asking = False  # a question about the condition is on its way
        self._told_at = float("-inf")  # media second of the last alert
        self._asked_at = float("-inf")
        self._was_true = False

    def caption(self, text: str, end: float) -> bool:
        """Whether a caption is cause for an alert."""
        return self.rule.pattern is not None and matches(self.rule.pattern, text) and self._may_tell(end)

    def wants_to_ask(self, end: float) -> bool:
        """Whether it is time to ask about the condition; the answer then goes to `answered`."""
        if self.rule.condition is None or self.asking or end - self._asked_at < self.rule.every:
            return False
        self._asked_at, self.asking = end, True
        return True

    def answered(self, answer: str, end: float) -> bool:
        """Whether the answer is cause for an alert: the condition has become true."""
        self.asking = False
        before, self._was_true = self._was_true, is_yes(answer)
        return self._was_true and not before and self._may_tell(end)

    def _may_tell(self, end: float) -> bool:
        if end - self._told_at < self.rule.debounce:
            return False
        self._told_at = end
        return True
