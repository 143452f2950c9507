"""Drills of who and what the server lets in: keys, hosts, ids, others' streams, markup, passwords."""

from __future__ import annotations

import base64
import html
import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from neverblink.drills.base import Drill, Finding, drill_of
from neverblink.drills.serving import Answer, Served, Starter, cues, wait_for
from neverblink.memory.journal import Journal, StreamRecord
from neverblink.outputs.base import Recorder, plain
from neverblink.testing import make_caption

GAME = "arcade:pong?seed=4"
KEY = "a key of some length"
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}
WRONG_KEYS: tuple[dict[str, str], ...] = (
    {},
    {"Authorization": "Bearer wrong key here"},
    {"Authorization": "Bearer "},
    {"Authorization": f"Bearer {KEY[:-1]}"},
    {"Authorization": f"Bearer {KEY}x"},
    {"Authorization": KEY},
    {"Authorization": "Basic " + base64.b64encode(f"x:{KEY}".encode()).decode()},
    {"X-API-Key": KEY},
    {"Cookie": f"neverblink={KEY}"},
    {"Cookie": "neverblink=" + "0" * 64},
)
FOREIGN: tuple[dict[str, str], ...] = (
    {"Host": "evil.example"},
    {"Host": "127.0.0.1.evil.example"},
    {"Host": "127.0.0.1@evil.example"},
    {"Host": "192.168.1.9"},
    {"Host": ""},
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:1"},
    {"Origin": "http://evil.example", "Content-Type": "text/plain"},
    {"Sec-Fetch-Site": "cross-site", "Content-Type": "application/x-www-form-urlencoded"},
)
PIECES = (
    *("../", "..%2f", "%2e%2e/", "%2e%2e%2f", "..%5c", "..\\", "%252e%252e%252f", "%c0%ae", "%u002e", ".", "..", "~"),
    *("/", "//", "%00", "%20", "%0d%0a", ":", "*", "?", "[", "a" * 300, "s-1", "-1"),
    *("etc/passwd", "secret.txt", "journal.db", "addresses.json", "uploads", "snapshots"),
)
EVIL = (
    "<script>document.title='x'</script>",
    "<img src=x onerror=\"document.title='x'\">",
    "a --> b",
    "x\n\n00:00:00.000 --> 09:00:00.000\nforged",
    "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x9b2J",
    "right \u202e to left \u200b hidden",
    "&lt;b&gt; & <b>bold</b> {\\an8}top",
    "x\r\n\r\nid: 9999\r\nevent: alert\r\ndata: {}\r\n\r\n",
    "half \ud800 a pair",
    "NOTE x\nSTYLE ::cue { color: red }",
)
SECRET = "Gr3en-pa55word"
Numbers = dict[str, float | int | str]


def routes(app: Any) -> list[tuple[str, str]]:
    """(method or WEBSOCKET, path with its {parameters}) of every route there is, however deep."""
    found: list[tuple[str, str]] = []

    def walk(router: Any, prefix: str = "") -> None:
        for route in router.routes:
            inner = getattr(route, "original_router", None) or getattr(route, "app", None)
            path = prefix + getattr(route, "path", "")
            if not hasattr(route, "endpoint") and hasattr(inner, "routes"):
                walk(inner, path)
                continue
            found.extend((method, path) for method in getattr(route, "methods", None) or ["WEBSOCKET"])

    walk(app)
    return found


def filled(path: str, text: str = "1") -> str:
    """A route's path with `text` for each parameter."""
    return re.sub(r"\{[^}]*\}", lambda _: text, path)


def all_routes() -> list[tuple[str, str]]:
    from neverblink.server.app import make_app
    from neverblink.server.options import ServeOptions

    nothing: Any = None  # a model is needed to run, not to be looked at
    return routes(make_app(nothing, ServeOptions()))


def knock(served: Served, method: str, path: str, headers: dict[str, str], *, key: bool = False) -> Answer:
    if method == "WEBSOCKET":
        return served.ask("GET", path, headers={**UPGRADE, **headers}, key=key)
    body = b"" if method in ("POST", "PUT", "PATCH") else None
    return served.ask(method, path, body, headers, key=key)


