"""How a stream remembers and speaks: every default once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from neverblink.decoding.speak import SpeakOptions
from neverblink.errors import BudgetError, ConfigError
from neverblink.kv.arena import Need
from neverblink.kv.loops import guarded
from neverblink.kv.policies import Coming, Parted, Shape, make_policy, policies
from neverblink.kv.relocate import Positions
from neverblink.models.base import Adapter, Look
from neverblink.script import Script
from neverblink.types import Chunk, Kind, Piece

KV_DTYPES = ("", "int8", "fp8")


@dataclass(frozen=True)
class StreamOptions:
    """Options of one stream.

    Args:
        fps: frames a second that chunks hold.
        policy: name of a KV policy; policy_options: its windows.
        positions: "contiguous" (the paper's) or "native" (grow for ever).
        speak: how a second is spoken.
        question_tokens: longest question; its room is kept free.
        rebase_at: positions are turned back to zero when they pass this (float32 angles lose a digit beyond).
        penalise_vision: let a repetition penalty see the vision pads too, as the public reference does.
        gate, encoder_cache, compress: what is not looked at, encoded or told: "NAME" or "NAME:OPTION=VALUE,...", see
            economy.py; several compressors are joined by "+". "" takes none.
        loop_tokens: when so many tokens of commentary are one cycle, said four times or more, the stream forgets what
            it has said and seen, and goes on from its opening; 0: never. It needs a text window of that size.
        kv_dtype: how keys and values of vision are held: "" as the model computes them, or in bytes with a scale a row
            and head, "int8" or "fp8" (float8_e4m3fn). Everything else stays exact. See kv/compact.py.
    """

    fps: float = 2.0
    chunk_seconds: float = 1.0
    policy: str = "streaming"
    policy_options: dict[str, Any] = field(default_factory=dict)
    positions: Positions = "contiguous"
    speak: SpeakOptions = SpeakOptions()
    question_tokens: int = 192
    rebase_at: float = 4096.0
    penalise_vision: bool = False
    gate: str = ""
    encoder_cache: str = ""
    compress: str = ""
    loop_tokens: int = 160
    kv_dtype: str = ""

    def __post_init__(self) -> None:
        if self.positions not in ("contiguous", "native"):
            raise ConfigError(f"no positions {self.positions!r}; known: contiguous, native")
        if not self.fps > 0 or not self.chunk_seconds > 0:
            raise ConfigError(f"fps {self.fps} and chunk_seconds {self.chunk_seconds} must be above 0")
        if self.loop_tokens < 0 or 0 < self.loop_tokens < 16:
            raise ConfigError(f"loop_tokens {self.loop_tokens} must be 16 or more, or 0 for never")
        if self.kv_dtype not in KV_DTYPES:
            known = ", ".join(kind for kind in KV_DTYPES if kind)
            raise ConfigError(f"no kv_dtype {self.kv_dtype!r}; known: {known}, or nothing for the model's own")

    @property
    def frames(self) -> int:
        """Frames of one chunk."""
        return max(1, round(self.fps * self.chunk_seconds))

    @property
    def reserve(self) -> int:
        """Rows kept free for a question, its marks (16) and its answer."""
        return self.question_tokens + 16 + self.speak.answer_tokens

    def look(self, chunk: Chunk) -> Look:
        """What the vision tower is asked about a chunk; it depends on nothing that the stream holds.

        Raises:
            ConfigError: the chunk is empty.
        """
        if not chunk.frames:
            raise ConfigError(f"chunk {chunk.start}-{chunk.end} s holds no frame; skip it")
        return Look([frame.pixels for frame in chunk.frames], self.fps)

    def most_tokens(self, seconds: float) -> int:
        """The most tokens that a chunk of this length may say."""
        return max(1, round(self.speak.max_tokens_per_second * seconds))

    def coming(self, turn: int, chunk: Chunk, pieces: list[Piece], room: int, silence_ids: tuple[int, ...]) -> Coming:
        """A chunk as a policy sees it, with the room that its answer and a question may take."""
        tokens = sum(len(p.ids) for p in pieces) + 1  # 1: the newline that closes the turn before
        reserve = self.most_tokens(chunk.seconds) + 1 + self.reserve
        vision = sum(len(p.ids) for p in pieces if p.kind == Kind.PIXELS)
        return Coming(turn, chunk.start, chunk.end, self.frames, tokens, reserve, room, silence_ids, vision)

    def shape(self, adapter: Adapter, script: Script) -> Shape:
        """Upper bounds of a stream's turns, from which a policy computes its budget."""
        opening = script.opening()
        turn = script.turn(1e7, 1e7, adapter.max_parts(self.frames), first=True)
        return Shape(
            opening=sum(len(p.ids) for p in opening if p.kind != Kind.PREVIOUS),
            previous=sum(len(p.ids) for p in opening if p.kind == Kind.PREVIOUS),
            turn=sum(len(p.ids) for p in turn) + self.most_tokens(self.chunk_seconds) + 2,  # <|im_end|> and newline
            chunk_seconds=self.chunk_seconds,
            frames=self.frames,
            reserve=self.reserve,
            vision=sum(len(p.ids) for p in turn if p.kind == Kind.PIXELS),
        )

    def needs(self, adapter: Adapter, script: Script) -> Need:
        """Rows of the KV cache that a stream will never pass.

        Raises:
            ConfigError: the policy, or the kv_dtype, does not hold for this family, or not for each other.
        """
        why = refusal(self.policy, self.positions, adapter)
        if why:
            raise ConfigError(f"policy {self.policy} does not hold for {why}")
        policy, shape = make_policy(self.policy, **self.policy_options), self.shape(adapter, script)
        rows = policy.rows_needed(shape)
        if not self.kv_dtype:
            return Need(rows, policy.anchors_needed(shape))
        refused = getattr(adapter, "refused_kv_dtype", "its adapter does not say that it can")
        if refused:
            raise ConfigError(f"kv_dtype {self.kv_dtype} does not hold for {adapter.family}: {refused}; leave it out")
        blind = replace(shape, turn=shape.turn - shape.vision, vision=0)
        exact = policy.rows_needed(blind)
        if exact >= rows:
            raise ConfigError(
                f"kv_dtype {self.kv_dtype} needs a policy with windows, from which follows how many rows are vision; "
                f"{self.policy} has none, use streaming, or leave it out"
            )
        return Need(exact, min(policy.anchors_needed(blind), exact), rows - exact, self.kv_dtype)

    def make_policy(self, need: Need) -> Any:
        """What decides what stays within these rows."""
        policy: Any = make_policy(self.policy, **self.policy_options)
        if need.kv_dtype:
            policy = Parted(policy, need.rows, need.vision)
        return guarded(policy, self.loop_tokens)

    def askable(self, script: Script, words: str) -> bool:
        """Whether a question of these words may be asked."""
        try:
            self.question(script, words)
        except (BudgetError, ConfigError):
            return False
        return True

    def question(self, script: Script, words: str) -> list[Piece]:
        """A question's turn.

        Raises:
            BudgetError: it is longer than `question_tokens`. ConfigError: it is empty or holds a chat mark.
        """
        pieces = script.question(words)
        size = sum(len(p.ids) for p in pieces)
        if size > self.question_tokens:
            raise BudgetError(
                f"the question has {size} tokens > {self.question_tokens}; shorten it, or raise question_tokens"
            )
        return pieces


def refusal(policy: str, positions: Positions, adapter: Adapter) -> str:
    """For what a KV policy does not hold, and why: this family, or these positions; "" where it holds."""
    if policy in adapter.refused_policies:
        return f"{adapter.family}: {adapter.refused_policies[policy]}"
    if positions == "native" and getattr(policies[policy], "reread", False):
        return "native positions: what is read once more would stand far behind the text before it; use contiguous ones"
    return ""
