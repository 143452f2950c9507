"""`neverblink watch SOURCE`: captions of a video while it runs."""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neverblink.cli.options import OVERLOADS, POSITIONS, WatchOptions
from neverblink.errors import ConfigError, SourceError

if TYPE_CHECKING:
    from neverblink.outputs.base import Output
    from neverblink.types import Chunk, EventType, SourceInfo

# Parameters. Below this a second thread wins little on a free core, and on a busy one the two wait for each other: the
# bundled model took 47 ms a second of video with one thread and 3,158 ms with two beside a training run (2 cores).
SMALL = 50_000_000

# typer reads each default below as "not given"; the real ones are in WatchOptions, and the help text shows those.
_D = WatchOptions
# Options that a stream has under the same name, and those of how a second is spoken.
_STREAM = ("fps", "positions", "gate", "encoder_cache", "compress", "loop_tokens", "kv_dtype")
_SPEAK = ("seed", "max_tokens_per_second", "temperature", "quiet_from")
_SPEC = "NAME[:OPTION=VALUE,...]"


def _option(help: str, default: object = None, metavar: str | None = None) -> Any:
    shown = (
        ""
        if default is None
        else f" [default: {default:g}]"
        if isinstance(default, float)
        else f" [default: {default}]"
    )
    return typer.Option(help=help + shown, show_default=False, metavar=metavar)


