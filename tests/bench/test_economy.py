"""bench economy: shares written out, the front and the table by hand, one real run of each of its three kinds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from neverblink.bench import behaviour, economy, latency, savings
from neverblink.bench.compare import read
from neverblink.bench.economy import WAYS, arguments_of, front, main, possible_ways, table
from neverblink.bench.spent import Spent, smaller
from neverblink.errors import ConfigError
from neverblink.testing import make_caption
from neverblink.vision.pixels import PixelOptions
from tests.engine import crowd


def run_of(way: str, tokens: float, f1: float) -> dict[str, Any]:
    return {"way": way, "vision_tokens_per_second": tokens, "event_f1": f1, "chunk_ms": 1.0}


RUNS = [
    run_of("everything", 4, 0.9),
    run_of("frames 1/2", 2, 0.7),
    run_of("pixel 0.98", 2, 0.895),
    run_of("grt 0.05", 3, 0.8),
]


def test_shares_become_the_models_own_rates() -> None:
    assert ("--fps", "4") == arguments_of("frames 1/2", 8.0, 1000, 300.0)
    assert ("--max-pixels", "250") == arguments_of("pixels 1/4", 8.0, 1000, 300.0)
    [_, gate] = arguments_of("slow-fast 1/4", 8.0, 1000, 300.0)
    assert gate == "slow-fast:threshold=0.98,tokens_per_second=75,burst=2"
    assert ("--gate", "pixel") == arguments_of("pixel 0.95", 8.0, 1000, 300.0)


def test_ways_that_a_model_or_a_recording_cannot_are_left_out() -> None:
    def possible(fps: float, tokens: int, recorded: bool) -> list[str]:
        return possible_ways({way: arguments_of(way, fps, 1000, 300.0) for way in WAYS}, tokens, recorded)

    assert list(WAYS) == possible(8.0, 4, recorded=True) == possible(2.0, 4, recorded=False)
    assert ["frames 1/4"] == [way for way in WAYS if way not in possible(2.0, 4, recorded=True)]
    assert {"pixels 1/2", "stc 0.5", "decay"} <= set(WAYS) - set(possible(8.0, 1, recorded=False))


def test_front_and_table_say_who_is_beaten_and_what_was_lost() -> None:
    assert ["pixel 0.98", "everything"] == front(RUNS)
    rows = [line.strip("| ").split(" | ") for line in table(RUNS).splitlines()[2:]]
    assert [["everything", "4", "1.0"], ["frames 1/2", "2", "0.5"]] == [row[:3] for row in rows[:2]]
    assert ["0.0", "20.0", "0.5", "10.0"] == [row[11].strip("| ") for row in rows]
    assert [True, False, True, False] == [line.endswith("| * |") for line in table(RUNS).splitlines()[2:]]


def test_spent_counts_tokens_frames_times_and_bytes() -> None:
    spent = Spent()
    for second, (tokens, skipped) in enumerate(((6, 0), (2, 3))):
        seconds = {"see": 0.01, "make_room": 0.001, "read": 0.02, "speak": 0.1, "answer": 5.0}
        caption = make_caption(float(second), frames_used=4, frames_skipped=skipped, kv_tokens=100, seconds=seconds)
        spent.add(
            type(caption)(
                **{**{f: getattr(caption, f) for f in caption.__slots__}, "vision_tokens": tokens, "kv_bytes": 7}
            )
        )
    assert spent.result(2.0) == {
        "vision_tokens_per_second": 4.0,
        "frames_skipped": 0.375,
        "vision_ms": 10.0,
        "prefill_ms": 21.0,
        "chunk_ms": 131.0,
        "kv_bytes": 7,
    }


def test_fewer_pixels_than_a_token_are_refused() -> None:
    assert 1000 == smaller(PixelOptions(), 1000).max_pixels == smaller(PixelOptions(), 1000).min_pixels
    with pytest.raises(ConfigError, match="max_pixels 700 is less than one token of this model, 784"):
        smaller(PixelOptions(), 700)


def test_ways_run_once_and_are_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The bundled model, 4 s: a gate that skips all it may leaves fewer tokens and says so."""
    given = ["--out", str(tmp_path), "--sport", "pong", "--seconds", "4", "--seed", "1000003", "--ask-every", "0"]
    assert 0 == main([*given, "--ways", "everything", "key-frames 1/4"])
    runs = read(tmp_path / "pong.jsonl")
    assert ["everything", "key-frames 1/4"] == [run["way"] for run in runs]
    assert 4.0 == runs[0]["vision_tokens_per_second"]
    assert 4.0 > runs[1]["vision_tokens_per_second"] >= 1.0
    assert runs[1]["frames_skipped"] > 0
    assert capsys.readouterr().out == (tmp_path / "pong.md").read_text()
    assert b"\x89PNG" == (tmp_path / "pong.png").read_bytes()[:4]


def test_behaviour_and_savings_give_their_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both at a small size: a still picture is saved, a cut is seen in its chunk, recomputing less costs less."""
    monkeypatch.setattr(behaviour, "SECONDS", 4)
    monkeypatch.setattr(behaviour, "CUT", 2)
    monkeypatch.setattr(behaviour, "WAYS", {"pixel": {"gate": "pixel:skipped=reuse"}})
    assert 0 == main(["--behaviour", "--out", str(tmp_path)])
    [line] = [json.loads(row) for row in (tmp_path / "behaviour.jsonl").read_text().splitlines()]
    assert (15 / 16, 1.0, 0) == (line["still_frames_saved"], line["still_captions_same"], line["cut_seconds"])
    assert 1 < line["drift_tellings"] < line["drift_glances"] == 16
    with pytest.raises(ConfigError, match="size 'small' is no WIDTHxHEIGHT"):
        next(savings.savings("qwen2.5-vl-3b", 1, "small"))
    assert 2 == main(["--shapes", "huge", "--out", str(tmp_path)])


def test_latency_takes_the_parts() -> None:
    given = latency._parser().parse_args(["--gate", "pixel", "--compress", "stc:keep=0.25"])
    parts = {"gate": given.gate, "compress": given.compress}
    options = latency.options_for(crowd.model(), "streaming", latency.Workload(parts=parts))
    assert ("pixel", "", "stc:keep=0.25") == (options.gate, options.encoder_cache, options.compress)


def test_every_way_can_be_made() -> None:
    """No way names a part or an option that is not there."""
    from neverblink.economy import make_parts

    for way in economy.WAYS:
        words = arguments_of(way, 8.0, 10_000, 100.0)
        given = dict(zip(words[::2], words[1::2], strict=True))
        make_parts(given.get("--gate", ""), given.get("--encoder-cache", ""), given.get("--compress", ""))
