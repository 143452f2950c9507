"""Asking about what left the model's memory: the lines of the journal that a question is about, as previous text.

Text and not old keys: feeding evicted keys again breaks a commentary that is interleaved with its video; words do not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, Self

from neverblink.memory.journal import Entry, Journal
from neverblink.outputs.base import Recorder, clock, plain
from neverblink.types import Caption

HEAD = "previous text"
MOST = 6  # lines
QUOTED = 3  # words with a number among them, one behind the other in a question and in a line: the question quotes it


class Recalled(NamedTuple):
    """A question with what the journal knows about it."""

    words: str  # what the model is asked
    entries: list[Entry]  # the lines in it, oldest first

    @property
    def citation(self) -> str:
        """ "[00:12:31] [00:40:02]", or "" where nothing was recalled."""
        return " ".join(f"[{clock(entry.event.t_start)}]" for entry in self.entries)


def recall(journal: Journal, stream_id: str | None, question: str, *, fits: Callable[[str], bool]) -> Recalled:
    """Put the lines that a question is about in front of it, as many as fit.

    Args:
        fits: whether the model can take a question of these words.
    """
    best = lines_about(journal, stream_id, question)
    words, taken = put_before(question, [(entry.event.t_start, entry.event.text) for entry in best], fits)
    return Recalled(words, sorted(best[:taken], key=lambda entry: entry.row))


class Notes:
    """What one watch has said, in a journal that is gone with it, to be asked as a server's journal is.

    Args:
        fits: whether the model can take a question of these words.
    """

    def __init__(self, fits: Callable[[str], bool]):
        self._fits, self._recorder = fits, Recorder(model="")

    def __enter__(self) -> Self:
        self._folder = TemporaryDirectory(prefix="neverblink-")
        self._journal = Journal(Path(self._folder.name) / "journal.db")
        return self

    def __exit__(self, *exc: object) -> None:
        self._journal.close()
        self._folder.cleanup()

    def add(self, caption: Caption) -> None:
        for event in self._recorder.caption(caption):
            self._journal.add(event)

    def about(self, question: str) -> str:
        """The question with what was said of it in front."""
        return recall(self._journal, None, question, fits=self._fits).words


def lines_about(journal: Journal, stream_id: str | None, question: str, most: int = MOST) -> list[Entry]:
    """The lines that a question is about, best first, no two of the same words; those that it quotes ("8 to 2"), if
    there are any, alone."""
    for words in (_quotes(question), question):
        found = journal.search(words, stream_id, types=("caption",), limit=most * 4)
        if found:
            return _one_of_each(found)[:most]
    return []


def put_before(question: str, lines: Sequence[tuple[float, str]], fits: Callable[[str], bool]) -> tuple[str, int]:
    """A question with lines in front of it, in order of time, and how many of them fit.

    Args:
        lines: media second and words of each, best first.
    """
    for taken in range(len(lines), 0, -1):
        told = [f"{clock(time)} {plain(text)}" for time, text in sorted(lines[:taken])]
        words = "\n".join([HEAD, *told, question])
        if fits(words):
            return words, taken
    return question, 0


def _quotes(question: str) -> str:
    """What lines might be quoted, as the journal takes phrases: '"made it 8" "it 8 to" "8 to 2"'; "" for nothing."""
    words = re.findall(r"\w+", question)
    runs = (words[n : n + QUOTED] for n in range(len(words) - QUOTED + 1))
    return " ".join(f'"{" ".join(run)}"' for run in runs if any(word.isdigit() for word in run))


def _one_of_each(entries: list[Entry]) -> list[Entry]:
    """The first line of each text: a commentary says the same words again and again."""
    seen: dict[str, Entry] = {}
    for entry in entries:
        seen.setdefault(plain(entry.event.text).lower(), entry)
    return list(seen.values())
