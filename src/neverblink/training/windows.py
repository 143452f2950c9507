"""Endless training windows out of seeded streams: W seconds with O seconds of overlap, many streams side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from neverblink.errors import ConfigError
from neverblink.models.base import VisionBlock
from neverblink.script import Script
from neverblink.training.samples import Sample, Spoken, previous_ids, write_sample


@dataclass(frozen=True, slots=True)
class Footage:
    """One second of a stream to learn from."""

    patches: np.ndarray  # [t*h*w, values] uint8, from vision.pixels.cut
    text: str  # what is to be said; "" is silence


# (seed) -> the seconds of a stream and the query under which its texts were written
StreamMaker = Callable[[int], tuple[str, Iterator[Footage]]]


@dataclass(frozen=True, slots=True)
class WindowOptions:
    """How windows are cut (StreamingVLM, section 3.2: 24 s with 12 s overlap; small models need less)."""

    seconds: int = 4
    overlap: int = 2
    sink_tokens: int = 32
    text_window: int = 96
    forget: float = 0.5  # share of windows that start without previous text, so that scores have to be read
    latest_start: float = 40_000.0  # seconds; streams start anywhere, so that no clock time is new
    streams: int = 12  # that one worker interleaves

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.seconds:
            raise ConfigError(f"overlap {self.overlap} s must be shorter than the window {self.seconds} s")


class Windows(IterableDataset[tuple[Sample, np.ndarray]]):
    """Yields (sample, patches [n, values] uint8) for ever.

    Args:
        make_stream: a stream from a seed; called again with a new seed when one ends.
        script_for: query -> the script under which a stream is written.
        vision: places of one second's vision tokens (all seconds have the same grid).
        seed: seeds are drawn from here; workers draw from different places.
    """

    def __init__(
        self,
        make_stream: StreamMaker,
        script_for: Callable[[str], Script],
        vision: VisionBlock,
        options: WindowOptions,
        seed: int,
    ):
        self.make_stream, self.script_for, self.vision = make_stream, script_for, vision
        self.options, self.seed = options, seed

    def __iter__(self) -> Iterator[tuple[Sample, np.ndarray]]:
        worker = get_worker_info()
        rng = np.random.default_rng((self.seed, worker.id if worker else 0))
        live = [self._one_stream(rng) for _ in range(self.options.streams)]
        while True:
            i = int(rng.integers(len(live)))
            window = next(live[i], None)
            if window is None:
                live[i] = self._one_stream(rng)
            else:
                yield window

    def _one_stream(self, rng: np.random.Generator) -> Iterator[tuple[Sample, np.ndarray]]:
        o = self.options
        query, footage = self.make_stream(int(rng.integers(2**31)))
        script = self.script_for(query)
        start = float(rng.integers(int(o.latest_start))) if rng.random() < 0.8 else 0.0
        held: list[Footage] = []
        texts: list[str] = []  # of seconds that have left the window
        base = start
        for second in footage:
            held.append(second)
            if len(held) < o.seconds:
                continue
            spoken = [Spoken(base + i, base + i + 1, self.vision, s.text) for i, s in enumerate(held)]
            past = () if rng.random() < o.forget else previous_ids(script, texts, o.sink_tokens, o.text_window)
            yield write_sample(script, spoken, past), np.concatenate([s.patches for s in held])
            step = o.seconds - o.overlap
            texts += [s.text for s in held[:step]]
            held, base = held[step:], base + step


@dataclass(frozen=True, slots=True)
class Batch:
    ids: torch.Tensor  # [B, L] int64, padded on the right
    positions: torch.Tensor  # [3, B, L] float32
    learn: torch.Tensor  # [B, L] bool
    weight: torch.Tensor  # [B, L] float32, loss weight of each learned token
    pixels: torch.Tensor  # [B, L] bool: where vision embeddings go
    patches: torch.Tensor  # [B * n, values] uint8


def collate(samples: list[tuple[Sample, np.ndarray]], pixels_kind: int, pad_id: int, heavy: torch.Tensor) -> Batch:
    """Pad samples to one length.

    Args:
        heavy: [vocabulary] float32, loss weight by token (digits weigh more: most can be copied from the text before,
            so the plain loss hardly asks for reading).
    """
    length = max(len(s.ids) for s, _ in samples)
    b = len(samples)
    ids = torch.full((b, length), pad_id)
    positions, learn = torch.zeros(3, b, length), torch.zeros(b, length, dtype=torch.bool)
    pixels = torch.zeros(b, length, dtype=torch.bool)
    for i, (s, _) in enumerate(samples):
        n = len(s.ids)
        ids[i, :n] = torch.from_numpy(s.ids)
        positions[:, i, :n] = torch.from_numpy(s.positions).float()
        learn[i, :n] = torch.from_numpy(s.learn)
        pixels[i, :n] = torch.from_numpy(s.kinds == pixels_kind)
    patches = torch.from_numpy(np.concatenate([p for _, p in samples]))
    return Batch(ids, positions, learn, heavy[ids] * learn, pixels, patches)
