"""A match of 40 seconds, made by hand, so that every event in it is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

STEPS = 401  # of 0.1 s
RECORDED = Path(__file__).parents[3] / "shared" / "football"
# 2 h of video are no part of the repository; in the workplace, where CI runs, they lie beside it: nothing is skipped.
recorded = pytest.mark.skipif(not RECORDED.is_dir(), reason=f"no recorded matches in {RECORDED}")


def hand_made() -> dict[str, Any]:
    """The arrays of a match; what happens stands beside each line. 0 is yellow (left), 1 blue."""
    ball, owner = np.zeros((STEPS, 3)), np.full(STEPS, -1)
    mode, score, cards = np.zeros(STEPS, int), np.zeros((STEPS, 2), int), np.zeros((STEPS, 4), int)
    players = np.zeros((STEPS, 2, 11, 2))
    players[:, 0, :, 0], players[:, 1, :, 0] = -0.6, 0.6
    players[:, :, :, 1] = np.linspace(-0.3, 0.3, 11)
    players[:, 0, 0], players[:, 1, 0] = (-0.98, 0), (0.98, 0)

    def roll(start: int, end: int, x0: float, x1: float, y: float = 0.05) -> None:
        ball[start : end + 1, 0], ball[start : end + 1, 1] = np.linspace(x0, x1, end + 1 - start), y

    def place(start: int, end: int, x: float, y: float, kind: int, side: int) -> None:
        ball[start:end, :2], mode[start:end], players[start:end, side, 7] = (x, y), kind, (x - 0.01, y)
        players[start:end, 1 - side, 7] = (x - 0.06, y)

    roll(4, 50, 0, 0.3)
    owner[3:65] = 0  # yellow kick off at 0.0
    roll(50, 70, 0.3, 0.5)  # beyond 0.4 at 6.1: yellow attack
    owner[65:68] = 1  # a tackle that changes nothing
    owner[68:98] = 0
    roll(70, 150, 0.5, 0.1)
    owner[100:150] = 1  # blue win the ball at 10.0
    place(150, 156, 0.2, 0.1, 3, 0)  # free kick for yellow at 15.0
    roll(156, 200, 0.2, 0.6, 0.1)
    owner[160:200] = 0
    roll(200, 206, 0.6, 0.96, 0.02)  # yellow shoot at 20.1
    roll(206, 220, 0.96, 0.8, 0.02)  # the blue keeper saves at 20.7
    place(220, 226, 1.01, 0.43, 4, 0)  # corner for yellow at 22.0
    roll(226, 250, 0.95, 0.7, 0.1)
    owner[228:250] = 0
    roll(250, 254, 0.7, 0.94, 0.03)  # yellow shoot at 25.1
    ball[255:259] = 0
    score[255:] = 1, 0  # goal for yellow at 25.5; blue kick off
    roll(259, 300, 0.004, -0.1)
    owner[258:300] = 1
    place(300, 303, 0.0, -0.43, 5, 0)  # throw-in for yellow at 30.0
    owner[300:303] = 0
    roll(303, 320, 0, 0.2)
    owner[303:320] = 0
    place(320, 326, 0.93, 0, 2, 1)  # goal kick for blue at 32.0
    roll(326, 360, 0.9, 0.3)
    owner[330:360] = 0  # it flies to yellow, but no-one else held it: yellow win the ball at 33.0
    cards[340:] = 1, 0, 0, 0  # a yellow card for yellow at 34.0
    place(360, 367, -0.81, 0, 6, 1)  # penalty for blue at 36.0
    roll(367, 370, -0.85, -1.0, 0.01)  # blue shoot at 36.7
    ball[371, :2] = -1.02, 0.01
    score[371:] = 1, 1  # goal for blue at 37.1
    ball[372:376] = 0  # yellow kick off at 37.2
    roll(376, 400, 0.01, 0.2)
    owner[376:] = 0
    return {
        "step_seconds": 0.1,
        "video_fps": 2,
        "stride": 5,
        "ball": ball.astype(np.float16),
        "ball_owned_team": owner.astype(np.int8),
        "left_team": players[:, 0].astype(np.float16),
        "right_team": players[:, 1].astype(np.float16),
        "score": score.astype(np.int8),
        "game_mode": mode.astype(np.int8),
        "cards": cards.astype(np.int8),
    }


def write_match(
    folder: Path,
    number: int = 0,
    pictures: int | None = None,
    coder: dict[str, str] | None = None,
    rate: int | None = None,
    **changed: Any,
) -> Path:
    """The two files of the hand-made match; the pictures are grey, 16 + 4 for each second."""
    arrays = hand_made() | changed
    path = folder / f"match_{number:04d}.npz"
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    fps = int(arrays["video_fps"])
    with av.open(str(path.with_suffix(".mp4")), "w") as container:
        video = container.add_stream("libx264", rate=rate or fps, options=coder or {"crf": "10", "preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = 320, 180, "yuv420p"
        for k in range(40 * fps + 1 if pictures is None else pictures):
            pixels = np.full((180, 320, 3), 16 + 2 * (k * 2 // fps), np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(video.encode())
    return path
