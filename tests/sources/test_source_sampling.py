"""Media time under every kind of time stamp, and chunks: generated cases, no codec."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.properties import tries

from neverblink.sources import chunks
from neverblink.sources.sampling import TICK_TOLERANCE, MediaClock, Sampler
from neverblink.types import Frame

HOUR = 3600.0
steps = st.one_of(
    st.floats(0, 0.2), st.floats(-0.1, 0), st.sampled_from([HOUR, -HOUR, 0.0, 1 / 240, 95443.7, -95443.7, 3.0, 70.0])
)
stamps = st.lists(st.tuples(steps, st.booleans()), max_size=60)


@tries(300)
@given(stamps, st.booleans(), st.sampled_from([0.5, 2.0, 8.0, 24.0]))
def test_media_time_never_goes_back(cases, live, fps):
    """Whatever the stamps do (leaps of an hour, wraps, none at all), media time and ticks only ever grow."""
    clock, sampler = MediaClock(live=live, longest_step=2.0 if live else 60.0), Sampler(fps)
    raw, wall, last, ticks = 1000.0, 0.0, 0.0, []
    for step, is_missing in cases:
        raw, wall = raw + step, wall + 0.04
        stamp = clock.stamp(None if is_missing else raw, nominal=0.04, wall=wall)
        assert stamp.time >= last
        if live:
            assert stamp.time - last <= 2.0 + 1e-6
        if stamp.jump is None:
            ticks += sampler.before(stamp.time)
        sampler.skip_to(stamp.time)
        ticks += sampler.at(stamp.time)
        last = stamp.time
    assert all(a < b for a, b in itertools.pairwise(ticks))
    assert all(math.isclose(tick * fps, round(tick * fps), abs_tol=1e-6) for tick in ticks)
    assert len(ticks) <= (last + TICK_TOLERANCE) * fps + 1


def test_a_live_leap_takes_the_time_that_really_passed():
    """A camera whose clock leaps by an hour in 40 ms went on for 40 ms; the leap is told."""
    clock = MediaClock(live=True, longest_step=2.0)
    clock.stamp(10.0, nominal=0.04, wall=0.0)
    for raw in (10.0 + HOUR, 10.0):
        before = clock.stamp(None, nominal=0.0, wall=0.0).time
        stamp = clock.stamp(raw, nominal=0.04, wall=0.0)
        assert stamp.time - before == pytest.approx(0.04)
        assert abs(stamp.jump) > 3000


def test_a_file_keeps_its_time_line():
    """An hour without a frame in a file is an hour: told as a gap, filled with nothing."""
    clock = MediaClock(live=False, longest_step=60.0)
    clock.stamp(0.0, nominal=0.04, wall=0.0)
    stamp = clock.stamp(HOUR, nominal=0.04, wall=0.0)
    assert (HOUR, HOUR) == (stamp.time, stamp.jump)


class Fake:
    """The least that chunks() needs."""

    def __init__(self, times):
        self.times = times
        self.given = 0
        self.dropped = 0

    def frames(self):
        for time in self.times:
            self.given += 1
            yield Frame(time, np.zeros((1, 1, 3), np.uint8))

    def take_dropped(self):
        dropped, self.dropped = self.dropped, 0
        return dropped


def test_a_full_chunk_waits_for_no_further_frame():
    """The last frame of a second gives out its chunk at once: a live second is not one frame late."""
    source = Fake([0.0, 0.5, 1.0, 1.5])
    first = next(chunks(source, fps=2))
    assert (0.0, 1.0, 2) == (first.start, first.end, source.given)
    assert [0.0, 0.5] == [frame.time for frame in first.frames]


def test_time_jumps_over_empty_seconds():
    """Seconds without frames give no chunk; a short second gives what there is; a late start keeps its time."""
    times = [5.5, 6.0, 6.5, 90.0, 91.5]
    assert [(5.0, 1), (6.0, 2), (90.0, 1), (91.0, 1)] == [
        (chunk.start, len(chunk.frames)) for chunk in chunks(Fake(times), fps=2)
    ]


def test_chunks_carry_what_was_dropped():
    source = Fake([0.0, 0.5, 1.0, 1.5])
    stream = chunks(source, fps=2)
    source.dropped = 3
    assert [3, 0] == [chunk.dropped for chunk in stream]


@given(st.lists(st.floats(0, 50), unique=True, max_size=80), st.sampled_from([0.5, 1.0, 2.0]), st.integers(1, 9))
def test_every_frame_lies_in_its_own_chunk(times, seconds, fps):
    """No frame lies outside its chunk, no second appears twice, and at most one chunk's worth is in it."""
    made = list(chunks(Fake(sorted(times)), fps=fps, seconds=seconds))
    assert len({chunk.start for chunk in made}) == len(made)
    for chunk in made:
        assert 0 < len(chunk.frames) <= max(1, round(fps * seconds))
        assert all(chunk.start - 1e-5 <= frame.time < chunk.end for frame in chunk.frames)


def test_tenths_fall_into_the_right_second():
    """0.1 * 30 is 3.0000000000000004 and 0.7 / 0.1 is 6.999: neither moves a frame into another chunk."""
    made = list(chunks(Fake([k * 0.1 for k in range(40)]), fps=10))
    assert [10] * 4 == [len(chunk.frames) for chunk in made]
