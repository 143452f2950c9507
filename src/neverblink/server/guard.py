"""Who may talk to us: Host, Origin and key of every request, HTTP and WebSocket alike. Nothing is open by default."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import urlsplit

from neverblink.errors import SourceRefused
from neverblink.server.options import ServeOptions
from neverblink.server.problems import MEDIA_TYPE, body
from neverblink.sources.addresses import Reach, parse
from neverblink.sources.base import redact

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
COOKIE = "neverblink"
LOGIN = "/login"  # takes the key itself, so it needs none
LOGIN_PAGE = "/login.html"
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "media-src 'self' blob:; font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", CSP.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(self), microphone=(), geolocation=()"),
)


class Guard:
    """ASGI middleware in front of everything."""

    def __init__(self, app: Any, options: ServeOptions, login_page: bytes):
        self.app, self.options, self.login_page = app, options, login_page
        self.refused = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        wrong = self._wrong(scope, headers)
        if wrong is not None:
            self.refused += 1
            await self._refuse(scope, send, *wrong, headers)
            return

        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                have = {name.lower() for name, _ in message.get("headers", [])}
                extra = [pair for pair in HEADERS if pair[0] not in have]
                message = {**message, "headers": [*message.get("headers", []), *extra]}
            await send(message)

        await self.app(scope, receive, with_headers)

    def _wrong(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        """Status and reason of a refusal."""
        host = headers.get("host", "")
        if not self._host_is_ours(host):
            return 403, f"Host {host!r} is not this server; reach it by its address, or allow it with --allow-host"
        origin = headers.get("origin")
        if origin is not None and not self._origin_is_ours(origin, host):
            return 403, f"Origin {origin!r} is another site; allow it with --allow-origin"
        if origin is None and headers.get("sec-fetch-site") == "cross-site" and scope["path"] != "/":
            return 403, "another site asks for this in the name of its visitor"
        if self.options.api_key is None or (scope["path"] == LOGIN and scope.get("method") == "POST"):
            return None
        if self._key_is_right(headers):
            return None
        return 401, "an API key is needed: Authorization: Bearer KEY"

    def _host_is_ours(self, host: str) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".").lower()
        except ValueError:
            return False
        if name in {"localhost", self.options.host.lower(), *map(str.lower, self.options.allow_hosts)}:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return not self.options.loopback and name == socket.gethostname().lower()
        # Who names an address cannot have been sent here by somebody else's DNS.
        return address.is_loopback or not self.options.loopback

    def _origin_is_ours(self, origin: str, host: str) -> bool:
        if origin in self.options.allow_origins:
            return True
        parts = urlsplit(origin)
        return parts.scheme in ("http", "https") and bool(host) and parts.netloc.lower() == host.lower()

    def _key_is_right(self, headers: dict[str, str]) -> bool:
        key = self.options.api_key or ""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and same(given.strip(), key):
            return True
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and same(cookie.value, cookie_of(key))

    async def _refuse(self, scope: Scope, send: Send, status: int, reason: str, headers: dict[str, str]) -> None:
        if scope["type"] == "websocket" and "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1008, "reason": reason[:120]})
            return
        page = status == 401 and scope["path"] == "/" and "text/html" in headers.get("accept", "")
        text = self.login_page if page else json.dumps(body(status, reason)).encode()
        kind = b"text/html; charset=utf-8" if page else MEDIA_TYPE.encode()
        prefix = "websocket.http" if scope["type"] == "websocket" else "http"
        out = [(b"content-type", kind), (b"content-length", str(len(text)).encode()), (b"cache-control", b"no-store")]
        out += [*HEADERS, *([(b"www-authenticate", b"Bearer")] if status == 401 else [])]
        if page:  # the page has no script and one style of its own, known by its hash
            out = [pair for pair in out if pair[0] != b"content-security-policy"]
            out.append((b"content-security-policy", login_csp(self.login_page).encode()))
        await send({"type": f"{prefix}.response.start", "status": status, "headers": out})
        await send({"type": f"{prefix}.response.body", "body": text})


def same(a: str, b: str) -> bool:
    return hmac.compare_digest(a.encode("utf-8", "replace"), b.encode("utf-8", "replace"))


def cookie_of(key: str) -> str:
    """What a browser keeps instead of the key; the same after a restart."""
    return hmac.new(key.encode(), b"neverblink browser session", hashlib.sha256).hexdigest()


def login_csp(page: bytes) -> str:
    import base64

    style = page.partition(b"<style>")[2].partition(b"</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; form-action 'self'; frame-ancestors 'none'"


def public_addresses(url: str, *, allow_private: bool) -> list[str]:
    """The addresses behind a URL that a client has named, once it is sure that none of them is inside our walls.

    Raises:
        SourceRefused: no such host, or one of its addresses is private, loopback, link-local ...
    """
    try:
        place = parse(url)
    except SourceRefused as error:
        raise SourceRefused(f"{redact(url)}: {error}") from error
    return Reach("any" if allow_private else "public").addresses(place.host, place.port)
