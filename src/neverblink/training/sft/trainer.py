"""Fine-tuning with the stock transformers Trainer: its loop, its checkpoints, its FSDP and DDP, our samples.

The model is the stock class, called with the positions of the stream (see collate.py) and asked for the logits of the
learned tokens only: those of all tokens would take more memory than the rest of a step.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import TensorBoardCallback
from transformers.utils import logging

from neverblink.errors import ConfigError, ModelError
from neverblink.kv.policies import Streaming
from neverblink.model import Model
from neverblink.models.bundled import Card, read_card
from neverblink.models.choices import find
from neverblink.script import Script, ScriptOptions
from neverblink.training.sft import memory
from neverblink.training.sft.collate import IGNORED, collate
from neverblink.training.sft.dataset import Windows
from neverblink.training.sft.options import TrainOptions, check_out
from neverblink.training.sft.records import files_of
from neverblink.vision.pixels import PixelOptions, normalise

LINEAR = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"  # what LoRA stands beside
FEW = 20  # faulty windows say nothing about a share before there are so many
PICTURE_FILES = ("preprocessor_config.json", "video_preprocessor_config.json")

Report = Callable[[str], None]


class SftTrainer(Trainer):  # type: ignore[misc]  # transformers is not typed here
    """The stock Trainer with the loss of a stream.

    Args:
        pixels: how bytes become what the vision tower was trained on.
        max_faulty: share of windows that may be faulty; above it training stops with a ConfigError.
    """

    def __init__(self, *args: Any, pixels: PixelOptions, max_faulty: float, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.pixels, self.max_faulty = pixels, max_faulty
        self.seen, self.faulty = 0, 0  # windows of this process
        self.model_accepts_loss_kwargs = True  # so that the Trainer counts the learned tokens of a whole step

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean loss over the learned tokens of the step, of all processes and accumulated batches together."""
        self._count(inputs["faults"], inputs["size"])
        logits, goal = predict(model, inputs, self.pixels)
        loss = torch.nn.functional.cross_entropy(logits, goal, ignore_index=IGNORED, reduction="sum")
        if num_items_in_batch is None:
            loss = loss / (goal != IGNORED).sum().clamp(min=1)
        else:  # gradients are averaged over processes, the count is of all of them
            shares = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
            loss = loss * shares / max(int(num_items_in_batch), 1)
        return (loss, {"logits": logits}) if return_outputs else loss

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """transformers 5.23 writes the weights of Qwen2.5-VL under their published names and looks for them under its
        own: all are "missing", which is a warning, and training goes on from the weights of the start. So `train` has
        loaded whole weights with from_pretrained, which knows both names; LoRA has a file of its own."""
        if isinstance(self.model, PreTrainedModel):
            return
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _count(self, faults: list[str], size: int) -> None:
        self.seen, self.faulty = self.seen + size, self.faulty + len(faults)
        for fault in faults:
            print(f"neverblink: left out a window: {fault}", file=sys.stderr, flush=True)
            with (Path(self.args.output_dir) / "faults.log").open("a", encoding="utf-8") as log:
                log.write(fault + "\n")
        if self.faulty >= FEW and self.faulty > self.max_faulty * self.seen:
            raise ConfigError(
                f"{self.faulty} of {self.seen} windows were faulty, more than --max-faulty {self.max_faulty:g}; the "
                f"reasons are in {self.args.output_dir}/faults.log (see also: neverblink data check)"
            )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """What the stock one logs, and how many windows were left out."""
        if "loss" in logs:
            mine = torch.tensor(self.faulty, device=self.args.device)
            logs["windows_left_out"] = int(self.accelerator.reduce(mine, "sum"))
        super().log(logs, start_time)


