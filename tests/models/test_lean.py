"""What makes a small model cheap on a CPU, beside its plain twin: the decoder without Python, the best token without
logits."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor

from neverblink import Chunk, Frame, Model, SpeakOptions, StreamOptions
from neverblink.models.best import MOST, BestToken
from tests.checkpoints import toy_checkpoint
from tests.engine import crowd


@cache
def loaded() -> Model:
    return Model.from_pretrained(toy_checkpoint(), device="cpu", dtype="float32")


def chunk_of(second: int) -> Chunk:
    rng = np.random.default_rng(second)
    frames = [rng.integers(0, 256, (56, 84, 3), dtype=np.uint8) for _ in range(2)]
    return Chunk(float(second), second + 1.0, tuple(Frame(second + i / 2, f) for i, f in enumerate(frames)))


class Seeing:
    """A logits processor that keeps what it sees."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.seen.append(scores[0].clone())
        return scores


def test_lean_is_the_stock_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks behind a cache that evicts and turns, vision places on three axes, tokens one by one."""
    windows = {"sink_tokens": 5, "text_window": 7, "vision_seconds": 2.0}
    speak = SpeakOptions(max_tokens_per_second=5)
    said: dict[bool, Any] = {}
    for is_lean in (True, False):
        monkeypatch.setattr(loaded().adapter, "lean", is_lean)
        seeing = Seeing()
        stream = loaded().stream(StreamOptions(policy_options=windows, speak=speak), processor=seeing)
        said[is_lean] = ([stream.step(chunk_of(second)).text for second in range(5)], torch.stack(seeing.seen))
    assert said[True][0] == said[False][0]
    torch.testing.assert_close(said[True][1], said[False][1], atol=2e-5, rtol=0)


def test_lean_packed_is_the_stock_packed_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    """A crowd with ragged chunks on the stock classes says what the lean engine says, with the same logits."""
    lives = {}
    for is_lean in (True, False):
        monkeypatch.setattr(crowd.model("float32").adapter, "lean", is_lean)
        engine = crowd.make_engine(3, "float32")
        lives[is_lean] = {index: crowd.join(engine, index) for index in range(3)}
        for second in range(3):
            crowd.play(engine, lives[is_lean], second)
        crowd.run(engine, lives[is_lean])
    for index in range(3):
        crowd.assert_same(lives[False][index], lives[True][index], "float32")


@pytest.mark.parametrize(
    ("config", "value"), [("_attn_implementation", "eager"), ("hidden_act", "gelu"), ("dtype", torch.float64)]
)
def test_anything_unusual_takes_the_stock_forward(config: str, value: Any) -> None:
    from neverblink.models.lean import can_run

    lm = Model.from_pretrained(toy_checkpoint(), device="cpu", dtype="float32").adapter.model.model.language_model
    assert can_run(lm)
    if config == "dtype":
        lm.to(value)
    else:
        setattr(lm.config, config, value)
    assert not can_run(lm)


@pytest.mark.parametrize("backend", ["", "aot_eager"])
def test_the_decode_step_on_fixed_buffers_is_the_decoder(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    """What a CUDA graph repeats: every row of the slot is there, and those behind the token are hidden. It goes through
    torch.compile as one graph; inductor's, which needs a compiler of C++, is for tests/gpu."""
    monkeypatch.setattr(loaded().adapter, "compile", backend)
    windows = {"sink_tokens": 5, "text_window": 7, "vision_seconds": 2.0}
    options = StreamOptions(policy_options=windows, speak=SpeakOptions(max_tokens_per_second=5))
    seen: dict[bool, torch.Tensor] = {}
    for graph in (False, True):
        monkeypatch.setattr(loaded().adapter, "graph", graph)
        seeing = Seeing()
        stream = loaded().stream(options, processor=seeing)
        for second in range(4):
            stream.step(chunk_of(second), "What now?" if second == 2 else None)
        seen[graph] = torch.stack(seeing.seen)
    torch.testing.assert_close(seen[True], seen[False], atol=2e-5, rtol=0)


def plain(weight: torch.Tensor, hidden: torch.Tensor, penalty: float, held: torch.Tensor | None) -> int:
    scores = hidden @ weight.T
    if held is not None:
        scores = RepetitionPenaltyLogitsProcessor(penalty)(held[None], scores)
    return int(scores.argmax(-1))


@pytest.mark.parametrize("penalty", [1.0, 1.05, 3.0, 0.7])
def test_the_best_token_is_the_best_token(penalty: float) -> None:
    """Rows of very different size, among them some that differ by less than a byte can tell."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3000, 48, generator=generator) * torch.rand(3000, 1, generator=generator) * 2
    best = BestToken(weight)
    for _ in range(60):
        hidden = torch.randn(1, 48, generator=generator)
        leader = plain(weight, hidden, 1.0, None)
        weight[(leader + 1500) % 3000] = weight[leader] * 1.0001  # a rival that only full precision can tell apart
        best = BestToken(weight)
        held = torch.randint(0, 3000, (400,), generator=generator)
        held = None if penalty == 1 else torch.cat([held, held[:9], torch.tensor([leader])])
        assert plain(weight, hidden, penalty, held) == best.pick(hidden, penalty, held)


def test_what_bytes_cannot_tell_asks_for_all_logits() -> None:
    weight = torch.ones(MOST + 1, 8)
    assert BestToken(weight).pick(torch.ones(1, 8), 1.0, None) is None
    assert BestToken(weight[:9]).pick(torch.ones(1, 8), 1.0, None) == 0
    for broken in (torch.nan, torch.inf):
        assert BestToken(weight).pick(torch.full((1, 8), broken), 1.0, None) is None
    assert BestToken(weight).pick(torch.zeros(1, 8), 1.0, None) is None


@pytest.mark.parametrize("penalise_vision", [True, False])
def test_a_stream_says_the_same_without_logits(monkeypatch: pytest.MonkeyPatch, penalise_vision: bool) -> None:
    """With a repetition penalty that changes what is said; no logits are made for any token."""
    options = StreamOptions(
        speak=SpeakOptions(max_tokens_per_second=6, repetition_penalty=1.3), penalise_vision=penalise_vision
    )
    adapter = loaded().adapter
    full = loaded().stream(options)
    expected = [full.step(chunk_of(second), "What now?").text for second in range(3)]
    monkeypatch.setattr(adapter, "large_vocabulary", 0)
    monkeypatch.setattr(adapter, "logits", None)
    stream = loaded().stream(options)
    assert expected == [stream.step(chunk_of(second), "What now?").text for second in range(3)]
    np.testing.assert_array_equal(full.rows().ids, stream.rows().ids)
