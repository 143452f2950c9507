"""Every way to remember on the same stream: policies, positions, windows; one table, one JSON line a run, plots.

    neverblink bench compare --sport pong --seed 1000000 --seconds 900 --out results/compare

Each way runs in a process of its own, so that its memory is its own; lines that are there already are kept, so a run
that was broken off goes on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from neverblink.bench.report import append, markdown, pyplot
from neverblink.errors import ConfigError, NeverblinkError

_STREAMING = ("--policy", "streaming")  # a checkpoint's own policy may be another
# name -> arguments of `bench quality`; windows that are not named are the checkpoint's own.
WAYS: dict[str, tuple[str, ...]] = {
    "streaming": _STREAMING,
    "streaming, native positions": (*_STREAMING, "--positions", "native"),
    "reread": ("--policy", "reread"),
    "recompute": ("--policy", "recompute"),
    "sliding": ("--policy", "sliding"),
    "full": ("--policy", "full", "--kv-budget", "16384"),
    "last frames": ("--policy", "last-frames"),
    "vision 0 s": (*_STREAMING, "--vision-seconds", "0"),  # the newest second only
    "vision 1 s": (*_STREAMING, "--vision-seconds", "1"),
    "vision 2 s": (*_STREAMING, "--vision-seconds", "2"),
    "vision 4 s": (*_STREAMING, "--vision-seconds", "4"),
    "vision 16 s": (*_STREAMING, "--vision-seconds", "16"),
    "vision 32 s": (*_STREAMING, "--vision-seconds", "32"),
    "no text": (*_STREAMING, "--sink-tokens", "0", "--text-window", "0"),
    "text 0 + 96": (*_STREAMING, "--sink-tokens", "0", "--text-window", "96"),
    "text 32 + 96": (*_STREAMING, "--sink-tokens", "32", "--text-window", "96"),
    "text 32 + 1536": (*_STREAMING, "--sink-tokens", "32", "--text-window", "1536"),
}
COLUMNS = {
    "event_f1": "event F1",
    "score_accuracy": "scores right",
    "silence_accuracy": "silence right",
    "qa_accuracy": "answers right",
    "repetition_rate": "repeated",
    "seconds_per_chunk_p50": "s a chunk",
    "kv_tokens_max": "KV rows",
}


def missing(names: Sequence[str], file: Path, ways: Mapping[str, Sequence[str]] = WAYS) -> list[str]:
    """The ways that have no line yet.

    Raises:
        ConfigError: no such way.
    """
    for name in names:
        if name not in ways:
            raise ConfigError(f"no way {name!r}; known: {', '.join(ways)}")
    done = {run["way"] for run in read(file)}
    return [name for name in names if name not in done]


def read(file: Path) -> list[dict[str, Any]]:
    """The runs of a file; [] when it is not there."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


def run(
    names: Sequence[str],
    arguments: Sequence[str],
    file: Path,
    workers: int,
    ways: Mapping[str, Sequence[str]] = WAYS,
) -> Iterator[dict[str, Any]]:
    """Run the ways side by side; each line is in the file before it is given.

    Raises:
        NeverblinkError: a run failed; the lines of the others stand.
    """

    def one(name: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "neverblink.bench.quality", *arguments, *ways[name]]
        told = subprocess.run(command, capture_output=True, text=True, check=False)
        if told.returncode:
            raise NeverblinkError(f"{name}: {told.stderr.strip().splitlines()[-1] if told.stderr else told.returncode}")
        return {"way": name, **json.loads(told.stdout)}

    with ThreadPoolExecutor(workers) as pool:
        for line in pool.map(one, names):
            append(file, [line])
            yield line


def table(runs: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a row a run, with the first and the last fifth's event F1."""
    rows = []
    for each in runs:
        fifths = each.get("by_fifth") or [{"event_f1": None}]
        ended = (each.get("ended") or "").partition(":")[0]
        ends = fifths[0]["event_f1"], fifths[-1]["event_f1"]
        rows.append([each["way"], *(each.get(name) for name in COLUMNS), *ends, ended])
    return markdown(["way", *COLUMNS.values(), "first fifth F1", "last fifth F1", "ended"], rows)


def plot(runs: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Quality against cost, one point a run, and event F1 along the stream, one line a run."""
    plt = pyplot("the plot")
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5.5), layout="constrained")
    for i, each in enumerate(runs):
        colour, style = f"C{i % 10}", "-" if i < 10 else "--"
        left.plot(each["seconds_per_chunk_p50"] * 1000, each["event_f1"], "o" if i < 10 else "s", color=colour)
        left.annotate(each["way"], (each["seconds_per_chunk_p50"] * 1000, each["event_f1"]), fontsize=7)
        fifths = each["by_fifth"]
        along = [fifth["start"] / 60 for fifth in fifths]
        right.plot(along, [fifth["event_f1"] for fifth in fifths], style, color=colour, label=each["way"])
    left.set(xlabel="milliseconds of the model for a second of video (median)", ylabel="event F1", xscale="log")
    right.set(xlabel="minute of the stream", ylabel="event F1 of a fifth", ylim=(0, 1))
    right.legend(fontsize=7, ncol=2)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="neverblink bench compare",
        description=(__doc__ or "").splitlines()[0],
        epilog="All other options go to `neverblink bench quality`.",
    )
    parser.add_argument("--out", type=Path, default=Path("compare"), help="folder (default: compare)")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), help=f"which (default all): {', '.join(WAYS)}")
    parser.add_argument("--workers", type=int, default=1, help="runs side by side (default 1)")
    parser.add_argument("--sport", default="pong")
    own, rest = parser.parse_known_args(arguments)
    file = own.out / f"{own.sport}.jsonl"
    try:
        pyplot("the plot")
        names = missing(own.ways, file)
        for n, line in enumerate(run(names, ["--sport", own.sport, *rest], file, own.workers), 1):
            print(f"{n} of {len(names)}: {line['way']}: event F1 {line['event_f1']}", file=sys.stderr, flush=True)
        runs = sorted(read(file), key=lambda each: list(WAYS).index(each["way"]))
        (own.out / f"{own.sport}.md").write_text(table(runs), encoding="utf-8")
        plot(runs, own.out / f"{own.sport}.png")
    except NeverblinkError as error:
        print(f"neverblink: {error}", file=sys.stderr)
        return 2
    print(table(runs), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
