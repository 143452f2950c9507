"""RTSP through the relay: the child's plain RTSP on loopback becomes the camera's, over TLS for rtsps.

Names in the requests are changed back to the camera's own, and credentials are written here: the child never has them.
A camera that redirects is refused, since FFmpeg would follow to any address.
"""

from __future__ import annotations

import re
import select
import socket
import ssl

from neverblink.errors import SourceRefused
from neverblink.sources.credentials import authorization, best_challenge
from neverblink.sources.relay import MOST_HEAD_BYTES, Relay

MOST_BODY_BYTES = 2**20  # an SDP description has a few KiB


class RtspRelay(Relay):
    def child_url(self) -> str:
        return self.here + self.place.target

    @property
    def here(self) -> str:
        return f"rtsp://127.0.0.1:{self.port}/{self.token}"

    def serve(self, child: socket.socket) -> None:
        said = Messages(child)
        while not (first := said.take()):
            if not said.fill():
                return
        if self.token.encode() not in first.partition(b"\r\n")[0]:
            return  # somebody else at the door
        camera = self.dial(self.place.host, self.place.port, tls=self.place.scheme == "rtsps")
        try:
            child.settimeout(None)
            _Talk(self, child, camera).hold(said, first)
        finally:
            self.release(camera)


class _Talk:
    """One connection of the child and the camera's; one thread, since a TLS connection is not made for two."""

    def __init__(self, relay: RtspRelay, child: socket.socket, camera: socket.socket):
        self.relay, self.child, self.camera = relay, child, camera
        self._number = 0  # of the newest request
        self._asked: dict[int, tuple[str, bytes, bool]] = {}  # request -> the child's number, itself, with credentials?
        self._challenge: str | None = None
        self._answered = 0  # requests that met this challenge

    def hold(self, said: Messages, first: bytes) -> None:
        """Until one of the two hangs up."""
        self.up(first)
        answers, poll = Messages(self.camera), select.poll()
        poll.register(self.child, select.POLLIN)
        poll.register(self.camera, select.POLLIN)
        while True:
            ready = {number for number, _ in poll.poll(None if not _held_back(self.camera) else 0)}
            if self.child.fileno() in ready:
                if not said.fill():
                    return
                while message := said.take():
                    self.up(message)
            if self.camera.fileno() in ready or _held_back(self.camera):
                if not answers.fill():
                    return
                while message := answers.take():
                    self.down(message)

    def up(self, message: bytes) -> None:
        """Something that the child says: a request, or frames of RTCP."""
        if message[:1] == b"$" or message.startswith(b"RTSP/"):
            self.camera.sendall(message)
            return
        number = re.search(rb"(?im)^CSeq: *(\d+)", message)
        self._ask(number[1].decode() if number else "0", message)

    def _ask(self, childs_number: str, message: bytes) -> None:
        place = self.relay.place
        text = message.decode("latin-1").replace(self.relay.here, f"{place.scheme}://{place.authority}")
        line, _, rest = text.partition("\r\n")
        rest = re.sub(r"(?im)^(?:CSeq|Authorization):.*\r\n", "", rest)
        method, _, uri = line.rpartition(" ")[0].partition(" ")
        self._number += 1
        lines = [line, f"CSeq: {self._number}"]
        if self._challenge is not None:
            self._answered += 1
            lines.append("Authorization: " + authorization(self._challenge, method, uri, place, self._answered))
        self._asked = {n: asked for n, asked in self._asked.items() if n > self._number - 32}
        self._asked[self._number] = childs_number, message, self._challenge is not None
        self.camera.sendall("\r\n".join([*lines, rest]).encode("latin-1"))

    def down(self, message: bytes) -> None:
        """Something that the camera says."""
        if not message.startswith(b"RTSP/"):
            self.child.sendall(message)
            return
        status = int(message[9:12])
        number = re.search(rb"(?im)^CSeq: *(\d+)", message)
        childs, request, had_credentials = self._asked.get(int(number[1]) if number else -1, ("0", b"", True))
        if 300 <= status < 400:
            raise SourceRefused("the camera redirects to another address; name that address itself")
        if status == 401 and self.relay.place.user and (not had_credentials or b"stale=true" in message.lower()):
            head = message.partition(b"\r\n\r\n")[0].decode("latin-1")
            challenge = best_challenge(re.findall(r"(?im)^WWW-Authenticate:([^\r\n]*)", head))
            if challenge is not None:
                self._challenge, self._answered = challenge, 0
                self._ask(childs, request)
                return
        self.child.sendall(re.sub(rb"(?im)^CSeq: *\d+", b"CSeq: " + childs.encode(), message, count=1))


def _held_back(peer: socket.socket) -> bool:
    """Has TLS read more than it was asked for?"""
    return isinstance(peer, ssl.SSLSocket) and peer.pending() > 0


class Messages:
    """RTSP messages and runs of interleaved frames from a socket."""

    def __init__(self, peer: socket.socket):
        self.peer = peer
        self._data = bytearray()

    def fill(self) -> bool:
        """Wait for more; False when the peer has hung up."""
        got = self.peer.recv(65536)
        self._data += got
        return bool(got)

    def take(self) -> bytes:
        """A whole message, or as many whole `$` frames as there are; b"" where more is needed. ValueError: too long."""
        size = self._whole()
        found = bytes(self._data[:size])
        del self._data[:size]
        return found

    def _whole(self) -> int:
        """Bytes at the front that belong together and are all here."""
        data = self._data
        if data[:1] == b"$":
            end = 0
            while len(data) >= end + 4 and data[end] == 0x24:
                size = 4 + int.from_bytes(data[end + 2 : end + 4], "big")
                if len(data) < end + size:
                    break
                end += size
            return end
        start = re.search(rb"\$|[A-Z_]{3,20}[ /]", data)
        if data and start is None:
            del data[: max(0, len(data) - 24)]
            return 0
        if start is not None and start.start():
            del data[: start.start()]  # some cameras leave rubbish between two frames
            return self._whole()
        head_end = data.find(b"\r\n\r\n")
        if head_end < 0:
            if len(data) > MOST_HEAD_BYTES:
                raise ValueError("the camera's answer is too long")
            return 0
        length = re.search(rb"(?im)^Content-Length: *(\d{1,9})", data[:head_end])
        body = int(length[1]) if length else 0
        if body > MOST_BODY_BYTES:
            raise ValueError("the camera's answer is too long")
        return head_end + 4 + body if len(data) >= head_end + 4 + body else 0
