"""Webhooks: alerts sent to somebody else's server, from one thread that holds up nobody."""

from __future__ import annotations

import http.client
import json
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from neverblink.errors import SourceRefused
from neverblink.server.guard import public_addresses

TRIES = 3
TIMEOUT = 5.0  # seconds
LAST = 1.0  # seconds that a stop has for them
MOST_WAITING = 1000


class Hooks:
    """Posts JSON. What fails three times, or finds the queue full, is counted and told."""

    def __init__(self, *, allow_private: bool, wait: Callable[[float], None] = time.sleep):
        self.sent = self.failed = 0
        self._allow_private, self._wait = allow_private, wait
        self._queue: queue.Queue[tuple[str, dict[str, Any], Callable[[str], None]] | None] = queue.Queue(MOST_WAITING)
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)
        self._thread.start()

    def send(self, url: str, value: dict[str, Any], on_failure: Callable[[str], None]) -> None:
        try:
            self._queue.put_nowait((url, value, on_failure))
        except queue.Full:
            self.failed += 1
            on_failure(f"webhook {urlsplit(url).hostname}: {MOST_WAITING} others wait; this one was not sent")

    def close(self) -> None:
        """Give what waits a moment, then leave it."""
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            return  # the thread is a daemon: it ends with the process
        self._thread.join(LAST)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            url, value, on_failure = item
            for attempt in range(TRIES):
                try:
                    post(url, value, allow_private=self._allow_private)
                    self.sent += 1
                    break
                except (OSError, http.client.HTTPException, SourceRefused) as error:
                    if attempt == TRIES - 1 or isinstance(error, SourceRefused):
                        self.failed += 1
                        on_failure(f"webhook {urlsplit(url).hostname}: {error}")
                        break
                    self._wait(2.0**attempt)


def post(url: str, value: dict[str, Any], *, allow_private: bool) -> None:
    """POST a value as JSON to the address that was checked, and to no other: no redirect, no second look-up.

    Raises:
        SourceRefused: the address is private. OSError: no answer, or one that is not 2xx.
    """
    parts = urlsplit(url)
    address = public_addresses(url, allow_private=allow_private)[0]
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    connection = http.client.HTTPConnection(parts.hostname or "", port, timeout=TIMEOUT)
    plain = socket.create_connection((address, port), timeout=TIMEOUT)
    try:
        connection.sock = (
            ssl.create_default_context().wrap_socket(plain, server_hostname=parts.hostname) if secure else plain
        )
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers = {"Content-Type": "application/json", "User-Agent": "neverblink"}
        connection.request("POST", path, json.dumps(value, ensure_ascii=False).encode(), headers)
        status = connection.getresponse().status
        if not 200 <= status < 300:
            raise OSError(f"answered {status}")
    finally:
        connection.close()
        plain.close()
