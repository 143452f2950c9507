"""What one chunk costs in CPU time once the windows are full, stage by stage, beside the stock classes.

    python -m neverblink.bench.chunk --model FOLDER --preset streaming-vlm --json results/chunk.jsonl
    python -m neverblink.bench.chunk                        the bundled model with its own options

One JSON line. Process CPU time, because other work on a machine disturbs it less than wall time.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neverblink.bench.report import publish
from neverblink.model import Model
from neverblink.presets import streaming_vlm
from neverblink.stream import Stream
from neverblink.types import Caption, Chunk, Frame


def chunk(stream: Stream, chunks: int, size: tuple[int, int], fps: int) -> dict[str, Any]:
    """Watch noise and return the figures of the last third.

    Args:
        size: width and height of the pictures. fps: pictures a chunk of one second.
    """
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8) for _ in range(8)]
    cpu, captions = np.zeros(chunks), list[Caption]()
    for i in range(chunks):
        frames = tuple(Frame(i + k / fps, pictures[(i * fps + k) % 8]) for k in range(fps))
        began = time.process_time()
        captions.append(stream.step(Chunk(float(i), i + 1.0, frames)))
        cpu[i] = time.process_time() - began
    last = slice(-max(1, chunks // 3), None)
    stages = {
        name: round(float(np.median([c.seconds[name] for c in captions[last]])) * 1e3, 3)
        for name in ("see", "make_room", "read", "speak")
    }
    tokens = float(np.mean([c.tokens for c in captions[last]]))
    return {
        "cpu_ms_per_chunk_p50": round(float(np.median(cpu[last])) * 1e3, 3),
        "cpu_ms_per_chunk_min": round(float(cpu[last].min()) * 1e3, 3),
        "wall_ms": stages,
        "tokens_per_chunk": round(tokens, 2),
        "kv_tokens": captions[-1].kv_tokens,
        "texts": hash(tuple(c.text for c in captions)),
    }


def run(
    name: str, preset: str | None, chunks: int, size: tuple[int, int], fps: int | None, stock: bool
) -> dict[str, Any]:
    """One run on a model that is loaded for it.

    Args:
        stock: without `models/lean.py` and `models/best.py`: the plain twin.
    """
    wanted = streaming_vlm() if preset else None
    grid = wanted.time_grid if wanted else "stock"
    model = Model.from_pretrained(name, device="cpu", dtype="float32", time_grid=grid)
    adapter: Any = model.adapter
    if stock:
        adapter.lean, adapter.large_vocabulary = False, sys.maxsize
    stream = model.stream(wanted.options, wanted.script) if wanted else model.stream()
    return {"model": model.name, "stock": stock, **chunk(stream, chunks, size, fps or round(stream.options.fps))}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="bundled", help="what Model.from_pretrained takes")
    parser.add_argument("--preset", choices=["streaming-vlm"], help="the public reference's windows and words")
    parser.add_argument("--chunks", type=int, default=60)
    parser.add_argument("--width", type=int, default=224)
    parser.add_argument("--height", type=int, default=224)
    parser.add_argument("--fps", type=int, help="pictures a chunk; else the model's own")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-stock", action="store_true", help="leave out the run on the stock classes")
    parser.add_argument("--json", type=Path, help="append the line to this file too")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    how = (args.model, args.preset, args.chunks, (args.width, args.height), args.fps)
    figures = run(*how, stock=False)
    texts = figures.pop("texts")
    if not args.no_stock:
        stock = run(*how, stock=True)
        figures["stock_cpu_ms_per_chunk_p50"] = stock["cpu_ms_per_chunk_p50"]
        figures["stock_wall_ms"] = stock["wall_ms"]
        figures["texts_equal"] = texts == stock["texts"]
        figures["ratio"] = round(figures["cpu_ms_per_chunk_p50"] / stock["cpu_ms_per_chunk_p50"], 4)
    told = {"benchmark": "chunk", **figures, "chunks": args.chunks, "size": f"{args.width}x{args.height}"}
    publish(told, "chunk", args.json)


if __name__ == "__main__":
    main()
