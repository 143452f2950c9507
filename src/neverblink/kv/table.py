"""One row for every token of a stream: what it is, where it stands. Numbers only, no tensor of the model.

Rows [0, n) have keys and values in the arena, row i at cache row i; rows [n, m) are pending: written, not yet fed.
Positions of any kept set follow from two columns: `pos = exclusive_cumsum(adv) + loc`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from neverblink.errors import BudgetError, ModelError
from neverblink.types import Kind, Piece

if TYPE_CHECKING:
    from neverblink.models.base import VisionBlock

COLUMNS: dict[str, tuple[type, tuple[int, ...]]] = {
    "ids": (np.int64, ()),
    "kinds": (np.int8, ()),
    "turns": (np.int32, ()),  # -1: the opening
    "times": (np.float64, ()),  # media seconds at which the row's turn ends
    "cells": (np.int32, ()),  # index into the turn's vision embeddings; -1: text
    "adv": (np.float64, ()),  # how far the next row's base stands behind this one's
    "loc": (np.float64, (3,)),  # place within the block on the t, h, w axes; 0 for text
    "pos": (np.float64, (3,)),  # the angle baked into the key; valid for rows < n
    "pos0": (np.float64, (3,)),  # position baked into the row's master, or into its bytes; valid for these
    "serials": (np.int64, ()),  # order in which keys were computed; -1 while pending, or to be read once more
}


class Rows:
    """A read-only view of a table's columns, for policies and tests."""

    __slots__ = (*COLUMNS, "n")

    def __init__(self, columns: dict[str, np.ndarray], n: int):
        for name, values in columns.items():
            view = values.view()
            view.flags.writeable = False
            setattr(self, name, view)
        self.n = n  # rows with keys and values

    def __len__(self) -> int:
        return len(self.ids)

    ids: np.ndarray
    kinds: np.ndarray
    turns: np.ndarray
    times: np.ndarray
    cells: np.ndarray
    adv: np.ndarray
    loc: np.ndarray
    pos: np.ndarray
    pos0: np.ndarray
    serials: np.ndarray


def layout(adv: np.ndarray, loc: np.ndarray, start: float = 0.0) -> np.ndarray:
    """Positions [n, 3] of rows that stand one behind the other from `start`."""
    base = np.empty(len(adv), dtype=np.float64)
    if len(adv):
        base[0] = start
        np.cumsum(adv[:-1], out=base[1:])
        base[1:] += start
    return base[:, None] + loc