def predict(model: Any, inputs: dict[str, Any], pixels: PixelOptions) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [n, vocabulary] float32 of the places where some row learns, and the goals [n] (IGNORED where not)."""
    labels = inputs["labels"][:, 1:]
    at = (labels != IGNORED).any(0).nonzero()[:, 0]
    if not len(at):  # nothing to learn: one place keeps the graph whole
        at = torch.zeros(1, dtype=torch.long, device=labels.device)
    out = model(
        input_ids=inputs["input_ids"],
        position_ids=inputs["position_ids"],
        pixel_values_videos=normalise(inputs["patches"], pixels),
        video_grid_thw=inputs["grids"],
        use_cache=False,
        logits_to_keep=at,
    )
    return out.logits.float().flatten(0, 1), labels[:, at].flatten()


class CardCallback(TrainerCallback):  # type: ignore[misc]
    """Makes every checkpoint one that `neverblink watch --model` reads."""

    def __init__(self, write: Callable[[Path], None]):
        self.write = write

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.write(Path(args.output_dir) / f"checkpoint-{state.global_step}")


def train(data: Path, model: str, out: Path, options: TrainOptions, *, dry_run: bool = False) -> None:
    """Train and write a checkpoint folder; see `neverblink train --help`.

    Args:
        data: JSONL file or folder. model: a folder, a hub id or "bundled".
        dry_run: say what would be done, and stop.

    Raises:
        ConfigError, ModelError: what was asked for cannot be done.
    """
    options.check()
    files_of(data)  # refused before a model is loaded for it
    last = None if dry_run else check_out(out, options.resume)
    folder, shown = find(model)
    logging.disable_progress_bar()  # of loading and saving; that of the steps is another
    arguments = _arguments(out, options)
    report: Report = (lambda line: print(line, file=sys.stderr, flush=True)) if arguments.process_index == 0 else _quiet
    precision = options.precision or ("bf16" if arguments.device.type == "cuda" else "float32")
    arguments.bf16 = precision != "float32"
    weights = folder if last is None or options.lora else last
    _copy_picture_files(folder, weights)
    adapter = _load(weights, shown, options, precision, scratch=options.scratch and weights == folder)
    card = read_card(folder)
    script = Script(adapter.tokenizer, _script_options(card, options))
    if script.pad_id != adapter.model.config.video_token_id:
        raise ModelError(f"{shown}: the tokenizer's {Script.MARKS[-1]} is not the config's video_token_id; mend one")
    fps, kept = options.fps or card.fps, _kept(card, options)
    windows = Windows(
        data,
        script,
        adapter.pixels,
        adapter.places,
        fps=fps,
        seconds=options.seconds,
        overlap=options.overlap,
        sink_tokens=int(kept["sink_tokens"]),
        text_window=int(kept["text_window"]),
        least_dense=options.dense if options.stage == "anneal" else 0.0,
    )
    _tell_data(windows, report)
    trained = _choose(adapter.model, options, precision)
    batch = _batch(windows, options)
    _tell_memory(trained, batch, options, arguments, report)
    if dry_run:
        return
    out.mkdir(parents=True, exist_ok=True)
    stated = replace(card, fps=fps, script=_said(script.options), policy_options=kept)
    write_card = partial(_write_card, folder=folder, card=stated, training={"data": str(data), **asdict(options)})
    callbacks: list[Any] = [CardCallback(write_card)]
    if arguments.process_index == 0:
        from torch.utils.tensorboard import SummaryWriter

        callbacks.append(TensorBoardCallback(SummaryWriter(str(out / "logs"))))
    trainer = SftTrainer(
        model=trained,
        args=arguments,
        train_dataset=windows,
        data_collator=_Collator(_pad_id(adapter.tokenizer), options.pack),
        processing_class=adapter.tokenizer,
        callbacks=callbacks,
        pixels=adapter.pixels,
        max_faulty=options.max_faulty,
    )
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    _finish(trainer, adapter.tokenizer, out, options, write_card)
    report(f"done: {out} (try it: neverblink watch VIDEO --model {out}; curves: tensorboard --logdir {out / 'logs'})")


class _Collator:
    """`collate` as the Trainer calls it; a class, because worker processes take it along."""

    def __init__(self, pad_id: int, pack: bool):
        self.pad_id, self.pack = pad_id, pack

    def __call__(self, examples: list[Any]) -> dict[str, Any]:
        return {**collate(examples, pad_id=self.pad_id, pack=self.pack), "size": len(examples)}


def _quiet(line: str) -> None:
    """Only the first process talks."""


def _arguments(out: Path, o: TrainOptions) -> Any:
    """The Trainer's own arguments; a process trains on one device, more devices take more processes."""
    fsdp: dict[str, Any] = (
        {"fsdp": True, "fsdp_config": {"activation_checkpointing": o.checkpointing}} if o.fsdp else {}
    )
    try:
        arguments = TrainingArguments(
            output_dir=str(out),
            num_train_epochs=o.epochs,
            max_steps=o.steps or -1,
            per_device_train_batch_size=o.batch,
            gradient_accumulation_steps=o.accumulate,
            learning_rate=o.lr,
            lr_scheduler_type="cosine",
            warmup_steps=min(o.warm_up, 0.999),
            weight_decay=o.weight_decay,
            activation_checkpointing=o.checkpointing and not o.fsdp,
            activation_checkpointing_kwargs={"use_reentrant": False},
            logging_steps=o.log_every,
            logging_first_step=True,
            save_steps=o.save_every,
            save_total_limit=o.keep,
            seed=o.seed,
            dataloader_num_workers=o.workers,
            dataloader_pin_memory=torch.cuda.is_available() and o.device != "cpu",
            remove_unused_columns=False,
            ddp_find_unused_parameters=False,
            use_cpu=o.device == "cpu",
            disable_tqdm=o.quiet,
            report_to="none",  # TensorBoard is added by hand, where the logs are easy to find
            **fsdp,
        )
    except ValueError as error:
        raise ConfigError(f"the trainer refuses this: {error}") from error
    if o.fsdp and arguments.world_size == 1:
        raise ConfigError(
            "--fsdp shares the model among processes: torchrun --nproc-per-node N -m neverblink train ..."
        )
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _load(folder: Path, shown: str, o: TrainOptions, precision: str, *, scratch: bool) -> Any:
    """The model's adapter on the CPU, from where the Trainer takes it; float32 unless its very weights are bf16."""
    wide = precision != "bf16-weights"
    if not scratch:
        adapter: Any = Model.from_pretrained(
            folder, device="cpu", dtype="float32" if wide else "bfloat16", attn=o.attn
        ).adapter
    else:
        from transformers import AutoTokenizer, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

        from neverblink.models.qwen2_5_vl import Qwen25VL, read_pixel_options

        config = Qwen2_5_VLConfig.from_pretrained(folder)
        if config.model_type != "qwen2_5_vl":
            raise ModelError(f"{shown} is of the family {config.model_type!r}; --scratch builds qwen2_5_vl only")
        torch.manual_seed(o.seed)
        config._attn_implementation = o.attn
        model = Qwen2_5_VLForConditionalGeneration(config).to(torch.float32 if wide else torch.bfloat16)
        adapter = Qwen25VL(model, AutoTokenizer.from_pretrained(folder), read_pixel_options(folder, config), name=shown)
    if adapter.family != "qwen2_5_vl":
        raise ModelError(f"{shown}: the family {adapter.family} cannot be trained yet; take a Qwen2.5-VL")
    return adapter


