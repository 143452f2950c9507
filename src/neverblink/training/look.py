"""Stage `see`: teach the vision tower to see before anybody talks.

Captions alone teach where a ball of eight pixels is very slowly: after 440 steps the words for the paddles were right
in 96 % and the ball's column in 43 %. Here a linear head on the tower's tokens names the numbers of the game's state
(`Sport.fields`: ball, players, scores, clock) for every pair of frames. The head is thrown away; the tower goes into
the checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from neverblink.arcade.emulator import FRAMES_PER_SECOND
from neverblink.arcade.sport import Sport, sports
from neverblink.models.qwen2_5_vl import Qwen25VL
from neverblink.vision.pixels import PixelOptions, cut, normalise, resize

Field = tuple[str, int]  # name and number of classes


def fields_of(known: Sequence[Sport]) -> list[Field]:
    """What the head names. Fields of one name and size are shared: the ball's column is one thing in every sport."""
    fields: list[Field] = [("sport", len(known))]
    for sport in known:
        fields += [field for field in sport.fields.items() if field not in fields]
    return fields


class Pairs(IterableDataset[tuple[np.ndarray, np.ndarray]]):
    """Yields (patches uint8 of one pair of frames, classes [fields] int64, -1 where unknown) for ever.

    Args:
        names: sports; each is drawn equally often.
        games: that run side by side, of all sports together.
        pairs: that one game gives before another begins.
    """

    def __init__(
        self,
        names: Sequence[str],
        fps: float,
        pixels: PixelOptions,
        seed: int,
        seeds: int,
        games: int = 24,
        pairs: int = 100,
    ):
        self.names, self.fps, self.pixels, self.seed, self.seeds = tuple(names), fps, pixels, seed, seeds
        self.games, self.pairs = games, pairs

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        worker = get_worker_info()
        rng = np.random.default_rng((self.seed, worker.id if worker else 0))
        fields = fields_of([sports[name] for name in self.names])
        live = [self._one(i % len(self.names), int(rng.integers(self.seeds)), fields) for i in range(self.games)]
        while True:
            i = int(rng.integers(self.games))
            pair = next(live[i], None)
            if pair is None:
                live[i] = self._one(i % len(self.names), int(rng.integers(self.seeds)), fields)
            else:
                yield pair

    def _one(self, index: int, seed: int, fields: list[Field]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        sport: Sport = sports[self.names[index]]
        game, rng = sport.make(seed, start_score="random"), np.random.default_rng(seed)
        columns = [fields.index(field) for field in sport.fields.items()]
        state = game.state
        for _ in range(self.pairs):
            first = state.frame + int(rng.integers(2, 40))
            pictures = []
            for frame in (first, first + round(FRAMES_PER_SECOND / self.fps)):
                while state.frame < frame:
                    state = next(game)
                pictures.append(game.pixels.copy())
            stack = resize(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2), self.pixels)
            truth = np.full(len(fields), -1, np.int64)
            truth[0] = index
            truth[columns] = sport.measure(state)
            yield cut(stack, self.pixels)[0].numpy(), truth


def look(
    adapter: Qwen25VL,
    batches: Iterator[list[torch.Tensor]],
    fields: Sequence[Field],
    grid: tuple[int, int],
    minutes: float,
    report: Callable[[str], None],
    lr: float = 1e-3,
    steps: int = 1_000_000,
) -> dict[str, float]:
    """Train the vision tower in place until the time is over or the steps are done.

    Args:
        batches: of `Pairs`.
        grid: (h, w) in patches.

    Returns:
        field -> share of pairs read right, a moving average.
    """
    sizes = [classes for _, classes in fields]
    head = torch.nn.Linear(adapter.model.config.text_config.hidden_size, sum(sizes)).to(adapter.device)
    tower = adapter.model.model.visual.train()
    optimizer = torch.optim.AdamW([*tower.parameters(), *head.parameters()], lr=lr, betas=(0.9, 0.95), fused=True)
    began, step = time.monotonic(), 0
    shares = [0.0] * len(sizes)
    while (done := max(step / steps, (time.monotonic() - began) / 60 / minutes)) < 1:
        patches, truth = (t.to(adapter.device) for t in next(batches))
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 50) * (1 - 0.9 * done)
        with torch.autocast(adapter.device.type, dtype=torch.bfloat16):
            flat = normalise(patches.flatten(0, 1), adapter.pixels, torch.bfloat16)
            seen = adapter.encode_patches(flat, torch.tensor([[len(patches), *grid]]))
            said = head(seen).float()
        losses = []
        for column, logits in enumerate(said.split(sizes, 1)):
            rows = truth[:, column] >= 0
            if rows.any():
                losses.append(torch.nn.functional.cross_entropy(logits[rows], truth[rows, column]))
                right = (logits[rows].argmax(-1) == truth[rows, column]).float().mean().item()
                shares[column] = 0.9 * shares[column] + 0.1 * right if step else right
        loss = torch.stack(losses).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0:
            each = " ".join(
                f"{name.replace(' ', '_')} {share:.2f}" for (name, _), share in zip(fields, shares, strict=True)
            )
            report(f"see step {step} minutes {done * minutes:.1f} loss {loss.item():.3f} {each}")
        step += 1
    tower.eval()
    return {name: share for (name, _), share in zip(fields, shares, strict=True)}
