"""What a second of video costs: every way to remember on the same stream, with the machine's floor beside it.

    neverblink bench latency --model toy --seconds 1200 --json latency.jsonl --plot latency.png
    neverblink bench latency --shape qwen2.5-vl-7b --random-weights --device cuda --size 640x360 --json latency.jsonl

One JSON line a strategy. Pictures are made up and every second says the same number of tokens, so all strategies do
equal work: what differs is what they hold and what they feed again. Speed does not depend on what is said.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from neverblink.bench.floor import Meter, Rates, Work, measure_rates
from neverblink.bench.latency_figures import STEP, Measured, Workload, per_chunk, series, summary
from neverblink.bench.latency_report import plot, table
from neverblink.bench.report import append, facts, pyplot
from neverblink.bench.spent import PARTS, add_parts
from neverblink.decoding.speak import Sampler, SpeakOptions
from neverblink.engine import Engine
from neverblink.errors import BudgetError, ConfigError, MissingExtra, NeverblinkError
from neverblink.kv.policies import make_policy, policies
from neverblink.models.varlen import kernel
from neverblink.script import Script
from neverblink.stream import Stream
from neverblink.types import Caption, Chunk, Frame

if TYPE_CHECKING:
    from neverblink.model import Model
    from neverblink.options import StreamOptions

STRATEGIES = ("streaming", "full", "sliding", "recompute", "last-frames")
QUESTION = "What happens now?"
Drive = Callable[[Sequence[Stream], Sequence[Chunk]], list[Caption]]
Ask = Callable[[Sequence[Stream]], float]  # wall seconds to the first token of an answer of the first stream


class Unending(Sampler):
    """Greedy, and never a stop or silence: every second says as much as it may."""

    def __init__(self, stream: Stream):
        super().__init__(stream.options.speak)
        script = stream.script
        self._never = sorted({*stream.adapter.stop_ids, script.end_id, script.pad_id, *script.silence_ids[-1:]})

    @property
    def is_greedy(self) -> bool:
        return False  # the best one may be a stop

    def pick(self, logits: torch.Tensor, context: Any) -> int:
        logits = logits.clone()
        logits[self._never] = -torch.inf
        return super().pick(logits, context)


class MovingPictures:
    """A textured ground that drifts and a bright square that crosses it; the same for the same seed."""

    def __init__(self, size: tuple[int, int], fps: float, seed: int):
        width, height = size
        self._ground = np.random.default_rng(seed).integers(0, 200, (height, width, 3), dtype=np.uint8)
        self._square, self._frames = max(1, height // 6), max(1, round(fps))

    def chunk(self, second: int) -> Chunk:
        times = [second + k / self._frames for k in range(self._frames)]
        return Chunk(float(second), second + 1.0, tuple(Frame(t, self._picture(t)) for t in times))

    def _picture(self, t: float) -> np.ndarray:
        height, width, _ = self._ground.shape
        picture = np.roll(self._ground, round(8 * t) % width, axis=1)
        left, top = round(24 * t) % width, round(10 * t) % height
        picture[top : top + self._square, left : left + self._square] = 255
        return picture


def round_robin(streams: Sequence[Stream], chunks: Sequence[Chunk]) -> list[Caption]:
    """One chunk of every stream, one stream after the other."""
    return [stream.step(chunk) for stream, chunk in zip(streams, chunks, strict=True)]


class Packed:
    """Several streams through the engine, their tokens in common forwards.

    Args:
        adapter: a metered one.
    """

    def __init__(self, adapter: Any, script: Script, options: StreamOptions, count: int):
        self.engine = Engine(adapter, script, [options], max_streams=count)
        self.streams = [self.engine.add(str(i), overload="slow") for i in range(count)]

    def drive(self, streams: Sequence[Stream], chunks: Sequence[Chunk]) -> list[Caption]:
        for i, chunk in enumerate(chunks):
            self.engine.submit(str(i), chunk)
        said: dict[str, Caption] = {}
        for result in self.engine.run():
            if result.error is not None:
                raise result.error
            assert result.caption is not None, "nothing was asked"
            said[result.stream_id] = result.caption
        return [said[str(i)] for i in range(len(chunks))]

    def ask(self, streams: Sequence[Stream]) -> float:
        self.engine.ask("0", QUESTION)
        [result] = self.engine.run()
        assert result.ttft is not None, "an answer has a first token"
        return result.ttft


def options_for(model: Model, strategy: str, work: Workload) -> StreamOptions:
    """How a strategy's streams remember and speak."""
    from dataclasses import fields

    windows = {f.name: work.windows[f.name] for f in fields(policies[strategy]) if f.name in work.windows}
    options = model.options(strategy, windows)
    # A question is timed to its first token, so one token is all that it says.
    speak = SpeakOptions(max_tokens_per_second=work.tokens, answer_tokens=1)
    # Random weights repeat themselves: with the loop guard a stream would be emptied in the middle of its measurement.
    own = {"fps": work.fps or options.fps, "positions": work.positions, "speak": speak, "loop_tokens": 0}
    return replace(options, **own, **work.parts)  # type: ignore[arg-type]


