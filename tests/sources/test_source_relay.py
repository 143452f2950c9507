"""The relay between the decode child and the network: every hop is looked up, checked and verified on our side."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import ipaddress
import re
import socket
import socketserver
import ssl
import subprocess
import threading
import time
from typing import ClassVar

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.properties import tries

import media
from neverblink.errors import SourceError, SourceRefused
from neverblink.sources import SourceOptions, open_source
from neverblink.sources.addresses import Place, Reach, is_public, parse
from neverblink.sources.credentials import authorization, best_challenge
from neverblink.sources.relay_http import for_child, from_child, rewritten
from neverblink.sources.relay_rtsp import Messages

needs_rtsp = pytest.mark.skipif(media.without_rtsp(), reason="NEVERBLINK_NO_RTSP=1")
PUBLIC, PRIVATE = "93.184.216.34", "10.0.0.7"


def resolver(*answers: list[str]):
    """A name server whose answers change from one question to the next; the last one stays."""
    asked: list[str] = []

    def resolve(host, port, **_):
        asked.append(host)
        found = answers[min(len(asked), len(answers)) - 1]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    return resolve


# -- addresses ------------------------------------------------------------------------------------------------------


CONFUSING = (
    "http://2130706433/x http://0x7f000001/x http://0x7f.1/x http://0177.0.0.1/x http://127.1/x http://1.2.3.4.5/ "
    "http://010.0.0.1/ http://a\\@b/ http://a\\b/ http://\u2460\u2461\u2466.0.0.1/ http://ex\u0430mple.com/ http:// "
    "http:///x http://[::1/ http://[::g]/ http://h:99999/ http://h:x/ rtsp://u:p/ss@cam/1 http://a..b/ http://-a/ "
    "http://%31%32%37.0.0.1/ http://a%00b/ file:///x gopher://h/ http://a,b/ http://[fe80::1%25eth0]/"
)


@pytest.mark.parametrize("url", CONFUSING.split(" "))
def test_urls_that_two_readers_could_read_differently_are_refused(url):
    """Decimal, octal and short addresses, letters that look like others, backslashes, escapes in a host."""
    with pytest.raises(SourceRefused) as refused:
        parse(url)
    assert "p/ss" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("rtsp://cam/1", Place("rtsp", "cam", 554, "/1")),
        ("RTSPS://Cam.Example.:1/a?b=c#d", Place("rtsps", "cam.example", 1, "/a?b=c")),
        ("http://u:p%40ss@[::1]:8080", Place("http", "::1", 8080, "/", "u", "p@ss")),
        ("https://a@b@c/", Place("https", "c", 443, "/", "a@b", "")),
        ("http://xn--e1afmkfd.example/", Place("http", "xn--e1afmkfd.example", 80, "/")),
    ],
)
def test_urls_and_their_parts(url, place):
    assert place == parse(url)


WRAPPED = "::ffff:10.0.0.1 64:ff9b::a00:1 64:ff9b:1::1 2002:a00:1:: ::10.0.0.1 ::1 :: fe80::1 fc00::1 ff02::1 0.0.0.0 "


@pytest.mark.parametrize("address", [*WRAPPED.split(), "127.9.9.9", "169.254.169.254", "100.64.0.1", "255.255.255.255"])
def test_an_address_inside_stays_inside_however_it_is_wrapped(address):
    assert not is_public(address)
    assert is_public("::ffff:93.184.216.34")
    assert is_public("2606:2800:220:1::1")


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
@tries(200)
def test_public_means_global_to_the_standard_library(address):
    """Never more generous than ipaddress itself."""
    if is_public(str(address)):
        assert address.is_global
        assert not address.is_multicast
    elif isinstance(address, ipaddress.IPv4Address):
        assert not address.is_global or address.is_multicast


@given(st.one_of(st.text(max_size=40), st.from_regex(r"(https?|rtsps?)://[!-~]{0,30}", fullmatch=True)))
@tries(400)
def test_any_text_is_a_place_or_a_refusal(text):
    """What is let through has a plain host, and reads the same when it is written down again."""
    try:
        place = parse(text)
    except SourceRefused:
        return
    assert re.fullmatch(r"[a-z0-9_.:-]+", place.host)
    assert 0 <= place.port < 65536
    again = parse(f"{place.scheme}://{place.authority}{place.target}")
    assert (place.scheme, place.host, place.port, place.target) == (
        again.scheme,
        again.host,
        again.port,
        again.target,
    )


@given(st.one_of(st.from_regex(r"https?://[!-~]{1,30}", fullmatch=True), st.just("https://[::1]:9/x?y=1")))
@example("https://A#@")
@example("https://a?@b/c")
@example("http://a#@b")
@tries(300)
def test_what_the_child_is_told_means_the_same_place(url):
    """https becomes plain http under a name of its own, and comes back as the same place."""
    try:
        place = parse(url)
        told = for_child(url)
    except SourceRefused:
        return
    assert told.startswith("http://") or place.scheme == "http"
    back = from_child(told)
    if not place.host.endswith(".tls.invalid"):
        assert (place.scheme, place.host, place.port, place.target) == (back.scheme, back.host, back.port, back.target)


def test_a_name_that_answers_differently_the_second_time_gains_nothing(monkeypatch):
    """DNS rebinding: each connection goes to an address of the very answer that was checked."""
    reached = []
    monkeypatch.setattr(socket, "create_connection", lambda place, timeout: reached.append(place[0]))
    reach = Reach("public", resolve=resolver([PUBLIC], [PRIVATE]))
    reach.dial("evil.example", 80, 1)
    assert [PUBLIC] == reached
    for _ in range(2):
        with pytest.raises(SourceRefused, match=f"evil.example is {PRIVATE}, a private address"):
            reach.dial("evil.example", 80, 1)
    assert [PUBLIC] == reached


def test_one_private_answer_among_public_ones_is_enough_to_refuse():
    with pytest.raises(SourceRefused):
        Reach("public", resolve=resolver([PUBLIC, PRIVATE])).addresses("evil.example", 80)


def test_what_the_user_named_himself_may_be_private_and_leads_no_further():
    """His own host, on its port and the two usual ones; another private host only with "any"."""
    named = parse("http://cam.lan:8080/x")
    reach = Reach("named", named, resolver([PRIVATE]))
    for port in (8080, 80, 443):
        assert [PRIVATE] == reach.addresses("cam.lan", port)
    for host, port in (("cam.lan", 22), ("router.lan", 80)):
        with pytest.raises(SourceRefused, match="private"):
            reach.addresses(host, port)
        assert [PRIVATE] == Reach("any", named, resolver([PRIVATE])).addresses(host, port)
    with pytest.raises(SourceRefused, match="allow-private-urls"):
        Reach("public", named, resolver([PRIVATE])).addresses("cam.lan", 8080)


# -- HTTP -----------------------------------------------------------------------------------------------------------


class Hits(media.QuietHandler):
    """Counts who asks for what."""

    seen: ClassVar[list[str]] = []

    def do_GET(self):
        self.seen.append(self.path)
        super().do_GET()


def redirecting(target: str) -> type[media.QuietHandler]:
    class Redirect(media.QuietHandler):
        def do_GET(self):
            self.send_response(302)
            self.send_header("Location", target)
            self.send_header("Content-Length", "0")
            self.end_headers()

    return Redirect


@pytest.fixture
def inner(tmp_path):
    """A server "inside our walls" that must not be asked anything, with a clip; its address, and what it was asked."""
    media.write_video(tmp_path / "clip.ts", frames=30)
    Hits.seen.clear()
    with media.http_server(tmp_path, Hits) as base:
        yield base, Hits.seen


def test_redirects_and_segments_inside_are_refused_without_a_question(inner, tmp_path, watch):
    """A page that leads to another host of ours, by a redirect or by a playlist, shows nothing and asks nothing."""
    base, asked = inner
    for target in (f"{base}/clip.ts", f"http://localhost:{base.rpartition(':')[2]}/clip.ts"):
        with media.http_server(tmp_path, redirecting(target)) as outer:
            watched = watch(f"{outer}/go")
        assert isinstance(watched.error, SourceRefused)
        assert "private address" in str(watched.error)
        folder = tmp_path / "lists"
        folder.mkdir(exist_ok=True)
        (folder / "l.m3u8").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n")
        with media.http_server(folder) as outer:
            watched = watch(f"{outer}/l.m3u8")
        assert isinstance(watched.error, SourceError)
        assert [] == watched.frames
    assert [] == asked
    with media.http_server(tmp_path, redirecting(f"{base}/clip.ts")) as outer:
        assert 8 == len(watch(f"{outer}/go", reach="any").frames)
        assert asked


def test_public_reach_refuses_before_there_is_a_child(inner):
    """What a server's client names: refused at once, by address, with the option that allows it."""
    base, asked = inner
    for url in (base, base.replace("127.0.0.1", "localhost"), "rtsp://127.0.0.1/x", "http://[::ffff:127.0.0.1]/"):
        source = open_source(f"{url}/clip.ts", SourceOptions(reach="public"))
        began = time.monotonic()
        with pytest.raises(SourceRefused, match="--allow-private-urls"), source:
            pass
        assert time.monotonic() - began < 5  # a connection would wait longer
        assert source.child_pid is None
    assert [] == asked


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    )
    subprocess.run(
        [*command.split(), "-keyout", folder / "key.pem", "-out", folder / "cert.pem"], check=True, stderr=-3
    )
    return folder


