"""What a model is shown and told: our pixels and ids against the stock processors and the chat template."""

from __future__ import annotations

from importlib import import_module
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from neverblink import ScriptOptions
from neverblink.chat import QUERY, VISION, message
from neverblink.types import Kind, Part, Piece
from neverblink.vision.pixels import SquareOptions, squares
from tests.models import families
from tests.models.families import FAMILIES, PATCHES, SIZES

SQUARES: dict[str, tuple[str, dict[str, Any], SquareOptions]] = {
    "gemma3": ("gemma3.image_processing_pil_gemma3.Gemma3ImageProcessorPil", {}, SquareOptions(96, "bilinear")),
    "llava_onevision": (
        "llava_onevision.image_processing_pil_llava_onevision.LlavaOnevisionImageProcessorPil",
        {"image_grid_pinpoints": [[96, 96]]},
        SquareOptions(96, "bicubic"),
    ),
    "internvl": ("got_ocr2.image_processing_pil_got_ocr2.GotOcr2ImageProcessorPil", {}, SquareOptions(96, "bicubic")),
    **{
        family: (
            f"{family}.image_processing_pil_{family}.{kind}ImageProcessorPil",
            {"do_image_splitting": False, "max_image_size": {"longest_edge": 96}, "size": {"longest_edge": 384}},
            SquareOptions(96, "lanczos", first=384),
        )
        for family, kind in (("smolvlm", "SmolVLM"), ("idefics3", "Idefics3"))
    },
}


