"""Makes the bundled model: a small Qwen2.5-VL that learns the commentary of arcade games from scratch, on a CPU.

    python -m neverblink.training.arcade build|see|scenes|read|talk --out runs/arcade

Five stages, each goes on where it stopped: `build` writes random weights and a tokenizer, `see` teaches the vision
tower the state of the game, `scenes` lets the finished tower watch hours of games, `read` teaches the decoder to say
what one second shows (nothing to copy from: it has to look), `talk` teaches the commentary in overlapped windows.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader

from neverblink.arcade.commentary import Slip, slip_of
from neverblink.arcade.events import GameEvent, Score
from neverblink.arcade.questions import questions
from neverblink.arcade.sport import Second, Sport, sports
from neverblink.football.commentary import FOOTBALL, TICK
from neverblink.memory.journal import Journal
from neverblink.memory.recall import lines_about
from neverblink.models.base import VisionBlock
from neverblink.models.qwen2_5_vl import Qwen25VL, read_pixel_options
from neverblink.script import SILENCE, Script, ScriptOptions
from neverblink.training.courses import ArcadeCourse, Course, courses_of
from neverblink.training.embedding import Print, directions_of, letter, whiten
from neverblink.training.export import SEEN
from neverblink.training.look import Field, Glance, Pairs, by_grid, fields_of, kinds_of, look
from neverblink.training.loop import LoopOptions, train
from neverblink.training.recipes import SmallVLM, build, save
from neverblink.training.scenes import Encoded, Footage, Quiz, collect, read
from neverblink.training.tokenizer import train_tokenizer
from neverblink.training.windows import Batch, WindowOptions, Windows, by_length
from neverblink.types import Event
from neverblink.vision.pixels import PixelOptions, cut, fit, normalise, resize

COMMENTATE = "Commentate on this game."
DESCRIBE = "Describe what you see."
SYSTEM = "You watch an arcade game."
NAME = "neverblink-arcade"


class Usual(NamedTuple):
    """What a stage takes where the command line is silent."""

    minutes: float
    batch: int  # pairs, lines, windows
    lr: float


USUAL = {"see": Usual(26, 128, 1e-3), "read": Usual(14, 64, 4e-3), "talk": Usual(38, 12, 3e-3)}
LENGTH = 40, 400  # seconds of a stream, at least, and less than
LENGTH_TOLD = 40, 900  # where words alone tell the score: previous text is full after 221 to 255
ALIKE = 4  # batches that are drawn at once and sorted by length, so that little is padding


def corpus(courses: Sequence[Course], streams: int = 30, length: int = 120) -> Iterator[str]:
    """Lines for the tokenizer: everything that the script and the writers can say."""
    for course in courses:
        for seed in range(streams):
            quiz = Quizmaster(course.sport, seed)
            for second in course.seconds(seed, length):
                yield second.text + SILENCE
                yield second.state_text + SILENCE
                yield f"Time={second.start * 97:.1f}-{second.start * 97 + 1:.1f}s"
                for asked in quiz.after(second):
                    yield from (asked.question, asked.answer)
    for _ in range(200):
        yield from (
            f"system\n{SYSTEM}\n{COMMENTATE}",
            f"{SYSTEM}\n{DESCRIBE}",
            "previous text\n",
            "user\n",
            "assistant\n",
        )


class Quizmaster:
    """Asks about a stream that he watches second by second. Questions by the clock are left out: a stream is told the
    time of what it sees, but not of what it said long ago. With a journal he also tells what it finds for each."""

    def __init__(self, sport: Sport, seed: int, journal: Journal | None = None):
        self.sport, self.rng, self.journal = sport, random.Random(f"quiz {seed}"), journal
        self.events: list[GameEvent] = []
        self.start_score: Score | None = None

    def after(self, second: Second) -> list[Quiz]:
        """Questions that may be asked at the end of this second, one of each kind."""
        now, shown = second.start + 1, second.state.score
        if self.start_score is None:
            self.start_score = shown
        self.events += second.events
        if self.journal is not None and second.text:
            line = Event(int(second.start), "", second.start, now, 0.0, "caption", second.text, NAME)
            self.journal.add(line)
        asked = questions(
            self.sport,
            self.events,
            now - 1e-6,
            self.rng,
            state_text=second.state_text,
            start_score=self.start_score,
            shown=shown if self.sport.shows_score else None,
        )
        timeless = (a for a in asked if a.kind != "ago" and "minute" not in a.question)
        return [
            Quiz(a.kind, a.question, a.answer, max(0, int(now - 1e-6 - a.span)), self._recalled(a.question))
            for a in timeless
        ]

    def _recalled(self, question: str) -> list[int]:
        if self.journal is None:
            return []
        return [int(entry.event.t_start) for entry in lines_about(self.journal, None, question)]


def film(seed: int, courses: Sequence[Course], pixels: PixelOptions) -> Footage:
    """One stream to learn from, with both lines of every second."""
    rng = np.random.default_rng(seed)
    course = courses[int(rng.integers(len(courses)))]
    patches: list[np.ndarray] = []
    lines: dict[str, list[str]] = {COMMENTATE: [], DESCRIBE: []}
    quizzes: list[list[Quiz]] = []
    turns: list[int] = []
    cuts: list[int] = []
    slips: list[Slip | None] = []
    words = random.Random(f"slips {seed}")
    shows = course.sport.shows_score
    scoring = frozenset() if shows else course.sport.states - course.sport.remarks
    with TemporaryDirectory() as folder, Journal(Path(folder) / "journal.db") as journal:
        quiz = Quizmaster(course.sport, seed, journal)
        for second in course.seconds(seed, int(rng.integers(*(LENGTH if shows else LENGTH_TOLD)))):
            stack = resize(torch.from_numpy(second.frames).permute(0, 3, 1, 2), pixels)
            patches.append(cut(stack, pixels)[0].numpy())
            lines[COMMENTATE].append(second.text)
            lines[DESCRIBE].append(second.state_text)
            quizzes.append(quiz.after(second))
            slips.append(slip_of([event.claim for event in second.events], words, course.sport))
            now = len(patches) - 1
            # Every stream begins with a new match, so that needs no repetition.
            if now and any(event.kind in scoring for event in second.events):
                turns.append(now)
            if second.cut:
                cuts.append(now)
    if cuts:  # clips are chosen to show such seconds often enough
        turns.clear()
    return Footage(patches, lines, grid_of(course, pixels), quizzes, course.fps, shows, turns, cuts, slips)


def grid_of(course: Course, pixels: PixelOptions) -> tuple[int, int]:
    """Height and width of a course's picture in patches."""
    height, width = fit(*course.frame, pixels)
    return height // pixels.patch, width // pixels.patch


