"""Who may talk to the server: every route, HTTP and WebSocket, with and without a key."""

import http.client
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from neverblink.cli import main
from neverblink.drills.doors import filled, routes
from neverblink.errors import ConfigError, SourceRefused
from neverblink.server.guard import Guard, public_addresses
from neverblink.server.options import ServeOptions
from neverblink.sources.addresses import is_public
from tests.server.running import Refused, Server, wait_for

KEY = "a key of some length"


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("locked"), max_streams=1, api_key=KEY) as running:
        yield running


def ask(server: Server, method: str, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body; the Host header can be anything."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.putrequest(method, path, skip_host="Host" in given)
    for name, value in given.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    result = (answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read(200_000))
    connection.close()
    return result


def test_every_route_refuses_without_the_key(locked: Server) -> None:
    """Walks the router itself, so that a new route is in this test on the day it is made."""
    walked = [(method, filled(path)) for method, path in routes(locked.app)]
    assert {"/v1/streams", "/v1/chat/completions", "/metrics", "/openapi.json", "/", "/static/1"} <= {
        p for _, p in walked
    }
    assert {"/v1/realtime", "/v1/frames", "/v1/streams/1/push"} == {p for method, p in walked if method == "WEBSOCKET"}
    for method, path in walked:
        for headers in ({}, {"Authorization": "Bearer wrong key here"}, {"Cookie": "neverblink=00"}):
            if method == "WEBSOCKET":
                with pytest.raises(InvalidStatus) as refused:
                    connect(f"ws://127.0.0.1:{locked.port}{path}", additional_headers=headers)
                assert refused.value.response.status_code in (401, 403), path
            else:
                assert 401 == ask(locked, method, path, **headers)[0], (method, path)


def test_the_key_opens(locked: Server) -> None:
    assert {"status": "live"} == locked.call("/health/live", Authorization=f"Bearer {KEY}")
    status, headers, _ = ask(locked, "GET", "/", Accept="text/html")
    assert (401, True) == (status, "sha256-" in headers["content-security-policy"])
    with pytest.raises(Refused, match="the key is wrong"):
        locked.call("/login", "POST", b"key=nonsense")
    body = f"key={KEY.replace(' ', '+')}".encode()
    connection = http.client.HTTPConnection("127.0.0.1", locked.port)
    connection.request("POST", "/login", body, {"Origin": locked.url})
    answer = connection.getresponse()
    cookie = answer.headers["set-cookie"]
    assert (303, True, True) == (answer.status, "HttpOnly" in cookie, "SameSite=strict" in cookie)
    assert KEY not in cookie
    connection.close()
    assert 200 == ask(locked, "GET", "/", Cookie=cookie.split(";")[0])[0]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:1"}, 200),
        ({"Host": "[::1]:1"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "192.168.1.9"}, 403),
        ({"Host": "127.0.0.1@evil.example"}, 403),
        ({"Host": ""}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
    ],
)
def test_foreign_hosts_and_origins_are_refused(server: Server, headers: dict[str, str], status: int) -> None:
    got, answer, _ = ask(server, "GET", "/v1/streams", **headers)
    assert status == got
    assert "application/problem+json" == answer["content-type"] or status == 200
    try:
        with connect(f"ws://127.0.0.1:{server.port}/v1/frames", additional_headers=headers) as socket:
            socket.send("{}")
            opened = 200
    except InvalidStatus as error:
        opened = error.response.status_code
    if "Host" not in headers:  # the client writes its own Host
        assert status == opened


def test_our_own_origin_is_welcome_and_so_are_those_that_are_allowed(server: Server) -> None:
    assert 200 == ask(server, "GET", "/v1/streams", Origin=server.url)[0]

    def wrong(origin: str, at: str, **options: Any) -> Any:
        guard = Guard(None, ServeOptions(**options), b"")
        return guard._wrong({"path": "/x", "type": "http"}, {"host": at, "origin": origin})

    assert wrong("https://a.example", "localhost", allow_origins=("https://a.example",)) is None
    assert wrong("https://b.example", "localhost", allow_origins=("https://a.example",))[0] == 403
    assert wrong("http://cam.example", "cam.example", allow_hosts=("cam.example",)) is None
    assert wrong("http://10.0.0.5:80", "10.0.0.5:80", host="0.0.0.0") is None
    assert wrong("http://x.example", "x.example", host="0.0.0.0")[0] == 403


