"""R15: out of memory, NaN, a dead engine's thread, a segmentation fault; what fails, and how soon the rest is back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch

from neverblink.drills.base import Finding, drill_of, percentile
from neverblink.drills.parts import TOY, toy_model
from neverblink.drills.serving import ServerThread, wait_for
from neverblink.memory.journal import Journal


class Here(ServerThread):
    """A server in a thread of this process, whose parts can be broken."""

    def __init__(self, folder: Path):
        from neverblink.server.app import make_app
        from neverblink.server.options import ServeOptions

        super().__init__(make_app(toy_model(folder), ServeOptions(data=str(folder / "data"), max_streams=3), TOY))

    def ask(self, path: str, method: str = "GET", value: Any = None) -> tuple[int, Any]:
        return request(self.port, path, method, value)

    def start(self, seed: int) -> str:
        spec = {"source": f"arcade:pong?seed={seed}", "realtime": False, "seconds": 90_000.0}
        return str(self.ask("/v1/streams", "POST", spec)[1]["id"])

    def reached(self, stream_id: str) -> float:
        return float(self.ask(f"/v1/streams/{stream_id}")[1]["media_seconds"])

    def goes_on(self, stream_id: str, seconds: float = 3) -> float:
        """Wall seconds until it has watched so much more."""
        began, goal = time.monotonic(), self.reached(stream_id) + seconds
        wait_for(lambda: self.reached(stream_id) >= goal, f"stream {stream_id}")
        return time.monotonic() - began

    def state(self, stream_id: str) -> str:
        return str(self.ask(f"/v1/streams/{stream_id}")[1]["state"])


def request(port: int, path: str, method: str = "GET", value: Any = None) -> tuple[int, Any]:
    """Status and JSON of an answer."""
    import http.client
    import json

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        body = None if value is None else json.dumps(value)
        connection.request(method, path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        data = answer.read()
        return answer.status, json.loads(data) if data else None
    finally:
        connection.close()


def _no_memory(reply: Any) -> Any:
    raise MemoryError("no memory")


def _no_device_memory(reply: Any) -> Any:
    raise torch.OutOfMemoryError("the device's memory is full")


def _no_numbers(reply: Any) -> Any:
    return reply * torch.nan


FAULTS: dict[str, Callable[[Any], Any]] = {
    "memory": _no_memory,
    "device memory": _no_device_memory,
    "NaN": _no_numbers,
}


class Broken:
    """Breaks an adapter's forwards for one slot, until it leaves."""

    def __init__(self, adapter: Any, slot: int, fault: Callable[[Any], Any]):
        self._adapter, self._slot, self._fault = adapter, slot, fault

    def __enter__(self) -> Self:
        forward, forward_packed = self._adapter.forward, self._adapter.forward_packed

        def alone(embeds: Any, positions: Any, cache: Any) -> Any:
            hidden = forward(embeds, positions, cache)
            return self._fault(hidden) if cache.slot == self._slot else hidden

        def packed(embeds: Any, positions: Any, cache: Any) -> Any:
            hidden = forward_packed(embeds, positions, cache)
            for segment in cache.segments:
                if segment.cache.slot == self._slot:
                    a, b = segment.start, segment.end
                    hidden = torch.cat([hidden[:a], self._fault(hidden[a:b]), hidden[b:]])
            return hidden

        self._adapter.forward, self._adapter.forward_packed = alone, packed
        return self

    def __exit__(self, *exc: object) -> None:
        del self._adapter.forward, self._adapter.forward_packed


def one_fails(folder: Path, scale: float) -> Finding:
    """Each fault of the model in one of two streams: it alone ends, and is resumed with its memory."""
    others = unready = forgotten = 0
    times: list[float] = []
    with Here(folder) as server:
        good = server.start(1)
        for number, (name, fault) in enumerate(list(FAULTS.items()) * max(1, round(5 * scale))):
            bad = server.start(10 + number)
            server.goes_on(bad)
            session = server.hub.sessions[bad]
            with Broken(server.hub.engine.adapter, session.stream.slot, fault):
                wait_for(lambda: server.state(bad) == "failed", f"the end of {bad} by {name}")  # noqa: B023
                server.goes_on(good)
                others += server.state(good) != "running"
                unready += server.ask("/health/ready")[0] != 200
            at = session.caption.end
            began = time.monotonic()
            server.ask(f"/v1/streams/{bad}/resume", "POST")
            server.goes_on(bad, 1)
            times.append(time.monotonic() - began)
            forgotten += session.stream.turn <= at - 1
            server.ask(f"/v1/streams/{bad}", "DELETE")
    figure = (
        f"{len(times)} times ({', '.join(FAULTS)}): other streams that failed {others}, not ready {unready}; resumed "
        f"by one call with its memory in at most {max(times):.1f} s, {forgotten} without it"
    )
    measured = {"times": len(times), "others_failed": others, "not_ready": unready, "resumed_s_max": max(times)}
    return Finding(figure, not others and not unready and not forgotten and max(times) <= 10, measured)


