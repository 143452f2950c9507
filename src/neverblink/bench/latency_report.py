"""The lines of `neverblink bench latency` as a table for the terminal and as a picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neverblink.bench.report import pyplot

COLUMNS = {
    "strategy": "strategy",
    "ms_per_chunk_p50": "ms a chunk",
    "ms_per_chunk_p99": "p99",
    "vision_ms_p50": "vision ms",
    "prefill_ms_p50": "prefill ms",
    "ms_per_token_p50": "ms a token",
    "floor_ms_per_token": "floor",
    "floor_fraction": "of floor",
    "ttft_ms_p50": "TTFT ms",
    "growth": "growth",
    "kv_tokens_max": "KV rows",
    "kv_bytes": "KV MB",
    "fps_sustained": "fps",
    "streams_sustained": "streams",
}


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """A row a strategy, and below it why a run ended early."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    first = lines[0]
    title = (
        f"{first['model']}, {first['params'] / 1e6:,.1f} M parameters, {first['dtype']} on {first['device']}; "
        f"{first['streams']} x {first['size']} at {first['fps']:g} fps, {first['tokens_per_chunk']} tokens a second; "
        f"{first['bandwidth_gb_per_s']} GB/s, {first['gflops']:g} GFLOP/s"
    )
    drawn = Table(title=title, box=box.SIMPLE_HEAD)
    for name, head in COLUMNS.items():
        drawn.add_column(head, justify="left" if name == "strategy" else "right", no_wrap=True)
    for line in lines:
        drawn.add_row(*(_cell(name, line.get(name)) for name in COLUMNS))
    out = io.StringIO()  # as wide as it has to be: a terminal wraps, a file does not
    console = Console(file=out, width=160)
    console.print(drawn)
    for line in lines:
        if line.get("ended"):
            console.print(f"{line['strategy']} ended {line['ended']}", markup=False, highlight=False, soft_wrap=True)
    return out.getvalue()


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name == "kv_bytes":
        return f"{value / 1e6:.1f}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def plot(lines: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Latency of a spoken token, of a decode step and bytes of the KV cache over the seconds of the video.

    Raises:
        MissingExtra: matplotlib is not there.
    """
    plt = pyplot("--plot")
    panels = {
        "ms_per_spoken_token": ("ms of the whole chunk for a token said", 1.0, "log"),
        "cpu_ms_per_spoken_token": ("the same in CPU time of the process", 1.0, "log"),
        "ms_per_token": ("ms of one decode step", 1.0, "log"),
        "kv_bytes": ("KV cache, MB", 1e-6, "log"),
    }
    if lines[0]["device"] != "cpu":
        del panels["cpu_ms_per_spoken_token"]  # the time of the process is not that of the device
    figure, axes = plt.subplots(1, len(panels), figsize=(5.5 * len(panels), 4.6), layout="constrained")
    for axis, (name, (label, unit, scale)) in zip(axes, panels.items(), strict=True):
        for i, line in enumerate(lines):
            values = [value * unit for value in line["series"][name]]
            axis.plot(line["series"]["second"], values, color=f"C{i % 10}", label=line["strategy"])
            if line.get("ended"):
                axis.plot(line["series"]["second"][-1], values[-1], "x", color=f"C{i % 10}")
        axis.set(xlabel="seconds of video", ylabel=label, yscale=scale)
    floor = lines[0]["floor_ms_per_token"]
    axes[-2].axhline(floor, color="black", linestyle=":", label=f"floor of {lines[0]['strategy']}: {floor:.3g} ms")
    axes[-2].legend(fontsize=8)
    axes[-1].legend(fontsize=8)
    first = lines[0]
    figure.suptitle(f"{first['model']}, {first['dtype']} on {first['device']}, {first['size']} at {first['fps']:g} fps")
    figure.savefig(file, dpi=110)
    plt.close(figure)
