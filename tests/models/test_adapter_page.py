"""docs/adapters.md is tried by doing what it says: its adapter is written into a file, registered, and must hold."""

from __future__ import annotations

import json
import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import torch

from neverblink import Model, ScriptOptions, SpeakOptions, StreamOptions
from neverblink.models import families
from neverblink.training.tokenizer import train_tokenizer
from neverblink.types import Kind
from neverblink.vision.pixels import squares
from tests.forced import Forced
from tests.models.families import chunk

PAGE = (Path(__file__).parents[2] / "docs" / "adapters.md").read_text()


def write_llava(folder: Path) -> None:
    """A toy of LLaVA 1.5, a family that is not among ours, without a chat template: it is then ChatML."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    marks = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<image>")
    tokenizer = train_tokenizer(["What happens? previous text user assistant Time=0.0-1.0s"] * 9, folder, 300, marks)
    text = {"model_type": "llama", "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 48}
    text |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.1}
    vision = {"model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    vision |= {"num_attention_heads": 2, "image_size": 32, "patch_size": 16, "initializer_range": 0.1}
    image = tokenizer.convert_tokens_to_ids("<image>")
    config = LlavaConfig(text_config=text, vision_config=vision, image_token_index=image, tie_word_embeddings=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlavaForConditionalGeneration(config).save_pretrained(folder)
    pixels = {"size": {"height": 32, "width": 32}, "resample": 3, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels))


def test_the_pages_adapter_holds(tmp_path: Path) -> None:
    """Its python block as a module, under a name of its own: chunks through it == one forward of the stock model."""
    code = next(block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "class Mine" in block)
    (tmp_path / "mine.py").write_text(code)
    spec = spec_from_file_location("mine", tmp_path / "mine.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    write_llava(tmp_path / "model")
    families.add("llava", module.Mine)
    try:
        model = Model.from_pretrained(tmp_path / "model", device="cpu")
    finally:
        families.remove("llava")
    full = StreamOptions(policy="full", policy_options={"kv_budget": 900}, speak=SpeakOptions(max_tokens_per_second=4))
    stream = model.stream(full, ScriptOptions(query="Say it."), processor=(forced := Forced()))
    ours: list[torch.Tensor] = []
    original = model.adapter.logits
    model.adapter.logits = lambda hidden: ours.append(original(hidden)) or ours[-1]  # type: ignore[method-assign]
    chunks = [chunk(i, 1 + i) for i in range(3)]
    for second in chunks:
        forced.script = [60, 61, 62, stream.script.end_id]
        stream.step(second)
    rows = stream.rows()
    ids = torch.from_numpy(rows.ids[: rows.n].copy())[None]
    pixels = torch.cat([squares([f.pixels for f in c.frames], model.adapter.pixels) for c in chunks])  # type: ignore[attr-defined]
    with torch.inference_mode():
        stock = model.adapter.model(input_ids=ids, pixel_values=pixels, use_cache=False).logits[0]
    heads = np.flatnonzero(rows.kinds[: rows.n] == Kind.HEAD)
    first = heads[np.append(np.diff(heads) > 1, True)]  # the tokens that the first word of each answer was read from
    at = np.sort(np.concatenate([first, np.flatnonzero(rows.kinds[: rows.n] == Kind.SAID)]))
    assert 3 * 4 == len(at)
    torch.testing.assert_close(torch.cat(ours), stock[torch.from_numpy(at)], atol=2e-5, rtol=0)
    np.testing.assert_array_equal(np.arange(len(rows)), stream.places()[:, 0])


def test_the_page_tells_what_the_error_names() -> None:
    """The message for an unknown family sends people here; the page has the section that they need."""
    assert "## Making it known" in PAGE
    assert "neverblink.model_family" in PAGE
