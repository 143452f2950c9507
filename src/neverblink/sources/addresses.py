"""Where on the network a source may lead: one parser for URLs, and one place that looks names up and connects.

What was looked up is checked and connected to in the same step (`Reach.dial`), so a name that answers differently the
second time (DNS rebinding) gains nothing. Nobody else resolves: the decode child only ever sees our relay (relay.py).
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from neverblink.errors import SourceRefused

ReachRule = Literal["named", "public", "any"]
Resolve = Callable[..., list[Any]]  # socket.getaddrinfo, or what a test puts in its place
DEFAULT_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
NAT64 = ipaddress.ip_network("64:ff9b::/96")
NAT64_LOCAL = ipaddress.ip_network("64:ff9b:1::/48")


@dataclass(frozen=True, slots=True)
class Place:
    """A URL, taken apart once."""

    scheme: str
    host: str  # lower case, without brackets
    port: int
    target: str  # path and query, as they stood
    user: str = ""
    password: str = ""

    @property
    def authority(self) -> str:
        """host:port as it stands in a URL; the port only where it is not the usual one."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


def parse(url: str) -> Place:
    """The parts of a URL; SourceRefused where another reader might find other parts in it. No message holds secrets."""
    if any(ord(c) <= 32 or ord(c) == 127 or c == "\\" for c in url):
        raise SourceRefused("not a URL: it holds a space, a control character or a backslash")
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError as error:
        # urllib quotes the part that it could not read, which may be a password.
        raise SourceRefused("not a URL: the host or the port cannot be read") from error
    if parts.scheme not in DEFAULT_PORTS or not parts.netloc:
        raise SourceRefused(f"not a URL of a kind that is opened here: {', '.join(f'{s}://' for s in DEFAULT_PORTS)}")
    if not host:
        raise SourceRefused("not a URL with a host")
    _check_host(host)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    port = DEFAULT_PORTS[parts.scheme] if port is None else port
    return Place(parts.scheme, host, port, target, unquote(parts.username or ""), unquote(parts.password or ""))


def _check_host(host: str) -> None:
    if not host.isascii():
        raise SourceRefused("the host has letters outside ASCII; write it in its xn-- form")
    if ":" in host:
        try:
            if ipaddress.IPv6Address(host).scope_id is not None:
                raise ValueError("of one cable only")
        except ValueError as error:
            raise SourceRefused(f"{host}: no such host (not an IPv6 address)") from error
        return
    if not re.fullmatch(r"[a-z0-9_](?:[a-z0-9_.-]{0,252})", host) or ".." in host:
        raise SourceRefused("no such host (a name has letters, digits, dots and dashes)")
    if re.fullmatch(r"\d+|0x[0-9a-f]*", host.rpartition(".")[2]):  # then it can only be an address
        try:
            ipaddress.IPv4Address(host)
        except ValueError as error:
            raise SourceRefused(f"{host}: no such host (an address is four decimal numbers, 192.0.2.1)") from error


def is_public(address: str) -> bool:
    """Is this an address of the internet, whatever way it is wrapped?"""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and (ip in NAT64 or ip.packed[:12] == bytes(12)):
            inner = ipaddress.IPv4Address(ip.packed[12:])
        if ip in NAT64_LOCAL:
            return False
        if inner is not None:
            ip = inner
    return ip.is_global and not ip.is_multicast


class Reach:
    """What may be connected to.

    Args:
        rule: "public": addresses of the internet only. "named": those, and the host that the user named himself.
            "any": no limit.
        named: the user's own URL.
    """

    def __init__(self, rule: ReachRule, named: Place | None = None, resolve: Resolve | None = None):
        self.rule, self.named = rule, named
        self._resolve = resolve

    def addresses(self, host: str, port: int) -> list[str]:
        """The addresses of a host, once it is sure that all of them may be reached.

        Raises:
            SourceRefused: there is none, or one is inside our walls.
        """
        resolve = self._resolve or socket.getaddrinfo
        try:
            found = [str(item[4][0]) for item in resolve(host, port, type=socket.SOCK_STREAM)]
        except (OSError, UnicodeError) as error:
            raise SourceRefused(f"{host}: no such host ({error})") from error
        if not found:
            raise SourceRefused(f"{host}: no such host")
        for address in found:
            if not self._is_allowed(host, port) and not is_public(address):
                raise SourceRefused(f"{host} is {address}, a private address; {self._way_out}")
        return list(dict.fromkeys(found))

    def dial(self, host: str, port: int, timeout: float) -> socket.socket:
        """Connect to an address that was checked; OSError where nobody answers."""
        failure: OSError | None = None
        for address in self.addresses(host, port):
            try:
                return socket.create_connection((address, port), timeout=timeout)
            except OSError as error:
                failure = error
        assert failure is not None
        raise failure

    def _is_allowed(self, host: str, port: int) -> bool:
        if self.rule == "any":
            return True
        named = self.named
        # The other usual port too: a camera may lead from http to https.
        return self.rule == "named" and named is not None and host == named.host and port in (named.port, 80, 443)

    @property
    def _way_out(self) -> str:
        if self.rule == "public":
            return "allow it with --allow-private-urls"
        return "a source may lead elsewhere only on the internet; name that address itself"