def thread_dies(folder: Path, scale: float) -> Finding:
    """The engine's thread ends in a round of two streams; what /health/ready says meanwhile, over HTTP."""
    told: list[float] = []
    back: list[float] = []
    lost = 0
    with Here(folder) as server:
        ids = [server.start(i) for i in (1, 2)]
        for stream_id in ids:
            server.goes_on(stream_id)
        engine, watchdog = server.hub.engine, server.hub.watchdog
        bring_back = watchdog._bring_back

        async def held(why: str) -> None:  # until the drill has seen what is said of a dead engine
            import asyncio

            while not seen.is_set():
                await asyncio.sleep(0.005)
            await bring_back(why)

        watchdog._bring_back = held
        for _ in range(max(2, round(20 * scale))):
            died, seen, advance = threading.Event(), threading.Event(), engine.advance
            watchdog._deaths.clear()  # so many in a row are no accident, and it would give up

            def die(advance: Any = advance, died: threading.Event = died) -> Any:
                engine.advance = advance
                died.set()
                raise SystemExit("a fault of ours")

            engine.advance = die
            died.wait(60)
            began = time.monotonic()
            wait_for(lambda: server.ask("/health/ready")[0] == 503, "a word of it")
            told.append(time.monotonic() - began)
            seen.set()
            wait_for(lambda: server.ask("/health/ready")[0] == 200, "the engine")
            for stream_id in ids:
                server.goes_on(stream_id, 1)
            back.append(time.monotonic() - began)
        for stream_id in ids:
            server.ask(f"/v1/streams/{stream_id}/pause", "POST")
        wait_for(lambda: not engine.has_work, "the end of the last second")
        server.hub.worker.call(lambda: None).result(60)
        for stream_id in ids:
            with Journal(server.hub.folder / "journal.db", read_only=True) as book:
                entries = book.events(stream_id, types=["caption", "silence"], limit=10**6)
            starts = [entry.event.t_start for entry in entries]
            lost += starts != [float(i) for i in range(len(starts))]
            lost += server.hub.sessions[stream_id].stream.turn != len(starts)
    figure = (
        f"the engine's thread dies {len(back)} times under 2 streams: /health/ready says so in at most "
        f"{max(told):.2f} s; every stream captions again in p95 {percentile(back, 0.95):.1f} s, max {max(back):.1f} s; "
        f"streams with a lost second or memory {lost}"
    )
    measured = {"deaths": len(back), "told_s_max": max(told), "back_s_max": max(back), "lost": lost}
    return Finding(figure, max(told) <= 1 and max(back) <= 10 and not lost, measured)


def process_dies(folder: Path, scale: float) -> Finding:
    """SIGSEGV and SIGKILL (what the kernel's out-of-memory killer sends): a thread cannot survive those. The drill
    starts `neverblink serve` again, as a supervisor would."""
    import psutil

    toy_model(folder)
    data, times, cpu, remembered = folder / "data", list[float](), list[float](), 0
    numbers = [signal.SIGSEGV, signal.SIGKILL] * max(1, round(3 * scale))
    command = [sys.executable, "-m", "neverblink", "serve", "arcade:pong?seed=1", "--model", str(folder / "toy")]
    command += ["--data", str(data), "--port", "0"]

    def start() -> tuple[subprocess.Popen[str], int]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        child = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        assert child.stderr is not None
        for line in child.stderr:
            if "live page at" in line:
                threading.Thread(target=child.stderr.read, daemon=True).start()
                return child, int(line.rstrip().rstrip("/").rpartition(":")[2])
        raise RuntimeError(f"serve has ended with {child.wait()}")

    def reached(port: int) -> float:
        return float(request(port, "/v1/streams")[1]["streams"][0]["media_seconds"])

    child, port = start()
    for number in numbers:
        goal = reached(port) + 7  # longer than between two snapshots
        wait_for(lambda: reached(port) >= goal, "the stream")  # noqa: B023
        child.send_signal(number)
        child.wait()
        began = time.monotonic()
        child, port = start()
        at = reached(port)
        wait_for(lambda: reached(port) > at, "a caption after the restart")  # noqa: B023
        times.append(time.monotonic() - began)
        cpu.append(sum(psutil.Process(child.pid).cpu_times()[:2]))
    child.terminate()
    child.wait()
    with Journal(data / "journal.db", read_only=True) as book:
        texts = [e.event.text for e in book.events(types=["source"], limit=10**6)]
        remembered = sum("goes on with its memory" in text for text in texts)
    figure = (
        f"ends the process (said in docs/security.md); started again {len(times)} times after SIGSEGV and SIGKILL: a "
        f"caption of the resumed stream after p95 {percentile(times, 0.95):.1f} s of wall time, "
        f"{percentile(cpu, 0.95):.1f} s of CPU; with its memory {remembered} of {len(times)}"
    )
    measured = {"restarts": len(times), "wall_s_max": max(times), "cpu_s_max": max(cpu), "remembered": remembered}
    return Finding(figure, percentile(times, 0.95) <= 10 and remembered == len(times), measured)


R15 = drill_of("R15", one_fails, "out of memory or NaN logits in one of two streams")
R15B = drill_of("R15", thread_dies, "the engine's thread dies")
R15C = drill_of("R15", process_dies, "a segmentation fault, or the kernel's out-of-memory killer")
DRILLS = (R15, R15B, R15C)
