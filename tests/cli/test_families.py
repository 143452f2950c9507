"""Every family from the command line: a real video, a checkpoint that save_pretrained wrote, in this process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests import media
from tests.models.families import FAMILIES, checkpoint

from neverblink.cli import main


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds of natural video, upright as from a phone."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    pictures = media.natural_pictures(12, (90, 160))
    media.write_video(path, pictures=pictures, fps=4, size=(90, 160))
    return path


@pytest.mark.parametrize("family", FAMILIES)
def test_watch_a_video(family: str, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three seconds, an event for each within the budget, an answer, and whole subtitles."""
    given = ["watch", str(clip), "--model", str(checkpoint(family)), "--device", "cpu", "--threads", "1", "--fps", "2"]
    given += ["--sink-tokens", "4", "--text-window", "4", "--vision-window", "2", "--max-tokens-per-second", "3"]
    given += ["--jsonl", str(tmp_path / "a.jsonl"), "--vtt", str(tmp_path / "a.vtt"), "--ask", "1.5:What now?"]
    assert 0 == main(given), capsys.readouterr().err
    events = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    said = [event for event in events if event["type"] in ("caption", "silence")]
    assert [(0, 1), (1, 2), (2, 3)] == [(event["t_start"], event["t_end"]) for event in said]
    assert [2, 2, 2] == [event["frames_used"] for event in said]
    assert 1 == sum(event["type"] == "answer" for event in events)
    assert not [event for event in events if event["type"] == "error"]
    assert (tmp_path / "a.vtt").read_text().startswith("WEBVTT\n\n")


def test_models_lists_every_family(capsys: pytest.CaptureFixture[str]) -> None:
    """Each family with a line of its own, and what does not hold for it with the reason."""
    assert 0 == main(["models"])
    here, _, absent = capsys.readouterr().out.partition("\nnot here:\n")
    named = [line.split()[0] for line in here.splitlines() if not line.startswith(" ")]
    assert sorted(FAMILIES) == sorted(named)
    assert 2 == here.count("not with --policy sliding: ")
    assert "glm4v " in absent


def test_models_is_a_command_of_the_real_program() -> None:
    ran = subprocess.run([sys.executable, "-m", "neverblink", "--help"], capture_output=True, text=True)
    assert "models" in ran.stdout
