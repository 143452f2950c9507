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
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from neverblink.arcade.commentary import parse
from neverblink.arcade.events import Claim, GameEvent, Kind, Score, Side
from neverblink.arcade.sport import Sport, sports
from neverblink.bench.quiz import Memory, Quiz, Shown
from neverblink.bench.spent import Spent, add_parts, smaller
from neverblink.decoding.timing import cpu_time as by_cpu_time
from neverblink.errors import BudgetError, ConfigError, NeverblinkError

if TYPE_CHECKING:
    from neverblink.kv.relocate import Positions
    from neverblink.model import Model

TOLERANCE = 1.0  # seconds
Result = dict[str, Any]


class Line(NamedTuple):
    """What was said of [start, end), media seconds; "" is silence."""

    start: float
    end: float
    text: str


class Said(NamedTuple):
    """One claim of a line."""

    line: Line
    claim: Claim


def score(
    truth: Iterable[GameEvent],
    lines: Sequence[Line],
    sport: Sport,
    start_score: Score | None = None,
    tolerance: float = TOLERANCE,
) -> Result:
    """Compare what was said with what happened.

    A claim and an event belong together when kind and side agree and the pictures show the event within `tolerance`
    seconds of [start, end]; each is used once. Events that no watched picture could show are left out. Of a flurry
    (`Sport.merge`) a second tells the last of each side, so the others ask for nothing.

    Args:
        start_score: that of the first picture, where it is known.

    Returns:
        event_precision, event_recall, event_f1: over all events (1.0 where there is nothing to say and nothing said).
        by_kind: the same for each kind, with its numbers of events and claims.
        score_accuracy: share of the scores stated with `Sport.states` that are right: equal to the score of the event
            told of, or, for a false alarm, to the score to be seen at the line's end. None if none is stated.
        possession_accuracy: share of lines at whose end the side last said to have the ball (`Sport.holds`) has
            it; lines before it is first known are left out. None where the sport has no such kinds.
        silence_accuracy: share of lines that are silent when, and only when, nothing new was to be seen.
        false_alarms_per_minute: claims without an event, a minute of what was watched.
        repetition_rate: share of spoken lines that repeat the spoken line before them word for word.
    """
    if not lines:
        raise ConfigError("nothing was watched, so there is nothing to score; watch for at least one second")
    watched = [event for event in truth if lines[0].start <= sport.visible_at(event) < lines[-1].end]
    watched = merged(sorted(watched, key=sport.visible_at), sport)
    said = [Said(line, claim) for line in lines for claim in parse(line.text, sport)]
    pairs = match(watched, said, sport, tolerance)
    told = {pair[1]: watched[pair[0]] for pair in pairs}  # index of a claim -> its event
    minutes = sum(line.end - line.start for line in lines) / 60
    by_kind = {}
    for kind in sport.kinds:
        events = sum(event.kind == kind for event in watched)
        claims = sum(s.claim.kind == kind for s in said)
        if events or claims:
            hits = sum(event.kind == kind for event in told.values())
            by_kind[kind] = {"events": events, "claims": claims, **_rates(hits, events, claims)}
    stated = [(i, s) for i, s in enumerate(said) if s.claim.score is not None and s.claim.kind in sport.states]
    right = sum(
        s.claim.score == (told[i].score if i in told else score_at(watched, s.line.end, sport, start_score))
        for i, s in stated
    )
    return {
        **{f"event_{name}": value for name, value in _rates(len(pairs), len(watched), len(said)).items()},
        "by_kind": by_kind,
        "score_accuracy": _round(right / len(stated)) if stated else None,
        "possession_accuracy": _possession_accuracy(watched, said, lines, sport),
        "silence_accuracy": _round(_silence_accuracy(watched, lines, sport)),
        "false_alarms_per_minute": _round((len(said) - len(pairs)) / minutes),
        "repetition_rate": _round(_repetition_rate(lines)),
    }


def by_fifth(
    truth: Sequence[GameEvent], lines: Sequence[Line], sport: Sport, start_score: Score | None = None
) -> list[Result]:
    """Event F1 and score accuracy of each fifth of a stream, so that drift shows; [] for less than five lines."""
    fifth = len(lines) // 5
    parts = [lines[i * fifth : (i + 1) * fifth] for i in range(5)] if fifth else []
    found = []
    for part in parts:
        before = score_at(sorted(truth, key=sport.visible_at), part[0].start, sport, start_score)
        result = score(truth, part, sport, before)
        names = ("event_f1", "score_accuracy", "silence_accuracy", "false_alarms_per_minute")
        found.append({"start": part[0].start, **{name: result[name] for name in names}})
    return found


def merged(events: Sequence[GameEvent], sport: Sport) -> list[GameEvent]:
    """Events without those that a later one of the same second, kind and side stands for."""
    last = {(sport.second_of(e), e.kind, e.side): i for i, e in enumerate(events) if e.kind in sport.merge}
    return [
        e for i, e in enumerate(events) if e.kind not in sport.merge or last[sport.second_of(e), e.kind, e.side] == i
    ]