def watch(
    context: typer.Context,
    source: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="A video or picture file, camera:0 or /dev/video0, rtsp:// http:// https:// (HLS too), screen, or "
            "arcade:pong; several are watched at once.",
        ),
    ],
    model: Annotated[str | None, _option("Model: bundled, a folder, or a hub id.", _D.model, "MODEL")] = None,
    fps: Annotated[float | None, _option("Frames looked at per second of video; else the model's own.")] = None,
    policy: Annotated[
        str | None, _option("What stays in the KV cache; else the model's own choice.", metavar="NAME")
    ] = None,
    positions: Annotated[
        str | None, _option("Positions of what stays in the cache.", _D.positions, "|".join(POSITIONS))
    ] = None,
    seconds: Annotated[float | None, _option("Stop after so many seconds of video.")] = None,
    realtime: Annotated[
        bool | None,
        typer.Option(
            "--realtime/--no-realtime",
            show_default=False,
            help="Play a file at its own speed; the default for arcade games only.",
        ),
    ] = None,
    vtt: Annotated[str | None, _option("Write WebVTT subtitles.", metavar="FILE")] = None,
    srt: Annotated[str | None, _option("Write SubRip subtitles.", metavar="FILE")] = None,
    jsonl: Annotated[str | None, _option("Write every event as a line of JSON.", metavar="FILE")] = None,
    journal: Annotated[
        str | None, _option("Keep every event, with pictures, in a journal that can be searched.", metavar="FILE")
    ] = None,
    seed: Annotated[int | None, _option("Make sampling repeatable.")] = None,
    start: Annotated[float | None, _option("Second of the video to start at.", _D.start)] = None,
    end: Annotated[float | None, _option("Second of the video to end at.")] = None,
    max_tokens_per_second: Annotated[
        int | None, _option("How much may be said about one second; else the model's own.")
    ] = None,
    temperature: Annotated[float | None, _option("Sampling temperature; 0 is greedy; else the model's own.")] = None,
    quiet_from: Annotated[
        float | None,
        _option("Say nothing of a second where silence is at least so probable, 0 to 1; else the model's own."),
    ] = None,
    query: Annotated[str | None, _option("What to talk about, for models that take instructions.")] = None,
    ask: Annotated[
        list[str] | None,
        _option("A question at a second, such as '12.5:What is the score?'; may be repeated.", metavar="SECOND:TEXT"),
    ] = None,
    recall: Annotated[
        bool, _option("Put what was said about it so far in front of each question; for one source.")
    ] = False,
    device: Annotated[str | None, _option("cpu, cuda, cuda:1 ...; else the best one found.")] = None,
    dtype: Annotated[
        str | None, _option("float32, bfloat16, float16, or int8 on a CPU; else what suits the device.")
    ] = None,
    attn: Annotated[str | None, _option("Attention implementation, such as sdpa or eager.")] = None,
    revision: Annotated[str | None, _option("Revision of a hub model.")] = None,
    lora: Annotated[
        str | None, _option("Folder of a PEFT LoRA adapter to merge into the model.", metavar="DIR")
    ] = None,
    threads: Annotated[int | None, _option("CPU threads of the model.")] = None,
    sink_tokens: Annotated[int | None, _option("First text tokens that always stay.")] = None,
    text_window: Annotated[int | None, _option("Latest text tokens that stay.")] = None,
    vision_window: Annotated[float | None, _option("Seconds of video that stay.", metavar="SECONDS")] = None,
    max_streams: Annotated[
        str | None, _option("Of several sources: streams that memory is kept for.", _D.max_streams, "N|auto")
    ] = None,
    overload: Annotated[
        str | None,
        _option(
            "Of several sources: what becomes of a second that comes too early [default: live sources drop-oldest, "
            "files slow].",
            metavar="|".join(OVERLOADS),
        ),
    ] = None,
    pipeline: Annotated[
        bool | None,
        typer.Option(
            "--pipeline/--no-pipeline",
            show_default=False,
            help="Read and encode the next second while this one is spoken; the default on a GPU.",
        ),
    ] = None,
    kv_budget: Annotated[int | None, _option("Rows of the KV cache, for the policies full and streaming-vlm.")] = None,
    gate: Annotated[
        str | None,
        _option("Skip frames that bring nothing new, before the encoder: pixel, grt, curvestream ...", metavar=_SPEC),
    ] = None,
    encoder_cache: Annotated[
        str | None, _option("Encode only what has changed of a picture: stc.", metavar=_SPEC)
    ] = None,
    compress: Annotated[
        str | None,
        _option("Tell only some tokens of a picture: stc, differential, evs, decay; joined by +.", metavar=_SPEC),
    ] = None,
    loop_tokens: Annotated[
        int | None,
        _option("Forget the commentary once so many tokens of it only repeat themselves; 0 never. [default: 160]"),
    ] = None,
    kv_dtype: Annotated[
        str | None, _option("Hold keys and values of vision in bytes, all else exactly.", metavar="int8|fp8")
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Show it as a live page in a browser too.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from.")] = False,
) -> None:
    """Say every second what happens in a video.

    Captions go to standard output, everything else to standard error. Ctrl-C ends with whole files. Each option can
    also be set in the environment: NEVERBLINK_FPS=2.
    """
    from neverblink.cli.settings import load

    fields = WatchOptions.__dataclass_fields__
    given = {name: value for name, value in context.params.items() if name in fields and value is not None}
    try:
        if open_page and len(source) > 1:
            raise ConfigError("--open shows one source; for several use: neverblink serve SOURCE SOURCE ...")
        if len(source) == 1:
            (run_page if open_page else run)(source[0], load(given), quiet=quiet)
        else:
            run_many(source, load(given), quiet=quiet)
    except KeyboardInterrupt:
        return  # the way to end an endless video
    except BrokenPipeError:
        # Whoever read our output went away (`| head`). Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run(name: str, options: WatchOptions, *, quiet: bool = False) -> None:
    """Watch until the source ends. What can be refused at once is refused before the model is loaded."""
    from neverblink.memory.output import JournalOutput
    from neverblink.outputs.base import Outputs, Recorder
    from neverblink.outputs.console import Console
    from neverblink.sources import redact

    info = _ask(name, options)
    _check_policy(options)
    with ExitStack() as stack:
        files = [stack.enter_context(output) for output in _files(options)]
        model = load_model(options)
        if not quiet:
            for line in _introduction(model, info.kind):
                print(line, file=sys.stderr, flush=True)
        journal = next((output for output in files if isinstance(output, JournalOutput)), None)
        recorder = Recorder(model.name, "main" if journal is None else journal.begin(redact(name), time.time()))
        console = stack.enter_context(Console(quiet=quiet))
        everywhere = Outputs([console, *files], recorder)

        def note(kind: EventType, text: str, at: float) -> None:
            everywhere.write(recorder.note(kind, text, at))

        captions = model.watch(
            name,
            **_how(options),
            realtime=_in_real_time(name, options),
            recall=options.recall,
            on_event=note,
            **({} if journal is None else {"on_chunk": lambda chunk: journal.see(chunk.frames[-1].pixels)}),
        )
        stack.enter_context(closing(captions))  # closes the source, however this ends
        at = options.start
        try:
            for caption in captions:
                at = caption.end
                console.status.kv_budget = caption.kv_budget or None
                for event in recorder.caption(caption):
                    everywhere.write(event)
        except SourceError as error:
            Outputs(files, recorder).write(recorder.note("error", str(error), at))  # main tells the console
            raise


