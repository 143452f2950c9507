"""`neverblink train DATA`: fine-tune a model on records of what was said."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from neverblink.errors import MissingExtra
from neverblink.training.sft.options import PRECISIONS, STAGES, TOWERS, TrainOptions

_D = TrainOptions


def _option(help: str, default: object = None, metavar: str | None = None) -> Any:
    """The default is that of TrainOptions; here None means "not given"."""
    shown = (
        ""
        if default is None
        else f" [default: {default:g}]"
        if isinstance(default, float)
        else f" [default: {default}]"
    )
    return typer.Option(help=help + shown, show_default=False, metavar=metavar)


def _switch(names: str, help: str, default: bool) -> Any:
    return typer.Option(names, help=f"{help} [default: {'yes' if default else 'no'}]", show_default=False)


def train(
    context: typer.Context,
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA", help="Folder with .jsonl records and their videos (see: neverblink data), or one .jsonl."
        ),
    ],
    model: Annotated[str, typer.Option(help="What to start from: a folder, a hub id, or 'bundled'.", metavar="MODEL")],
    out: Annotated[Path, typer.Option(help="Folder for the trained model, its checkpoints and curves.", metavar="DIR")],
    stage: Annotated[
        str | None,
        _option("'bulk' takes all windows; 'anneal', a second run, those full of talk.", _D.stage, "|".join(STAGES)),
    ] = None,
    dense: Annotated[float | None, _option("Share of seconds with talk that 'anneal' asks for.", _D.dense)] = None,
    seconds: Annotated[int | None, _option("Seconds of a window: what is learned from at once.", _D.seconds)] = None,
    overlap: Annotated[int | None, _option("Seconds that neighbouring windows share.", _D.overlap)] = None,
    fps: Annotated[float | None, _option("Pictures a second; else the model's own.")] = None,
    query: Annotated[str | None, _option("What to talk about; else the model's own, or the record's.")] = None,
    sink_tokens: Annotated[
        int | None, _option("First text tokens kept of what was said before; else as the model.")
    ] = None,
    text_window: Annotated[
        int | None, _option("Last text tokens kept of what was said before; else as the model.")
    ] = None,
    scratch: Annotated[
        bool | None, _switch("--scratch", "Start from random weights; MODEL needs a config only.", _D.scratch)
    ] = None,
    tower: Annotated[
        str | None,
        _option("What of the vision part is trained; else frozen, with --scratch trained.", metavar="|".join(TOWERS)),
    ] = None,
    lora: Annotated[
        int | None, _option("Rank of LoRA: train small matrices, write a whole model; 0 is off.", _D.lora)
    ] = None,
    epochs: Annotated[float | None, _option("How often each window is seen.", _D.epochs)] = None,
    steps: Annotated[int | None, _option("Steps of training, instead of --epochs.")] = None,
    lr: Annotated[float | None, _option("Highest learning rate; falls as a cosine.", _D.lr)] = None,
    warm_up: Annotated[float | None, _option("Share of the steps in which the rate rises.", _D.warm_up)] = None,
    weight_decay: Annotated[float | None, _option("AdamW's weight decay.", _D.weight_decay)] = None,
    batch: Annotated[int | None, _option("Windows at once, for each process.", _D.batch)] = None,
    accumulate: Annotated[int | None, _option("Batches that make up one step.", _D.accumulate)] = None,
    pack: Annotated[
        bool | None, _switch("--pack/--pad", "Put the windows of a batch into one row, without padding.", _D.pack)
    ] = None,
    precision: Annotated[
        str | None,
        _option(
            "bf16 computes in bfloat16; bf16-weights keeps the weights so too. Else bf16 on a GPU.",
            metavar="|".join(PRECISIONS),
        ),
    ] = None,
    checkpointing: Annotated[
        bool | None,
        _switch("--checkpointing/--no-checkpointing", "Compute parts twice to save memory.", _D.checkpointing),
    ] = None,
    fsdp: Annotated[
        bool | None, _switch("--fsdp", "Share weights among processes (start with torchrun).", _D.fsdp)
    ] = None,
    attn: Annotated[str | None, _option("sdpa, eager or flash_attention_2.", _D.attn)] = None,
    device: Annotated[str | None, _option("'cpu' keeps off a GPU; else the best one found.")] = None,
    seed: Annotated[int | None, _option("Order of the windows, and weights of --scratch.", _D.seed)] = None,
    workers: Annotated[int | None, _option("Processes that decode video.", _D.workers)] = None,
    resume: Annotated[bool | None, _switch("--resume", "Go on from the last checkpoint in --out.", _D.resume)] = None,
    save_every: Annotated[int | None, _option("Steps between two checkpoints.", _D.save_every)] = None,
    keep: Annotated[int | None, _option("Checkpoints that are kept.", _D.keep)] = None,
    log_every: Annotated[int | None, _option("Steps between two lines of the log.", _D.log_every)] = None,
    max_faulty: Annotated[float | None, _option("Share of broken windows at which to stop.", _D.max_faulty)] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done and what memory it needs.")
    ] = False,
    quiet: Annotated[bool | None, _switch("--quiet", "No progress bar.", _D.quiet)] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from.")] = False,
) -> None:
    """Teach a model to talk about video, second by second.

    \b
    A first run, from nothing but this package (minutes on a CPU):
      neverblink data arcade --game pong --hours 0.2 --out games
      neverblink train games --model bundled --out run --seconds 8 --overlap 4 --steps 50 --batch 4 --lr 1e-4
      neverblink watch games/pong-00000000.mp4 --model run
    Many GPUs: torchrun --nproc-per-node 8 -m neverblink train ...    Curves: tensorboard --logdir run/logs
    """
    given = {k: v for k, v in context.params.items() if k in _D.__dataclass_fields__ and v is not None}
    options = TrainOptions(**given)
    options.check()
    wanted = [("accelerate", "accelerate"), ("tensorboard", "tensorboard"), *[("peft", "peft")] * bool(options.lora)]
    for module, package in wanted:
        if find_spec(module) is None:
            raise MissingExtra(package, "train", "training")
    from neverblink.training.sft.trainer import train as run

    run(data, model, out, options, dry_run=dry_run)