class Table:
    """Fixed number of rows, allocated once.

    Args:
        max_rows: rows of the arena; pending rows count too, since all of them will be fed.
    """

    def __init__(self, max_rows: int):
        self.max_rows = max_rows
        self.n = 0  # rows with keys and values
        self.m = 0  # rows in all
        self.anchors = 0  # leading rows whose keys have a first-written master
        self.next_pos = 0.0  # where the next token fed will stand
        self.next_serial = 0
        self.torn = False  # a relocation has begun and was not finished: the rows are neither here nor there
        self._columns: dict[str, np.ndarray] = {
            name: np.zeros((max_rows, *shape), dtype) for name, (dtype, shape) in COLUMNS.items()
        }

    def __getattr__(self, name: str) -> np.ndarray:
        try:
            column: np.ndarray = self.__dict__["_columns"][name]
        except KeyError:
            raise AttributeError(name) from None
        return column

    def rows(self) -> Rows:
        """All rows, pending ones included."""
        return Rows({name: column[: self.m] for name, column in self._columns.items()}, self.n)

    def check_whole(self) -> None:
        """Refuse to go on from rows that a failure has left half moved; raises ModelError."""
        if self.torn:
            raise ModelError(
                "the stream failed while its cache was rearranged, so what it holds is lost; restore a snapshot, or "
                "begin a new stream"
            )

    def append(self, pieces: Iterable[Piece], *, turn: int, time: float, vision: VisionBlock | None = None) -> None:
        """Write pieces as pending rows.

        Args:
            pieces: what `script.py` wrote.
            turn: number of the turn; -1 for the opening.
            time: media seconds at which the turn ends.
            vision: places of the PIXELS pieces, which must have as many ids together.

        Raises:
            BudgetError: they do not fit; the table is unchanged. ModelError: see `check_whole`.
        """
        self.check_whole()
        pieces = [p for p in pieces if p.ids]
        coming = sum(len(p.ids) for p in pieces)
        if self.m + coming > self.max_rows:
            raise BudgetError(
                f"kept {self.m} + coming {coming} tokens > budget {self.max_rows}; "
                f"use --policy streaming, fewer frames a second, or a larger --kv-budget"
            )
        cell = 0
        for piece in pieces:
            a, b = self.m, self.m + len(piece.ids)
            self.ids[a:b], self.kinds[a:b], self.turns[a:b], self.times[a:b] = piece.ids, piece.kind, turn, time
            self.serials[a:b] = -1
            if piece.kind == Kind.PIXELS:
                end = cell + b - a
                assert vision is not None and end <= vision.tokens, "a PIXELS piece needs its vision block"
                self.cells[a:b], self.adv[a:b], self.loc[a:b] = np.arange(cell, end), 0.0, vision.loc[cell:end]
                self.adv[b - 1], cell = vision.advance, end
            else:
                self.cells[a:b], self.adv[a:b], self.loc[a:b] = -1, 1.0, 0.0
            self.m = b
        assert vision is None or cell == vision.tokens, f"{cell} of {vision.tokens} vision tokens were written"

    def place_pending(self, upto: int) -> np.ndarray:
        """Positions [upto - n, 3] at which rows [n, upto) are to be fed; also written into the table."""
        a = self.n
        self.pos[a:upto] = layout(self.adv[a:upto], self.loc[a:upto], self.next_pos)
        self.pos0[a:upto] = self.pos[a:upto]
        return self.pos[a:upto]

    def places(self, contiguous: bool) -> np.ndarray:
        """Positions [m, 3] of all rows: counted from the first held row, or (native) as they were and will be fed."""
        if contiguous:
            return layout(self.adv[: self.m], self.loc[: self.m])
        pending = layout(self.adv[self.n : self.m], self.loc[self.n : self.m], self.next_pos)
        return np.concatenate([self.pos[: self.n], pending])

    def vision_cells(self, a: int, b: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """For each turn with vision in rows [a, b): the turn, its rows counted from a, and their cells."""
        turns, cells = self.turns[a:b], self.cells[a:b]
        if cells.max(initial=-1) < 0:
            return  # a spoken token, many times a second
        for turn in np.unique(turns[cells >= 0]):
            at = np.flatnonzero((turns == turn) & (cells >= 0))
            yield int(turn), at, cells[at].astype(np.int64)

    def commit(self, upto: int) -> None:
        """Rows [n, upto) are in the arena now."""
        count = upto - self.n
        self.next_pos += float(self.adv[self.n : upto].sum())
        self.serials[self.n : upto] = np.arange(self.next_serial, self.next_serial + count)
        self.next_serial += count
        self.n = upto

    @contextmanager
    def reopened(self, a: int, b: int) -> Iterator[None]:
        """Within, rows [a, b) are pending where they stand, and none is behind them."""
        n, m, next_pos = self.n, self.m, self.next_pos
        self.n, self.m, self.next_pos = a, b, float(self.pos[a, 0] - self.loc[a, 0])
        try:
            yield
        finally:
            self.n, self.m, self.next_pos = n, m, next_pos

    def mark(self) -> tuple[int, int, float, int]:
        """Where the table ends now, for `rewind`."""
        return self.n, self.m, self.next_pos, self.next_serial

    def rewind(self, mark: tuple[int, int, float, int]) -> None:
        """Forget every row written or fed since the mark; nothing may have been relocated in between."""
        self.n, self.m, self.next_pos, self.next_serial = mark
        self.serials[self.n : self.m] = -1

    def gather(self, keep: np.ndarray) -> None:
        """Reorder and drop rows: row i becomes what row keep[i] was."""
        for column in self._columns.values():
            column[: len(keep)] = column[keep]
        self.m = len(keep)

    def columns(self) -> dict[str, np.ndarray]:
        """Copies of the used part of every column, for snapshots and forks."""
        return {name: column[: self.m].copy() for name, column in self._columns.items()}

    def load(self, columns: dict[str, np.ndarray]) -> None:
        """Take over what `columns` gave."""
        for name, column in self._columns.items():
            column[: len(columns[name])] = columns[name]
        self.m, self.torn = len(columns["ids"]), False
