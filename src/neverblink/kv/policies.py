"""What stays in the KV cache before the next chunk comes: pure functions of the rows, no tensor here.

A policy is called with every row (pending ones included) and what is coming, and answers with a Plan: which rows stay
and in which order. It may move said text into the previous-text block; `relocate` moves the keys with it.
Sources: StreamingVLM, arXiv 2510.09608, sections 3.1 (what is kept) and 4.4 (the strategies it is compared with).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np

from neverblink.errors import BudgetError, ConfigError
from neverblink.kv.table import Rows
from neverblink.registry import Registry
from neverblink.types import Kind

EPSILON = 1e-6  # seconds; chunk times are sums of floats


@dataclass(frozen=True, slots=True)
class Coming:
    """The chunk that needs room."""

    turn: int
    start: float  # media seconds
    end: float
    frames: int  # of a chunk that lost none
    tokens: int  # what the turn will append before the model speaks, pending rows not counted
    reserve: int  # what the model may say, and the room for a question
    room: int  # rows of the arena
    silence_ids: tuple[int, ...] = ()
    vision: int = 0  # of the tokens


@dataclass(frozen=True, slots=True)
class Plan:
    """Rows to keep, in their new order; cached rows come before pending ones."""

    keep: np.ndarray  # [kept] indices into the rows
    moved: np.ndarray  # [kept] bool: this row is previous text from now on
    reuse: bool = True  # False: nothing in the arena is used again, every kept row is fed once more
    reread: bool = False  # True: what is moved is fed once more, behind the opening and the text before it (reread.py)
    forgot: int = 0  # tokens of commentary that leave because they only repeated themselves (loops.py)


@dataclass(frozen=True, slots=True)
class Shape:
    """Upper bounds, known before the first frame."""

    opening: int  # tokens of the opening without previous text
    previous: int  # tokens of the previous text given at the start
    turn: int  # tokens of one user turn, vision included, and of its answer
    chunk_seconds: float
    frames: int  # frames of one chunk
    reserve: int  # room for a question and its answer
    vision: int = 0  # of a turn's tokens


Policy = Callable[[Rows, Coming], Plan]


def check_room(plan: Plan, coming: Coming) -> None:
    """Room for the answer too: a stream must never run out in the middle of a sentence.

    Raises:
        BudgetError: what a plan keeps, what comes and what may be said pass the arena's rows.
    """
    if len(plan.keep) + coming.tokens + coming.reserve > coming.room:
        raise BudgetError(
            f"kept {len(plan.keep)} + coming {coming.tokens} + to say {coming.reserve} tokens > budget {coming.room}; "
            f"use --policy streaming, which never passes its own, or a larger --kv-budget"
        )


class Parted(NamedTuple):
    """`policy`, where vision has rows of its own (compact.py): told of less room until what stays fits both parts."""

    policy: Policy
    rows: int  # of the rest
    vision: int

    def __call__(self, rows: Rows, coming: Coming) -> Plan:
        plan = self.policy(rows, coming)
        while True:
            vision = int((rows.cells[plan.keep] >= 0).sum())
            seen, rest = vision + coming.vision, len(plan.keep) - vision + coming.tokens - coming.vision
            if seen <= self.vision and rest + coming.reserve <= self.rows:
                return plan
            room = len(plan.keep) + coming.tokens + coming.reserve - 1
            less = self.policy(rows, replace(coming, room=min(room, coming.room)))
            if len(less.keep) >= len(plan.keep):
                raise BudgetError(
                    f"{seen} rows of vision > {self.vision}, or {rest} others + to say {coming.reserve} > {self.rows}; "
                    f"send fewer frames, or leave --kv-dtype out"
                )
            plan = less


def trim(count: int, sink: int, window: int) -> np.ndarray:
    """Indices of the first `sink` and the last `window` of `count` text tokens: the paper's text budget."""
    if count <= sink + window:
        return np.arange(count)
    return np.concatenate([np.arange(sink), np.arange(count - window, count)])


def _plan(rows: Rows, front: np.ndarray, moved: np.ndarray, rest: np.ndarray, **how: bool) -> Plan:
    """Opening, its text, what was moved there, the block's end, then the rest in its old order."""
    kinds = rows.kinds
    close = np.flatnonzero(kinds == Kind.PREVIOUS_CLOSE)
    head = np.flatnonzero((kinds == Kind.SYSTEM) | (kinds == Kind.PREVIOUS_OPEN))
    keep = np.concatenate([head, front, moved, close, rest])
    is_moved = np.zeros(len(keep), dtype=bool)
    is_moved[len(head) + len(front) : len(head) + len(front) + len(moved)] = True
    return Plan(keep, is_moved, **how)


def _everything(rows: Rows) -> Plan:
    return Plan(np.arange(len(rows)), np.zeros(len(rows), dtype=bool))


def _body(rows: Rows) -> np.ndarray:
    """Mask of rows that belong to turns and still stand in them."""
    opening = (Kind.SYSTEM, Kind.PREVIOUS_OPEN, Kind.PREVIOUS, Kind.PREVIOUS_CLOSE)
    return ~np.isin(rows.kinds, opening)


