"""Files: every kind of video gives upright RGB frames at the right moments, and tells where it is broken."""

from __future__ import annotations

import time

import av
import numpy as np
import pytest

import media
from neverblink.errors import SourceDamaged, SourceRefused

HEVC10 = {"codec": "libx265", "pix_fmt": "yuv420p10le", "size": (128, 96)}
KINDS = {
    "h264.mp4": {},
    "b-frames.mp4": {"codec_options": {"preset": "medium", "bf": "3"}},
    "h264.ts": {},
    "h264.mkv": {},
    "h264.flv": {},
    "with-sound.mp4": {"with_sound": True},
    "with-sound.ts": {"with_sound": True},
    "with-sound.mkv": {"with_sound": True},
    "fragmented.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "no-stamps.h264": {"format": "h264"},
    "mpeg4.avi": {"codec": "mpeg4"},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "av1.mkv": {"codec": "libsvtav1", "size": (64, 64)},
    "hevc-10-bit.mp4": HEVC10,
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "prores.mov": {"codec": "prores_ks", "pix_fmt": "yuv422p10le"},
}


@pytest.mark.parametrize("name", KINDS)
def test_each_tick_shows_the_frame_that_is_on_screen(name, tmp_path, watch):
    """At tick k/8 a 30 fps video shows frame floor(30 k / 8), whatever its container and codec are."""
    watched = watch(media.write_video(tmp_path / name, frames=30, **KINDS[name]))
    assert watched.error is None
    assert [k / 8 for k in range(8)] == watched.times
    assert [int(30 * k / 8) for k in range(8)] == [media.number_of(frame.pixels) for frame in watched.frames]
    width, height = KINDS[name].get("size", (64, 48))
    assert all((height, width, 3) == f.pixels.shape and np.uint8 == f.pixels.dtype for f in watched.frames)
    assert (width, height, False, "file") == (
        watched.info.width,
        watched.info.height,
        watched.info.live,
        watched.info.kind,
    )


def test_variable_rate_holds_the_last_frame(tmp_path, watch):
    """Between two frames of a VFR video, the ticks show the older one."""
    watched = watch(media.write_video(tmp_path / "vfr.mp4", times=[0, 0.1, 0.15, 0.9, 2.0], frames=5))
    shown = [media.number_of(frame.pixels) for frame in watched.frames]
    assert [0, 1, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3, 4] == shown
    assert [k / 8 for k in range(17)] == watched.times


@pytest.mark.parametrize("turn", [90, -90, 180])
def test_a_phone_clip_is_upright(turn, tmp_path, watch):
    """The display matrix that a phone writes is applied: a quarter turn makes landscape pixels portrait."""
    path = media.write_video(tmp_path / "phone.mp4", pictures=[media.halves(64, 48)] * 4, rotation=turn)
    pixels = watch(path).frames[0].pixels
    red = {90: pixels[-8:, :], -90: pixels[:8, :], 180: pixels[:, -8:]}[turn]  # where the left half went
    assert (48, 64, 3) if turn == 180 else (64, 48, 3) == pixels.shape
    assert red[..., 0].mean() > 200 > 60 > red[..., 2].mean()


def test_a_long_last_frame_is_no_damage(tmp_path, watch):
    """A clip that ends on a still picture is whole, and the picture is shown until the end."""
    slow = {"codec_options": {"preset": "medium", "bf": "0"}}
    times = [i / 20 for i in range(20)]
    path = media.write_video(tmp_path / "still.mp4", times=times, frames=20, last_seconds=4.0, **slow)
    watched = watch(path, fps=2)
    assert watched.error is None
    assert [0, 10, *[19] * 8] == [media.number_of(frame.pixels) for frame in watched.frames]


def test_one_frame_is_a_video(tmp_path, watch):
    """A file of one frame gives that frame, at 0."""
    assert [0.0] == watch(media.write_video(tmp_path / "one.mp4", frames=1)).times


@pytest.mark.parametrize("name", ["seek.mp4", "seek.ts", "seek.mkv", "seek.h264"])
def test_start_and_end_keep_the_media_time(name, tmp_path, watch):
    """--start 1.3 --end 2.5 gives exactly the frames that a full run gives in that range."""
    path = media.write_video(tmp_path / name, frames=100, format="h264" if name.endswith("h264") else None)
    whole, part = watch(path), watch(path, start=1.3, end=2.5)
    expected = [(f.time, media.number_of(f.pixels)) for f in whole.frames if 1.3 <= f.time < 2.5]
    assert expected == [(f.time, media.number_of(f.pixels)) for f in part.frames]
    assert part.error is None
    assert len(expected) == 9


