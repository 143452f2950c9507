"""How a second is written for a model: system turn, previous text, user turn, silence, end of turn.

The one owner of the text format. Streaming writes its turns with it, training writes its samples with it, so the two
cannot drift apart (they did in the public code of StreamingVLM; paper section 3.2 shows the format itself).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, pairwise
from typing import Any, Literal

from neverblink.chat import CHATML, QUERY, TIME, VISION, Layout, chat_of
from neverblink.errors import ConfigError, ModelError
from neverblink.types import QWEN, Kind, Marks, Part, Piece

SYSTEM = "You are a helpful assistant."
SILENCE = " ..."


@dataclass(frozen=True, slots=True)
class ScriptOptions:
    """The words around the video."""

    system: str = SYSTEM
    query: str = "Commentate on what happens in this video."
    query_in: Literal["system", "first-turn"] = "system"  # "system" is never evicted; "first-turn" goes with its turn
    previous_text: str = ""
    silence: str = SILENCE


class Script:
    """Writes turns as tokens. Every piece is tokenised on its own and concatenated by id.

    Args:
        tokenizer: a Hugging Face tokenizer. Its chat template is the format; without one it is ChatML.
        options: the words around the video.
        marks: how the family writes pictures.

    Raises:
        ModelError: the tokenizer lacks a mark, or its chat template does not write what a stream needs.
        ConfigError: the query is empty where the format needs one, or holds a chat mark.
    """

    MARKS = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>")

    def __init__(self, tokenizer: Any, options: ScriptOptions = ScriptOptions(), marks: Marks = QWEN):
        self.tokenizer, self.options, self.marks = tokenizer, options, marks
        self.chat = chat_of(tokenizer, marks)
        known = tokenizer.get_vocab()
        for mark in (marks.pad,) if self.chat is not CHATML else (*self.MARKS[:2], *self._marks_of(marks)):
            if mark not in known:
                raise ModelError(f"the tokenizer has no {mark}; neverblink needs the chat tokenizer of this family")
        special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        # A chat mark in a user's words would end the turn early: injection, not text.
        self._chat_marks = sorted({*special, *tokenizer.all_special_tokens, marks.pad} & known.keys())
        for words in (options.system, options.query, options.previous_text):
            self._refuse_marks(words)
        self.pad_id = known[marks.pad]
        self.end_id, *close = self.encode(self.chat.answer_close) or (-1,)
        if self.end_id < 0 or len(close) > 1:
            raise ModelError(
                f"the chat template ends an answer with {self.chat.answer_close!r}, {len(close) + 1} tokens; an end "
                f"mark and at most one token behind it are needed"
            )
        self.newline_id = close[0] if close else -1  # what stands behind the end mark; -1: nothing does
        self.silence_ids = self.encode(options.silence)
        self.quiet_ids = (*self.silence_ids[:1], self.end_id)  # what a second begins with in which nothing is said
        self._encode_cached = lru_cache(maxsize=256)(self.encode)

    def _marks_of(self, marks: Marks) -> list[str]:
        return [*re.findall(r"<\|\w+\|>", marks.before + marks.after), marks.pad]

    def _refuse_marks(self, words: str) -> None:
        for mark in self._chat_marks:
            if mark in words:
                raise ConfigError(f"the text holds the chat mark {mark}; take it out: {words[:60]!r}")

    def encode(self, text: str) -> tuple[int, ...]:
        """Text to ids, without special tokens of the tokenizer's own."""
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else ()

    def decode(self, ids: list[int] | tuple[int, ...]) -> str:
        """Ids to text; chat marks are left out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def opening(self, previous_ids: tuple[int, ...] | None = None) -> list[Piece]:
        """The system turn and the previous-text block, which stay for ever.

        Args:
            previous_ids: content of the previous-text block; the option's own text when None.
        """
        o = self.options
        system = f"{o.system}\n{o.query}" if o.query_in == "system" and o.query else o.system
        chat, encode = self.chat, self._encode_cached
        # A space in front of words belongs to the first of them, as tokenizers cut a whole text; and what is said
        # begins with one of its own where a turn's header has none.
        open_ = chat.previous_open.removesuffix(" ")
        if previous_ids is None:
            given = o.previous_text and chat.previous_open[len(open_) :] + o.previous_text
            previous_ids = self.encode(given)
        return [
            Piece(Kind.SYSTEM, encode(f"{chat.system_open}{system}{chat.system_close}")),
            Piece(Kind.PREVIOUS_OPEN, encode(open_)),
            Piece(Kind.PREVIOUS, tuple(previous_ids)),
            Piece(Kind.PREVIOUS_CLOSE, encode(chat.previous_close)),
        ]

    def turn(self, start: float, end: float, vision: int | Sequence[Part], *, first: bool) -> list[Piece]:
        """The user turn of one chunk and the header of the answer.

        Args:
            start, end: media seconds of the chunk.
            vision: its parts, or the tokens of its only one; their ids are the pad mark.
            first: the first turn of a stream, which carries the query when `query_in` is "first-turn".
        """
        query = self.options.query if first and self.options.query_in == "first-turn" else ""
        parts = (Part(vision),) if isinstance(vision, int) else vision
        time = self.marks.time.format(start=start, end=end)
        return self._write(self.chat.turn if query else self.chat.quiet, query, time, start, parts)

    def question(self, words: str) -> list[Piece]:
        """A user turn of words only, asked in mid-stream, and the header of the answer."""
        self._refuse_marks(words)
        if not words.strip():
            raise ConfigError("the question is empty; ask something, or leave it out")
        return self._write(self.chat.question, words)

    def _write(
        self, layout: Layout, query: str, time: str = "", start: float = 0.0, parts: Sequence[Part] = ()
    ) -> list[Piece]:
        kinds = {TIME: Kind.TIME, VISION: Kind.VISION, QUERY: Kind.QUERY}
        words: list[tuple[Kind, str | int]] = [(Kind.USER, layout[0])]  # text, or a number of pads
        for item in layout[1:]:
            if item == VISION:
                words += self._pictures(start, parts)
            elif item in kinds:
                words.append((kinds[item], time if item == TIME else query))
            else:
                words.append((Kind.VISION if words[-1][0] == Kind.PIXELS else words[-1][0], item))
        words += [(Kind.USER_CLOSE, self.chat.user_close), (Kind.HEAD, self.chat.head)]
        for i, ((kind, text), (_, behind)) in enumerate(pairwise(words)):
            if isinstance(text, str) and text.endswith(" ") and isinstance(behind, str) and behind:
                words[i], words[i + 1] = (kind, text[:-1]), (words[i + 1][0], " " + behind)
        pieces = []
        # Words of one kind are one piece, so that a tokenizer sees the seams that it would see in the whole text.
        for kind, run in groupby(words, lambda word: word[0]):
            if kind == Kind.PIXELS:
                pieces.append(Piece(kind, (self.pad_id,) * sum(int(count) for _, count in run)))
            else:
                pieces.append(Piece(kind, self._encode_cached("".join(str(text) for _, text in run))))
        return pieces

    def _pictures(self, start: float, parts: Sequence[Part]) -> Iterator[tuple[Kind, str | int]]:
        for number, part in enumerate(parts, 1):
            before = self.marks.before.format(seconds=start + part.time, number=number)
            yield Kind.VISION, (self.marks.between if number > 1 else "") + before
            yield Kind.PIXELS, part.tokens
            yield Kind.VISION, self.marks.after

    def said(self, text: str) -> tuple[int, ...]:
        """What the model is to say in one second, as training teaches it: text, silence mark, end of turn."""
        return (*self.encode(text), *self.silence_ids, self.end_id)

    def close(self) -> Piece:
        """What closes an assistant turn behind its end mark, written in front of the next turn; may be empty."""
        return Piece(Kind.CLOSE, (self.newline_id,) if self.newline_id >= 0 else ())

    def without_silence(self, ids: tuple[int, ...] | list[int]) -> tuple[int, ...]:
        """Said ids without the silence mark at their end."""
        ids, mark = tuple(ids), self.silence_ids
        return ids[: len(ids) - len(mark)] if mark and ids[-len(mark) :] == mark else ids

    def text_of(self, said: list[int] | tuple[int, ...]) -> str:
        """What a viewer reads: the said tokens without silence mark, stop marks and outer white space."""
        text = self.decode(said).strip()
        mark = self.options.silence.strip()
        return text.removesuffix(mark).strip() if mark else text
