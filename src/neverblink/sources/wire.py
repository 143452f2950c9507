"""What the decode child says to its parent: a 9-byte header, a JSON note, raw pixels.

    type (1 byte) | length of the note (4) | length of the pixels (4) | note | pixels

The parent trusts no length: a note over 64 KiB or pixels over the agreed size end the conversation.
"""

from __future__ import annotations

import json
import os
import select
import struct
import time
from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np

MessageType = Literal["hello", "info", "frame", "alive", "gap", "end", "damaged", "refused", "failed"]
TYPES: tuple[MessageType, ...] = get_args(MessageType)
HEADER = struct.Struct("!BII")
MAX_NOTE_BYTES = 64 * 1024


class WireError(Exception):
    """The other side is gone, silent for too long, or talks nonsense."""


def write_message(fd: int, kind: MessageType, note: dict[str, Any], pixels: np.ndarray | None = None) -> None:
    body = memoryview(b"") if pixels is None else np.ascontiguousarray(pixels).data.cast("B")
    text = json.dumps(note).encode()
    _write_all(fd, memoryview(HEADER.pack(TYPES.index(kind), len(text), len(body)) + text))
    _write_all(fd, body)


def _write_all(fd: int, data: memoryview) -> None:
    while data:
        data = data[os.write(fd, data) :]


class Reader:
    """Reads messages from a pipe; gives up when nothing at all arrives for `patience` seconds, or when stopped."""

    def __init__(self, fd: int, *, max_body_bytes: int, is_stopped: Callable[[], bool] = lambda: False):
        self.fd = fd
        self.max_body_bytes = max_body_bytes
        self._is_stopped = is_stopped
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN | select.POLLHUP)

    def wait(self, seconds: float) -> bool:
        """Is there something to read, now or within so many seconds?"""
        deadline = time.monotonic() + seconds
        while not self._poll.poll(50):
            if self._is_stopped() or time.monotonic() > deadline:
                return False
        return True

    def read(self, patience: float) -> tuple[MessageType, dict[str, Any], np.ndarray]:
        """The next message; the pixels are a flat uint8 array (empty where there are none)."""
        deadline = time.monotonic() + patience
        number, note_bytes, body_bytes = HEADER.unpack(self._read(HEADER.size, deadline).tobytes())
        if number >= len(TYPES) or note_bytes > MAX_NOTE_BYTES or body_bytes > self.max_body_bytes:
            raise WireError("the decoder sent a malformed message")
        note = json.loads(self._read(note_bytes, deadline).tobytes())
        return TYPES[number], note, self._read(body_bytes, deadline)

    def _read(self, count: int, deadline: float) -> np.ndarray:
        data = np.empty(count, np.uint8)
        left = data.data
        while left:
            self._wait(deadline)
            got = os.readv(self.fd, [left])
            if not got:
                raise WireError("the decoder died")
            left = left[got:]
        return data

    def _wait(self, deadline: float) -> None:
        # Short waits, so that close() is noticed even if the child never says another word.
        while not self._poll.poll(50):
            if self._is_stopped():
                raise WireError("closed")
            if time.monotonic() > deadline:
                raise WireError("nothing arrived in time")
