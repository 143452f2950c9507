"""`neverblink train` at toy size: the stock Trainer, our loss; what moves, what is written, and going on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from neverblink import Model
from neverblink.errors import ConfigError
from neverblink.training.sft import memory
from neverblink.training.sft.options import TrainOptions
from tests.checkpoints import toy_checkpoint
from tests.training.clips import record, write_data

QUICK = TrainOptions(
    seconds=3, overlap=1, batch=2, steps=2, lr=1e-3, workers=0, device="cpu", warm_up=0.0, log_every=1, quiet=True
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"), [record(10)])


def run(data: Path, out: Path, options: TrainOptions = QUICK, model: Path | None = None) -> dict[str, torch.Tensor]:
    """Train; the weights that were written."""
    from neverblink.training.sft.trainer import train

    train(data, str(model or toy_checkpoint()), out, options)
    return load_file(out / "model.safetensors")


def curves(out: Path) -> list[tuple[float, float]]:
    """(loss, gradient norm) of each step. The norm tells what weights cannot: AdamW hides a gradient's size."""
    (state,) = out.glob("checkpoint-*/trainer_state.json")
    history = json.loads(state.read_text())["log_history"]
    return [(line["loss"], line["grad_norm"]) for line in history if "grad_norm" in line]


def moved(after: dict[str, torch.Tensor]) -> set[str]:
    """Which parts of the model training changed."""
    before = load_file(toy_checkpoint() / "model.safetensors")
    assert before.keys() == after.keys()
    names = {name for name in before if not torch.equal(before[name], after[name])}
    parts = {"visual.merger": "merger", "visual.": "tower", "lm_head": "head", "model.": "decoder"}
    return {next(short for part, short in parts.items() if part in name) for name in names}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], atol: float = 2e-6) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=atol, msg=lambda m, name=name: f"{name}: {m}")


def test_a_run_leaves_a_model_that_watches(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Weights, tokenizer, card, TensorBoard curves, checkpoints that are models too; the loss falls."""
    run(data, tmp_path, replace(QUICK, steps=8, lr=3e-3, save_every=4, keep=1, query="Say it.", sink_tokens=9))
    err = capsys.readouterr().err
    assert "data: 1 records, 5 windows" in err
    assert "a step: 2 windows = 2 x 1 accumulated x 1 processes" in err
    assert "weights" in err
    assert list((tmp_path / "logs").glob("events.*"))
    assert ["checkpoint-8"] == [p.name for p in tmp_path.glob("checkpoint-*")]
    history = json.loads((tmp_path / "checkpoint-8" / "trainer_state.json").read_text())["log_history"]
    losses = [line["loss"] for line in history if "loss" in line]
    assert len(losses) == 8
    assert losses[-1] < losses[0] - 0.5
    for folder in (tmp_path, tmp_path / "checkpoint-8"):
        model = Model.from_pretrained(folder, device="cpu")
        assert ({"query": "Say it."}, 9) == (model.card.script, model.card.policy_options["sink_tokens"])
        assert model.adapter.pixels == Model.from_pretrained(toy_checkpoint(), device="cpu").adapter.pixels
    assert 2 == len(list(model.watch(data / "clip.mp4", seconds=2)))


@pytest.mark.parametrize("lora", [0, 2])
def test_resuming_ends_where_an_unbroken_run_ends(
    data: Path, tmp_path: Path, lora: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Four steps at once, or two, a checkpoint and two more: the same weights; without --resume it is refused."""
    options = replace(QUICK, steps=4, save_every=2, lora=lora)
    whole = run(data, tmp_path / "whole", options)
    (tmp_path / "broken").mkdir()
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "broken" / "checkpoint-2")
    with pytest.raises(ConfigError, match="holds checkpoint-2 of an earlier run; add --resume"):
        run(data, tmp_path / "broken", options)
    assert_same(whole, run(data, tmp_path / "broken", replace(options, resume=True)))
    assert "missing keys" not in caplog.text  # the stock Trainer would find none of the weights that it wrote
    with pytest.raises(ConfigError, match="holds no checkpoint"):
        run(data, tmp_path / "new", replace(options, resume=True))


@pytest.mark.parametrize(
    ("tower", "expected"),
    [
        ("frozen", {"decoder", "head"}),
        ("merger", {"decoder", "head", "merger"}),
        ("trained", {"decoder", "head", "merger", "tower"}),
    ],
)
def test_the_tower_is_trained_as_far_as_asked(data: Path, tmp_path: Path, tower: str, expected: set[str]) -> None:
    assert expected == moved(run(data, tmp_path, replace(QUICK, tower=tower, steps=1)))


SAME: list[dict[str, Any]] = [
    {"pack": False},
    {"batch": 1, "accumulate": 2},
    {"checkpointing": False},
    {"workers": 1},
]


def test_how_a_step_is_done_does_not_change_what_is_learned(data: Path, tmp_path: Path) -> None:
    """Padded or packed, at once or accumulated, checkpointed or not: the same weights after two steps. Windows have
    different numbers of learned tokens, so a mean of means would show."""
    expected = run(data, tmp_path / "expected", replace(QUICK, tower="trained"))
    for i, changes in enumerate(SAME):
        assert_same(expected, run(data, tmp_path / str(i), replace(QUICK, tower="trained", **changes)), atol=2e-5)
        np.testing.assert_allclose(curves(tmp_path / str(i)), curves(tmp_path / "expected"), rtol=1e-3)