def print_of(course: Course, fields: Sequence[Field], pixels: PixelOptions) -> Print:
    """Where a course's small print stands in its patches."""
    assert course.fine, f"{course.sport.name} has none"
    picture, (place, names) = torch.zeros(2, 3, *course.frame, dtype=torch.uint8), course.fine
    picture[:, :, *place] = 255
    columns = [i for i, (name, _) in enumerate(fields) if name in names]
    return Print(grid_of(course, pixels), cut(resize(picture, pixels), pixels)[0] > 127, columns)


def adapter_of(
    run: Path, device: str = "cpu", dtype: torch.dtype = torch.float32, *, attention: str = "eager"
) -> Qwen25VL:
    """The run's own checkpoint.

    Args:
        attention: "eager", plain, or "sdpa", fused. On a CPU sequences of a few hundred tokens learn 1.4 times as fast
            with the plain one, those of a thousand 1.3 times as fast with the fused one. On a GPU it is fused.
    """
    from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

    if device != "cpu":  # plain attention is slow there, and its weights would fill the memory
        attention = "sdpa"
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(run, dtype=dtype, attn_implementation=attention)
    model.to(device)
    return Qwen25VL(model, AutoTokenizer.from_pretrained(run), read_pixel_options(run, model.config), NAME)


def load_tower(run: Path) -> Any:
    """encode([patches, values] uint8, grid, seconds) -> [seconds, tokens, hidden], for `scenes`."""
    adapter = adapter_of(run, dtype=torch.bfloat16)
    glance = cache(partial(Glance, adapter.model.model.visual))

    def encode(patches: torch.Tensor, grid: tuple[int, int], seconds: int) -> torch.Tensor:
        seen = normalise(patches, adapter.pixels, torch.bfloat16)
        return glance(grid)(seen.unflatten(0, (-1, grid[0] * grid[1]))).unflatten(0, (seconds, -1))

    return encode


