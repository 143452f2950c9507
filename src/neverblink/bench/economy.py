"""Every way to see less on streams whose truth is known, at equal visual tokens beside the plain ways to spend less.

    neverblink bench economy --sport pong --seed 1000000 --seconds 600 --out results/economy

One JSON line a run, a table, and a plot of quality over tokens with its Pareto front. Each way runs in a process of its
own; lines that are there already are kept, so a run that was broken off goes on. Times are CPU times of the process's
own thread, which other work on the machine disturbs least.

    neverblink bench economy --shapes qwen2.5-vl-7b --layers 8

measures what an encoder cache and a pruner save on a published model's real widths, with random weights, and

    neverblink bench economy --behaviour

how the gates and compressors meet a still picture, a cut and a slow drift.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from neverblink.bench.compare import missing, read, run
from neverblink.bench.report import append, markdown, pyplot
from neverblink.errors import NeverblinkError

PLAIN = "everything"
# name -> arguments of `bench quality`. Groups: the plain ways to spend less first.
WAYS: dict[str, tuple[str, ...]] = {
    PLAIN: (),
    "frames 1/2": ("--fps", "0.5x"),
    "frames 1/4": ("--fps", "0.25x"),
    "pixels 1/2": ("--max-pixels", "0.5x"),
    "pixels 1/4": ("--max-pixels", "0.25x"),
    "last 4 frames": ("--policy", "last-frames", "--frames", "4"),
    "last 8 frames": ("--policy", "last-frames", "--frames", "8"),
    "pixel 0.95": ("--gate", "pixel"),
    "pixel 0.97": ("--gate", "pixel:similarity=0.97"),
    "pixel 0.98": ("--gate", "pixel:similarity=0.98"),
    "pixel 0.98 reuse": ("--gate", "pixel:similarity=0.98,skipped=reuse"),
    "pixel 0.95 reuse": ("--gate", "pixel:similarity=0.95,skipped=reuse"),
    "grt 0.05": ("--gate", "grt"),
    "grt 0.02": ("--gate", "grt:theta=0.02"),
    "curvestream": ("--gate", "curvestream"),
    "curvestream thumbnail": ("--gate", "curvestream:features=thumbnail,floor=1e-6"),
    "slow-fast 1/2": ("--gate", "slow-fast:threshold=0.98,tokens_per_second=0.5x,burst=2"),
    "slow-fast 1/4": ("--gate", "slow-fast:threshold=0.98,tokens_per_second=0.25x,burst=2"),
    "key-frames 1/2": ("--gate", "key-frames:threshold=0.01,tokens_per_second=0.5x,burst=2"),
    "key-frames 1/4": ("--gate", "key-frames:threshold=0.01,tokens_per_second=0.25x,burst=2"),
    "cache stc": ("--encoder-cache", "stc"),
    "cache stc 0.5": ("--encoder-cache", "stc:recompute=0.5,every=2"),
    "stc 0.5": ("--compress", "stc:keep=0.5"),
    "stc 0.25": ("--compress", "stc:keep=0.25"),
    "differential 0.9": ("--compress", "differential:threshold=0.9"),
    "differential 0.5": ("--compress", "differential:threshold=0.5"),
    "evs 0.5": ("--compress", "evs:prune=0.5"),
    "evs 0.75": ("--compress", "evs:prune=0.75"),
    "decay": ("--compress", "decay"),
}
WITHIN = ("stc 0.5", "stc 0.25", "differential", "evs", "decay", "pixels")  # need more than one token a picture
COLUMNS = {
    "vision_tokens_per_second": "visual tokens/s",
    "tokens_share": "share",
    "frames_skipped": "frames skipped",
    "vision_ms": "vision ms",
    "prefill_ms": "prefill ms",
    "chunk_ms": "chunk ms",
    "kv_bytes": "KV bytes",
    "event_f1": "event F1",
    "score_accuracy": "scores right",
    "silence_accuracy": "silence right",
}


def arguments_of(way: str, fps: float, pixels: int, tokens_per_second: float) -> tuple[str, ...]:
    """A way's arguments with its shares ("0.5x") of the model's own rates written out."""
    whole = {"--fps": fps, "--max-pixels": float(pixels)}
    out: list[str] = []
    for word in WAYS[way]:
        if word.endswith("x") and out[-1] in whole:
            share = float(word[:-1]) * whole[out[-1]]
            word = f"{share:g}" if out[-1] == "--fps" else str(int(share))
        parts = word.split(",")
        for j, part in enumerate(parts):
            if part.endswith("x") and "tokens_per_second=" in part:
                name, _, share_text = part.partition("=")
                parts[j] = f"{name}={float(share_text[:-1]) * tokens_per_second:g}"
        out.append(",".join(parts))
    return tuple(out)


def possible_ways(ways: Mapping[str, Sequence[str]], tokens_per_picture: int, recorded: bool) -> list[str]:
    """Those that a model and its source can: what drops tokens inside a picture needs several, and a recording has
    whole numbers of pictures a second."""
    names = [way for way in ways if tokens_per_picture > 1 or not way.startswith(WITHIN)]
    rates = {way: float(dict(itertools.pairwise(ways[way])).get("--fps", 1)) for way in names}
    return [way for way in names if not recorded or rates[way].is_integer()]


def with_shares(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each run with its visual tokens as a share of those of the plain path."""
    whole = next((each["vision_tokens_per_second"] for each in runs if each["way"] == PLAIN), None)
    return [
        {**each, "tokens_share": None if not whole else round(each["vision_tokens_per_second"] / whole, 4)}
        for each in runs
    ]


