"""`neverblink data`: make data to train on, and check it."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from neverblink.errors import ConfigError, MissingExtra

app = typer.Typer(
    help="Make data to train on, and check it.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
SHOWN = 20  # faults of a check that are printed unless all are asked for


@app.command("arcade")
def arcade(
    out: Annotated[Path, typer.Option(help="Folder to write into; files that are there already are kept.")],
    game: Annotated[
        list[str] | None, typer.Option(help="Which game; may be repeated; 'all' for every one. [default: pong]")
    ] = None,
    hours: Annotated[float, typer.Option(help="Hours of video of each game.")] = 1.0,
    seed: Annotated[int, typer.Option(help="The first file's seed; each file has its own.")] = 0,
    minutes: Annotated[float, typer.Option(help="Minutes of one file.")] = 10.0,
    fps: Annotated[int, typer.Option(help="Pictures a second.")] = 8,
    ask_every: Annotated[float, typer.Option(help="Mean seconds between two questions; 0 asks none.")] = 30.0,
    workers: Annotated[int, typer.Option(help="Files that are made at once.")] = 1,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from.")] = False,
) -> None:
    """Make videos of arcade games with true commentary.

    MP4 files, and for each game a .jsonl with what is to be said in every second and questions with their answers:
    `neverblink train` reads it as it is.
    """
    for name, value in (("--hours", hours), ("--minutes", minutes), ("--fps", fps), ("--workers", workers)):
        if not 0 < value < float("inf"):
            raise ConfigError(f"{name} is {value}; it must be above 0")
    if not 0 <= ask_every < float("inf") or seed < 0 or fps > 60:
        raise ConfigError(f"--ask-every {ask_every} and --seed {seed} must be 0 or more, --fps {fps} at most 60")
    if find_spec("ale_py") is None:
        raise MissingExtra("ale-py", "arcade", "playing arcade games")
    from neverblink.training.sft.arcade import films, games_of, make

    games = games_of(game or ["pong"])
    seconds, each = max(1, round(hours * 3600)), max(1, round(minutes * 60))
    wanted = [
        film for name in games for film in films(name, seconds, seed, file_seconds=each, fps=fps, ask_every=ask_every)
    ]
    for number, film in enumerate(make(wanted, out, workers), start=1):
        print(f"{film.name}.mp4 ({number} of {len(wanted)})", file=sys.stderr, flush=True)
    print(f"{len(wanted)} files in {out}; next: neverblink train {out} --model MODEL --out RUN", file=sys.stderr)


@app.command("check")
def check(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A folder with .jsonl files, or one such file.")],
    decode: Annotated[bool, typer.Option("--decode", help="Also open each video and look at the span's end.")] = False,
    all_faults: Annotated[bool, typer.Option("--all", help=f"Print every fault, not only the first {SHOWN}.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from.")] = False,
) -> int:
    """Check every record and count what there is.

    Each fault is named with its file and line, and the exit status is 1 when there are any.
    """
    from collections import Counter

    from neverblink.training.sft.records import Fault, Record, live, scan

    counts: Counter[str] = Counter()

    def count(number: int, record: Record) -> None:
        _, seconds = live(record)
        counts.update(
            seconds=len(seconds),
            talk=sum(second.talk for second in seconds),
            words=sum(len(word.text.split()) for word in record.words),
            questions=len(record.asked),
        )

    index = scan(data, count)
    faults, videos = list(index.faults), set()
    for number in range(len(index)):
        record, (file, _, line) = index[number], index.places[number]
        video = index.video(number, record)
        videos.add(video)
        reason = _fault_of_video(video, record.end, decode)
        if reason:
            faults.append(Fault(file, line, reason))
    for fault in faults if all_faults else faults[:SHOWN]:
        print(fault)
    if len(faults) > SHOWN and not all_faults:
        print(f"and {len(faults) - SHOWN} more (--all prints them)")
    for key, times in index.unused.items():
        print(f"not used: {key!r}, {times} times")
    share = counts["talk"] / counts["seconds"] if counts["seconds"] else 0.0
    print(
        f"{len(index)} records of {len(videos)} videos, {counts['seconds'] / 3600:.2f} h, talk in {share:.0%} of the "
        f"seconds, {counts['words']} words, {counts['questions']} questions, {len(faults)} faults"
    )
    return 1 if faults else 0


def _fault_of_video(video: Path, end: float, decode: bool) -> str:
    """Why a record's video cannot be used; "" when it can."""
    if not video.is_file():
        return f"no video at {video}"
    if not decode:
        return ""
    from neverblink.errors import NeverblinkError
    from neverblink.training.sft.dataset import look

    try:
        look(video, max(0, int(end + 1e-6) - 1), 1, fps=2.0)
    except NeverblinkError as error:
        return str(error)
    return ""
