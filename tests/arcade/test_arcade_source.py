"""The arcade as a source: names, media time, and live play by the wall clock."""

import threading
import time
from itertools import islice

import numpy as np
import pytest

from neverblink.errors import SourceRefused, UnknownName
from neverblink.sources import open_source
from neverblink.sources.arcade import ArcadeSource, parse_name
from neverblink.sources.base import SourceOptions
from neverblink.sources.chunks import chunks
from neverblink.training.data import game_stream


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("arcade:pong", ("pong", 0, None)),
        ("arcade:pong?seed=7", ("pong", 7, None)),
        ("arcade:pong?seed=7&score=3-5", ("pong", 7, (3, 5))),
        ("arcade:pong?score=random", ("pong", 0, "random")),
    ],
)
def test_name_says_game_seed_and_score(name: str, expected: tuple):
    assert expected == parse_name(name)


@pytest.mark.parametrize(
    "name", ["arcade:", "arcade:pong/7", "arcade:pong?seed=x", "arcade:pong?speed=2", "arcade:pong?seed"]
)
def test_other_names_are_refused(name: str):
    with pytest.raises(SourceRefused):
        ArcadeSource(name, SourceOptions())


def test_unknown_game_lists_the_known_ones():
    with pytest.raises(UnknownName, match=r"no arcade game 'chess'; known: .*pong.*tennis"):
        open_source("arcade:chess")


def test_frames_are_the_stream_that_training_saw():
    """The same seed shows the same pictures at the same media times as `game_stream`."""
    expected = [frame for second in game_stream("pong", 9, 3, fps=8) for frame in second.frames]
    with open_source("arcade:pong?seed=9&score=random", SourceOptions(fps=8)) as source:
        frames = list(islice(source.frames(), 24))
    assert [k / 8 for k in range(24)] == [frame.time for frame in frames]
    for a, b in zip(expected, frames, strict=True):
        np.testing.assert_array_equal(a, b.pixels)


def test_not_realtime_drops_nothing_and_does_not_wait():
    """A slow reader still gets every picture; a minute of play takes far less than a minute."""
    began = time.monotonic()
    with open_source("arcade:pong", SourceOptions(fps=8, end=60.0)) as source:
        assert not source.info.live
        found = list(chunks(source, 8))
    assert 60 == len(found)
    assert {(8, 0)} == {(len(chunk.frames), chunk.dropped) for chunk in found}
    assert time.monotonic() - began < 30


def test_start_and_end_are_media_times():
    with open_source("arcade:pong", SourceOptions(fps=4, start=2.1, end=4.0)) as source:
        times = [frame.time for frame in source.frames()]
    assert [2.25, 2.5, 2.75, 3.0, 3.25, 3.5, 3.75] == times


def test_live_play_keeps_to_the_wall_clock():
    """No frame comes before its time, and 0.5 s of play takes 0.5 s."""
    with open_source("arcade:pong", SourceOptions(fps=20, realtime=True, end=0.5)) as source:
        assert source.info.live
        began = time.monotonic()
        late = [time.monotonic() - began - frame.time for frame in source.frames()]
    assert min(late) > -0.01
    assert 10 == len(late) + source.take_dropped()


def test_late_reader_loses_the_oldest_frames_and_is_told():
    """After a nap longer than the queue the frames in between are gone, counted, and the game has gone on."""
    options = SourceOptions(fps=20, realtime=True, queue_seconds=0.2, end=2.0)
    with open_source("arcade:pong", options) as source:
        frames = source.frames()
        first = next(frames)
        time.sleep(0.6)
        second = next(frames)
        dropped = source.take_dropped()
        assert second.time >= 0.3
        assert round((second.time - first.time) * 20) - 1 == dropped
        assert 0 == source.take_dropped()
        with open_source("arcade:pong", SourceOptions(fps=20, start=second.time)) as same:
            np.testing.assert_array_equal(next(same.frames()).pixels, second.pixels)


def test_playing_up_to_the_start_is_no_lateness():
    """A game that goes on at second 300 is played up to there first, which takes about a second: nothing is lost."""
    options = SourceOptions(fps=4, realtime=True, start=300.0, queue_seconds=0.25, end=301.0)
    with open_source("arcade:pong", options) as source:
        frames = source.frames()
        assert [300.0, 300.25] == [next(frames).time, next(frames).time]
        assert 0 == source.take_dropped()


def test_frames_lost_behind_the_end_are_not_counted():
    with open_source("arcade:pong", SourceOptions(fps=10, realtime=True, queue_seconds=0.1, end=0.5)) as source:
        frames = source.frames()
        next(frames)
        time.sleep(0.8)
        assert [] == list(frames)
        assert 4 == source.take_dropped()


def test_close_ends_the_wait_for_the_next_frame():
    """A reader that waits for the next frame is let go when another thread closes the source."""
    with open_source("arcade:pong", SourceOptions(fps=0.1, realtime=True)) as source:
        frames = source.frames()
        next(frames)
        began = time.monotonic()
        closer = threading.Timer(0.05, source.close)
        closer.start()
        assert [] == list(frames)
        assert time.monotonic() - began < 5
        closer.join()


def test_events_can_be_taken_while_watching():
    with open_source("arcade:pong?seed=3", SourceOptions(fps=2, end=20.0)) as source:
        last = [frame.time for frame in source.frames()][-1]
        kinds = {event.kind for event in source.take_events() if event.time <= last}
    assert {"new_game", "serve", "hit"} <= kinds


def test_small_max_pixels_thins_the_picture():
    with open_source("arcade:pong", SourceOptions(fps=2, max_pixels=10_000)) as source:
        frame = next(source.frames())
        assert (source.info.height, source.info.width, 3) == frame.pixels.shape
        assert frame.pixels.size // 3 <= 10_000
