"""Parts that several drills use: a toy model, its options, pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from neverblink.decoding.speak import SpeakOptions
from neverblink.model import Model
from neverblink.options import StreamOptions
from neverblink.training.toy import write_toy_checkpoint
from neverblink.types import Chunk, Frame

TOY = StreamOptions(
    fps=2.0,
    policy_options={"sink_tokens": 8, "text_window": 24, "vision_seconds": 4.0},
    speak=SpeakOptions(max_tokens_per_second=6, answer_tokens=12),
    question_tokens=96,
)


def toy_model(folder: Path) -> Model:
    return Model.from_pretrained(write_toy_checkpoint(folder / "toy"), device="cpu", dtype="float32")


def chunk_of(second: int, seed: int = 0, frames: int = 2) -> Chunk:
    """A second of noise, 84 x 56 pixels."""
    rng = np.random.default_rng((seed, second))
    pictures = rng.integers(0, 256, (frames, 56, 84, 3), dtype=np.uint8)
    return Chunk(float(second), second + 1.0, tuple(Frame(second + i / frames, p) for i, p in enumerate(pictures)))
