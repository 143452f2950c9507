"""A server that runs in a thread of this process, on a toy model of the real class."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from neverblink import Model, SpeakOptions, StreamOptions
from neverblink.drills.cameras import free_port
from neverblink.drills.serving import ServerThread
from neverblink.server.app import make_app
from neverblink.server.options import ServeOptions
from tests.checkpoints import toy_checkpoint

OPTIONS = StreamOptions(
    fps=2.0,
    policy_options={"sink_tokens": 8, "text_window": 24, "vision_seconds": 2.0},
    speak=SpeakOptions(max_tokens_per_second=4, answer_tokens=12, temperature=0.8),
    question_tokens=96,
)


class Server(ServerThread):
    """Runs an app until it is stopped; `url` is where."""

    def __init__(self, folder: Path, port: int | None = None, kv_dtype: str = "", **options: Any):
        port = port or free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.options = ServeOptions(data=str(folder), port=port, **options)
        model = Model.from_pretrained(toy_checkpoint(), device="cpu", dtype="float32")
        super().__init__(make_app(model, self.options, replace(OPTIONS, kv_dtype=kv_dtype)), port)

    def call(self, path: str, method: str = "GET", value: Any = None, **headers: str) -> Any:
        return call(self.url + path, method, value, **headers)

    def start(self, **spec: Any) -> str:
        stream_id: str = self.call("/v1/streams", "POST", spec)["id"]
        return stream_id

    def watched(self, stream_id: str, seconds: float) -> dict[str, Any]:
        """Wait until a stream has watched so many media seconds."""
        wait_for(lambda: self.call(f"/v1/streams/{stream_id}")["media_seconds"] >= seconds)
        told: dict[str, Any] = self.call(f"/v1/streams/{stream_id}")
        return told


class Refused(Exception):
    def __init__(self, status: int, body: bytes, headers: Any):
        super().__init__(f"{status}: {body[:300]!r}")
        self.status, self.headers = status, headers
        self.body = json.loads(body) if "json" in headers.get("content-type", "") else body


def call(url: str, method: str = "GET", value: Any = None, **headers: str) -> Any:
    """The JSON (or bytes) that a request is answered with; Refused for anything that is not 2xx."""
    data = value if isinstance(value, bytes) or value is None else json.dumps(value).encode()
    given = {name.replace("_", "-"): text for name, text in headers.items()}
    if data is not None:
        given.setdefault("Content-Type", "application/json")
    request = urllib.request.Request(url, data, given, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            body = answer.read()
            return json.loads(body) if "json" in answer.headers.get("content-type", "") else body
    except urllib.error.HTTPError as error:
        raise Refused(error.code, error.read(), error.headers) from None


def wait_for(holds: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def listen(url: str, count: int, **headers: str) -> list[dict[str, Any]]:
    """The first so many numbered events of a stream of server-sent events; `gap` events of the server count too."""
    found: list[dict[str, Any]] = []
    for event in sse(url, **headers):
        if "id" in event or event["event"] == "gap":
            found.append(event)
        if len(found) == count:
            break
    return found


def sse(url: str, **headers: str) -> Iterator[dict[str, Any]]:
    given = {name.replace("_", "-"): text for name, text in headers.items()}
    with urllib.request.urlopen(urllib.request.Request(url, headers=given), timeout=60) as answer:
        event: dict[str, Any] = {}
        for line in answer:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name == "data":
                event["data"] = json.loads(value)
            elif name == "id":
                event["id"] = int(value)
            elif name == "event":
                event["event"] = value
            elif not line.strip() and event:
                yield event
                event = {}
