"""What the drills of the server share: real processes that start cheaply, and clients.

A start of Python costs seconds of imports, and some drills need hundreds of processes. So one process imports
everything, makes a toy model and forks: each child is a process of its own that runs the command line, and is killed
like any other. `python -m neverblink.drills.serving FOLDER` is that process.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from runpy import run_module
from typing import Any, NamedTuple, Self

from neverblink.errors import ConfigError

PATIENCE = 180.0  # seconds for anything; the machine may be busy, and what counts is measured


def wait_for(holds: Callable[[], Any], what: str, seconds: float = PATIENCE) -> None:
    """
    Raises:
        TimeoutError: it did not come to hold.
    """
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.01)


class End(NamedTuple):
    """How a process ended after a signal."""

    status: int
    seconds: float
    cpu: float  # of the seconds; the rest is waiting, on a busy machine for the processor


def _cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Child:
    """A process that the starter has forked."""

    def __init__(self, starter: Starter, pid: int, out: Path):
        self.starter, self.pid, self.out = starter, pid, out
        self._status: int | None = None
        self._cpu = 0.0  # seconds that it has taken in all

    def status(self) -> int | None:
        """Exit status, -N for a death by signal N; None while it runs."""
        if self._status is None:
            self._status, self._cpu = self.starter.tell(poll=self.pid)
        return self._status

    def end(self, number: int) -> End:
        """Send a signal and wait."""
        began, before = time.monotonic(), _cpu_of(self.pid)
        os.kill(self.pid, number)
        wait_for(lambda: self.status() is not None, f"the end of process {self.pid}")
        assert self._status is not None
        return End(self._status, time.monotonic() - began, self._cpu - before)

    @property
    def errors(self) -> str:
        return self.out.with_suffix(".err").read_text(errors="replace")


class Starter:
    """Forks command lines; `toy` is the folder of its model."""

    def __init__(self, folder: Path):
        self.folder, self.toy = folder, folder / "toy"
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "BROWSER": "true"}
        command = [sys.executable, "-m", "neverblink.drills.serving", str(self.toy)]
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._count = 0
        self._lock = threading.Lock()
        self.tell()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.communicate("\n")  # kills whoever is left

    def tell(self, **order: Any) -> Any:
        with self._lock:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            if order:
                self._process.stdin.write(json.dumps(order) + "\n")
                self._process.stdin.flush()
            answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the starter has ended: {self._process.communicate()[1][-2000:]}")
        return json.loads(answer)

    def start(self, *arguments: str) -> Child:
        """A process that runs `neverblink ARGUMENTS`."""
        self._count += 1
        out = self.folder / f"process-{self._count}.out"
        return Child(self, self.tell(start=list(arguments), out=str(out)), out)


def _starter(toy: Path) -> list[str]:
    """The starter's life; returns in each child, with its arguments."""
    import torch

    from neverblink import Model
    from neverblink.training.toy import write_toy_checkpoint

    torch.set_num_threads(1)
    for name in ("cli", "memory.output", "server.app", "server.run", "engine.watch"):
        import_module(f"neverblink.{name}")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nobody else may write between the answers
    Model.from_pretrained(write_toy_checkpoint(toy), device="cpu", dtype="float32")
    print(json.dumps("ready"), file=answers, flush=True)
    running: set[int] = set()
    for line in sys.stdin:
        if not line.strip():
            break
        order = json.loads(line)
        if "poll" in order:
            pid, status, used = os.wait4(order["poll"], os.WNOHANG)
            running.discard(pid)
            ended = os.waitstatus_to_exitcode(status) if pid else None
            print(json.dumps([ended, used.ru_utime + used.ru_stime]), file=answers, flush=True)
            continue
        pid = os.fork()
        if not pid:
            os.setsid()
            resource.setrlimit(
                resource.RLIMIT_NOFILE, (1024, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
            )  # as usual
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for number, path in ((1, Path(order["out"])), (2, Path(order["out"]).with_suffix(".err"))):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
            arguments: list[str] = order["start"]
            return arguments
        running.add(pid)
        print(json.dumps(pid), file=answers, flush=True)
    for pid in running:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    sys.exit(0)


class ServerThread:
    """An app that is served by a thread of this process while the block lasts; `port` is where (0: any free one)."""

    def __init__(self, app: Any, port: int = 0):
        from neverblink.server.run import Serving, config_of

        self.app, self.port = app, port
        self._server = Serving(config_of(app, port=port))
        self._thread = threading.Thread(target=self._server.run)

    def __enter__(self) -> Self:
        self._thread.start()
        wait_for(lambda: self._server.started or not self._thread.is_alive(), "the server")
        if not self._server.started:
            raise ConfigError(f"the server does not start at port {self.port}")
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.should_exit = True
        self._thread.join()

    @property
    def hub(self) -> Any:
        return self.app.state.hub


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Served:
    """`neverblink serve` in a process of its own, started again and again at one port."""

    def __init__(self, starter: Starter, data: Path, *arguments: str, key: str | None = None):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            self.port: int = taken.getsockname()[1]
        self.starter, self.data, self.key = starter, data, key
        own = ["--model", str(starter.toy), "--data", str(data), "--port", str(self.port)]
        self._arguments = ["serve", *own, *(["--api-key", key] if key else []), *arguments]
        self.child: Child | None = None
        self.children: list[Child] = []

    def start(self) -> float:
        """Seconds until it was ready."""
        began = time.monotonic()
        self.begin()
        wait_for(self._is_ready, "the server")
        return time.monotonic() - began

    def begin(self) -> Child:
        self.child = self.starter.start(*self._arguments)
        self.children.append(self.child)
        return self.child

    def _is_ready(self) -> bool:
        assert self.child is not None
        if self.child.status() is not None:
            raise RuntimeError(f"the server has ended with {self.child.status()}: {self.child.errors[-2000:]}")
        try:
            return self.ask("GET", "/health/ready").status == 200
        except OSError:
            return False

    def end(self, number: int = signal.SIGTERM) -> End:
        assert self.child is not None
        return self.child.end(number)

    def ask(
        self, method: str, path: str, value: Any = None, headers: dict[str, str] | None = None, *, key: bool = True
    ) -> Answer:
        """One request; the path goes out byte for byte. A body that is no bytes is sent as JSON."""
        given = {"Authorization": f"Bearer {self.key}"} if key and self.key else {}
        given.update(headers or {})
        body = value if isinstance(value, bytes) or value is None else json.dumps(value).encode()
        if body is not None:
            given.setdefault("Content-Type", "application/json")
            given["Content-Length"] = str(len(body))
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            # Not `request`: it would mend paths, and writes a Host of its own.
            connection._validate_path = lambda url: None  # type: ignore[attr-defined]
            connection.putrequest(method, path, skip_host="Host" in given, skip_accept_encoding=True)
            for name, text in given.items():
                connection.putheader(name, text)
            connection.endheaders(body)
            answer = connection.getresponse()
            found = {name.lower(): text for name, text in answer.getheaders()}
            endless = found.get("content-type", "").startswith("text/event-stream") and "content-length" not in found
            return Answer(answer.status, found, b"" if endless and method != "POST" else answer.read())
        finally:
            connection.close()

    def events(self, stream_id: str, after: int) -> Heard:
        return Heard(self, f"/v1/streams/{stream_id}/events?after={after}")

    def rss(self) -> int:
        """Resident bytes."""
        assert self.child is not None
        text = Path(f"/proc/{self.child.pid}/status").read_text()
        return int(text.partition("VmRSS:")[2].split()[0]) * 1024


class Heard(threading.Thread):
    """A client that listens until the connection ends; `events` is what it has heard, by number."""

    def __init__(self, served: Served, path: str):
        super().__init__(daemon=True)
        self.events: list[dict[str, Any]] = []
        self._connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=PATIENCE)
        headers = {"Authorization": f"Bearer {served.key}"} if served.key else {}
        self._connection.request("GET", path, headers=headers)
        self._answer = self._connection.getresponse()
        self.start()

    def run(self) -> None:
        try:
            for event in numbered(iter(self._answer.readline, b"")):
                self.events.append(event)
        except (OSError, http.client.HTTPException):
            pass  # the server is gone
        finally:
            self._connection.close()

    @property
    def steps(self) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] in ("caption", "silence")]


