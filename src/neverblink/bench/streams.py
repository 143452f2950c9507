"""N streams packed on one engine against N streams run one by one, on games that play themselves.

    python -m neverblink.bench.streams --streams 8 --seconds 60 --json results/streams.jsonl

Both watch the same seconds of the same games with the same seeds, second by second in turn, so that whatever else the
machine does burdens both. Then the streams go on packed, and at every second one of them is asked a question while the
others are in the middle of theirs. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from neverblink.bench.report import publish
from neverblink.engine import Engine
from neverblink.model import Model
from neverblink.options import StreamOptions
from neverblink.sources import chunks, open_source
from neverblink.sources.base import SourceOptions
from neverblink.types import Chunk

QUESTION = "What is the score?"


def games(names: list[str], options: StreamOptions, end: float) -> Iterator[list[Chunk]]:
    """One chunk of every source, second by second."""
    with ExitStack() as stack:
        wanted = SourceOptions(fps=options.fps, end=end)
        sources = [stack.enter_context(open_source(name, wanted)) for name in names]
        yield from map(list, zip(*(chunks(source, options.fps) for source in sources), strict=True))


def streams(model: Model, count: int, seconds: int, questions: int, game: str = "pong") -> dict[str, Any]:
    """Run both ways and return the figures.

    Args:
        seconds: of media, compared. questions: how many are asked afterwards, one a second.
    """
    options = model.options()
    seeded = [replace(options, speak=replace(options.speak, seed=i)) for i in range(count)]
    script = model.words()
    solo = [model.stream(o, script) for o in seeded]
    engine = Engine(model.adapter, model.script(script), [options], max_streams=count)
    for i, own in enumerate(seeded):
        engine.add(str(i), options=own, overload="slow")
    wall, cpu = {"solo": 0.0, "packed": 0.0}, {"solo": 0.0, "packed": 0.0}
    rounds, same, tokens, worst = 0, 0, 0, 0.0
    ttft: list[float] = []
    dice = random.Random(0)
    names = [f"arcade:{game}?seed={1_000_000 + i}" for i in range(count)]
    warm_up = min(seconds // 4, 8)
    for second, coming in enumerate(games(names, options, float(warm_up + seconds + questions))):
        if second >= warm_up + seconds:
            ttft.append(_ask_amid(engine, coming, dice))
            continue
        began, began_cpu = time.perf_counter(), time.process_time()
        captions = [stream.step(chunk) for stream, chunk in zip(solo, coming, strict=True)]
        middle, middle_cpu = time.perf_counter(), time.process_time()
        for i, chunk in enumerate(coming):
            engine.submit(str(i), chunk)
        results, its_rounds = [], 0
        while engine.has_work:
            results += engine.advance()
            its_rounds += 1
        end = time.perf_counter()
        said = {result.stream_id: result.caption.text for result in results if result.caption is not None}
        if second >= warm_up:
            wall["solo"] += middle - began
            wall["packed"] += end - middle
            cpu["solo"] += middle_cpu - began_cpu
            cpu["packed"] += time.process_time() - middle_cpu
            worst = max(worst, end - middle)
            rounds += its_rounds
            tokens += sum(caption.tokens for caption in captions)
            same += sum(caption.text == said.get(str(i)) for i, caption in enumerate(captions))
    ttft.sort()
    each = count * seconds
    return {
        "benchmark": "streams",
        "model": model.name,
        "game": game,
        "streams": count,
        "seconds": seconds,
        "fps": options.fps,
        "ratio": round(wall["packed"] / wall["solo"], 4),
        "ratio_cpu": round(cpu["packed"] / cpu["solo"], 4),  # what others do on the machine is in the other one
        "ms_per_stream_second_solo": round(wall["solo"] / each * 1e3, 3),
        "ms_per_stream_second_packed": round(wall["packed"] / each * 1e3, 3),
        "cpu_ms_per_stream_second_solo": round(cpu["solo"] / each * 1e3, 3),
        "cpu_ms_per_stream_second_packed": round(cpu["packed"] / each * 1e3, 3),
        "ms_per_second_of_all_max": round(worst * 1e3, 1),
        "streams_in_real_time": int(each / wall["packed"]),
        "tokens_per_stream_second": round(tokens / each, 2),
        "rounds_per_second": round(rounds / seconds, 2),
        "texts_equal": round(same / each, 4),
        "questions": len(ttft),
        "ttft_ms_p50": round(ttft[len(ttft) // 2] * 1e3, 1) if ttft else None,
        "ttft_ms_p99": round(ttft[int(len(ttft) * 0.99)] * 1e3, 1) if ttft else None,
        "kv_bytes": engine.arena.nbytes,
        "memory": engine.memory.text().splitlines(),
    }


def _ask_amid(engine: Engine, coming: list[Chunk], dice: random.Random) -> float:
    """Hand every stream its next second, ask one of them at some moment of it; wall seconds to the first token."""
    for i, chunk in enumerate(coming):
        engine.submit(str(i), chunk)
    asked, waited = dice.randrange(16), 0.0
    for number in range(1_000_000):
        if number == asked or (number < asked and not engine.has_work):
            engine.ask(str(dice.randrange(len(coming))), QUESTION)
            asked = -1
        if not engine.has_work:
            break
        waited += sum(result.ttft or 0.0 for result in engine.advance())
    return waited


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="bundled", help="what Model.from_pretrained takes")
    parser.add_argument("--device")
    parser.add_argument("--game", default="pong")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--questions", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="append the line to this file too")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = Model.from_pretrained(args.model, device=args.device)
    figures = streams(model, args.streams, args.seconds, args.questions, args.game)
    publish({**figures, "device": model.device}, "streams", args.json)


if __name__ == "__main__":
    main()
