"""The adapter contract: what the stream computes is what the stock class computes, pixels included."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from neverblink import Chunk, Frame, Model, ScriptOptions, SpeakOptions, StreamOptions
from neverblink.errors import ModelError
from neverblink.models.patches import LinearPatches
from neverblink.types import Kind
from neverblink.vision.pixels import PixelOptions, fit, patchify
from tests.checkpoints import toy_checkpoint
from tests.forced import Forced


def chunk(i: int, size: tuple[int, int] = (84, 112), frames: int = 2) -> Chunk:
    rng = np.random.default_rng(i)
    pictures = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(frames)]
    return Chunk(float(i), i + 1.0, tuple(Frame(i + k / frames, p) for k, p in enumerate(pictures)))


def test_chunked_run_equals_one_stock_forward() -> None:
    """Six chunks through adapter and cache == one top-level forward of the stock model over the whole sequence."""
    model = Model.from_pretrained(toy_checkpoint(), device="cpu")
    options = StreamOptions(
        policy="full", policy_options={"kv_budget": 2000}, speak=SpeakOptions(max_tokens_per_second=4)
    )
    forced = Forced()
    stream = model.stream(options, ScriptOptions(query="Say it."), processor=forced)
    ours: list[torch.Tensor] = []
    original = model.adapter.logits
    model.adapter.logits = lambda hidden: ours.append(original(hidden)) or ours[-1]  # type: ignore[method-assign]
    try:
        for i in range(6):
            forced.script = [40, 41, 42, stream.script.end_id]
            stream.step(chunk(i))
    finally:
        del model.adapter.logits
    rows = stream.rows()
    patches, grids = [], []
    for i in range(6):
        p, grid = patchify([f.pixels for f in chunk(i).frames], model.adapter.pixels)
        patches.append(p)
        grids.append(grid)
    ids = torch.from_numpy(rows.ids[: rows.n].copy())[None]
    with torch.inference_mode():
        stock = model.adapter.model(
            input_ids=ids,
            pixel_values_videos=torch.cat(patches),
            video_grid_thw=torch.tensor(grids),
            second_per_grid_ts=torch.ones(6),
            mm_token_type_ids=(ids == stream.script.pad_id).long() * 2,
        ).logits[0]
    heads = np.flatnonzero(rows.kinds[: rows.n] == Kind.HEAD)
    last_of_head = heads[np.append(np.diff(heads) > 1, True)]
    asked = np.sort(np.concatenate([last_of_head, np.flatnonzero(rows.kinds[: rows.n] == Kind.SAID)]))
    assert len(asked) == 6 * 4
    torch.testing.assert_close(torch.cat(ours), stock[torch.from_numpy(asked)], atol=2e-5, rtol=0)


def test_linear_patches_are_the_stock_convolution() -> None:
    stock = Model.from_pretrained(toy_checkpoint(), device="cpu").adapter._visual.patch_embed
    assert isinstance(stock, LinearPatches)
    patches = torch.randn(12, 3 * 2 * 14 * 14)
    convolved = stock.proj(patches.view(-1, 3, 2, 14, 14)).view(12, -1)
    torch.testing.assert_close(stock(patches), convolved, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(360, 640), (84, 112), (1080, 1920), (501, 333), (90, 700)])
def test_pixels_are_the_stock_processors(size: tuple[int, int]) -> None:
    """One uint8 level from the stock PIL processor at most (two in a thousandth of hard noise), at the same size."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    smooth = np.asarray(np.kron(picture[::8, ::8], np.ones((8, 8, 1))), dtype=np.uint8)[: size[0], : size[1]]
    options = PixelOptions(max_pixels=640 * 360)
    stock = Qwen2VLImageProcessorPil(size={"shortest_edge": options.min_pixels, "longest_edge": options.max_pixels})
    theirs = stock(images=[smooth], return_tensors="pt")
    patches, grid = patchify([smooth], options)
    assert theirs["image_grid_thw"].tolist() == [list(grid)]
    std = torch.tensor(options.std).repeat_interleave(2 * 14 * 14)
    levels = (theirs["pixel_values"] - patches).abs() * std * 255
    assert float(levels.max()) < 2.01
    assert float((levels > 1.01).float().mean()) < 0.001


def test_fit_never_passes_the_pixel_budget() -> None:
    options = PixelOptions()
    for height in (1, 13, 56, 360, 2160, 4000):
        for width in (1, 28, 641, 3840, 16_000):
            h, w = fit(height, width, options)
            assert h % 28 == w % 28 == 0
            assert h * w <= options.max_pixels


def test_what_is_no_model_is_refused_in_one_line(tmp_path: Path) -> None:
    for content, reason in (
        (None, "no readable config.json"),
        ({"model_type": "gpt2"}, r"unknown model family 'gpt2'; known: gemma3, .*qwen2_5_vl.*; docs/adapters.md tells"),
        ({"model_type": "glm4v"}, "unknown model family 'glm4v': its rotary embedding turns neighbouring values"),
        ({"model_type": "qwen2_5_vl"}, "no .safetensors weights"),
    ):
        if content is not None:
            (tmp_path / "config.json").write_text(json.dumps(content))
        with pytest.raises(ModelError, match=reason) as error:
            Model.from_pretrained(tmp_path)
        assert "\n" not in str(error.value)
    with pytest.raises(ModelError, match="no model at"):
        Model.from_pretrained("./nowhere")
