"""How much faster than real time a model watches a file, by the command that a user types.

    python -m neverblink.bench.realtime --json results/realtime.jsonl

Runs `neverblink watch FILE --fps 8 --jsonl ...` in a process of its own and prints one JSON line: the real-time factor
(wall seconds of the model for one second of video) and the wall time of the whole command, start included.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from neverblink.bench.report import publish


def realtime(video: Path, fps: float, model: str, threads: int, pipeline: bool = False) -> dict[str, Any]:
    """Watch a whole file with the command line and return its figures.

    With the pipeline the latency of a second does not hold what was encoded ahead: compare the whole command.
    """
    with tempfile.TemporaryDirectory() as folder:
        events = Path(folder) / "events.jsonl"
        command = [sys.executable, "-m", "neverblink", "watch", str(video), "--fps", str(fps), "--model", model]
        command += ["--threads", str(threads), "--jsonl", str(events), "--quiet"]
        command += ["--pipeline" if pipeline else "--no-pipeline"]
        began, cpu = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        wall, used = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = used.ru_utime + used.ru_stime - cpu.ru_utime - cpu.ru_stime
        rows = [json.loads(line) for line in events.read_text().splitlines()]
    rows = [row for row in rows if row["type"] in ("caption", "silence")]
    media = sum(row["t_end"] - row["t_start"] for row in rows)
    latencies = sorted(row["latency_ms"] for row in rows)
    return {
        "benchmark": "realtime",
        "model": rows[0]["model"],
        "video": video.name,
        "fps": fps,
        "media_seconds": media,
        "frames_used": sum(row["frames_used"] for row in rows),
        "frames_dropped": sum(row["frames_dropped"] for row in rows),
        "real_time_factor": round(sum(latencies) / 1e3 / media, 4),
        "fps_sustained": round(sum(row["frames_used"] for row in rows) / (sum(latencies) / 1e3), 1),
        "ms_per_chunk_p50": latencies[len(latencies) // 2],
        "ms_per_chunk_p99": latencies[int(len(latencies) * 0.99)],
        "kv_tokens_max": max(row["kv_tokens"] for row in rows),
        "pipeline": pipeline,
        "wall_seconds_of_the_command": round(wall, 2),
        "cpu_seconds_of_the_command": round(seconds, 2),
        "threads": threads,
    }


def main() -> None:
    from neverblink.training.data import write_mp4

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--video", type=Path, help="a file; otherwise a minute of Pong is recorded first")
    parser.add_argument("--fps", type=float, default=8.0)
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--pipeline", action="store_true", help="encode the next second while this one is spoken")
    parser.add_argument("--json", type=Path, help="append the line to this file too")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        video = args.video
        if video is None:
            video = Path(folder) / "pong-60s.mp4"
            write_mp4("pong", 1_000_007, 60, video, Path(folder) / "truth.jsonl", fps=round(args.fps))
        figures = realtime(video, args.fps, args.model, args.threads, args.pipeline)
    publish({**figures, "cores": os.cpu_count()}, "realtime", args.json)


if __name__ == "__main__":
    main()
