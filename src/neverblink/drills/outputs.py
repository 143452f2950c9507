"""R14: a full disk, a directory that cannot be written, a clock that jumps."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from neverblink.drills.base import Finding, drill_of
from neverblink.drills.parts import TOY, chunk_of, toy_model
from neverblink.drills.serving import Served, Starter, cues, wait_for
from neverblink.errors import ConfigError, SnapshotError
from neverblink.memory.journal import Journal
from neverblink.memory.output import JournalOutput
from neverblink.outputs import OUTPUTS
from neverblink.outputs.base import Outputs, Recorder
from neverblink.testing import ListOutput

FILES = ("vtt", "srt", "jsonl", "journal")
ROOM = 20  # MiB of the server's disk: less than 16 free is told by /health/ready, full is full


@contextmanager
def small_disk(folder: Path, size: str, *, read_only: bool = False) -> Iterator[Path]:
    """A file system of its own (tmpfs).

    Raises:
        OSError: this process may not mount.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
    if done.returncode:
        raise OSError(f"cannot mount a tmpfs ({done.stderr.decode().strip()}); run this drill as root")
    try:
        if read_only:
            subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(disk: Path) -> Path:
    """A file that takes what is left."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(65536))
        except OSError:
            pass
        try:
            while True:
                file.write(b"0")
        except OSError:
            return ballast


def full_disk(folder: Path, scale: float) -> Finding:
    """Every output of one stream on a disk that is full for a third of the time; a healthy listener beside them."""
    chunks, errors, said = max(30, round(300 * scale)), 0, 0
    stream, healthy, recorder = toy_model(folder).stream(TOY), ListOutput(), Recorder("toy")
    with small_disk(folder / "disk", "8m") as disk:
        with ExitStack() as stack:
            named = {name: stack.enter_context(OUTPUTS[name](disk / f"a.{name}")) for name in ("vtt", "srt", "jsonl")}
            journal = stack.enter_context(JournalOutput(disk / "a.db"))
            journal.begin("drill", time.time())
            outputs = Outputs([healthy, *named.values(), journal], recorder)
            for second in range(chunks):
                if second == chunks // 3:
                    ballast = fill(disk)
                if second == 2 * chunks // 3:
                    ballast.unlink()
                for event in recorder.caption(stream.step(chunk_of(second))):
                    outputs.write(event)
        told = [event for event in healthy.events if event.type == "error"]
        errors, said = len(told), sum(event.type in ("caption", "silence") for event in healthy.events)
        texts = cues((disk / "a.vtt").read_text())
        with Journal(disk / "a.db", read_only=True) as book:
            kept = [entry.event.t_start for entry in book.events(types=["caption", "silence"], limit=10**6)]
        seqs = [event.seq for event in healthy.events]
    recovered = kept[-1] == chunks - 1
    names = sorted({event.text.split(":")[0] for event in told})
    whole = said == chunks and seqs == list(range(len(seqs)))
    figure = (
        f"outputs: {said} of {chunks} seconds watched, {errors} error events for {len(names)} outputs that failed; VTT "
        f"valid ({len(texts)} cues), journal sound, both written again once there was room: {recovered}"
    )
    measured = {"seconds": chunks, "errors": errors, "outputs_failed": len(names), "cues": len(texts)}
    return Finding(figure, whole and recovered and errors == len(names) > 0, measured)


def full_server(folder: Path, scale: float) -> Finding:
    """`neverblink serve` with its data folder on a disk that fills up, in a process of its own."""
    times = max(1, round(3 * scale))
    said, back, slowest = [], [], 0.0
    with Starter(folder) as starter, small_disk(folder / "data", f"{ROOM}m") as disk:
        served = Served(starter, disk, "arcade:pong?seed=1")
        served.start()
        (stream_id,) = [stream["id"] for stream in served.ask("GET", "/v1/streams").json["streams"]]

        def reached() -> float:
            return float(served.ask("GET", f"/v1/streams/{stream_id}").json["media_seconds"])

        wait_for(lambda: reached() > 3, "the stream")
        for _ in range(times):
            ballast, began, at = fill(disk), time.monotonic(), reached()
            wait_for(lambda: served.ask("GET", "/health/ready").status == 503, "a word of it")
            said.append(time.monotonic() - began)
            wait_for(lambda: reached() >= at + 5, "inference under a full disk")  # noqa: B023
            slowest = max(slowest, (time.monotonic() - began) / 5)
            ballast.unlink()
            began = time.monotonic()
            wait_for(lambda: served.ask("GET", "/health/ready").status == 200, "its recovery")
            back.append(time.monotonic() - began)
        status = served.end().status
        with Journal(disk / "journal.db", read_only=True) as book:
            last = book.last_second(stream_id)
            seqs = [entry.event.seq for entry in book.events(stream_id, limit=10**6)]
    figure = (
        f"serve: {times} times full: told by /health/ready in {max(said):.1f} s, watching goes on ({slowest:.1f} s of "
        f"wall time a second), ready again {max(back):.1f} s after there was room; exit {status}, journal sound to "
        f"second {last:.0f}"
    )
    held = status == 0 and seqs == sorted(set(seqs)) and max(back) <= 10
    return Finding(figure, held, {"times": times, "told_s_max": max(said), "back_s_max": max(back)})


def read_only(folder: Path, scale: float) -> Finding:
    """Outputs in a directory that cannot be written are refused in one line; a snapshot there costs nothing."""
    stream, refused = toy_model(folder).stream(TOY), 0
    with small_disk(folder / "disk", "512k", read_only=True) as disk:
        for name in FILES:
            try:
                with OUTPUTS[name](disk / f"a.{name}"):
                    pass
            except (ConfigError, OSError) as error:
                refused += "\n" not in str(error) and isinstance(error, ConfigError)
        stream.step(chunk_of(0))
        try:
            stream.save(disk / "s.safetensors")
            told = False
        except SnapshotError:
            told = True
        goes_on = stream.step(chunk_of(1)).end == 2.0
    figure = f"{refused} of {len(FILES)} outputs refused in one line; snapshot refused, the stream goes on: {told}"
    return Finding(figure, refused == len(FILES) and told and goes_on, {"outputs": len(FILES), "refused": refused})


def clock_jumps(folder: Path, scale: float) -> Finding:
    """The wall clock (a fake one) goes back and forth by a day at every second; media time is the source's own."""
    chunks, path = max(20, round(200 * scale)), folder / "a.vtt"
    stream, listener = toy_model(folder).stream(TOY), ListOutput()
    hour = iter(range(10**9))

    def now() -> float:
        number = next(hour)
        return 1_700_000_000 + (-1) ** number * 86_400 * (number % 3)

    recorder = Recorder("toy", now=now)
    with OUTPUTS["vtt"](path) as vtt, JournalOutput(folder / "a.db") as journal:
        journal.begin("drill", 0.0)
        outputs = Outputs([listener, vtt, journal], recorder)
        for second in range(chunks):
            for event in recorder.caption(stream.step(chunk_of(second))):
                outputs.write(event)
    starts = [event.t_start for event in listener.events if event.type in ("caption", "silence")]
    shown = len(cues(path.read_text()))
    with Journal(folder / "a.db", read_only=True) as book:
        kept = len(book.events(types=["caption", "silence"], limit=10**6))
    errors = sum(event.type == "error" for event in listener.events)
    whole = starts == [float(i) for i in range(chunks)] and kept == chunks and not errors
    figure = (
        f"{chunks} jumps of a day: {len(starts)} seconds in order, {shown} valid cues, {kept} in the journal, {errors} "
        f"errors"
    )
    return Finding(figure, whole, {"jumps": chunks, "kept": kept, "cues": shown})


R14 = drill_of("R14", full_disk, "the disk under every output is full")
R14B = drill_of("R14", full_server, "the disk under the server's folder is full")
R14C = drill_of("R14", read_only, "a read-only directory")
R14D = drill_of("R14", clock_jumps, "the clock jumps")
DRILLS = (R14, R14B, R14C, R14D)
