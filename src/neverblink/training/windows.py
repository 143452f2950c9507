"""Endless training windows out of scenes: W seconds with O seconds of overlap, shuffled anew every round."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from neverblink.arcade.commentary import Slip
from neverblink.errors import ConfigError
from neverblink.memory.recall import put_before
from neverblink.models.base import VisionBlock
from neverblink.options import StreamOptions
from neverblink.script import Script
from neverblink.training.samples import Sample, Spoken, previous_ids, write_sample
from neverblink.training.scenes import Quiz, Scene
from neverblink.types import Kind

ROUND = 32  # lengths of batches, so that the memory of one serves another
TURN = 5  # times a window is drawn in which what has to be remembered changes: few do, and all later ones rest on them
LATEST = 3  # seconds by which a change of sides is told late
FIRST_WORD = 4.0  # loss weight of what is said first, silence included
# How much rather than others a question is drawn: no picture shows its answer.
REMEMBERED = {"first": 3.0, "made": 3.0, "last_of": 3.0, "count": 3.0}


@dataclass(frozen=True, slots=True)
class WindowOptions:
    """How windows are cut (StreamingVLM, section 3.2: 24 s with 12 s overlap; half of it here)."""

    seconds: int = 12
    overlap: int = 6
    sink_tokens: int = 32
    text_window: int = 384
    ask: float = 0.75  # share of windows with questions, where the scenes have any
    ask_often: float = 0.6  # share of the seconds of such a window after which there is one; after its last up to three
    recall: float = 0.5  # share of the seconds with questions at which the journal is asked too, where it knows of them
    # Share of windows, of scenes with slips, in which one side was taken for the other until some second of them, so
    # that who has the ball is to be seen: in words that are never wrong it can be copied from the last ones.
    slip: float = 0.5
    # Share of the changes of sides inside of windows that are told up to LATEST seconds late, as by one who missed
    # them: who always told them in time keeps what he missed until the next remark.
    late: float = 0.35
    forget: float = 0.35  # share of windows that start without previous text, so that scores have to be read
    latest_start: float = 40_000.0  # seconds; streams start anywhere, so that no clock time is new

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.seconds:
            raise ConfigError(f"overlap {self.overlap} s must be shorter than the window {self.seconds} s")


class Windows(IterableDataset[tuple[Sample, torch.Tensor]]):
    """Yields (sample, its vision tokens [n, hidden] bfloat16) for ever.

    Args:
        scenes: what to cut.
        script_for: query -> the script under which a stream is written.
        share: query -> how often a window is written under it; a tensor in shared memory may change while workers run.
        vision: pictures a second, (height, width) in patches -> places of one second's vision tokens.
        seed: order and draws follow from it; workers draw from different places.
        talk: the query whose lines may rest on what was said before, and under which questions are asked; lines under
            another tell only what is to be seen.

    Raises:
        ConfigError: no scene is as long as a window without a cut.
    """

    def __init__(
        self,
        scenes: Sequence[Scene],
        script_for: Callable[[str], Script],
        share: dict[str, torch.Tensor],
        vision: Callable[[int, tuple[int, int]], VisionBlock],
        options: WindowOptions,
        seed: int,
        talk: str = "",
    ):
        self.scenes, self.script_for, self.share = scenes, script_for, share
        self.vision = {(fps, grid): vision(fps, grid) for fps, grid in {(scene.fps, scene.grid) for scene in scenes}}
        self.options, self.seed, self.talk = options, seed, talk
        step = options.seconds - options.overlap
        self.starts: list[tuple[int, int]] = [
            (i, start)
            for i, scene in enumerate(scenes)
            for begin, end in scene.takes
            for start in range(begin, end - options.seconds + 1, step)
            for _ in range(TURN if any(start <= turn < start + options.seconds for turn in scene.turns) else 1)
        ]
        if not self.starts:
            longest = max((end - begin for scene in scenes for begin, end in scene.takes), default=0)
            raise ConfigError(
                f"the longest scene has {longest} s without a cut, a window {options.seconds} s; take shorter windows"
            )

    def __iter__(self) -> Iterator[tuple[Sample, torch.Tensor]]:
        worker = get_worker_info()
        rng = np.random.default_rng((self.seed, worker.id if worker else 0))
        while True:
            for n in rng.permutation(len(self.starts)):
                index, first = self.starts[n]
                yield self._window(index, first, rng)

    def _window(self, index: int, first: int, rng: np.random.Generator) -> tuple[Sample, torch.Tensor]:
        o, scene = self.options, self.scenes[index]
        chances = np.array([float(share) for share in self.share.values()])
        query = list(self.share)[int(rng.choice(len(chances), p=chances / chances.sum()))]
        script, lines = self.script_for(query), scene.lines[query]
        base = first + (float(rng.integers(int(o.latest_start))) if rng.random() < 0.8 else 0.0)
        vision = self.vision[scene.fps, scene.grid]
        forgets = (scene.forgets or query != self.talk) and rng.random() < o.forget
        slips = scene.slips if query == self.talk and not forgets and rng.random() < o.slip else ()
        until = first + int(rng.integers(o.seconds)) if slips else first
        said = slipped(lines[:until], slips) + lines[until:]
        wrong = {i for i in range(until) if said[i] != lines[i]}
        end, shown = first + o.seconds, set[int]()
        if scene.slips and query == self.talk:
            waits = np.where(rng.random(end - until) < o.late, rng.integers(1, LATEST + 1, end - until), 0)
            said[until:end], unlearned = belated(said[until:end], scene.slips[until:end], waits.tolist())
            shown |= {until + i for i in unlearned}
        if wrong:  # nor is the silence learned that leaves it at that
            shown |= {*range(min(wrong), next((i for i in range(until, end) if said[i]), end))}
        spoken = [
            Spoken(base + i, base + i + 1, vision, said[first + i], shown=first + i in shown) for i in range(o.seconds)
        ]
        past = () if forgets else previous_ids(script, said[:first], o.sink_tokens, o.text_window)
        if scene.quizzes and query == self.talk and rng.random() < o.ask:
            most = (rng.random(o.seconds) < o.ask_often).astype(int)
            most[-1] = rng.integers(1, 4)
            known = self._known(script, scene, said, first, forgets)
            fits = partial(StreamOptions().askable, script)

            def ask(now: int, number: int) -> tuple[tuple[str, str], ...]:
                """After second `now`; with recall also what is not held, if the journal has the line for it."""
                recalling = rng.random() < o.recall
                right = (q for q in scene.quizzes[now] if q.since not in wrong)
                possible = [q for q in right if known(q) or (recalling and q.since in q.recalled)]
                return tuple((words(q) if recalling else q.question, q.answer) for q in _pick(possible, number, rng))

            def words(quiz: Quiz) -> str:
                told = [(base + i - first, said[i]) for i in quiz.recalled if said[i]]  # what is told late is not yet
                return put_before(quiz.question, told, fits)[0]

            spoken = [replace(s, asked=ask(first + i, int(most[i]))) for i, s in enumerate(spoken)]
        return write_sample(script, spoken, past), scene.vision[first : first + o.seconds].flatten(0, 1)

    def _known(
        self, script: Script, scene: Scene, lines: list[str], first: int, forgets: bool
    ) -> Callable[[Quiz], bool]:
        """Whether the answer to a question is still held."""
        o = self.options
        sizes = np.cumsum([len(script.encode(line)) for line in lines[:first]]) if first else np.zeros(1)
        # Seconds whose words are all in the sink, and from which on all are in the window.
        sunk = int(np.searchsorted(sizes, o.sink_tokens, "right")) if not forgets else 0
        since = int(np.searchsorted(sizes, sizes[-1] - o.text_window, "left")) + 1
        since = first if forgets else 0 if sizes[-1] <= o.text_window + o.sink_tokens else since
        return lambda quiz: quiz.since >= since or quiz.since < sunk


def slipped(lines: list[str], slips: Sequence[Slip | None]) -> list[str]:
    """Lines of which the last ones, as long as they tell of one side and can be mistaken, tell of the other."""
    found, side = list(lines), None
    for i in reversed(range(len(lines) if slips else 0)):
        if lines[i]:
            slip = slips[i]
            if slip is None or (side or slip.side) != slip.side:
                break
            found[i], side = slip.text, slip.side
    return found


def belated(lines: Sequence[str], slips: Sequence[Slip | None], waits: Sequence[int]) -> tuple[list[str], set[int]]:
    """Lines of which those that tell of a change of sides come later, if only silence is in between.

    Args:
        waits: for each line by how many seconds.

    Returns:
        the lines, and which of them are not to be learned: the silence that is in their place and behind it, and the
        remark after them, which counts its seconds from where they were.
    """
    found, shown = list(lines), set()
    for i, (slip, wait) in enumerate(zip(slips, waits, strict=True)):
        at = i + wait
        if slip is None or not slip.change or not wait or at >= len(lines) or any(lines[i + 1 : at + 1]):
            continue
        found[i], found[at] = "", lines[i]
        behind = next((j for j in range(at + 1, len(lines)) if lines[j]), i)
        remark = slips[behind]
        shown |= {*range(i, at), *([behind] if remark and remark.remark else [])}
    return found, shown


def _pick(known: Sequence[Quiz], most: int, rng: np.random.Generator) -> Sequence[Quiz]:
    """Questions of different kinds."""
    if not known or not most:
        return ()
    often = np.array([REMEMBERED.get(q.kind, 1.0) for q in known])
    chosen = rng.choice(len(known), min(len(known), most), replace=False, p=often / often.sum())
    return [known[i] for i in chosen]


@dataclass(frozen=True, slots=True)
class Batch:
    ids: torch.Tensor  # [B, L] int64, padded on the right
    positions: torch.Tensor  # [3, B, L] float32
    learn: torch.Tensor  # [B, L] bool
    weight: torch.Tensor  # [B, L] float32, loss weight of each learned token
    pixels: torch.Tensor  # [B, L] bool: where vision tokens go
    vision: torch.Tensor  # [sum of pixels, hidden] bfloat16


def collate(samples: list[tuple[Sample, torch.Tensor]], pad_id: int, heavy: torch.Tensor, tick: int = -1) -> Batch:
    """Pad samples to one length.

    Args:
        heavy: [vocabulary] float32, loss weight by token (digits weigh more: most can be copied from the text before,
            so the plain loss hardly asks for reading). What weighs more than 1 is learned in the previous text too.
        tick: the token behind a minute of at most two digits; no words before it tell that, so it is learned beside
            its picture alone. -1 for none.
    """
    length = -(-max(len(s.ids) for s, _ in samples) // ROUND) * ROUND
    b = len(samples)
    ids = torch.full((b, length), pad_id)
    positions, learn = torch.zeros(3, b, length), torch.zeros(b, length, dtype=torch.bool)
    pixels, before = (torch.zeros(b, length, dtype=torch.bool) for _ in range(2))
    for i, (s, _) in enumerate(samples):
        n = len(s.ids)
        ids[i, :n] = torch.from_numpy(s.ids)
        positions[:, i, :n] = torch.from_numpy(s.positions).float()
        learn[i, :n] = torch.from_numpy(s.learn)
        pixels[i, :n] = torch.from_numpy(s.kinds == Kind.PIXELS)
        before[i, :n] = torch.from_numpy(s.kinds == Kind.PREVIOUS)
    weight = heavy[ids] * learn
    # The first word decides whether anything is said at all, and of whom.
    weight[:, 1:][learn[:, 1:] & ~learn[:, :-1]] *= FIRST_WORD
    # How it stands follows from the words before. A window says so once or twice, the block of previous text, which the
    # model said too, five to eight times, and to learn from it costs nothing.
    ticks = torch.nn.functional.pad(ids == tick, (0, 2))
    told = before & (heavy[ids] > 1) & ~(ticks[:, 1:-1] | ticks[:, 2:])
    learn |= told
    weight[told] = heavy[ids][told]
    return Batch(ids, positions, learn, weight, pixels, torch.cat([v for _, v in samples]))


def by_length(
    samples: list[tuple[Sample, torch.Tensor]], batch: int, pad_id: int, heavy: torch.Tensor, tick: int = -1
) -> list[Batch]:
    """Batches of samples of nearly the same length, in random order; the arguments are those of `collate`."""
    samples = sorted(samples, key=lambda pair: len(pair[0].ids))
    batches = [collate(samples[i : i + batch], pad_id, heavy, tick) for i in range(0, len(samples), batch)]
    return [batches[i] for i in torch.randperm(len(batches)).tolist()]
