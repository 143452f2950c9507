"""`neverblink data`: arcade films with true records, and the check that names faults."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.training.clips import record, write_data

from neverblink.cli import main
from neverblink.training.sft.records import live, scan


def test_a_film_and_its_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """45 seconds of Pong in files of 30: every line of the truth is in the record at its second, questions are
    answered from the truth, and the same seed gives the same bytes."""
    pytest.importorskip("ale_py")
    arguments = ["data", "arcade", "--hours", "0.0125", "--minutes", "0.5", "--seed", "7", "--ask-every", "1"]
    assert main([*arguments, "--out", str(tmp_path / "a")]) == 0
    assert "2 files" in capsys.readouterr().err
    index = scan(tmp_path / "a")
    assert [] == index.faults
    remembered = 0
    for number, seconds in enumerate((30, 15)):
        one = index[number]
        truth = [json.loads(line) for line in (tmp_path / "a" / "truth" / f"pong-0000000{7 + number}.jsonl").open()]
        assert [line["text"] for line in truth] == [second.text for second in live(one)[1]]
        assert (0.0, seconds) == (one.start, one.end)
        for asked in one.asked:
            if "score" in asked.question and "ago" not in asked.question:
                known = [
                    e["score"] for line in truth for e in line["events"] if e["score"] and line["end"] <= asked.time
                ]
                assert asked.answer == f"It is {known[-1][0]} to {known[-1][1]}."
                heard = next(line for line in truth if line["end"] >= asked.time)
                remembered += not any(e["score"] for e in heard["events"])
    assert remembered  # a score that was told in an earlier second
    assert sum(len(index[n].asked) for n in (0, 1)) > 3
    assert main(["data", "check", str(tmp_path / "a"), "--decode"]) == 0
    assert "2 records of 2 videos" in capsys.readouterr().out
    assert main([*arguments, "--out", str(tmp_path / "b")]) == 0
    for name in ("pong.jsonl", "pong-00000007.mp4"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    kept = (tmp_path / "a" / "pong-00000007.mp4").stat().st_mtime_ns
    assert main([*arguments, "--out", str(tmp_path / "a")]) == 0  # what is there is kept
    assert kept == (tmp_path / "a" / "pong-00000007.mp4").stat().st_mtime_ns


def test_check_names_every_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line that is no JSON, a video that is not there, one that is shorter than its record: file, line, reason."""
    from dataclasses import replace

    good = record(10)
    data = write_data(tmp_path, [good, replace(good, video="gone.mp4"), replace(good, end=30.0)])
    with (data / "data.jsonl").open("a") as lines:
        lines.write("not json\n")
    assert main(["data", "check", str(data)]) == 1
    out = capsys.readouterr().out
    assert "data.jsonl:2: no video at" in out
    assert "data.jsonl:4: not JSON" in out
    assert "data.jsonl:3" not in out
    assert "3 records of 2 videos, 0.01 h, talk in 42% of the seconds" in out
    assert "15 questions, 2 faults" in out
    assert main(["data", "check", str(data), "--decode"]) == 1
    assert "data.jsonl:3: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["arcade", "--out", "x", "--game", "chess"], "no arcade game 'chess'; known: "),
        (["arcade", "--out", "x", "--hours", "0"], "--hours is 0.0; it must be above 0"),
        (["arcade", "--out", "x", "--fps", "61"], "--fps 61 at most 60"),
        (["check", "/nonexistent"], "no data at /nonexistent"),
    ],
)
def test_a_refusal_is_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", *arguments]) == 2
    err = capsys.readouterr().err
    assert 1 == err.count("\n")
    assert words in err


@pytest.mark.parametrize("arguments", [["data", "--help"], ["data", "arcade", "--help"], ["train", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from neverblink.cli import main; status = main(sys.argv[1:]);"
        "sys.exit(status or [n for n in ('torch', 'transformers', 'av', 'numpy', 'ale_py') if n in sys.modules] or 0)"
    )
    ran = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)
    assert (0, "") == (ran.returncode, ran.stderr)
