"""A training sample: one window of seconds, written with the stream's own script, table and text budget.

The ids are those that a stream under the `streaming` policy holds at the end of the window, when its vision window is
as long as the sample (StreamingVLM, section 3.2: full attention on short overlapped chunks).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neverblink.kv.policies import trim
from neverblink.kv.table import Table, layout
from neverblink.models.base import VisionBlock
from neverblink.script import Script
from neverblink.types import Kind, Piece


@dataclass(frozen=True, slots=True)
class Spoken:
    """One second of a training stream: when, where its vision tokens stand, what is to be said ("" is silence)."""

    start: float
    end: float
    vision: VisionBlock  # only its places are used here
    text: str
    asked: tuple[tuple[str, str], ...] = ()  # (question, answer), as `Stream.ask(remember=True)` leaves them
    shown: bool = False  # its text stands there as what was said, and is not learned


@dataclass(frozen=True, slots=True)
class Sample:
    ids: np.ndarray  # [n] int64
    positions: np.ndarray  # [3, n] float64
    learn: np.ndarray  # [n] bool: this token is to be predicted
    kinds: np.ndarray  # [n] int8


def previous_ids(script: Script, texts: Sequence[str], sink: int, window: int) -> tuple[int, ...]:
    """What the previous-text block holds after these seconds have left the vision window."""
    said = [i for text in texts for i in script.encode(text)]
    return tuple(said[i] for i in trim(len(said), sink, window))


def write_sample(script: Script, seconds: Sequence[Spoken], previous: tuple[int, ...] = ()) -> Sample:
    """Write a window of seconds as one sequence.

    Args:
        script: the format; the same object that a stream uses.
        seconds: the window, in order.
        previous: content of the previous-text block, from `previous_ids`.
    """
    opening = script.opening(previous)
    size = sum(len(p.ids) for p in opening) + len(seconds) * 64
    size += sum(s.vision.tokens + 4 * len(s.text) for s in seconds)
    size += sum(64 + 4 * len(q) + 4 * len(a) for s in seconds for q, a in s.asked)
    table = Table(size)
    table.append(opening, turn=-1, time=0.0)
    shown = np.zeros(size, bool)
    for turn, second in enumerate(seconds):
        if turn:
            table.append([script.close()], turn=turn - 1, time=seconds[turn - 1].end)
        pieces = script.turn(second.start, second.end, second.vision.tokens, first=turn == 0)
        table.append(pieces, turn=turn, time=second.end, vision=second.vision)
        said = script.said(second.text)
        shown[table.m : table.m + len(said)] = second.shown
        table.append([Piece(Kind.SAID, said[:-1]), Piece(Kind.CLOSE, said[-1:])], turn=turn, time=second.end)
        for question, answer in second.asked:
            table.append([script.close(), *script.question(question)], turn=turn, time=second.end)
            table.append(
                [Piece(Kind.SAID, script.encode(answer)), Piece(Kind.CLOSE, (script.end_id,))],
                turn=turn,
                time=second.end,
            )
    rows = table.rows()
    learn = (rows.kinds == Kind.SAID) | ((rows.kinds == Kind.CLOSE) & (rows.ids == script.end_id))
    learn &= ~shown[: len(rows)]
    return Sample(rows.ids.copy(), layout(rows.adv, rows.loc).T.copy(), learn, rows.kinds.copy())
