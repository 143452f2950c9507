"""The long drill of everything at once: cameras that drop at random, a slow client, questions; is a number lost?

Scale 1 is an hour; the cameras are real RTSP servers (Debian's gst-rtsp-server), killed and started again.
"""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from neverblink.drills.base import Finding, drill_of, percentile
from neverblink.drills.serving import Served, Starter, wait_for
from neverblink.memory.journal import Journal

HOUR = 3600.0
FLAT = 10.0  # MB of RSS an hour that caches may still fill
SERVER = Path(__file__).parents[3] / "tests" / "rtsp_server.py"  # a checkout has it
ASK_EVERY = 10.0  # seconds
UP, DOWN = (20.0, 60.0), (2.0, 10.0)  # seconds that a camera is there and not there, drawn anew each time


class Camera:
    """An RTSP server at one port; `run` kills it and starts it again at random."""

    def __init__(self, seed: int):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            self.port: int = taken.getsockname()[1]
        self.url, self.drops = f"rtsp://127.0.0.1:{self.port}/cam", 0
        self._dice = random.Random(seed)
        self._process: subprocess.Popen[str] | None = None
        self.start()

    def start(self) -> None:
        command = ["/usr/bin/python3", str(SERVER), str(self.port), "4"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self._process.stdout is not None
        if self._process.stdout.readline().strip() != "ready":
            raise OSError("no RTSP server; install Debian's gir1.2-gst-rtsp-server-1.0 and gstreamer1.0-plugins-ugly")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()  # type: ignore[union-attr]
            self._process = None

    def run(self, over: threading.Event) -> None:
        while not over.wait(self._dice.uniform(*UP)):
            self.stop()
            self.drops += 1
            if over.wait(self._dice.uniform(*DOWN)):
                return
            self.start()


class SlowClient(threading.Thread):
    """Listens to everything, and reads a few bytes a second."""

    def __init__(self, port: int, over: threading.Event):
        super().__init__(daemon=True)
        self.port, self.over, self.bytes, self.cut = port, over, 0, 0

    def run(self) -> None:
        while not self.over.is_set():
            with socket.socket() as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
                client.connect(("127.0.0.1", self.port))
                client.sendall(f"GET /v1/events?after=0 HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n\r\n".encode())
                while not self.over.wait(1.0):
                    data = client.recv(64)
                    self.bytes += len(data)
                    if not data:
                        self.cut += 1
                        break


def soak(folder: Path, scale: float) -> Finding:
    seconds, over = max(40.0, HOUR * scale), threading.Event()
    with ExitStack() as stack:
        cameras = [Camera(seed) for seed in (1, 2)]
        for camera in cameras:
            stack.callback(camera.stop)
        stack.callback(over.set)
        starter = stack.enter_context(Starter(folder))
        served = Served(starter, folder / "data", "--allow-private-urls")
        served.start()
        sources = [*(camera.url for camera in cameras), "arcade:pong?seed=1"]
        ids = [served.ask("POST", "/v1/streams", {"source": source}).json["id"] for source in sources]
        wait_for(lambda: not resume(served) and all(reached(served, stream_id) for stream_id in ids), "the cameras")
        heard = {stream_id: served.events(stream_id, -1) for stream_id in ids}
        slow = SlowClient(served.port, over)
        slow.start()
        threads = [threading.Thread(target=camera.run, args=(over,), daemon=True) for camera in cameras]
        for thread in threads:
            thread.start()
        rss, answers, refused, resumed = _ask_and_weigh(served, ids, seconds)
        states = {s["id"]: s["state"] for s in served.ask("GET", "/v1/streams").json["streams"]}
        over.set()
        for thread in threads:
            thread.join()
        for stream_id in ids:
            served.ask("POST", f"/v1/streams/{stream_id}/pause")
        time.sleep(2)
        status = served.end(signal.SIGTERM).status
        wait_for(lambda: not any(ear.is_alive() for ear in heard.values()), "the listeners")
    lost = twice = captions = gaps = 0
    with Journal(folder / "data" / "journal.db", read_only=True) as book:
        for stream_id in ids:
            events = [entry.event for entry in book.events(stream_id, limit=10**7)]
            seqs = [event.seq for event in events]
            lost += seqs != list(range(len(seqs)))
            captions += sum(event.type in ("caption", "silence") for event in events)
            gaps += sum(event.type == "gap" for event in events)
            times = [event.t_end for event in events if event.type in ("caption", "silence")]
            lost += times != sorted(times)
            numbers = [event["seq"] for event in heard[stream_id].events]
            twice += len(numbers) - len(set(numbers))
            lost += len(set(range(numbers[0], numbers[-1] + 1)) - set(numbers)) if numbers else 1
    slope = _slope(rss)
    drops = sum(camera.drops for camera in cameras)
    figure = (
        f"{seconds / 60:.0f} min of wall time: two RTSP cameras killed {drops} times, {gaps} gaps told, {resumed} "
        f"streams failed and were resumed by a call, at the end {', '.join(sorted(states.values()))}; {captions} "
        f"seconds watched; {len(answers)} questions answered (p95 {percentile(answers, 0.95):.1f} s), {refused} "
        f"refused; the slow client cut {slow.cut} times; sequence numbers lost {lost}, twice {twice}; RSS "
        f"{rss[len(rss) // 4][1]:.0f} -> {rss[-1][1]:.0f} MB, slope {slope:+.1f} MB an hour after the first quarter; "
        f"exit {status}"
    )
    measured = {"seconds": seconds, "drops": drops, "gaps": gaps, "captions": captions, "answers": len(answers)}
    measured |= {
        "lost": lost,
        "twice": twice,
        "resumed": resumed,
        "rss_mb_an_hour": slope,
        "rss_mb_end": rss[-1][1],
        "refused": refused,
    }
    alive = all(state == "running" for state in states.values())
    return Finding(figure, alive and not lost and not twice and status == 0 and slope <= FLAT, measured)


def reached(served: Served, stream_id: str) -> float:
    """Media seconds watched."""
    return float(served.ask("GET", f"/v1/streams/{stream_id}").json["media_seconds"])


def resume(served: Served) -> int:
    """Have failed streams go on, as an operator would; how many."""
    failed = [s for s in served.ask("GET", "/v1/streams").json["streams"] if s["state"] == "failed"]
    for stream in failed:
        print(f"{stream['id']}: {stream['trouble']}", file=sys.stderr, flush=True)
        served.ask("POST", f"/v1/streams/{stream['id']}/resume")
    return len(failed)


def _ask_and_weigh(
    served: Served, ids: list[str], seconds: float
) -> tuple[list[tuple[float, float]], list[float], int, int]:
    """(second, MB) of the server's memory, seconds of each answer, questions refused, streams that failed."""
    resumed = 0
    began, rss, answers, refused = time.monotonic(), list[tuple[float, float]](), list[float](), 0
    asked = 0
    while (now := time.monotonic() - began) < seconds:
        rss.append((now, served.rss() / 2**20))
        if now >= asked * ASK_EVERY:
            stream_id, at = ids[asked % len(ids)], time.monotonic()
            asked += 1
            told: Any = served.ask("POST", f"/v1/streams/{stream_id}/ask", {"question": "What now?", "stream": False})
            if told.status == 200:
                answers.append(time.monotonic() - at)
            else:
                refused += 1
            resumed += resume(served)
        if round(now) % 60 == 0:
            print(f"{now:.0f} s: {rss[-1][1]:.0f} MB, {len(answers)} answers", file=sys.stderr, flush=True)
        time.sleep(1)
    return rss, answers, refused, resumed


def _slope(rss: list[tuple[float, float]]) -> float:
    """MB an hour, behind the first quarter."""
    late = np.array(rss[len(rss) // 4 :])
    return float(np.polyfit(late[:, 0], late[:, 1], 1)[0]) * 3600


R9B = drill_of(
    "R9",
    soak,
    "an hour of two cameras that drop at random, a slow client and a question every 10 s",
    f"0 lost sequence numbers, every stream goes on, RSS <= {FLAT:.0f} MB an hour, exit 0",
)
DRILLS = (R9B,)
