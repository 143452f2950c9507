"""Names to lazy factories: an unknown name lists the known ones, nothing heavy is imported before it is asked for.

Strangers add entries through package entry points in the group `neverblink.<kind>`; those load last and only when a
name is not ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

from neverblink.errors import UnknownName


class Registry:
    """A table of `name -> "module:attribute"`; the attribute is imported at the first use."""

    def __init__(self, kind: str, builtin: dict[str, str]):
        self.kind = kind
        self._targets: dict[str, Any] = dict(builtin)

    def add(self, name: str, target: Any) -> None:
        """Register an object, or a "module:attribute" string, under a name."""
        self._targets[name] = target

    def remove(self, name: str) -> None:
        """Forget a name that was added."""
        del self._targets[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(set(self._targets) | {e.name for e in self._entries()}))

    def _entries(self) -> Any:
        from importlib.metadata import entry_points  # a quarter of the decode child's start, which has no plug-ins

        return entry_points(group=f"neverblink.{self.kind.replace(' ', '_')}")

    def __getitem__(self, name: str) -> Any:
        target = self._targets.get(name)
        if target is None:
            for entry in self._entries():
                if entry.name == name:
                    target = entry.load()
        if target is None:
            raise UnknownName(f"no {self.kind} {name!r}; known: {', '.join(self)}")
        if isinstance(target, str):
            module, _, attribute = target.partition(":")
            target = getattr(import_module(module), attribute)
        return target
