"""What a training step needs in memory, said before it starts: the first three lines are exact, the rest estimates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Need:
    """One thing that takes memory."""

    what: str
    nbytes: int
    why: str


def needs(
    model: Any, *, tokens: int, learned: int, patches: int, packed: bool, checkpointing: bool, bf16: bool, shards: int
) -> list[Need]:
    """What one process holds at the height of a step.

    Args:
        tokens, learned, patches: of one process and step.
        shards: processes that share weights, gradients and optimizer (FSDP); 1 where each has its own.
    """
    every = [(p.numel(), p.element_size(), p.requires_grad) for p in model.parameters()]
    count, trained = sum(n for n, _, _ in every), sum(n for n, _, grad in every if grad)
    weights = sum(n * size for n, size, _ in every) // shards
    gradients = sum(n * size for n, size, grad in every if grad) // shards
    among = f", 1/{shards} each" if shards > 1 else ""
    text, vision = model.config.text_config, model.config.vision_config
    size = 2 if bf16 else 4
    layers = _activations(text.num_hidden_layers, text.hidden_size, text.intermediate_size, tokens, checkpointing)
    tower_learns = any(p.requires_grad for name, p in model.named_parameters() if ".blocks." in name)
    depth = vision.depth if tower_learns else 1
    tower = _activations(depth, vision.hidden_size, vision.intermediate_size, patches, checkpointing)
    mask = tokens * tokens if packed else 0
    how = "inputs of each layer + all of one" if checkpointing else "all of every layer"
    return [
        Need("weights", weights, f"{count:,} parameters{among}"),
        Need("gradients", gradients, f"{trained:,} of them are trained{among}"),
        Need("AdamW", 2 * gradients, f"two averages for each trained one{among}"),
        Need("activations", (layers + tower) * size + mask, f"{tokens:,} tokens, {patches:,} patches; {how}"),
        Need(
            "logits", learned * text.vocab_size * (size + 8), f"{learned:,} learned tokens x {text.vocab_size:,} words"
        ),
    ]


def _activations(layers: int, hidden: int, mlp: int, tokens: int, checkpointing: bool) -> int:
    """Numbers kept for the backward pass: two norms, q k v, attention, two sums and the three of a gated MLP."""
    one = tokens * (9 * hidden + 4 * mlp)
    return layers * tokens * hidden + one if checkpointing else layers * one


def free(device: torch.device) -> int | None:
    """Bytes that are free on a device; None where nobody knows."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    info = Path("/proc/meminfo")
    if device.type != "cpu" or not info.is_file():
        return None
    for line in info.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def table(found: list[Need], device: torch.device) -> list[str]:
    """Lines for people; the last one warns when it does not fit."""
    total, there = sum(need.nbytes for need in found), free(device)
    lines = [f"  {need.what:<12}{shown(need.nbytes):>10}  {need.why}" for need in found]
    known = "" if there is None else f", free on {device}: {shown(there)}"
    lines.append(f"  {'in all':<12}{shown(total):>10}  an estimate for one process{known}")
    if there is not None and total > there:
        lines.append(
            "  this will not fit: lower --batch or --seconds, keep --checkpointing, freeze the --tower, or take "
            "--lora 16, --precision bf16-weights or --fsdp"
        )
    return lines


def shown(nbytes: int) -> str:
    return f"{nbytes / GIB:.2f} GiB" if nbytes >= GIB / 10 else f"{nbytes / 2**20:.1f} MiB"