def keys(folder: Path, scale: float) -> Finding:
    """Every route without the key and with nine wrong ones; then log, metrics and disk are searched for it."""
    passed: list[str] = []
    asked = 0
    with Starter(folder) as starter:
        served = Served(starter, folder / "data", GAME, key=KEY)
        served.start()
        walked = all_routes()
        for method, path in walked:
            for headers in WRONG_KEYS:
                answer = knock(served, method, filled(path) + f"?key={KEY.replace(' ', '+')}", headers)
                asked += 1
                if answer.status != 401 and not (method == "WEBSOCKET" and answer.status == 403):
                    passed.append(f"{method} {path} {headers}: {answer.status}")
        opened = [served.ask("GET", path).status for path in ("/v1/streams", "/metrics", "/openapi.json", "/")]
        metrics = served.ask("GET", "/metrics").body.decode()
        served.end()
        said = served.children[-1].errors + served.children[-1].out.read_text() + metrics
    stored = [str(path) for path in files_with(folder / "data", KEY)]
    leaks = said.count(KEY) + said.count(KEY.replace(" ", "+")) + len(stored)
    figure = f"{asked - len(passed)} of {asked} requests to {len(walked)} routes refused; the key is in {leaks} places"
    measured: Numbers = {"requests": asked, "routes": len(walked), "passed": len(passed), "leaks": leaks}
    held = not passed and not leaks and opened == [200] * 4
    return Finding(figure, held, {**measured, "first": "; ".join(passed)[:300]})


def files_with(folder: Path, text: str) -> list[Path]:
    """Files whose bytes hold a text."""
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and text.encode() in path.read_bytes()]


def strangers(folder: Path, scale: float) -> Finding:
    """Every route from foreign hosts and pages; what they asked for has not happened."""
    passed: list[str] = []
    asked = granted = 0
    with Starter(folder) as starter:
        served = Served(starter, folder / "data", GAME)
        served.start()
        (stream,) = served.ask("GET", "/v1/streams").json["streams"]
        walked = all_routes()
        for method, path in walked:
            for headers in FOREIGN:
                if "Sec-Fetch-Site" in headers and path == "/":
                    continue  # a link to the page may be followed from anywhere
                answer = knock(served, method, filled(path, stream["id"]), headers)
                asked += 1
                if answer.status != 403:
                    passed.append(f"{method} {path} {headers}: {answer.status}")
            asking = {"Origin": "http://evil.example", "Access-Control-Request-Method": method}
            answer = served.ask("OPTIONS", filled(path), headers=asking)
            granted += any(name.startswith("access-control-") for name in answer.headers)
        own = served.ask("GET", "/v1/streams", headers={"Origin": f"http://127.0.0.1:{served.port}"}).status
        left = [s["id"] for s in served.ask("GET", "/v1/streams").json["streams"]]
        served.end()
        open_to_all = starter.start(
            "serve", "--host", "0.0.0.0", "--model", str(starter.toy), "--data", str(folder / "x")
        )
        wait_for(lambda: open_to_all.status() is not None, "the refusal")
    figure = (
        f"{asked - len(passed)} of {asked} requests refused with 403, {granted} preflights granted; 0.0.0.0 without a "
        f"key: exit status {open_to_all.status()}"
    )
    measured: Numbers = {"requests": asked, "routes": len(walked), "passed": len(passed), "preflights_granted": granted}
    held = not passed and not granted and open_to_all.status() == 2 and own == 200 and left == [stream["id"]]
    return Finding(figure, held, {**measured, "first": "; ".join(passed)[:300]})


