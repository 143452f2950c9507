"""What the contract tests of all families share: toys, streams, and one stock forward over a whole sequence."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch

from neverblink import Chunk, Frame, Model, ScriptOptions, SpeakOptions, Stream, StreamOptions
from neverblink.training.toys import RECIPES, write_toy
from neverblink.vision.pixels import patchify, squares
from tests.forced import Forced

FAMILIES = tuple(RECIPES)
PATCHES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe")
SIZES = ((56, 56), (56, 84), (84, 56), (112, 84))
TEXT = {"sink_tokens": 3, "text_window": 4}
POLICIES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("streaming", {**TEXT, "vision_seconds": 2.0}),
    ("full", {"kv_budget": 1500}),
    ("sliding", {"vision_seconds": 2.0}),
    ("recompute", {**TEXT, "vision_seconds": 2.0}),
    ("last-frames", {"frames": 3}),
    ("streaming-vlm", {"window_size": 2, "text_round": 3, "text_sink": 2, "text_sliding_window": 4, "kv_budget": 900}),
    ("reread", {**TEXT, "vision_seconds": 2.0}),
)
SCRIPT = ScriptOptions(query="Say it.")


@cache
def checkpoint(family: str) -> Path:
    return write_toy(family, Path(mkdtemp(prefix=f"neverblink-{family}-")))


@cache
def model(family: str) -> Model:
    return Model.from_pretrained(checkpoint(family), device="cpu")


def chunk(i: int, frames: int = 2, size: tuple[int, int] = (56, 84)) -> Chunk:
    rng = np.random.default_rng(i)
    pictures = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(frames)]
    return Chunk(float(i), i + 1.0, tuple(Frame(i + k / frames, p) for k, p in enumerate(pictures)))


def changing(i: int, seed: int = 0) -> Chunk:
    """A second of another size and number of frames than its neighbours; portrait and landscape, even and odd."""
    return chunk(i + 100 * seed, 1 + (i + seed) % 3, SIZES[(i + seed) % len(SIZES)])


def at(i: int, seen: Chunk) -> Chunk:
    return Chunk(float(i), i + 1.0, seen.frames)


def stream(family: str, policy: int = 0, forced: Any = None, **more: Any) -> Stream:
    name, windows = POLICIES[policy]
    options = {"policy": name, "policy_options": windows, "fps": 2.0, "question_tokens": 40, **more}
    speak = SpeakOptions(max_tokens_per_second=4, answer_tokens=2)
    return model(family).stream(StreamOptions(speak=speak, **options), SCRIPT, processor=forced)


def say(forced: Forced, stream: Stream, i: int) -> None:
    """Makes the next answer: two words and the end mark, or a cut answer of four."""
    words = [60 + i, 61 + i]
    forced.script = [*words, stream.script.end_id] if i % 3 else [*words, 62, 63]


def stock_logits(family: str, ids: np.ndarray, chunks: list[Chunk], pad_id: int) -> torch.Tensor:
    """One top-level forward of the stock class over a whole sequence with all its pictures: [tokens, vocabulary]."""
    adapter = model(family).adapter
    tokens = torch.from_numpy(ids.copy())[None]
    pads = tokens == pad_id
    given: dict[str, Any] = {}
    if family in PATCHES:
        cut = [patchify([f.pixels for f in c.frames], adapter.pixels) for c in chunks]
        given = {
            "pixel_values_videos": torch.cat([patches for patches, _ in cut]),
            "video_grid_thw": torch.tensor([grid for _, grid in cut]),
            "mm_token_type_ids": pads.long() * 2,
        }
        if family == "qwen2_5_vl":
            given["second_per_grid_ts"] = torch.ones(len(chunks))
    else:
        each = [squares([f.pixels for f in c.frames], adapter.pixels) for c in chunks]
        if family == "llava_onevision":
            given["pixel_values_videos"] = torch.stack(each)
        elif family in ("smolvlm", "idefics3"):
            given["pixel_values"] = torch.cat(each)[None]
        else:
            given["pixel_values"] = torch.cat(each)
        if family == "gemma3":
            given["token_type_ids"] = pads.long()
    with torch.inference_mode():
        adapter.model.model.rope_deltas = None  # state that a forward of its own leaves in the stock model
        logits: torch.Tensor = adapter.model(input_ids=tokens, use_cache=False, **given).logits[0]
    return logits