def warm_up_of(model: Model, work: Workload) -> int:
    """Rounds until streaming's windows are full. All strategies leave out the same, so the same chunks are compared."""
    options = options_for(model, "streaming", work)
    policy = make_policy("streaming", **options.policy_options)
    text = math.ceil((policy.sink_tokens + policy.text_window) / work.tokens)
    return math.ceil(policy.vision_seconds / options.chunk_seconds) + text + 1


def measure(
    model: Model,
    strategy: str,
    work: Workload,
    drive: Drive | None = None,
    tell: Callable[[str], None] | None = None,
) -> Measured:
    """Watch made-up streams with one strategy and time every chunk; a full cache ends the run.

    Args:
        drive: how several streams share the model; None is the engine for several, and one after the other for one.
        tell: is told about progress, ten times a run.

    Raises:
        UnknownName: no such strategy. BudgetError: the cache, or a single chunk, is too large for this machine.
        MissingExtra: psutil is not there.
    """
    try:
        import psutil
    except ImportError as error:
        raise MissingExtra("psutil", "bench", "bench latency") from error
    meter, process = Meter(model.adapter), psutil.Process()
    options = options_for(model, strategy, work)
    rounds = math.floor(work.seconds / options.chunk_seconds)
    script = model.script(model.words())
    ask: Ask = _first_token_seconds
    if drive is None and work.streams > 1:
        packed = Packed(meter.adapter, script, options, work.streams)
        streams, drive, ask = packed.streams, packed.drive, packed.ask
    else:
        streams = [Stream(meter.adapter, script, options) for _ in range(work.streams)]
        drive = drive or round_robin
    for stream in streams:
        stream.sampler = Unending(stream)
    pictures = [MovingPictures(work.size, options.fps, work.seed + i) for i in range(work.streams)]
    on_cuda = model.device == "cuda"
    if on_cuda:
        torch.cuda.reset_peak_memory_stats(model.adapter.device)
    steps, ended = np.zeros(rounds, dtype=STEP), None  # written in advance: a growing list would be a slope of its own
    steps["ttft"] = np.nan
    question_due = work.ask_every
    for i in range(rounds):
        chunks = [p.chunk(i) for p in pictures]
        step = steps[i]
        meter.wait()
        began, began_cpu = time.perf_counter(), time.process_time()
        try:
            captions = drive(streams, chunks)
            step["wall"], step["cpu"] = time.perf_counter() - began, time.process_time() - began_cpu
        except (BudgetError, torch.OutOfMemoryError) as error:
            if not i:
                raise
            ended, steps = f"after {i} s: {str(error).splitlines()[0]}", steps[:i]
            break
        done = meter.take()
        _write(step, captions, done)
        if work.ask_every and chunks[0].end >= question_due:
            question_due += work.ask_every
            step["ttft"] = ask(streams)
            meter.take()
        step["rss"] = process.memory_info().rss
        if tell and (i + 1) % max(1, rounds // 10) == 0:
            tell(f"{strategy}: {i + 1} of {rounds} s, {step['rows']} KV rows, {step['wall'] * 1e3:.1f} ms a round")
    peak = torch.cuda.max_memory_allocated(model.adapter.device) if on_cuda else 0
    reserved = sum(arena.nbytes for arena in {id(stream.arena): stream.arena for stream in streams}.values())
    return Measured(steps, warm_up_of(model, work), options.frames, meter.sizes, reserved, peak, ended)


def _write(step: Any, captions: Sequence[Caption], work: Work) -> None:
    # A stage of a packed stream waits for the others', so there the model's own time counts; the rest is speaking's.
    step["make_room"] = sum(caption.seconds["make_room"] for caption in captions)
    if len(captions) == 1:
        for column, stage in (("vision", "see"), ("prefill", "read"), ("speak", "speak")):
            step[column] = captions[0].seconds[stage]
    else:
        step["vision"], step["prefill"] = work.vision, work.prefill
        step["speak"] = step["wall"] - step["make_room"] - work.vision - work.prefill
    step["end"], step["rows"] = captions[0].end, max(caption.kv_tokens for caption in captions)
    step["kv_bytes"] = max(caption.kv_bytes for caption in captions)
    for column in ("fed", "prefill_flops", "vision_flops"):
        step[column] = getattr(work, column)
    step["vision_tokens"] = sum(caption.vision_tokens for caption in captions)  # told


def _first_token_seconds(streams: Sequence[Stream]) -> float:
    began = time.perf_counter()
    streams[0].ask(QUESTION)
    return time.perf_counter() - began


def run(
    model: Model, strategies: Sequence[str], work: Workload, rates: Rates | None = None, **how: Any
) -> Iterator[tuple[dict[str, Any], Measured]]:
    """The line of each strategy and what stands behind it, as soon as it is there.

    Args:
        rates: what the device can do; None measures it. how: drive and tell of `measure`.

    Raises:
        UnknownName: no such strategy; before anything runs.
    """
    for strategy in strategies:
        make_policy(strategy, **options_for(model, strategy, work).policy_options)
    rates = rates or measure_rates(model.adapter.device, model.adapter.dtype)
    for strategy in strategies:
        options = options_for(model, strategy, work)
        measured = measure(model, strategy, work, **how)
        yield (
            {
                "benchmark": "latency",
                "strategy": strategy,
                "model": model.name,
                "params": model.parameters,
                "device": model.device,
                "dtype": str(model.adapter.dtype).removeprefix("torch."),
                "fps": options.fps,
                "size": "{}x{}".format(*work.size),
                "policy_options": options.policy_options,
                "positions": options.positions,
                "packed": work.streams > 1 and how.get("drive") is None,
                **work.parts,
                **summary(measured, work, rates),
                "series": series(measured, work),
            },
            measured,
        )


def load(arguments: argparse.Namespace, folder: Path) -> Model:
    """The model that the command line names.

    Raises:
        ConfigError: a shape without --random-weights, or both a shape and a model.
    """
    from neverblink.bench.shapes import random_model
    from neverblink.model import Model
    from neverblink.training.toy import write_toy_checkpoint
    from neverblink.training.toys import write_toy

    device, dtype, (width, height) = arguments.device, arguments.dtype, arguments.size
    if arguments.shape is None:
        if arguments.random_weights or arguments.layers:
            raise ConfigError("--random-weights and --layers belong to --shape; name a shape, or leave them out")
        name = arguments.model or "bundled"
        if name != "toy" and not name.startswith("toy:"):
            return Model.from_pretrained(name, device=device, dtype=dtype)
        family = name.partition(":")[2]
        written = write_toy(family, folder) if family else write_toy_checkpoint(folder)
        model = Model.from_pretrained(written, device=device, dtype=dtype)
        model.adapter.name = name
        return model
    if arguments.model is not None:
        raise ConfigError(f"--model {arguments.model} and --shape {arguments.shape} name two models; take one")
    if not arguments.random_weights:
        raise ConfigError(f"--shape {arguments.shape} has no weights; add --random-weights, or name a --model")
    model = random_model(
        arguments.shape, device=device, dtype=dtype, layers=arguments.layers, max_pixels=width * height
    )
    if arguments.layers:
        model.adapter.name = f"{arguments.shape}, {arguments.layers} layers"
    return model


def _size(text: str) -> tuple[int, int]:
    try:
        width, height = (int(part) for part in text.lower().split("x"))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no WIDTHxHEIGHT such as 640x360") from error
    return width, height


_WINDOWS = ("sink_tokens", "text_window", "vision_seconds", "frames", "kv_budget")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="neverblink bench latency", description=(__doc__ or "").splitlines()[0])
    default = Workload()
    add = parser.add_argument
    add("--model", help="toy, toy:FAMILY (see neverblink models), bundled, a folder or a hub id (default bundled)")
    add("--shape", help="instead of a model: qwen2.5-vl-7b or qwen2.5-vl-3b, built at its real size")
    add("--random-weights", action="store_true", help="what a shape is filled with")
    add("--layers", type=int, help="fewer layers for a shape, to try a machine that is too small for it")
    add("--strategies", default=",".join(STRATEGIES), help=f"(default {','.join(STRATEGIES)})")
    add("--seconds", type=float, default=default.seconds, help=f"of video (default {default.seconds:g})")
    add("--streams", type=int, default=default.streams, help=f"that share the model (default {default.streams})")
    add("--one-by-one", action="store_true", help="several streams in turns, not packed by the engine")
    add("--fps", type=float, default=default.fps, help="frames a second (default: the model's own)")
    add("--size", type=_size, default=default.size, help="of the pictures (default {}x{})".format(*default.size))
    add("--tokens", type=int, default=default.tokens, help=f"said about each second (default {default.tokens})")
    add("--ask-every", type=float, default=default.ask_every, help="seconds between questions, 0 for none (default 10)")
    add("--positions", default=default.positions, help="contiguous or native")
    add("--sink-tokens", type=int, help="text tokens that stay for ever (default: the model's own)")
    add("--text-window", type=int, help="recent text tokens (default: the model's own)")
    add("--vision-seconds", type=float, help="recent vision (default: the model's own)")
    add("--frames", type=int, help="for last-frames")
    add("--kv-budget", type=int, help="rows, for full")
    add("--dtype", help="float32, bfloat16 ... (default: chosen)")
    add("--device", help="cpu, cuda ... (default: chosen)")
    add("--cuda-graph", action="store_true", help="decode steps of a single stream as a CUDA graph")
    add("--compile", action="store_true", help="that step through torch.compile first; takes a minute or so to begin")
    add("--varlen", action="store_true", help="attention of all streams in one kernel, in half precision")
    add("--threads", type=int, help="of a CPU")
    add("--seed", type=int, default=default.seed, help="of the pictures")
    add_parts(parser)
    add("--json", type=Path, help="append a line a strategy to this file")
    add("--per-chunk", type=Path, help="write every chunk's figures to this file, a JSON line each")
    add("--plot", type=Path, help="draw latency and memory over the seconds, PNG")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    args = _parser().parse_args(given)
    windows = {name: getattr(args, name) for name in _WINDOWS if getattr(args, name) is not None}
    if args.threads:
        torch.set_num_threads(args.threads)
    about = facts("neverblink bench latency", given)
    lines: list[dict[str, Any]] = []
    try:
        if args.plot:
            pyplot("--plot")
        work = Workload(
            args.seconds,
            args.streams,
            args.fps,
            args.size,
            args.tokens,
            windows,
            args.positions,
            args.ask_every,
            args.seed,
            {name: getattr(args, name) for name in (*PARTS, "kv_dtype") if getattr(args, name, "")},
        )
        with tempfile.TemporaryDirectory() as folder:
            model = load(args, Path(folder))
        _quicken(model, args)
        drive = round_robin if args.one_by_one else None
        for line, measured in run(model, args.strategies.split(","), work, tell=_tell, drive=drive):
            lines.append({**line, **about})
            append(args.json, [lines[-1]])
            append(args.per_chunk, [{"strategy": line["strategy"], **row} for row in per_chunk(measured, work)])
        if args.plot:
            plot(lines, args.plot)
    except NeverblinkError as error:
        print(f"neverblink: {error}", file=sys.stderr)
        return 2
    finally:
        if lines:
            print(table(lines), end="")
    return 0


