"""The JSONL of the public training sets: one span of a video a line, its timed words, the text before, questions.

A line is a list of messages (Live-WhisperX-526K and Inf-Stream-Train have the first two):

    [{"role": "user", "content": [
        {"type": "video", "video": "game.mp4", "video_start": 0.0, "video_end": 60.0},
        {"type": "text", "text": "", "previous": "what was said before the span"}]},
     {"role": "assistant", "content": [{"type": "text_stream", "text_stream": [[3.0, 4.0, "Left serves."]]}]},
     {"role": "user", "content": [{"type": "text", "text": "What is the score?", "time": 31.5}]},
     {"role": "assistant", "content": [{"type": "text", "text": "2 to 1."}]}]

Times are media seconds of the video. A line that is not exactly this is a fault with a name: file, line, reason.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neverblink.errors import ConfigError
from neverblink.script import SILENCE, Script

MARKS = (*Script.MARKS, "<|endoftext|>", "<|image_pad|>")
EDGE = 1e-6  # seconds; a span that was cut at 59.9999999 s was cut at 60


@dataclass(frozen=True, slots=True)
class Word:
    """One word, or a whole line, and when it was said."""

    start: float  # media seconds
    end: float
    text: str


@dataclass(frozen=True, slots=True)
class Asked:
    """A question put to the stream, and the right answer."""

    time: float  # media seconds; it is asked with the first second that ends at or after this
    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Record:
    """One span of a video."""

    video: str  # path; a relative one counts from the folder of the JSONL file
    start: float  # media seconds
    end: float
    words: tuple[Word, ...]  # in the order in which they start
    previous: str = ""  # all that was said before the span
    query: str = ""  # what the commentary is to be about; "": the script's own
    asked: tuple[Asked, ...] = ()


@dataclass(frozen=True, slots=True)
class Said:
    """One whole second of a record as a stream would live through it."""

    start: int  # media seconds
    text: str  # "" is silence, else it starts with a space
    asked: tuple[tuple[str, str], ...]  # (question, answer), asked when the commentary of the second is over
    talk: bool  # somebody speaks in it, though the word may have begun before


@dataclass(frozen=True, slots=True)
class Fault:
    """A line that is no record."""

    file: Path
    line: int  # from 1
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


@dataclass(slots=True)
class Index:
    """Where the good lines of a data set are. Only places are held: half a million records do not fit in memory."""

    places: list[tuple[Path, int, int]] = field(default_factory=list)  # file, byte offset, line from 1
    faults: list[Fault] = field(default_factory=list)
    unused: Counter[str] = field(default_factory=Counter)  # keys that are not part of the format

    def __len__(self) -> int:
        return len(self.places)

    def name(self, number: int) -> str:
        """file:line of a record."""
        file, _, line = self.places[number]
        return f"{file}:{line}"

    def video(self, number: int, record: Record) -> Path:
        """Path of a record's video."""
        return self.places[number][0].parent / record.video

    def __getitem__(self, number: int) -> Record:
        file, offset, _ = self.places[number]
        with file.open("rb") as lines:
            lines.seek(offset)
            return parse(lines.readline())


def scan(data: Path, each: Callable[[int, Record], None] = lambda number, record: None) -> Index:
    """Check every line of a JSONL file, or of all of a folder.

    Args:
        each: called with the number of each good record and the record.

    Raises:
        ConfigError: there is no such file or folder, or no .jsonl in it.
    """
    index = Index()
    for file in files_of(data):
        offset = 0
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                here, offset = offset, offset + len(line)
                if not line.strip() or _is_seek_table(line):
                    continue
                try:
                    record = parse(line, index.unused)
                except ValueError as error:
                    index.faults.append(Fault(file, number, str(error)))
                    continue
                index.places.append((file, here, number))
                each(len(index) - 1, record)
    return index


def files_of(data: Path) -> list[Path]:
    """The JSONL files that a path means, in order."""
    if data.is_file():
        return [data]
    if not data.is_dir():
        raise ConfigError(f"no data at {data}; name a folder with .jsonl files, or one such file")
    files = sorted(data.glob("*.jsonl"))
    if not files:
        raise ConfigError(f"{data} holds no .jsonl file; make some with: neverblink data arcade --out {data}")
    return files


