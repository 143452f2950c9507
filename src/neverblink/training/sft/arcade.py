"""Arcade games as a data set: MP4 files, their truth second by second, and one JSONL record a file."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from neverblink.arcade.events import Claim, GameEvent
from neverblink.arcade.questions import questions
from neverblink.arcade.sport import Sport, sports
from neverblink.training.data import write_mp4
from neverblink.training.sft.records import Asked, Record, Word, write


@dataclass(frozen=True, slots=True)
class Film:
    """One file to make: everything in it follows from these."""

    game: str
    seed: int
    seconds: int
    fps: int
    ask_every: float  # mean seconds between two questions; 0 asks none

    @property
    def name(self) -> str:
        return f"{self.game}-{self.seed:08d}"


def games_of(names: list[str]) -> list[str]:
    """The games that are meant, each once; "all" means every one.

    Raises:
        UnknownName: no such game; the message lists the known ones.
    """
    games = list(sports) if "all" in names else list(dict.fromkeys(names))
    for name in games:
        _ = sports[name]  # an unknown one is refused before the first is played
    return games


def films(game: str, seconds: int, seed: int, *, file_seconds: int, fps: int, ask_every: float) -> list[Film]:
    """Files of `file_seconds` and a rest, with seeds from `seed` upwards."""
    lengths = [file_seconds] * (seconds // file_seconds) + [seconds % file_seconds] * (seconds % file_seconds > 0)
    return [Film(game, seed + i, length, fps, ask_every) for i, length in enumerate(lengths)]


def make(wanted: list[Film], out: Path, workers: int = 1) -> Iterator[Film]:
    """Make what is not there yet, then write `<game>.jsonl` for all of it; yields each film when it is there."""
    (out / "truth").mkdir(parents=True, exist_ok=True)
    missing = [film for film in wanted if not (out / f"{film.name}.mp4").is_file()]
    yield from (film for film in wanted if film not in missing)
    if workers > 1 and len(missing) > 1:
        # spawn: torch or a codec may have started threads in this process already
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            yield from pool.map(_film, missing, [out] * len(missing))
    else:
        yield from (_film(film, out) for film in missing)
    for game in sorted({film.game for film in wanted}):
        lines = [write(record_of(film, out)) for film in wanted if film.game == game]
        (out / f"{game}.jsonl").write_text("".join(lines), encoding="utf-8")


def _film(film: Film, out: Path) -> Film:
    part, truth = out / f"{film.name}.part.mp4", out / "truth" / f"{film.name}.jsonl"
    write_mp4(film.game, film.seed, film.seconds, part, truth, film.fps)
    part.replace(out / f"{film.name}.mp4")  # a file of this name is whole
    return film


def record_of(film: Film, out: Path) -> Record:
    """The record of a film from its truth."""
    lines = (out / "truth" / f"{film.name}.jsonl").read_text(encoding="utf-8").splitlines()
    truth = [json.loads(line) for line in lines]
    words = [Word(line["start"], line["end"], line["text"].strip()) for line in truth if line["text"]]
    asked = tuple(_ask(film, truth, sports[film.game]))
    return Record(f"{film.name}.mp4", 0.0, float(len(truth)), tuple(words), asked=asked)


def _ask(film: Film, truth: list[dict[str, Any]], sport: Sport) -> Iterator[Asked]:
    """At random seconds, one of the questions that can be answered then; asked when the second is over."""
    rng, events = random.Random(f"questions {film.game} {film.seed}"), []
    for line in truth:
        events += [
            GameEvent(e["time"], Claim(e["kind"], e["side"], tuple(e["score"]) if e["score"] else None))
            for e in line["events"]
        ]
        if film.ask_every and rng.random() < 1 / film.ask_every:
            known = questions(sport, events, line["end"] - 1e-6, rng)
            if known:
                yield Asked(float(line["end"]), known[0].question, known[0].answer)
