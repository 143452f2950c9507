"""Files: what can be told to be no video without opening it is refused here, the rest by the child."""

from __future__ import annotations

import os
from pathlib import Path

from neverblink.errors import SourceRefused
from neverblink.sources.base import SourceOptions
from neverblink.sources.decoded import DecodedSource
from neverblink.sources.rules import PICTURES


def file_source(name: str, options: SourceOptions) -> DecodedSource:
    """A video file, or a picture, which is one frame; a directory, an empty file and anything that is no file are
    refused."""
    path = Path(name).expanduser()
    try:
        size = path.stat().st_size
    except (OSError, ValueError) as error:
        raise SourceRefused(f"{name}: no such file ({getattr(error, 'strerror', None) or error})") from error
    if path.is_dir():
        raise SourceRefused(f"{name}: this is a directory; name one video file in it")
    if not path.is_file():
        raise SourceRefused(f"{name}: this is no regular file; name a video file")
    if not size:
        raise SourceRefused(f"{name}: the file is empty (0 bytes)")
    if not os.access(path, os.R_OK):
        raise SourceRefused(f"{name}: the file may not be read (permissions)")
    rules = PICTURES.get(path.suffix.lower(), "file")
    # With the protocol in front, no file name can be taken for another protocol.
    return DecodedSource(name, f"file:{path.resolve()}", kind="file", rules=rules, options=options)