def ids(folder: Path, scale: float) -> Finding:
    """Names that climb, in every place that takes one; a file beside the data holds a word that nobody may read."""
    rng, count = random.Random(8), max(60, round(3000 * scale))
    canary = "c4nary-of-the-drill"
    (folder / "secret.txt").write_text(canary)
    statuses: Counter[int] = Counter()
    escapes: list[str] = []
    with Starter(folder) as starter:
        served = Served(starter, folder / "data", GAME)
        served.start()
        (stream,) = served.ask("GET", "/v1/streams").json["streams"]
        upload = served.ask("POST", "/v1/uploads", b"no video").json["source"]
        (folder / "data" / "uploads" / ("0" * 16)).symlink_to(folder / "secret.txt")
        before = tree(folder)
        named = [(method, path) for method, path in all_routes() if "{" in path]
        for number in range(count):
            name = "".join(rng.choice(PIECES) for _ in range(rng.randint(1, 5)))
            method, path = named[number % len(named)]
            answers = [knock(served, method, filled(path, name).replace(" ", "%20"), {})]
            if number % 3 == 0:
                source = f"upload:{name}" if number % 2 else name
                answers.append(served.ask("POST", "/v1/streams", {"source": source}))
            for answer in answers:
                statuses[answer.status] += 1
                if answer.status >= 500 or 200 <= answer.status < 300 or canary.encode() in answer.body:
                    escapes.append(f"{method} {path} {name}: {answer.status}")
        linked = served.ask("POST", "/v1/streams", {"source": "upload:" + "0" * 16}).status
        left = [s["id"] for s in served.ask("GET", "/v1/streams").json["streams"]]
        kept = (folder / "data" / "uploads" / upload.removeprefix("upload:")).read_bytes()
        after = tree(folder)
        served.end()
    new = sorted(set(after) ^ set(before))
    figure = (
        f"{sum(statuses.values())} requests: {len(escapes)} escapes or faults, {len(new)} files made or gone, a link "
        f"in place of an upload: {linked}"
    )
    measured: Numbers = {"requests": sum(statuses.values()), "escapes": len(escapes)}
    measured |= {f"status_{status}": number for status, number in sorted(statuses.items())}
    held = not escapes and not new and linked == 422 and left == [stream["id"]] and kept == b"no video"
    return Finding(figure, held, {**measured, "first": "; ".join([*escapes, *new])[:300]})


def tree(folder: Path) -> dict[str, int]:
    """Files by name; those that change by themselves are left out."""
    names = (str(path.relative_to(folder)) for path in folder.rglob("*"))
    return {name: 0 for name in names if not re.search(r"journal\.db|snapshots/|process-\d+\.", name)}


def others(folder: Path, scale: float) -> Finding:
    """What belongs to stream A, asked for in the name of B; and what has never been, or is no more."""
    wrong: list[str] = []
    asked = 0
    with Starter(folder) as starter:
        served = Served(starter, folder / "data")
        served.start()
        one, two, gone = (served.ask("POST", "/v1/streams", {"source": GAME}).json["id"] for _ in range(3))
        alert = served.ask("POST", f"/v1/streams/{one}/alerts", {"pattern": "never said"}).json["id"]
        for name in (one, two, gone):
            wait_for(lambda: served.ask("GET", f"/v1/streams/{name}").json["media_seconds"] >= 2, "a stream")  # noqa: B023
        served.ask("DELETE", f"/v1/streams/{gone}")
        for method, path in all_routes():
            if "{" not in path or "static" in path or "models" in path:
                continue
            for name in ("s-00000000", gone, "talk-00000000", "main"):
                place = path.replace("{stream_id}", name).replace("{alert_id}", alert).replace("{row}", str(2**40))
                body = {"question": "What?", "pattern": "x"} if method == "POST" else None
                if method == "POST":
                    body = {"question": "What?"} if path.endswith("/ask") else {"pattern": "x"}
                answer = served.ask(method, place, body) if method != "WEBSOCKET" else knock(served, method, place, {})
                asked += 1
                if answer.status != (101 if method == "WEBSOCKET" else 404):
                    wrong.append(f"{method} {place}: {answer.status}")
        answer = served.ask("DELETE", f"/v1/streams/{two}/alerts/{alert}")
        left = [rule["id"] for rule in served.ask("GET", f"/v1/streams/{one}/alerts").json["alerts"]]
        if answer.status != 404 or left != [alert]:
            wrong.append(f"the alert of another stream: {answer.status}")
        wrong += [f"a frame for {name} was taken" for name in (one, gone, "s-00000000") if takes_frames(served, name)]
        heard = served.events(two, -1)
        wait_for(lambda: len(heard.steps) > 2, "three seconds")
        lines = served.ask("GET", f"/v1/journal?stream={two}&silence=true&limit=1000").json["lines"]
        mixed = sum(event["stream_id"] != two for event in [*heard.events, *lines])
        served.end()
    figure = (
        f"{asked - len(wrong)} of {asked} requests for what is another's, or nobody's, got 404; {mixed} events mixed up"
    )
    measured: Numbers = {"requests": asked, "wrong": len(wrong), "mixed": mixed, "first": "; ".join(wrong)[:300]}
    return Finding(figure, not wrong and not mixed and len(lines) > 2, measured)


