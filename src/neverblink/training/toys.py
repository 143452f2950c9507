"""Checkpoints of toy size of every family: the real classes with random weights, saved as a hub checkpoint would be.

Each has a chat template of the shape that its family uses and the preprocessor file that its stock processor would
write, so that what a stream does with a real checkpoint it does with these.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neverblink.errors import UnknownName
from neverblink.training.tokenizer import MARKS, train_tokenizer

HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM = 32, 2, 4, 2, 16
SIDE, PATCH = 32, 8  # pixels of a square frame and of its patches: 4 x 4 patches, 2 x 2 tokens
WORDS = ["You are a helpful assistant. Time=0.0-1.0s previous text user assistant ...", "What happens now? Say it."]

# Conversations as jinja, by what is written around a message and for its items.
_ITEMS = (
    "{%- if m.content is string %}{{ m.content }}{%- else %}{%- for c in m.content %}"
    "{%- if c.type == 'text' %}{{ c.text }}{%- elif c.type == 'image' %}IMAGE{%- else %}VIDEO{%- endif %}"
    "{%- endfor %}{%- endif %}"
)
CHATML = (
    "{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}" + _ITEMS + "{{ '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}"
)
QWEN = CHATML.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>").replace(
    "VIDEO", "<|vision_start|><|video_pad|><|vision_end|>"
)
INTERN = CHATML.replace("IMAGE", "{{ '<IMG_CONTEXT>\\n' }}").replace("VIDEO", "{{ '<video>\\n' }}")
# Pictures first, whatever their place; no line end behind an end mark.
LLAVA = (
    "{%- for m in messages %}{{ '<|im_start|>' + m.role + ' ' }}"
    "{%- if m.content is string %}{{ '\\n' + m.content }}{%- else %}"
    "{%- for c in m.content if c.type != 'text' %}{{ '<' + c.type + '>' }}{%- endfor %}"
    "{%- for c in m.content if c.type == 'text' %}{{ '\\n' + c.text }}{%- endfor %}{%- endif %}"
    "{{ '<|im_end|>' }}{%- endfor %}{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}"
)
# The space behind the role falls away in front of a picture.
SMOL = (
    "{{ '<|im_start|>' }}{%- for m in messages %}{{ m.role | capitalize }}"
    "{{ ':' if m.content and m.content[0].type == 'image' else ': ' }}"
    + _ITEMS.replace("IMAGE", "<image>").replace("VIDEO", "<video>")
    + "{{ '<end_of_utterance>\\n' }}{%- endfor %}{%- if add_generation_prompt %}Assistant:{%- endif %}"
)
# No system turn: its words open the first user turn. Turns must alternate.
GEMMA = (
    "{{ '<bos>' }}{%- set lead = '' %}{%- set turns = messages %}"
    "{%- if messages[0].role == 'system' %}{%- set lead = messages[0].content[0].text + '\\n\\n' %}"
    "{%- set turns = messages[1:] %}{%- endif %}{%- for m in turns %}"
    "{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{%- endif %}"
    "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' + (lead if loop.first else '') }}"
    + _ITEMS.replace("IMAGE", "<start_of_image>").replace("c.text", "c.text | trim")
    + "{{ '<end_of_turn>\\n' }}{%- endfor %}{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{%- endif %}"
)
_SMOL_MARKS = ("<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<global-img>", "<image>", "<pad>")


@dataclass(frozen=True)
class Recipe:
    """How a family's toy is made: the class, and its config from the ids of tokens."""

    kind: str
    config: Callable[[Callable[[str], int], dict[str, Any]], dict[str, Any]]
    template: str = QWEN
    marks: tuple[str, ...] = MARKS
    end: str = "<|im_end|>"
    padding: str = "<|endoftext|>"
    pixels: Callable[[], dict[str, Any]] = lambda: {
        "size": {"height": SIDE, "width": SIDE},
        "resample": 3,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }


def _mrope() -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3]}


def _qwen_pixels(least: int = 56 * 56, most: int = 112 * 84) -> dict[str, Any]:
    return {"min_pixels": least, "max_pixels": most, "stream_max_pixels": most}


def _qwen_ids(ids: Callable[[str], int]) -> dict[str, Any]:
    return {
        "vision_start_token_id": ids("<|vision_start|>"),
        "vision_end_token_id": ids("<|vision_end|>"),
        "image_token_id": ids("<|image_pad|>"),
        "video_token_id": ids("<|video_pad|>"),
    }


