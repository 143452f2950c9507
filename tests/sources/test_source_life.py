"""The life of a live source, on a clock of its own."""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
import time

import media
from neverblink.sources import SourceOptions, open_source
from neverblink.sources.life import LONGEST_WAIT, Life, retry_waits


class Clock:
    """Seconds that pass only where somebody waits; sources tell it their waits."""

    def __init__(self):
        self.now = 0.0
        self.waits: list[float] = []

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        self.now += seconds
        return False


def test_the_states_and_what_leads_from_one_to_the_next():
    """connecting -> live <-> stalled -> lost -> connecting; ended from everywhere."""
    clock, told = Clock(), []
    life = Life(lambda *words: told.append(words), clock)
    seen = [life.state]
    for step in ("begin", "show", "stall", "show", "stall"):
        getattr(life, step)()
        seen.append(life.state)
    life.lose("gone")
    seen.append(life.state)
    life.stall()  # what is lost is not stalled
    life.begin()
    life.stall()  # nor is what was never there
    seen.append(life.state)
    life.end()
    seen.append(life.state)
    assert seen == ["connecting", "connecting", "live", "stalled", "live", "stalled", "lost", "connecting", "ended"]
    assert [("error", "gone; reconnecting")] == told


def test_a_day_off_is_retried_for_ever_and_told_once_a_minute():
    """86,400 s: the first attempt within half a second, never more than 30 s between two, at most a line a minute."""
    clock, told = Clock(), []
    life = Life(lambda *_: told.append(clock.now), clock, random.Random(4))
    life.begin()
    life.show()
    clock.now += 100
    began = clock.now
    while clock.now < began + 86_400:
        clock.wait(life.lose("refused"))
        life.begin()
    assert clock.waits[0] <= 0.5
    assert 25 < max(clock.waits) <= LONGEST_WAIT
    assert 86_400 / 30 < life.attempts < 86_400 / 15 + 100
    assert all(b - a >= 60 for a, b in itertools.pairwise(told))
    assert 86_400 / 95 < len(told) <= 86_400 / 60 + 1


def test_a_camera_that_only_flickers_is_still_the_same_outage():
    """A frame now and then neither starts the waits anew nor says a line each time; three seconds do."""
    clock, told = Clock(), []
    life = Life(lambda *_: told.append(clock.now), clock, random.Random(4))
    life.begin()
    life.show()
    clock.now += 10
    for _ in range(40):
        wait = life.lose("flickers")
        clock.wait(wait)
        life.begin()
        life.show()
        clock.now += 0.1
    assert wait > 5
    assert len(told) <= 1 + clock.now / 60
    clock.now += 3.1
    lines = len(told)
    assert life.lose("really gone") <= 0.5
    assert lines + 1 == len(told)


def test_two_sources_never_wait_in_step():
    first, second = (list(zip(range(20), retry_waits(random.Random(seed)), strict=False)) for seed in (1, 2))
    assert first != second


def test_an_hour_without_a_camera_costs_no_child_and_ends_on_the_same_stream(tmp_path):
    """Real sockets, a clock of our own: a refused connection starts no process; afterwards one gap, times go up."""
    clock, events, times, children, up = Clock(), [], [], set(), threading.Event()
    port = media.free_port()
    options = SourceOptions(fps=8, on_event=lambda *event: events.append(event))
    source = open_source(f"http://127.0.0.1:{port}/cam.mjpg", options)
    with contextlib.ExitStack() as cameras:

        def switch_on() -> None:
            up.set()
            cameras.enter_context(media.http_server(tmp_path, media.mjpeg_camera(20, up.is_set), port))

        def wait(seconds: float) -> bool:
            children.add(source.child_pid)
            if clock.now > 3600 and not up.is_set():
                switch_on()
            return clock.wait(seconds)

        source._clock = source.life._clock = clock
        source._wait = wait
        switch_on()
        with source:
            for frame in source.frames():
                times.append(frame.time)
                if len(times) == 4:
                    up.clear()
                    cameras.close()
                if frame.time > 3600:
                    break
    assert {None} == children
    assert len(clock.waits) > 100
    assert times == sorted(set(times))
    (gap,) = [event for event in events if event[0] == "gap"]
    assert gap[2] > 3600
    assert 30 < len([event for event in events if event[0] == "error"]) <= 62


def test_a_silent_camera_is_stalled_before_it_is_lost(tmp_path):
    """Half of the patience later its state says so, while the connection still stands."""
    up = threading.Event()
    up.set()
    states = set()
    with media.http_server(tmp_path, media.mjpeg_camera(20, up.is_set, hangs=True)) as base:
        with open_source(f"{base}/cam.mjpg", SourceOptions(fps=8, read_timeout=1.0)) as source:
            frames = source.frames()
            next(frames)
            assert "live" == source.life.state
            up.clear()
            deadline = time.monotonic() + 5
            while "lost" not in states and time.monotonic() < deadline:
                states.add(source.life.state)
                time.sleep(0.01)
        assert "ended" == source.life.state
    assert {"live", "stalled", "lost"} <= states
