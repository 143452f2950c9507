"""The table of ways to remember: real runs on a few seconds, and what it keeps when it is broken off."""

import json
from pathlib import Path

import pytest

from neverblink.bench.compare import WAYS, main, missing, read, table
from neverblink.errors import ConfigError


def test_ways_are_run_once_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Two ways of three are run by the first call, the third by the second; table and plot hold all."""
    given = ["--out", str(tmp_path), "--sport", "pong", "--seconds", "5", "--seed", "1000003"]
    assert 0 == main([*given, "--ways", "streaming", "no text"])
    first = read(tmp_path / "pong.jsonl")
    assert ["streaming", "no text"] == [run["way"] for run in first]
    assert ["streaming", "streaming"] == [run["policy"] for run in first]  # whatever the checkpoint's own is
    assert {"sink_tokens": 0, "text_window": 0} == first[1]["policy_options"]
    capsys.readouterr()
    assert 0 == main([*given, "--ways", "streaming", "no text", "last frames"])
    runs = read(tmp_path / "pong.jsonl")
    assert first == runs[:2]
    assert "last-frames" == runs[2]["policy"]
    shown = capsys.readouterr().out
    assert 5 == len(shown.splitlines())
    assert shown == (tmp_path / "pong.md").read_text()
    assert b"\x89PNG" == (tmp_path / "pong.png").read_bytes()[:4]


def test_a_failing_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert 2 == main(["--out", str(tmp_path), "--sport", "curling", "--ways", "full"])
    assert ["neverblink: full: neverblink: no arcade game 'curling'"] == [
        line.partition(";")[0] for line in capsys.readouterr().err.splitlines()
    ]


def test_an_unknown_way_is_refused_before_anything_runs(tmp_path: Path):
    with pytest.raises(ConfigError, match="no way 'slow'; known: streaming, "):
        missing(["streaming", "slow"], tmp_path / "pong.jsonl")
    (tmp_path / "pong.jsonl").write_text(json.dumps({"way": "full"}) + "\n")
    assert [way for way in WAYS if way != "full"] == missing(list(WAYS), tmp_path / "pong.jsonl")


def test_the_table_leaves_empty_what_is_not_known():
    [_, _, row] = table([{"way": "full", "event_f1": 0.5, "ended": "after 7 s: no room"}]).splitlines()
    assert "| full | 0.5 |  |  |  |  |  |  |  |  | after 7 s |" == row
