"""Training streams with exact truth: a game played for ever, its pictures second by second, and what to say of each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from neverblink.arcade.commentary import write_second
from neverblink.arcade.emulator import FRAMES_PER_SECOND, HEIGHT, WIDTH, frame_at
from neverblink.arcade.events import Score
from neverblink.arcade.sport import Second, Sport, sports


def game_stream(
    game: str | Sport,
    seed: int,
    seconds: int | None = None,
    fps: float = 8,
    *,
    start_score: Score | Literal["random"] | None = "random",
) -> Iterator[Second]:
    """A game second by second; only the pictures that are taken are drawn.

    Args:
        game: a sport or its name.
        seed: the whole stream, words included, follows from it.
        seconds: how many to give; None is without end.
        fps: pictures a second, at most 60.
        start_score: as for `Sport.make`; by default in the middle of some game.
    """
    sport: Sport = sports[game] if isinstance(game, str) else game
    running = sport.make(seed, start_score=start_score)
    state, events, taken, second = running.state, running.take_events(), 0, 0
    while seconds is None or second < seconds:
        in_second = int((second + 1) * fps - 1e-9) + 1 - taken  # pictures taken before second + 1
        frames = np.empty((in_second, HEIGHT, WIDTH, 3), np.uint8)
        for n in range(in_second):
            wanted = frame_at((taken + n) / fps)
            while state.frame < wanted:
                state = next(running)
            frames[n] = running.pixels
        taken += in_second
        shown = state
        while state.frame < (second + 1) * FRAMES_PER_SECOND - 1:
            state = next(running)
        events += running.take_events()
        now = tuple(event for event in events if sport.second_of(event) <= second)
        events = [event for event in events if sport.second_of(event) > second]
        text = write_second(second, now, seed, sport)
        yield Second(float(second), frames, now, text, shown, sport.describe(shown))
        second += 1


def write_mp4(
    game: str | Sport,
    seed: int,
    seconds: int,
    path: str | Path,
    truth_path: str | Path,
    fps: int = 8,
    *,
    start_score: Score | Literal["random"] | None = "random",
    crf: int = 12,
) -> None:
    """A stream as an H.264 file and its truth as JSON lines, one a second: start, end, text, events.

    yuv444p keeps the colour of a ball two pixels wide.
    """
    import av

    with av.open(str(path), "w") as container, open(truth_path, "w", encoding="utf-8") as truth:
        video = container.add_stream("libx264", rate=fps, options={"crf": str(crf), "preset": "veryfast"})
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv444p"
        for second in game_stream(game, seed, seconds, fps, start_score=start_score):
            for pixels in second.frames:
                container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            truth.write(json.dumps(second_record(second)) + "\n")
        container.mux(video.encode())


def second_record(second: Second) -> dict[str, object]:
    """The JSON form of one second's truth; `neverblink.bench.quality` reads it back."""
    return {
        "start": second.start,
        "end": second.start + 1,
        "text": second.text,
        "events": [
            {"time": round(event.time, 4), "kind": event.kind, "side": event.side, "score": event.score}
            for event in second.events
        ],
    }
