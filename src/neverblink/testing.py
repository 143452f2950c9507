"""Fakes and contract checks for your own tests: no weights, no network, no video file.

    model = ScriptedModel(["Left serves.", "", "Right scores: 0-1."])
    for caption in model.watch(SyntheticSource(seconds=3)):
        ...

`check_output_contract` tells whether an output of your own keeps what neverblink relies on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np

from neverblink.outputs.base import Output, Recorder
from neverblink.types import Caption, Event, Frame, SourceInfo


class SyntheticSource:
    """A white square that moves over black, `fps` frames a second; the same at every run."""

    def __init__(
        self,
        *,
        seconds: float = 10.0,
        fps: float = 2.0,
        width: int = 64,
        height: int = 48,
        start: float = 0.0,
        kind: Any = "file",
        live: bool = False,
        dropped: Sequence[int] = (),
        error_at: float | None = None,
        error: Exception | None = None,
    ):
        self.info = SourceInfo(
            name="synthetic", kind=kind, live=live, width=width, height=height, codec="none", duration=seconds
        )
        self.closed = False
        self._seconds = seconds
        self._fps = fps
        self._start = start
        self._dropped = list(dropped)  # what each call of take_dropped answers, then 0
        self._error_at = error_at  # media seconds
        self._error = error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def frames(self) -> Iterator[Frame]:
        for i in range(round(self._seconds * self._fps)):
            time = self._start + i / self._fps
            if self._error is not None and self._error_at is not None and time >= self._error_at:
                raise self._error
            yield Frame(time=time, pixels=self._picture(i))

    def _picture(self, i: int) -> np.ndarray:
        picture = np.zeros((self.info.height, self.info.width, 3), dtype=np.uint8)
        left = i % (self.info.width - 8)
        picture[self.info.height // 2 :, left : left + 8] = 255
        return picture

    def take_dropped(self) -> int:
        return self._dropped.pop(0) if self._dropped else 0

    def close(self) -> None:
        self.closed = True


class ScriptedModel:
    """Says the given lines, one a second, then starts over; "" is silence. The surface of `neverblink.Model`."""

    def __init__(
        self,
        lines: Sequence[str] = ("Something happens.", ""),
        *,
        name: str = "scripted",
        domain: str | None = None,
        fps: float = 2.0,
        answer: str = "I do not know.",
        seconds: float = 10.0,
    ):
        self.name = name
        self.domain = domain
        self.device, self.parameters = "scripted", 0
        self.fps = fps
        self.watched: list[dict[str, Any]] = []  # the arguments of each watch
        self._lines = list(lines)
        self._answer = answer
        self._seconds = seconds

    def describe(self) -> list[tuple[str, str, str]]:
        return [("device", "none", "a script needs no device")]

    def watch(
        self,
        source: Any,
        *,
        seconds: float | None = None,
        start: float = 0.0,
        questions: Mapping[float, str] | None = None,
        on_event: Callable[[Any, str, float], None] | None = None,
        **options: Any,
    ) -> Iterator[Caption]:
        """One caption a media second: of a Source, or of `seconds` imagined ones when `source` is a name."""
        self.watched.append({"source": source, "seconds": seconds, "start": start, "questions": questions, **options})
        if on_event is not None:
            on_event("source", "open: synthetic", start)
        waiting = sorted((questions or {}).items())
        for i, frames in enumerate(self._frames_per_second(source)):
            if seconds is not None and i >= seconds:
                return
            question = waiting.pop(0)[1] if waiting and waiting[0][0] < start + i + 1 else None
            text = self._lines[i % len(self._lines)]
            yield Caption(
                start=start + i,
                end=start + i + 1,
                text=text,
                silent=not text,
                why_stopped="end" if text else "silence",
                tokens=len(text.split()) + 1,
                kv_tokens=100,
                frames_used=frames,
                frames_dropped=0,
                seconds={"see": 0.001, "read": 0.001, "speak": 0.001},
                question=question,
                answer=None if question is None else self._answer,
            )

    def _frames_per_second(self, source: Any) -> Iterator[int]:
        if isinstance(source, str):
            yield from (round(self.fps) for _ in range(round(self._seconds)))
            return
        count, second = 0, None
        for frame in source.frames():
            if second is not None and int(frame.time) != second:
                yield count
                count = 0
            second = int(frame.time)
            count += 1
        if count:
            yield count


class ListOutput:
    """Keeps the events; `fail_with` makes every write fail, as a full disk does."""

    def __init__(self, fail_with: OSError | None = None):
        self.events: list[Event] = []
        self.is_open = False
        self.fail_with = fail_with

    def __enter__(self) -> Self:
        self.is_open = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.is_open = False

    def write(self, event: Event) -> None:
        if self.fail_with is not None:
            raise self.fail_with
        self.events.append(event)


HOSTILE_TEXTS = (
    "plain",
    "1 < 2 & 3 > 2 --> 4",
    "<script>alert(1)</script>",
    "</v><c.red>{\\an8}x",
    "\x1b[31mred\x1b[0m \x1b]8;;x:y\x07link\x1b]8;;\x07 \x9b31m \x1b",
    "two\nlines\r\n\r\n00:00:00.000 --> 00:00:09.000\nforged",
    "a\u2028b\u2029c\x85d\x0be\x0cf",
    "NUL \x00 BEL \x07 BS \x08 DEL \x7f",
    "\u202eright to left\u202c \u200bhidden",
    "half \ud800 a pair",
    "[bold red]markup[/] [link=x]y[/link]",
    "NOTE\n\nSTYLE\n\nREGION",
    "日本語 é 😀",
    "x" * 10_000,
)


def make_caption(start: float = 0.0, text: str = "Left serves.", **changes: Any) -> Caption:
    """One second that starts at `start`; "" is silence."""
    values: dict[str, Any] = {
        "start": start,
        "end": start + 1,
        "text": text,
        "silent": not text,
        "why_stopped": "end" if text else "silence",
        "tokens": 4,
        "kv_tokens": 256,
        "frames_used": 2,
        "frames_dropped": 0,
        "seconds": {"see": 0.01, "speak": 0.02},
    }
    return Caption(**{**values, **changes})


def check_output_contract(make: Callable[[], Output], read: Callable[[], list[str]]) -> None:
    """What every output of captions must keep; `read` gives the texts that were written, unescaped, in order.

    Raises:
        AssertionError: the output lost, invented or tore a text, or was not complete before it was closed.
    """
    recorder = Recorder("scripted", now=lambda: 0.0)
    expected: list[str] = []
    with make() as output:
        for second, text in enumerate(HOSTILE_TEXTS):
            for event in recorder.caption(make_caption(float(second), text)):
                output.write(event)
            for event in recorder.caption(make_caption(second + 0.5, "")):
                output.write(event)  # silence between
            if text.strip():
                expected.append(text)
            written = read()
            assert len(expected) == len(written), f"after {text!r}: {len(written)} texts instead of {len(expected)}"
        output.write(recorder.note("gap", "10 s are missing", 99.0))
        assert len(expected) == len(read()), "a gap is nothing that the model said"
    for text in read():
        unsafe = [c for c in text if ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 or c in "\u2028\u2029\u202e\u200b"]
        assert not unsafe, f"control characters {unsafe} in {text!r}"


def check_compressor_contract(make: Callable[[], Any]) -> None:
    """What every compressor must keep, over chunks of one and of several pictures; `make` gives one with its options.

    Raises:
        AssertionError: a mask of a wrong shape, a token brought back, memory outside the state, or a state or token
            that was written over.
    """
    import torch

    from neverblink.economy import State, Tokens

    draw = torch.Generator().manual_seed(0)
    first = torch.randn(12, 16, generator=draw)
    chunks: list[Tokens] = []
    for count in (1, 3, 2):
        embeds = torch.stack([first + 0.3 * i * torch.randn(12, 16, generator=draw) for i in range(count)])
        alive = torch.ones(count, 12, dtype=torch.bool)
        if not make().needs_grid:
            alive[-1, 4:] = False
        chunks.append(Tokens(embeds, alive, (3, 4), tuple(float(len(chunks)) + i / count for i in range(count))))

    def run(compressors: Sequence[Any]) -> list[torch.Tensor]:
        state: State = {}
        masks = []
        for compressor, tokens in zip(compressors, chunks, strict=True):
            given = {name: value.clone() for name, value in state.items()}
            embeds, alive = tokens.embeds.clone(), tokens.alive.clone()
            mask, after = compressor(tokens, state)
            assert mask.dtype == torch.bool and mask.shape == alive.shape, f"a mask {mask.dtype} {list(mask.shape)}"
            assert torch.equal(embeds, tokens.embeds) and torch.equal(alive, tokens.alive), "tokens were written over"
            assert given.keys() == state.keys(), "the state was changed in place"
            assert all(torch.equal(given[name], state[name]) for name in given), "the state was written over"
            assert not bool((mask & ~alive).any()), "a dropped token was kept again"
            state = after
            masks.append(mask)
        return masks

    one = make()
    together, apart = run([one] * 3), run([make() for _ in range(3)])
    again = run([one] * 3)
    for a, b, c in zip(together, apart, again, strict=True):
        assert torch.equal(a, b) and torch.equal(a, c), "it remembers something outside its state"