def match(
    events: Sequence[GameEvent], said: Sequence[Said], sport: Sport, tolerance: float = TOLERANCE
) -> list[tuple[int, int]]:
    """Pairs (event, claim) of indices: as many as possible, each used once, both in order of time."""
    waiting: dict[tuple[Kind, Side], list[int]] = defaultdict(list)
    for i, event in enumerate(events):
        waiting[event.kind, event.side].append(i)
    pairs = []
    for j, (line, claim) in enumerate(said):
        candidates = waiting[claim.kind, claim.side]
        # Lines come in order: an event too old for this one is too old for the rest, so first come, first served.
        while candidates and sport.visible_at(events[candidates[0]]) < line.start - tolerance:
            candidates.pop(0)
        if candidates and sport.visible_at(events[candidates[0]]) <= line.end + tolerance:
            pairs.append((candidates.pop(0), j))
    return pairs


def score_at(events: Sequence[GameEvent], time: float, sport: Sport, start: Score | None = None) -> Score | None:
    """The score to be seen at a media second.

    Args:
        events: in the order in which they become visible.
        start: the score before all of them; when None and the game scores by ones, the first point tells it.
    """
    scored = [event for event in events if event.score is not None]
    before = [event for event in scored if sport.visible_at(event) <= time]
    if before:
        return before[-1].score
    if start is not None:
        return start
    first = next((event for event in scored if event.kind == "point"), None)
    if first is None or first.score is None:
        return None
    left, right = first.score
    return (left - 1, right) if first.side == sport.sides[0] else (left, right - 1)


def _rates(pairs: int, events: int, claims: int) -> dict[str, float]:
    empty = float(events == claims == 0)
    return {
        "f1": _round(2 * pairs / (events + claims)) if events + claims else 1.0,
        "precision": _round(pairs / claims) if claims else empty,
        "recall": _round(pairs / events) if events else empty,
    }


def _possession_accuracy(
    events: Sequence[GameEvent], said: Sequence[Said], lines: Sequence[Line], sport: Sport
) -> float | None:
    happened = [event for event in events if event.kind in sport.holds]
    claimed = [s for s in said if s.claim.kind in sport.holds]
    known, right = 0, 0
    has: Side | None = None
    told: Side | None = None
    for line in lines:
        while happened and sport.visible_at(happened[0]) < line.end:
            has = happened.pop(0).side
        while claimed and claimed[0].line.start <= line.start:
            told = claimed.pop(0).claim.side
        known += has is not None
        right += has is not None and has == told
    return _round(right / known) if known else None


def _silence_accuracy(events: Sequence[GameEvent], lines: Sequence[Line], sport: Sport) -> float:
    shown = [sport.visible_at(event) for event in events]
    right = sum((not line.text) != any(line.start <= at < line.end for at in shown) for line in lines)
    return right / len(lines)


def _repetition_rate(lines: Sequence[Line]) -> float:
    spoken = [line.text for line in lines if line.text]
    repeats = sum(a == b for a, b in pairwise(spoken))
    return repeats / len(spoken) if spoken else 0.0


def _round(value: float) -> float:
    return round(value, 4)


def run_quality(
    model: str | Path | Model = "bundled",
    *,
    sport: str = "pong",
    seed: int = 1_000_000,
    seconds: int | None = None,
    policy: str = "streaming",
    policy_options: Mapping[str, Any] | None = None,
    positions: Positions = "contiguous",
    fps: float | None = None,
    max_pixels: int | None = None,
    gate: str = "",
    encoder_cache: str = "",
    compress: str = "",
    kv_dtype: str = "",
    ask_every: float = 10.0,
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
        policy_options: windows of the policy, where they are not to be the checkpoint's own.
        fps: frames a second, where they are not to be the checkpoint's own.
        max_pixels: of one frame, after the resize; likewise.
        gate, encoder_cache, compress: ways to see less, see `StreamOptions`. kv_dtype: see there too.
        ask_every: seconds between two questions; 0 asks none. No question is remembered.
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
        seconds=seconds,
        questions=quiz,
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
        "fps": show.fps,
        "gate": gate,
        "encoder_cache": encoder_cache,
        "compress": compress,
        "kv_dtype": kv_dtype,
        "seconds": _round(media_seconds),
        **result,
        **quiz.result(),
        "by_fifth": by_fifth(events, lines, show.sport, show.start_score),
        "seconds_per_chunk_p50": _round(statistics.median(latencies)),
        "kv_tokens_max": kv_tokens_max,
        **spent.result(media_seconds),
        "rss_mb": round(peak_rss_mb(), 1),
        "real_time_factor": _round(sum(latencies) / media_seconds),
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
        # The score bar is too small to be read, so the score is what the goals make it.
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
    parser.add_argument("--policy", help="what the KV cache keeps")
    parser.add_argument("--positions", help="contiguous or native")
    parser.add_argument("--sink-tokens", type=int, help="text tokens that stay for ever (default: the model's own)")
    parser.add_argument("--text-window", type=int, help="recent text tokens (default: the model's own)")
    parser.add_argument("--vision-seconds", type=float, help="recent vision (default: the model's own)")
    parser.add_argument("--frames", type=int, help="for --policy last-frames")
    parser.add_argument("--kv-budget", type=int, help="rows, for --policy full")
    parser.add_argument("--fps", type=float, help="frames a second (default: the model's own)")
    parser.add_argument("--max-pixels", type=int, help="of one frame, after the resize (default: the model's own)")
    add_parts(parser)
    parser.add_argument("--ask-every", type=float, help="seconds between two questions, 0 for none (default 10)")
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
