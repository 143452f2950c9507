"""Drills of what sources refuse: other protocols and lists, addresses inside, bombs, and corrupted media."""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np

from neverblink.drills.base import Finding, drill_of
from neverblink.drills.cameras import clip, peer, web
from neverblink.drills.corpus import cpu_seconds, play
from neverblink.errors import NeverblinkError, SourceError, SourceRefused
from neverblink.sources import SourceOptions, open_source
from neverblink.sources.addresses import Reach, parse
from neverblink.sources.rules import MAX_DATA_BYTES

SECRET = "The password is hunter2. A second line that nobody should read aloud.\n" * 40
FOREIGN = (
    "file:{clip} concat:{clip}|{clip} subfile:,,start,0,end,0,,:{clip} data:video/mp2t;base64,AAAA "
    "udp://127.0.0.1:5004 "
    "gopher://127.0.0.1/x rtp://127.0.0.1:5004 rtmp://127.0.0.1/x ftp://127.0.0.1/x sftp://127.0.0.1/x pipe:0 fd:0 "
    "lavfi:testsrc tee:{clip} async:{clip} cache:{clip} unix:/run/x tls://127.0.0.1:1 tcp://127.0.0.1:1 "
    "srt://127.0.0.1:1 "
    "ipfs://x FILE://{clip} crypto:{clip} hls+file://{clip} mmsh://127.0.0.1/x smb://127.0.0.1/x"
)


def tries(name: str | Path, **options: Any) -> tuple[str, int, float]:
    """(what became of it: refused, error or played; frames; wall seconds)."""
    began, frames, outcome = time.monotonic(), 0, "played"
    try:
        with open_source(name, SourceOptions(fps=8, **options)) as source:
            for _ in source.frames():
                frames += 1
    except SourceRefused:
        outcome = "refused"
    except SourceError:
        outcome = "error"
    return outcome, frames, time.monotonic() - began