def front(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the ways that no other beats: none with at most as many tokens has a higher event F1."""
    best, names = -1.0, []
    for each in sorted(runs, key=lambda r: (r["vision_tokens_per_second"], -r["event_f1"])):
        if each["event_f1"] > best:
            best = each["event_f1"]
            names.append(each["way"])
    return names


def table(runs: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a row a way, with its distance to the plain path's event F1; the Pareto front is marked."""
    runs, marked = with_shares(runs), front(runs)
    whole = next((each["event_f1"] for each in runs if each["way"] == PLAIN), None)
    rows = []
    for each in runs:
        lost = None if whole is None else round(100 * (whole - each["event_f1"]), 2)
        front_mark = "*" if each["way"] in marked else ""
        rows.append([each["way"], *(each.get(name) for name in COLUMNS), lost, front_mark])
    return markdown(["way", *COLUMNS.values(), "F1 points lost", "front"], rows)


def plot(runs: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Quality over visual tokens and over CPU time, a point a way, with the Pareto front of the first."""
    plt = pyplot("the plot")
    figure, axes = plt.subplots(1, 2, figsize=(14, 6), layout="constrained", sharey=True)
    names = ("vision_tokens_per_second", "chunk_ms")
    for axis, name in zip(axes, names, strict=True):
        for each in runs:
            bare = each["way"] == PLAIN or each["way"].startswith(("frames", "pixels", "last"))
            axis.plot(each[name], each["event_f1"], "s" if bare else "o", color="C3" if bare else "C0")
            axis.annotate(each["way"], (each[name], each["event_f1"]), fontsize=7)
    best = {each["way"]: each for each in runs}
    line = [(best[way][names[0]], best[way]["event_f1"]) for way in front(runs)]
    axes[0].plot(*zip(*line, strict=True), "--", color="0.6", zorder=0)
    axes[0].set(xlabel="visual tokens told a second", ylabel="event F1 (squares: plain ways to spend less)")
    axes[1].set(xlabel="CPU milliseconds of the model for a second of video")
    figure.savefig(file, dpi=110)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="neverblink bench economy",
        description=(__doc__ or "").splitlines()[0],
        epilog="All other options go to `neverblink bench quality`.",
    )
    parser.add_argument("--out", type=Path, default=Path("economy"), help="folder (default: economy)")
    parser.add_argument("--ways", nargs="+", help=f"which (default: all that the model can): {', '.join(WAYS)}")
    parser.add_argument("--workers", type=int, default=1, help="runs side by side (default 1)")
    parser.add_argument("--sport", default="pong")
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--shapes", nargs="+", help="measure these published shapes instead, with random weights")
    parser.add_argument("--layers", type=int, default=8, help="of a shape's tower that run (default 8)")
    parser.add_argument("--size", default="640x360", help="of a shape's pictures (default 640x360)")
    parser.add_argument("--behaviour", action="store_true", help="a still picture, a cut and a slow drift instead")
    own, rest = parser.parse_known_args(arguments)
    try:
        if own.shapes:
            from neverblink.bench.savings import savings

            for shape in own.shapes:
                _write(own.out / "shapes.jsonl", savings(shape, own.layers, own.size))
            return 0
        if own.behaviour:
            from neverblink.bench.behaviour import behaviour

            _write(own.out / "behaviour.jsonl", behaviour(own.model))
            return 0
        return _streams(own, rest)
    except NeverblinkError as error:
        print(f"neverblink: {error}", file=sys.stderr)
        return 2


def _write(file: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Print each line as it comes, and add it to a file."""
    for line in lines:
        print(json.dumps(line), flush=True)
        append(file, [line])


def _streams(own: argparse.Namespace, rest: Sequence[str]) -> int:
    from neverblink.football.matches import FPS
    from neverblink.model import Model

    pyplot("the plot")
    model = Model.from_pretrained(own.model, device="cpu")
    pixels: Any = model.adapter.pixels  # type: ignore[attr-defined]
    # A recorded match is watched at its own rate where that is below the model's.
    fps = min(model.fps, FPS) if own.sport == "football" else model.fps
    tokens = pixels.max_tokens_per_grid * fps / pixels.temporal_patch
    ways = {way: arguments_of(way, fps, pixels.max_pixels, tokens) for way in WAYS}
    possible = possible_ways(ways, pixels.max_tokens_per_grid, recorded=own.sport == "football")
    file = own.out / f"{own.sport}.jsonl"
    names = missing(own.ways or possible, file, WAYS)
    given = ["--sport", own.sport, "--model", own.model, "--cpu-time", *rest]
    for n, line in enumerate(run(names, given, file, own.workers, ways), 1):
        print(f"{n} of {len(names)}: {line['way']}: event F1 {line['event_f1']}", file=sys.stderr, flush=True)
    runs = sorted(read(file), key=lambda each: list(WAYS).index(each["way"]))
    (own.out / f"{own.sport}.md").write_text(table(runs), encoding="utf-8")
    plot(runs, own.out / f"{own.sport}.png")
    print(table(runs), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
