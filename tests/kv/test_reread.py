"""Policy `reread`: what has left the window is held as previous text is, whatever it was said beside."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch

from neverblink import Model, ScriptOptions, Stream, StreamOptions
from neverblink.errors import ConfigError, ModelError
from neverblink.kv.policies import make_policy, policies
from neverblink.models.bundled import OWN_POLICIES, Card, read_card
from neverblink.types import Kind
from tests.forced import Forced
from tests.kv.test_invariants import assert_same, state
from tests.models import families

FAMILY = "qwen2_5_vl"
WINDOWS = {"sink_tokens": 3, "text_window": 40, "vision_seconds": 2.0}


def make(forced: Any = None, previous: str = "", policy: str = "reread", **more: Any) -> Stream:
    options = StreamOptions(policy=policy, policy_options=WINDOWS, fps=2.0, **more)
    return families.model(FAMILY).stream(options, ScriptOptions(query="Say it.", previous_text=previous), forced)


def told(policy: str, words: list[int]) -> Stream:
    """A stream that says the words, three a second, and two seconds more until they have left the window."""
    forced = Forced()
    stream = make(forced, policy=policy)
    for i in range(len(words) // 3 + 2):
        forced.script = [*words[3 * i : 3 * i + 3], stream.script.end_id]
        stream.step(families.chunk(i))
    return stream


def front(stream: Stream) -> tuple[np.ndarray, list[torch.Tensor]]:
    """Ids of the opening and the previous text, and their values in every layer: no place is in them."""
    kinds = stream.rows().kinds
    n = int(np.flatnonzero(kinds == Kind.PREVIOUS_CLOSE)[-1]) + 1
    return stream.rows().ids[:n], [v[0, :, :n].clone() for v in stream.arena.v]


def test_moved_words_are_what_a_stream_holds_that_was_given_them():
    given = make(previous="It began well and went on for a while.")
    given.step(families.chunk(0))
    ids, values = front(given)
    words = ids[given.rows().kinds[: len(ids)] == Kind.PREVIOUS].tolist()
    words = words[: len(words) // 3 * 3]  # three a second
    assert len(words) >= 6
    off = {}
    for policy in ("reread", "streaming"):
        stream = told(policy, words)
        held, found = front(stream)
        kinds = stream.rows().kinds[: len(held)]
        assert words == held[kinds == Kind.PREVIOUS].tolist()
        first = int(np.flatnonzero(kinds == Kind.PREVIOUS)[0])
        upto = first + len(words)
        assert ids[:upto].tolist() == held[:upto].tolist()
        off[policy] = max(float((a[:, :upto] - b[:, :upto]).abs().max()) for a, b in zip(found, values, strict=True))
    assert off["reread"] < 2e-5
    assert off["streaming"] > 1e-2


class Gone(Exception):
    """The model call that fails."""


def test_a_feed_that_fails_is_made_up_for():
    """The chunk that fails leaves words moved and unread; the next one reads them, as if nothing had been."""
    streams, forceds = [], [Forced(), Forced()]
    for forced in forceds:
        streams.append(make(forced))
    failing, whole = streams
    adapter = failing.adapter

    class Fails:
        def __getattr__(self, name: str) -> Any:
            return getattr(adapter, name)

        def forward(self, *args: Any) -> Any:
            raise Gone

    for i in range(6):
        if i == 4:
            failing.adapter = Fails()  # type: ignore[assignment]
            for _ in range(2):
                with pytest.raises(Gone):
                    failing.step(families.chunk(i))
            rows = failing.rows()
            unread = np.flatnonzero(rows.serials[: rows.n] < 0)
            assert len(unread) > 3
            assert {int(Kind.PREVIOUS), int(Kind.PREVIOUS_CLOSE)} == set(rows.kinds[unread].tolist())
            failing.adapter = adapter
        for forced, stream in zip(forceds, streams, strict=True):
            forced.script = [60 + i, 61 + i, 62 + i, stream.script.end_id]
            stream.step(families.chunk(i))
    assert_same(state(whole), state(failing))
    rows = whole.rows()
    assert (rows.serials[: rows.n] >= 0).all()


def test_what_does_not_go_together_is_one_line():
    with pytest.raises(ConfigError, match=r"reread does not hold for native positions: .* use contiguous"):
        make(positions="native")
    assert make_policy("reread").reread
    assert not make_policy("streaming").reread


def test_a_checkpoint_may_ask_for_it():
    card = Card(policy="reread", policy_options=WINDOWS)
    model = Model(families.model(FAMILY).adapter, card)
    assert (model.options().policy, model.options().policy_options) == ("reread", WINDOWS)
    assert model.options("sliding").policy == "sliding"
    assert model.options(positions="native").policy == "streaming"  # nothing was asked for, so nothing is refused
    recurrent = Model(families.model("qwen3_5").adapter, card)
    assert recurrent.options().policy == "streaming"
    assert Model(model.adapter).options().policy == "streaming"


def test_what_a_card_may_ask_for_has_the_same_windows():
    """The CLI checks the windows that it is given before it knows whose the policy is."""
    windows = {name: [field.name for field in fields(policies[name])] for name in OWN_POLICIES}
    assert windows == dict.fromkeys(OWN_POLICIES, windows[Card().policy])


def test_a_card_asks_only_for_what_has_its_windows(tmp_path):
    (tmp_path / "neverblink.json").write_text('{"policy": "sliding"}')
    with pytest.raises(ModelError, match="policy 'sliding' must be one of streaming, reread"):
        read_card(tmp_path)
