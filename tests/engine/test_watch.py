"""Several sources at once: each is told as if it were alone, ends alone, and loses nothing uncounted."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import neverblink.sources
from neverblink import Model
from neverblink.cli import main
from neverblink.errors import BudgetError, SourceDamaged
from neverblink.memory.journal import Journal
from neverblink.testing import SyntheticSource
from tests.checkpoints import toy_checkpoint

WINDOWS = {"sink_tokens": 5, "text_window": 7, "vision_seconds": 2.0}
HOW: dict[str, Any] = {"fps": 2, "policy_options": WINDOWS, "max_tokens_per_second": 4, "temperature": 0.7}


class Own(SyntheticSource):
    """Noise of its own, by its seed."""

    def __init__(self, seed: int, **how: Any):
        super().__init__(**how)
        self.seed, self.on_event = seed, lambda *_: None

    def _picture(self, i: int) -> np.ndarray:
        return np.random.default_rng((self.seed, i)).integers(0, 256, (48, 64, 3), dtype=np.uint8)

    def frames(self) -> Any:
        for frame in super().frames():
            if frame.time == 1.5:
                self.on_event("gap", f"of {self.seed}", frame.time)
            yield frame


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> dict[str, Own]:
    made: dict[str, Own] = {
        "a": Own(1, seconds=4),
        "b": Own(2, seconds=6, dropped=[0, 5]),
        "c": Own(3, seconds=6, error_at=3.0, error=SourceDamaged("c is damaged after 3 s", 3.0)),
    }

    def open_source(name: str, options: Any) -> Own:
        made[name].on_event = options.on_event
        made[name].closed = False
        return made[name]

    monkeypatch.setattr(neverblink.sources, "open_source", open_source)
    return made


@pytest.fixture(scope="module")
def model() -> Model:
    return Model.from_pretrained(toy_checkpoint(), device="cpu")


@pytest.mark.parametrize("pipeline", [False, True])
def test_each_is_told_as_if_it_were_alone(sources: dict[str, Own], model: Model, pipeline: bool) -> None:
    """Files of different length, questions for all, one that is damaged: every second before that is told."""
    asked = {2.0: "What now?"}
    alone: dict[str, list[Any]] = {}
    for i, name in enumerate("abc"):
        sources[name]._dropped = [0, 5] if name == "b" else []
        alone[name] = []
        try:
            for caption in model.watch(name, seed=7 + i, questions=asked, **HOW):
                alone[name].append(replace(caption, seconds={}))
        except SourceDamaged as error:
            alone[name].append(str(error))
    sources["b"]._dropped = [0, 5]
    heard, memory = [], list[str]()
    together: dict[str, list[Any]] = {"a": [], "b": [], "c": []}
    for result in model.watch_many(
        dict(zip("abc", "abc", strict=True)),
        seed=7,
        questions=asked,
        pipeline=pipeline,
        on_memory=memory.append,
        on_event=lambda *words: heard.append((*words, threading.current_thread().name)),
        **HOW,
    ):
        told = str(result.error) if result.error else replace(result.caption, seconds={}, kv_budget=0)
        together[result.stream_id].append(told)
        assert result.stream_id != "a" or not sources["a"].closed or len(together["a"]) == 4
    for name, expected in alone.items():
        assert [e if isinstance(e, str) else replace(e, kv_budget=0) for e in expected] == together[name]
    assert sorted(heard) == [(name, "gap", f"of {i}", 1.5, "MainThread") for i, name in enumerate("abc", start=1)]
    assert "KV cache: 3 streams" in memory[0]
    assert all(source.closed for source in sources.values())
    assert not [thread for thread in threading.enumerate() if thread.name == "read ahead"]


@pytest.mark.parametrize("overload", ["drop-oldest", "skip"])
def test_what_cannot_be_watched_is_counted(
    sources: dict[str, Own], model: Model, overload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source that is faster than the model: every frame is in a caption, or counted, or came behind the last one."""
    embed = model.adapter.embed
    monkeypatch.setattr(model.adapter, "embed", lambda ids: time.sleep(0.01) or embed(ids))  # the source goes on
    sources["a"] = Own(1, seconds=40)
    results = list(model.watch_many({"1": "a", "2": "b"}, overload=overload, **HOW))
    mine = [result.caption for result in results if result.stream_id == "1" and result.caption]
    assert len(mine) < 40
    watched = sum(caption.frames_used + caption.frames_dropped for caption in mine)
    assert watched == 2 * round(mine[-1].end)


def test_more_sources_than_slots_are_refused(sources: dict[str, Own], model: Model) -> None:
    with pytest.raises(BudgetError, match="all 2 slots are taken"):
        list(model.watch_many({"1": "a", "2": "b", "3": "c"}, max_streams=2, **HOW))
    assert sources["a"].closed


def test_the_command_line_watches_several(
    sources: dict[str, Own], tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Numbers before the captions, the arithmetic of the memory, files for each; the damaged one is one line."""
    import json

    arguments = ["watch", "a", "b", "c", "--model", str(toy_checkpoint()), "--fps", "2", "--device", "cpu"]
    arguments += ["--max-tokens-per-second", "2", "--vision-window", "2", "--text-window", "8", "--sink-tokens", "8"]
    arguments += ["--jsonl", str(tmp_path / "all.jsonl"), "--vtt", str(tmp_path / "x.vtt"), "--max-streams", "3"]
    arguments += ["--journal", str(tmp_path / "said.db")]
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert {line.split()[1] for line in out.splitlines()} <= {"watch-1:", "watch-2:", "watch-3:"}
    assert "streams: 3, asked for" in err
    assert "KV cache: 3 streams = " in err
    assert "[00:00:03] watch-3: error: c is damaged after 3 s\n" in err
    assert err.splitlines()[-1] == "neverblink: 1 of 3 streams ended with an error: watch-3"
    events = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    seconds = [e["stream_id"] for e in events if e["type"] in ("caption", "silence")]
    assert {1: 4, 2: 6, 3: 3} == {number: seconds.count(f"watch-{number}") for number in (1, 2, 3)}
    with Journal(tmp_path / "said.db", read_only=True) as journal:
        entries = [entry for entry in journal.events() if entry.event.type == "caption"]
        assert len(entries) == sum(event["type"] == "caption" for event in events)
        pictures = {journal.picture(entry.row) for entry in entries}
        assert len(pictures) == len(entries), "each second has a picture of its own"
    assert ["x-1.vtt", "x-2.vtt", "x-3.vtt"] == sorted(file.name for file in tmp_path.glob("*.vtt"))
    capsys.readouterr()
    assert main(["watch", "a", "b", "--max-streams", "many"]) == 2
    assert "--max-streams is 'many'; give a number" in capsys.readouterr().err