def foreign(folder: Path, scale: float) -> Finding:
    """S1: by name, by extension, by lists in files and by lists from the network; each must show no picture."""
    video = clip(folder / "clip.ts", frames=25)
    (folder / "notes.txt").write_text(SECRET)
    cases: dict[str, tuple[str, int, float]] = {}
    for name in FOREIGN.split(" "):
        named = name.format(clip=video)
        cases[named] = tries(named)
    texts = dict.fromkeys(("notes.mp4", "notes.nfo", "notes.ans", "notes.vt", "notes.srt", "notes"), SECRET)
    hls = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n"
    texts |= {
        "list.ffconcat": "ffconcat version 1.0\nfile clip.ts\n",
        "list.m3u8": hls.format(video),
        "list.mp4": hls.format(f"file://{video}"),
        "list.ts": hls.format("clip.ts"),
        "list.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
        "list.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"></MPD>',
        "list.png": hls.format(video),
        "key.m3u8": hls.format("clip.ts").replace(
            "#EXTINF", '#EXT-X-KEY:METHOD=AES-128,URI="file:///etc/passwd"\n#EXTINF'
        ),
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
        cases[name] = tries(folder / name)
    inline = f"data:video/mp2t;base64,{base64.b64encode(video.read_bytes()).decode()}"
    targets = [f"file://{video}", str(video), f"concat:{video}", inline, "udp://127.0.0.1:5004", "rtsp://127.0.0.1/x"]
    targets += [
        f"crypto+file://{video}",
        f"subfile,,start,0,end,0,,:{video}",
        "tcp://127.0.0.1:1",
        "gopher://127.0.0.1/",
    ]
    for target in targets:

        def page(handler: Any, target: str = target) -> None:
            handler.say(200, hls.format(target).encode())

        with web(page) as base:
            cases[f"a served list with {target[:30]}"] = tries(f"{base}/x.m3u8")
    shown = [name for name, (_, frames, _) in cases.items() if frames]
    slowest = max(seconds for *_, seconds in cases.values())
    figure = (
        f"{len(cases)} names, files and served lists: {len(cases) - len(shown)} refused with no picture decoded, "
        f"{len(shown)} shown; the slowest took {slowest:.1f} s; one table (sources/rules.py) for files and URLs"
    )
    return Finding(figure, not shown, {"cases": len(cases), "shown": len(shown), "slowest_s": slowest})


PRIVATE = (
    "127.0.0.1 127.1 127.255.255.254 0.0.0.0 10.0.0.1 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 192.0.0.1 "
    "198.18.0.1 224.0.0.1 240.0.0.1 255.255.255.255 2130706433 0x7f000001 0x7f.1 017700000001 0177.0.0.1 "
    "[::1] [::] [fc00::1] [fd00:ec2::254] [fe80::1] [ff02::1] [::ffff:127.0.0.1] [::ffff:a9fe:a9fe] [64:ff9b::7f00:1] "
    "[2002:7f00:1::] [::127.0.0.1] localhost localhost. u:p@127.0.0.1 example.com@127.0.0.1 127.0.0.1\\@example.com "
    "example.com\\.127.0.0.1 \u2460\u2461\u2466.0.0.1 127\u30020\u30020\u30021 %31%32%37.0.0.1 127.0.0.1%00.example.com"
)


def inside(folder: Path, scale: float) -> Finding:
    """S2: what a server's client names; nothing may reach a listener of ours. Then redirects, lists and rebinding."""
    video = clip(folder / "clip.ts", frames=25).read_bytes()
    knocks: list[str] = []
    passed: list[str] = []
    count = 0

    def target(handler: Any) -> None:
        knocks.append(handler.path)
        handler.say(200, video)

    with web(target) as base:
        port = base.rpartition(":")[2]
        for host in PRIVATE.split(" "):
            for scheme in ("http", "https", "rtsp", "rtsps"):
                count += 1
                outcome, frames, _ = tries(f"{scheme}://{host}:{port}/direct", reach="public", open_timeout=2.0)
                if outcome != "refused" or frames:
                    passed.append(f"{scheme}://{host}")
        for kind in ("redirect", "list", "twice"):
            for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433"):
                count += 1
                if _leads_to(f"http://{host}:{port}/{kind}", kind):
                    passed.append(f"{kind} to {host}")
        count, rebound = count + 1, _rebinding(int(port))
        if rebound:
            passed.append("rebinding")
        opened, frames, _ = tries(f"{base}/allowed", reach="any")
    allowed = (opened, frames) == ("played", 7)
    other = [knock for knock in knocks if knock != "/allowed"]
    figure = (
        f"{count} names, redirects, playlists and a name that answers twice: {count - len(passed)} refused, "
        f"{len(other)} connections reached the listener inside; with the option it plays"
    )
    return Finding(figure, not passed and not other and allowed, {"cases": count, "passed": ", ".join(passed)})


def _leads_to(url: str, kind: str) -> bool:
    """Does a page that the user named himself lead to `url`?"""

    def page(handler: Any) -> None:
        if kind == "list":
            handler.say(200, f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{url}\n#EXT-X-ENDLIST\n".encode())
        elif kind == "twice" and handler.path == "/go":
            handler.say(302, Location="/again")
        else:
            handler.say(302, Location=url)

    with web(page) as base:
        return bool(tries(f"{base}/go")[1])


def _rebinding(port: int) -> bool:
    """A name server that says a public address first and 127.0.0.1 from then on: does anything connect inside?"""
    asked: list[str] = []

    def resolve(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        address = "93.184.216.34" if len(asked) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    source: Any = open_source(f"http://rebind.example:{port}/x", SourceOptions(reach="public", open_timeout=1.0))
    source._relay.reach = Reach("public", parse(f"http://rebind.example:{port}/x"), resolve)
    for _ in range(3):
        with contextlib.suppress(NeverblinkError), source:
            return True
        source = open_source(f"http://rebind.example:{port}/x", SourceOptions(reach="public", open_timeout=1.0))
        source._relay.reach = Reach("public", parse(f"http://rebind.example:{port}/x"), resolve)
    return False


# -- bombs ----------------------------------------------------------------------------------------------------------


def png(width: int, height: int) -> bytes:
    """A whole PNG of so many pixels in few bytes: every row is empty, and zlib knows it."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + width * 3)) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _claiming(path: Path, width: int, height: int) -> Path:
    """A small JPEG whose header says another size."""
    from neverblink.drills.cameras import jpeg

    data = bytearray(jpeg(3))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    path.write_bytes(data)
    return path


def _many_samples(path: Path, source: Path, count: int) -> Path:
    """An MP4 whose table says so many samples, all of one size."""
    data = bytearray(source.read_bytes())
    at = data.index(b"stsz")
    data[at + 8 : at + 16] = struct.pack(">II", 16, count)
    at = data.index(b"stts")
    data[at + 12 : at + 16] = struct.pack(">I", count)
    path.write_bytes(data)
    return path


def _many_streams(path: Path, count: int) -> Path:
    with av.open(str(path), "w", format="matroska") as container:
        for _ in range(count):
            stream: Any = container.add_stream("mjpeg", rate=1)
            stream.width, stream.height, stream.pix_fmt = 16, 16, "yuvj420p"
        container.start_encoding()
    return path


def bombs(folder: Path, scale: float) -> Finding:
    """S3: each input alone; how long until it is refused or over, and the largest RSS of its child and of ours."""
    small = clip(folder / "small.mp4", frames=30)
    (folder / "wide.png").write_bytes(png(16384, 16384))
    files: dict[str, Callable[[], Path]] = {
        "8k MP4 (7680x4320)": lambda: clip(folder / "8k.mp4", frames=2, size=(7680, 4320)),
        "PNG 16384x16384": lambda: folder / "wide.png",
        "JPEG that says 65500x65500": lambda: _claiming(folder / "wide.jpg", 65500, 65500),
        "MP4 of 4e9 samples": lambda: _many_samples(folder / "many.mp4", small, 2**32 - 1),
        "MP4 of 1e6 samples": lambda: _many_samples(folder / "million.mp4", small, 10**6),
        "Matroska of 300 streams": lambda: _many_streams(folder / "streams.mkv", 300),
        "60,000 pictures a second": lambda: _crowded(folder / "crowd.mkv"),
    }
    found: dict[str, tuple[str, float, float]] = {}
    ours_before = _status_mb(os.getpid(), "VmRSS")
    for name, make in files.items():
        found[name] = _watched(str(make()))
    for name, answer in _servers(folder).items():
        with web(answer) if not isinstance(answer, _Raw) else _raw(answer) as base:
            found[name] = _watched(f"{base}/x", open_timeout=2.0, read_timeout=2.0, retry=False)
    ours = _status_mb(os.getpid(), "VmRSS") - ours_before
    peak, slowest = max(mb for _, _, mb in found.values()), max(s for _, s, _ in found.values())
    outcomes = {name: f"{outcome} {seconds:.1f} s {mb:.0f} MB" for name, (outcome, seconds, mb) in found.items()}
    played = [name for name, (outcome, *_) in found.items() if outcome == "played"]
    figure = (
        f"{len(found)} bombs: {len(found) - len(played)} refused or ended with an error{' but ' if played else ''}"
        f"{', '.join(played)}, child at most {peak:.0f} MB RSS (limit {MAX_DATA_BYTES >> 20} MB of data), our process "
        f"{ours:+.0f} MB, the slowest {slowest:.1f} s with the child's start and a patience of 2 s"
    )
    return Finding(figure, peak <= 512 and ours <= 50 and not played, {**outcomes, "ours_mb": ours})


def _crowded(path: Path) -> Path:
    """Sixty thousand coded pictures in one second."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=65535)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
        for i in range(60_000):
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


class _Raw:
    """A peer below HTTP."""

    def __init__(self, talk: Callable[[socket.socket], None]):
        self.talk = talk


@contextlib.contextmanager
def _raw(answer: Any) -> Iterator[str]:
    with peer(answer.talk) as port:
        yield f"http://127.0.0.1:{port}"


def _servers(folder: Path) -> dict[str, Any]:
    packed = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(packed.compress(bytes(2**20)) for _ in range(256)) + packed.flush()

    def endless(peer: socket.socket) -> None:
        peer.recv(4096)
        peer.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            peer.sendall(b"10000\r\n" + bytes(65536) + b"\r\n")

    def drip(peer: socket.socket) -> None:
        peer.recv(4096)
        for byte in b"HTTP/1.1 200 OK\r\nX: " + b"x" * 4000:
            peer.sendall(bytes([byte]))
            time.sleep(0.2)

    def long_list(peer: socket.socket) -> None:
        peer.recv(4096)
        peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-mpegurl\r\n\r\n#EXTM3U\n")
        while True:
            peer.sendall(b"#EXTINF:1,\nx.ts\n" * 1000)

    def long_head(peer: socket.socket) -> None:
        peer.recv(4096)
        peer.sendall(b"HTTP/1.1 200 OK\r\n")
        while True:
            peer.sendall(b"X: " + b"x" * 60000 + b"\r\n")

    return {
        "gzip of 256 MB": lambda handler: handler.say(200, bomb, Content_Encoding="gzip"),
        "endless chunked body": _Raw(endless),
        "an answer of a byte each 0.2 s": _Raw(drip),
        "endless playlist": _Raw(long_list),
        "endless head": _Raw(long_head),
        "redirects to itself": lambda handler: handler.say(302, Location="/x"),
    }


def _watched(name: str, **options: Any) -> tuple[str, float, float]:
    """(outcome, wall seconds, peak MB of the child)."""
    source: Any = open_source(name, SourceOptions(fps=8, **options))
    peak, over = [0.0], threading.Event()

    def look() -> None:
        while not over.wait(0.01):
            if source.child_pid is not None:
                peak[0] = max(peak[0], _status_mb(source.child_pid, "VmHWM"))

    thread = threading.Thread(target=look)
    thread.start()
    began, outcome = time.monotonic(), "played"
    try:
        with source:
            for _ in source.frames():
                if time.monotonic() - began > 30:
                    outcome = "endless"
                    break
    except NeverblinkError as error:
        outcome = type(error).__name__
    finally:
        took = time.monotonic() - began
        over.set()
        thread.join()
    return outcome, took, peak[0]


def _status_mb(pid: int, field: str) -> float:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024
    return 0.0


def corpus(folder: Path, scale: float) -> Finding:
    """S4: corrupted media of twelve containers, each through the parent's reader and a walled child of its own."""
    count, began = max(24, round(21_600 * scale)), cpu_seconds()
    played = play(folder, 0, count)
    outcomes = ", ".join(f"{outcome} {n}" for outcome, n in played.outcomes.most_common())
    died = ", ".join(f"{n} by {name}" for name, n in played.child_signals.items()) or "none"
    figure = (
        f"{played.inputs} inputs of {len(played.by_kind)} containers: parent crashes {played.parent_crashes}, hangs "
        f"{played.hangs}; {outcomes}; children that died: {died}; slowest {played.slowest:.1f} s, largest child "
        f"{played.peak_mb:.0f} MB"
    )
    numbers: dict[str, Any] = {
        "inputs": played.inputs,
        "crashes": played.parent_crashes,
        "hangs": played.hangs,
        **played.outcomes,
    }
    numbers |= {"child_deaths": died, "peak_mb": played.peak_mb, "cpu_s": cpu_seconds() - began}
    return Finding(figure, not played.parent_crashes and not played.hangs, numbers)


S1 = drill_of("S1", foreign)
S2 = drill_of("S2", inside)
S3 = drill_of("S3", bombs)
S4 = drill_of("S4", corpus)
