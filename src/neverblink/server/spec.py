"""What a stream of the server is, apart from its being run: what a client asks for, and what the journal remembers."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from neverblink.server.alerts import Rule
from neverblink.sources import kind_of, redact


@dataclass(frozen=True)
class Spec:
    """What a stream is, as the journal remembers it."""

    source: str  # a source's name, "push", or "upload:ID"
    name: str = ""
    realtime: bool | None = None  # None: yes for arcade games and live sources, no for files
    fps: float | None = None  # None: the model's own
    query: str | None = None
    seconds: float | None = None  # media seconds to watch
    alerts: tuple[Rule, ...] = field(default=())
    by_client: bool = False  # named through the API: it may not lead inside our walls

    @property
    def kind(self) -> str:
        return {"push": "push", "upload": "file"}.get(self.source.partition(":")[0]) or kind_of(self.source)

    @property
    def runs_by_the_clock(self) -> bool:
        return self.kind != "file" if self.realtime is None else self.realtime

    @property
    def shown(self) -> str:
        """A name for people, without secrets."""
        return redact(self.name or self.source)


def spec_of(about: dict[str, Any]) -> Spec:
    """A stream as the journal remembers it."""
    known = {f.name for f in fields(Spec)}
    values = {name: value for name, value in about.items() if name in known}
    return Spec(**{**values, "alerts": tuple(Rule(**rule) for rule in values.get("alerts", ()))})