def _choose(model: Any, o: TrainOptions, precision: str) -> Any:
    """Freeze what is not trained; with LoRA, the model with its small weights beside the large ones."""
    tower = o.trained_tower
    for name, weight in model.model.visual.named_parameters():
        weight.requires_grad = tower == "trained" or (tower == "merger" and name.startswith("merger."))
    if not o.lora:
        return model
    from peft import LoraConfig, get_peft_model

    kept = ["merger"] if tower == "merger" else None
    return get_peft_model(
        model, LoraConfig(r=o.lora, lora_alpha=2 * o.lora, target_modules=LINEAR, modules_to_save=kept)
    )


def _script_options(card: Card, o: TrainOptions) -> ScriptOptions:
    own = card.script if o.query is None else {**card.script, "query": o.query}
    return ScriptOptions(**own)


def _pad_id(tokenizer: Any) -> int:
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id)


def _batch(windows: Windows, o: TrainOptions) -> dict[str, Any]:
    """One batch of the longest windows' kind, to see how large a step is."""
    largest = max(range(len(windows)), key=lambda i: (windows.windows[i].seconds, windows.windows[i].first))
    example = windows[largest]
    return _Collator(0, o.pack)([example] * o.batch)


def _tell_data(windows: Windows, report: Report) -> None:
    index = windows.index
    hours = sum(window.seconds for window in windows.windows) / 3600
    report(
        f"data: {len(index)} records, {len(windows)} windows ({hours:.2f} h with overlap), "
        f"{windows.left_out} windows with too little talk, {len(index.faults)} faulty lines"
    )
    for fault in index.faults[:10]:
        report(f"  faulty: {fault}")
    if len(index.faults) > 10:
        report(f"  and {len(index.faults) - 10} more; see: neverblink data check")
    for key, count in index.unused.items():
        report(f"  not used: {key!r}, {count} times")