def _qwen2(ids: Callable[[str], int], text: dict[str, Any]) -> dict[str, Any]:
    vision = {"depth": 1, "embed_dim": 32, "hidden_size": HIDDEN, "mlp_ratio": 2, "num_heads": 2}
    return {"text_config": {**text, "rope_parameters": _mrope()}, "vision_config": vision, **_qwen_ids(ids)}


def _qwen2_5(ids: Callable[[str], int], text: dict[str, Any]) -> dict[str, Any]:
    vision: dict[str, Any] = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2}
    vision["window_size"] = 56
    vision |= {"fullatt_block_indexes": [1], "tokens_per_second": 2, "out_hidden_size": HIDDEN}
    return {"text_config": {**text, "rope_parameters": _mrope()}, "vision_config": vision, **_qwen_ids(ids)}


def _qwen3_vision() -> dict[str, Any]:
    vision: dict[str, Any] = {"depth": 3, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 14}
    return vision | {"out_hidden_size": HIDDEN, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]}


def _qwen3(ids: Callable[[str], int], text: dict[str, Any]) -> dict[str, Any]:
    rope = {**_mrope(), "mrope_interleaved": True}
    text = {**text, "head_dim": HEAD_DIM, "num_hidden_layers": 3, "rope_parameters": rope}
    return {"text_config": text, "vision_config": _qwen3_vision(), **_qwen_ids(ids)}


def _qwen3_moe(ids: Callable[[str], int], text: dict[str, Any]) -> dict[str, Any]:
    config = _qwen3(ids, text)
    config["text_config"] |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    return config


def _qwen3_5(ids: Callable[[str], int], text: dict[str, Any]) -> dict[str, Any]:
    rope = {**_mrope(), "mrope_interleaved": True, "partial_rotary_factor": 0.5}
    text = {**text, "head_dim": 2 * HEAD_DIM, "rope_parameters": rope, "num_hidden_layers": 3}
    text |= {"layer_types": ["linear_attention", "full_attention", "linear_attention"]}
    text |= {"linear_key_head_dim": 8, "linear_value_head_dim": 8}
    text |= {"linear_num_key_heads": 2, "linear_num_value_heads": 4}
    vision = {k: v for k, v in _qwen3_vision().items() if k != "deepstack_visual_indexes"}
    return {"text_config": text, "vision_config": vision, **_qwen_ids(ids)}


def _qwen3_5_moe(ids: Callable[[str], int], text: dict[str, Any]) -> dict[str, Any]:
    config = _qwen3_5(ids, text)
    del config["text_config"]["intermediate_size"]
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    config["text_config"] |= {**experts, "shared_expert_intermediate_size": 32}
    return config


def _siglip(**more: Any) -> dict[str, Any]:
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    return {**sizes, "image_size": SIDE, "patch_size": PATCH, **more}


def _llama(text: dict[str, Any]) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 10_000.0}
    return {**text, "model_type": "llama", "head_dim": HEAD_DIM, "rope_parameters": rope}


def _smol(ids: Callable[[str], int], text: dict[str, Any]) -> dict[str, Any]:
    return {
        "text_config": _llama(text),
        "vision_config": _siglip(),
        "scale_factor": 2,
        "image_token_id": ids("<image>"),
        "pad_token_id": ids("<pad>"),
    }


def _intern(ids: Callable[[str], int], text: dict[str, Any]) -> dict[str, Any]:
    vision = _siglip(image_size=[SIDE, SIDE], patch_size=[PATCH, PATCH])
    text = {**_llama(text), "model_type": "qwen2"}
    return {"text_config": text, "vision_config": vision, "image_token_id": ids("<IMG_CONTEXT>"), "image_seq_length": 4}


def _llava(ids: Callable[[str], int], text: dict[str, Any]) -> dict[str, Any]:
    return {
        "text_config": {**_llama(text), "model_type": "qwen2"},
        "vision_config": _siglip(model_type="siglip_vision_model", vision_use_head=False),
        "image_token_index": ids("<image>"),
        "video_token_index": ids("<video>"),
    }