TWO = """
import sys, torch
from dataclasses import replace
from pathlib import Path
from neverblink.training.sft.trainer import train
from tests.training.test_sft_trainer import QUICK
torch.set_num_threads(1)
data, model, out = map(Path, sys.argv[1:])
for name, fsdp in (("ddp", False), ("fsdp", True)):
    train(data, str(model), out / name, replace(QUICK, batch=1, fsdp=fsdp))
"""


def test_two_processes_learn_what_one_does(data: Path, tmp_path: Path) -> None:
    """DDP and FSDP over gloo, one window each, against one process with both windows."""
    expected = run(data, tmp_path / "one")
    script = tmp_path / "two.py"
    script.write_text(TWO)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", str(script)]
    search = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    ran = subprocess.run(
        [*command, str(data), str(toy_checkpoint()), str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(search), "OMP_NUM_THREADS": "1"},
        timeout=180,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert 2 == ran.stderr.count("a step: 2 windows = 1 x 1 accumulated x 2 processes")  # only one process talks
    assert "1/2 each" in ran.stderr
    for name in ("ddp", "fsdp"):
        assert_same(expected, load_file(tmp_path / name / "model.safetensors"), atol=1e-4)
        np.testing.assert_allclose(curves(tmp_path / name), curves(tmp_path / "one"), rtol=1e-3)


def test_lora_trains_a_little_and_writes_a_whole_model(data: Path, tmp_path: Path) -> None:
    """Only linear layers of the decoder change, by a matrix of the asked rank; the result is an ordinary checkpoint."""
    pytest.importorskip("peft")
    after = run(data, tmp_path, replace(QUICK, lora=2, lr=1e-2, steps=3))
    assert {"decoder"} == moved(after)
    before = load_file(toy_checkpoint() / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    assert 2 == int(torch.linalg.matrix_rank((after[name] - before[name]).double(), rtol=1e-3))
    Model.from_pretrained(tmp_path, device="cpu")


def test_from_scratch_needs_a_config_and_no_weights(data: Path, tmp_path: Path) -> None:
    empty = tmp_path / "config"
    shutil.copytree(toy_checkpoint(), empty, ignore=shutil.ignore_patterns("*.safetensors"))
    options = replace(QUICK, scratch=True, steps=1)
    after = run(data, tmp_path / "out", options, model=empty)
    assert {"decoder", "head", "merger", "tower"} == moved(after)
    again = run(data, tmp_path / "again", options, model=empty)
    assert_same(after, again, atol=0.0)


def test_broken_windows_are_counted_named_and_stop_a_run_when_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is named on stderr and in faults.log; above the share that is allowed the run ends with a clear line."""
    data = write_data(tmp_path / "data", [record(10), replace(record(10), video="gone.mp4")])
    out = tmp_path / "out"
    run(data, out, replace(QUICK, steps=5))
    faults = (out / "faults.log").read_text().splitlines()
    assert 5 == len(faults)
    assert all("data.jsonl:2: " in fault and "gone.mp4" in fault for fault in faults)
    history = json.loads((out / "checkpoint-5" / "trainer_state.json").read_text())["log_history"]
    assert 5 == [line["windows_left_out"] for line in history if "loss" in line][-1]
    monkeypatch.setattr("neverblink.training.sft.trainer.FEW", 4)
    with pytest.raises(ConfigError, match=r"4 of \d windows were faulty, more than --max-faulty 0\.1"):
        run(data, tmp_path / "many", replace(QUICK, steps=50, max_faulty=0.1))


def test_the_memory_arithmetic_is_that_of_the_tensors(data: Path) -> None:
    """Weights, gradients and AdamW's averages to the byte, with a frozen tower."""
    model = Model.from_pretrained(toy_checkpoint(), device="cpu").adapter.model
    for weight in model.model.visual.parameters():
        weight.requires_grad = False
    learned = [p for p in model.parameters() if p.requires_grad]
    sum(p.sum() for p in learned).backward()  # type: ignore[union-attr]
    optimizer = torch.optim.AdamW(learned)
    optimizer.step()
    averages = [t for state in optimizer.state.values() for name, t in state.items() if name != "step"]
    found = memory.needs(
        model, tokens=100, learned=10, patches=48, packed=False, checkpointing=True, bf16=False, shards=1
    )
    sizes = {need.what: need.nbytes for need in found}
    assert sum(p.nbytes for p in model.parameters()) == sizes["weights"]
    assert sum(p.grad.nbytes for p in learned if p.grad is not None) == sizes["gradients"]
    assert sum(t.nbytes for t in averages) == sizes["AdamW"]
    assert "this will not fit" in memory.table([memory.Need("all", 2**60, "")], torch.device("cpu"))[-1]


def test_bf16_trains_float32_weights(data: Path, tmp_path: Path) -> None:
    weights = run(data, tmp_path, replace(QUICK, precision="bf16", steps=1))
    assert {torch.float32} == {w.dtype for w in weights.values()}
    assert {"decoder", "head"} == moved(weights)
    narrow = run(data, tmp_path / "narrow", replace(QUICK, precision="bf16-weights", steps=1))
    assert {torch.bfloat16} == {w.dtype for w in narrow.values()}
