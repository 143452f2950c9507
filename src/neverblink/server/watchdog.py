"""Brings the engine's thread back when it has died: every stream goes on from what it held.

A thread is all that can die here and be brought back. One that hangs in a call cannot be ended from outside, and a
fault of native code (a segmentation fault, the kernel's out-of-memory killer) ends the process: then a supervisor has
to start `neverblink serve` again, which goes on from the snapshots of the streams. /health/ready says which.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from typing import TYPE_CHECKING

from neverblink.engine import Result
from neverblink.errors import ModelError

if TYPE_CHECKING:
    from neverblink.server.hub import Hub
    from neverblink.server.sessions import Session

EVERY = 0.25  # seconds between two looks
MOST, WITHIN = 5, 60.0  # so many deaths in so many seconds are no accident


class Watchdog:
    """Looks after one hub's worker; `run` it on the event loop."""

    def __init__(self, hub: Hub):
        self.hub = hub
        self.revived = 0  # times
        self.gave_up = False
        self._deaths: deque[float] = deque(maxlen=MOST)

    async def run(self) -> None:
        while not self.gave_up:
            await asyncio.sleep(EVERY)
            if not self.hub.closing and not self.hub.worker.alive:
                await self._bring_back(str(self.hub.worker.trouble()))

    def trouble(self) -> str:
        """What to add to the worker's own trouble."""
        again = f"it died {MOST} times in {WITHIN:.0f} s, start the server again; streams go on from their snapshots"
        return again if self.gave_up else ""

    async def _bring_back(self, why: str) -> None:
        now = time.monotonic()
        if len(self._deaths) == MOST and now - self._deaths[0] < WITHIN:
            self.gave_up = True
            print(f"neverblink: {why}; {self.trouble()}", file=sys.stderr, flush=True)
            return
        self._deaths.append(now)
        sessions = list(self.hub.sessions.values())
        reading = [session for session in sessions if session.state in ("starting", "running")]
        for session in reading:  # while the dead thread takes no more chunks
            await asyncio.to_thread(session.halt)
        await asyncio.wrap_future(self.hub.worker.revive(lambda: self._go_on(sessions, reading, why)))
        self.revived += 1
        print(f"neverblink: {why}; it is back, {len(reading)} streams go on", file=sys.stderr, flush=True)

    def _go_on(self, sessions: list[Session], reading: list[Session], why: str) -> None:
        """On the new thread: each stream takes its place again, with its memory."""
        self.hub.engine.quiet()
        for talk in [name for name in self.hub.engine.stream_ids if name not in self.hub.sessions]:
            listener = self.hub.worker.listeners.pop(talk, None)
            self.hub.engine.remove(talk)
            if listener is not None:
                listener.on_result(Result(talk, error=ModelError(why)))
        for session in sessions:
            if session.stream is None:
                continue
            try:
                session.reenter(why)
            except Exception as error:  # this stream is not to be had; the others are
                session.state, session.trouble = "failed", f"{type(error).__name__}: {error}"
        for session in reading:
            if session.state != "failed":
                session.start()
