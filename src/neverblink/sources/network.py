"""Network video: RTSP cameras, and over HTTP: HLS, MJPEG, transport streams and plain files."""

from __future__ import annotations

from neverblink.errors import SourceRefused
from neverblink.sources.addresses import Reach, parse
from neverblink.sources.base import SourceOptions, redact
from neverblink.sources.decoded import DecodedSource
from neverblink.sources.relay import Relay
from neverblink.sources.relay_http import HttpRelay
from neverblink.sources.relay_rtsp import RtspRelay

WAYS: dict[str, tuple[str, type[Relay]]] = {  # scheme -> the child's rules, what stands between it and the network
    "rtsp": ("rtsp", RtspRelay),
    "rtsps": ("rtsp", RtspRelay),
    "http": ("http", HttpRelay),
    "https": ("http", HttpRelay),
}


def network_source(name: str, options: SourceOptions) -> DecodedSource:
    """A source named by a URL; it counts as live unless it says how long it is."""
    try:
        place = parse(name)
    except SourceRefused as error:
        raise SourceRefused(f"{redact(name)}: {error}") from error
    rules, relay = WAYS[place.scheme]
    return DecodedSource(
        name,
        name,
        kind="network",
        rules=rules,
        options=options,
        relay=relay(
            place,
            Reach(options.reach, place),
            dial_timeout=options.open_timeout,
            verify_tls=options.verify_tls,
        ),
    )
