"""Cameras of this machine: V4L2 on Linux, AVFoundation on macOS."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from neverblink.errors import SourceRefused
from neverblink.sources.base import SourceOptions
from neverblink.sources.decoded import DecodedSource


def camera_source(name: str, options: SourceOptions) -> DecodedSource:
    """`camera:0`, `0` or `/dev/video0`."""
    number = re.fullmatch(r"(?:camera:|/dev/video)?(\d{1,3})", name)
    if not number:
        raise SourceRefused(f"{name}: a camera is camera:NUMBER or /dev/videoNUMBER")
    index = int(number[1])
    if sys.platform == "darwin":
        return DecodedSource(name, str(index), kind="camera", rules="avfoundation", options=options)
    device = Path(f"/dev/video{index}")
    if not device.is_char_device():
        found = ", ".join(sorted(str(path) for path in Path("/dev").glob("video[0-9]*"))) or "none"
        raise SourceRefused(f"{name}: no camera {device} here; cameras found: {found}")
    return DecodedSource(name, str(device), kind="camera", rules="v4l2", options=options)
