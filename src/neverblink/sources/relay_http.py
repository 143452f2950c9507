"""HTTP through the relay: the child asks us as its proxy, in plain HTTP; we fetch, over TLS where the URL says so.

FFmpeg checks no certificate unless told, and never those of a playlist's segments; so it gets no TLS at all. For the
child, https://host is http://host.tls.invalid: in its own URL, in redirects and in playlists, which are rewritten on
their way. Every hop and every segment is looked up and checked here.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import ipaddress
import re
import socket
from collections.abc import Iterator
from urllib.parse import quote, urljoin, urlsplit

from neverblink.errors import SourceRefused
from neverblink.sources.addresses import Place, parse
from neverblink.sources.credentials import authorization, best_challenge
from neverblink.sources.relay import Relay, read_head, reason

TLS_MARK = ".tls.invalid"  # a name that no name server knows (RFC 2606)
SIX_MARK = ".six"  # in front of it: an IPv6 address with dashes for its colons
MOST_PLAYLIST_BYTES = 2**20  # a day of segments of two seconds
PASSED_UP = ("user-agent", "accept", "range", "authorization", "cookie", "referer")
PASSED_DOWN = ("content-type", "content-length", "content-range", "accept-ranges", "www-authenticate", "set-cookie")
PRINTABLE = "".join(chr(c) for c in range(33, 127))


class HttpRelay(Relay):
    def child_url(self) -> str:
        return for_child(f"{self.place.scheme}://{self.place.authority}{self.place.target}")

    def proxy(self) -> str:
        return f"http://child:{self.token}@127.0.0.1:{self.port}"

    def serve(self, child: socket.socket) -> None:
        head, _ = read_head(child)
        try:
            method, url, *_ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        except ValueError:
            method, url = "", ""
        child.settimeout(None)
        headers = dict(_headers(head))
        expected = base64.b64encode(f"child:{self.token}".encode()).decode()
        if headers.get("proxy-authorization", "") != f"Basic {expected}":
            _answer(child, 407, "Proxy Authentication Required", ('Proxy-Authenticate: Basic realm="child"',))
            return
        try:
            if method != "GET":
                raise SourceRefused(f"the decoder asked for {method[:20]!r}; only GET is passed on")
            place = from_child(url)
            with self._fetch(place, headers) as response:
                self._pass_down(child, place, response)
        except SourceRefused as refusal:
            self.refusal = self.refusal or refusal
            _answer(child, 403, "Forbidden")
        except (OSError, http.client.HTTPException) as error:
            self.trouble = self.trouble or reason(error)
            _answer(child, 502, "Bad Gateway")

    @contextlib.contextmanager
    def _fetch(self, place: Place, headers: dict[str, str]) -> Iterator[http.client.HTTPResponse]:
        """The answer; where it is the user's own host that asks who we are, the answer to the second question."""
        peer, response = self._get(place, headers)
        try:
            asked = response.headers.get_all("WWW-Authenticate") or ()
            ours = self.place.user and (place.host, place.port) == (self.place.host, self.place.port)
            challenge = best_challenge(asked) if response.status == 401 and ours else None
            if challenge is not None:
                self.release(peer)
                own = authorization(challenge, "GET", _quoted(place.target), self.place)
                peer, response = self._get(place, {**headers, "authorization": own})
            yield response
        finally:
            response.close()
            self.release(peer)

    def _get(self, place: Place, headers: dict[str, str]) -> tuple[socket.socket, http.client.HTTPResponse]:
        peer = self.dial(place.host, place.port, tls=place.scheme == "https")
        try:
            connection = http.client.HTTPConnection(place.host, place.port)
            connection.sock = peer
            passed = {name: headers[name] for name in PASSED_UP if name in headers}
            # No compression: what unpacks to a thousand times its size is nobody's friend.
            passed |= {"Host": place.authority, "Connection": "close", "Accept-Encoding": "identity"}
            connection.request("GET", _quoted(place.target), headers=passed)
            return peer, connection.getresponse()
        except BaseException:
            self.release(peer)
            raise

    def _pass_down(self, child: socket.socket, place: Place, response: http.client.HTTPResponse) -> None:
        first = b""
        while len(first) < len(b"#EXTM3U") and (got := response.read1(65536)):
            first += got
        passed = [f"{name}: {value}" for name, value in response.getheaders() if name.lower() in PASSED_DOWN]
        location = response.getheader("Location")
        if location is not None:
            here = f"{place.scheme}://{place.authority}{place.target}"
            passed.append(f"Location: {for_child(urljoin(here, location))}")
        if first.startswith(b"#EXTM3U"):
            body = rewritten(first + response.read(MOST_PLAYLIST_BYTES + 1 - len(first)))
            kept = [line for line in passed if not line.lower().startswith("content-") or "type" in line.lower()[:13]]
            status = 200 if response.status == 206 else response.status  # it is another length now
            _answer(child, status, response.reason, (*kept, f"Content-Length: {len(body)}"), body)
            return
        _answer(child, response.status, response.reason, passed, first, ends=False)
        # From here on the head is out: whatever goes wrong shows as a body that ends too soon.
        with contextlib.suppress(OSError, http.client.HTTPException):
            while got := response.read1(65536):
                child.sendall(got)


