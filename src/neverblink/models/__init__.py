"""Model families: one adapter file each, found by the `model_type` of a checkpoint's config."""

from neverblink.registry import Registry

families = Registry(
    "model family",
    {
        "qwen2_vl": "neverblink.models.qwen2_vl:load",
        "qwen2_5_vl": "neverblink.models.qwen2_5_vl:load",
        "qwen3_vl": "neverblink.models.qwen3_vl:load",
        "qwen3_vl_moe": "neverblink.models.qwen3_vl:load_moe",
        "smolvlm": "neverblink.models.smolvlm:load",
        "idefics3": "neverblink.models.smolvlm:load_idefics3",
        "internvl": "neverblink.models.internvl:load",
        "llava_onevision": "neverblink.models.llava_onevision:load",
        "gemma3": "neverblink.models.gemma3:load",
    },
)
