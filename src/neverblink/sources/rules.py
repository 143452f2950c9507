"""What the decode child may open: allow-lists, per kind of source. Everything else is refused before any decode.

FFmpeg renders the text of a .txt file as video (demuxer `tty`), follows lists of other files (`concat`, local `hls`)
and runs filter graphs (`lavfi`); a video model would read a secret file aloud. So: lists of what is allowed, never of
what is not.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_DECODED_PIXELS = 3840 * 2160  # 8.3 megapixels: 4k of every shape; 8k is refused
MAX_CODED_PIXELS = str(int(MAX_DECODED_PIXELS * 1.05))  # as FFmpeg counts: sizes are rounded up to whole blocks
MAX_DATA_BYTES = 440 << 20  # of private memory for the child; with the code it shares that is below 512 MiB
MAX_PICTURES_A_SECOND = 1000  # of media: more is no video, but a way to keep a decoder busy
MAX_PICTURES = 20_000_000  # that a header may announce: nine days at 25 a second
MAX_STREAMS = 32

CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2",
    "matroska,webm",
    "avi",
    "mpegts",
    "mpeg",
    "flv",
    "ogg",
    "ivf",
    "asf",
    "mxf",
    "h264",
    "hevc",
    "mpegvideo",
    "m4v",
    "mjpeg",
)
# One picture is a video of one frame. Its reader is named here and never guessed: FFmpeg's own choice, `image2`, takes
# a file name for a pattern and opens others.
PICTURES = {".png": "png_pipe", ".jpg": "jpeg_pipe", ".jpeg": "jpeg_pipe", ".webp": "webp_pipe", ".bmp": "bmp_pipe"}
VIDEO_CODECS = frozenset(
    {"h264", "hevc", "av1", "libdav1d", "vp8", "vp9", "libvpx", "libvpx-vp9", "theora", "prores", "dnxhd", "mjpeg"}
    | {"mpeg1video", "mpeg2video", "mpeg4", "msmpeg4", "msmpeg4v1", "msmpeg4v2", "wmv1", "wmv2", "wmv3", "vc1"}
    | {"h263", "flv", "ffv1", "huffyuv", "rawvideo", "png", "webp", "bmp"}
)


@dataclass(frozen=True, slots=True)
class Rules:
    """The allow-lists of one kind of source."""

    protocols: tuple[str, ...]
    formats: tuple[str, ...]
    format: str | None = None  # this demuxer and no guessing
    options: tuple[tuple[str, str], ...] = ()


RULES = {
    "file": Rules(("file",), CONTAINERS),
    **{reader: Rules(("file",), (reader,), reader) for reader in PICTURES.values()},
    # No TLS: the relay speaks it, since FFmpeg checks no certificate of a playlist's segments.
    "http": Rules(
        ("http", "tcp", "crypto"),
        (*CONTAINERS, "hls", "mpjpeg", "aac"),
        options=(("http_persistent", "0"), ("http_multiple", "0")),
    ),
    # TCP only: UDP would need an open port here, and loses packets on the way.
    "rtsp": Rules(
        ("rtsp", "rtp", "tcp"),
        ("rtsp",),
        "rtsp",
        # fpsprobesize: the rate is in the description; measuring it would hold the first picture up for 1.3 s.
        (("rtsp_transport", "tcp"), ("allowed_media_types", "video"), ("fpsprobesize", "0")),
    ),
    "v4l2": Rules(("file",), ("video4linux2,v4l2",), "v4l2"),
    "avfoundation": Rules(("file",), ("avfoundation",), "avfoundation", (("framerate", "30"),)),
}
