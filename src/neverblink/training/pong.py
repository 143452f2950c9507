"""Makes the bundled model: a small Qwen2.5-VL that learns Pong commentary from scratch, on a CPU.

    python -m neverblink.training.pong --out runs/pong --minutes 60

Two lines are learned side by side under two queries: a dense state line every second, which teaches the vision tower
to see ball, paddles and score, and the sparse commentary that is wanted. The share of the dense line falls over time.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from neverblink.models.base import VisionBlock
from neverblink.models.qwen2_5_vl import Qwen25VL, read_pixel_options
from neverblink.script import SILENCE, Script, ScriptOptions
from neverblink.training.data import pong_stream
from neverblink.training.loop import LoopOptions, train
from neverblink.training.recipes import SmallVLM, build, save
from neverblink.training.tokenizer import train_tokenizer
from neverblink.training.windows import Footage, WindowOptions, Windows, collate
from neverblink.types import Kind
from neverblink.vision.pixels import PixelOptions, cut, resize

COMMENTATE = "Commentate on this game."
DESCRIBE = "Describe the ball, the paddles and the score."
SYSTEM = "You watch an arcade game."
BENCHMARK_SEEDS = 1_000_000  # from here up; training never draws them


def corpus(seeds: int = 30, seconds: int = 120) -> Iterator[str]:
    """Lines for the tokenizer: everything that the script and the writers can say."""
    for seed in range(seeds):
        for second in pong_stream(seed, seconds, fps=1):
            yield second.text + SILENCE
            yield second.state_text + SILENCE
            yield f"Time={second.start * 97:.1f}-{second.start * 97 + 1:.1f}s"
    for _ in range(200):
        yield from (
            f"system\n{SYSTEM}\n{COMMENTATE}",
            f"{SYSTEM}\n{DESCRIBE}",
            "previous text\n",
            "user\n",
            "assistant\n",
        )


def footage(seed: int, size: SmallVLM, pixels: PixelOptions, dense: torch.Tensor) -> tuple[str, Iterator[Footage]]:
    """One stream to learn from: which of the two lines it speaks is drawn from the seed and the current share."""
    rng = np.random.default_rng(seed)
    describe = rng.random() < float(dense)
    seed %= BENCHMARK_SEEDS
    start: Literal["random"] | None = None if rng.random() < 0.1 else "random"
    length = int(rng.integers(40, 240))

    def seconds() -> Iterator[Footage]:
        for second in pong_stream(seed, length, size.fps, start_score=start):
            stack = resize(torch.from_numpy(second.frames).permute(0, 3, 1, 2), pixels)
            yield Footage(cut(stack, pixels)[0].numpy(), second.state_text if describe else second.text)

    return DESCRIBE if describe else COMMENTATE, seconds()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint and its log")
    parser.add_argument("--minutes", type=float, default=60.0, help="wall time of the run (default 60)")
    parser.add_argument("--steps", type=int, default=1_000_000, help="stop after so many steps if that comes first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="of the trainer; one more process makes the data")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=1, help="processes that make the data (default 1)")
    parser.add_argument("--batch", type=int, default=LoopOptions().batch)
    parser.add_argument("--lr", type=float, default=LoopOptions().lr)
    parser.add_argument("--resume-from", type=Path, help="start from these weights instead of from scratch")
    parser.add_argument(
        "--dense", type=float, nargs=2, default=(0.8, 0.15), help="share of state lines, first and last"
    )
    parser.add_argument("--window", type=int, default=WindowOptions().seconds, help="seconds of a sample")
    parser.add_argument("--overlap", type=int, default=WindowOptions().overlap, help="seconds")
    parser.add_argument("--digits", type=float, default=2.0, help="loss weight of digits")
    parser.add_argument("--freeze-vision", action="store_true", help="keep what stage 0 taught the tower")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    size, memory = SmallVLM(), WindowOptions()  # what the finished model remembers is what the last stage teaches
    window = replace(
        memory, seconds=args.window, overlap=args.overlap, forget=1.0 if args.window == 1 else memory.forget
    )
    if (args.out / "optimizer.pt").is_file():
        args.resume_from = args.out  # the optimizer's state belongs to the weights beside it
    if args.resume_from:
        from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

        tokenizer = AutoTokenizer.from_pretrained(args.resume_from)
        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(args.resume_from, dtype=torch.float32)
    else:
        tokenizer = train_tokenizer(corpus(), args.out)
        model = build(size, tokenizer)
    card = {
        "name": "neverblink-pong",
        "domain": "arcade games (Pong)",
        "fps": size.fps,
        "script": {"system": SYSTEM, "query": COMMENTATE},
        "policy_options": {
            "sink_tokens": memory.sink_tokens,
            "text_window": memory.text_window,
            "vision_seconds": float(memory.seconds),
        },
        "speak": {"max_tokens_per_second": 24},
        "training": {"seed": args.seed, "window": asdict(window), "recipe": "python -m neverblink.training.pong"},
    }
    model.to(args.device)
    model.model.visual.requires_grad_(not args.freeze_vision)
    keep = partial(save, model, tokenizer, args.out, size, card)
    keep()
    pixels = read_pixel_options(args.out, model.config)
    adapter = Qwen25VL(model, tokenizer, pixels, name="neverblink-pong")
    grid = (round(size.fps) // 2, size.height // size.patch, size.width // size.patch)
    loc, advance = adapter.places(grid, 2 / size.fps)
    vision = VisionBlock(torch.empty(len(loc), 0), loc, advance)
    scripts = {q: Script(tokenizer, ScriptOptions(system=SYSTEM, query=q)) for q in (COMMENTATE, DESCRIBE)}
    heavy = torch.ones(len(tokenizer))
    for word, index in tokenizer.get_vocab().items():
        if word.lstrip("Ġ").isdigit():
            heavy[index] = args.digits
    dense = torch.tensor([args.dense[0]]).share_memory_()
    windows = Windows(
        partial(footage, size=size, pixels=pixels, dense=dense), scripts.__getitem__, vision, window, args.seed
    )
    loader = torch.utils.data.DataLoader(
        windows,
        batch_size=args.batch,
        num_workers=args.workers,
        prefetch_factor=4,
        collate_fn=partial(collate, pixels_kind=Kind.PIXELS, pad_id=tokenizer.pad_token_id, heavy=heavy),
    )
    began = time.monotonic()

    def falling(batches: Iterator) -> Iterator:
        for step in itertools.count():
            done = min(1.0, max(step / args.steps, (time.monotonic() - began) / 60 / args.minutes))
            dense[0] = args.dense[0] + (args.dense[1] - args.dense[0]) * min(1.0, done * 2)
            yield next(batches)

    options = replace(LoopOptions(), steps=args.steps, minutes=args.minutes, batch=args.batch, lr=args.lr)
    train(adapter, grid, falling(iter(loader)), options, args.out, keep, report=partial(print, flush=True))


if __name__ == "__main__":
    main()
