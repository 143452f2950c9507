"""Sources: a name becomes frames.

A name is one of: clip.mp4, camera:0, /dev/video0, 0, rtsp://..., https://.../live.m3u8, screen, screen:2, arcade:pong.
"""

from __future__ import annotations

import os
import re

from neverblink.errors import SourceRefused
from neverblink.registry import Registry
from neverblink.sources.base import Source, SourceOptions, redact, scheme_of
from neverblink.sources.chunks import chunks

__all__ = ["Source", "SourceOptions", "chunks", "open_source", "redact", "source_kinds"]

# Kind -> maker, called as maker(name, options). Kinds other than these are made for names that start with "kind:".
source_kinds = Registry(
    "source",
    {
        "file": "neverblink.sources.file:file_source",
        "camera": "neverblink.sources.camera:camera_source",
        "network": "neverblink.sources.network:network_source",
        "screen": "neverblink.sources.screen:ScreenSource",
        "arcade": "neverblink.sources.arcade:ArcadeSource",
    },
)
NETWORK_SCHEMES = ("rtsp", "rtsps", "http", "https")


def open_source(name: str | os.PathLike[str], options: SourceOptions = SourceOptions()) -> Source:
    """The source of this name, not yet started: use it in a `with` block. Refuses what it does not know."""
    text = os.fspath(name)
    kind = "file" if isinstance(name, os.PathLike) else kind_of(text)
    source: Source = source_kinds[kind](text, options)
    return source


def kind_of(name: str) -> str:
    """The kind of source that a name means; SourceRefused if it means none."""
    if not name or "\0" in name:
        raise SourceRefused("the name of a source is empty or holds a NUL character")
    if re.fullmatch(r"\d{1,3}|/dev/video\d+", name):
        return "camera"
    if name == "screen":
        return "screen"
    scheme = scheme_of(name)
    if scheme in NETWORK_SCHEMES and re.match(r"[a-zA-Z]+://", name):
        return "network"
    if not scheme or (os.path.isfile(name) and scheme not in source_kinds):
        return "file"  # a colon in a file name is allowed; file.py names its path so that nothing else is meant
    if scheme in source_kinds and scheme not in ("file", "network"):
        return scheme
    allowed = [f"{s}://" for s in NETWORK_SCHEMES] + [f"{k}:" for k in source_kinds if k not in ("file", "network")]
    raise SourceRefused(f"{redact(name)}: {scheme}: is not allowed; a source is a file or {', '.join(allowed)}")