def _tell_memory(model: Any, batch: dict[str, Any], o: TrainOptions, arguments: Any, report: Report) -> None:
    found = memory.needs(
        model,
        tokens=batch["input_ids"].numel(),
        learned=int((batch["labels"] != IGNORED).sum()),
        patches=len(batch["patches"]),
        packed=o.pack and o.batch > 1,
        checkpointing=o.checkpointing,
        bf16=arguments.bf16,
        shards=arguments.world_size if o.fsdp else 1,
    )
    step = o.batch * o.accumulate * arguments.world_size
    report(f"a step: {step} windows = {o.batch} x {o.accumulate} accumulated x {arguments.world_size} processes")
    for line in memory.table(found, arguments.device):
        report(line)


def _kept(card: Card, o: TrainOptions) -> dict[str, float]:
    """The windows of the stream that will run the model: what was asked for, else the model's own, else the paper's."""
    paper = Streaming()
    asked = {"sink_tokens": o.sink_tokens, "text_window": o.text_window}
    return {
        "sink_tokens": paper.sink_tokens,
        "text_window": paper.text_window,
        "vision_seconds": min(paper.vision_seconds, float(o.seconds)),
        **card.policy_options,
        **{name: value for name, value in asked.items() if value is not None},
    }


def _said(o: ScriptOptions) -> dict[str, Any]:
    """What of a script is not the default."""
    return {name: value for name, value in asdict(o).items() if value != getattr(ScriptOptions(), name)}


def _write_card(to: Path, *, folder: Path, card: Card, training: dict[str, Any]) -> None:
    """Beside the weights: how pictures are cut, how the model is to be run, how it was trained."""
    _copy_picture_files(folder, to)
    (to / "neverblink.json").write_text(json.dumps({**asdict(card), "training": training}, indent=1) + "\n")


def _copy_picture_files(folder: Path, to: Path) -> None:
    for name in PICTURE_FILES:
        if (folder / name).is_file() and (folder / name).resolve() != (to / name).resolve():
            shutil.copy(folder / name, to / name)


def _finish(trainer: Any, tokenizer: Any, out: Path, o: TrainOptions, write_card: Callable[[Path], None]) -> None:
    """Write the trained model into `out` itself, whole: LoRA is added to the weights that it stands beside."""
    if not o.lora:
        trainer.save_model(str(out))
    elif trainer.args.should_save:
        whole = trainer.accelerator.unwrap_model(trainer.model).merge_and_unload()
        whole.save_pretrained(out)
        tokenizer.save_pretrained(out)
    if trainer.args.should_save:
        write_card(out)
    trainer.accelerator.wait_for_everyone()