@pytest.mark.parametrize("size", [(90, 160), (160, 90), (96, 96), (301, 203)])
@pytest.mark.parametrize("family", SQUARES)
def test_squares_are_the_stock_processors(family: str, size: tuple[int, int]) -> None:
    """One uint8 level from the stock PIL processor at most, landscape and portrait."""
    path, options, ours = SQUARES[family]
    module, _, name = path.rpartition(".")
    stock = getattr(import_module(f"transformers.models.{module}"), name)(
        **{"size": {"height": 96, "width": 96}, "image_mean": list(ours.mean), "image_std": list(ours.std), **options}
    )
    # Short of black and white: PIL 13 chooses which side it resizes first, and where an edge overshoots the bytes the
    # clip between the two shows it (90x160 to 96x96: up to 7 levels bicubic and 10 Lanczos, in 0.3 % of the values).
    coarse = np.random.default_rng(0).integers(56, 200, (-(-size[0] // 16), -(-size[1] // 16), 3))
    picture = np.kron(coarse, np.ones((16, 16, 1))).astype(np.uint8)[: size[0], : size[1]]
    theirs = torch.as_tensor(np.asarray(stock(images=[picture], return_tensors="pt")["pixel_values"]))
    while theirs.ndim > 4:
        theirs = theirs[0]
    levels = (theirs[:1] - squares([picture], ours)).abs() * torch.tensor(ours.std).view(1, 3, 1, 1) * 255
    # Where LLaVA pads its only tile, the tile is not the picture; its first entry is the whole picture made square.
    assert float(levels.max()) < 1.01


@pytest.mark.parametrize("size", [(90, 160), (160, 90), (140, 140)])
def test_patches_of_16_pixels_are_the_stock_processors(size: tuple[int, int]) -> None:
    """Qwen3-VL cuts patches of 16 pixels and has means of its own; the same processor class with other numbers."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    from neverblink.vision.pixels import PixelOptions, patchify

    half = (0.5, 0.5, 0.5)
    ours = PixelOptions(patch=16, min_pixels=64 * 64, max_pixels=128 * 96, mean=half, std=half)
    stock = Qwen2VLImageProcessorPil(
        patch_size=16, size={"shortest_edge": 64 * 64, "longest_edge": 128 * 96}, image_mean=half, image_std=half
    )
    coarse = np.random.default_rng(0).integers(56, 200, (10, 10, 3))
    picture = np.kron(coarse, np.ones((16, 16, 1))).astype(np.uint8)[: size[0], : size[1]]
    theirs = stock(images=[picture], return_tensors="pt")
    patches, grid = patchify([picture], ours)
    assert [list(grid)] == theirs["image_grid_thw"].tolist()
    assert float((theirs["pixel_values"] - patches).abs().max()) * 127.5 < 1.01


def expanded(family: str, parts: tuple[Part, ...], start: float) -> tuple[str, str]:
    """(what the template writes for the pictures of a chunk, what the stock processor makes of it)."""
    tokens = sum(part.tokens for part in parts)
    if family in ("qwen2_vl", "qwen2_5_vl"):
        return "<|video_pad|>", "<|video_pad|>" * tokens
    if family in PATCHES:
        from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor

        # Three frames from second `start` on, 2 a second; the metadata of a whole video counts them from its start.
        indices = [int(start * 2) + k for k in range(3)]
        this = SimpleNamespace(
            video_processor=SimpleNamespace(merge_size=2, temporal_patch_size=2),
            vision_start_token="<|vision_start|>",
            vision_end_token="<|vision_end|>",
            video_token="<|video_pad|>",
        )
        this._calculate_timestamps = lambda *args: Qwen3VLProcessor._calculate_timestamps(this, *args)
        grid = torch.tensor([[len(parts), 2, parts[0].tokens * 2]])
        metadata = [SimpleNamespace(fps=2.0, frames_indices=indices)]
        words = Qwen3VLProcessor.replace_video_token(this, {"video_grid_thw": grid, "video_metadata": metadata}, 0)
        return "<|vision_start|><|video_pad|><|vision_end|>", words
    if family == "internvl":
        from transformers.models.internvl.processing_internvl import InternVLProcessor

        names = {"start_image_token": "<img>", "image_token": "<IMG_CONTEXT>", "end_image_token": "</img>"}
        this = SimpleNamespace(**names, image_seq_length=4)
        clip = torch.zeros(1, len(parts), 3, 2, 2)
        return "<video>", InternVLProcessor.replace_video_token(this, {"pixel_values_videos": clip}, 0)
    if family == "llava_onevision":
        from transformers.models.llava_onevision.processing_llava_onevision import LlavaOnevisionProcessor

        this = SimpleNamespace(num_image_tokens=16, video_token="<video>")
        clip = torch.zeros(1, 3, 3, 2, 2)
        return "<video>", LlavaOnevisionProcessor.replace_video_token(this, {"pixel_values_videos": clip}, 0)
    if family == "gemma3":
        from transformers.models.gemma3.processing_gemma3 import Gemma3Processor

        whole = "\n\n<start_of_image>" + "<image_soft_token>" * 4 + "<end_of_image>\n\n"
        this = SimpleNamespace(full_image_sequence=whole)
        return "<start_of_image>", Gemma3Processor.replace_image_token(this, {"num_crops": [0]}, 0)
    from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

    marks = {"fake_token_around_image": "<fake_token_around_image>", "global_image_token": "<global-img>"}
    return "<image>", get_image_prompt_string(0, 0, 4, image_token="<image>", **marks)


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_are_the_chat_templates(family: str) -> None:
    """Opening, a turn with words, its answer, a turn without words and a question: id for id what the checkpoint's own
    template renders and its stock processor expands."""
    loaded = families.model(family)
    options = ScriptOptions("You help.", "Say it.", "first-turn", "It began.")
    script, tokenizer = loaded.script(options), loaded.adapter.tokenizer
    blocks = [loaded.adapter.encode([f.pixels for f in families.chunk(i, 3).frames], 2.0) for i in range(2)]
    pieces = script.opening()
    for i, block in enumerate(blocks):
        pieces += script.turn(i * 3.0, i * 3.0 + 1, block.parts, first=not i)
        # Behind "Assistant:" the model says the space itself; in the history the template writes it.
        said = " Left serves." if script.chat.head.endswith(":") else "Left serves."
        pieces += [Piece(Kind.SAID, (*script.encode(said), script.end_id)), script.close()]
    ours = [i for piece in [*pieces, *script.question("Who leads?")] for i in piece.ids]

    item, images = script.marks.item, 3 if script.marks.item == "image" else 1
    turns = [message("system", "You help.")]
    if family == "gemma3":  # it has no such role; and turns alternate
        turns += [message("user", "previous text\nIt began."), {"role": "assistant", "content": ""}]
    else:
        turns += [message("previous text", "It began.")]
    for i in range(2):
        time = script.marks.time.format(start=i * 3.0, end=i * 3.0 + 1)
        words = [time] if time else []
        asked = ["Say it."] if not i else []
        turns += [message("user", *words, *[VISION] * images, *asked, item=item), message("assistant", "Left serves.")]
    text = tokenizer.apply_chat_template(
        [*turns, message("user", "Who leads?")], tokenize=False, add_generation_prompt=True
    )
    head, *rest = text.split(expanded(family, blocks[0].parts, 0.0)[0])
    assert 2 * images == len(rest)
    for number, after in enumerate(rest):
        head += expanded(family, blocks[0].parts, number // images * 3.0)[1] + after
    if family == "llava_onevision":  # its answers begin on a new line in the history, and not behind the header
        head = head.replace("assistant \n", "assistant\n")
    assert tokenizer(head, add_special_tokens=False)["input_ids"] == ours
    assert QUERY not in text


@pytest.mark.parametrize("family", FAMILIES)
def test_no_second_has_more_tokens_than_was_promised(family: str) -> None:
    """Any size, any number of frames, portrait too: within the bound from which the budget is computed."""
    adapter = families.model(family).adapter
    for count in (1, 2, 3, 5):
        for size in (*SIZES, (200, 31), (31, 200)):
            block = adapter.encode([f.pixels for f in families.chunk(0, count, size).frames], 2.0)
            assert block.tokens <= adapter.max_vision_tokens(count)
            assert len(block.parts) == len(adapter.max_parts(count))
            assert all(p.tokens <= most.tokens for p, most in zip(block.parts, adapter.max_parts(count), strict=True))
            assert block.tokens == sum(part.tokens for part in block.parts) == len(block.loc)
