"""Records to windows, windows to samples with their pictures: what a stream would hold, second by second.

Pictures come through the same sources and the same pixel code as a stream's, so a window costs one decoder process
(see sources/decoded.py) and what a training step sees is what the stream will see.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from neverblink.errors import ConfigError, NeverblinkError
from neverblink.models.base import VisionBlock
from neverblink.script import Script, ScriptOptions
from neverblink.sources import SourceOptions, chunks, open_source
from neverblink.training.samples import Sample, Spoken, previous_ids, write_sample
from neverblink.training.sft.records import Index, Record, live, scan
from neverblink.types import Chunk
from neverblink.vision.pixels import PixelOptions, cut, fit, resize

Grid = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Window:
    """Some seconds of a record."""

    record: int  # number in the index
    first: int  # second of the record, from 0
    seconds: int
    dense: float  # share of its seconds with talk


@dataclass(frozen=True, slots=True)
class Example:
    """A sample and its pictures."""

    sample: Sample
    patches: np.ndarray  # [sum of t*h*w, values] uint8, second after second
    grids: tuple[Grid, ...]  # of each second, in patches
    fault: str = ""  # why there is nothing to learn in it


class FaultyVideoError(NeverblinkError):
    """A span of a video is not there; the dataset makes an empty example of it that carries the reason."""


def starts(count: int, seconds: int, overlap: int) -> list[int]:
    """First seconds of the windows over `count` seconds; the last one ends with them, whatever it overlaps."""
    last = max(0, count - seconds)
    return sorted({*range(0, last + 1, seconds - overlap), last})


def windows_of(number: int, record: Record, seconds: int, overlap: int) -> list[Window]:
    """The windows of a record; one shorter than a window is one itself."""
    _, lived = live(record)
    found = []
    for first in starts(len(lived), seconds, overlap):
        part = lived[first : first + seconds]
        found.append(Window(number, first, len(part), sum(second.talk for second in part) / len(part)))
    return found


def look(video: Path, first: int, seconds: int, fps: float) -> list[Chunk]:
    """The pictures of whole seconds of a file, as a stream gets them.

    Raises:
        FaultyVideoError: the file does not show all of them.
    """
    options = SourceOptions(fps=fps, start=float(first), end=float(first + seconds))
    try:
        with open_source(video, options) as source:
            found = list(chunks(source, fps))
    except NeverblinkError as error:
        raise FaultyVideoError(str(error)) from error
    shown = [round(chunk.start) for chunk in found]
    if shown != list(range(first, first + seconds)):
        last = shown[-1] + 1 if shown else first
        raise FaultyVideoError(f"{video}: shows {len(shown)} of the seconds {first}-{first + seconds}, up to {last} s")
    return found


class Windows(Dataset[Example]):
    """All windows of a data set, in the order of its files.

    Args:
        data: a JSONL file or a folder of them. script: the format; a record's own query takes the script's place.
        pixels, places: how the model cuts pictures, and where it puts their tokens (adapter.pixels, adapter.places).
        least_dense: windows with less talk are left out (the annealing stage).

    Raises:
        ConfigError: nothing is left to learn from; says how many lines were faulty.
    """

    def __init__(
        self,
        data: Path,
        script: Script,
        pixels: PixelOptions,
        places: Callable[[Grid, float], tuple[np.ndarray, float]],
        *,
        fps: float,
        seconds: int,
        overlap: int,
        sink_tokens: int,
        text_window: int,
        least_dense: float = 0.0,
    ):
        self.script, self.pixels, self.fps = script, pixels, fps
        self.sink_tokens, self.text_window = sink_tokens, text_window
        self.windows: list[Window] = []
        self.left_out = 0  # windows with too little talk

        def note(number: int, record: Record) -> None:
            found = windows_of(number, record, seconds, overlap)
            kept = [window for window in found if window.dense >= least_dense]
            self.windows += kept
            self.left_out += len(found) - len(kept)

        self.index: Index = scan(data, note)
        if not self.windows:
            first = f", the first: {self.index.faults[0]}" if self.index.faults else ""
            raise ConfigError(
                f"{data} has no window to learn from: {len(self.index)} good records, {self.left_out} windows with "
                f"too little talk, {len(self.index.faults)} faulty lines{first}"
            )
        self._places = lru_cache(maxsize=64)(lambda grid: places(grid, pixels.temporal_patch / fps))
        self._script_for = lru_cache(maxsize=64)(self._make_script)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, number: int) -> Example:
        """The example of a window; one whose pictures or words are broken is `nothing()`, with the reason."""
        window = self.windows[number]
        try:
            return self.example(window)
        except NeverblinkError as error:
            return self.nothing(f"{self.index.name(window.record)}: {error}")

    def example(self, window: Window) -> Example:
        """What a stream would hold at the end of the window, had it said all that the record says."""
        record = self.index[window.record]
        before, lived = live(record)
        part = lived[window.first : window.first + window.seconds]
        seen = look(self.index.video(window.record, record), part[0].start, len(part), self.fps)
        patches, grids = zip(*(self._cut(chunk) for chunk in seen), strict=True)
        script = self._script_for(record.query)
        past = [before]
        for second in lived[: window.first]:
            past += [second.text, *(answer for _, answer in second.asked)]
        spoken = [
            Spoken(chunk.start, chunk.end, self._block(grid), second.text, second.asked)
            for chunk, grid, second in zip(seen, grids, part, strict=True)
        ]
        sample = write_sample(script, spoken, previous_ids(script, past, self.sink_tokens, self.text_window))
        return Example(sample, np.concatenate(patches), grids)

    def nothing(self, fault: str) -> Example:
        """One silent black second of which nothing is learned. It keeps a batch, and every process, in step."""
        size = fit(1, 1, self.pixels)
        black = torch.zeros(self.pixels.temporal_patch, 3, *size, dtype=torch.uint8)
        patches, grid = cut(black, self.pixels)
        sample = write_sample(self.script, [Spoken(0.0, 1.0, self._block(grid), "")])
        empty = Sample(sample.ids, sample.positions, np.zeros_like(sample.learn), sample.kinds)
        return Example(empty, patches.numpy(), (grid,), fault)

    def _cut(self, chunk: Chunk) -> tuple[np.ndarray, Grid]:
        if len({frame.pixels.shape for frame in chunk.frames}) > 1:
            raise FaultyVideoError(f"the size of the picture changes within second {chunk.start:g}")
        stack = torch.from_numpy(np.stack([frame.pixels for frame in chunk.frames])).permute(0, 3, 1, 2)
        patches, grid = cut(resize(stack, self.pixels), self.pixels)
        return patches.numpy(), grid

    def _block(self, grid: Grid) -> VisionBlock:
        loc, advance = self._places(grid)
        return VisionBlock(torch.empty(len(loc), 0), loc, advance)

    def _make_script(self, query: str) -> Script:
        if not query:
            return self.script
        o = self.script.options
        return Script(self.script.tokenizer, ScriptOptions(o.system, query, o.query_in, o.previous_text, o.silence))
