"""How well a model speaks of a game whose truth is known: events told in time, scores read, silence kept.

    neverblink bench quality --sport pong --seed 1000000 --seconds 300

prints one line of JSON. Training never sees seeds from 1,000,000 up.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from neverblink.arcade.events import Claim, GameEvent, Score
from neverblink.arcade.sport import Sport, sports
from neverblink.bench.quiz import Memory, Quiz, Shown
from neverblink.bench.scoring import Line, Result, by_fifth, round4, score
from neverblink.bench.spent import Spent, add_parts, smaller
from neverblink.decoding.timing import cpu_time as by_cpu_time
from neverblink.errors import BudgetError, ConfigError, NeverblinkError

if TYPE_CHECKING:
    from neverblink.kv.relocate import Positions
    from neverblink.model import Model


def run_quality(
    model: str | Path | Model = "bundled",
    *,
    sport: str = "pong",
    seed: int = 1_000_000,
    seconds: int | None = None,
    policy: str | None = None,
    policy_options: Mapping[str, Any] | None = None,
    positions: Positions = "contiguous",
    quiet_from: float | None = None,
    fps: float | None = None,
    max_pixels: int | None = None,
    gate: str = "",
    encoder_cache: str = "",
    compress: str = "",
    kv_dtype: str = "",
    ask_every: float = 10.0,
    recall: bool = False,
    data: str | Path | None = None,
    video: str | Path | None = None,
    truth: str | Path | None = None,
    dtype: str | None = None,
    cpu_time: bool = False,
) -> Result:
    """Let a model watch a game, or recordings, and score what it says.

    Args:
        model: name or folder, or a loaded Model. dtype: of one that is loaded here; None chooses.
        sport: name in `neverblink.arcade.sport.sports`, hyphens allowed, or "football", which needs `data`.
        seed: of the game; it starts somewhere in the middle of one.
        seconds: media seconds to watch, as fast as the model can; None is 300 of a game, and each recording once.
        policy, policy_options: what the KV cache keeps and its windows, where not the checkpoint's own.
        quiet_from: probability of silence, see `SpeakOptions`, where it is not to be the checkpoint's own.
        fps: frames a second, where they are not to be the checkpoint's own.
        max_pixels: of one frame, after the resize; likewise.
        gate, encoder_cache, compress: ways to see less, see `StreamOptions`. kv_dtype: see there too.
        ask_every: seconds between two questions; 0 asks none. No question is remembered.
        recall: see `Model.watch`.
        data: a folder of `match_*.mp4` + `match_*.npz` (football).
        cpu_time: times are CPU times of the thread, not wall times; for a machine that does other work too.
        video, truth: a file and its truth from `neverblink.training.data.write_mp4`, instead of a live game.

    Returns:
        The fields of `score` and of `Quiz.result` and, besides the settings: by_fifth, seconds_per_chunk_p50 (wall
        seconds), kv_tokens_max, rss_mb (peak of this process, MiB), real_time_factor (wall seconds of the model for a
        media second), ended (None, or why the stream ended early: a policy that keeps everything runs out of room), and
        what `Spent.result` gives.
    """
    from neverblink.model import Model

    if isinstance(model, str | Path):
        model = Model.from_pretrained(model, dtype=dtype)
    if max_pixels is not None:
        model.adapter.pixels = smaller(model.adapter.pixels, max_pixels)  # type: ignore[attr-defined]
    own = model.options(policy, speak={"quiet_from": quiet_from}, positions=positions)
    policy = own.policy
    show = _show(sport, seed, fps or model.fps, data, video, truth)
    seconds = seconds or (None if data else 300)
    lines: list[Line] = []
    latencies: list[float] = []
    kv_tokens_max, ended = 0, None
    held = model.options().policy_options  # the same for every policy, so that all are asked alike
    memory = (
        Memory(held["vision_seconds"], held["text_window"]) if {"vision_seconds", "text_window"} <= {*held} else None
    )
    quiz = Quiz(show.sport, seed, show.take, show.shown, ask_every or math.inf, show.start_score, memory)
    captions = model.watch(
        show.source,
        fps=show.fps,
        policy=policy,
        policy_options=policy_options,
        positions=positions,
        quiet_from=quiet_from,
        seconds=seconds,
        questions=quiz,
        recall=recall,
        pipeline=False,  # the truth is taken from the game as it stands, so it must not run ahead
        gate=gate,
        encoder_cache=encoder_cache,
        compress=compress,
        kv_dtype=kv_dtype,
    )
    spent = Spent()
    clock = ExitStack()
    if cpu_time:
        clock.enter_context(by_cpu_time())
    try:
        for caption in captions:
            if sys.stderr.isatty():
                print(f"\r{caption.end:.0f} of {seconds or 'all'} s", end="", file=sys.stderr, flush=True)
            quiz.hear(caption.answer)
            if memory is not None:
                memory.add(caption.end, 0 if caption.silent else caption.tokens)
            lines.append(Line(caption.start, caption.end, caption.text))
            latencies.append(caption.latency)
            spent.add(caption)
            kv_tokens_max = max(kv_tokens_max, caption.kv_tokens)
    except BudgetError as error:
        ended = f"after {lines[-1].end:.0f} s: {error}" if lines else str(error)
    finally:
        clock.close()
    if sys.stderr.isatty():
        print(file=sys.stderr)
    events = [*quiz.events, *show.take()]
    result = score(events, lines, show.sport, show.start_score)
    media_seconds = sum(line.end - line.start for line in lines)
    return {
        "sport": show.sport.name.replace("_", "-"),
        "model": model.name,
        "seed": seed,
        "policy": policy,
        "policy_options": dict(policy_options or {}),
        "positions": positions,
        "quiet_from": own.speak.quiet_from,
        "fps": show.fps,
        "gate": gate,
        "encoder_cache": encoder_cache,
        "compress": compress,
        "kv_dtype": kv_dtype,
        "recalling": recall,
        "seconds": round4(media_seconds),
        **result,
        **quiz.result(),
        "by_fifth": by_fifth(events, lines, show.sport, show.start_score),
        "seconds_per_chunk_p50": round4(statistics.median(latencies)),
        "kv_tokens_max": kv_tokens_max,
        **spent.result(media_seconds),
        "rss_mb": round(peak_rss_mb(), 1),
        "real_time_factor": round4(sum(latencies) / media_seconds),
        "ended": ended,
    }


class Show(NamedTuple):
    """Something to watch whose truth is known."""

    sport: Sport
    source: Any  # a Source, or the name of one
    fps: float
    start_score: Score | None
    take: Callable[[], Sequence[GameEvent]]  # newest true events
    shown: Callable[[], Shown]


def _show(
    sport: str,
    seed: int,
    fps: float,
    data: str | Path | None,
    video: str | Path | None,
    truth: str | Path | None,
) -> Show:
    from neverblink.football.commentary import FOOTBALL
    from neverblink.football.matches import FPS
    from neverblink.football.source import FootballSource
    from neverblink.sources.arcade import ArcadeSource
    from neverblink.sources.base import SourceOptions

    name = sport.replace("-", "_")
    if (video is None) != (truth is None):
        raise ConfigError("a video needs its truth and the other way round; give --video and --truth, or neither")
    if name == FOOTBALL.name:
        if data is None:
            raise ConfigError("football is recorded: give --data FOLDER, with match_*.mp4 and match_*.npz in it")
        match = FootballSource(data, SourceOptions(fps=min(fps, FPS)))
        # No picture tells the score, so the score is what the goals make it.
        return Show(FOOTBALL, match, min(fps, FPS), (0, 0), match.take_events, lambda: Shown(None, ""))
    if data is not None:
        raise ConfigError(f"--data holds football matches, the sport is {sport}; take --sport football, or --seed")
    rules: Sport = sports[name]
    if truth is not None:
        events = read_truth(truth)
        return Show(rules, str(video), fps, None, lambda: [events.pop(0) for _ in events[:]], lambda: Shown(None, ""))
    start_score = rules.make(seed, start_score="random").state.score
    game = ArcadeSource(f"arcade:{name}?seed={seed}&score=random", SourceOptions(fps=fps))
    return Show(
        rules, game, fps, start_score, game.take_events, lambda: Shown(game.state.score, rules.describe(game.state))
    )


def read_truth(path: str | Path) -> list[GameEvent]:
    """The events of a JSONL file that `write_mp4` wrote."""
    events = []
    for row in Path(path).read_text(encoding="utf-8").splitlines():
        for event in json.loads(row)["events"]:
            points = tuple(event["score"]) if event["score"] else None
            events.append(GameEvent(event["time"], Claim(event["kind"], event["side"], points)))
    return events


def peak_rss_mb() -> float:
    """Peak resident memory of this process, MiB."""
    import resource  # not on every platform

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes there, KiB here


_WINDOWS = ("sink_tokens", "text_window", "vision_seconds", "frames", "kv_budget")


def main(arguments: Sequence[str] | None = None) -> int:
    # SUPPRESS: the defaults stand in run_quality, and only there.
    parser = argparse.ArgumentParser(
        prog="neverblink bench quality",
        description=(__doc__ or "").splitlines()[0],
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--model", help="name, folder or hub id")
    parser.add_argument("--dtype", help="float32, bfloat16, int8 ... (default: chosen)")
    parser.add_argument("--sport", help=f"{', '.join(n.replace('_', '-') for n in sports)} or football (default pong)")
    parser.add_argument("--seed", type=int, help="of the game")
    parser.add_argument("--data", type=Path, help="folder of match_*.mp4 + match_*.npz, for football")
    parser.add_argument("--seconds", type=int, help="media seconds to watch (default 300, or every match once)")
    parser.add_argument("--policy", help="what the KV cache keeps (default: the model's own)")
    parser.add_argument("--positions", help="contiguous or native")
    parser.add_argument("--quiet-from", type=float, help="probability of silence (default: the model's own)")
    parser.add_argument("--sink-tokens", type=int, help="text tokens that stay for ever (default: the model's own)")
    parser.add_argument("--text-window", type=int, help="recent text tokens (default: the model's own)")
    parser.add_argument("--vision-seconds", type=float, help="recent vision (default: the model's own)")
    parser.add_argument("--frames", type=int, help="for --policy last-frames")
    parser.add_argument("--kv-budget", type=int, help="rows, for --policy full")
    parser.add_argument("--fps", type=float, help="frames a second (default: the model's own)")
    parser.add_argument("--max-pixels", type=int, help="of one frame, after the resize (default: the model's own)")
    add_parts(parser)
    parser.add_argument("--ask-every", type=float, help="seconds between two questions, 0 for none (default 10)")
    parser.add_argument("--recall", action="store_true", help="put what the journal knows in front of each question")
    parser.add_argument("--video", type=Path, help="a recording made by write_mp4, instead of a live game")
    parser.add_argument("--truth", type=Path, help="the recording's truth")
    parser.add_argument("--cpu-time", action="store_true", help="CPU times of the model in place of wall times")
    parser.add_argument("--json", type=Path, default=None, help="write the line to this file too")
    options = vars(parser.parse_args(arguments))
    file = options.pop("json")
    windows = {name: options.pop(name) for name in _WINDOWS if name in options}
    if windows:
        options["policy_options"] = windows
    try:
        line = json.dumps(run_quality(**options))
    except NeverblinkError as error:
        print(f"neverblink: {error}", file=sys.stderr)
        return 2
    print(line)
    if file is not None:
        file.write_text(line + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
