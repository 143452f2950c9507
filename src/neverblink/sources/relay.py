"""The decode child's only way out: a door on loopback, kept by the parent, that connects to what was checked.

The child has the address of this door and no other, no password and no TLS: names are looked up, addresses checked
(addresses.py), certificates verified and credentials written on this side. relay_http.py and relay_rtsp.py say what
goes through it.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import ssl
import threading
from abc import ABC, abstractmethod

from neverblink.errors import SourceRefused
from neverblink.sources.addresses import Place, Reach

JOIN_SECONDS = 2.0  # a thread that still asks a name server is left behind: it ends by itself
HEAD_SECONDS = 10.0  # for what comes in to say who it is
MOST_CONNECTIONS = 16  # at once; a player of HLS needs three
MOST_HEAD_BYTES = 64 * 1024


class Relay(ABC):
    """Open from `open` to `close`; `hang_up` between two connections of a source."""

    def __init__(self, place: Place, reach: Reach, *, dial_timeout: float, verify_tls: bool = True):
        self.place, self.reach = place, reach
        self.refusal: SourceRefused | None = None  # why the child was shown a closed door
        self.trouble = ""  # what went wrong on the way, in better words than the child's
        self.token = secrets.token_urlsafe(16)  # others on this machine can knock at the door too
        self._dial_timeout, self._verify_tls = dial_timeout, verify_tls
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._threads: set[threading.Thread] = set()
        self._ready: tuple[tuple[str, int], socket.socket] | None = None  # connected, and not used yet
        self._closed = False

    def open(self) -> None:
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._door.getsockname()[1]
        self._start(self._welcome)

    def close(self) -> None:
        self._closed = True
        with self._lock:
            threads = list(self._threads)
        # Wakes accept(), which on some systems a shutdown alone does not.
        with socket.socket() as knock:
            knock.settimeout(JOIN_SECONDS)
            knock.connect_ex(("127.0.0.1", self.port))
        self._door.close()
        self.hang_up()
        for thread in threads:
            thread.join(JOIN_SECONDS)

    def hang_up(self) -> None:
        """End every connection, and forget what went wrong on it."""
        with self._lock:
            for held in self._sockets:
                _shut(held)
            ready, self._ready = self._ready, None
            self.refusal, self.trouble = None, ""
        if ready is not None:
            self.release(ready[1])

    def prepare(self) -> None:
        """Connect to the source before there is a child, which costs a process: most attempts end here.

        Raises:
            SourceRefused: it may not be reached. OSError: nobody answers.
        """
        place = self.place
        self._ready = (place.host, place.port), self.hold(self.reach.dial(place.host, place.port, self._dial_timeout))

    def dial(self, host: str, port: int, *, tls: bool) -> socket.socket:
        """A connection to an address that was checked, to a peer that has proved its name.

        Raises:
            SourceRefused: it may not be reached. OSError: nobody answers, or not as who it should be.
        """
        with self._lock:
            ready, self._ready = self._ready, None
        if ready is not None and ready[0] == (host, port):
            plain = ready[1]
        else:
            plain = self.hold(self.reach.dial(host, port, self._dial_timeout))
        if not tls:
            plain.settimeout(None)
            return plain
        context = ssl.create_default_context()
        if not self._verify_tls:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            wrapped = self.hold(context.wrap_socket(plain, server_hostname=host))
        finally:
            with self._lock:
                self._sockets.discard(plain)  # `wrapped` has its descriptor now, or has closed it
        wrapped.settimeout(None)
        return wrapped

    def hold(self, held: socket.socket) -> socket.socket:
        """Remember a socket, so that `hang_up` wakes who waits for it."""
        with self._lock:
            self._sockets.add(held)
        if self._closed:
            _shut(held)
        return held

    def release(self, held: socket.socket) -> None:
        with self._lock:
            self._sockets.discard(held)
        _shut(held)
        held.close()

    @abstractmethod
    def child_url(self) -> str:
        """What the child is told to open."""

    @abstractmethod
    def serve(self, child: socket.socket) -> None:
        """One connection of the child, to its end; OSError and SourceRefused are told to the parent."""

    def proxy(self) -> str | None:
        """An HTTP proxy that the child is to use."""
        return None

    def _start(self, run: object, *args: object) -> None:
        thread = threading.Thread(target=run, args=args, name="relay", daemon=True)  # type: ignore[arg-type]
        with self._lock:
            self._threads = {old for old in self._threads if old.is_alive() or old.ident is None} | {thread}
        thread.start()

    def _welcome(self) -> None:
        while not self._closed:
            try:
                child, _ = self._door.accept()
            except OSError:
                return
            with self._lock:
                too_many = len(self._sockets) >= 2 * MOST_CONNECTIONS
            if too_many or self._closed:
                child.close()
                continue
            child.settimeout(HEAD_SECONDS)
            self._start(self._serve, self.hold(child))

    def _serve(self, child: socket.socket) -> None:
        try:
            self.serve(child)
        except SourceRefused as refusal:
            self.refusal = self.refusal or refusal
        except (OSError, ValueError) as error:
            self.trouble = self.trouble or reason(error)
        finally:
            self.release(child)


def reason(error: Exception) -> str:
    """What went wrong with a connection, without numbers of errors and lines of source code."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"the certificate is not to be trusted ({error.verify_message}); name its authority's file in SSL_CERT_FILE"
        )
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({(error.reason or 'no reason given').lower().replace('_', ' ')})"
    if isinstance(error, TimeoutError):
        return "no answer to a connection"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def read_head(peer: socket.socket) -> tuple[bytes, bytes]:
    """(the lines of a head, what came behind its empty line); OSError where none comes."""
    data = b""
    while b"\r\n\r\n" not in data:
        got = peer.recv(MOST_HEAD_BYTES)
        if not got or len(data) + len(got) > MOST_HEAD_BYTES:
            raise OSError("the request was cut short, or is too long")
        data += got
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def _shut(held: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it is down already
        held.shutdown(socket.SHUT_RDWR)