def run_many(names: list[str], options: WatchOptions, *, quiet: bool = False) -> None:
    """Watch several sources until the last has ended; one that fails ends alone, and is told again at the end."""
    from neverblink.memory.output import JournalOutput
    from neverblink.outputs.base import Outputs, Recorder
    from neverblink.outputs.console import Console
    from neverblink.sources import redact

    if options.recall:
        raise ConfigError(f"--recall is for one source, here are {len(names)}; leave it out, or ask `neverblink serve`")
    ids = {str(number): name for number, name in enumerate(names, start=1)}
    infos = {number: _ask(name, options) for number, name in ids.items()}
    _check_policy(options)
    with ExitStack() as stack:
        shared = [stack.enter_context(output) for output in _files(replace(options, vtt=None, srt=None))]
        own = {number: [stack.enter_context(o) for o in _files(_numbered(options, number))] for number in ids}
        model = load_model(options)
        console = stack.enter_context(Console(quiet=quiet, several=True))
        journal = next((output for output in shared if isinstance(output, JournalOutput)), None)
        labels = {n: n if journal is None else journal.begin(redact(name), time.time()) for n, name in ids.items()}
        recorders = {number: Recorder(model.name, label) for number, label in labels.items()}
        outputs = {n: Outputs([console, *shared, *own[n]], recorders[n]) for n in ids}

        def tell(text: str) -> None:
            if not quiet:
                print(text, file=sys.stderr, flush=True)

        def note(number: str, kind: EventType, text: str, at: float) -> None:
            outputs[number].write(recorders[number].note(kind, text, at))

        last: dict[str, dict[float, Any]] = {number: {} for number in ids}  # the newest picture of each coming second

        def look(number: str, chunk: Chunk) -> None:
            last[number][chunk.end] = chunk.frames[-1].pixels

        kinds = {info.kind for info in infos.values()}
        for line in _introduction(model, "arcade" if kinds == {"arcade"} else "several"):
            tell(line)
        for number, info in infos.items():
            tell(f"{labels[number]}: {info.name}")
        results = model.watch_many(
            ids,
            max_streams=options.slots(),
            overload=options.overload,
            on_memory=tell,
            **_how(options),
            realtime={n: _in_real_time(name, options) for n, name in ids.items()},
            on_event=note,
            **({} if journal is None else {"on_chunk": look}),
        )
        stack.enter_context(closing(results))
        at, failed = dict.fromkeys(ids, options.start), dict[str, Exception]()
        for result in results:
            if result.error is not None:
                failed[result.stream_id] = result.error
                note(result.stream_id, "error", str(result.error), at[result.stream_id])
            elif result.caption is not None:
                at[result.stream_id] = result.caption.end
                if journal is not None:
                    journal.see(last[result.stream_id][result.caption.end])
                    last[result.stream_id] = {k: v for k, v in last[result.stream_id].items() if k > result.caption.end}
                for event in recorders[result.stream_id].caption(result.caption):
                    outputs[result.stream_id].write(event)
    if failed:
        ended = ", ".join(labels[number] for number in sorted(failed))
        raise SourceError(f"{len(failed)} of {len(ids)} streams ended with an error: {ended}")


def _numbered(options: WatchOptions, number: str) -> WatchOptions:
    """One stream's own subtitle files: its number stands before the suffix."""

    def own(path: str | None) -> str | None:
        return None if path is None else str(Path(path).with_stem(f"{Path(path).stem}-{number}"))

    return replace(options, vtt=own(options.vtt), srt=own(options.srt), jsonl=None, journal=None)


