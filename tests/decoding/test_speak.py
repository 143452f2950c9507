"""When a second is silent: `quiet_from` weighs silence against all that could be said."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from neverblink import Model, ScriptOptions, SpeakOptions, Stream, StreamOptions
from neverblink.decoding.speak import Sampler
from neverblink.errors import ConfigError
from neverblink.models.bundled import Card
from neverblink.types import Kind
from tests.models import families

QUIET = (2, 3)  # silence is likeliest of all ids, with 0.4; together the ways to be silent have 0.45
CHANCES = torch.tensor([0.3, 0.25, 0.4, 0.05])


def pick(quiet_from: float, *, second: bool = True, before: int = 0, **how: Any) -> int:
    sampler = Sampler(SpeakOptions(quiet_from=quiet_from, **how), quiet=QUIET)
    sampler.begin(second=second)
    for _ in range(before):
        sampler.pick(CHANCES.log(), lambda: None)
    return sampler.pick(CHANCES.log(), lambda: None)


def test_silence_is_weighed_against_all_that_could_be_said():
    assert pick(0.0) == 2
    assert pick(0.44) == 2
    assert pick(0.46) == 0
    assert {pick(0.44, temperature=1.0, seed=seed) for seed in range(40)} == {2, 3}
    assert {pick(0.46, temperature=1.0, seed=seed) for seed in range(40)} == {0, 1}


def test_only_the_first_word_of_a_second_is_weighed():
    assert pick(0.46, second=False) == 2
    assert pick(0.46, before=1) == 2
    sampler = Sampler(SpeakOptions(quiet_from=0.46), quiet=QUIET)
    assert sampler.is_greedy
    sampler.begin(second=True)
    assert not sampler.is_greedy  # the largest logit is not enough to know
    sampler.pick(CHANCES.log(), lambda: None)
    assert sampler.is_greedy


@pytest.mark.parametrize("quiet_from", [-0.1, 1.1, float("nan")])
def test_what_is_no_probability_is_refused(quiet_from: float):
    with pytest.raises(ConfigError, match=r"quiet_from .* must be a probability"):
        SpeakOptions(quiet_from=quiet_from)


@pytest.mark.parametrize(("quiet_from", "quiet"), [(1.0, False), (1e-9, True)])
def test_each_second_of_a_stream_begins_as_it_is_told(quiet_from: float, quiet: bool):
    speak = SpeakOptions(max_tokens_per_second=3, answer_tokens=3, quiet_from=quiet_from)
    options = StreamOptions(fps=2.0, policy="sliding", policy_options={"vision_seconds": 8.0}, speak=speak)
    stream = families.model("qwen2_5_vl").stream(options, ScriptOptions(query="Say it."))
    for turn in range(4):
        stream.step(families.chunk(turn))
        said = [
            token
            for token, kind, of in zip(*held(stream), strict=True)
            if of == turn and kind in (Kind.SAID, Kind.CLOSE)
        ]
        assert quiet == (said[0] in stream.script.quiet_ids)


def test_a_script_may_have_no_mark_for_silence():
    script = families.model("qwen2_5_vl").script(ScriptOptions(silence=""))
    assert (script.end_id,) == script.quiet_ids


def held(stream: Stream) -> tuple[list[int], list[int], list[int]]:
    rows = stream.rows()
    return rows.ids.tolist(), rows.kinds.tolist(), rows.turns.tolist()


def test_what_is_asked_for_wins_over_the_card():
    model = Model(families.model("qwen2_5_vl").adapter, Card(speak={"quiet_from": 0.5, "max_tokens_per_second": 9}))
    speak = model.options(speak={"quiet_from": 0.0, "max_tokens_per_second": None}).speak
    assert (speak.quiet_from, speak.max_tokens_per_second) == (0.0, 9)
