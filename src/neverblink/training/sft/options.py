"""Everything that `neverblink train` can be told: every default once. No torch here; the help text reads this."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from neverblink.errors import ConfigError

STAGES = ("bulk", "anneal")
TOWERS = ("frozen", "merger", "trained")
PRECISIONS = ("float32", "bf16", "bf16-weights")


@dataclass(frozen=True)
class TrainOptions:
    """Paper: StreamingVLM, sections 3.2 and 4.1, unless a comment says otherwise."""

    # what is learned
    stage: str = "bulk"  # "anneal" keeps windows with talk in most seconds
    dense: float = 0.8  # share of seconds with talk that `anneal` asks for
    seconds: int = 24  # of a window
    overlap: int = 12  # seconds that two windows share
    fps: float | None = None  # None: the model's own
    query: str | None = None  # None: the model's own
    sink_tokens: int | None = None  # of the previous text, as the stream will keep it; None: the model's own, or 512
    text_window: int | None = None
    # of what model
    scratch: bool = False  # random weights for the model's config
    tower: str | None = None  # None: frozen, and trained from scratch
    lora: int = 0  # rank; 0 trains the weights themselves
    # how
    epochs: float = 1.0
    steps: int | None = None  # None: as many as the epochs take
    lr: float = 1e-5
    warm_up: float = 0.03  # share of the steps
    weight_decay: float = 0.0
    batch: int = 1  # windows a process and step
    accumulate: int = 1  # the paper has 64 on 8 GPUs
    pack: bool = True  # windows of a batch in one row instead of padded ones; not in the paper
    precision: str | None = None  # None: bf16 on a GPU, else float32
    checkpointing: bool = True
    fsdp: bool = False
    attn: str = "sdpa"
    device: str | None = None  # "cpu" keeps off a GPU
    seed: int = 0
    workers: int = 2  # processes that decode, for each that trains
    # what is kept
    resume: bool = False
    save_every: int = 500  # steps
    keep: int = 3  # newest checkpoints
    log_every: int = 10  # steps
    max_faulty: float = 0.01  # share of windows that may turn out broken before training stops
    quiet: bool = False

    def check(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            ConfigError: says which option, both values and the way out.
        """
        for name, known in (("stage", STAGES), ("tower", TOWERS), ("precision", PRECISIONS)):
            value = getattr(self, name)
            if value is not None and value not in known:
                raise ConfigError(f"no {name} {value!r}; known: {', '.join(known)}")
        for name in (
            "seconds",
            "epochs",
            "steps",
            "lr",
            "batch",
            "accumulate",
            "save_every",
            "keep",
            "log_every",
            "fps",
        ):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{flag(name)} is {value}; it must be above 0")
        for name in ("sink_tokens", "text_window", "lora", "workers", "weight_decay", "seed"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ConfigError(f"{flag(name)} is {value}; it must be 0 or more")
        for name in ("dense", "warm_up", "max_faulty"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{flag(name)} is {getattr(self, name)}; it is a share, from 0 to 1")
        if not 0 <= self.overlap < self.seconds:
            raise ConfigError(f"--overlap {self.overlap} s must be shorter than the window, --seconds {self.seconds}")
        if self.lora and self.scratch:
            raise ConfigError(
                "--lora trains a few weights beside good ones; with --scratch there are none, leave one out"
            )
        if self.lora and self.tower == "trained":
            raise ConfigError("--lora leaves the vision tower as it is; use --tower frozen or merger, or no --lora")

        if self.lora and self.fsdp:
            raise ConfigError(
                "--lora and --fsdp do not go together yet; leave --fsdp out (processes without it are DDP)"
            )

    @property
    def trained_tower(self) -> str:
        """What of the vision tower is trained."""
        return self.tower or ("trained" if self.scratch else "frozen")


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def check_out(out: Path, resume: bool) -> Path | None:
    """The checkpoint to go on from, if asked for.

    Raises:
        ConfigError: there is one and it was not asked for, or the other way round.
    """
    found = (
        [p for p in out.glob("checkpoint-*") if p.name.removeprefix("checkpoint-").isdigit()] if out.is_dir() else []
    )
    last = max(found, key=lambda p: int(p.name.removeprefix("checkpoint-")), default=None)
    if resume and last is None:
        raise ConfigError(f"--resume: {out} holds no checkpoint; leave --resume out to begin")
    if last is not None and not resume:
        raise ConfigError(f"{out} holds {last.name} of an earlier run; add --resume to go on, or name another --out")
    return last
