"""Drills of the sources: changes in mid-stream, overload, and what is left behind after many openings."""

from __future__ import annotations

import contextlib
import gc
import itertools
import math
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from neverblink.drills.base import Finding, drill_of, percentile
from neverblink.drills.cameras import RtspCamera, clip, mjpeg, virtual_screen, web
from neverblink.errors import NeverblinkError
from neverblink.sources import SourceOptions, open_source
from neverblink.sources.push import PushSource


def changing(folder: Path, scale: float) -> Finding:
    """R6: two seconds of one kind, then two of another, in one stream; each picture says its own number."""
    size, other = (64, 48), (96, 64)
    parts: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
        "resolution, h264 ES": ({"size": size}, {"size": other}, "h264"),
        "resolution, MPEG-TS": ({"size": size}, {"size": other}, "mpegts"),
        "resolution, MJPEG": ({"size": size, "codec": "mjpeg"}, {"size": other, "codec": "mjpeg"}, "mjpeg"),
        "codec, MPEG-TS (h264 to mpeg2)": ({"size": size}, {"size": size, "codec": "mpeg2video"}, "mpegts"),
        "rotation, MPEG-TS": ({"size": size}, {"size": (48, 64)}, "mpegts"),
    }
    lost: dict[str, int] = {}
    wrong = 0
    for number, (name, (first, second, format_)) in enumerate(parts.items()):
        halves = [
            clip(folder / f"{number}{i}.bin", frames=50, fps=25, format=format_, **how)
            for i, how in enumerate((first, second))
        ]
        path = folder / f"{number}.{ {'mpegts': 'ts'}.get(format_, format_) }"
        path.write_bytes(b"".join(half.read_bytes() for half in halves))
        shown: list[tuple[float, Any]] = []
        with contextlib.suppress(NeverblinkError), open_source(path, SourceOptions(fps=5)) as source:
            for frame in source.frames():
                shown.append((frame.time, frame.pixels))
        seen = {math.floor(at) for at, _ in shown}
        lost[name] = len({0, 1, 2, 3} - seen)
        for at, pixels in shown:
            # In each half the pictures count from 0; the clock goes on.
            true = round(at * 25) % 50 % 28
            told = round((float(np.mean(pixels)) - 16) / 8)
            # At the seam a decoder of the old kind may hold two pictures back for ever.
            wrong += min(abs(true - told), 28 - abs(true - told)) > 2 and not 2.0 <= at < 2.2
        wrong += any(b <= a for (a, _), (b, _) in itertools.pairwise(shown))
    which = ", ".join(f"{name}: {n}" for name, n in lost.items() if n) or "none in any"
    figure = (
        f"{len(parts)} changes ({', '.join(parts)}): at most {max(lost.values())} of 4 chunks lost ({which}), "
        f"{wrong} pictures at a wrong time (0.2 s at the seam left out)"
    )
    return Finding(figure, max(lost.values()) <= 1 and not wrong, {**lost, "wrong_times": wrong})


def overload(folder: Path, scale: float) -> Finding:
    """R7: a camera of 8 frames a second and a model that takes 2; then a file, which loses nothing."""
    seconds, fps = max(5.0, 600 * scale), 8.0
    ages, used, dropped, began = list[float](), 0, 0, list[float]()
    with (
        web(mjpeg(fps * 2)) as base,
        open_source(f"{base}/cam", SourceOptions(fps=fps, end=seconds, queue_seconds=0.5)) as source,
    ):
        # What the pump takes in is counted where it comes in, apart from what the queue says.
        taken = Counter[str]()
        put = source._queue.put  # type: ignore[attr-defined]

        def counting(item: Any, *, may_drop: bool) -> None:
            taken[type(item).__name__] += 1
            put(item, may_drop=may_drop)

        source._queue.put = counting  # type: ignore[attr-defined]
        already = source._queue._waiting_frames + source._queue._dropped  # type: ignore[attr-defined]
        for frame in source.frames():
            now = time.monotonic()
            began.append(now - frame.time)
            ages.append(now - min(began) - frame.time)
            used += 1
            dropped += source.take_dropped()
            time.sleep(4 / fps)
        dropped += source.take_dropped()
    came = taken["Frame"] + already
    path = clip(folder / "file.mp4", frames=100, fps=25)
    with open_source(path, SourceOptions(fps=25)) as file:
        slow = sum(1 for _ in _slowly(file.frames(), 0.005))
        file_dropped = file.take_dropped()
    ages = ages[: -max(1, math.ceil(fps * 0.5))]  # the last wait in the queue when the source is over
    oldest = percentile(ages, 0.99)
    figure = (
        f"{seconds:.0f} s at 4 times the model's rate: frames used are {oldest:.2f} s old (p99), "
        f"{percentile(ages, 0.5):.2f} s (p50); in {came} = used {used} + dropped {dropped}; a file read slowly: "
        f"{slow} of 100 frames, {file_dropped} dropped"
    )
    held = oldest <= 1.5 and came == used + dropped and slow == 100 and not file_dropped
    return Finding(figure, held, {"age_p99_s": oldest, "in": came, "used": used, "dropped": dropped, "file": slow})


