"""Puts a trained checkpoint into the package: bfloat16 weights, tokenizer, card.

python -m neverblink.training.export runs/arcade src/neverblink/bundled/arcade

Of several runs, such as the ends of two parts of `talk`, it takes the mean of the weights: often better than each.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from neverblink.errors import ConfigError

SEEN = "seen.json"  # what the tower has learned to name, and how well
FILES = ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json", "generation_config.json")


def export(runs: Sequence[Path], to: Path) -> None:
    """Write `to` anew from a run's folder, or from several that began as one: the mean of their weights, the files of
    the last. float32 weights become bfloat16 (half the size; measured after export).

    Raises:
        ConfigError: the runs have weights of different shapes.
    """
    from transformers import Qwen2_5_VLForConditionalGeneration

    *others, model = (Qwen2_5_VLForConditionalGeneration.from_pretrained(run, dtype=torch.float32) for run in runs)
    weights = [dict(each.named_parameters()) for each in (*others, model)]
    for name, weight in model.named_parameters():
        shapes = [tuple(each[name].shape) if name in each else None for each in weights]
        for run, shape in zip(runs, shapes, strict=True):
            if shape != shapes[0]:
                raise ConfigError(f"{name} is {shapes[0]} in {runs[0]} and {shape} in {run}: no mean; name one run")
        weight.data = torch.stack([each[name].data for each in weights]).mean(0)
    model.to(torch.bfloat16)
    for part in (model.config.text_config, model.config.vision_config):  # the config's own it writes by itself
        part.dtype = torch.bfloat16
    run = runs[-1]
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir(parents=True)
    model.save_pretrained(to)
    for name in FILES:
        if (run / name).is_file():
            shutil.copy(run / name, to / name)
    (to / "model.safetensors").chmod(0o644)
    card = json.loads((run / "neverblink.json").read_text())
    if (run / SEEN).is_file():  # so that `see` may go on from the export
        card["training"]["seen"] = sorted(json.loads((run / SEEN).read_text()))
    for name in ("mean_of", "last_log_line"):  # of the export that the run went on from
        card["training"].pop(name, None)
    logs = [run / "log.jsonl" for run in runs]
    last = [json.loads(log.read_text().splitlines()[-1]) for log in logs if log.is_file()]
    if len(runs) > 1:
        card["training"]["mean_of"] = last
    elif last:
        card["training"]["last_log_line"] = last[0]
    (to / "neverblink.json").write_text(json.dumps(card, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", help="folder that training wrote; of several the mean")
    parser.add_argument("to", type=Path, help="folder of the package")
    args = parser.parse_args()
    export(args.runs, args.to)
    size = sum(f.stat().st_size for f in args.to.iterdir())
    print(f"{args.to}: {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
