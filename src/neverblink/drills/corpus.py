"""Corrupted media, made from seeds: the same number gives the same bytes, on every machine with the same FFmpeg.

Seeds are small videos in twelve containers, encoded here; each input is one of them with bits flipped, bytes lost, a
piece of another spliced in, or numbers in its headers changed.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from neverblink.errors import NeverblinkError
from neverblink.sources import child as decoder
from neverblink.sources.base import SourceOptions
from neverblink.sources.decoded import DecodedSource
from neverblink.sources.file import file_source

# file name -> codec, pixel format, format where the name does not tell it
SEEDS: dict[str, tuple[str, str, str | None]] = {
    "a.mp4": ("libx264", "yuv420p", None),
    "b.mov": ("mpeg4", "yuv420p", None),
    "c.mkv": ("libx265", "yuv420p", None),
    "d.webm": ("libvpx-vp9", "yuv420p", None),
    "e.avi": ("mpeg4", "yuv420p", None),
    "f.ts": ("mpeg2video", "yuv420p", None),
    "g.flv": ("flv1", "yuv420p", None),
    "h.mjpeg": ("mjpeg", "yuvj420p", None),
    "i.ivf": ("libvpx", "yuv420p", None),
    "j.h264": ("libx264", "yuv420p", None),
    "k.png": ("png", "rgb24", "image2"),
    "l.jpg": ("mjpeg", "yuvj420p", "image2"),
}
WIDTH, HEIGHT = 160, 96
HANG_SECONDS = 20.0  # of wall time for an input of a few KB; every limit of ours is far below


def write_seeds(folder: Path) -> list[Path]:
    """The whole seeds; twelve pictures of moving noise each."""
    folder.mkdir(parents=True, exist_ok=True)
    return [_write(folder / name, *how) for name, how in SEEDS.items()]


def _write(path: Path, codec: str, pixel_format: str, format_: str | None) -> Path:
    noise = np.random.default_rng(1).integers(0, 255, (HEIGHT, WIDTH * 2, 3), np.uint8)
    single = format_ == "image2"
    options = {"update": "1"} if single else {}
    quick = {"libx265": {"preset": "ultrafast", "x265-params": "log-level=none"}, "libx264": {"preset": "ultrafast"}}
    with av.open(str(path), "w", format=format_, options=options) as container:
        stream: Any = container.add_stream(codec, rate=12, options=quick.get(codec, {}))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixel_format
        stream.codec_context.time_base = Fraction(1, 12)
        for i in range(1 if single else 12):
            smooth = noise[:, 4 * i : 4 * i + WIDTH] // 4 + np.arange(WIDTH, dtype=np.uint8)[None, :, None]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(smooth), format="rgb24").reformat(
                format=pixel_format
            )
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def corrupted(seeds: list[bytes], number: int) -> tuple[int, str, bytes]:
    """(index of the seed, what was done, the bytes) of input `number`."""
    rng = np.random.default_rng((2026, number))
    which = number % len(seeds)
    ways = (_flip, _scatter, _truncate, _splice, _cut_out, _repeat, _fill, _header, _sizes, _codec)
    way = ways[(number // len(seeds)) % len(ways)]
    data = way(np.frombuffer(seeds[which], np.uint8).copy(), rng, seeds)
    if rng.random() < 0.25:  # misfortunes come together
        data = _flip(data, rng, seeds)
    return which, way.__name__.removeprefix("_"), data.tobytes() or b"\0"


def _flip(data: np.ndarray, rng: np.random.Generator, seeds: list[bytes]) -> np.ndarray:
    for spot in rng.integers(0, max(1, 8 * len(data)), int(rng.integers(1, 200))):
        if len(data):
            data[spot // 8] ^= 1 << (spot % 8)
    return data


def _scatter(data: np.ndarray, rng: np.random.Generator, seeds: list[bytes]) -> np.ndarray:
    spots = rng.integers(0, len(data), max(1, int(len(data) * rng.uniform(0.0005, 0.05))))
    data[spots] = rng.integers(0, 256, len(spots))
    return data


def _truncate(data: np.ndarray, rng: np.random.Generator, seeds: list[bytes]) -> np.ndarray:
    return data[: rng.integers(1, len(data))]


def _splice(data: np.ndarray, rng: np.random.Generator, seeds: list[bytes]) -> np.ndarray:
    other = np.frombuffer(seeds[rng.integers(len(seeds))], np.uint8)
    return np.concatenate([data[: rng.integers(1, len(data))], other[rng.integers(0, len(other)) :]])


def _cut_out(data: np.ndarray, rng: np.random.Generator, seeds: list[bytes]) -> np.ndarray:
    begin = int(rng.integers(0, len(data)))
    return np.delete(data, slice(begin, begin + int(rng.integers(1, 2000))))


def _repeat(data: np.ndarray, rng: np.random.Generator, seeds: list[bytes]) -> np.ndarray:
    begin = int(rng.integers(0, len(data)))
    block = data[begin : begin + int(rng.integers(1, 4000))]
    return np.concatenate([data[:begin], *[block] * int(rng.integers(2, 8)), data[begin:]])


def _fill(data: np.ndarray, rng: np.random.Generator, seeds: list[bytes]) -> np.ndarray:
    begin = int(rng.integers(0, len(data)))
    data[begin : begin + int(rng.integers(1, 2000))] = rng.choice([0, 0xFF, 0x7F, 0x80])
    return data


def _header(data: np.ndarray, rng: np.random.Generator, seeds: list[bytes]) -> np.ndarray:
    """Numbers in the first or the last half KB, where most containers keep their tables."""
    low = 0 if rng.random() < 0.6 else max(0, len(data) - 512)
    for spot in rng.integers(low, min(len(data), low + 512), int(rng.integers(1, 12))):
        data[spot] = rng.choice([0, 1, 0x7F, 0x80, 0xFE, 0xFF, int(rng.integers(256))])
    return data


def _sizes(data: np.ndarray, rng: np.random.Generator, seeds: list[bytes]) -> np.ndarray:
    """Wherever the width or the height stands, in either order of bytes, another one stands now."""
    text = data.tobytes()
    for size in (WIDTH, HEIGHT):
        wrong = int(rng.choice([0, 1, 7, 4096, 16384, 32767, 65535]))
        for order in ("big", "little"):
            text = text.replace(size.to_bytes(2, order), wrong.to_bytes(2, order))  # type: ignore[arg-type]
    return np.frombuffer(text, np.uint8).copy()


def _codec(data: np.ndarray, rng: np.random.Generator, seeds: list[bytes]) -> np.ndarray:
    """The name of the codec is that of another one."""
    names = [b"avc1", b"mp4v", b"FMP4", b"hev1", b"VP80", b"V_MPEGH/ISO/HEVC", b"V_VP9", b"IHDR", b"IDAT", b"avcC"]
    others = [b"vp09", b"av01", b"mp4v", b"avc1", b"ap4h", b"MJPG", b"IDAT", b"IHDR", b"V_VP8", b"H264"]
    text, other = data.tobytes(), others[rng.integers(len(others))]
    for name in names:
        text = text.replace(name, other.ljust(len(name), b"\0")[: len(name)])
    at = int(rng.integers(0, max(1, min(len(text), 4000))))
    return np.frombuffer(text[:at] + rng.bytes(4) + text[at + 4 :], np.uint8).copy()


# -- playing them ---------------------------------------------------------------------------------------------------


class _Forked:
    """A decode child that was forked off this process instead of started: the same code from `child.main` on."""

    def __init__(self, request: bytes):
        ours_in, ours_out = os.pipe(), os.pipe()
        self.pid = os.fork()
        if not self.pid:
            with contextlib.suppress(BaseException):
                os.dup2(ours_in[0], 0)
                os.dup2(ours_out[1], 1)
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
                os.closerange(3, 256)
                decoder.main()
            os._exit(0)
        os.close(ours_in[0])
        os.close(ours_out[1])
        self.stdin, self.stdout = os.fdopen(ours_in[1], "wb", 0), os.fdopen(ours_out[0], "rb", 0)
        with contextlib.suppress(BrokenPipeError):  # it died at once; reading from it will say so
            self.stdin.write(request)
        self.signal = 0  # that ended it, ours not counted
        self.peak_mb = 0.0
        self._gone = False

    def kill(self) -> None:
        for _ in range(5):  # it may be in the middle of its death
            if self._reap(os.WNOHANG):
                return
            time.sleep(0.001)
        os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> None:
        if not self._gone:
            self._reap(0)
            self.signal = 0 if self.signal == signal.SIGKILL else self.signal

    def _reap(self, how: int) -> bool:
        pid, status, used = os.wait4(self.pid, how)
        if pid:
            self._gone = True
            self.signal = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
            self.peak_mb = used.ru_maxrss / 1024
        return self._gone


class ForkedSource(DecodedSource):
    """A file source whose child costs milliseconds; for many thousands of inputs."""

    child: _Forked

    def _start_child(self) -> Any:
        import json

        self.child = _Forked(json.dumps(self.request()).encode() + b"\n")
        self.child_pid = self.child.pid
        return self.child


@dataclass(slots=True)
class Played:
    """What became of many inputs."""

    inputs: int = 0
    parent_crashes: int = 0  # an exception that is none of ours
    hangs: int = 0
    child_signals: Counter[str] = None  # type: ignore[assignment]
    outcomes: Counter[str] = None  # type: ignore[assignment]
    by_kind: Counter[str] = None  # type: ignore[assignment]
    frames: int = 0
    slowest: float = 0.0  # wall seconds
    peak_mb: float = 0.0  # of the largest child
    first_crash: str = ""


def play(folder: Path, first: int, count: int) -> Played:
    """Play inputs `first` to `first + count` through the parent's own reader and a walled child each."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = write_seeds(folder)
    seeds = [path.read_bytes() for path in paths]
    played = Played(child_signals=Counter(), outcomes=Counter(), by_kind=Counter())
    for number in range(first, first + count):
        which, way, data = corrupted(seeds, number)
        path = folder / f"input{paths[which].suffix}"
        path.write_bytes(data)
        _play_one(path, f"{paths[which].suffix[1:]}/{way} {number}", played)
    return played


def _play_one(path: Path, name: str, played: Played) -> None:
    options = SourceOptions(fps=4, end=8.0)
    plain = file_source(str(path), options)
    source = ForkedSource(str(path), plain._url, kind="file", rules=plain._rules, options=options)
    began = time.monotonic()
    outcome = "played"
    try:
        with source:
            for _ in source.frames():
                played.frames += 1
    except NeverblinkError as error:
        outcome = type(error).__name__
    except Exception as error:  # the finding that this drill is for
        played.parent_crashes += 1
        outcome = f"crash {type(error).__name__}"
        played.first_crash = played.first_crash or f"{name}: {error!r}"
    took = time.monotonic() - began
    played.inputs += 1
    played.hangs += took > HANG_SECONDS
    played.slowest = max(played.slowest, took)
    played.outcomes[outcome] += 1
    played.by_kind[name.partition("/")[0]] += 1
    played.peak_mb = max(played.peak_mb, source.child.peak_mb)
    if source.child.signal:
        played.child_signals[signal.Signals(source.child.signal).name] += 1


def cpu_seconds() -> float:
    """Of this process and the children that it has waited for."""
    mine, theirs = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in (mine, theirs))