def numbered(lines: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    """Those server-sent events that have an id, whole ones only: their JSON, with `id`."""
    number, data = None, b""
    for line in lines:
        if line.startswith(b"id: "):
            number = int(line[4:])
        elif line.startswith(b"data: "):
            data = line[6:]
        elif line == b"\n":
            if number is not None:
                yield {**json.loads(data), "id": number}
            number, data = None, b""


CUE = re.compile(r"(\d\d+:\d\d:\d\d\.\d{3}) --> (\d\d+:\d\d:\d\d\.\d{3})\n([^\n<>]+)\n\n")


def cues(text: str) -> list[str]:
    """Texts of a WebVTT file of ours.

    Raises:
        ValueError: something in it is neither header nor cue.
    """
    head, body = text[:8], text[8:]
    if head != "WEBVTT\n\n" or CUE.sub("", body).strip("\n"):
        raise ValueError(f"not WebVTT: {head!r} ... {CUE.sub('', body)[:200]!r}")
    found = CUE.findall(body)
    starts = [start for start, _, _ in found]
    if starts != sorted(starts) or any(start >= end for start, end, _ in found):
        raise ValueError("cues run backwards")
    return [text for _, _, text in found]


if __name__ == "__main__":
    arguments = _starter(Path(sys.argv[1]))
    sys.argv = ["neverblink", *arguments]
    run_module("neverblink", run_name="__main__")
