"""How many streams fit in memory, and the arithmetic as a text for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from neverblink.errors import BudgetError, ConfigError
from neverblink.kv.arena import Arena, Need
from neverblink.kv.cache import make_arena
from neverblink.kv.compact import scratch_bytes, vision_row_bytes
from neverblink.models.base import Adapter
from neverblink.options import StreamOptions
from neverblink.script import Script

MOST = 64  # what "auto" stops at: far beyond real time on every device measured so far
SHARE = 0.7  # of the free memory; the rest is for pictures on their way and the model's own scratch space


@dataclass(frozen=True, slots=True)
class Memory:
    """The slots of an engine."""

    streams: int
    rows: int  # rows of a slot
    anchor_rows: int  # of them can be anchors, and have a master key beside the key
    layers: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype
    vision_rows: int  # in bytes, beside the rows; see kv/compact.py
    kv_dtype: str
    free: int | None  # bytes at the time of asking; None: the number of streams was given
    most: int = MOST  # that "auto" would give

    @property
    def stream_bytes(self) -> int:
        """Bytes of one stream's keys, values and masters."""
        width = self.layers * self.kv_heads * self.head_dim * self.dtype.itemsize
        vision = 2 * self.layers * self.kv_heads * self.vision_rows * vision_row_bytes(self.head_dim)
        return width * (2 * self.rows + self.anchor_rows) + vision

    @property
    def need(self) -> Need:
        return Need(self.rows, self.anchor_rows, self.vision_rows, self.kv_dtype)

    @property
    def shared_bytes(self) -> int:
        """Bytes that all streams share: one layer of one stream, as it is read."""
        return scratch_bytes(self, self.need)

    @property
    def nbytes(self) -> int:
        return self.streams * self.stream_bytes + self.shared_bytes

    def text(self) -> str:
        """The arithmetic, one line for a stream and one for all."""
        mib = 2**20
        lines = [
            f"one stream: {self.layers} layers x {self.kv_heads} kv heads x (2 x {self.rows} rows + {self.anchor_rows} "
            f"masters) x {self.head_dim} x {self.dtype.itemsize} bytes"
        ]
        if self.kv_dtype:
            lines[0] += (
                f" + {self.layers} x {self.kv_heads} x 2 x {self.vision_rows} rows of vision x "
                f"{vision_row_bytes(self.head_dim)} bytes ({self.kv_dtype})"
            )
        lines[0] += f" = {self.stream_bytes / mib:.1f} MiB"
        if self.free is None:
            lines += [f"streams: {self.streams}, asked for"]
        else:
            fit = max(0, int(self.free * SHARE) - self.shared_bytes) // self.stream_bytes
            capped = f", stopped at {self.most}" if fit > self.most else ""
            lines += [f"streams: {self.free / mib:.0f} MiB free x {SHARE:g} / one stream = {fit}{capped}"]
        shared = f" + {self.shared_bytes / mib:.1f} MiB to read them in" if self.shared_bytes else ""
        total = f"KV cache: {self.streams} streams{shared} = {self.nbytes / mib:.1f} MiB, allocated once"
        return "\n".join([*lines, total])

    def arena(self, adapter: Adapter) -> Arena:
        """The tensors themselves."""
        return make_arena(adapter, self.need, self.streams)


def plan(
    adapter: Adapter,
    script: Script,
    options: Sequence[StreamOptions],
    streams: int | Literal["auto"],
    most: int = MOST,
) -> Memory:
    """Slots large enough for a stream of any of the options; "auto" gives as many as fit, up to `most`.

    Raises:
        ConfigError: fewer than one stream was asked for, or options of several kv_dtypes. BudgetError: not even one
            fits.
    """
    if not options or (streams != "auto" and streams < 1):
        raise ConfigError(f"an engine needs 1 stream or more with options of their own, got {streams}")
    needs = [o.needs(adapter, script) for o in options]
    rows, vision = max(need.rows for need in needs), max(need.vision for need in needs)
    anchors = max(min(need.anchors, need.rows) for need in needs)
    kinds = sorted({need.kv_dtype for need in needs})
    if len(kinds) > 1:
        raise ConfigError(f"streams that share slots have one kv_dtype; {', '.join(map(repr, kinds))} were given")
    shape = (rows, anchors, adapter.layers, adapter.kv_heads, adapter.head_dim, adapter.dtype, vision, kinds[0])
    if streams != "auto":
        return Memory(streams, *shape, None)
    free = free_bytes(adapter.device)
    one = Memory(1, *shape, free)
    fit = min(most, max(0, int(free * SHARE) - one.shared_bytes) // one.stream_bytes)
    if not fit:
        raise BudgetError(
            f"no stream fits; {one.text().splitlines()[0]}, {free / 2**20:.0f} MiB free; lower the windows"
        )
    return Memory(fit, *shape, free, most)


def free_bytes(device: torch.device) -> int:
    """Memory that a device can still give: of a GPU its own, of a CPU what the kernel calls available, or less where
    a container is held to less."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError) as error:
        raise ConfigError("this system does not say how much memory is free; give --max-streams a number") from error
    group = Path("/sys/fs/cgroup")
    try:
        held = int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return free
    return max(0, min(free, held))
