"""`neverblink train`: help, refusals of one line, and one run from the command line."""

from __future__ import annotations

import importlib.util
import inspect
from dataclasses import fields
from pathlib import Path

import pytest
from tests.checkpoints import toy_checkpoint
from tests.training.clips import record, write_data

from neverblink.cli import main
from neverblink.cli.train import train
from neverblink.training.sft.options import TrainOptions

REFUSED = [
    (["--overlap", "24"], "--overlap 24 s must be shorter than the window, --seconds 24"),
    (["--stage", "third"], "no stage 'third'; known: bulk, anneal"),
    (["--tower", "half"], "no tower 'half'; known: frozen, merger, trained"),
    (["--precision", "int8"], "no precision 'int8'"),
    (["--lr", "0"], "--lr is 0.0; it must be above 0"),
    (["--lr", "nan"], "--lr is nan"),
    (["--batch", "-1"], "--batch is -1; it must be above 0"),
    (["--dense", "80"], "--dense is 80.0; it is a share, from 0 to 1"),
    (["--lora", "4", "--scratch"], "with --scratch there are none"),
    (["--lora", "4", "--fsdp"], "--lora and --fsdp do not go together yet"),
    (["--lora", "4", "--tower", "trained"], "--lora leaves the vision tower as it is"),
]


@pytest.mark.parametrize(("arguments", "words"), REFUSED)
def test_a_refusal_is_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "data", "--model", "m", "--out", "o", *arguments]) == 2
    out, err = capsys.readouterr()
    assert ("", 1) == (out, err.count("\n"))
    assert words in err


def test_what_is_not_there_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No data, no record in it, no model, FSDP with one process: status 2 and what to do."""
    data = write_data(tmp_path / "data", [record(10)])
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.jsonl").write_text("{}\n")
    toy = str(toy_checkpoint())
    capsys.readouterr()
    for where, model, more, words in [
        (tmp_path / "none", toy, [], "no data at"),
        (tmp_path / "bad", toy, [], "has no window to learn from: 0 good records"),
        (data, str(tmp_path / "gone"), [], "no model at"),
        (data, toy, ["--fsdp"], "torchrun"),
    ]:
        arguments = ["train", str(where), "--model", model, "--out", str(tmp_path / "out"), "--device", "cpu", *more]
        assert main(arguments) == 2, words
        err = capsys.readouterr().err
        assert err.count("\n") == 1, err
        assert words in err


@pytest.mark.parametrize("module", ["accelerate", "tensorboard", "peft"])
def test_a_missing_extra_is_one_line(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr("neverblink.cli.train.find_spec", lambda name: None if name == module else real(name))
    assert main(["train", "data", "--model", "m", "--out", "o", "--lora", "4"]) == 2
    assert (
        f"neverblink: training needs {module}; install it with: pip install 'neverblink[train]'\n"
        == capsys.readouterr().err
    )


def test_a_run_and_a_dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The dry run says data and memory and writes nothing; the run leaves a model."""
    data, out = write_data(tmp_path / "data", [record(10)]), tmp_path / "out"
    arguments = ["train", str(data), "--model", str(toy_checkpoint()), "--out", str(out), "--device", "cpu"]
    arguments += ["--seconds", "4", "--overlap", "2", "--steps", "1", "--workers", "0", "--quiet", "--query", "Say it."]
    assert main([*arguments, "--dry-run"]) == 0
    assert "an estimate for one process" in capsys.readouterr().err
    assert not out.exists()
    assert main(arguments) == 0
    assert (out / "model.safetensors").is_file()
    assert main(arguments) == 2
    assert "add --resume to go on" in capsys.readouterr().err


def test_every_option_of_the_dataclass_is_an_option_of_the_command() -> None:
    given = set(inspect.signature(train).parameters) - {"context", "data", "model", "out", "dry_run", "debug"}
    assert {field.name for field in fields(TrainOptions)} == given