def test_answers_carry_a_strict_policy_and_the_page_needs_nobody_else(server: Server) -> None:
    _, headers, _ = ask(server, "GET", "/")
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert "nosniff" == headers["x-content-type-options"]
    static = Path(__file__).parents[2] / "src" / "neverblink" / "server" / "static"
    for file in static.iterdir():
        text = (
            file.read_text().replace('xmlns="http://www.w3.org/2000/svg"', "").replace("http://www.w3.org/2000/svg", "")
        )
        assert "https://" not in text.replace("https://…", ""), file
        assert "http://" not in text, file
        assert not [word for word in (" style=", "onclick=") if word in text], file
    assert 404 == ask(server, "GET", "/static/..%2fapp.py")[0]
    assert 404 == ask(server, "GET", "/static/app.py")[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"host": "0.0.0.0"}, "there is no key"),
        ({"host": "::"}, "there is no key"),
        ({"host": "192.168.1.2"}, "there is no key"),
        ({"api_key": "short"}, "take 8 or more"),
        ({"port": 70000}, "--port is 70000"),
        ({"max_streams": 0}, "--max-streams is 0"),
    ],
)
def test_what_would_be_open_to_everybody_does_not_start(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ServeOptions(**options).check()
    ServeOptions(host="0.0.0.0", api_key=KEY).check()
    ServeOptions(host="::1").check()


def test_the_command_line_refuses_before_the_model_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--host", "0.0.0.0", "--model", "/nowhere"]) == 2
    assert "there is no key; add --api-key KEY" in capsys.readouterr().err
    assert main(["serve", "/nowhere.mp4", "--model", "/nowhere"]) == 2
    assert "/nowhere.mp4: no such file" in capsys.readouterr().err


INSIDE = (
    "127.0.0.1 10.1.2.3 192.168.0.1 172.16.0.1 169.254.169.254 0.0.0.0 100.64.0.1 ::1 fe80::1%eth0 fc00::1 "
    "::ffff:127.0.0.1 224.0.0.1"
)


@pytest.mark.parametrize("address", re.split(" ", INSIDE))
def test_addresses_inside_are_not_public(address: str) -> None:
    assert not is_public(address)
    host = f"[{address.partition('%')[0]}]" if ":" in address else address
    with pytest.raises(SourceRefused, match="a private address; allow it with --allow-private-urls"):
        public_addresses(f"http://{host}/x", allow_private=False)


def test_public_addresses_pass(locked: Server) -> None:
    assert [True, True] == [is_public("93.184.216.34"), is_public("2606:2800:220:1::1")]
    assert ["127.0.0.1"] == public_addresses("http://127.0.0.1:1/x", allow_private=True)
    for url in ("http://", "http://[x/", "rtsp:///x"):
        with pytest.raises(SourceRefused):
            public_addresses(url, allow_private=True)
    bearer = {"Authorization": f"Bearer {KEY}"}
    for source in ("http://127.0.0.1:1/a.mp4", "rtsp://localhost/x", "http://2130706433/x", "http://0x7f.1/x"):
        with pytest.raises(Refused, match=r"private address|no such host"):
            locked.call("/v1/streams", "POST", {"source": source}, **bearer)


def test_what_a_client_named_is_checked_again_when_it_connects(locked: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that was public when it was asked for and is private when it is opened (DNS rebinding) reaches nobody."""
    monkeypatch.setattr(locked.hub, "check_client_source", lambda source: None)
    bearer = {"Authorization": f"Bearer {KEY}"}
    with socket.create_server(("127.0.0.1", 0)) as inside:
        source = f"http://127.0.0.1:{inside.getsockname()[1]}/x"
        stream = locked.call("/v1/streams", "POST", {"source": source}, **bearer)["id"]
        wait_for(lambda: locked.call(f"/v1/streams/{stream}", **bearer)["state"] == "failed")
        assert "a private address" in str(locked.call(f"/v1/streams/{stream}", **bearer))
        inside.settimeout(0.1)
        with pytest.raises(TimeoutError):
            inside.accept()