def _quicken(model: Any, args: argparse.Namespace) -> None:
    """--cuda-graph, --compile and --varlen.

    Raises:
        ConfigError: the device, the model, this torch or a kv_dtype cannot.
    """
    adapter = model.adapter
    asked = [flag for flag in ("--cuda-graph", "--compile", "--varlen") if getattr(args, flag[2:].replace("-", "_"))]
    for flag in asked:
        if getattr(args, "kv_dtype", ""):
            raise ConfigError(f"{flag} reads exact rows where they stand, --kv-dtype has bytes; leave one out")
        if flag != "--compile" and model.device != "cuda":
            raise ConfigError(f"{flag} is for a CUDA device and the model is on {model.device}; leave it out")
        if flag != "--varlen" and not getattr(adapter, "can_graph", False):
            raise ConfigError(f"{flag} does not know the text model of {adapter.family}; leave it out")
    if args.cuda_graph or args.compile:
        adapter.graph, adapter.compile = True, "inductor" if args.compile else ""
    if args.varlen:
        adapter.varlen = kernel()
        if adapter.varlen is None or adapter.dtype not in (torch.float16, torch.bfloat16):
            raise ConfigError(
                f"--varlen needs a torch whose varlen_attn takes seqused_k, and half precision; here are torch "
                f"{torch.__version__} and {adapter.dtype}; leave it out"
            )


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
