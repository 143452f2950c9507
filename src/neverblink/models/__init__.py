"""Model families: one adapter file each, found by the `model_type` of a checkpoint's config."""

from neverblink.registry import Registry

families = Registry(
    "model family",
    {
        "qwen2_vl": "neverblink.models.qwen2_vl:Qwen2VL",
        "qwen2_5_vl": "neverblink.models.qwen2_5_vl:Qwen25VL",
        "qwen3_vl": "neverblink.models.qwen3_vl:Qwen3VL",
        "qwen3_vl_moe": "neverblink.models.qwen3_vl:Qwen3VLMoe",
        "qwen3_5": "neverblink.models.qwen3_5:Qwen35",
        "qwen3_5_moe": "neverblink.models.qwen3_5:Qwen35Moe",
        "smolvlm": "neverblink.models.smolvlm:SmolVLM",
        "idefics3": "neverblink.models.smolvlm:Idefics3",
        "internvl": "neverblink.models.internvl:InternVL",
        "llava_onevision": "neverblink.models.llava_onevision:LlavaOneVision",
        "gemma3": "neverblink.models.gemma3:Gemma3",
    },
)
# Families that people ask for and that are not here, and why; said when such a checkpoint is named.
ABSENT = {
    "gemma3_text": "it is the text-only Gemma 3; take a checkpoint from 4B on, which sees",
    "gemma3n": "some of its layers read the keys of others, which the arena of the KV cache does not know yet",
    "gemma4": "its layers have heads of two sizes and some read the keys of others, which the arena does not know yet",
    "glm4v": "its rotary embedding turns neighbouring values in pairs, and cached keys are turned in halves here",
    "glm4v_moe": "its rotary embedding turns neighbouring values in pairs, and cached keys are turned in halves here",
    "internvl_chat": "it is InternVL with remote code, which is never run; take the checkpoint whose name ends in -hf",
}
