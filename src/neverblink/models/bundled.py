"""The model that comes with the package, and what a checkpoint says about itself in `neverblink.json`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neverblink.errors import ModelError

OWN_POLICIES = ("streaming", "reread")  # both have the same windows
BUNDLED = Path(__file__).parents[1] / "bundled" / "arcade"


@dataclass(frozen=True)
class Card:
    """Defaults that belong to a checkpoint; every field is optional in the file."""

    name: str = ""
    domain: str | None = None  # what the model knows, when it does not know the world
    fps: float = 2.0
    script: dict[str, Any] = field(default_factory=dict)  # of ScriptOptions
    policy: str = "streaming"  # of OWN_POLICIES, where none is asked for
    policy_options: dict[str, Any] = field(default_factory=dict)  # its windows
    speak: dict[str, Any] = field(default_factory=dict)  # of SpeakOptions


def read_card(folder: Path) -> Card:
    """The card of a checkpoint folder; defaults where there is none.

    Raises:
        ModelError: the file is not what it should be.
    """
    file = folder / "neverblink.json"
    if not file.is_file():
        return Card()
    try:
        values = json.loads(file.read_text())
        card = Card(**{k: v for k, v in values.items() if k in Card.__dataclass_fields__})
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{file} is not a neverblink card: {error}") from error
    wrong = _wrong(card)
    if wrong:
        raise ModelError(f"{file} is not a neverblink card: {wrong}")
    return card


def _wrong(card: Any) -> str:
    """What is not of its type in a card that somebody else wrote; "" where all is."""

    def is_number(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9

    if not isinstance(card.name, str) or not isinstance(card.domain, str | None):
        return f"name {card.name!r} and domain {card.domain!r} must be words"
    if not is_number(card.fps) or not card.fps > 0:
        return f"fps {card.fps!r} must be a number above 0"
    if card.policy not in OWN_POLICIES:
        return f"policy {card.policy!r} must be one of {', '.join(OWN_POLICIES)}"
    for name in ("script", "policy_options", "speak"):
        values = getattr(card, name)
        if not isinstance(values, dict):
            return f"{name} {values!r:.60} must be an object"
        for key, value in values.items():
            if not (isinstance(value, str) if name == "script" else is_number(value)):
                return f"{name}.{key} is {value!r:.60}, which is {'no text' if name == 'script' else 'no number'}"
    return ""