def said_without_silence(rows: Rows, turn: int, silence_ids: tuple[int, ...]) -> np.ndarray:
    """Indices of the words of a turn's answers; a silence mark at the end of an answer is not a word."""
    said = np.flatnonzero((rows.kinds == Kind.SAID) & (rows.turns == turn))
    size = len(silence_ids)
    if not size or len(said) < size:
        return said
    drop = np.zeros(len(said), dtype=bool)
    # A turn may hold two answers (a remembered question): each run of consecutive rows has a mark of its own.
    for run in np.split(np.arange(len(said)), np.flatnonzero(np.diff(said) != 1) + 1):
        if len(run) >= size and tuple(rows.ids[said[run[-size:]]]) == silence_ids:
            drop[run[-size:]] = True
    return said[~drop]


@dataclass(frozen=True)
class Streaming:
    """The default: sink and recent text, the last seconds of vision; everything exact.

    A turn lives while it ends less than `vision_seconds` before the end of the coming chunk, so the coming chunk
    counts. When it leaves, its words (without silence marks) join the previous-text block with their keys and the
    rest is dropped; the block keeps its first `sink_tokens` and last `text_window` tokens. Should a chunk be larger
    than expected, the oldest turns leave early: the budget is never passed.
    """

    sink_tokens: int = 512
    text_window: int = 512
    vision_seconds: float = 16.0

    reuse: ClassVar[bool] = True  # False: what is kept is fed again
    reread: ClassVar[bool] = False  # True: words that leave the window are

    def __post_init__(self) -> None:
        _check_windows(self)

    def rows_needed(self, shape: Shape) -> int:
        turns = math.ceil(self.vision_seconds / shape.chunk_seconds - EPSILON) or 1
        text = max(self.sink_tokens + self.text_window, shape.previous)
        return shape.opening + text + turns * shape.turn + shape.reserve

    def anchors_needed(self, shape: Shape) -> int:
        return shape.opening + max(self.sink_tokens + self.text_window, shape.previous) + shape.turn

    def __call__(self, rows: Rows, coming: Coming) -> Plan:
        plan = self._at(rows, coming, coming.end - self.vision_seconds + EPSILON)
        ends = np.unique(rows.times[_body(rows)])
        for end in ends:
            if len(plan.keep) + coming.tokens + coming.reserve <= coming.room:
                break
            plan = self._at(rows, coming, max(end, coming.end - self.vision_seconds) + EPSILON)
        return plan

    def _at(self, rows: Rows, coming: Coming, horizon: float) -> Plan:
        body = _body(rows)
        dead = body & (rows.times <= horizon)
        moved = [said_without_silence(rows, t, coming.silence_ids) for t in np.unique(rows.turns[dead])]
        if self.reuse:
            # The last token of a cut answer has no key yet, so it cannot stand before rows that have one. It only gets
            # here when the window is a single chunk.
            moved = [said[said < rows.n] for said in moved]
        previous = np.flatnonzero(rows.kinds == Kind.PREVIOUS)
        text = np.concatenate([previous, *moved])
        kept = trim(len(text), self.sink_tokens, self.text_window)
        return _plan(
            rows,
            text[kept[kept < len(previous)]],
            text[kept[kept >= len(previous)]],
            np.flatnonzero(body & ~dead),
            reuse=self.reuse,
            reread=self.reread,
        )


@dataclass(frozen=True)
class Recompute(Streaming):
    """Window with overlap, no reuse: holds what `streaming` holds and feeds all of it again at every chunk."""

    reuse: ClassVar[bool] = False


@dataclass(frozen=True)
class Reread(Streaming):
    """`streaming`, and words that leave the window are read once more: their keys and values are then those of the
    previous text in training, not those of the time when they were said. Costs a short feed whenever words leave."""

    reread: ClassVar[bool] = True


@dataclass(frozen=True)
class Full:
    """Nothing ever leaves; ends with a BudgetError when `kv_budget` rows are full."""

    kv_budget: int = 32_768

    def rows_needed(self, shape: Shape) -> int:
        return self.kv_budget

    def anchors_needed(self, shape: Shape) -> int:
        return 0

    def __call__(self, rows: Rows, coming: Coming) -> Plan:
        return _everything(rows)


@dataclass(frozen=True)
class Sliding:
    """Windows without overlap: when `vision_seconds` are full, all turns leave at once and the stream begins anew."""

    vision_seconds: float = 16.0

    def __post_init__(self) -> None:
        _check_windows(self)

    def rows_needed(self, shape: Shape) -> int:
        turns = math.ceil(self.vision_seconds / shape.chunk_seconds - EPSILON) or 1
        return shape.opening + shape.previous + turns * shape.turn + shape.reserve

    def anchors_needed(self, shape: Shape) -> int:
        return shape.opening + shape.previous

    def __call__(self, rows: Rows, coming: Coming) -> Plan:
        body = _body(rows)
        ends = rows.times[body]
        full = len(ends) and ends.min() <= coming.end - self.vision_seconds + EPSILON
        if not full and len(rows) + coming.tokens + coming.reserve <= coming.room:
            return _everything(rows)
        keep = np.flatnonzero(~body)
        return Plan(keep, np.zeros(len(keep), dtype=bool))


