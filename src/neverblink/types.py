"""The values that travel along the one path: frozen, small, no model and no I/O.

Times are seconds of the source's own clock (media seconds) unless the name says `wall`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal, NamedTuple

import numpy as np

EventType = Literal["caption", "silence", "question", "answer", "alert", "source", "drop", "gap", "error"]
WhyStopped = Literal["end", "length", "silence", "fed"]


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture of the source."""

    time: float  # media seconds
    pixels: np.ndarray  # [H, W, 3] uint8 RGB


@dataclass(frozen=True, slots=True)
class Chunk:
    """What the source showed in [start, end): the unit that a stream takes in at one step."""

    start: float
    end: float
    frames: tuple[Frame, ...]
    dropped: int = 0  # frames lost just before or inside this chunk because the reader was late

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Caption:
    """What the model said about one chunk, with its own numbers."""

    start: float
    end: float
    text: str  # without the silence mark; "" when silent
    silent: bool
    why_stopped: WhyStopped
    tokens: int  # tokens generated, the stop token included
    kv_tokens: int  # rows in the KV cache after this step
    frames_used: int
    frames_dropped: int
    seconds: dict[str, float] = field(default_factory=dict)  # see, make_room, read, speak, answer: wall s
    question: str | None = None
    answer: str | None = None  # set when a question was asked with this chunk
    kv_budget: int = 0  # rows that the KV cache will never pass
    frames_skipped: int = 0  # of frames_used: those that a gate kept from the encoder, or from being told
    vision_tokens: int = 0  # that this chunk was told by
    unanswered: str | None = None  # why there is no answer, where the question failed
    forgot: int = 0  # tokens of commentary that were let go before this chunk, since they only repeated themselves
    kv_bytes: int = 0  # of the keys and values of these rows

    @property
    def latency(self) -> float:
        """Wall seconds of the whole step."""
        return sum(self.seconds.values())


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a stream's record; the fields of a JSONL line, in this order."""

    seq: int
    stream_id: str
    t_start: float
    t_end: float
    wall_time: float  # seconds since the epoch
    type: EventType
    text: str
    model: str
    latency_ms: float = 0.0
    tokens: int = 0
    kv_tokens: int = 0
    frames_used: int = 0
    frames_dropped: int = 0
    frames_skipped: int = 0


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """What is known about a source once it is open."""

    name: str  # safe to print: credentials are removed
    kind: Literal["file", "camera", "network", "screen", "arcade", "push"]
    live: bool  # live sources drop their oldest frames when the reader is late; files never do
    width: int
    height: int
    codec: str = ""
    duration: float | None = None  # seconds; None when unknown or endless


class Kind(IntEnum):
    """What a token is for; the policies of the KV cache decide by it."""

    SYSTEM = 0  # the system turn: always an anchor
    PREVIOUS_OPEN = 1  # header of the previous-text block
    PREVIOUS = 2  # its content: older commentary, moved here with its KV
    PREVIOUS_CLOSE = 3
    USER = 4  # header of a user turn
    TIME = 5  # "Time=..s"
    VISION = 6  # the marks around a vision block
    PIXELS = 7  # one merged patch; the row's `cell` says which of its turn's embeddings
    QUERY = 8  # words of the user
    USER_CLOSE = 9
    HEAD = 10  # header of the assistant turn
    SAID = 11  # a token that the model said, silence mark included
    CLOSE = 12  # end of an assistant turn: <|im_end|> and the newline behind it


class Piece(NamedTuple):
    """A run of tokens of one kind."""

    kind: Kind
    ids: tuple[int, ...]


class Part(NamedTuple):
    """A run of vision tokens that stands alone in the text: a whole clip, a moment of it, or one picture."""

    tokens: int
    time: float = 0.0  # seconds from the start of the chunk to its pictures


@dataclass(frozen=True, slots=True)
class Marks:
    """How a family writes pictures into its text. Names of tokens, which the tokenizer turns into ids."""

    pad: str  # the token that holds the place of each vision embedding
    before: str = ""  # in front of each part; {seconds} is its time, {number} counts from 1
    after: str = ""
    between: str = ""  # two parts
    time: str = "Time={start:.1f}-{end:.1f}s"  # the words in front of a chunk; "" where the parts say their own time
    item: Literal["video", "image"] = "video"  # what the chat template is given for the pictures of one chunk
    placeholder: str = ""  # what it writes for that, to be replaced by the parts with their marks


QWEN = Marks(
    "<|video_pad|>",
    before="<|vision_start|>",
    after="<|vision_end|>",
    placeholder="<|vision_start|><|video_pad|><|vision_end|>",
)