def start(run: Path, courses: Sequence[Course], seed: int, size: SmallVLM) -> None:
    """Stage `build`: random weights, a tokenizer and the card. A run that has begun is left as it is."""
    if (run / "config.json").is_file():
        return
    torch.manual_seed(seed)
    tokenizer, memory = train_tokenizer(corpus(courses), run), WindowOptions()
    card = {
        "name": NAME,
        "domain": f"sport ({', '.join(course.sport.title for course in courses)})",
        "fps": size.fps,
        "script": {"system": SYSTEM, "query": COMMENTATE},
        "policy": "reread",  # only words tell football's score, so they are held as training reads them
        "policy_options": {
            "sink_tokens": memory.sink_tokens,
            "text_window": memory.text_window,
            "vision_seconds": memory.seconds * 2 / 3,  # as in the paper: windows of 24 s, and 16 s held
        },
        # Many words tell one event, so silence is weighed against all of them.
        "speak": {"max_tokens_per_second": 24, "quiet_from": 0.5},
        "training": {
            "seed": seed,
            "sports": [course.sport.name for course in courses],
            "recipe": "scripts/train-arcade",
            "window": asdict(memory),
        },
    }
    save(build(size, tokenizer), tokenizer, run, size, card)


def known_fields(run: Path) -> set[str]:
    """Names of the fields that the tower has learned to name: by the run's own file or, if exported, by its card."""
    if (run / SEEN).is_file():
        return set(json.loads((run / SEEN).read_text()))
    return set(json.loads((run / "neverblink.json").read_text()).get("training", {}).get("seen", ()))


def see(run: Path, args: argparse.Namespace) -> None:
    """Stage `see`: the tower, alone."""
    adapter, usual = adapter_of(run, args.device), USUAL[args.stage]
    courses = courses_of(args.sports, args.football)
    fields = fields_of([course.sport for course in courses])
    own = known_fields(run)
    known = own | (known_fields(args.like) if args.like else set())  # what is taken over need not be learned anew
    new = [column for column, (name, _) in enumerate(fields) if name not in known]
    kept = [name in args.keep for name in args.sports]
    stay = [number for number, keeps in enumerate(kept) if keeps]
    same = [keeps and known >= course.sport.fields.keys() for keeps, course in zip(kept, courses, strict=True)]
    often = [1 / same.count(stays) for stays in same]  # half of the pairs for what stays, half for what is learned
    pairs = Pairs(courses, adapter.pixels, args.seed + 1, often=often)
    loader = DataLoader(
        pairs,
        batch_size=args.batch or usual.batch,
        num_workers=args.workers,
        prefetch_factor=4,
        collate_fn=by_grid,
    )
    batches = iter(loader)
    before = adapter_of(args.like or run, args.device) if args.keep else None
    prints = [print_of(course, fields, adapter.pixels) for course in courses if course.fine]
    directions = [directions_of(adapter, batches, small) for small in prints]
    if all(kept) and directions:
        letter(adapter, directions)
    else:
        whiten(adapter, batches, not own, directions, stay)
    shares = look(
        adapter,
        batches,
        fields,
        args.minutes or usual.minutes,
        partial(print, flush=True),
        args.lr or usual.lr,
        args.steps,
        stay,
        before,
        new,
        kinds_of(courses),
    )
    adapter.model.save_pretrained(run)
    (run / SEEN).write_text(json.dumps({name: round(share, 3) for name, share in shares.items()}, indent=1))


def film_scenes(run: Path, args: argparse.Namespace) -> None:
    """Stage `scenes`."""
    adapter = adapter_of(run)
    encoded = Encoded(
        partial(load_tower, run),
        partial(film, courses=courses_of(args.sports, args.football), pixels=adapter.pixels),
        args.seed,
    )
    collect(encoded, run / "scenes", int(args.hours * 3600), args.workers, partial(print, flush=True))


