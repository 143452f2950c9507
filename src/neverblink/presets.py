"""Named ways to run a stream that belong together."""

from __future__ import annotations

from dataclasses import dataclass

from neverblink.decoding.speak import SpeakOptions
from neverblink.errors import ConfigError
from neverblink.options import StreamOptions
from neverblink.script import ScriptOptions


@dataclass(frozen=True, slots=True)
class Preset:
    """Everything that `Model.from_pretrained(time_grid=)` and `Model.stream(options, script)` need."""

    options: StreamOptions
    script: ScriptOptions
    time_grid: str


def streaming_vlm(
    *,
    window_size: int = 16,
    text_round: int = 16,
    text_sink: int | None = 512,
    text_sliding_window: int | None = 512,
    pos_mode: str = "shrink",
    recompute: bool = False,
    all_text: bool = False,
    chunk_duration: float = 1.0,
    fps: float = 2.0,
    query: str = "Commentate on this match",
    previous_text: str = "",
    max_new_tokens: int = 20,
    temperature: float = 0.0,
    repetition_penalty: float = 1.05,
    seed: int = 0,
    kv_budget: int = 8_192,
) -> Preset:
    """The public StreamingVLM reference (mit-han-lab/streaming-vlm at a940d8c) to the token, under its own names.

    Args:
        window_size, text_round: in chunks, whatever their length.
        pos_mode: "shrink" (contiguous) or "append" (native).
        all_text: 1-D positions for vision too.
        temperature: the reference samples at 0.9; 0 is greedy.

    Raises:
        ConfigError: a value that the reference does not have.
    """
    if pos_mode not in ("shrink", "append"):
        raise ConfigError(f"no pos_mode {pos_mode!r}; known: append, shrink")
    if window_size < 1 or text_round < 1:
        raise ConfigError(f"window_size {window_size} and text_round {text_round} must be at least 1")
    windows = {
        "window_size": window_size,
        "text_round": text_round,
        "text_sink": text_sink,
        "text_sliding_window": text_sliding_window,
        "recompute": recompute,
        "kv_budget": kv_budget,
    }
    speak = SpeakOptions(
        max_tokens_per_second=max_new_tokens / chunk_duration,
        temperature=temperature,
        repetition_penalty=repetition_penalty,
        seed=seed,
    )
    options = StreamOptions(
        fps=fps,
        chunk_seconds=chunk_duration,
        policy="streaming-vlm",
        policy_options=windows,
        positions="contiguous" if pos_mode == "shrink" else "native",
        speak=speak,
        penalise_vision=True,
        loop_tokens=0,
        rebase_at=0.0,  # the reference's own angles: float32 rounds 1e-4 rad away at positions of a few thousand
    )
    script = ScriptOptions(query=query, query_in="first-turn", previous_text=previous_text)
    return Preset(options, script, "flat" if all_text else "exact")
