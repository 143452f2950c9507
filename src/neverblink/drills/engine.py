"""Drills of the engine: slow and dead neighbours, 100,000 chunks, eviction, a question in mid-chunk."""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from neverblink.bench.soak import soak
from neverblink.bench.streams import games
from neverblink.decoding.timing import cpu_time
from neverblink.drills.base import Finding, drill_of, percentile
from neverblink.drills.parts import TOY, chunk_of, toy_model
from neverblink.drills.twin import Twin, Watched
from neverblink.engine import Engine
from neverblink.engine.watch import Ears, watch_sources
from neverblink.model import Model
from neverblink.testing import SyntheticSource
from neverblink.types import Frame

QUESTION = "What is the score?"
CASES = ("silent", "slow", "broken source", "broken model")  # what the bad one of the streams does
CHUNKS = 100_000
ROUNDS = 7


class Bad(SyntheticSource):
    """A source that sends nothing more from its third second on, or slowly, or fails."""

    def __init__(self, how: str, seconds: float):
        super().__init__(seconds=seconds)
        self.how, self._over = how, threading.Event()

    def frames(self) -> Iterator[Frame]:
        for frame in super().frames():
            if frame.time >= 2 and self.how == "silent":
                self._over.wait()
                return
            if self.how == "slow":
                self._over.wait(1.0)
            if frame.time >= 2 and self.how == "broken source":
                raise RuntimeError("the camera is gone")
            yield frame

    def close(self) -> None:
        super().close()
        self._over.set()


class BrokenSlot:
    """An adapter that fails in the forwards of one slot once its stream is two seconds old."""

    def __init__(self, adapter: Any, slot: int):
        self._adapter, self.slot = adapter, slot

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)

    def _check(self, caches: list[Any]) -> None:
        for cache in caches:
            if cache.slot == self.slot and cache.table.rows().turns.max(initial=0) >= 2:
                raise RuntimeError("the device has failed")

    def forward(self, embeds: Any, positions: Any, cache: Any) -> Any:
        self._check([cache])
        return self._adapter.forward(embeds, positions, cache)

    def forward_packed(self, embeds: Any, positions: Any, cache: Any) -> Any:
        self._check([segment.cache for segment in cache.segments])
        return self._adapter.forward_packed(embeds, positions, cache)


def neighbours(model: Model, healthy: int, seconds: int, how: str) -> tuple[list[float], int]:
    """CPU seconds of every step of the healthy streams beside a bad one ("": beside one more that is well), and the
    least that one of them said. All are read by threads of their own and packed into common forwards."""
    adapter: Any = model.adapter
    if how == "broken model":
        adapter = BrokenSlot(adapter, slot=0)  # the first that comes gets it
    engine = Engine(adapter, model.script(), [TOY], max_streams=healthy + 1)
    names = ["bad", *(str(i) for i in range(healthy))]
    for i, name in enumerate(names):
        engine.add(name, options=replace(TOY, speak=replace(TOY.speak, seed=i)), overload="slow", most_waiting=1)
    sources = {n: Bad(how, seconds) if n == "bad" and how else SyntheticSource(seconds=seconds) for n in names}
    spent: dict[str, list[float]] = {name: [] for name in names}
    watching: Any = watch_sources(engine, sources, ears={name: Ears() for name in names})
    with cpu_time(), closing(watching) as results:
        for result in results:
            if result.caption is not None:
                spent[result.stream_id].append(result.caption.latency)
            if all(len(spent[name]) == seconds for name in names if name != "bad"):
                break  # a silent camera would keep us for ever
    told = [len(spent[name]) for name in names if name != "bad"]
    return [s for name in names if name != "bad" for s in spent[name][2:]], min(told)