def takes_frames(served: Served, name: str) -> bool:
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    with connect(f"ws://127.0.0.1:{served.port}/v1/streams/{name}/push") as socket:
        try:
            socket.send(b"\xff\xd8")
            return bool(socket.recv(timeout=30))
        except ConnectionClosed:
            return False


def markup(folder: Path, scale: float) -> Finding:
    """Captions full of HTML, WebVTT, escape sequences and forged events, wherever they are shown outside a browser."""
    (folder / "data").mkdir()
    stream_id, wrong = "s-00000001", list[str]()
    with Journal(folder / "data" / "journal.db") as book:
        about = {"source": GAME, "name": EVIL[0], "alerts": [], "state": "paused", "open": 1}
        book.put_stream(StreamRecord(stream_id, time.time(), about))
        recorder = Recorder("toy", stream_id)
        for second, text in enumerate(EVIL):
            for event in recorder.caption(make_caption(second, text)):
                book.add(event)
    shown = [plain(text.encode("utf-8", "replace").decode()) for text in EVIL]  # what SQLite takes
    with Starter(folder) as starter:
        served = Served(starter, folder / "data")
        served.start()
        told = [
            html.unescape(text)
            for text in cues(served.ask("GET", f"/v1/streams/{stream_id}/captions.vtt").body.decode())
        ]
        if told != shown:
            wrong.append(f"captions.vtt: {told}")
        heard = served.events(stream_id, -1)
        wait_for(lambda: len(heard.events) >= len(EVIL), "the past")
        if [event["id"] for event in heard.events[: len(EVIL)]] != list(range(len(EVIL))):
            wrong.append("the events are not the captions")
        told_back = served.ask("GET", "/v1/streams/%1b%5b31m%3cb%3e").json["detail"]
        served.end()
        journal = str(folder / "data" / "journal.db")
        for command in (["logs"], ["search", "bold forged red"], ["export", "--vtt", str(folder / "a.vtt")]):
            child = starter.start(*command, "--journal", journal)
            wait_for(lambda: child.status() is not None, command[0])  # noqa: B023
            wrong += [f"{command[0]}: status {child.status()} {child.errors[-200:]}"] if child.status() else []
            told_back += child.out.read_text()
    if [html.unescape(text) for text in cues((folder / "a.vtt").read_text())] != shown:
        wrong.append("export --vtt")
    controls = re.findall(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2060-\u2069]", told_back)
    figure = f"{len(EVIL)} hostile captions: {len(wrong)} shown wrongly, {len(controls)} control characters let through"
    measured: Numbers = {
        "captions": len(EVIL),
        "wrong": len(wrong),
        "controls": len(controls),
        "first": "; ".join(wrong)[:300],
    }
    return Finding(figure, not wrong and not controls, {**measured, "first": "; ".join(wrong)[:300]})


