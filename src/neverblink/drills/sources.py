"""Drills of the sources: cameras that die, fall silent, stall or stay away, and wild time stamps."""

from __future__ import annotations

import contextlib
import itertools
import math
import random
import resource
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from neverblink.drills.base import Finding, drill_of, percentile
from neverblink.drills.cameras import RtspCamera, clip, free_port, mjpeg, web
from neverblink.errors import NeverblinkError, SourceError
from neverblink.sources import SourceOptions, open_source
from neverblink.sources.life import SETTLED
from neverblink.sources.sampling import MediaClock, Sampler

Events = list[tuple[float, str, str, float]]  # wall clock, type, text, media seconds


def _listener(events: Events) -> Any:
    return lambda kind, text, at: events.append((time.monotonic(), kind, text, at))


def killed(folder: Path, scale: float) -> Finding:
    """R1: SIGKILL to a real RTSP server, again and again, under a toy model that watches."""
    from neverblink.model import Model
    from neverblink.training.toy import write_toy_checkpoint

    kills, events, rng = max(2, round(50 * scale)), Events(), random.Random(1)
    model = Model.from_pretrained(write_toy_checkpoint(folder / "toy"), device="cpu", dtype="float32")
    detected, retried, back, attempts = [], [], [], []
    camera, stop, captioned = RtspCamera(), threading.Event(), []
    camera.switch_on()
    source: Any = open_source(camera.url, SourceOptions(fps=2.0, on_event=_listener(events)))
    source.life.begin = _noting(source.life.begin, lambda: attempts.append(time.monotonic()))

    def look() -> None:
        for _ in model.watch(source, fps=2.0, pipeline=False, max_tokens_per_second=4):
            captioned.append(time.monotonic())
            if stop.is_set():
                return

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        for _ in range(kills):
            began = time.monotonic()
            _until(lambda began=began: len(_after(captioned, began)) >= 2, 60)
            time.sleep(SETTLED + rng.uniform(0, 1))
            at = time.monotonic()
            camera.kill()
            time.sleep(rng.uniform(1.0, 4.0))
            camera.switch_on()
            ready = time.monotonic()
            _until(lambda ready=ready: _after(captioned, ready), 60)
            told = [when for when, kind, *_ in events if kind == "error" and when > at]
            detected.append(min(told, default=math.inf) - at)
            retried.append(min(_after(attempts, at), default=math.inf) - at)
            back.append(_after(captioned, ready)[0] - ready)
    finally:
        stop.set()
        source.close()
        thread.join(10)
        camera.kill()
    worst = {"detected_max_s": max(detected), "first_retry_max_s": max(retried), "back_p95_s": percentile(back, 0.95)}
    gaps = sum(kind == "gap" for _, kind, *_ in events)
    held = worst["detected_max_s"] <= 3 and worst["first_retry_max_s"] <= 1 and worst["back_p95_s"] <= 2
    figure = (
        f"{kills} kills: detected in at most {worst['detected_max_s']:.2f} s, first retry after at most "
        f"{worst['first_retry_max_s']:.2f} s, captions back p50 {percentile(back, 0.5):.2f} s, "
        f"p95 {worst['back_p95_s']:.2f} s, max {max(back):.2f} s after the server listens; "
        f"{gaps} gap events, our process was never restarted"
    )
    return Finding(
        figure, held and gaps == kills, {**worst, "back_p50_s": percentile(back, 0.5), "kills": kills, "gaps": gaps}
    )


def _noting(call: Any, note: Any) -> Any:
    """`call`, with a note made before each."""

    def noted(*words: Any) -> Any:
        note()
        return call(*words)

    return noted


def _after(times: list[float], begin: float) -> list[float]:
    return [at for at in list(times) if at > begin]


