"""Sources that change, crowd or leave out time stamps in mid-stream."""

from __future__ import annotations

import itertools
import math
import random

import pytest

import media
from neverblink.drills.refusals import _crowded, png
from neverblink.drills.sources import _sampled, stamps
from neverblink.errors import SourceError, SourceRefused
from neverblink.sources.sampling import MediaClock


def test_a_recording_that_changes_its_codec_goes_on(tmp_path, watch):
    """Two recordings in one file, H.264 and MPEG-2: four seconds, one gap event, each picture at its own time."""
    parts = [
        media.write_video(tmp_path / f"{codec}.ts", codec=codec, frames=50, fps=25)
        for codec in ("libx264", "mpeg2video")
    ]
    both = tmp_path / "both.ts"
    both.write_bytes(b"".join(part.read_bytes() for part in parts))
    watched = watch(both, fps=5)
    assert [k / 5 for k in range(20)] == pytest.approx(watched.times)
    assert 1 == len(watched.told("gap"))
    for frame in watched.frames:
        wrong = (round(frame.time * 25) % 50 - media.number_of(frame.pixels)) % media.LEVELS
        assert wrong in (0, 1, 2, 26, 27) or 2.0 <= frame.time < 2.2  # a decoder may hold back two at the seam


def test_first_pictures_without_a_time_are_no_leap():
    """RTSP gives its first pictures without a time stamp, then those of a clock that runs for days."""
    clock = MediaClock(live=True, longest_step=2.0)
    stamps = [clock.stamp(raw, nominal=0.1, wall=k / 10) for k, raw in enumerate([None, None, 95_443.7, 95_443.8])]
    assert [None] * 4 == [stamp.jump for stamp in stamps]
    assert [0, 0.1, 0.2, 0.3] == pytest.approx([stamp.time for stamp in stamps])


def test_the_first_picture_after_a_seek_is_no_leap():
    clock = MediaClock(live=False, longest_step=60.0)
    clock.start_at(5.0)
    stamp = clock.stamp(105.0, nominal=0.1, wall=0.0)
    assert (100.0, None) == (stamp.time, stamp.jump)


@pytest.mark.parametrize("seed", range(12))
def test_wild_time_stamps_only_go_up_and_leaps_are_told(seed):
    """300 generated streams: missing, equal, swapped, infinite, wrapped and leaping time stamps."""
    rng = random.Random(seed)
    for case in range(25):
        nominal = rng.choice([1 / 240, 1 / 30, 1.0])
        times, gaps, leapt = _sampled(list(stamps(rng, nominal)), bool(case % 2), 8.0, nominal)
        assert all(a < b and math.isfinite(b) for a, b in itertools.pairwise(times))
        assert gaps or not leapt


def test_more_pictures_than_any_video_has_are_not_decoded(tmp_path, watch):
    """Sixty thousand in one second keep a decoder busy and show nothing: given up after two thousand."""
    watched = watch(_crowded(tmp_path / "crowd.mkv"))
    assert isinstance(watched.error, SourceError)
    assert "more than 1000 pictures a second" in str(watched.error)
    assert watched.seconds < media.LATE


def test_a_picture_of_many_megapixels_is_refused_by_its_header(tmp_path, watch):
    """Small in bytes, 48 MB in memory: refused, whatever the size of the file."""
    (tmp_path / "wide.png").write_bytes(png(4000, 4000))
    watched = watch(tmp_path / "wide.png")
    assert isinstance(watched.error, SourceRefused)
    assert "8.3 megapixels" in str(watched.error)
    assert [] == watched.frames
    (tmp_path / "fits.png").write_bytes(png(3000, 2000))
    assert 1 == len(watch(tmp_path / "fits.png").frames)