class Camera:
    """A web server that wants a password, and counts who knows it."""

    def __init__(self) -> None:
        known = self.known = list[str]()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                given = self.headers.get("Authorization", "")
                if given == "Basic " + base64.b64encode(f"user:{SECRET}".encode()).decode() and SECRET in self.path:
                    known.append(self.path)
                    self.send_response(404)
                else:
                    self.send_response(401)
                    self.send_header("WWW-Authenticate", 'Basic realm="x"')
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://user:{SECRET}@127.0.0.1:{self.server.server_port}/a.mp4?token={SECRET}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def passwords(folder: Path, scale: float) -> Finding:
    """Addresses with passwords, good and bad, of sources and webhooks; then every answer, event, metric, log line and
    file is searched. After a kill and a restart the camera is asked with the password again."""
    camera, told = Camera(), list[str]()
    with Starter(folder) as starter:
        served = Served(starter, folder / "data", "--allow-private-urls")
        served.start()
        for method, path, value in tries(camera.url):
            told.append(str(served.ask(method, path, value).body))
        streams = [s["id"] for s in served.ask("GET", "/v1/streams").json["streams"]]
        told += [str(served.ask("POST", f"/v1/streams/{name}/alerts", hook()).body) for name in streams[:1]]
        wait_for(lambda: camera.known, "a request with the password")
        heard = [served.events(name, -1) for name in streams]
        wait_for(lambda: all(one.events for one in heard), "an event of each")
        pages = ["/v1/streams", "/metrics", "/v1/journal", "/v1/info", f"/v1/search?q={SECRET}", "/health/ready"]
        pages += [f"/v1/streams/{name}{part}" for name in streams for part in ("", "/alerts", "/captions.vtt")]
        told += [str(served.ask("GET", path).body) for path in pages]
        served.end(9)
        stored = files_with(folder / "data", SECRET)
        before = len(camera.known)
        served.start()
        served.ask("POST", f"/v1/streams/{streams[0]}/resume")
        wait_for(lambda: len(camera.known) > before, "a request with the password after the restart")
        mode = (folder / "data" / "addresses.json").stat().st_mode & 0o777
        for name in streams:
            served.ask("DELETE", f"/v1/streams/{name}")
        served.end()
        told += [child.errors + child.out.read_text() for child in served.children]
    told += [json.dumps(event) for one in heard for event in one.events]
    camera.close()
    hits = sum(text.count(SECRET) for text in told)
    left = files_with(folder / "data", SECRET)
    others = [path.name for path in stored if path.name != "addresses.json"]
    figure = (
        f"{hits} hits in {len(told)} answers, events and logs, {len(others)} in files but for addresses.json (mode "
        f"{mode:o}), {len(left)} once the streams are deleted; the camera is asked with the password after kill -9"
    )
    measured: Numbers = {"texts": len(told), "hits": hits, "files": ", ".join(others) or "none", "left": len(left)}
    shown = next((text for text in told if SECRET in text), "")
    held = not hits and not others and not left and mode == 0o600 and len(stored) == 1
    return Finding(figure, held, {**measured, "first": shown[:300]})


def hook() -> dict[str, Any]:
    return {"pattern": "*", "debounce": 0, "webhook": f"http://hook:{SECRET}@127.0.0.1:1/h?x={SECRET}"}


def tries(url: str) -> Iterator[tuple[str, str, Any]]:
    """Requests with a password in them: two that start streams, and some that are refused."""
    yield "POST", "/v1/streams", {"source": url, "name": f"the camera at {url}"}
    yield "POST", "/v1/streams", {"source": f"rtsp://user:{SECRET}@127.0.0.1:1/x"}
    for bad in (
        "ftp://u:{}@host/x",
        "http://u:{}@[::x/y",
        "http://u:{}@nowhere.invalid/",
        "file://u:{}@x/etc",
        "rtsp://u:{}@",
    ):
        yield "POST", "/v1/streams", {"source": bad.format(SECRET)}
    yield "POST", "/v1/streams", {"source": "push", "fps": url}
    yield "GET", f"/v1/streams/http:%2f%2fu:{SECRET}@x%2fy", None
    for part in ("video_url", "image_url"):
        content = [{"type": part, part: {"url": url}}, {"type": "text", "text": "What?"}]
        yield (
            "POST",
            "/v1/chat/completions",
            {"model": "neverblink", "messages": [{"role": "user", "content": content}]},
        )


S6, S7, S8, S9 = drill_of("S6", keys), drill_of("S7", strangers), drill_of("S8", ids), drill_of("S9", others)
S11B, S12 = drill_of("S11", markup, "markup in captions, over the wires and on the page"), drill_of("S12", passwords)
DRILLS: tuple[Drill, ...] = (S6, S7, S8, S9, S11B, S12)