def _slowly(items: Any, seconds: float) -> Any:
    for item in items:
        time.sleep(seconds)
        yield item


def cycles(folder: Path, scale: float) -> Finding:
    """R17: every kind of source that this machine has, opened, read for 0, 1 or 3 frames, and closed."""
    import psutil

    count, ourselves = max(2, round(200 * scale)), psutil.Process()
    path = clip(folder / "clip.mp4", frames=60)
    hls = (folder / "clip.ts", clip(folder / "clip.ts", frames=60).read_bytes())[1]

    def counts() -> tuple[int, int, int]:
        gc.collect()
        return ourselves.num_fds(), threading.active_count(), len(ourselves.children(recursive=True))

    def page(handler: Any) -> None:
        if handler.path == "/cam":
            mjpeg(20)(handler)
        elif handler.path == "/clip.ts":
            handler.say(200, hls)
        else:
            handler.say(200, b"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nclip.ts\n#EXT-X-ENDLIST\n")

    left: dict[str, str] = {}
    with web(page) as base, RtspCamera() as camera, virtual_screen() as display:
        names = {
            "file": str(path),
            "http mjpeg": f"{base}/cam",
            "hls": f"{base}/list.m3u8",
            "rtsp": camera.url,
            "arcade": "arcade:pong",
            "screen": "screen",
            "push": "push",
            "refused": str(folder / "nothing.mp4"),
        }
        for kind, name in names.items():
            _open_and_close(name, 2, 1)  # what is loaded once is no leak
            before = _settled(counts, None)
            opened = _open_and_close(name, count, 0)
            after = _settled(counts, before)
            left[kind] = f"{opened} opened"
            if opened < count and kind != "refused" and not (kind == "screen" and not display):
                left[kind] += " NOT ALL OPENED"
            if before != after:
                left[kind] += f", LEFT: fds, threads, children {before} to {after}"
    leaks = [kind for kind, text in left.items() if "LEFT" in text or "NOT" in text]
    figure = (
        f"{count} cycles each of {', '.join(f'{kind} ({text})' for kind, text in left.items())}: descriptors, threads "
        f"and children back at the baseline{' but for ' + ', '.join(leaks) if leaks else ''}"
    )
    return Finding(figure, not leaks, dict(left))


def _settled(counts: Any, wanted: Any) -> Any:
    """Counts once they stand still: our test servers take a moment to notice who has left."""
    deadline, last = time.monotonic() + 5, counts()
    while time.monotonic() < deadline:
        time.sleep(0.3)
        now = counts()
        if now == wanted or (wanted is None and now == last):
            return now
        last = now
    return last


def _open_and_close(name: str, count: int, offset: int) -> int:
    """Cycles that could be opened."""
    opened = 0
    for cycle in range(offset, count + offset):
        with contextlib.suppress(NeverblinkError):
            options = SourceOptions(fps=8)
            source: Any = PushSource("push", options) if name == "push" else open_source(name, options)
            with source:
                opened += 1
                if name == "push":
                    source.offer(np.zeros((8, 8, 3), np.uint8))
                    source.finish()
                for _ in itertools.islice(source.frames(), (0, 1, 3)[cycle % 3]):
                    pass
    return opened


R6 = drill_of("R6", changing)
R7 = drill_of("R7", overload)
R17 = drill_of("R17", cycles)
