"""Random streams for property tests: what comes, what is said, and how it is remembered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from neverblink import Chunk, Frame


@dataclass(frozen=True)
class Second:
    """One step of a random stream."""

    size: tuple[int, int]  # height, width of its frames, pixels
    frames: int
    said: tuple[int, ...]  # tokens that the model is made to say; cut by the limit of the stream
    question: str | None
    remember: bool


@dataclass(frozen=True)
class Plot:
    """A random stream."""

    seconds: tuple[Second, ...]
    policy: str
    policy_options: dict[str, Any]
    positions: str
    rebase_at: float
    query_in: str
    previous_text: str
    temperature: float
    seed: int


SIZES = ((56, 56), (56, 84), (84, 56), (84, 84))
END = -1  # stands for <|im_end|>, whose id depends on the tokenizer


def _policy() -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    vision = st.sampled_from([1.0, 2.0, 3.0, 4.5])
    tokens = st.integers(0, 12)
    streaming = st.fixed_dictionaries({"sink_tokens": tokens, "text_window": tokens, "vision_seconds": vision})
    reference = st.fixed_dictionaries(
        {
            "window_size": st.integers(1, 4),
            "text_round": st.integers(1, 4),
            "text_sink": st.integers(0, 6),
            "text_sliding_window": st.integers(1, 8),
            "recompute": st.booleans(),
            "kv_budget": st.just(900),
        }
    )
    return st.one_of(
        st.tuples(st.just("streaming"), streaming),
        st.tuples(st.just("streaming"), streaming),
        st.tuples(st.just("streaming-vlm"), reference),
        st.tuples(st.just("recompute"), streaming),
        st.tuples(st.just("reread"), streaming),
        st.tuples(st.just("sliding"), st.fixed_dictionaries({"vision_seconds": vision})),
        st.tuples(st.just("last-frames"), st.fixed_dictionaries({"frames": st.integers(1, 6)})),
        st.tuples(st.just("full"), st.just({"kv_budget": 1200})),
    )


def _second() -> st.SearchStrategy[Second]:
    words = st.lists(st.integers(20, 250), max_size=6)
    said = words.flatmap(lambda w: st.sampled_from([(*w, END), (*w, *([30] * (8 - len(w)))), (END,)]))
    return st.builds(
        Second,
        size=st.sampled_from(SIZES),
        frames=st.integers(1, 4),
        said=said,
        question=st.one_of(st.none(), st.none(), st.just("What now?")),
        remember=st.booleans(),
    )


def plots(max_seconds: int = 8) -> st.SearchStrategy[Plot]:
    return st.builds(
        lambda policy, positions, **rest: Plot(
            policy=policy[0],
            policy_options=policy[1],
            positions="contiguous" if policy[0] == "reread" else positions,
            **rest,
        ),
        policy=_policy(),
        seconds=st.lists(_second(), min_size=2, max_size=max_seconds).map(tuple),
        positions=st.sampled_from(["contiguous", "contiguous", "native"]),
        rebase_at=st.sampled_from([0.0, 60.0, 120.0, 4096.0]),
        query_in=st.sampled_from(["system", "first-turn"]),
        temperature=st.sampled_from([0.0, 0.8]),
        previous_text=st.sampled_from(["", "It began well and went on."]),
        seed=st.integers(0, 2**31),
    )


def chunk_of(plot: Plot, index: int) -> Chunk:
    """The frames of one step, from the plot's seed."""
    second = plot.seconds[index]
    rng = np.random.default_rng((plot.seed, index))
    pictures = [rng.integers(0, 256, (*second.size, 3), dtype=np.uint8) for _ in range(second.frames)]
    frames = tuple(Frame(index + i / second.frames, p) for i, p in enumerate(pictures))
    return Chunk(float(index), index + 1.0, frames)
