"""How a second is written for a model: system turn, previous text, user turn, silence, end of turn.

The one owner of the text format. Streaming writes its turns with it, training writes its samples with it, so the two
cannot drift apart (they did in the public code of StreamingVLM; paper section 3.2 shows the format itself).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from neverblink.errors import ConfigError, ModelError
from neverblink.types import Kind, Piece

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
        tokenizer: a Hugging Face tokenizer with the chat marks of the Qwen-VL families.
        options: the words around the video.

    Raises:
        ModelError: the tokenizer lacks one of the chat marks.
        ConfigError: the query is empty where the format needs one, or holds a chat mark.
    """

    MARKS = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>")

    def __init__(self, tokenizer: Any, options: ScriptOptions = ScriptOptions()):
        self.tokenizer = tokenizer
        self.options = options
        known = tokenizer.get_vocab()
        for mark in self.MARKS:
            if mark not in known:
                raise ModelError(f"the tokenizer has no {mark}; neverblink needs a chat tokenizer of a Qwen-VL family")
        for words in (options.system, options.query, options.previous_text):
            self._refuse_marks(words)
        self.start_id, self.end_id, self.vision_start_id, self.vision_end_id, self.pad_id = (
            known[m] for m in self.MARKS
        )
        self.newline_id = self.encode("\n")[-1]
        self.silence_ids = self.encode(options.silence)
        self._encode_cached = lru_cache(maxsize=256)(self.encode)

    def _refuse_marks(self, words: str) -> None:
        # A chat mark in a user's words would end the turn early: injection, not text.
        for mark in (*self.MARKS, "<|endoftext|>", "<|image_pad|>"):
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
        if previous_ids is None:
            previous_ids = self.encode(o.previous_text)
        system = f"{o.system}\n{o.query}" if o.query_in == "system" and o.query else o.system
        mark, end, newline = (self.start_id,), (self.end_id,), (self.newline_id,)
        return [
            Piece(Kind.SYSTEM, mark + self._encode_cached(f"system\n{system}") + end + newline),
            Piece(Kind.PREVIOUS_OPEN, mark + self._encode_cached("previous text\n")),
            Piece(Kind.PREVIOUS, tuple(previous_ids)),
            Piece(Kind.PREVIOUS_CLOSE, end + newline),
        ]

    def turn(self, start: float, end: float, vision_tokens: int, *, first: bool) -> list[Piece]:
        """The user turn of one chunk and the header of the answer.

        Args:
            start, end: media seconds of the chunk.
            vision_tokens: number of merged patches; their ids are the pad mark.
            first: the first turn of a stream, which carries the query when `query_in` is "first-turn".
        """
        query = self.options.query if first and self.options.query_in == "first-turn" else ""
        return [
            Piece(Kind.USER, (self.start_id, *self._encode_cached("user\n"))),
            Piece(Kind.TIME, self.encode(f"Time={start:.1f}-{end:.1f}s")),
            Piece(Kind.VISION, (self.vision_start_id,)),
            Piece(Kind.PIXELS, (self.pad_id,) * vision_tokens),
            Piece(Kind.VISION, (self.vision_end_id,)),
            Piece(Kind.QUERY, self._encode_cached(query)),
            *self._answer_header(),
        ]

    def question(self, words: str) -> list[Piece]:
        """A user turn of words only, asked in mid-stream, and the header of the answer."""
        self._refuse_marks(words)
        if not words.strip():
            raise ConfigError("the question is empty; ask something, or leave it out")
        return [
            Piece(Kind.USER, (self.start_id, *self._encode_cached("user\n"))),
            Piece(Kind.QUERY, self.encode(words)),
            *self._answer_header(),
        ]

    def _answer_header(self) -> list[Piece]:
        return [
            Piece(Kind.USER_CLOSE, (self.end_id, self.newline_id)),
            Piece(Kind.HEAD, (self.start_id, *self._encode_cached("assistant\n"))),
        ]

    def said(self, text: str) -> tuple[int, ...]:
        """What the model is to say in one second, as training teaches it: text, silence mark, end of turn."""
        return (*self.encode(text), *self.silence_ids, self.end_id)

    def close(self) -> Piece:
        """The newline that closes an assistant turn, written in front of the next turn."""
        return Piece(Kind.CLOSE, (self.newline_id,))

    def without_silence(self, ids: tuple[int, ...] | list[int]) -> tuple[int, ...]:
        """Said ids without the silence mark at their end."""
        ids, mark = tuple(ids), self.silence_ids
        return ids[: len(ids) - len(mark)] if mark and ids[-len(mark) :] == mark else ids

    def text_of(self, said: list[int] | tuple[int, ...]) -> str:
        """What a viewer reads: the said tokens without silence mark, stop marks and outer white space."""
        text = self.decode(said).strip()
        mark = self.options.silence.strip()
        return text.removesuffix(mark).strip() if mark else text
