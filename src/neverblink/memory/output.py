"""`watch --journal FILE`: the journal as an output of one stream."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from neverblink.memory.journal import Journal, StreamRecord
from neverblink.pictures import to_jpeg
from neverblink.types import Event

if TYPE_CHECKING:
    import numpy as np

SHOWN = frozenset({"caption", "answer", "alert"})  # events that keep a picture
THUMBNAIL = 160  # pixels wide


class JournalOutput:
    """Writes the events of a stream into a journal; `see` tells what the stream is looking at."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self._journal: Journal | None = None
        self._pixels: np.ndarray | None = None

    def __enter__(self) -> Self:
        self._journal = Journal(self.path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def begin(self, name: str, wall_time: float) -> str:
        """Make room for a stream of this name; gives its id in the journal."""
        assert self._journal is not None, "begin inside the with block"
        taken = {record.id for record in self._journal.streams()}
        number = 1
        while f"watch-{number}" in taken:
            number += 1
        self._journal.put_stream(StreamRecord(f"watch-{number}", wall_time, {"name": name}))
        return f"watch-{number}"

    def see(self, pixels: np.ndarray) -> None:
        """[H, W, 3] uint8: what the next events are about."""
        self._pixels = pixels

    def write(self, event: Event) -> None:
        assert self._journal is not None, "write inside the with block"
        picture = None
        if self._pixels is not None and event.type in SHOWN:
            picture = to_jpeg(self._pixels, width=THUMBNAIL, quality=60)
        try:
            self._journal.add(event, picture)
        except sqlite3.Error as error:  # outputs tell of trouble by OSError
            raise OSError(errno.EIO, str(error)) from error
