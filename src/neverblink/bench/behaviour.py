"""How gates meet a picture that stays, a cut, and a drift too slow to be seen from one moment to
the next. The picture that stays is of the bundled model's own game, so that it has something to say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from neverblink.arcade.sport import sports
from neverblink.model import Model
from neverblink.stream import Stream
from neverblink.types import Caption, Chunk, Frame

SECONDS = 24
CUT = 12
WAYS: dict[str, dict[str, str]] = {
    "pixel 0.95": {"gate": "pixel"},
    "pixel 0.95 reuse": {"gate": "pixel:skipped=reuse"},
    "pixel 0.98 reuse": {"gate": "pixel:similarity=0.98,skipped=reuse"},
    "grt": {"gate": "grt"},
    "grt reuse": {"gate": "grt:skipped=reuse"},
    "curvestream thumbnail reuse": {"gate": "curvestream:features=thumbnail,floor=1e-6,skipped=reuse"},
    "slow-fast": {"gate": "slow-fast"},
    "key-frames": {"gate": "key-frames"},
}


def behaviour(name: str = "bundled") -> Iterator[dict[str, Any]]:
    """A line a way.

    Yields:
        still_frames_saved: share of a still picture's frames that never reached the encoder.
        still_captions_same: share of its captions that are those of the plain path.
        cut_seconds: chunks from a cut until the first frame after it was encoded (0: its own chunk); None: never.
        drift_tellings: glances encoded in 24 s of a slow cross-fade, of `drift_glances`; 8 s is the largest gap.
    """
    model = Model.from_pretrained(name, device="cpu")
    first, second = _picture("pong", 40), _picture("boxing", 40)
    glance: int = model.adapter.frames_per_glance  # type: ignore[attr-defined]
    still = _watch(model, {}, lambda _: first)
    for way, parts in WAYS.items():
        same, frames = _watch(model, parts, lambda _: first)
        _, cut = _watch(model, parts, lambda t: first if t < CUT else second)
        _, drift = _watch(model, parts, lambda t: _mix(first, second, t / SECONDS))
        seen = [i for i, count in enumerate(cut) if count and i >= CUT]
        yield {
            "way": way,
            **parts,
            "still_frames_saved": round(1 - sum(frames) / sum(still[1]), 4),
            "still_captions_same": round(
                sum(a.text == b.text for a, b in zip(same, still[0], strict=True)) / SECONDS, 4
            ),
            "still_tokens_share": round(sum(c.vision_tokens for c in same) / sum(c.vision_tokens for c in still[0]), 4),
            "cut_seconds": seen[0] - CUT if seen else None,
            "drift_tellings": sum(drift) // glance,
            "drift_glances": sum(still[1]) // glance,
        }


def _picture(sport: str, after: int) -> np.ndarray:
    """A frame of a game, so many steps into it."""
    game = sports[sport].make(1_000_000)
    for _ in range(after):
        next(game)
    return np.asarray(game.pixels)


def _mix(a: np.ndarray, b: np.ndarray, share: float) -> np.ndarray:
    return (a * (1 - share) + b * share).round().astype(np.uint8)


def _watch(
    model: Model, parts: dict[str, str], picture_at: Callable[[float], np.ndarray]
) -> tuple[list[Caption], list[int]]:
    """Captions, and the frames of each chunk that were encoded."""
    options = replace(model.options(), **parts)  # type: ignore[arg-type]
    stream: Stream = model.stream(options)
    counter = Counter(stream.adapter)
    stream.adapter = counter
    captions, encoded = [], []
    for second in range(SECONDS):
        times = [second + i / options.frames for i in range(options.frames)]
        counter.frames = 0
        captions.append(stream.step(Chunk(second, second + 1, tuple(Frame(t, picture_at(t)) for t in times))))
        encoded.append(counter.frames)
    return captions, encoded


class Counter:
    """An adapter that counts the frames it encodes."""

    def __init__(self, adapter: Any):
        self._adapter, self.frames = adapter, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)

    def encode(self, frames: Any, fps: float) -> Any:
        self.frames += len(frames)
        return self._adapter.encode(frames, fps)

    def encode_packed(self, looks: Any) -> Any:
        self.frames += sum(len(look.frames) for look in looks)
        return self._adapter.encode_packed(looks)