@contextlib.contextmanager
def tls_server(certificate, folder, handler=media.QuietHandler):
    class Quiet(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_):
            """A client that does not trust us hangs up."""

    server = Quiet(("127.0.0.1", 0), functools.partial(handler, directory=str(folder)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


def test_https_is_verified_for_lists_segments_and_names(certificate, tmp_path, watch, monkeypatch):
    """An authority that is not known, or another name, is refused; FFmpeg alone would have taken both."""
    media.write_hls(tmp_path, seconds=2)
    lines = (tmp_path / "live.m3u8").read_text()
    with tls_server(certificate, tmp_path) as port:
        (tmp_path / "full.m3u8").write_text(re.sub(r"(?m)^(live\d)", rf"https://localhost:{port}/\1", lines))
        watched = watch(f"https://localhost:{port}/live.m3u8")
        assert "certificate is not to be trusted (self-signed certificate)" in str(watched.error)
        assert "SSL_CERT_FILE" in str(watched.error)
        # A plain list whose segments are behind TLS: they are verified too.
        with media.http_server(tmp_path) as plain:
            assert isinstance(watch(f"{plain}/full.m3u8", reach="any").error, SourceError)
            monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
            assert 16 == len(watch(f"{plain}/full.m3u8", reach="any").frames)
        assert 16 == len(watch(f"https://localhost:{port}/live.m3u8").frames)
        assert "127.0.0.1" in str(watch(f"https://127.0.0.1:{port}/live.m3u8").error)  # the certificate is localhost's
        assert 16 == len(watch(f"https://127.0.0.1:{port}/live.m3u8", verify_tls=False).frames)


def asking(scheme: str) -> type[media.QuietHandler]:
    """A server that wants user and password."""

    class Asking(media.QuietHandler):
        def do_GET(self):
            given = self.headers.get("Authorization", "")
            if given == "Basic dTpwIHc=" or (given.startswith("Digest") and right(given, "GET", "u", "p w")):
                super().do_GET()
                return
            self.send_response(401)
            self.send_header("WWW-Authenticate", scheme)
            self.send_header("Content-Length", "0")
            self.end_headers()

    return Asking


def right(header: str, method: str, user: str, password: str) -> bool:
    """Written straight from RFC 7616, MD5 with and without qop."""
    given = dict(re.findall(r'(\w+)="?([^",]+)"?', header.partition(" ")[2]))
    made = lambda *parts: hashlib.md5(":".join(parts).encode()).hexdigest()  # noqa: E731 - the letter H of the RFC
    secret, what = made(user, given["realm"], password), made(method, given["uri"])
    middle = (given["nonce"], given["nc"], given["cnonce"], given["qop"]) if "qop" in given else (given["nonce"],)
    return given["response"] == made(secret, *middle, what)


@pytest.mark.parametrize(
    "scheme", ['Basic realm="x"', 'Digest realm="x", nonce="n1"', 'Digest realm="x", nonce="n2", qop="auth,auth-int"']
)
def test_passwords_are_given_to_the_server_that_asks_and_never_to_the_child(scheme, tmp_path, watch):
    media.write_video(tmp_path / "clip.ts", frames=30)
    with media.http_server(tmp_path, asking(scheme)) as base:
        url = f"{base.replace('//', '//u:p%20w@')}/clip.ts"
        with open_source(url) as source:
            request = source.request()
        assert "p%20w" not in request["url"] + request["proxy"]
        assert 8 == len(watch(url).frames)
        assert isinstance(watch(f"{base}/clip.ts").error, SourceError)
        wrong = watch(url.replace("p%20w", "hunter2"))
    assert "401" in str(wrong.error)
    assert "hunter2" not in str(wrong.error) + repr(wrong.events)


def test_a_stranger_at_the_door_is_sent_away(tmp_path):
    """Others on this machine may knock at the relay: without its word it fetches nothing."""
    media.write_video(tmp_path / "clip.ts", frames=250)
    with media.http_server(tmp_path, media.mjpeg_camera(20)) as base, open_source(f"{base}/cam.mjpg") as source:
        next(source.frames())
        with socket.create_connection(("127.0.0.1", source.door)) as stranger:
            stranger.sendall(f"GET {base}/clip.ts HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert stranger.recv(100).startswith(b"HTTP/1.1 407")


def test_a_playlist_may_be_long_and_not_endless():
    with pytest.raises(SourceRefused, match="more than 1024 KiB"):
        rewritten(b"#EXTM3U\n" + b"x" * 2**20)
    assert b"#EXTM3U\nhttp://h.tls.invalid:443/a?u=https%3A//x\n" == rewritten(b"#EXTM3U\nhttps://h/a?u=https%3A//x\n")


# -- RTSP -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def script(*answers: bytes):
    """An RTSP peer that says these things, one to each request; yields its address and what it was asked."""
    asked: list[bytes] = []

    class Peer(socketserver.BaseRequestHandler):
        def handle(self):
            for answer in answers:
                data = b""
                while b"\r\n\r\n" not in data:
                    got = self.request.recv(4096)
                    if not got:
                        return
                    data += got
                asked.append(data)
                number = re.search(rb"CSeq: (\d+)", data)[1]
                self.request.sendall(answer.replace(b"CSEQ", b"CSeq: " + number))
            self.request.recv(1)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Peer) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()


def test_a_camera_that_redirects_is_refused(inner, watch):
    """FFmpeg would follow to any address and speak to it."""
    base, asked = inner
    moved = f"RTSP/1.0 302 Moved\r\nCSEQ\r\nLocation: {base.replace('http', 'rtsp')}/clip.ts\r\n\r\n".encode()
    with script(moved) as (at, _):
        watched = watch(f"rtsp://{at}/cam")
    assert isinstance(watched.error, SourceRefused)
    assert "redirects" in str(watched.error)
    assert [] == asked


def test_a_camera_hears_its_own_name_and_the_password_in_a_digest(watch):
    """The child asks for a path on our relay; the camera is asked for its own, with numbers that go up."""
    how = b'WWW-Authenticate: Basic realm="x"\r\nWWW-Authenticate: Digest realm="x", nonce="n"'
    ask = b"RTSP/1.0 401 no\r\nCSEQ\r\n" + how + b"\r\n\r\n"
    ok = b"RTSP/1.0 200 OK\r\nCSEQ\r\nPublic: DESCRIBE\r\n\r\n"
    with script(ok, ask, b"RTSP/1.0 404 Not Found\r\nCSEQ\r\n\r\n") as (at, asked):
        watched = watch(f"rtsp://u:hunter2@{at}/cam?x=1")
    assert "404" in str(watched.error)
    lines = [request.decode().split("\r\n") for request in asked]
    assert [f"OPTIONS rtsp://{at}/cam?x=1 RTSP/1.0"] + 2 * [f"DESCRIBE rtsp://{at}/cam?x=1 RTSP/1.0"] == [
        line[0] for line in lines
    ]
    assert ["CSeq: 1", "CSeq: 2", "CSeq: 3"] == [line[1] for line in lines]
    (given,) = [line for line in lines[2] if line.startswith("Authorization: ")]
    assert right(given.removeprefix("Authorization: "), "DESCRIBE", "u", "hunter2")
    assert not any(b"hunter2" in request for request in asked)


@needs_rtsp
def test_rtsps_is_verified(certificate, watch, monkeypatch):
    """A camera behind TLS: refused while its authority is unknown, shown once it is named."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    with media.RtspCamera() as camera, media.tls_in_front(camera.port, context) as port:
        url = f"rtsps://localhost:{port}/cam"
        assert "certificate is not to be trusted" in str(watch(url).error)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
        assert 4 == len(watch(url, frames=4).frames)


def test_the_strongest_challenge_is_answered_and_counted():
    place = Place("rtsp", "h", 554, "/", "u", "p")
    basic, md5, sha = 'Basic realm="r"', 'Digest realm="r", nonce="n"', 'Digest realm="r", nonce="n", algorithm=SHA-256'
    assert sha == best_challenge([basic, md5, sha])
    assert md5 == best_challenge([basic, 'Digest realm="r", nonce="n", algorithm=NEW', md5])
    assert None is best_challenge(["Negotiate"])
    assert "nc=00000002" in authorization(md5 + ', qop="auth"', "PLAY", "/", place, 2)
    assert "Basic dTpw" == authorization(basic, "PLAY", "/", place)


@given(
    st.lists(
        st.sampled_from(
            [
                b"$\0\0\x03abc",
                b"RTSP/1.0 200 OK\r\nCSeq: 1\r\nContent-Length: 4\r\n\r\nbody",
                b"RTSP/1.0 200 OK\r\n\r\n",
                b"$\1\0\0",
                b"OPTIONS * RTSP/1.0\r\nCSeq: 2\r\n\r\n",
            ]
        ),
        max_size=8,
    ),
    st.data(),
)
@tries(60)
def test_messages_are_whole_wherever_they_are_cut(messages, data):
    """Every byte arrives, in order, and no text message is split, however TCP cuts them."""
    stream = b"".join(messages)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        reader, found, at = Messages(ours), [], 0
        while at < len(stream):
            size = data.draw(st.integers(1, 40))
            theirs.sendall(stream[at : at + size])
            at += size
            assert reader.fill()
            while message := reader.take():
                found.append(message)
    assert stream == b"".join(found)
    assert [m for m in messages if m[:1] != b"$"] == [m for m in found if m[:1] != b"$"]