def for_child(url: str) -> str:
    """A URL as the child may know it; SourceRefused where it is none of ours."""
    place = parse(url)
    # Written from its parts: as it stood, another reader might find another host in it ("https://a#@b").
    secret, at, _ = urlsplit(url).netloc.rpartition("@")
    if place.scheme == "http":
        return f"http://{secret}{at}{place.authority}{place.target}"
    if place.scheme != "https":
        raise SourceRefused(f"a source on the web leads to {place.scheme}:, which is not followed")
    host = place.host
    if ":" in host:
        host = ipaddress.IPv6Address(host).exploded.replace(":", "-") + SIX_MARK
    return f"http://{secret}{at}{host}{TLS_MARK}:{place.port}{place.target}"


def from_child(url: str) -> Place:
    """The place that a URL of the child means."""
    place = parse(url)
    if place.scheme != "http":
        raise SourceRefused("the decoder asked for a URL that is not http")
    if not place.host.endswith(TLS_MARK):
        return place
    host = place.host.removesuffix(TLS_MARK)
    if host.endswith(SIX_MARK):
        host = str(ipaddress.IPv6Address(host.removesuffix(SIX_MARK).replace("-", ":")))
    return Place("https", host, place.port, place.target, place.user, place.password)


def rewritten(playlist: bytes) -> bytes:
    """A playlist of which the child can open every line; SourceRefused where it is too long."""
    if len(playlist) > MOST_PLAYLIST_BYTES:
        raise SourceRefused(f"the playlist has more than {MOST_PLAYLIST_BYTES >> 10} KiB")

    def plain(match: re.Match[bytes]) -> bytes:
        return for_child(match.group().decode("latin-1")).encode("latin-1")

    return re.sub(rb"https://[^\s\"',]+", plain, playlist, flags=re.IGNORECASE)


def _quoted(target: str) -> str:
    return quote(target.encode("utf-8"), safe=PRINTABLE)


def _headers(head: bytes) -> Iterator[tuple[str, str]]:
    for line in head.decode("latin-1").split("\r\n")[1:]:
        name, _, value = line.partition(":")
        yield name.strip().lower(), value.strip()


def _answer(
    child: socket.socket,
    status: int,
    words: str,
    lines: tuple[str, ...] | list[str] = (),
    body: bytes = b"",
    *,
    ends: bool = True,
) -> None:
    clean = [line for line in lines if "\r" not in line and "\n" not in line]
    if ends and not any(line.lower().startswith("content-length") for line in clean):
        clean.append(f"Content-Length: {len(body)}")
    head = "\r\n".join([f"HTTP/1.1 {status} {words or 'OK'}", *clean, "Connection: close", "", ""])
    with contextlib.suppress(OSError):  # it has left already
        child.sendall(head.encode("latin-1", "replace") + body)
