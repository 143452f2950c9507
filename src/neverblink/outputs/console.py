"""The terminal: a line a caption, and one live status line below; plain text when piped.

Captions go to standard output, everything else to standard error, so that `neverblink watch ... | grep goal` works.
"""

from __future__ import annotations

import sys
from collections import deque
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from neverblink.outputs.base import SPOKEN, clock, plain
from neverblink.types import Event

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.live import Live

RECENT = 30  # seconds of media over which rates are averaged


@dataclass(slots=True)
class Status:
    """The numbers of the status line, from the events so far."""

    kv_budget: int | None = None  # rows; None when the cache has no bound
    at: float = 0.0  # media seconds reached
    captions: int = 0
    silent_since: float | None = None  # media seconds at which the model last fell silent
    dropped: int = 0
    kv_tokens: int = 0
    latency_ms: float = 0.0
    several: bool = False  # streams, which share their time and have a cache each
    _recent: deque[tuple[float, float, int]] = field(default_factory=lambda: deque(maxlen=RECENT))

    def add(self, event: Event) -> None:
        self.at = max(self.at, event.t_end)
        if event.type not in ("caption", "silence"):
            return
        if event.type == "silence":
            self.silent_since = event.t_start if self.silent_since is None else self.silent_since
        else:
            self.captions += 1
            self.silent_since = None
        self.dropped += event.frames_dropped
        self.kv_tokens = event.kv_tokens
        self.latency_ms = event.latency_ms
        self._recent.append((event.t_end - event.t_start, event.latency_ms / 1000, event.frames_used))

    @property
    def fps(self) -> float:
        """Frames used per media second."""
        media = sum(seconds for seconds, _, _ in self._recent)
        return sum(frames for _, _, frames in self._recent) / media if media else 0.0

    @property
    def real_time_factor(self) -> float:
        """Wall seconds of work per media second; below 1 keeps up with a live source."""
        media = sum(seconds for seconds, _, _ in self._recent)
        return sum(work for _, work, _ in self._recent) / media if media else 0.0

    def line(self) -> str:
        if self.several:
            return f"{clock(self.at)} · {self.captions} captions · dropped {self.dropped}"
        budget = f"/{self.kv_budget}" if self.kv_budget else ""
        parts = [
            clock(self.at),
            f"{self.fps:.3g} fps",
            f"real-time factor {self.real_time_factor:.2f}",
            f"kv {self.kv_tokens}{budget} tokens",
            f"dropped {self.dropped}",
        ]
        if self.silent_since is not None:
            parts.append(f"silent {self.at - self.silent_since:.0f} s")
        parts.append(f"latency {self.latency_ms:.0f} ms")  # last: what a narrow terminal can best do without
        return " · ".join(parts)


class Console:
    """Writes captions for a person (a terminal) or for the next program (a pipe)."""

    def __init__(
        self,
        *,
        out: TextIO | None = None,
        err: TextIO | None = None,
        kv_budget: int | None = None,
        quiet: bool = False,
        is_terminal: bool | None = None,
        several: bool = False,
    ):
        self._out = out or sys.stdout
        self._err = err or sys.stderr
        self._quiet, self._several = quiet, several
        self._terminal = self._out.isatty() if is_terminal is None else is_terminal
        self.status = Status(kv_budget=kv_budget, several=several)
        self._rich: RichConsole | None = None
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._terminal and not self._quiet:
            from rich.console import Console as RichConsole
            from rich.live import Live

            self._rich = RichConsole(file=self._out, highlight=False, soft_wrap=True, force_terminal=True)
            # rich must not grab stdout and stderr: errors printed elsewhere belong where they were sent.
            self._live = Live(console=self._rich, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, trace)
            self._live = None
        elif not self._quiet and self.status.at:
            print(self.status.line(), file=self._err, flush=True)

    def write(self, event: Event) -> None:
        self.status.add(event)
        label = "" if event.type in ("caption", "silence") else f"{event.type}: "
        whose = f"{event.stream_id}: " if self._several else ""
        text = f"[{clock(event.t_start)}] {whose}{label}{plain(event.text)}"
        if event.type not in SPOKEN and event.type != "silence":
            self._write_aside(event, text)
        elif self._live is not None:
            self._write_live(event, text)
        elif event.type != "silence" and not self._quiet:
            print(text, file=self._out, flush=True)

    def _write_live(self, event: Event, text: str) -> None:
        from rich.text import Text  # Text, not str: what a model says is no markup

        assert self._rich is not None
        if event.type != "silence":
            style = {"answer": "bold cyan", "alert": "bold red"}.get(event.type, "")
            self._rich.print(Text(text, style=style))
        self._show_status()

    def _write_aside(self, event: Event, text: str) -> None:
        if self._live is not None and self._rich is not None and self._err.isatty():
            from rich.text import Text

            self._rich.print(Text(text, style="yellow"))  # the same terminal: above the live line, not through it
            self._show_status()
        elif not self._quiet or event.type == "error":
            print(text, file=self._err, flush=True)

    def _show_status(self) -> None:
        from rich.text import Text

        assert self._live is not None
        self._live.update(Text(self.status.line(), style="dim", no_wrap=True, overflow="ellipsis"), refresh=True)
