"""What every source promises, and the options that every source understands.

A source gives frames that are already sampled: media times are seconds, never negative, strictly increasing, and (but
for the start of a new connection) whole multiples of 1/fps.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, Self
from urllib.parse import urlsplit

from neverblink.errors import ConfigError
from neverblink.sources.addresses import ReachRule
from neverblink.types import Frame, SourceInfo

OnEvent = Callable[[str, str, float], None]  # (type: source | gap | error | drop, text, media seconds)


def _ignore(kind: str, text: str, at: float) -> None:
    """The default listener: the frames themselves are enough."""


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """How a source is sampled and how long it is waited for; all times are seconds."""

    fps: float = 2.0  # frames per media second
    realtime: bool = False  # pace a file by the wall clock; its frames are still never dropped
    start: float = 0.0  # media time of the first frame wanted
    end: float | None = None  # media time at which a source is over
    max_pixels: int = 1280 * 720  # larger frames are scaled down, keeping their aspect
    open_timeout: float = 5.0  # until the source says what it is
    read_timeout: float = 4.5  # between two signs of life; below 5 so that a stall is told within 5
    queue_seconds: float = 1.0  # media seconds that may wait between source and reader
    retry: bool = True  # live sources reconnect for ever
    reach: ReachRule = "named"  # where a network source may lead: addresses.Reach
    verify_tls: bool = True  # refuse a peer that cannot prove its name; SSL_CERT_FILE names other authorities
    on_event: OnEvent = _ignore  # called from the thread that reads the frames

    def __post_init__(self) -> None:
        if not 0 < self.fps <= 240:
            raise ConfigError(f"fps is {self.fps}; it must be above 0 and at most 240")
        if self.start < 0:
            raise ConfigError(f"start is {self.start} s; it cannot be negative")
        if self.end is not None and self.end <= self.start:
            raise ConfigError(f"end is {self.end} s, not after start {self.start} s")
        if self.max_pixels < 256:
            raise ConfigError(f"max_pixels is {self.max_pixels}; it must be at least 256")
        for name in ("open_timeout", "read_timeout", "queue_seconds"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name)} s; it must be above 0")


class Source(Protocol):
    """A context manager that yields frames; `info` is valid inside the `with` block only."""

    info: SourceInfo

    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...

    def frames(self) -> Iterator[Frame]:
        """Yield sampled frames; raises SourceDamaged after the last good frame of a broken file."""
        ...

    def take_dropped(self) -> int:
        """Frames that were lost since the last call because the reader was late (live sources only)."""
        ...

    def close(self) -> None: ...


def redact(text: str) -> str:
    """Remove what may be a secret from a URL, or from each URL in a message: user, password, query and fragment."""
    return re.sub(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+", lambda match: _redact_one(match.group()), text)


def _redact_one(url: str) -> str:
    scheme, rest = url.split("://", 1)
    authority, slash, path = rest.partition("/")
    path, query, _ = path.partition("?")
    if "@" in path:  # a careless password with a slash in it looks like this
        authority, path = "...", path.rpartition("@")[2]
    host = authority.rpartition("@")[2].split("?")[0].split("#")[0]
    return f"{scheme}://{host}{slash}{path.split('#')[0]}{'?...' if query else ''}"


def scheme_of(name: str) -> str:
    """The lower-case URL scheme of a name, or "" where it has none."""
    return urlsplit(name).scheme if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", name) else ""
