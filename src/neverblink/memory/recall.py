"""Asking about what left the model's memory: the lines of the journal that a question is about, as previous text.

Text and not old keys: feeding evicted keys again breaks a commentary that is interleaved with its video; words do not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from neverblink.memory.journal import Entry, Journal
from neverblink.outputs.base import clock, plain

HEAD = "previous text"


class Recalled(NamedTuple):
    """A question with what the journal knows about it."""

    words: str  # what the model is asked
    entries: list[Entry]  # the lines in it, oldest first

    @property
    def citation(self) -> str:
        """ "[00:12:31] [00:40:02]", or "" where nothing was recalled."""
        return " ".join(f"[{clock(entry.event.t_start)}]" for entry in self.entries)


def recall(journal: Journal, stream_id: str, question: str, *, fits: Callable[[str], bool], most: int = 6) -> Recalled:
    """Put the lines that a question is about in front of it, as many as fit.

    Args:
        fits: whether the model can take a question of these words.
        most: lines at most.
    """
    found = journal.search(question, stream_id, types=("caption",), limit=most * 4)
    best = _one_of_each(found)[:most]
    while best:
        entries = sorted(best, key=lambda entry: entry.row)
        lines = [f"{clock(entry.event.t_start)} {plain(entry.event.text)}" for entry in entries]
        words = "\n".join([HEAD, *lines, question])
        if fits(words):
            return Recalled(words, entries)
        best.pop()  # the worst match
    return Recalled(question, [])


def _one_of_each(entries: list[Entry]) -> list[Entry]:
    """The first line of each text: a commentary says the same words again and again."""
    seen: dict[str, Entry] = {}
    for entry in entries:
        seen.setdefault(plain(entry.event.text).lower(), entry)
    return list(seen.values())
