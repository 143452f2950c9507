"""The model that comes with the package, and what a checkpoint says about itself in `neverblink.json`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neverblink.errors import ModelError

BUNDLED = Path(__file__).parents[1] / "bundled" / "arcade"


@dataclass(frozen=True)
class Card:
    """Defaults that belong to a checkpoint; every field is optional in the file."""

    name: str = ""
    domain: str | None = None  # what the model knows, when it does not know the world
    fps: float = 2.0
    script: dict[str, Any] = field(default_factory=dict)  # of ScriptOptions
    policy_options: dict[str, Any] = field(default_factory=dict)  # of the streaming policy
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
        return Card(**{k: v for k, v in values.items() if k in Card.__dataclass_fields__})
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelError(f"{file} is not a neverblink card: {error}") from error
