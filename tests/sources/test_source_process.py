"""The decode child: small, walled in, replaceable, and gone when it should be."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

import media
from neverblink.errors import SourceDamaged
from neverblink.sources import open_source
from neverblink.sources.life import retry_waits
from neverblink.sources.queue import FrameQueue, Note, Over
from neverblink.types import Frame

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_the_child_imports_neither_torch_nor_transformers():
    """A codec and numpy, nothing with a model in it: the child must start fast and hold nothing of worth."""
    code = "import sys, neverblink.sources.child; print(sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "'av'" in loaded
    assert not any(f"'{name}'" in loaded for name in ("torch", "transformers", "PIL", "scipy"))


def test_a_killed_child_of_a_live_source_is_replaced(tmp_path, watch):
    """kill -9 in mid-stream: an error event, a gap event, and frames again, on one time line (how soon: drill R1)."""
    killed: list[float] = []

    def each(source, frame):
        if frame.time >= 0.5 and not killed:
            killed.append(time.monotonic() - frame.time)
            os.kill(source.child_pid, signal.SIGKILL)
        elif frame.time > 0.8:
            assert abs(time.monotonic() - killed[0] - frame.time) < 5.0  # the time away is counted

    with media.http_server(tmp_path, media.mjpeg_camera(20)) as base:
        watched = watch(f"{base}/cam.mjpg", frames=16, each=each)
    assert 16 == len(watched.frames)
    assert (1, 1) == (len(watched.told("error")), len(watched.told("gap")))


@linux
def test_a_stuck_child_is_replaced(tmp_path, watch):
    """A child that is alive and silent (stopped) is as good as dead."""

    def each(source, frame):
        if frame.time == 0.5:
            os.kill(source.child_pid, signal.SIGSTOP)

    with media.http_server(tmp_path, media.mjpeg_camera(20)) as base:
        watched = watch(f"{base}/cam.mjpg", frames=8, each=each, read_timeout=1.0)
    assert 8 == len(watched.frames)
    assert "nothing arrived in time" in watched.told("error")[0]


def test_a_killed_child_of_a_file_is_an_error_with_a_time(tmp_path, watch):
    """A file cannot come back: the reader is told how far it got."""
    path = media.write_video(tmp_path / "clip.mp4", frames=3000, size=(320, 240))

    def each(source, frame):
        if frame.time == 0.5:
            os.kill(source.child_pid, signal.SIGKILL)

    watched = watch(path, each=each)
    assert isinstance(watched.error, SourceDamaged)
    assert "the decoder died" in str(watched.error)
    assert watched.error.at == watched.times[-1]


@linux
def test_the_child_dies_with_its_parent(tmp_path):
    """kill -9 of the parent leaves no decoder behind, even one that waits for a silent camera."""
    code = (
        "import sys, time\nfrom neverblink.sources import SourceOptions, open_source\n"
        "with open_source(sys.argv[1], SourceOptions(read_timeout=60)) as source:\n"
        "    next(source.frames()); print(source.child_pid, flush=True); time.sleep(60)\n"
    )
    up = threading.Event()
    up.set()
    with media.http_server(tmp_path, media.mjpeg_camera(20, up.is_set, hangs=True)) as base:
        command = [sys.executable, "-c", code, f"{base}/cam.mjpg"]
        parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        child = int(parent.stdout.readline())
        up.clear()
        time.sleep(0.3)
        assert psutil.pid_exists(child)
        parent.kill()
        parent.communicate()
        deadline = time.monotonic() + 3
        while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def held() -> set[tuple[str, object]]:
    """Each open file, thread and child of this process: what others close meanwhile hides nothing of ours."""
    gc.collect()
    found: set[tuple[str, object]] = {("thread", thread) for thread in threading.enumerate()}
    found |= {("child", child.pid) for child in psutil.Process().children(recursive=True)}
    for fd in Path("/proc/self/fd").glob("*"):  # nothing where there is no /proc
        with contextlib.suppress(FileNotFoundError):  # the one that lists them
            found.add(("fd", (fd.name, os.readlink(fd))))
    return found


@linux
def test_open_and_close_leave_nothing_behind(tmp_path):
    """30 cycles, read to the end, left in the middle or not read: no new fd, thread or child."""
    path = media.write_video(tmp_path / "clip.mp4", frames=300)
    before = held()
    for cycle in range(30):
        with open_source(path) as source:
            frames = source.frames()
            list(itertools.islice(frames, (0, 3, 1000)[cycle % 3]))
    assert not held() - before


def test_a_refused_source_leaves_nothing_behind(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing to see\n" * 99)
    before = held()
    for _ in range(5):
        with pytest.raises(Exception, match="not a video"), open_source(tmp_path / "notes.txt"):
            pass
    assert not held() - before


def test_noise_never_reaches_the_parent(tmp_path, watch):
    """Damaged files of six kinds: frames, or one of our own errors, quickly; never a hang, never another exception."""
    noise = np.random.default_rng(7)
    for name in ("a.mp4", "a.ts", "a.mkv", "a.avi", "a.flv", "a.webm"):
        codec = {"a.avi": "mpeg4", "a.webm": "libvpx-vp9"}.get(name, "libx264")
        path = media.write_video(tmp_path / name, codec=codec, frames=60)
        data = bytearray(path.read_bytes())
        for spot in noise.integers(len(data), size=len(data) // 100):
            data[spot] = noise.integers(256)
        path.write_bytes(data)
        assert watch(path).seconds < media.LATE


def frame(number: int) -> Frame:
    return Frame(float(number), np.zeros((1, 1, 3), np.uint8))


def test_a_live_queue_loses_the_oldest_and_counts_it():
    """in = used + dropped; what is left is the newest; notes and the end are never lost."""
    queue = FrameQueue(3)
    queue.put(Note("source", "open", 0.0), may_drop=True)
    for number in range(10):
        queue.put(frame(number), may_drop=True)
    queue.put(Over(), may_drop=True)
    assert 7 == queue.take_dropped()
    assert 0 == queue.take_dropped()
    assert "open" == queue.get().text
    assert [7.0, 8.0, 9.0] == [queue.get().time for _ in range(3)]
    assert [Over(), Over()] == [queue.get(), queue.get()]  # asking twice does not hang


def test_a_file_queue_waits_and_loses_nothing():
    queue = FrameQueue(3)
    writer = threading.Thread(target=lambda: [queue.put(frame(i), may_drop=False) for i in range(50)])
    writer.start()
    assert [float(i) for i in range(50)] == [queue.get().time for _ in range(50)]
    writer.join()
    assert 0 == queue.take_dropped()


def test_a_closed_queue_frees_both_sides():
    queue = FrameQueue(1)
    queue.put(frame(0), may_drop=False)
    writer = threading.Thread(target=queue.put, args=(frame(1),), kwargs={"may_drop": False})
    writer.start()
    queue.close()
    writer.join(2)
    assert not writer.is_alive()
    assert Over() == queue.get()


def test_a_day_of_retries():
    """The first wait is at most half a second, the longest 30, no two sources in step, and it never gives up."""
    waits = list(itertools.islice(retry_waits(random.Random(1)), 4000))
    assert waits[0] <= 0.5
    assert 29 < max(waits) <= 30
    assert sum(waits) > 24 * 3600 / 2
    assert waits[:20] != list(itertools.islice(retry_waits(random.Random(2)), 20))
