"""Network sources, from real servers on this machine: RTSP, HLS (closed and growing), MJPEG, plain files."""

from __future__ import annotations

import socket
import threading
import time

import pytest

import media
from neverblink.errors import SourceError
from neverblink.sources import SourceOptions
from neverblink.sources.decoded import MARGIN

needs_rtsp = pytest.mark.skipif(media.without_rtsp(), reason="NEVERBLINK_NO_RTSP=1")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A folder with five seconds of HLS in segments of one second, and an MP4."""
    folder = tmp_path_factory.mktemp("served")
    media.write_hls(folder, seconds=5)
    media.write_video(folder / "clip.mp4", frames=60)
    return folder


@needs_rtsp
def test_rtsp_gives_frames_at_the_asked_rate(watch):
    with media.RtspCamera() as camera:
        watched = watch(camera.url, end=2.0)
    assert (None, True, "network", 160, 120) == (
        watched.error,
        watched.info.live,
        watched.info.kind,
        watched.info.width,
        watched.info.height,
    )
    assert 12 <= len(watched.frames) <= 16
    assert watched.times[0] < 1  # a reader that is late finds the newest frames
    assert watched.frames[0].pixels.max() > 200  # the white ball


@needs_rtsp
def test_a_camera_that_was_away_comes_back(watch):
    """Off for four seconds: an error event at once, a gap event, time goes on by the wall clock, frames again."""
    camera = media.RtspCamera()
    camera.switch_on()
    returned = threading.Timer(4.0, camera.switch_on)

    def each(source, frame):
        if frame.time >= 1.0 and returned.ident is None:  # a late reader may have lost the frame of second 1 itself
            camera.kill()
            returned.start()

    try:
        watched = watch(camera.url, end=10.5, each=each)
    finally:
        returned.join()
        camera.kill()
    assert watched.error is None
    resumed = next(t for t in watched.times if t > 3.0)
    assert 4.0 < resumed < 10  # about 5.5; a busy machine takes longer to start its server
    assert len([t for t in watched.times if t >= resumed]) >= 3
    (gap,) = [event for event in watched.events if event[0] == "gap"]
    assert gap[2] <= resumed < gap[2] + 2  # a reader that is late finds the newest frames
    assert "reconnecting" in watched.told("error")[0]
    assert len(watched.told("error")) == 1  # one line a minute, not one an attempt


def test_a_silent_peer_is_an_error(watch):
    """A camera that accepts TCP and says nothing would block FFmpeg for more than 30 s."""
    with socket.create_server(("127.0.0.1", 0)) as peer:
        watched = watch(f"rtsp://127.0.0.1:{peer.getsockname()[1]}/cam")
    assert isinstance(watched.error, SourceError)
    assert "no answer within 5 s" in str(watched.error)
    assert watched.seconds < media.LATE


def test_a_stall_in_mid_stream_is_told_within_five_seconds(tmp_path, watch):
    """The connection stays open and nothing comes: an error event, then frames again when the camera goes on.

    Two seconds are allowed here, to be quick.
    """
    up = threading.Event()
    up.set()
    stalled: list[float] = []
    noticed: list[float] = []

    def on_event(kind, text, at):
        if kind == "error" and stalled:
            noticed.append(time.monotonic() - stalled[0])
            up.set()

    def each(source, frame):
        if frame.time == 0.5:
            up.clear()
            stalled.append(time.monotonic())

    with media.http_server(tmp_path, media.mjpeg_camera(20, up.is_set, hangs=True)) as base:
        watched = watch(f"{base}/cam.mjpg", each=each, on_event=on_event, frames=8, read_timeout=2.0)
    assert noticed[0] < media.LATE
    assert SourceOptions().read_timeout + MARGIN <= 5  # the same, with the default
    assert (8, True) == (len(watched.frames), watched.info.live)
    assert watched.times[-1] > 2.5


def test_an_mjpeg_camera_runs_on_the_wall_clock(tmp_path, watch):
    """Multipart JPEG has no time stamps: two seconds of media take two seconds, whatever rate is guessed."""
    with media.http_server(tmp_path, media.mjpeg_camera(10)) as base:
        watched = watch(f"{base}/cam.mjpg", fps=4, end=1.5)
    assert 1.4 < watched.seconds < media.LATE
    assert [k / 4 for k in range(6)] == watched.times


def test_a_late_reader_of_a_live_source_sees_the_newest(tmp_path, watch):
    """A reader four times too slow: old frames are dropped and counted, what it sees is at most a second old."""
    began: list[float] = []
    ages: list[float] = []
    dropped: list[int] = []

    def each(source, frame):
        began.append(time.monotonic() - frame.time)
        ages.append(time.monotonic() - min(began) - frame.time)
        dropped.append(source.take_dropped())
        time.sleep(0.35)

    with media.http_server(tmp_path, media.mjpeg_camera(30)) as base:
        watched = watch(f"{base}/cam.mjpg", fps=10, end=2.9, each=each, queue_seconds=0.3)
    dropped.append(watched.dropped)
    assert max(ages[:-3]) < 1.5  # the last three waited in the queue when the source was over
    assert sum(dropped) > 10
    assert 29 == len(watched.frames) + sum(dropped)


def test_recordings_end_and_drop_nothing(recorded, watch):
    """A closed HLS playlist and an MP4 over HTTP are recordings: all frames, faster than real time, then the end."""
    with media.http_server(recorded) as base:
        for name, seconds in (("live.m3u8", 5), ("clip.mp4", 2)):
            watched = watch(f"{base}/{name}", each=lambda *_: time.sleep(0.01))
            assert (None, False, 8 * seconds) == (watched.error, watched.info.live, len(watched.frames))
            assert watched.seconds < media.LATE


def test_growing_hls_is_live_and_ends_with_its_playlist(recorded, watch):
    """A playlist that grows by a segment a second: paced, nothing lost in its bursts, over when it is closed."""
    with media.http_server(recorded, media.growing_playlist(recorded, first=3)) as base:
        watched = watch(f"{base}/live.m3u8", queue_seconds=0.5)
    assert (None, True, 0) == (watched.error, watched.info.live, watched.dropped)
    assert [k / 8 for k in range(40)] == watched.times
    assert [int(25 * t) % media.LEVELS for t in watched.times] == [media.number_of(f.pixels) for f in watched.frames]
    assert 4 < watched.seconds < 3 * media.LATE


def test_nothing_there_is_one_line(recorded, watch):
    with media.http_server(recorded) as base:
        missing = watch(f"{base}/nope.mp4")
    gone = watch(f"rtsp://127.0.0.1:{media.free_port()}/cam")
    for watched, words in ((missing, "404"), (gone, "refused")):
        assert isinstance(watched.error, SourceError)
        assert words in str(watched.error)
        assert watched.seconds < media.LATE
