"""Network video: RTSP cameras, and over HTTP: HLS, MJPEG, transport streams and plain files."""

from __future__ import annotations

from urllib.parse import urlsplit

from neverblink.errors import SourceRefused
from neverblink.sources.base import SourceOptions, redact
from neverblink.sources.decoded import DecodedSource

RULES_OF = {"rtsp": "rtsp", "rtsps": "rtsp", "http": "http", "https": "http"}


def network_source(name: str, options: SourceOptions) -> DecodedSource:
    """A source named by a URL; it counts as live unless it says how long it is."""
    try:
        parts = urlsplit(name)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise SourceRefused(f"{redact(name)}: not a URL ({redact(str(error))})") from error
    if not host or any(c.isspace() or ord(c) < 32 or c == "\\" for c in name):
        raise SourceRefused(f"{redact(name)}: not a URL with a host")
    return DecodedSource(name, name, kind="network", rules=RULES_OF[parts.scheme], options=options)