def test_a_start_behind_the_end_gives_nothing(tmp_path, watch):
    watched = watch(media.write_video(tmp_path / "short.mp4"), start=20.0)
    assert ([], None) == (watched.frames, watched.error)


@pytest.mark.parametrize("name", ["cut.ts", "cut.mp4", "faststart.mp4"])
def test_a_cut_file_gives_all_up_to_the_damage(name, tmp_path, watch):
    """A file cut at 60 % gives its good frames first, then SourceDamaged with the time."""
    flags = {"cut.mp4": "frag_keyframe+empty_moov", "faststart.mp4": "faststart"}.get(name)
    whole = media.write_video(tmp_path / name, frames=90, container_options={"movflags": flags} if flags else {})
    watched = watch(media.truncated(whole, 0.6))
    assert isinstance(watched.error, SourceDamaged)
    assert 1.0 < watched.error.at < 2.5
    assert 0 <= watched.error.at - watched.times[-1] < 0.25
    assert [int(30 * t + 1e-6) % media.LEVELS for t in watched.times] == [
        media.number_of(f.pixels) for f in watched.frames
    ]


def test_a_broken_spot_in_the_middle_is_left_out(tmp_path, watch):
    """Three destroyed packets cost some frames, not the rest of the file; they are counted and told."""
    path = media.write_video(tmp_path / "spot.mp4", frames=90, size=(320, 240))
    with av.open(str(path)) as container:
        spots = [(p.pos, p.size) for p in container.demux(video=0) if p.size][40:43]
    data = bytearray(path.read_bytes())
    for position, size in spots:
        data[position : position + size] = b"\xff" * size
    path.write_bytes(data)
    watched = watch(path)
    assert (None, 2.875) == (watched.error, watched.times[-1])
    assert ["broken packets left out: 3"] == watched.told("error")


def test_4k_is_scaled_in_the_child_and_8k_is_refused(tmp_path, watch):
    """3840x2160, 10-bit, arrives as at most 1280x720; 8k is refused in one line, also in a TS without a header."""
    big = media.write_video(tmp_path / "4k.mp4", size=(3840, 2160), frames=3, codec="libx265", pix_fmt="yuv420p10le")
    watched = watch(big)
    assert (None, (720, 1280, 3)) == (watched.error, watched.frames[0].pixels.shape)
    for name in ("8k.mp4", "8k.ts"):
        watched = watch(media.write_video(tmp_path / name, size=(7680, 4320), frames=1))
        assert isinstance(watched.error, SourceRefused)
        assert "7680x4320 is too large" in str(watched.error)
        assert watched.seconds < media.LATE


def test_a_size_change_in_mid_stream_goes_on(tmp_path, watch):
    """Two transport streams of different sizes, one after the other: each frame has the size of its own part."""
    small = media.write_video(tmp_path / "small.ts", frames=30, size=(64, 48))
    large = media.write_video(tmp_path / "large.ts", frames=30, size=(128, 96))
    joined = tmp_path / "joined.ts"
    joined.write_bytes(small.read_bytes() + large.read_bytes())
    watched = watch(joined)
    assert {(48, 64, 3), (96, 128, 3)} == {frame.pixels.shape for frame in watched.frames}
    assert watched.told("gap")  # the second part's clock starts again
    assert watched.times[-1] > 1.5


def test_realtime_paces_a_file_and_drops_nothing(tmp_path, watch):
    """A paced second of video takes a second; a late reader still gets every frame of a file."""
    path = media.write_video(tmp_path / "paced.mp4", frames=36)
    watched = watch(path, realtime=True)
    assert 1.0 < watched.seconds < media.LATE
    late = watch(path, each=lambda *_: time.sleep(0.15), queue_seconds=0.1)
    assert (10, 0) == (len(late.frames), late.dropped)


def test_natural_video_decodes(watch):
    """Ten seconds of real 640x272 video at 8 fps."""
    watched = watch(media.natural_video())
    assert (80, None) == (len(watched.frames), watched.error)
    assert np.std(watched.frames[40].pixels) > 20
