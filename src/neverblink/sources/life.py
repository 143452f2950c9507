"""The life of a live source, as a machine without I/O: what it is doing, how long to wait, when to say a word.

    connecting -> live <-> stalled
         ^         |          |
         |         v          v
        lost <-----+----------+          ended, from everywhere

Its clock can be a fake one: a day of a camera that is off takes a second to test.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from typing import Literal

State = Literal["connecting", "live", "stalled", "lost", "ended"]
FIRST_WAIT = 0.25  # seconds before the first attempt to reconnect, at most
LONGEST_WAIT = 30.0  # seconds between two attempts
GROWTH = 1.1  # of the wait, from one attempt to the next: about a tenth of the time that it has been away
TELL_EVERY = 60.0  # seconds between two error events
SETTLED = 3.0  # seconds after which a source that came back counts as back; less is the same outage


def retry_waits(rng: random.Random) -> Iterator[float]:
    """Seconds to wait before each attempt to reconnect: at most 0.25 at first, 30 in the end, never in lock-step."""
    wait = FIRST_WAIT
    while True:
        yield wait * rng.uniform(0.5, 1.0)
        wait = min(wait * GROWTH, LONGEST_WAIT)


class Life:
    """What a live source is doing.

    Args:
        tell: hears (type of event, text); the caller knows the media time. clock: monotonic seconds.
    """

    def __init__(
        self,
        tell: Callable[[str, str], None],
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ):
        self.state: State = "connecting"
        self.attempts = 0  # connections that were begun
        self.lost_at: float | None = None  # clock at the beginning of the outage; None before the first
        self._tell, self._clock = tell, clock
        self._rng = rng or random.Random()
        self._waits = retry_waits(self._rng)
        self._live_since = math.inf
        self._told = -math.inf

    def begin(self) -> None:
        """An attempt to connect is made."""
        self.state = "connecting"
        self.attempts += 1

    def show(self) -> None:
        """A frame, or another sign of life, has come."""
        if self.state in ("connecting", "stalled"):
            if self.state == "connecting":
                self._live_since = self._clock()
            self.state = "live"

    def stall(self) -> None:
        """The connection stands and nothing comes."""
        if self.state == "live":
            self.state = "stalled"

    def lose(self, why: str) -> float:
        """It is gone: seconds to wait before the next attempt."""
        now = self._clock()
        if self.lost_at is None or now - self._live_since >= SETTLED:  # a new outage
            self._waits, self._told, self.lost_at = retry_waits(self._rng), -math.inf, now
        elif self._live_since < math.inf:
            self.lost_at = now
        self._live_since = math.inf
        self.state = "lost"
        if now - self._told >= TELL_EVERY:
            self._tell("error", f"{why}; reconnecting")
            self._told = now
        return next(self._waits)

    def end(self) -> None:
        self.state = "ended"

    def away(self) -> float:
        """Seconds since it was lost."""
        return 0.0 if self.lost_at is None else self._clock() - self.lost_at