def slow_neighbours(folder: Path, scale: float) -> Finding:
    """R8: the healthy ones of N streams, one of which goes bad, against the same ones while all N are well; in rounds
    of another order each. A machine wavers more from round to round than a neighbour costs, so ratios are of one
    round, and their median counts."""
    model, measured, worst, lost = toy_model(folder), dict[str, Any](), 0.0, 0
    seconds, rng = max(4, round(16 * scale)), random.Random(8)
    for count in (8, 32):
        neighbours(model, count - 1, 4, "")  # warm up
        p95: dict[str, list[float]] = {how: [] for how in ("", *CASES)}
        for _ in range(max(1, round(ROUNDS * scale))):
            for how in rng.sample(list(p95), len(p95)):
                spent, least = neighbours(model, count - 1, seconds, how)
                p95[how].append(percentile(spent, 0.95))
                lost += seconds - least
        measured[f"{count}_alone_p95_ms"] = round(percentile(p95[""], 0.5) * 1e3, 3)
        for how in CASES:
            ratios = [beside / alone for beside, alone in zip(p95[how], p95[""], strict=True)]
            measured[f"{count}_{how.replace(' ', '_')}"] = round(percentile(ratios, 0.5), 4)
            measured[f"{count}_{how.replace(' ', '_')}_most"] = round(max(ratios), 4)
            worst = max(worst, percentile(ratios, 0.5))
    figure = (
        f"p95 of the healthy at worst {100 * (worst - 1):+.1f} % (1 of 8 and 1 of 32; {', '.join(CASES)}; CPU time, "
        f"median of {max(1, round(ROUNDS * scale))} rounds)"
    )
    return Finding(f"{figure}, {lost} of their seconds lost", worst <= 1.10 and not lost, measured)


def found_in_soak(line: Mapping[str, Any]) -> Finding:
    """R9 from a line of `bench soak`."""
    keys = (
        "chunks",
        "kv_budget",
        "kv_tokens_max",
        "rss_mb_per_10k_chunks",
        "growth_paired",
        "growth_cpu",
        "growth_wall",
    )
    measured = {key: line[key] for key in keys}
    held = bool(line["kv_within_budget_at_every_step"])
    good = held and line["rss_mb_per_10k_chunks"] <= 1.0 and line["growth_paired"] <= 1.02
    figure = (
        f"{line['chunks']:,} chunks: KV <= {line['kv_tokens_max']} of {line['kv_budget']} rows, RSS "
        f"{line['rss_mb_per_10k_chunks']:+.2f} MB per 10,000 chunks, a chunk costs "
        f"{100 * (line['growth_paired'] - 1):+.1f} % of CPU time against a young stream beside it"
    )
    return Finding(figure, good, measured)


