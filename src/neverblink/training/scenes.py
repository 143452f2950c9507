"""Scenes: streams that a frozen vision tower has already watched, on disk, to train a decoder from many times.

A tower that is not trained any more gives the same tokens for the same second every time, so it looks once. Encoding
runs in as many processes as are asked for; a second of Pong takes about 12 ms of one CPU core and 2 KB of disk.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from neverblink.arcade.commentary import Slip
from neverblink.errors import ConfigError

Query = str
PER_FILE = 25  # scenes; what is held is lost where the stage is stopped


class Quiz(NamedTuple):
    """A question that may be asked at the end of a second."""

    kind: str
    question: str
    answer: str
    since: int  # the second that the answer rests on
    recalled: Sequence[int] = ()  # seconds whose lines the journal finds for it, best first


@dataclass(frozen=True, slots=True)
class Scene:
    """One stream as the decoder sees it.

    Args:
        vision: [seconds, tokens, hidden] bfloat16, the tower's output second by second.
        lines: query -> what is to be said of each second under it; "" is silence.
        grid: height and width of a picture in patches.
        quizzes: for each second the questions that may be asked at its end; () for none at all.
        fps: pictures a second, of which the tower makes its tokens two by two.
        forgets: a window may be shown without what was said before it: pictures tell all that is to be said.
        turns: seconds that change what has to be remembered from then on.
        cuts: seconds whose pictures do not go on from those before them; no window shows both.
        slips: for each second what one says who takes one side for the other, if that is easily done; () for none.
    """

    vision: torch.Tensor
    lines: dict[Query, list[str]]
    grid: tuple[int, int]
    quizzes: Sequence[Sequence[Quiz]] = ()
    fps: int = 8
    forgets: bool = True
    turns: Sequence[int] = ()
    cuts: Sequence[int] = ()
    slips: Sequence[Slip | None] = ()

    @property
    def takes(self) -> list[tuple[int, int]]:
        """First second and the one behind the last of each run of pictures without a cut."""
        return list(pairwise([0, *self.cuts, len(self.vision)]))


@dataclass(frozen=True, slots=True)
class Footage:
    """One stream as a camera sees it: uint8 patches [t*h*w, values] of each second, and the rest as in `Scene`."""

    patches: list[np.ndarray]
    lines: dict[Query, list[str]]
    grid: tuple[int, int]
    quizzes: Sequence[Sequence[Quiz]] = ()
    fps: int = 8
    forgets: bool = True
    turns: Sequence[int] = ()
    cuts: Sequence[int] = ()
    slips: Sequence[Slip | None] = ()


TOLD = tuple(field.name for field in fields(Footage) if field.name != "patches")  # of a scene, in its file of words
Encode = Callable[[torch.Tensor, tuple[int, int], int], torch.Tensor]


class Encoded(IterableDataset[Scene]):
    """Endless scenes: footage from drawn seeds through a tower that is loaded in the worker.

    Args:
        load: gives encode([patches, values] uint8, grid, seconds) -> [seconds, tokens, hidden].
        film: footage of a seed.
        seed: seeds are drawn from here; workers draw from different places.
    """

    def __init__(
        self,
        load: Callable[[], Encode],
        film: Callable[[int], Footage],
        seed: int,
    ):
        self.load, self.film, self.seed = load, film, seed

    def __iter__(self) -> Iterator[Scene]:
        torch.set_num_threads(1)
        worker = get_worker_info()
        rng = np.random.default_rng((self.seed, worker.id if worker else 0))
        encode = self.load()
        while True:
            footage = self.film(int(rng.integers(2**31)))
            patches = torch.from_numpy(np.concatenate(footage.patches))
            with torch.inference_mode():
                vision = encode(patches, footage.grid, len(footage.patches)).to(torch.bfloat16)
            yield Scene(vision.clone(), **{name: getattr(footage, name) for name in TOLD})


def collect(scenes: Encoded, folder: Path, seconds: int, workers: int, report: Callable[[str], None]) -> None:
    """Write scenes until they are `seconds` long together. Files that are there already count."""
    folder.mkdir(parents=True, exist_ok=True)
    files = sorted(folder.glob("*.safetensors"))
    done = sum(len(line) for file in files for line in _first_lines(file))
    if done >= seconds:
        return
    if files:  # the rest must not repeat the seeds of what is there
        scenes.seed += len(files)
    source = iter(DataLoader(scenes, batch_size=None, num_workers=workers, prefetch_factor=2 if workers else None))
    held: list[Scene] = []
    began, before = time.monotonic(), done
    while done < seconds:
        held.append(next(source))
        done += len(held[-1].vision)
        if len(held) == PER_FILE or done >= seconds:
            name = folder / f"{len(files):04d}"
            texts = "".join(json.dumps({n: getattr(s, n) for n in TOLD}) + "\n" for s in held)
            name.with_suffix(".jsonl").write_text(texts, encoding="utf-8")
            save_file({f"{i:03d}": s.vision.contiguous() for i, s in enumerate(held)}, name.with_suffix(".safetensors"))
            files.append(name)
            held = []
            speed = (done - before) / (time.monotonic() - began)
            report(f"scenes {done / 3600:.2f} of {seconds / 3600:.2f} hours, {speed:.0f} seconds of video a second")


def read(folder: Path) -> list[Scene]:
    """All scenes of a folder.

    Raises:
        ConfigError: there are none.
    """
    scenes = []
    for file in sorted(folder.glob("*.safetensors")):
        told = [json.loads(line) for line in file.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines()]
        scenes += [
            Scene(vision, **_read_told(text))
            for (_, vision), text in zip(sorted(load_file(file).items()), told, strict=True)
        ]
    if not scenes:
        raise ConfigError(f"no scenes in {folder}; run the stage `scenes` first")
    return scenes


def _read_told(told: dict[str, Any]) -> dict[str, Any]:
    quizzes = [[Quiz(*asked) for asked in second] for second in told["quizzes"]]
    slips = [Slip(*slip) if slip else None for slip in told.get("slips", ())]
    return {**told, "grid": tuple(told["grid"]), "quizzes": quizzes, "slips": slips}


def _first_lines(file: Path) -> Iterator[list[str]]:
    for line in file.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines():
        yield next(iter(json.loads(line)["lines"].values()))
