"""R12: an hour of commentary, and one that is made to loop."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neverblink.bench.streams import games
from neverblink.drills.base import Finding, drill_of
from neverblink.kv.loops import CYCLES
from neverblink.model import Model
from neverblink.types import Caption

HOUR = 3600
SEED = 2_000_001  # training never saw it
WINDOW = 160  # tokens over which repeated 4-grams are counted
LINE = " Left hits."
AFTER = 60  # seconds that are compared once a forced loop is over


class Forced:
    """A logits processor that has a stream say one line again and again while `on`."""

    def __init__(self, ids: tuple[int, ...], end_id: int):
        self.cycle, self.at, self.on = (*ids, end_id), 0, True

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if not self.on:
            return scores
        only = torch.full_like(scores, -torch.inf)
        only[:, self.cycle[self.at]] = 0.0
        self.at = (self.at + 1) % len(self.cycle)
        return only


def repeated(ids: np.ndarray) -> list[float]:
    """Of each window, the share of its 4-grams that it had already."""
    shares = []
    for a in range(0, len(ids) - WINDOW + 1, WINDOW):
        fours = [tuple(ids[i : i + 4]) for i in range(a, a + WINDOW - 3)]
        shares.append(1 - len(set(fours)) / len(fours))
    return shares


def longest_cycle(ids: np.ndarray) -> int:
    """Tokens of the longest stretch that is one cycle, said four times or more."""
    longest = 0
    for size in range(1, min(WINDOW, len(ids) // CYCLES) + 1):
        broken = np.flatnonzero(np.concatenate([[True], ids[size:] != ids[:-size], [True]]))
        stretch = int(np.diff(broken).max()) - 1 + size
        longest = max(longest, stretch if stretch >= CYCLES * size else 0)
    return longest


def hour(folder: Path, scale: float) -> Finding:
    """The bundled model on Pong; honest commentary, so the guard must not fire."""
    model, seconds = Model.from_pretrained("bundled"), max(30, round(HOUR * scale))
    encode, said, fired = model.script().encode, list[int](), 0
    for caption in model.watch(f"arcade:pong?seed={SEED}", seconds=float(seconds)):
        said += encode(f" {caption.text.strip()}") if not caption.silent else ()
        fired += caption.forgot > 0
        if round(caption.end) % 300 == 0:
            print(f"{caption.end:.0f} s: {len(said)} tokens, fired {fired}", file=sys.stderr, flush=True)
    ids = np.array(said)
    shares, cycle = repeated(ids), longest_cycle(ids)
    half = max(1, len(shares) // 2)
    first, second = (float(np.mean(part or [0.0])) for part in (shares[:half], shares[half:]))
    guard = model.options().loop_tokens
    figure = (
        f"{seconds} s of Pong: repeated 4-grams {100 * first:.1f} % in the first half, {100 * second:.1f} % in the "
        f"second; longest cycle {cycle} tokens, the guard ({guard}) fired {fired} times"
    )
    measured = {"first_half": first, "second_half": second, "longest_cycle": cycle, "fired": fired, "tokens": len(ids)}
    return Finding(figure, second - first <= 0.05 and not fired, measured)


def forced(folder: Path, scale: float) -> Finding:
    """Made to say one line until the guard fires, then let go; beside it one without the guard, and one left alone."""
    model, after = Model.from_pretrained("bundled"), max(10, round(AFTER * scale))
    options, script = model.options(), model.script()
    loops = [Forced(script.encode(LINE), script.end_id) for _ in range(2)]
    guarded = model.stream(options, processor=loops[0])
    bare = model.stream(replace(options, loop_tokens=0), processor=loops[1])
    free = model.stream(options)
    told: dict[str, list[Caption]] = {"guarded": [], "bare": [], "free": []}
    fired_at, fired, most = 0, 0, 2 * options.loop_tokens
    for second, coming in enumerate(games([f"arcade:pong?seed={SEED}"], options, float(most + after))):
        captions = {"guarded": guarded.step(coming[0]), "bare": bare.step(coming[0]), "free": free.step(coming[0])}
        fired += captions["guarded"].forgot > 0
        if captions["guarded"].forgot and not fired_at:
            fired_at = second
            for loop in loops:
                loop.on = False
            continue  # what it says now was still forced
        if fired_at:
            for name, caption in captions.items():
                told[name].append(caption)
            if len(told["free"]) == after:
                break
    same = {name: np.mean([a.text == b.text for a, b in zip(told[name], told["free"], strict=True)]) for name in told}
    figure = (
        f"made to say {LINE.strip()!r} every second: the guard fired after {fired_at} s; of the next {after} seconds "
        f"{100 * same['guarded']:.0f} % are what a stream says that never looped, {100 * same['bare']:.0f} % without it"
    )
    measured: dict[str, Any] = {"fired_at_s": fired_at, "fired": fired}
    measured |= {"same_guarded": float(same["guarded"]), "same_bare": float(same["bare"])}
    return Finding(figure, bool(fired == 1 and same["guarded"] >= same["bare"]), measured)


R12 = drill_of("R12", hour)
R12B = drill_of("R12", forced, "a commentary that is made to loop")
DRILLS = (R12, R12B)