def _until(is_so: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise RuntimeError(f"nothing happened within {seconds:g} s")
        time.sleep(0.005)


def silent(folder: Path, scale: float) -> Finding:
    """R2: RTSP and HTTP peers that accept and say nothing, opened beside a healthy camera."""
    rounds, waits, seen = max(1, round(5 * scale)), [], []
    stop = threading.Event()
    with web(mjpeg(10)) as base, open_source(f"{base}/cam", SourceOptions(fps=5)) as healthy:

        def look() -> None:
            for frame in healthy.frames():
                seen.append((time.monotonic(), frame.time))
                if stop.is_set():
                    return

        thread = threading.Thread(target=look)
        thread.start()
        with socket.create_server(("127.0.0.1", 0), backlog=64) as mute:
            port = mute.getsockname()[1]
            for _, scheme in itertools.product(range(rounds), ("rtsp", "http")):
                began = time.monotonic()
                with contextlib.suppress(SourceError), open_source(f"{scheme}://127.0.0.1:{port}/cam"):
                    raise RuntimeError("a mute peer was opened")
                waits.append(time.monotonic() - began)
        stop.set()
        thread.join()
        lost = healthy.take_dropped()
    holes = [round((b - a) * 5) - 1 for (_, a), (_, b) in itertools.pairwise(seen)]
    figure = (
        f"{len(waits)} silent peers (RTSP and HTTP): error after at most {max(waits):.2f} s; the camera beside them: "
        f"{len(seen)} frames, {sum(holes)} missing, {lost} dropped"
    )
    numbers = {"error_max_s": max(waits), "frames_beside": len(seen), "missing_beside": sum(holes), "dropped": lost}
    return Finding(figure, max(waits) <= 6 and sum(holes) == 0 and lost == 0, numbers)


def stalled(folder: Path, scale: float) -> Finding:
    """R3: the connection stands, nothing more comes; with the options that every stream has."""
    rounds, known, told, resumed = max(1, round(10 * scale)), [], [], []
    up, events = threading.Event(), Events()
    up.set()
    with web(mjpeg(20, up.is_set)) as base:
        source: Any = open_source(f"{base}/cam", SourceOptions(fps=8, on_event=_listener(events)))
        times: list[tuple[float, float]] = []

        def look() -> None:
            for frame in source.frames():
                times.append((time.monotonic(), frame.time))

        with source:
            thread = threading.Thread(target=look)
            thread.start()
            for _ in range(rounds):
                before = len(times)
                _until(lambda before=before: len(times) > before + 8, 30)
                time.sleep(SETTLED)
                up.clear()
                at = time.monotonic()
                _until(lambda: source.life.state == "stalled", 30)
                known.append(time.monotonic() - at)
                _until(lambda at=at: any(kind == "error" and when > at for when, kind, *_ in events), 30)
                told.append(time.monotonic() - at)
                up.set()
                lit = time.monotonic()
                _until(lambda lit=lit: times[-1][0] > lit, 60)
                resumed.append(time.monotonic() - lit)
            source.close()
            thread.join()
    monotonic = all(a < b for (_, a), (_, b) in itertools.pairwise(times))
    figure = (
        f"{rounds} stalls: state `stalled` after at most {max(known):.2f} s, error event after at most "
        f"{max(told):.2f} s, frames again p95 {percentile(resumed, 0.95):.2f} s after the source goes on; "
        "times only go up"
    )
    numbers = {"stalled_max_s": max(known), "error_max_s": max(told), "resumed_p95_s": percentile(resumed, 0.95)}
    return Finding(figure, max(told) <= 5 and monotonic, numbers)


class FakeClock:
    """Time that passes only where a source waits."""

    def __init__(self) -> None:
        self.now, self.waits = 0.0, list[float]()

    def __call__(self) -> float:
        return self.now


def away(folder: Path, scale: float) -> Finding:
    """R4: a real source of a real camera that is switched off for a day of its clock, and then on again."""
    day, clock, events, up = 86_400 * scale, FakeClock(), Events(), threading.Event()
    told_at, times, memory, children = list[float](), list[float](), list[float](), set[Any]()
    port = free_port()

    def hear(kind: str, text: str, at: float) -> None:
        events.append((clock.now, kind, text, at))

    source: Any = open_source(f"http://127.0.0.1:{port}/cam", SourceOptions(fps=8, on_event=hear))
    source._clock = source.life._clock = clock
    source.life._tell = _noting(source.life._tell, lambda: told_at.append(clock.now))
    with contextlib.ExitStack() as cameras:

        def camera(handler: Any) -> None:
            mjpeg(20, up.is_set)(handler) if up.is_set() else None

        def wait(seconds: float) -> bool:
            clock.waits.append(seconds)
            clock.now += seconds
            children.add(source.child_pid)
            if len(clock.waits) % 200 == 0:
                memory.append(_rss_mb())
            if clock.now > day and not up.is_set():
                up.set()
                cameras.enter_context(web(camera, port))
            return False

        source._wait = wait
        up.set()
        off = cameras.enter_context(contextlib.ExitStack())
        off.enter_context(web(_until_down(up), port))
        with source:
            for frame in source.frames():
                times.append(frame.time)
                if len(times) == 4:
                    up.clear()
                    off.close()
                if frame.time > day:
                    break
    gaps = [event for event in events if event[1] == "gap"]
    apart = min((b - a for a, b in itertools.pairwise(told_at)), default=math.inf)
    growth = memory[-1] - memory[len(memory) // 4] if len(memory) > 4 else 0.0
    longest = max(clock.waits)
    held = (
        clock.waits[0] <= 1 and longest <= 30 and apart >= 60 and growth < 2 and len(gaps) == 1 and children == {None}
    )
    figure = (
        f"{day / 3600:.0f} h away on a fake clock: {len(clock.waits)} attempts, the first after {clock.waits[0]:.2f} s,"
        f" none after more than {longest:.1f} s; {len(told_at)} error lines, at least {apart:.0f} s apart; RSS "
        f"{growth:+.1f} MB; no child opens it; one gap event, the stream goes on at {times[-1]:.0f} s"
    )
    numbers = {"attempts": len(clock.waits), "longest_wait_s": longest, "lines": len(told_at), "rss_growth_mb": growth}
    return Finding(figure, held and times == sorted(set(times)), numbers)


def _until_down(up: threading.Event) -> Any:
    """A camera whose connections end with it."""
    from neverblink.drills.cameras import jpeg

    def answer(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        handler.end_headers()
        data = jpeg(3)
        while up.is_set():
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
            handler.wfile.write(head.encode() + data + b"\r\n")
            time.sleep(0.05)

    return answer


def _rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def wild_times(folder: Path, scale: float) -> Finding:
    """R5: generated time stamps against the clock and the sampler that every decoded frame passes; then real files."""
    cases, rng = max(20, round(10_000 * scale)), random.Random(5)
    crashes = backwards = off_grid = jumps = unseen = frames = 0
    for case in range(cases):
        live, fps = bool(case % 2), rng.choice([1.0, 2.0, 8.0, 30.0])
        nominal = rng.choice([1 / 240, 1 / 60, 1 / 30, 1 / 25, 1.0])
        try:
            sent, gaps, leapt = _sampled(list(stamps(rng, nominal)), live, fps, nominal)
        except Exception:  # the finding that this drill is for
            crashes += 1
            continue
        frames += len(sent)
        backwards += any(b <= a for a, b in itertools.pairwise(sent)) or any(at < 0 for at in sent)
        off_grid += any(abs(at * fps - round(at * fps)) > 1e-6 for at in sent)
        jumps += leapt
        unseen += leapt and not gaps
    files, wrong = _wild_files(folder, max(2, round(40 * scale)), rng)
    figure = (
        f"{cases} generated cases, {frames} frames: {crashes} crashes, {backwards} with time that goes back, "
        f"{off_grid} off the grid; of {jumps} leaps of an hour {jumps - unseen} were told as a gap; {files} real files "
        f"(B-frames, VFR, 240 fps, leaps) through the decoder: {wrong} wrong"
    )
    numbers = {"cases": cases, "crashes": crashes, "backwards": backwards, "untold": unseen, "files_wrong": wrong}
    return Finding(figure, not (crashes or backwards or off_grid or unseen or wrong), numbers)


def stamps(rng: random.Random, nominal: float) -> Iterator[float | None]:
    """Raw time stamps in decoding order with one misfortune or several."""
    raw, wrap = rng.choice([0.0, 1e-3, 26.5, 95_443.7, -3.0]), 2**33 / 90_000
    troubles = rng.sample(["leap", "back", "missing", "wrap", "vfr", "reorder", "nan", "same"], rng.randint(0, 4))
    held: float | None = None
    for i in range(rng.randint(2, 120)):
        raw += nominal * (rng.uniform(0, 3) if "vfr" in troubles else 1)
        if "leap" in troubles and i == 40:
            raw += 3600
        if "back" in troubles and i == 60:
            raw -= 3600
        if "wrap" in troubles:
            raw %= wrap
            raw = wrap - nominal if i == 30 else raw
        if "same" in troubles and rng.random() < 0.1:
            yield raw
        if "reorder" in troubles and rng.random() < 0.3:
            held, raw_now = raw, held
            yield raw_now if raw_now is not None else raw
        elif "missing" in troubles and rng.random() < 0.3:
            yield None
        elif "nan" in troubles and rng.random() < 0.05:
            yield rng.choice([math.nan, math.inf, -math.inf])
        else:
            yield raw


def _sampled(raws: list[float | None], live: bool, fps: float, nominal: float) -> tuple[list[float], int, bool]:
    """(times of the frames that are sent, gaps told, was there a leap of an hour?), as child.py walks them."""
    clock = MediaClock(live=live, longest_step=max(3 * nominal, 2.0 if live else 60.0))
    sampler, last, wall, sent, gaps = Sampler(fps), 0.0, 0.0, list[float](), 0
    for raw in raws:
        wall += nominal
        stamp = clock.stamp(raw, nominal=nominal, wall=wall)
        until = stamp.time
        if stamp.jump is not None:
            gaps += 1
            until = min(last + nominal, stamp.time)
        sent += sampler.before(until)
        sampler.skip_to(stamp.time)
        last = stamp.time
        sent += sampler.at(last)
    known = [raw for raw in raws if raw is not None and math.isfinite(raw)]
    return sent, gaps, any(abs(b - a) > 3000 for a, b in itertools.pairwise(known))


def _wild_files(folder: Path, count: int, rng: random.Random) -> tuple[int, int]:
    wrong = 0
    for number in range(count):
        fps, frames = rng.choice([10, 25, 240]), 60
        steps = [rng.choice([1, 1, 1, 2, 5]) if number % 3 == 0 else 1 for _ in range(frames)]
        times = list(itertools.accumulate(steps))
        if number % 4 == 1:
            times = [t + (3600 * fps if i > 30 else 0) for i, t in enumerate(times)]
        options = {"bf": "2"} if number % 2 else {"bf": "0"}
        path = clip(
            folder / f"{number}.{rng.choice(['mp4', 'mkv', 'ts'])}",
            frames=frames,
            fps=fps,
            times=times,
            options=options,
        )
        events = Events()
        shown: list[float] = []
        try:
            with open_source(path, SourceOptions(fps=8, end=30.0, on_event=_listener(events))) as source:
                shown = [frame.time for frame in source.frames()]
        except NeverblinkError:
            wrong += 1
        wrong += not shown or any(b <= a for a, b in itertools.pairwise(shown))
        path.unlink()
    return count, wrong


R1 = drill_of("R1", killed)
R2 = drill_of("R2", silent)
R3 = drill_of("R3", stalled)
R4 = drill_of("R4", away)
R5 = drill_of("R5", wild_times)