def _is_seek_table(line: bytes) -> bool:
    """The last line of the public files lists the byte offsets of all others."""
    return line[:1] == b"[" and line[1:2].isdigit()


def write(record: Record) -> str:
    """One line of JSONL, its newline included; `parse` gives the record back."""
    messages: list[dict[str, Any]] = [
        {
            "role": "user",
            "content": [
                {"type": "video", "video": record.video, "video_start": record.start, "video_end": record.end},
                {"type": "text", "text": record.query, "previous": record.previous},
            ],
        },
        {
            "role": "assistant",
            "content": [{"type": "text_stream", "text_stream": [[w.start, w.end, w.text] for w in record.words]}],
        },
    ]
    for asked in record.asked:
        question = {"type": "text", "text": asked.question, "time": asked.time}
        messages.append({"role": "user", "content": [question]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": asked.answer}]})
    line = json.dumps(messages, ensure_ascii=False) + "\n"
    parse(line.encode())
    return line


def parse(line: bytes, unused: Counter[str] | None = None) -> Record:
    """A line to a record.

    Args:
        unused: counts keys that are not part of the format; they are told, since a misspelt one loses what it holds.

    Raises:
        ValueError: it is not one; the message says why.
    """
    unused = Counter() if unused is None else unused
    try:
        messages = json.loads(line)
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from error
    if not isinstance(messages, list) or len(messages) < 2 or len(messages) % 2:
        raise ValueError("not a list of messages, a user's and an assistant's by turns")
    contents = [
        _content(message, ("user", "assistant")[i % 2], f"message {i + 1}", unused)
        for i, message in enumerate(messages)
    ]
    (video, *texts), (said,) = contents[0], _exactly(1, contents[1], "message 2")
    text = _exactly(1, texts, "message 1 behind its video")[0] if texts else {}
    _types(video, {"type": "video", "video": str, "video_start": float, "video_end": float}, "the video", unused)
    _types(text, {"type?": "text", "text?": str, "previous?": str}, "the user's text", unused)
    _types(said, {"type": "text_stream", "text_stream": list}, "the assistant's text", unused)
    asked = []
    for i in range(2, len(contents), 2):
        (question,), (answer,) = (_exactly(1, contents[i + k], f"message {i + k + 1}") for k in (0, 1))
        _types(question, {"type": "text", "text": str, "time": float}, f"question {i // 2}", unused)
        _types(answer, {"type": "text", "text": str}, f"answer {i // 2}", unused)
        asked.append(Asked(float(question["time"]), question["text"], answer["text"]))
    words = []
    for n, entry in enumerate(said["text_stream"], start=1):
        if not (isinstance(entry, list) and len(entry) == 3 and isinstance(entry[2], str)) or not (
            _is_number(entry[0]) and _is_number(entry[1])
        ):
            raise ValueError(f"word {n} is {json.dumps(entry)[:60]}, not [start, end, text]")
        words.append(Word(float(entry[0]), float(entry[1]), entry[2]))
    record = Record(
        video["video"],
        float(video["video_start"]),
        float(video["video_end"]),
        tuple(words),
        text.get("previous", ""),
        text.get("text", ""),
        tuple(asked),
    )
    _check(record)
    return record


def _content(message: Any, role: str, where: str, unused: Counter[str]) -> list[dict[str, Any]]:
    if not isinstance(message, dict) or message.get("role") != role:
        raise ValueError(f"{where} is not one of the {role}")
    unused.update(key for key in message if key not in ("role", "content"))
    content = message.get("content")
    if not isinstance(content, list) or not content or not all(isinstance(part, dict) for part in content):
        raise ValueError(f"{where} has no list of contents")
    return content


def _exactly(count: int, parts: Sequence[dict[str, Any]], where: str) -> Sequence[dict[str, Any]]:
    if len(parts) != count:
        raise ValueError(f"{where} has {len(parts)} contents instead of {count}")
    return parts


def _types(part: dict[str, Any], wanted: dict[str, Any], where: str, unused: Counter[str]) -> None:
    """Each key is there and of its type (or of this very value, when the type is a word); "key?" may be missing."""
    names = {key.rstrip("?") for key in wanted}
    unused.update(key for key in part if key not in names)
    for key, kind in wanted.items():
        name = key.rstrip("?")
        if name not in part:
            if not key.endswith("?"):
                raise ValueError(f"{where} has no {name!r}")
            continue
        value = part[name]
        right = value == kind if isinstance(kind, str) else isinstance(value, kind)
        if not (_is_number(value) if kind is float else right):
            shown = kind if isinstance(kind, str) else {float: "a number", str: "text", list: "a list"}[kind]
            raise ValueError(f"{name!r} of {where} is {json.dumps(value)[:60]}, not {shown}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check(record: Record) -> None:
    """What types cannot say."""
    if not record.video.strip():
        raise ValueError("the video has no name")
    if not 0 <= record.start < record.end:
        raise ValueError(f"the span {record.start:g}-{record.end:g} s is empty or begins before 0")
    if not seconds_of(record.start, record.end):
        raise ValueError(f"the span {record.start:g}-{record.end:g} s holds no whole second")
    before = record.start
    for n, word in enumerate(record.words, start=1):
        shown = f"word {n} ({word.text[:20]!r} at {word.start:g}-{word.end:g} s)"
        if not word.text.strip():
            raise ValueError(f"{shown} is blank")
        if word.end < word.start:
            raise ValueError(f"{shown} ends before it starts")
        if not record.start - EDGE <= word.start <= record.end + EDGE:
            raise ValueError(f"{shown} starts outside the span {record.start:g}-{record.end:g} s")
        if word.start < before:
            raise ValueError(f"{shown} starts before the word in front of it")
        before = word.start
    for n, asked in enumerate(record.asked, start=1):
        if not record.start < asked.time <= record.end:
            raise ValueError(f"question {n} at {asked.time:g} s is outside the span {record.start:g}-{record.end:g} s")
        if not asked.question.strip() or not asked.answer.strip():
            raise ValueError(f"question {n} or its answer is blank")
        if asked.answer.endswith(SILENCE):
            raise ValueError(f"answer {n} ends with {SILENCE!r}, the mark of silence")
    texts = [record.previous, record.query, *(w.text for w in record.words)]
    texts += [text for a in record.asked for text in (a.question, a.answer)]
    for text in texts:
        for mark in MARKS:
            if mark in text:  # it would end a turn early
                raise ValueError(f"{text[:40]!r} holds the chat mark {mark}")


def seconds_of(start: float, end: float) -> range:
    """The whole seconds of a span: of one that is cut nobody knows what was said in the rest of it."""
    return range(math.ceil(start - EDGE), math.floor(end + EDGE))


def live(record: Record) -> tuple[str, list[Said]]:
    """A record second by second: what was said before the first whole one, and the seconds.

    A word belongs to the second in which it starts. A question is asked with the first second that ends at or after
    its time, as `Model.watch` asks; one before the first whole second is left out with it.
    """
    seconds = seconds_of(record.start, record.end)
    lines: dict[int, str] = {}
    talk: set[int] = set()
    before = _spoken(record.previous)
    for word in record.words:
        second = math.floor(word.start + EDGE)
        if second < seconds.start:
            before += _spoken(word.text)
        lines[second] = lines.get(second, "") + _spoken(word.text)
        talk |= set(range(second, max(second + 1, math.ceil(word.end - EDGE))))
    asked: dict[int, list[tuple[str, str]]] = {}
    for a in record.asked:
        asked.setdefault(math.ceil(a.time - EDGE) - 1, []).append((a.question, a.answer))
    return before, [Said(s, lines.get(s, ""), tuple(asked.get(s, ())), s in talk) for s in seconds]


def _spoken(text: str) -> str:
    """Words as they are said behind others: one space in front of each."""
    return "".join(f" {word}" for word in text.split())
