"""The training loop of the decoder: next-token loss on what the assistant said, full attention inside a window.

Runs on a CPU in bfloat16 autocast, or on one GPU. Checkpoints often, resumes where it stopped.
"""

from __future__ import annotations

import ctypes
import json
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from neverblink.errors import ConfigError
from neverblink.models.qwen2_5_vl import Qwen25VL
from neverblink.training.windows import Batch


@dataclass(frozen=True, slots=True)
class LoopOptions:
    steps: int = 1_000
    batch: int = 24  # windows a step
    lr: float = 1e-3
    last_lr: float = 0.05  # share of lr at the end of the cosine
    warm_up: int = 60  # steps
    weight_decay: float = 0.05
    clip: float = 1.0
    save_every: int = 100  # steps
    minutes: float = math.inf  # stop earlier when this much wall time has passed; the cosine then follows the clock


def loss_of(adapter: Qwen25VL, batch: Batch, autocast: bool) -> tuple[torch.Tensor, dict[str, float]]:
    """Weighted mean loss over the learned tokens, and plain figures of the step."""
    device = adapter.device
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast):
        embeds = adapter.embed(batch.ids)
        embeds = embeds.masked_scatter(batch.pixels.to(device)[..., None], batch.vision.to(device, embeds.dtype))
        hidden = adapter.hidden(embeds, batch.positions)
        target = batch.learn[:, 1:].to(device)
        logits = adapter.logits(hidden[:, :-1][target])
    goal = batch.ids[:, 1:].to(device)[target]
    weight = batch.weight[:, 1:].to(device)[target]
    each = torch.nn.functional.cross_entropy(logits.float(), goal, reduction="none")
    right = (logits.argmax(-1) == goal).float()
    loss = (each * weight).sum() / weight.sum()
    heavy = weight > 1
    figures = {
        "nll": each.mean().item(),
        "right": right.mean().item(),
        "right_heavy": right[heavy].mean().item() if heavy.any() else math.nan,
        "tokens": float(batch.ids.numel()),
    }
    return loss, figures


def optimizers_of(
    learned: Sequence[torch.nn.Parameter], layers: Iterable[torch.nn.Module], lr: float, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for the rest, of which vectors do not decay.

    Muon's updates are orthogonal matrices (Jordan et al., 2024), scaled so that AdamW's rate and decay fit both.
    """
    inside = {id(p) for layer in layers for p in layer.parameters() if p.ndim == 2}
    others = [p for p in learned if id(p) not in inside]
    groups = [
        {"params": [p for p in others if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0},
    ]
    matrices = [p for p in learned if id(p) in inside]
    muon = torch.optim.Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), fused=True)]


def give_back_memory() -> None:
    """Hand free memory back to the system, where the C library can: batches of many lengths leave holes in a heap that
    the settings of scripts/train-arcade keep, until nothing is left."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def train(
    adapter: Qwen25VL,
    batches: Iterator[Batch],
    options: LoopOptions,
    folder: Path,
    stage: str,
    save: Any,
    report: Any = print,
) -> None:
    """Train in place.

    Args:
        batches: endless.
        folder: keeps `log.jsonl` and the optimizer's state (read back with weights_only).
        stage: names that state; a stage of another name begins with a fresh optimizer.
        save: callable without arguments that writes the weights.
        report: gets one line of text now and then.

    Raises:
        ConfigError: the loss is not finite; the last checkpoint stands.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = adapter.model
    model.train()
    learned = [p for p in model.parameters() if p.requires_grad]
    layers = (*model.model.language_model.layers, *model.model.visual.blocks)
    optimizers = optimizers_of(learned, layers, options.lr, options.weight_decay)
    state, first = folder / f"{stage}.pt", 0
    if state.is_file():
        kept = torch.load(state, weights_only=True)
        for optimizer, inner in zip(optimizers, kept["optimizers"], strict=True):
            optimizer.load_state_dict(inner)
        first = kept["step"]
    began, seen = time.monotonic(), 0.0
    averages: dict[str, float] = {}
    for step in range(first, options.steps):
        elapsed = (time.monotonic() - began) / 60
        done = max(step / options.steps, elapsed / options.minutes)
        rate = options.lr * min(1.0, (step + 1) / options.warm_up)
        rate *= options.last_lr + (1 - options.last_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = rate
        loss, figures = loss_of(adapter, next(batches), autocast=True)
        if not torch.isfinite(loss):
            raise ConfigError(f"the loss is {loss.item()} at step {step}; lower --lr (now {options.lr}) and resume")
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, options.clip)
        for optimizer in optimizers:
            optimizer.step()
        seen += figures["tokens"]
        for name, value in figures.items():
            if name != "tokens" and not math.isnan(value):
                averages[name] = value if name not in averages else 0.95 * averages[name] + 0.05 * value
        last = step + 1 == options.steps or elapsed >= options.minutes
        if step % 10 == 0:
            give_back_memory()
        if step % 20 == 0 or last:
            line = {"stage": stage, "step": step, "minutes": round(elapsed, 2), "lr": rate, "tokens": seen, **averages}
            with (folder / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            report(" ".join(f"{k} {v if isinstance(v, str) else format(v, '.4g')}" for k, v in line.items()))
        if (step + 1) % options.save_every == 0 or last:
            save()
            kept = [optimizer.state_dict() for optimizer in optimizers]
            torch.save({"optimizers": kept, "step": step + 1, "options": asdict(options)}, state)
        if last:
            break
    model.eval()
