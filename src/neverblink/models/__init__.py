"""Model families: one adapter file each, found by the `model_type` of a checkpoint's config."""

from neverblink.registry import Registry

families = Registry("model family", {"qwen2_5_vl": "neverblink.models.qwen2_5_vl:load"})
