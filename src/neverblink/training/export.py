"""Puts a trained checkpoint into the package: bfloat16 weights, tokenizer, card.

python -m neverblink.training.export runs/arcade src/neverblink/bundled/arcade
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch

FILES = ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json", "generation_config.json")


def export(run: Path, to: Path) -> None:
    """Write `to` anew from a run's folder; float32 weights become bfloat16 (half the size; measured after export)."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(run, dtype=torch.bfloat16)
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir(parents=True)
    model.save_pretrained(to)
    for name in FILES:
        if (run / name).is_file():
            shutil.copy(run / name, to / name)
    (to / "model.safetensors").chmod(0o644)
    card = json.loads((run / "neverblink.json").read_text())
    log = run / "log.jsonl"
    if log.is_file():
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        card["training"]["last_log_line"] = lines[-1]
    (to / "neverblink.json").write_text(json.dumps(card, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder that training wrote")
    parser.add_argument("to", type=Path, help="folder of the package")
    args = parser.parse_args()
    export(args.run, args.to)
    size = sum(f.stat().st_size for f in args.to.iterdir())
    print(f"{args.to}: {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