def speak(run: Path, args: argparse.Namespace) -> None:
    """Stages `read` and `talk`: the decoder, on scenes."""
    reading, usual = args.stage == "read", USUAL[args.stage]
    adapter = adapter_of(run, args.device, attention="eager" if reading else "sdpa")
    adapter.model.model.visual.requires_grad_(False)  # with captions alone it forgets what `see` taught it
    tokenizer = adapter.tokenizer
    window = WindowOptions(seconds=1, overlap=0, forget=1.0) if reading else WindowOptions(overlap=args.overlap)
    minutes, batch = args.minutes or usual.minutes, args.batch or usual.batch

    def places(fps: int, grid: tuple[int, int]) -> VisionBlock:
        loc, advance = adapter.places((fps // 2, *grid), 2 / fps)
        return VisionBlock(torch.empty(len(loc), 0), loc, advance)

    scripts = {q: Script(tokenizer, ScriptOptions(system=SYSTEM, query=q)) for q in (COMMENTATE, DESCRIBE)}
    heavy = torch.ones(len(tokenizer))
    for word, index in tokenizer.get_vocab().items():
        if word.lstrip("Ġ").isdigit():
            heavy[index] = args.digits
    share = {COMMENTATE: torch.tensor(0.0), DESCRIBE: torch.tensor(1.0)}
    for value in share.values():
        value.share_memory_()
    windows = Windows(
        read(run / "scenes"),
        scripts.__getitem__,
        share,
        places,
        window,
        args.seed,
        talk=COMMENTATE,
    )
    loader = DataLoader(
        windows,
        batch_size=batch * ALIKE,
        num_workers=1,
        prefetch_factor=2,
        collate_fn=partial(
            by_length,
            batch=batch,
            pad_id=tokenizer.pad_token_id,
            heavy=heavy,
            tick=tokenizer.convert_tokens_to_ids(TICK),
        ),
    )

    def falling(batches: Iterator[list[Batch]]) -> Iterator[Batch]:
        """`talk` begins with a quarter state lines, so that reading is kept, and ends with few."""
        began = time.monotonic()
        for group in batches:
            done = min(1.0, (time.monotonic() - began) / 60 / minutes)
            share[DESCRIBE].fill_(1.0 if reading else 0.25 - 0.15 * done)
            share[COMMENTATE].fill_(1.0 - float(share[DESCRIBE]))
            yield from group

    gc.collect()
    gc.freeze()  # hours of scenes are millions of objects that no collection needs to walk through
    keep = partial(adapter.model.save_pretrained, run)
    options = LoopOptions(steps=args.steps, minutes=minutes, batch=batch, lr=args.lr or usual.lr)
    train(adapter, falling(iter(loader)), options, run, args.stage, keep, report=partial(print, flush=True))


def _usual(field: str) -> str:
    return ", ".join(f"{stage} {getattr(values, field):g}" for stage, values in USUAL.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=("build", "see", "scenes", "read", "talk"))
    parser.add_argument("--out", type=Path, required=True, help="folder of the run: checkpoint, scenes, log")
    names = [*sorted(sports), FOOTBALL.name]
    parser.add_argument("--sports", nargs="+", default=["pong"], choices=names, help="sports to learn")
    parser.add_argument("--football", type=Path, help="folder of recorded matches, for the sport football")
    parser.add_argument("--minutes", type=float, help=f"wall time of the stage (default: {_usual('minutes')})")
    parser.add_argument("--steps", type=int, default=1_000_000, help="stop after so many steps if that comes first")
    parser.add_argument("--hours", type=float, default=5.0, help="of games that `scenes` watches (default 5)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="of the trainer (default 1)")
    parser.add_argument("--workers", type=int, default=1, help="processes that make the data (default 1)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, help=f"samples a step (default: {_usual('batch')})")
    parser.add_argument("--lr", type=float, help=f"highest learning rate (default: {_usual('lr')})")
    parser.add_argument(
        "--overlap", type=int, default=WindowOptions().overlap, help="seconds that windows of talk share"
    )
    parser.add_argument(
        "--keep",
        nargs="+",
        default=[],
        choices=names,
        help="of --sports, those whose tokens `see` leaves as they are while it learns the others",
    )
    parser.add_argument(
        "--like", type=Path, help="run whose tower the tokens of --keep stay like (default: this one, as it is now)"
    )
    sizes = "for `build`; later stages go by the run's card"
    parser.add_argument("--patch", type=int, default=SmallVLM().patch, help=f"pixels (default 40), {sizes}")
    parser.add_argument(
        "--merge", type=int, default=SmallVLM().merge, help=f"patches a side of a token (default 4), {sizes}"
    )
    parser.add_argument("--digits", type=float, default=4.0, help="loss weight of digits (default 4)")
    args = parser.parse_args()
    if args.like and not args.keep:
        parser.error("--like tells what the sports of --keep stay like; name them with --keep, or leave --like out")
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    size = SmallVLM.tiled(args.patch, args.merge, ArcadeCourse.frame)
    start(args.out, courses_of(args.sports, args.football), args.seed, size)
    if args.stage == "see":
        see(args.out, args)
    elif args.stage == "scenes":
        film_scenes(args.out, args)
    elif args.stage != "build":
        speak(args.out, args)


if __name__ == "__main__":
    main()
