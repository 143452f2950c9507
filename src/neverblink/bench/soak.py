"""A long run of one stream on a toy model: does anything grow?

    python -m neverblink.bench.soak --chunks 3600 --json results/soak.json

One JSON line: rows of the KV cache against its budget at every step, the slope of the process's memory, and the step
time of the end over that of the beginning. Every chunk says the same number of tokens, so every step is equal work.

Growth is told three times: beside a young stream of the same model, the two taking turns at the end (`growth_paired`,
the figure to hold on to: both have the same machine at the same time), and of the end over the beginning, in CPU time
of the stream's own thread and in wall time, which tell of the machine too. Ctrl-C ends a run early and tells what it
has seen so far.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neverblink.bench.report import publish
from neverblink.decoding.speak import SpeakOptions
from neverblink.kv.policies import make_policy
from neverblink.model import Model
from neverblink.options import StreamOptions
from neverblink.stream import Stream
from neverblink.training.toy import write_toy_checkpoint
from neverblink.types import Chunk, Frame


class SayAlways:
    """A logits processor that makes every second `words` tokens long, then ends it."""

    def __init__(self, words: int, end_id: int):
        self.words, self.end_id, self.said = words, end_id, 0

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.said = (self.said + 1) % (self.words + 1)
        if self.said == 0:
            scores = torch.full_like(scores, -torch.inf)
            scores[:, self.end_id] = 0.0
        else:
            scores = scores.clone()
            scores[:, self.end_id] = -torch.inf
        return scores


def soak(
    model: Model,
    chunks: int,
    policy: str,
    options: dict[str, Any],
    words: int = 5,
    edge: int = 300,
    start: int = 0,
) -> dict[str, Any]:
    """Run a stream and return its figures; the first windows' worth of chunks is warm-up.

    Args:
        edge: chunks at both ends that growth compares.
        start: media second of the first chunk. "Time=99.0-100.0s" has a token a digit, so a run from 0 gains rows
            with the logarithm of the time; one from 100,000 to 200,000 has six digits throughout.
    """
    import psutil

    process, rng = psutil.Process(), np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (84, 112, 3), dtype=np.uint8) for _ in range(8)]

    def new_stream() -> Stream:
        return model.stream(
            StreamOptions(policy=policy, policy_options=options, speak=SpeakOptions(max_tokens_per_second=words + 3)),
            processor=SayAlways(words, model.adapter.tokenizer.convert_tokens_to_ids("<|im_end|>")),
        )

    def chunk_of(i: int) -> Chunk:
        frames = tuple(Frame(start + i + k / 2, pictures[(2 * i + k) % 8]) for k in range(2))
        return Chunk(float(start + i), start + i + 1.0, frames)

    stream = new_stream()
    warm_up = min(chunks // 3, 1_200)
    # Written in advance: a list of a float a chunk would itself be a slope of a megabyte in 10,000 chunks.
    seconds, cpu, rows, memory = np.zeros(chunks), np.zeros(chunks), np.zeros(chunks, int), np.zeros(chunks)
    done = 0
    try:
        for i in range(chunks):
            chunk = chunk_of(i)
            began, began_cpu = time.perf_counter(), time.thread_time()
            caption = stream.step(chunk)
            seconds[i], cpu[i] = time.perf_counter() - began, time.thread_time() - began_cpu
            rows[i], memory[i] = caption.kv_tokens, process.memory_info().rss / 2**20
            done = i + 1
            if i % max(200, chunks // 50) == 0:
                print(f"chunk {i}: kv {caption.kv_tokens}/{stream.budget}, {seconds[i] * 1e3:.1f} ms", file=sys.stderr)
    except KeyboardInterrupt:
        if done <= warm_up + 2 * edge:
            raise  # nothing to compare yet
    seconds, cpu, rows, memory = seconds[:done], cpu[:done], rows[:done], memory[:done]
    paired = side_by_side(stream, done, new_stream(), warm_up, edge, chunk_of)
    slope = float(np.polyfit(np.arange(warm_up, done), memory[warm_up:], 1)[0]) * 10_000
    median = np.median
    return {
        "benchmark": "soak",
        "policy": make_policy(policy, **options).__class__.__name__,
        "policy_options": options,
        "chunks": done,
        "start_second": start,
        "edge_chunks": edge,
        "kv_budget": stream.budget,
        "kv_tokens_max": int(rows.max()),
        "kv_within_budget_at_every_step": int(rows.max()) <= stream.budget,
        "rss_mb_per_10k_chunks": round(slope, 3),
        "rss_mb_end": round(float(memory[-1]), 1),
        "ms_per_chunk_p50": round(float(median(seconds[warm_up:])) * 1e3, 3),
        "cpu_ms_per_chunk_p50": round(float(median(cpu[warm_up:])) * 1e3, 3),
        "growth_paired": round(paired, 4),
        "growth_cpu": round(float(median(cpu[-edge:])) / median(cpu[warm_up : warm_up + edge]), 4),
        "growth_wall": round(float(median(seconds[-edge:])) / median(seconds[warm_up : warm_up + edge]), 4),
    }


def side_by_side(
    old: Stream, age: int, young: Stream, warm_up: int, chunks: int, chunk_of: Callable[[int], Chunk]
) -> float:
    """CPU time of a step of the old stream over that of the young one, by their medians over so many steps in turn.

    Args:
        age: chunks that the old one has seen. warm_up: those that the young one is given first.
    """
    for i in range(warm_up):
        young.step(chunk_of(i))
    spent: dict[Stream, list[float]] = {old: [], young: []}
    for i in range(chunks):
        turns = [(old, age + i), (young, warm_up + i)]
        for stream, at in turns if i % 2 else turns[::-1]:  # neither always finds the other's caches
            chunk, began = chunk_of(at), time.thread_time()
            stream.step(chunk)
            spent[stream].append(time.thread_time() - began)
    return float(np.median(spent[old]) / np.median(spent[young]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="toy", help="toy, or what Model.from_pretrained takes")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--chunks", type=int, default=3_600)
    parser.add_argument("--start", type=int, default=0, help="media second of the first chunk")
    parser.add_argument("--edge", type=int, default=300, help="chunks at both ends that growth compares")
    parser.add_argument("--policy", default="streaming")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="append the line to this file too")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        name = write_toy_checkpoint(Path(folder)) if args.model == "toy" else args.model
        model = Model.from_pretrained(name, device=args.device)
        options = {"sink_tokens": 64, "text_window": 64, "vision_seconds": 16.0} if args.policy == "streaming" else {}
        figures = soak(model, args.chunks, args.policy, options, edge=args.edge, start=args.start)
    publish({**figures, "model": args.model, "device": args.device}, "soak", args.json)


if __name__ == "__main__":
    main()
