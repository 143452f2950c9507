"""What `neverblink watch` can be told: every option and its default, written once.

The command line, the environment (NEVERBLINK_FPS=2 ...) and the help text all read this class.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from neverblink.errors import ConfigError

POSITIONS = ("contiguous", "native")
KV_DTYPES = ("", "int8", "fp8")  # as options.py has them, which imports torch
OVERLOADS = ("drop-oldest", "skip", "slow")


@dataclass(frozen=True)
class WatchOptions:
    model: str = "bundled"
    fps: float | None = None  # frames per media second; None: the model's own
    policy: str | None = None  # None: the model's own
    positions: str = "contiguous"
    seconds: float | None = None  # media seconds to watch; None: until the source ends
    realtime: bool | None = None  # None: yes for arcade games, no for files (live sources always are)
    vtt: str | None = None
    srt: str | None = None
    jsonl: str | None = None
    journal: str | None = None
    seed: int | None = None  # None: greedy or the model's own sampling, unseeded
    start: float = 0.0  # media seconds
    end: float | None = None  # media seconds
    max_tokens_per_second: int | None = None  # None: the model's own
    temperature: float | None = None  # None: the model's own
    quiet_from: float | None = None  # probability of silence; None: the model's own
    query: str | None = None  # what to look for; None: the model's own prompt
    ask: tuple[str, ...] = ()  # "SECONDS:QUESTION"
    recall: bool = False  # put what was said about it in front of each question
    device: str | None = None
    dtype: str | None = None
    attn: str | None = None
    revision: str | None = None
    lora: str | None = None  # folder of a PEFT adapter
    threads: int | None = None  # None: 1 for a small model on a CPU, else torch's own choice
    sink_tokens: int | None = None  # None for these three: the policy's own
    text_window: int | None = None  # tokens
    vision_window: float | None = None  # media seconds
    max_streams: str = "auto"  # slots of memory, for several sources
    overload: str | None = None  # None: live sources drop their oldest, files wait; for several sources
    pipeline: bool | None = None  # None: on a GPU yes, on a CPU no
    gate: str = ""  # these three: "NAME" or "NAME:OPTION=VALUE,..."; "" is none
    encoder_cache: str = ""
    compress: str = ""  # several joined by "+"
    loop_tokens: int | None = None  # 0: never; None: the stream's own default
    kv_dtype: str = ""  # of the keys and values of vision; "": the model's own
    kv_budget: int | None = None  # rows; for the policies that have no windows to compute it from

    def questions(self) -> dict[float, str]:
        """Media second -> question."""
        asked: dict[float, str] = {}
        for text in self.ask:
            second, colon, question = text.partition(":")
            try:
                at = float(second)
            except ValueError:
                at = math.nan
            if not colon or not question.strip() or not 0 <= at < math.inf:
                raise ConfigError(f"--ask {text!r} is not SECONDS:QUESTION, such as '12.5:What is the score?'")
            if at in asked:
                raise ConfigError(f"--ask has two questions for second {at:g}; ask one a moment later")
            asked[at] = question.strip()
        return asked

    def slots(self) -> int | Literal["auto"]:
        return "auto" if self.max_streams == "auto" else int(self.max_streams)

    def policy_options(self) -> dict[str, float]:
        given = {
            "sink_tokens": self.sink_tokens,
            "text_window": self.text_window,
            "vision_seconds": self.vision_window,
            "kv_budget": self.kv_budget,
        }
        return {name: value for name, value in given.items() if value is not None}

    def check(self) -> None:
        """Refuse what cannot be meant; raises ConfigError in one line."""
        for name in ("fps", "seconds", "max_tokens_per_second", "threads", "vision_window", "kv_budget"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{flag(name)} is {value}; it must be above 0")
        for name in ("start", "end", "temperature", "seed", "sink_tokens", "text_window", "loop_tokens"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ConfigError(f"{flag(name)} is {value}; it must be 0 or more")
        if self.quiet_from is not None and not 0 <= self.quiet_from <= 1:
            raise ConfigError(f"--quiet-from is {self.quiet_from}; it must be a probability, 0 to 1")
        if self.end is not None and self.end <= self.start:
            raise ConfigError(f"--start {self.start:g} is not before --end {self.end:g}; nothing is left to watch")
        if self.positions not in POSITIONS:
            raise ConfigError(f"no positions {self.positions!r}; known: {', '.join(POSITIONS)}")
        if self.kv_dtype not in KV_DTYPES:
            raise ConfigError(f"no --kv-dtype {self.kv_dtype!r}; known: {', '.join(filter(None, KV_DTYPES))}")
        if self.overload is not None and self.overload not in OVERLOADS:
            raise ConfigError(f"no overload {self.overload!r}; known: {', '.join(OVERLOADS)}")
        if self.max_streams != "auto" and not (self.max_streams.isascii() and self.max_streams.isdigit()):
            raise ConfigError(f"--max-streams is {self.max_streams!r}; give a number of 1 or more, or auto")
        files = [name for name in (self.vtt, self.srt, self.jsonl, self.journal) if name is not None]
        twice = [name for name in files if files.count(name) > 1]
        if twice:
            raise ConfigError(f"--vtt, --srt, --jsonl and --journal name the same file ({twice[0]}); give each its own")
        self.questions()


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")
