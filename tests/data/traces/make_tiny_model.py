#!/usr/bin/env python3
"""Deterministic tiny Qwen2.5-VL checkpoint (public, flat config.json layout and legacy tensor names).

Needs only numpy + safetensors.  Every tensor is  scale * RandomState(crc32(name) & 0x7fffffff).standard_normal(shape)
(float64 draw, multiplied in float64, then cast to float32), plus an offset for norm weights.  numpy's legacy
RandomState stream is frozen by numpy policy, so the file can be regenerated bit for bit anywhere.
usage: make_tiny_model.py OUTDIR
"""

import json, os, sys, zlib
import numpy as np
from safetensors.numpy import save_file

H, L, NH, NKV, FF, V = 64, 3, 4, 2, 128, 152064
HD = H // NH
VH, VD, VNH, VFF, P, TP, MERGE = 32, 2, 2, 64, 14, 2, 2
EOS, DOTS = 151645, 2503  # <|im_end|>, " ..."

CONFIG = {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
    "vision_token_id": 151654,
    "image_token_id": 151655,
    "video_token_id": 151656,
    "hidden_act": "silu",
    "hidden_size": H,
    "initializer_range": 0.02,
    "intermediate_size": FF,
    "max_position_embeddings": 128000,
    "max_window_layers": L,
    "model_type": "qwen2_5_vl",
    "num_attention_heads": NH,
    "num_hidden_layers": L,
    "num_key_value_heads": NKV,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "use_cache": True,
    "use_sliding_window": False,
    "vision_config": {
        "depth": VD,
        "hidden_act": "silu",
        "hidden_size": VH,
        "intermediate_size": VFF,
        "num_heads": VNH,
        "in_chans": 3,
        "out_hidden_size": H,
        "patch_size": P,
        "spatial_merge_size": MERGE,
        "spatial_patch_size": P,
        "window_size": 56,
        "fullatt_block_indexes": [1],
        "tokens_per_second": 2,
        "temporal_patch_size": TP,
        "model_type": "qwen2_5_vl",
    },
    "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
    "vocab_size": V,
}
GEN = {
    "bos_token_id": 151643,
    "pad_token_id": 151643,
    "do_sample": True,
    "eos_token_id": [151645, 151643],
    "repetition_penalty": 1.05,
    "temperature": 1e-06,
}
PRE = {
    "min_pixels": 3136,
    "max_pixels": 12845056,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2_5_VLProcessor",
}
CHAT = (
    "{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "{% set image_count.value = image_count.value + 1 %}{% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif content['type'] == 'video' or 'video' in content %}"
    "{% set video_count.value = video_count.value + 1 %}{% if add_vision_id %}Video {{ video_count.value }}: {% endif %}"
    "<|vision_start|><|video_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def spec():
    """name -> (shape, scale, offset)"""
    s = {}
    lin = lambda n, o, i, g=1.0, b=None: (
        s.__setitem__(n + ".weight", ((o, i), g / np.sqrt(i), 0.0)),
        b is not None and s.__setitem__(n + ".bias", ((o,), b, 0.0)),
    )
    norm = lambda n, d: s.__setitem__(n, ((d,), 0.1, 1.0))
    s["model.embed_tokens.weight"] = ((V, H), 1.0, 0.0)
    for i in range(L):
        p = f"model.layers.{i}."
        norm(p + "input_layernorm.weight", H)
        norm(p + "post_attention_layernorm.weight", H)
        lin(p + "self_attn.q_proj", NH * HD, H, 1.5, 0.5)
        lin(p + "self_attn.k_proj", NKV * HD, H, 1.5, 0.5)
        lin(p + "self_attn.v_proj", NKV * HD, H, 1.0, 0.2)
        lin(p + "self_attn.o_proj", H, NH * HD, 1.0)
        lin(p + "mlp.gate_proj", FF, H, 1.0)
        lin(p + "mlp.up_proj", FF, H, 1.0)
        lin(p + "mlp.down_proj", H, FF, 0.7)
    norm("model.norm.weight", H)
    s["lm_head.weight"] = ((V, H), 0.3, 0.0)
    s["visual.patch_embed.proj.weight"] = ((VH, 3, TP, P, P), 1.5 / np.sqrt(3 * TP * P * P), 0.0)
    for i in range(VD):
        p = f"visual.blocks.{i}."
        norm(p + "norm1.weight", VH)
        norm(p + "norm2.weight", VH)
        lin(p + "attn.qkv", 3 * VH, VH, 1.3, 0.2)
        lin(p + "attn.proj", VH, VH, 1.0, 0.1)
        lin(p + "mlp.gate_proj", VFF, VH, 1.0, 0.1)
        lin(p + "mlp.up_proj", VFF, VH, 1.0, 0.1)
        lin(p + "mlp.down_proj", VH, VFF, 0.7, 0.1)
    norm("visual.merger.ln_q.weight", VH)
    lin("visual.merger.mlp.0", VH * MERGE**2, VH * MERGE**2, 1.4, 0.1)
    lin("visual.merger.mlp.2", H, VH * MERGE**2, 1.6, 0.1)
    return s


def tensors():
    out = {}
    for n, (shape, scale, off) in spec().items():
        w = np.random.RandomState(zlib.crc32(n.encode()) & 0x7FFFFFFF).standard_normal(shape) * scale + off
        if n == "lm_head.weight":
            w[EOS] *= 3.0  # make <|im_end|> win now and then in greedy decoding
            w[DOTS] *= 2.0
            w[151643:EOS] = 0.0
            w[EOS + 1 :] = 0.0  # other specials / padding ids can never be the argmax
        out[n] = np.ascontiguousarray(w.astype(np.float32))
    return out


if __name__ == "__main__":
    d = sys.argv[1]
    os.makedirs(d, exist_ok=True)
    t = tensors()
    save_file(t, os.path.join(d, "model.safetensors"), metadata={"format": "pt"})
    for fn, o in (
        ("config.json", CONFIG),
        ("generation_config.json", GEN),
        ("preprocessor_config.json", PRE),
        ("chat_template.json", {"chat_template": CHAT}),
    ):
        json.dump(o, open(os.path.join(d, fn), "w"), indent=1)
    import hashlib

    h = hashlib.sha256()
    for n in sorted(t):
        h.update(n.encode())
        h.update(t[n].tobytes())
    print("tensors", len(t), "params", sum(x.size for x in t.values()), "sha256(sorted name+bytes)", h.hexdigest())
