"""What every output shares: the contract, the record of a stream, safe text, and a file that is whole at any moment.

A new output is a context manager with `write(event)`; register it under a name in `neverblink.outputs` (OUTPUTS).
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from neverblink.errors import ConfigError
from neverblink.types import Caption, Event, EventType

STEADY = 10  # events in a row that an output has to take before it counts as recovered
PAGE = 4096  # bytes; the smallest unit in which a kernel copies a write to a file


class Output(Protocol):
    """Takes the events of one stream, in order. `write` may raise OSError; nothing of that event is then kept."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def write(self, event: Event) -> None: ...


# Escape sequences first, whole, so that "\x1b[31mred" becomes "red" and not "[31mred".
_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"  # OSC, DCS ...: titles, links
    r"|\x1b[ -/]*[0-~]?"
)
_SPACES = re.compile(r"[\s\x1c-\x1f\x85\u2028\u2029]+")
# Control characters, marks that reorder or hide text (bidi, zero width space, BOM), and halves of a UTF-16 pair.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")


def plain(text: str) -> str:
    """One line of text that is safe to show anywhere: no escape sequences, no control characters, no newlines."""
    return _SPACES.sub(" ", _UNSAFE.sub("", _SPACES.sub(" ", _ESCAPES.sub("", text)))).strip()


def clock(seconds: float, *, fraction: str | None = None) -> str:
    """`HH:MM:SS`, and with `fraction` (a separator) the milliseconds too; hours grow past 99."""
    ms = max(0, round(seconds * 1000))
    text = f"{ms // 3_600_000:02d}:{ms // 60_000 % 60:02d}:{ms // 1000 % 60:02d}"
    return text if fraction is None else f"{text}{fraction}{ms % 1000:03d}"


class Recorder:
    """Turns captions and happenings of one stream into numbered events."""

    def __init__(self, model: str, stream_id: str = "main", now: Callable[[], float] = time.time, first: int = 0):
        self._model = model
        self._stream_id = stream_id
        self._now = now
        self._seq = first  # of the next event; a stream that goes on after a restart goes on counting

    def caption(self, caption: Caption) -> list[Event]:
        """A caption or silence event; before it that a loop was left, behind it the question that was asked with this
        chunk and its answer, or why there is none."""
        events = []
        if caption.forgot:
            text = f"the commentary only repeated itself; its last {caption.forgot} tokens are forgotten"
            events.append(self.note("drop", text, caption.start))
        said = self._event(
            "silence" if caption.silent else "caption",
            "" if caption.silent else caption.text,
            caption.start,
            caption.end,
            latency_ms=round(caption.latency * 1000, 3),
            tokens=caption.tokens,
            kv_tokens=caption.kv_tokens,
            frames_used=caption.frames_used,
            frames_dropped=caption.frames_dropped,
            frames_skipped=caption.frames_skipped,
        )
        events.append(said)
        if caption.question is not None:
            events.append(self._event("question", caption.question, caption.start, caption.end))
            if caption.answer is None:
                events.append(self.note("error", f"no answer: {caption.unanswered}", caption.end))
            else:
                events.append(self.answer(caption.answer, caption, caption.seconds.get("answer", 0.0)))
        return events

    def answer(self, text: str, at: Caption, seconds: float) -> Event:
        """An answer that was given at a caption, `seconds` of wall time after its question."""
        return self._event(
            "answer", text, at.start, at.end, latency_ms=round(seconds * 1000, 3), kv_tokens=at.kv_tokens
        )

    def note(self, type: EventType, text: str, at: float) -> Event:
        """Something that happened at media second `at`: a source, gap, drop, error or alert event."""
        return self._event(type, text, at, at)

    def _event(
        self,
        type: EventType,
        text: str,
        start: float,
        end: float,
        *,
        latency_ms: float = 0.0,
        tokens: int = 0,
        kv_tokens: int = 0,
        frames_used: int = 0,
        frames_dropped: int = 0,
        frames_skipped: int = 0,
    ) -> Event:
        event = Event(
            seq=self._seq,
            stream_id=self._stream_id,
            t_start=round(start, 6),
            t_end=round(end, 6),
            wall_time=round(self._now(), 6),
            type=type,
            text=text,
            model=self._model,
            latency_ms=latency_ms,
            tokens=tokens,
            kv_tokens=kv_tokens,
            frames_used=frames_used,
            frames_dropped=frames_dropped,
            frames_skipped=frames_skipped,
        )
        self._seq += 1
        return event


