"""A small data set for tests: one real video file and JSONL records about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from neverblink.training.sft.records import Asked, Record, Word, write
from tests.media import write_video

LINES = ("It starts.", "", "You win.", "What?", "", "Previous text.", "Now!", "The user happens.", "", "You are here.")
ASKED = (
    Asked(1.6, "Who serves?", "You."),
    Asked(4.5, "What is the score?", "You win."),
    Asked(7.0, "Who?", "The user."),
    Asked(9.2, "Now?", "Here."),
    Asked(9.9, "And now?", "There."),
)


def pictures(seconds: int, fps: int = 4, size: tuple[int, int] = (112, 84)) -> list[np.ndarray]:
    """A bright bar that walks to the right, so that no second looks like another."""
    width, height = size
    made = []
    for i in range(seconds * fps):
        picture = np.full((height, width, 3), 30, np.uint8)
        picture[:, (3 * i) % width : (3 * i) % width + 12] = (200, 20 * i % 256, 90)
        made.append(picture)
    return made


def record(seconds: int = 10, **changes: object) -> Record:
    """All of `clip.mp4`, with questions, two of them in its last second."""
    words = tuple(Word(float(i), i + 1.0, LINES[i % 10]) for i in range(seconds) if LINES[i % 10])
    asked = tuple(a for a in ASKED if a.time <= seconds)
    return replace(Record("clip.mp4", 0.0, float(seconds), words, asked=asked), **changes)  # type: ignore[arg-type]


def write_data(folder: Path, records: Sequence[Record], seconds: int = 10) -> Path:
    """`clip.mp4` and `data.jsonl` in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    made = pictures(seconds)
    write_video(folder / "clip.mp4", pictures=made, fps=4, size=(112, 84))
    (folder / "data.jsonl").write_text("".join(write(r) for r in records), encoding="utf-8")
    return folder
