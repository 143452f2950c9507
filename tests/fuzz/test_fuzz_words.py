"""Any text at any time into the writers, any value into the configuration: whole files, or one clear line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neverblink.cli.options import WatchOptions
from neverblink.cli.settings import load
from neverblink.drills.serving import cues
from neverblink.errors import ConfigError, ModelError, NeverblinkError
from neverblink.models.bundled import OWN_POLICIES, Card, read_card
from neverblink.outputs import OUTPUTS
from neverblink.outputs.base import PAGE, Recorder
from neverblink.testing import make_caption
from tests.properties import tries

QUICK = tries(80)
WORDS = st.one_of(
    st.text(st.characters(), max_size=40),  # halves of surrogate pairs too
    st.sampled_from(
        ["-->", "\n\n00:00:00.000 --> 00:00:01.000\nx", "NOTE x", "WEBVTT", "<v x>", "&lt;", "\x1b[2J", "x" * PAGE]
    ),
)
TIMES = st.floats(-10, 350_000)  # below 100 hours `cues` can compare its clocks as text
UNSAFE = frozenset(map(chr, (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, 0x202E)))


def outcome(work: Callable[[], Any]) -> Any:
    """What it gives, or the error of ours that it raises."""
    try:
        return work()
    except NeverblinkError as error:
        return error


@QUICK
@given(said=st.lists(st.tuples(TIMES, st.lists(WORDS, max_size=3).map("".join)), max_size=8))
def test_subtitles_and_lines_are_whole_whatever_is_said(said: list[tuple[float, str]]) -> None:
    """Each file parses strictly, holds a cue or line for each text that shows something, and nothing unsafe."""
    folder, recorder = Path(mkdtemp(prefix="neverblink-fuzz-")), Recorder("m")
    with OUTPUTS["vtt"](folder / "a.vtt") as vtt, OUTPUTS["jsonl"](folder / "a.jsonl") as jsonl:
        for start, text in said:
            for event in recorder.caption(make_caption(start, text)):
                vtt.write(event)
                jsonl.write(event)
    lines = [json.loads(line) for line in (folder / "a.jsonl").read_text().splitlines()]
    assert [text for text in (line["text"] for line in lines) if set(text) & UNSAFE] == []
    assert len(lines) == len(said)
    assert list(range(len(said))) == [line["seq"] for line in lines]
    shown = cues((folder / "a.vtt").read_text())
    assert len([line for line in lines if line["text"]]) == len(shown)
    assert not any(set(text) & UNSAFE for text in shown)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=6,
)
CARDS = st.one_of(
    JSON,
    st.dictionaries(
        st.sampled_from(["name", "domain", "fps", "script", "policy", "policy_options", "speak", "x"]), JSON
    ),
    st.fixed_dictionaries({"script": st.dictionaries(st.sampled_from(["system", "query", "x"]), JSON, max_size=2)}),
    st.fixed_dictionaries({"speak": st.dictionaries(st.sampled_from(["top_p", "seed", "x"]), JSON, max_size=2)}),
)


@QUICK
@given(card=st.one_of(CARDS.map(json.dumps).map(str.encode), st.binary(max_size=60)))
def test_a_card_is_right_or_refused_in_one_line(card: bytes) -> None:
    folder = Path(mkdtemp(prefix="neverblink-fuzz-"))
    (folder / "neverblink.json").write_bytes(card)
    found = outcome(lambda: read_card(folder))
    if isinstance(found, NeverblinkError):
        assert isinstance(found, ModelError)
        assert "is not a neverblink card" in str(found)
        assert "\n" not in str(found)
        return
    assert isinstance(found, Card)
    assert found.fps > 0
    assert found.policy in OWN_POLICIES
    assert all(isinstance(value, str) for value in found.script.values())
    for values in (found.policy_options, found.speak):
        assert all(isinstance(value, int | float) and abs(value) < 1e9 for value in values.values())


@QUICK
@given(
    name=st.sampled_from([f.name for f in fields(WatchOptions)]),
    value=st.text(st.characters(codec="utf-8"), max_size=12),
)
def test_the_environment_is_right_or_refused_in_one_line(name: str, value: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(f"NEVERBLINK_{name.upper()}", value.replace("\0", ""))
        options = outcome(lambda: load({}))
    if isinstance(options, NeverblinkError):
        assert isinstance(options, ConfigError)
        assert "\n" not in str(options)
        return
    options.check()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"speak": {"seed": 1.5, "none": 2}}, "does not hold"),
        ({"speak": {"top_p": 7}}, "top_p 7"),
        ({"script": {"x": "y"}}, "x"),
    ],
)
def test_a_card_with_options_that_there_are_not_is_refused(tmp_path: Path, values: dict[str, Any], said: str) -> None:
    import shutil

    from neverblink.model import Model
    from tests.checkpoints import toy_checkpoint

    shutil.copytree(toy_checkpoint(), tmp_path / "m")
    (tmp_path / "m" / "neverblink.json").write_text(json.dumps(values))
    with pytest.raises(ModelError, match=said):
        Model.from_pretrained(tmp_path / "m", device="cpu")