class Outputs:
    """Several outputs, already open, as one. One that fails (disk full ...) is reported once until it works again for
    `STEADY` events: a short record may still fit where a long one does not. The stream and the others go on."""

    def __init__(self, outputs: Iterable[Output], recorder: Recorder):
        self._outputs = list(outputs)
        self._recorder = recorder
        self._failing: dict[int, int] = {}  # number of an output -> events written since it last failed

    def write(self, event: Event) -> None:
        troubles = []
        for i, output in enumerate(self._outputs):
            try:
                output.write(event)
            except BrokenPipeError:
                raise  # nobody reads any more: a wish to stop, not a fault
            except OSError as error:
                known = i in self._failing
                self._failing[i] = 0
                if not known:
                    name = getattr(output, "path", type(output).__name__)
                    troubles.append(f"cannot write {name}: {error.strerror}; watching goes on")
            else:
                if i in self._failing:
                    self._failing[i] += 1
                    if self._failing[i] >= STEADY:
                        del self._failing[i]
        for trouble in troubles:
            self.write(self._recorder.note("error", trouble, event.t_end))


class WholeRecords:
    """A text file to which only whole records are added, so that it is valid at any moment, even after kill -9.

    Each record is one write call. A kernel that is told to kill the process may still stop a write between two pages,
    so a record that would cross a page starts on the next one, behind `filler` (what the format skips). A record
    longer than a page keeps that tiny risk.
    """

    def __init__(self, path: Path | str, *, header: bytes = b"", filler: bytes):
        self.path = Path(path)
        self._header = header
        self._filler = filler
        self._fd = -1
        self._end = 0  # bytes of whole records; what a full disk leaves behind them is cut off
        self._regular = True

    def open(self) -> None:
        """Make or empty the file and write its header; raises ConfigError in one line when that cannot be done."""
        try:
            self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_CLOEXEC", 0), 0o644)
            self._regular = stat.S_ISREG(os.fstat(self._fd).st_mode)
            self.add(self._header)
        except OSError as error:
            self.close()
            raise ConfigError(
                f"cannot write {self.path}: {error.strerror}; name a file in a directory that you can write to"
            ) from error

    def add(self, record: bytes) -> None:
        if not self._regular:  # a pipe or a terminal has no pages and no end to cut back to
            while record:
                record = record[os.write(self._fd, record) :]
            return
        room = PAGE - self._end % PAGE
        if room < len(record) <= PAGE:
            record = self._filler * room + record
        try:
            written = os.pwrite(self._fd, record, self._end)
            if written < len(record):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            os.ftruncate(self._fd, self._end)
            raise
        self._end += written

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class FileOutput:
    """Shared by the file formats: opens, closes, and adds what `record` makes of an event."""

    header = b""
    filler = b"\n"

    def __init__(self, path: Path | str):
        self._file = WholeRecords(path, header=self.header, filler=self.filler)

    @property
    def path(self) -> Path:
        return self._file.path

    def __enter__(self) -> Self:
        self._file.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, event: Event) -> None:
        record = self.record(event)
        if record:
            self._file.add(record.encode())

    def record(self, event: Event) -> str:
        """The text to add for this event; "" for none."""
        raise NotImplementedError


class Cues:
    """Start and end of subtitle cues: never backwards, never empty, whatever the source's clock does."""

    def __init__(self) -> None:
        self._last_start = 0.0

    def times(self, event: Event) -> tuple[float, float]:
        start = max(round(event.t_start, 3), self._last_start)
        self._last_start = start
        return start, max(round(event.t_end, 3), start + 0.001)


SPOKEN: frozenset[EventType] = frozenset({"caption", "answer", "alert"})  # what a viewer is meant to read
