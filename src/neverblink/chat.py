"""What a checkpoint's own chat template writes around words and pictures, read off the template itself.

A short conversation of stand-ins is rendered once, and what stands between them is the format. Nothing of it is written
down here, except the format of checkpoints that bring no template.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from neverblink.errors import ModelError
from neverblink.types import Marks

# Stand-ins: characters that no template and no tokenizer knows.
TIME, VISION, QUERY = "\ue001", "\ue002", "\ue003"
_SYSTEM, _PREVIOUS, _ANSWER, _LATER = "\ue004", "\ue005", "\ue006", "\ue007"
SLOTS = (TIME, VISION, QUERY)
Layout = tuple[str, ...]  # words, and stand-ins for what takes their place; the first are words


@dataclass(frozen=True, slots=True)
class Chat:
    """The words and marks of a conversation, in their order."""

    system_open: str
    system_close: str
    previous_open: str
    previous_close: str
    turn: Layout  # a user turn with a chunk and words
    quiet: Layout  # a chunk without words
    question: Layout  # words without a chunk
    user_close: str
    head: str  # of the answer
    answer_close: str  # the end mark first


_USER = "<|im_start|>user\n"
CHATML = Chat(
    "<|im_start|>system\n",
    "<|im_end|>\n",
    "<|im_start|>previous text\n",
    "<|im_end|>\n",
    (_USER, TIME, VISION, QUERY),
    (_USER, TIME, VISION),
    (_USER, QUERY),
    "<|im_end|>\n",
    "<|im_start|>assistant\n",
    "<|im_end|>\n",
)


def chat_of(tokenizer: Any, marks: Marks) -> Chat:
    """The chat format of a tokenizer: of its own template, or ChatML where it has none.

    Raises:
        ModelError: the template cannot be rendered, or does not write what a stream needs.
    """
    return _Reader(tokenizer, marks).chat() if getattr(tokenizer, "chat_template", None) else CHATML


def message(role: str, *items: str, item: str = "video") -> dict[str, Any]:
    """A message of a conversation, as templates take it; the stand-in VISION becomes an item of its own."""
    parts = [{"type": item} if words == VISION else {"type": "text", "text": words} for words in items]
    return {"role": role, "content": parts}


class _Reader:
    """Renders conversations of stand-ins.

    The previous text is a turn of a role of its own. Where a template knows no such role, it is a user turn that was
    answered with nothing: turns then still alternate, which some templates demand.
    """

    def __init__(self, tokenizer: Any, marks: Marks):
        self.tokenizer, self.marks = tokenizer, marks
        self.before = [message("system", _SYSTEM), message("previous text", _PREVIOUS)]
        try:
            known = _PREVIOUS in self._render(self._turn(QUERY))
        except ModelError:
            known = False
        if not known:
            asked = message("user", f"previous text\n{_PREVIOUS}")
            self.before = [message("system", _SYSTEM), asked, {"role": "assistant", "content": ""}]

    def chat(self) -> Chat:
        answered = [*self._turn(QUERY), message("assistant", _ANSWER)]
        head = self._behind(self._render(self._turn(QUERY)), self._render(self._turn(QUERY), ended=True))
        answer_close = self._render(answered, ended=True).partition(_ANSWER)[2]
        later = self._render([*answered, message("user", _LATER)])
        open_ = self._behind(later.partition(_ANSWER)[2].partition(_LATER)[0], answer_close)
        user_close = self._behind(later.partition(_LATER)[2], "").removesuffix(head)
        first = self._render(self._turn(QUERY))
        system_open, _, rest = first.partition(_SYSTEM)
        middle, _, rest = rest.partition(_PREVIOUS)
        previous_close = rest.partition(QUERY)[0].removesuffix(open_)
        system_close = self._system_close(middle)
        words = [TIME] if self.marks.time else []
        return Chat(
            system_open,
            system_close,
            self._behind(middle, system_close),
            previous_close,
            self._layout([*words, VISION, QUERY], previous_close, user_close + head),
            self._layout([*words, VISION], previous_close, user_close + head),
            self._layout([QUERY], previous_close, user_close + head),
            user_close,
            head,
            answer_close,
        )

    def _turn(self, *items: str) -> list[dict[str, Any]]:
        return [message("user", *items, item=self.marks.item)]

    def _render(self, turns: list[dict[str, Any]], *, ended: bool = False) -> str:
        try:
            text = self.tokenizer.apply_chat_template(
                [*self.before, *turns], tokenize=False, add_generation_prompt=not ended, enable_thinking=False
            )
        except Exception as error:  # Jinja's own, and whatever a template raises
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ModelError(f"the checkpoint's chat template cannot be used: {reason}") from error
        return str(text)

    def _layout(self, items: list[str], before: str, after: str) -> Layout:
        """What stands between the previous text and the answer, cut at the stand-ins."""
        text = self._render(self._turn(*items)).partition(_PREVIOUS)[2]
        text = self._behind(text, before)
        if not text.endswith(after):
            raise ModelError(f"the chat template ends a user turn in two ways: {text!r} and {after!r}")
        text = text.removesuffix(after)
        if self.marks.placeholder:
            text = text.replace(self.marks.placeholder, VISION)
        found = [item for item in text if item in SLOTS]
        if sorted(found) != sorted(items):
            raise ModelError(
                f"the chat template does not write {self.marks.placeholder!r} for a {self.marks.item}: {text!r}"
            )
        layout: list[str] = [""]
        for character in text:
            if character in SLOTS:
                layout += [character, ""]
            else:
                layout[-1] += character
        return (layout[0], *(words for words in layout[1:] if words))

    def _system_close(self, middle: str) -> str:
        """The end of a system turn that stands alone; "" where the template puts it into the user's turn."""
        before, self.before = self.before, self.before[:1]
        try:
            alone = self._render([], ended=True).partition(_SYSTEM)[2]
        except ModelError:
            alone = ""
        self.before = before
        return alone if middle.startswith(alone) else ""

    def _behind(self, text: str, start: str) -> str:
        if not text.startswith(start):
            raise ModelError(
                f"the chat template writes the same turn in two ways: {start!r} is not in front of {text!r}"
            )
        return text[len(start) :]
