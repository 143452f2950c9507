"""What `neverblink bench latency` watches, what it measures of each round, and the figures that come of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from neverblink.bench.floor import Rates, Sizes
from neverblink.errors import ConfigError

STEP: Any = np.dtype(
    [(name, np.float64) for name in ("end", "wall", "cpu", "vision", "make_room", "prefill", "speak", "ttft")]
    + [
        (name, np.int64)
        for name in ("rows", "kv_bytes", "rss", "fed", "prefill_flops", "vision_tokens", "vision_flops")
    ]
)


@dataclass(frozen=True)
class Workload:
    """What is watched, and how much is said about it.

    Args:
        seconds: of media, for each stream. streams: how many share the model.
        fps: frames a second; None is the model's own.
        size: width and height of the pictures before the model's own resize.
        tokens: said about every second, at least 2; the last is fed with the next chunk.
        windows: options of the policies; a policy takes those that it has, the rest is the checkpoint's own.
        ask_every: seconds between two questions to the first stream, between two chunks; the time to the first token of
            the answer is taken and nothing is remembered. 0 asks none.
        parts: gate, encoder_cache, compress and kv_dtype of the streams. The floor stays that of the whole picture and
            of exact rows.
    """

    seconds: float = 300.0
    streams: int = 1
    fps: float | None = None
    size: tuple[int, int] = (640, 360)
    tokens: int = 5
    windows: Mapping[str, Any] = field(default_factory=dict)
    positions: Any = "contiguous"
    ask_every: float = 10.0
    seed: int = 0
    parts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.tokens < 2:
            raise ConfigError(f"tokens must be 2 or more, got {self.tokens}: the first comes out of the prefill")
        if self.seconds < 1 or self.streams < 1 or min(self.size) < 1:
            raise ConfigError(f"seconds {self.seconds}, streams {self.streams} and size {self.size} must be 1 or more")


@dataclass(frozen=True)
class Measured:
    """One strategy's run.

    Args:
        steps: an element of dtype STEP for each round: one chunk of every stream. Times are wall seconds, summed over
            the streams; ttft is nan where nothing was asked; rows and kv_bytes are of one stream; rss is in bytes.
        warm_up: rounds until the windows are full.
        reserved: bytes of all KV caches, allocated before the first chunk.
        device_bytes: peak of the device's memory; 0 on a CPU.
        ended: why it ended early, if it did.
    """

    steps: np.ndarray
    warm_up: int
    frames: int
    sizes: Sizes
    reserved: int
    device_bytes: int
    ended: str | None


def growth(seconds: np.ndarray, warm_up: int) -> float | None:
    """Median of the last tenth over the median of the first tenth behind the warm-up; None when less than 10 are left.

    Args:
        seconds: of each chunk, in order. warm_up: chunks that are left out at the start.
    """
    left = seconds[warm_up:]
    if len(left) < 10:
        return None
    tenth = len(left) // 10
    return float(np.median(left[-tenth:]) / np.median(left[:tenth]))


def slope(values: np.ndarray, per: int = 1_000) -> float:
    """Least-squares slope of a series, a so many elements; 0 for a series too short to have one."""
    return float(np.polyfit(np.arange(len(values)), values, 1)[0]) * per if len(values) > 2 else 0.0


def summary(measured: Measured, work: Workload, rates: Rates) -> dict[str, Any]:
    """The figures of a run; times are of the rounds behind the warm-up, or of all when there are less than 10 such.

    Returns:
        ms_per_chunk_*: wall time of a round by its streams; ms_per_round_*: until every stream has its caption.
        ms_per_token_p50: one decode step. ms_per_spoken_token_p50: the whole chunk by the tokens that it said.
        fps_sustained: frames a wall second of the model. streams_sustained: such streams in real time, in turns.
        kv_bytes: of the most rows that were held; kv_bytes_reserved: of what was allocated for them.
        growth_cpu: as growth, of the process's CPU time, which other work on the machine disturbs less.
        rss_mb_slope: MB for 1,000 rounds. floor_*: see bench/floor.py. floor_fraction*: floor by measured time;
            above 1 where a cache holds all the weights.
    """
    steps, n = measured.steps, work.streams
    warm = measured.warm_up if len(steps) - measured.warm_up >= 10 else 0
    s, sizes = steps[warm:], measured.sizes
    wall, token = s["wall"] / n, s["speak"] / n / (work.tokens - 1)
    chunk_seconds = float(steps["end"][0])
    asked = steps["ttft"][~np.isnan(steps["ttft"])]
    floor_token = np.array([sizes.decode_seconds(rows, rates) for rows in s["rows"]])
    floor_prefill = np.array([sizes.prefill_seconds(flops, rates) for flops in s["prefill_flops"] / n])
    floor_vision = s["vision_flops"] / n / rates.flops
    floor_chunk = floor_vision + floor_prefill + floor_token * (work.tokens - 1)
    return {
        "streams": n,
        "chunks": len(steps) * n,
        "warm_up_chunks": measured.warm_up,
        "ms_per_chunk_p50": _ms(wall),
        "ms_per_chunk_p99": _ms(wall, 99),
        "ms_per_round_p50": _ms(s["wall"]),
        "ms_per_round_p99": _ms(s["wall"], 99),
        "cpu_ms_per_chunk_p50": _ms(s["cpu"] / n),
        "ms_per_token_p50": _ms(token),
        "ms_per_token_p99": _ms(token, 99),
        "ms_per_spoken_token_p50": _ms(wall / work.tokens),
        "vision_ms_p50": _ms(s["vision"] / n),
        "make_room_ms_p50": _ms(s["make_room"] / n),
        "prefill_ms_p50": _ms(s["prefill"] / n),
        "ttft_ms_p50": _ms(asked) if len(asked) else None,
        "questions": len(asked),
        "growth": _rounded(growth(steps["wall"], measured.warm_up)),
        "growth_cpu": _rounded(growth(steps["cpu"], measured.warm_up)),
        "tokens_per_chunk": work.tokens,
        "fed_tokens_per_chunk": round(float(np.median(s["fed"])) / n, 1),
        "vision_tokens_per_chunk": round(float(np.median(s["vision_tokens"])) / n, 1),
        "kv_tokens_max": int(steps["rows"].max()),
        "kv_bytes": int(steps["kv_bytes"].max()) * n,
        "kv_bytes_reserved": measured.reserved,
        "rss_mb_slope": round(slope(s["rss"] / 1e6), 3),
        "rss_mb_max": round(float(steps["rss"].max()) / 1e6, 1),
        "device_mb_max": round(measured.device_bytes / 1e6, 1) or None,
        "fps_sustained": round(measured.frames / float(wall.mean()), 2),
        "real_time_factor": round(n * float(wall.mean()) / chunk_seconds, 4),
        "streams_sustained": math.floor(chunk_seconds / float(wall.mean()) + 1e-9),
        "bandwidth_gb_per_s": round(rates.bytes_per_second / 1e9, 2),
        "gflops": round(rates.flops / 1e9, 1),
        "floor_ms_per_token": _ms(floor_token, digits=5),
        "floor_fraction": _rounded(float(np.median(floor_token) / np.median(token))),
        "floor_ms_vision": _ms(floor_vision, digits=5),
        "floor_ms_prefill": _ms(floor_prefill, digits=5),
        "floor_ms_per_chunk": _ms(floor_chunk, digits=5),
        "floor_fraction_chunk": _rounded(float(np.median(floor_chunk) / np.median(wall))),
        "ended": measured.ended,
    }


def per_chunk(measured: Measured, work: Workload) -> Iterator[dict[str, Any]]:
    """What each round cost: milliseconds of a chunk's stages, milliseconds a decode step, rows and bytes held."""
    n = work.streams
    for step in measured.steps:
        yield {
            "end": float(step["end"]),
            "ms": round(float(step["wall"]) * 1e3 / n, 4),
            "vision_ms": round(float(step["vision"]) * 1e3 / n, 4),
            "make_room_ms": round(float(step["make_room"]) * 1e3 / n, 4),
            "prefill_ms": round(float(step["prefill"]) * 1e3 / n, 4),
            "ms_per_token": round(float(step["speak"]) * 1e3 / n / (work.tokens - 1), 4),
            "ttft_ms": None if np.isnan(step["ttft"]) else round(float(step["ttft"]) * 1e3, 4),
            "fed_tokens": int(step["fed"]) // n,
            "kv_tokens": int(step["rows"]),
            "kv_bytes": int(step["kv_bytes"]) * n,
        }


def series(measured: Measured, work: Workload, points: int = 100) -> dict[str, list[float]]:
    """Medians of up to so many stretches of the run, for the plot."""
    found: dict[str, list[float]] = {
        "second": [],
        "ms_per_spoken_token": [],
        "cpu_ms_per_spoken_token": [],
        "ms_per_token": [],
        "kv_bytes": [],
    }
    n = work.streams
    for part in np.array_split(measured.steps, min(points, len(measured.steps))):
        found["second"].append(float(np.median(part["end"])))
        found["ms_per_spoken_token"].append(_ms(part["wall"] / n / work.tokens))
        found["cpu_ms_per_spoken_token"].append(_ms(part["cpu"] / n / work.tokens))
        found["ms_per_token"].append(_ms(part["speak"] / n / (work.tokens - 1)))
        found["kv_bytes"].append(int(part["kv_bytes"].max()) * n)
    return found


def _ms(seconds: np.ndarray, percent: float = 50, digits: int = 3) -> float:
    return round(float(np.percentile(seconds, percent)) * 1e3, digits)


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
