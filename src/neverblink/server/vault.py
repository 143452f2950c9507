"""Addresses with passwords in them, kept apart from the journal: a journal is looked at, exported and sent around."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from neverblink.errors import ConfigError
from neverblink.sources import redact


class Vault:
    """One file that only its owner can read. Touched on the engine's thread only.

    Raises:
        ConfigError: the file is damaged or cannot be read.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            self._kept: dict[str, dict[str, str]] = json.loads(path.read_text()) if path.exists() else {}
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"cannot read the addresses in {path}: {error}; move the file away, and start those streams again"
            ) from error

    def hide(self, stream_id: str, about: dict[str, Any]) -> dict[str, Any]:
        """What the journal may know of a stream; whatever else is needed to start it again stays here.

        Raises:
            OSError: it could not be written down.
        """
        kept: dict[str, str] = {}

        def shown(key: str, text: str) -> str:
            without = redact(text)
            if without != text:
                kept[key] = text
            return without

        alerts = [{**rule, "webhook": shown(rule["id"], rule["webhook"] or "") or None} for rule in about["alerts"]]
        hidden = {**about, "source": shown("source", about["source"]), "name": redact(about["name"]), "alerts": alerts}
        self._keep(stream_id, kept)
        return hidden

    def reveal(self, stream_id: str, about: dict[str, Any]) -> dict[str, Any]:
        """`about` as it was before `hide`."""
        kept = self._kept.get(stream_id, {})
        alerts = [{**rule, "webhook": kept.get(rule["id"], rule["webhook"])} for rule in about.get("alerts", ())]
        return {**about, "source": kept.get("source", about["source"]), "alerts": alerts}

    def forget(self, stream_id: str) -> None:
        self._keep(stream_id, {})

    def _keep(self, stream_id: str, kept: dict[str, str]) -> None:
        if kept == self._kept.get(stream_id, {}):
            return
        others = {name: own for name, own in self._kept.items() if name != stream_id}
        wanted = {**others, stream_id: kept} if kept else others
        beside = self.path.with_name(f".{self.path.name}.part")
        beside.unlink(missing_ok=True)
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(wanted, file)
        os.replace(beside, self.path)
        self._kept = wanted
