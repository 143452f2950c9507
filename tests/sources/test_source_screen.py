"""The screen: a real virtual display where Debian's Xvfb is installed, and a clear line where there is none."""

from __future__ import annotations

import sys

import pytest

from neverblink.drills.cameras import virtual_screen
from neverblink.errors import MissingExtra, SourceRefused


@pytest.fixture
def display():
    with virtual_screen() as name:
        if not name:
            pytest.fail("Xvfb is not installed; scripts/test installs scripts/apt-packages.txt")
        yield name


@pytest.mark.skipif(sys.platform != "linux", reason="needs X11")
def test_a_screen_is_a_live_source(display, watch):
    """Frames at the asked rate on the wall clock, scaled down to what was asked, on one display of 1600x1200."""
    watched = watch("screen", fps=5, end=1.0)
    assert (None, True, "screen", 800, 600) == (
        watched.error,
        watched.info.live,
        watched.info.kind,
        watched.info.width,
        watched.info.height,
    )
    assert watched.times[0] == 0.0
    assert 3 <= len(watched.frames) <= 5
    assert (600, 800, 3) == watched.frames[0].pixels.shape
    assert isinstance(watch("screen:3").error, SourceRefused)


@pytest.mark.skipif(sys.platform != "linux", reason="needs X11")
def test_no_display_is_one_line(monkeypatch, watch):
    monkeypatch.delenv("DISPLAY", raising=False)
    assert "no screen to watch here" in str(watch("screen").error)


def test_no_mss_names_the_extra(monkeypatch, watch):
    monkeypatch.setitem(sys.modules, "mss", None)
    error = watch("screen").error
    assert isinstance(error, MissingExtra)
    assert "neverblink[screen]" in str(error)