def _gemma(ids: Callable[[str], int], text: dict[str, Any]) -> dict[str, Any]:
    rope = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
    }
    text = {**text, "head_dim": HEAD_DIM, "query_pre_attn_scalar": HEAD_DIM, "rope_parameters": rope}
    text |= {"sliding_window": 96, "num_hidden_layers": 3}
    return {
        "text_config": {**text, "layer_types": ["sliding_attention", "sliding_attention", "full_attention"]},
        "vision_config": _siglip(model_type="siglip_vision_model", vision_use_head=False),
        "mm_tokens_per_image": 4,
        "boi_token_index": ids("<start_of_image>"),
        "eoi_token_index": ids("<end_of_image>"),
        "image_token_index": ids("<image_soft_token>"),
    }


def _smol_pixels() -> dict[str, Any]:
    edge = {"size": {"longest_edge": 4 * SIDE}, "max_image_size": {"longest_edge": SIDE}, "resample": 1}
    return {**edge, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}


_LLAVA_MARKS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<image>", "<video>")
_INTERN_MARKS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>")
_GEMMA_MARKS = ("<pad>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>")
_SMOL: dict[str, Any] = {"template": SMOL, "marks": _SMOL_MARKS, "end": "<end_of_utterance>", "padding": "<pad>"}
RECIPES: dict[str, Recipe] = {
    "qwen2_vl": Recipe("Qwen2VL", _qwen2, pixels=_qwen_pixels),
    "qwen2_5_vl": Recipe("Qwen2_5_VL", _qwen2_5, pixels=_qwen_pixels),
    "qwen3_vl": Recipe("Qwen3VL", _qwen3, pixels=_qwen_pixels),
    "qwen3_vl_moe": Recipe("Qwen3VLMoe", _qwen3_moe, pixels=_qwen_pixels),
    "qwen3_5": Recipe("Qwen3_5", _qwen3_5, pixels=_qwen_pixels),
    "qwen3_5_moe": Recipe("Qwen3_5Moe", _qwen3_5_moe, pixels=_qwen_pixels),
    "smolvlm": Recipe("SmolVLM", _smol, pixels=_smol_pixels, **_SMOL),
    "idefics3": Recipe("Idefics3", _smol, pixels=_smol_pixels, **_SMOL),
    "internvl": Recipe("InternVL", _intern, INTERN, _INTERN_MARKS),
    "llava_onevision": Recipe("LlavaOnevision", _llava, LLAVA, _LLAVA_MARKS),
    "gemma3": Recipe("Gemma3", _gemma, GEMMA, (*_GEMMA_MARKS, "<image_soft_token>"), "<end_of_turn>", "<pad>"),
}


def _parts(config: Any) -> Iterator[Any]:
    yield config
    for name in ("text_config", "vision_config"):
        if hasattr(config, name):
            yield getattr(config, name)


def write_toy(family: str, folder: Path, *, seed: int = 0) -> Path:
    """Write a checkpoint of a family that `Model.from_pretrained(folder)` loads; the same seed gives the same weights.

    Raises:
        UnknownName: there is no toy of this family.
    """
    import torch
    import transformers

    if family not in RECIPES:
        raise UnknownName(f"no toy of family {family!r}; known: {', '.join(RECIPES)}")
    recipe = RECIPES[family]
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(WORDS * 20, folder, 400, recipe.marks, recipe.end, recipe.padding, recipe.template)
    ids = tokenizer.convert_tokens_to_ids
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": HIDDEN,
        "intermediate_size": HIDDEN * 2,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "eos_token_id": ids(recipe.end),
        "bos_token_id": None,
        "pad_token_id": ids(recipe.padding),
    }
    if family in ("qwen2_vl", "qwen2_5_vl"):
        text["hidden_size"] = HEADS * HEAD_DIM
    values = recipe.config(ids, text)
    if family in ("qwen2_vl", "qwen2_5_vl"):
        key = "hidden_size" if family == "qwen2_vl" else "out_hidden_size"
        values["vision_config"][key] = HEADS * HEAD_DIM
    config = getattr(transformers, f"{recipe.kind}Config")(**values, tie_word_embeddings=False)
    for part in _parts(config):
        part.initializer_range = 0.1  # above 0.2 a random model is chaotic and no tolerance means anything
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, f"{recipe.kind}ForConditionalGeneration")(config)
        for weight in model.parameters():  # whatever a class leaves at zero or one would hide what it is for
            values = weight.detach()
            if bool((values == values.flatten()[0]).all()):
                values.add_(torch.randn_like(values), alpha=0.1)
    model.generation_config.eos_token_id = ids(recipe.end)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(recipe.pixels()))
    return folder