def long_run(folder: Path, scale: float) -> Finding:
    """R9: media time begins at 100,000 s, since the digits of a time are tokens."""
    options = {"sink_tokens": 64, "text_window": 64, "vision_seconds": 16.0}
    chunks = max(30, round(CHUNKS * scale))
    return found_in_soak(
        soak(toy_model(folder), chunks, "streaming", options, edge=min(1_000, chunks // 10), start=CHUNKS)
    )


def eviction(folder: Path, scale: float) -> Finding:
    """R11: behind every feed the plain twin, which keeps keys before RoPE and turns nothing."""
    model, chunks = toy_model(folder), max(10, round(1000 * scale))
    stream = model.stream(replace(TOY, rebase_at=1024.0))
    twin = Twin(model.adapter, model.adapter.dtype)  # type: ignore[arg-type]  # the toy is a Qwen2.5-VL
    watched = stream.adapter = Watched(model.adapter, twin)  # type: ignore[arg-type]
    evicted = rebased = 0
    for second in range(chunks):
        before, serials = stream.table.next_pos, stream.table.next_serial
        caption = stream.step(chunk_of(second))
        rebased += bool(stream.table.next_pos < before)
        evicted = stream.table.next_serial - caption.kv_tokens
        twin.keep(stream.table.serials[: stream.table.n].tolist())
        assert stream.table.next_serial > serials
        if second % 100 == 99:
            print(f"chunk {second + 1}: worst difference {watched.worst:.1e}", file=sys.stderr, flush=True)
    held = watched.worst <= 1e-4 and watched.other_best == 0
    figure = (
        f"{chunks} chunks, {watched.feeds:,} feeds, {evicted:,} rows evicted, {rebased} rebases: logits differ by at "
        f"most {watched.worst:.1e} (float32), another argmax in {watched.other_best}"
    )
    measured = {"worst": watched.worst, "feeds": watched.feeds, "evicted": evicted, "rebased": rebased}
    return Finding(figure, held, {**measured, "other_argmax": watched.other_best, "chunks": chunks})


def questions(folder: Path, scale: float) -> Finding:
    """R18: the bundled model in mid-chunk; captions are those of a stream that nobody asked."""
    model, count = Model.from_pretrained("bundled"), max(3, round(50 * scale))
    engine = Engine(model.adapter, model.script(model.words()), [model.options()], max_streams=2)
    for name in ("asked", "left alone"):
        engine.add(name, overload="slow")
    waits: list[float] = []
    cpu: list[float] = []
    said: dict[str, list[tuple[float, str]]] = {"asked": [], "left alone": []}
    for second, coming in enumerate(games(["arcade:pong?seed=1000000"], model.options(), count + 1.0)):
        for name in said:
            engine.submit(name, coming[0])
        for number in range(1_000_000):
            if second and number == 1 + second % 8:  # amid the chunk: after its picture, after its first words ...
                engine.ask("asked", QUESTION)
                waits.append(-time.perf_counter())
                cpu.append(-time.process_time())
            if not engine.has_work:
                break
            results = engine.advance()
            if waits and cpu[-1] < 0 and _has_first_word(engine, results):
                waits[-1] += time.perf_counter()
                cpu[-1] += time.process_time()
            for result in results:
                if result.caption is not None:
                    said[result.stream_id].append((result.caption.start, result.caption.text))
    same = said["asked"] == said["left alone"] and len(said["asked"]) == count + 1
    p95, p95_cpu = percentile(waits, 0.95), percentile(cpu, 0.95)
    figure = (
        f"on {model.device}, {len(waits)} questions amid a chunk: first token p50 "
        f"{percentile(waits, 0.5) * 1e3:.0f} ms, p95 {p95 * 1e3:.0f} ms (CPU time {p95_cpu * 1e3:.0f} ms); every "
        f"caption as if nobody had asked: {same}"
    )
    measured = {"p50_s": percentile(waits, 0.5), "p95_s": p95, "cpu_p50_s": percentile(cpu, 0.5), "cpu_p95_s": p95_cpu}
    return Finding(figure, same and p95 <= 0.5, {**measured, "questions": len(waits), "device": model.device})


def _has_first_word(engine: Engine, results: list[Any]) -> bool:
    member = engine._member("asked")
    over = any(result.question is not None for result in results)
    return over or (getattr(member.doing, "ttft", None) is not None)


def main() -> int:
    """Write R9's line from a file of `bench soak`: python -m neverblink.drills.engine SOAK.jsonl DRILLS.jsonl"""
    from neverblink.drills import line

    lines = [json.loads(text) for text in Path(sys.argv[1]).read_text().splitlines()]
    longest = max(lines, key=lambda found: found["chunks"])
    told = line.line_of(R9, found_in_soak(longest), longest["chunks"] / CHUNKS, longest["command"])
    line.append(Path(sys.argv[2]), {**told, "machine": longest["machine"]})
    return 0


R8 = drill_of("R8", slow_neighbours)
R9 = drill_of("R9", long_run)
R11 = drill_of("R11", eviction)
R18 = drill_of("R18", questions)
DRILLS = (R8, R9, R11, R18)

if __name__ == "__main__":
    raise SystemExit(main())