def _how(options: WatchOptions) -> dict[str, Any]:
    """What `Model.watch` and `Model.watch_many` are given alike."""
    names = (*_STREAM, *_SPEAK, "policy", "pipeline", "seconds", "start", "end", "query")
    own = {name: getattr(options, name) for name in names}
    return own | {"questions": options.questions(), "policy_options": options.policy_options()}


def _in_real_time(name: str, options: WatchOptions) -> bool:
    return name.startswith("arcade:") if options.realtime is None else options.realtime


def run_page(name: str, options: WatchOptions, *, quiet: bool = False) -> None:
    """Watch on the live page as well, until Ctrl-C; what is kept is what the options name."""
    from tempfile import TemporaryDirectory

    from neverblink.cli import serve
    from neverblink.outputs.console import Console

    server = serve.parts()
    for flag, given in (
        ("--start", options.start),
        ("--end", options.end),
        ("--ask", options.ask),
        ("--recall", options.recall),
    ):
        if given:
            raise ConfigError(f"{flag} and --open do not go together: the page is about now, and asks questions itself")
    _ask(name, options)
    _check_policy(options)
    spec = server.Spec(
        source=name,
        realtime=True if options.realtime is None else options.realtime,
        fps=options.fps,
        query=options.query,
        seconds=options.seconds,
    )

    def load() -> tuple[Any, Any]:
        model = load_model(options)
        return model, model.options(
            options.policy,
            options.policy_options(),
            {name: getattr(options, name) for name in _SPEAK},
            **{name: getattr(options, name) for name in _STREAM},
        )

    def over() -> None:
        if not quiet:
            print("the source is over; it can still be asked on the page, Ctrl-C ends", file=sys.stderr, flush=True)

    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory(prefix="neverblink-"))
        files = [stack.enter_context(output) for output in _files(options)]
        console = stack.enter_context(Console(quiet=quiet))
        served = server.ServeOptions(data=folder, max_streams=4)
        outputs = [console, *files]
        serve.run(served, [spec], load, open_page=True, any_port=True, outputs=outputs, on_over=over)


def _ask(name: str, options: WatchOptions) -> SourceInfo:
    """Open the source and close it again: a wrong name ends here, in an instant and not after the model has loaded.

    It is opened again when the model is there: a live source left open would lose frames while nobody can look.
    """
    from neverblink.sources import SourceOptions, open_source

    fps = SourceOptions().fps if options.fps is None else options.fps
    with open_source(name, SourceOptions(fps=fps, start=options.start, end=options.end)) as source:
        info: SourceInfo = source.info
        return info


def _check_policy(options: WatchOptions) -> None:
    # Both import torch, so they come after the source has been refused.
    from neverblink.economy import make_parts
    from neverblink.kv.policies import make_policy
    from neverblink.models.bundled import Card

    make_policy(options.policy or Card().policy, **options.policy_options())  # a model's own has the same windows
    make_parts(options.gate, options.encoder_cache, options.compress)


def _files(options: WatchOptions) -> list[Output]:
    from neverblink.outputs import OUTPUTS

    paths = {"vtt": options.vtt, "srt": options.srt, "jsonl": options.jsonl, "journal": options.journal}
    return [OUTPUTS[name](path) for name, path in paths.items() if path is not None]


def load_model(options: WatchOptions) -> Any:
    if options.threads is not None:
        import torch

        torch.set_num_threads(options.threads)
    from neverblink import Model

    model = Model.from_pretrained(
        options.model,
        device=options.device,
        dtype=options.dtype,
        attn=options.attn,
        revision=options.revision,
        lora=options.lora,
    )
    if options.threads is None and model.device == "cpu" and model.parameters < SMALL:
        import torch

        torch.set_num_threads(1)
    return model


def _introduction(model: Any, kind: str) -> list[str]:
    """What was chosen and why, and a warning when the model is out of its depth."""
    chosen = " · ".join(f"{what} {value} ({why})" for what, value, why in model.describe())
    lines = [f"{model.name}: {chosen}" if chosen else model.name]
    if model.domain is not None and kind != "arcade":
        lines.append(f"this bundled model only knows {model.domain}; name another with --model PATH_OR_HUB_ID")
    return lines
