"""Cameras for the drills: a real RTSP server in a process of its own, and peers on loopback that misbehave."""

from __future__ import annotations

import contextlib
import http.server
import os
import shutil
import socket
import socketserver
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import av
import numpy as np

from neverblink.errors import ConfigError

SCRIPT = Path(__file__).parents[3] / "tests" / "rtsp_server.py"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class RtspCamera:
    """GStreamer's RTSP server under Debian's own Python, with a moving picture; can be killed and started again."""

    def __init__(self, fps: int = 15):
        if not SCRIPT.exists():
            raise ConfigError(f"no RTSP server at {SCRIPT}; hold this drill from a checkout of the repository")
        self.port, self.fps = free_port(), fps
        self.url = f"rtsp://127.0.0.1:{self.port}/cam"
        self._process: subprocess.Popen[bytes] | None = None

    def switch_on(self) -> None:
        """Returns when it listens."""
        command = ["/usr/bin/python3", str(SCRIPT), str(self.port), str(self.fps)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert self._process.stdout is not None and self._process.stderr is not None
        if self._process.stdout.readline() != b"ready\n":
            why = self._process.stderr.read().decode()[-300:]
            self.kill()
            raise ConfigError(
                "the RTSP server does not start; install scripts/apt-packages.txt with apt-get"
                f" (NEVERBLINK_NO_RTSP=1 leaves its tests out). It said: {why}"
            )

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def __enter__(self) -> Self:
        self.switch_on()
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()


@contextlib.contextmanager
def virtual_screen() -> Iterator[str]:
    """One screen of 1600x1200 by Debian's Xvfb, as this process's DISPLAY, which is yielded; "" where it is missing."""
    if not shutil.which("Xvfb"):
        yield ""
        return
    # Without -noreset it starts anew when its last client leaves, and refuses whoever comes meanwhile.
    command = ["Xvfb", "-noreset", "-displayfd", "1", "-screen", "0", "1600x1200x24", "-nolisten", "tcp"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        before = os.environ.get("DISPLAY")
        os.environ["DISPLAY"] = display = f":{server.stdout.readline().strip()}"
        try:
            yield display
        finally:
            os.environ.pop("DISPLAY")
            if before is not None:
                os.environ["DISPLAY"] = before
            server.kill()


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers with `answer(self)`; says nothing on the terminal."""

    def log_message(self, *args: object) -> None:
        """A drill prints its own lines."""

    def do_GET(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.server.answer(self)  # type: ignore[attr-defined]

    def say(self, status: int = 200, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)


@contextlib.contextmanager
def web(answer: Callable[[Handler], None], port: int = 0) -> Iterator[str]:
    """A web server on loopback; yields http://127.0.0.1:PORT."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    server.answer = answer  # type: ignore[attr-defined]
    with _served(server):
        yield f"http://127.0.0.1:{server.server_address[1]}"


@contextlib.contextmanager
def peer(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    """A TCP peer that does with every connection what `talk` does; yields its port."""

    class One(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                talk(self.request)

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), One)
    server.daemon_threads = True
    with _served(server):
        yield int(server.server_address[1])


@contextlib.contextmanager
def _served(server: Any) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def mjpeg(fps: float, is_up: Callable[[], bool] = lambda: True, sent: list[int] | None = None) -> Callable[..., None]:
    """A camera that sends JPEG pictures whose grey level is their number (modulo 28), and is silent while not up."""
    pictures = [jpeg(number) for number in range(28)]

    def answer(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        handler.end_headers()
        number, due = 0, time.monotonic()
        while True:
            if is_up():
                data = pictures[number % 28]
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                handler.wfile.write(head.encode() + data + b"\r\n")
                number += 1
                if sent is not None:
                    sent.append(number)
            due = max(due + 1 / fps, time.monotonic() - 1)
            time.sleep(max(0.0, due - time.monotonic()))

    return answer


def jpeg(number: int, size: tuple[int, int] = (64, 48)) -> bytes:
    encoder: Any = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height = size
    encoder.pix_fmt, encoder.time_base = "yuvj420p", Fraction(1, 25)
    picture = np.full((size[1], size[0], 3), 16 + 8 * (number % 28), np.uint8)
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuvj420p")
    return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])


def clip(
    path: Path,
    *,
    frames: int = 30,
    fps: int = 30,
    size: tuple[int, int] = (64, 48),
    codec: str = "libx264",
    times: list[int] | None = None,
    options: dict[str, str] | None = None,
    rotation: int | None = None,
    format: str | None = None,
) -> Path:
    """A clip of numbered grey pictures; `times`: the PTS of each, in 1/fps."""
    quick = {"preset": "ultrafast"} if codec == "libx264" else {}
    with av.open(str(path), "w", format=format) as container:
        stream: Any = container.add_stream(codec, rate=fps, options={**quick, **(options or {})})
        stream.width, stream.height = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size = 12
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for i in range(frames):
            picture = np.full((size[1], size[0], 3), 16 + 8 * (i % 28), np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = i if times is None else times[i]
            frame.time_base = Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
