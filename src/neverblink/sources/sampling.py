"""Media time: the decoder's time stamps made monotonic, then sampled at a steady rate. Pure; no I/O, no codec."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

LONGEST_STEP_BACK = 0.5  # seconds; a frame that is a little early is folded in, more is a jump
TICK_TOLERANCE = 0.002  # seconds; containers round time stamps to milliseconds, so a frame may be this early


@dataclass(frozen=True, slots=True)
class Stamp:
    """When a decoded frame is shown, and what was wrong with the time stamp it came with."""

    time: float  # media seconds, never before the frame that came first
    jump: float | None = None  # seconds by which the source's own clock leapt, None if it did not


class MediaClock:
    """Turns raw time stamps (seconds, or None where they are missing) into monotonic media time.

    Files: the container's time line is kept; only a leap backwards is folded away.
    Live sources: a leap either way is replaced by the wall time that really passed.
    """

    def __init__(self, *, live: bool, longest_step: float):
        self.live = live
        self.longest_step = longest_step  # seconds between two frames; more is a jump
        self._offset: float | None = None  # media time = raw + offset
        self._begun = False
        self._last = 0.0
        self._last_wall = 0.0

    def start_at(self, raw: float) -> None:
        """Make this raw time stamp media time 0, whatever frame comes first (after a seek)."""
        self._offset = -raw

    def stamp(self, raw: float | None, *, nominal: float, wall: float) -> Stamp:
        """Media time of the next frame; `nominal` is the usual frame duration, `wall` a monotonic wall clock."""
        if raw is not None and not math.isfinite(raw):
            raw = None
        if not self._begun:
            self._begun, self._last_wall = True, wall
            if self._offset is not None and raw is not None:  # after a seek nothing was left out
                self._last = max(0.0, raw + self._offset)
            elif self._offset is None:
                self._offset = -raw if raw is not None else None
            return Stamp(self._last)
        if self._offset is None and raw is not None:  # the first frames had no time of their own
            self._offset = self._last + nominal - raw
        jump = None
        time = self._last + nominal if raw is None or self._offset is None else raw + self._offset
        step = time - self._last
        if step < -LONGEST_STEP_BACK or (step > self.longest_step and self.live):
            jump = step
            time = self._last + (max(wall - self._last_wall, nominal) if self.live else nominal)
        elif step > self.longest_step:
            jump = step
        elif step < 0:
            time = self._last
        if raw is not None and jump is not None:
            self._offset = time - raw
        self._last, self._last_wall = time, wall
        return Stamp(time, jump)


class Sampler:
    """Chooses, tick by tick (tick k is at k/fps), the frame that is on the screen at that moment."""

    def __init__(self, fps: float, *, start: float = 0.0, end: float | None = None):
        self.fps = fps
        self.end = math.inf if end is None else end
        self._tick = math.ceil((start - 1e-9) * fps)

    @property
    def next_time(self) -> float:
        return self._tick / self.fps

    @property
    def is_over(self) -> bool:
        return self.next_time >= self.end

    def before(self, time: float) -> Iterator[float]:
        """Ticks that pass before a frame shown at `time`: they show what was held until then."""
        while self.next_time < min(time - TICK_TOLERANCE, self.end):
            yield self._advance()

    def at(self, time: float) -> Iterator[float]:
        """The tick, if any, that a frame shown at `time` meets at once, with no need to wait for the next frame."""
        if self.next_time <= time + TICK_TOLERANCE and not self.is_over:
            yield self._advance()

    def skip_to(self, time: float) -> None:
        """Leave out the ticks before `time`: there is nothing true to show for them."""
        self._tick = max(self._tick, math.ceil((time - TICK_TOLERANCE) * self.fps))

    def _advance(self) -> float:
        self._tick += 1
        return (self._tick - 1) / self.fps
