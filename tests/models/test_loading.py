"""Loading: LoRA adapters, quantised checkpoints, several devices, rotary embeddings that cannot be turned."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from neverblink import Model
from neverblink.errors import ConfigError, ModelError
from neverblink.models.smolvlm import SmolVLM
from neverblink.vision.pixels import SquareOptions
from tests.models.families import checkpoint, model


def changed(family: str, to: Path, change: Any) -> Path:
    """A toy checkpoint with another config.json."""
    folder = Path(shutil.copytree(checkpoint(family), to))
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("rope", ["dynamic", "longrope"])
def test_rotary_embeddings_that_change_with_length_are_refused(rope: str, tmp_path: Path) -> None:
    """Their angles depend on how much was fed, so a key that is held cannot be turned to another place."""

    def change(config: dict[str, Any]) -> None:
        half = 8
        config["text_config"]["rope_parameters"] = {
            "rope_type": rope,
            "rope_theta": 1e4,
            "factor": 2.0,
            **({"short_factor": [1.0] * half, "long_factor": [2.0] * half} if rope == "longrope" else {}),
            "original_max_position_embeddings": 2048,
        }

    folder = changed("smolvlm", tmp_path / "model", change)
    with pytest.raises(ModelError, match=f"rope type '{rope}' changes its frequencies with the length") as error:
        Model.from_pretrained(folder, device="cpu")
    assert "\n" not in str(error.value)


def test_a_steady_rope_is_not_refused(tmp_path: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        config["text_config"]["rope_parameters"] = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}

    assert Model.from_pretrained(changed("smolvlm", tmp_path / "model", change), device="cpu").device == "cpu"


def test_layers_that_slide_unknown_to_the_adapter_are_refused(tmp_path: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        config["text_config"] |= {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}
        config["text_config"]["layer_types"] = ["sliding_attention"] * 2

    with pytest.raises(ModelError, match="has sliding-window layers, which the internvl adapter does not know"):
        Model.from_pretrained(changed("internvl", tmp_path / "model", change), device="cpu")


@pytest.fixture
def without_quantisers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hides what can run quantised weights, so that the test says the same where it is installed."""
    from transformers.utils import import_utils

    real, hidden = importlib.util.find_spec, {"bitsandbytes", "torchao", "gptqmodel", "auto_gptq", "optimum"}

    def forget() -> None:
        for name in dir(import_utils):
            if name.startswith("is_") and hasattr(getattr(import_utils, name), "cache_clear"):
                getattr(import_utils, name).cache_clear()

    def find(name: str, package: str | None = None) -> Any:
        return None if name in hidden else real(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find)
    forget()
    yield
    monkeypatch.undo()
    forget()


@pytest.mark.parametrize(
    ("method", "names"), [("bitsandbytes", "bitsandbytes"), ("torchao", "torchao"), ("gptq", "gptq")]
)
def test_a_quantised_checkpoint_without_its_package_is_refused(
    method: str, names: str, tmp_path: Path, without_quantisers: None
) -> None:
    """One line that says the method and what transformers misses for it."""
    quantised: dict[str, Any] = {
        "quant_method": method,
        "bits": 4,
        "load_in_4bit": True,
        "quant_type": "int8_weight_only",
    }
    folder = changed("smolvlm", tmp_path / "model", lambda config: config.update(quantization_config=quantised))
    with pytest.raises(ModelError, match=f"is quantised with {method}, which does not run here: .*") as error:
        Model.from_pretrained(folder, device="cpu")
    assert "\n" not in str(error.value)
    assert names in str(error.value).lower()


def test_a_model_on_several_devices_is_refused() -> None:
    """The arena stands on one device; a model that is spread out would meet its keys on the wrong one."""
    stock = model("smolvlm").adapter.model
    place = torch.nn.Parameter(torch.empty(2, 2, device="meta"))
    stock.register_parameter("elsewhere", place)
    try:
        with pytest.raises(ModelError, match="the model lies on cpu, meta; a stream's cache stands on one device"):
            SmolVLM(stock, model("smolvlm").adapter.tokenizer, SquareOptions(32), 4)
    finally:
        del stock.elsewhere


def test_a_time_grid_of_another_family_is_refused() -> None:
    with pytest.raises(ConfigError, match="time grid 'flat' belongs to qwen2_5_vl"):
        Model.from_pretrained(checkpoint("gemma3"), device="cpu", time_grid="flat")


@pytest.mark.parametrize("family", ["qwen3_vl", "gemma3"])
def test_a_lora_adapter_is_merged(family: str, tmp_path: Path) -> None:
    """The weights are those of the base plus the adapter's product, scaled; no trace of the adapter is left."""
    peft = pytest.importorskip("peft")
    base = Model.from_pretrained(checkpoint(family), device="cpu").adapter.model
    name, layer = next(
        (n, m) for n, m in base.named_modules() if n.endswith("language_model.layers.1.self_attn.q_proj")
    )
    before = layer.weight.detach().clone()
    config = peft.LoraConfig(r=2, lora_alpha=6, target_modules=[name], init_lora_weights=False)
    tuned = peft.get_peft_model(base, config)
    tuned.save_pretrained(tmp_path / "lora")
    a, b = (tuned.get_parameter(f"base_model.model.{name}.lora_{x}.default.weight").detach() for x in "AB")
    loaded = Model.from_pretrained(checkpoint(family), device="cpu", lora=tmp_path / "lora")
    merged = loaded.adapter.model.get_parameter(f"{name}.weight")
    torch.testing.assert_close(merged, before + 3.0 * b @ a)
    assert float((merged - before).abs().max()) > 1e-3
    assert not [n for n, _ in loaded.adapter.model.named_parameters() if "lora" in n]


@pytest.mark.parametrize("family", ["qwen3_vl", "smolvlm"])
def test_training_another_family_is_refused(family: str) -> None:
    """Qwen3-VL has places and patches too, and would be trained on another format than its own."""
    from neverblink.training.sft import trainer

    with pytest.raises(ModelError, match=f"the family {family} cannot be trained yet; take a Qwen2.5-VL"):
        trainer._load(checkpoint(family), family, trainer.TrainOptions(), "float32", scratch=False)


def test_what_is_no_lora_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no \.safetensors adapter; other formats can run code") as error:
        Model.from_pretrained(checkpoint("smolvlm"), device="cpu", lora=tmp_path)
    assert "\n" not in str(error.value)