@dataclass(frozen=True)
class LastFrames:
    """The last `frames` frames and nothing else: no text, no reuse (the SimpleStream baseline)."""

    frames: int = 4

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ConfigError(f"last-frames needs at least 1 frame, got {self.frames}")

    def rows_needed(self, shape: Shape) -> int:
        return shape.opening + shape.previous + self._turns(shape.frames) * shape.turn + shape.reserve

    def anchors_needed(self, shape: Shape) -> int:
        return 0

    def _turns(self, frames_per_chunk: int) -> int:
        return max(1, -(-self.frames // max(1, frames_per_chunk)))

    def __call__(self, rows: Rows, coming: Coming) -> Plan:
        before = self._turns(coming.frames) - 1
        turns = np.unique(rows.turns[rows.turns >= 0])
        recent = turns[len(turns) - min(before, len(turns)) :]
        answers = (Kind.HEAD, Kind.SAID, Kind.CLOSE)
        keep = np.flatnonzero(~_body(rows) | (np.isin(rows.turns, recent) & ~np.isin(rows.kinds, answers)))
        return Plan(keep, np.zeros(len(keep), dtype=bool), reuse=False)


@dataclass(frozen=True)
class StreamingVLM:
    """The public StreamingVLM reference to the token, quirks included (rules in tests/test_reference_traces.py).

    Windows count chunks, not seconds; one token before the end of a turn is dropped whatever it is; the text window
    is one token short. Use `Streaming` unless you compare with the reference.

    Args:
        window_size: turns whose vision stays.
        text_round: turns whose answers stay in place; older ones move to the previous text.
        text_sink, text_sliding_window: None keeps all previous text.
        recompute: feed everything again at every chunk.
    """

    window_size: int = 16
    text_round: int = 16
    text_sink: int | None = 512
    text_sliding_window: int | None = 512
    recompute: bool = False
    kv_budget: int = 8_192

    def rows_needed(self, shape: Shape) -> int:
        return self.kv_budget

    def anchors_needed(self, shape: Shape) -> int:
        return self.kv_budget

    def __call__(self, rows: Rows, coming: Coming) -> Plan:
        kinds, turns, i = rows.kinds, rows.turns, coming.turn
        window, text = self.window_size, self.text_round
        body = _body(rows)
        drop = np.zeros(len(rows), dtype=bool)
        answered = body & (turns <= i - text)
        moved = [
            np.flatnonzero(answered & (kinds == Kind.SAID) & (turns == t))[:-1] for t in np.unique(turns[answered])
        ]
        drop |= answered & np.isin(kinds, (Kind.HEAD, Kind.SAID, Kind.CLOSE))
        if window > text:
            drop |= answered & (kinds == Kind.TIME)
        else:
            drop |= body & (turns <= i - window) & np.isin(kinds, (Kind.VISION, Kind.PIXELS))
        drop |= body & (turns <= i - max(window, text))
        previous = np.flatnonzero(kinds == Kind.PREVIOUS)
        content = np.concatenate([previous, *moved])
        kept = np.arange(len(content))
        if i > 0 and self.text_sink is not None and self.text_sliding_window is not None:
            sink, recent = self.text_sink, self.text_sliding_window
            if len(content) >= sink + recent:
                kept = np.concatenate([np.arange(sink), np.arange(len(content) - (recent - 1), len(content))])
        return _plan(
            rows,
            content[kept[kept < len(previous)]],
            content[kept[kept >= len(previous)]],
            np.flatnonzero(body & ~drop),
            reuse=not self.recompute,
        )


def _check_windows(policy: Any) -> None:
    for field in fields(policy):
        value = getattr(policy, field.name)
        if value < 0 or (field.name == "vision_seconds" and not math.isfinite(value)):
            raise ConfigError(f"{field.name} must be 0 or more, got {value}")


policies = Registry(
    "KV policy",
    {
        "streaming": "neverblink.kv.policies:Streaming",
        "full": "neverblink.kv.policies:Full",
        "sliding": "neverblink.kv.policies:Sliding",
        "recompute": "neverblink.kv.policies:Recompute",
        "reread": "neverblink.kv.policies:Reread",
        "last-frames": "neverblink.kv.policies:LastFrames",
        "streaming-vlm": "neverblink.kv.policies:StreamingVLM",
    },
)


def make_policy(name: str, **options: Any) -> Any:
    """A policy by name.

    Raises:
        UnknownName: no such policy; the message lists the known ones.
        ConfigError: an option that this policy does not have, or out of range.
    """
    factory = policies[name]
    known = {f.name for f in fields(factory)}
    for option in options:
        if option not in known:
            raise ConfigError(
                f"KV policy {name!r} has no option {option!r}; it has: {', '.join(sorted(known)) or 'none'}"
            )
    return factory(**options)
