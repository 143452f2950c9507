"""Stage 0: teach the vision tower to see before anybody talks.

    python -m neverblink.training.look --out runs/pong --minutes 6

Captions alone teach where a ball of eight pixels is very slowly: after 440 steps the words for the paddles were right
in 96 % and the ball's column in 43 %. Here a linear head on the tower's tokens names the numbers of the game's state
(ball, speed, paddles, scores) for every pair of frames. The head is thrown away; the tower goes into the checkpoint.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from neverblink.arcade.emulator import FRAMES_PER_SECOND, HEIGHT, WIDTH
from neverblink.arcade.pong import PongGame
from neverblink.models.qwen2_5_vl import Qwen25VL, read_pixel_options
from neverblink.training.recipes import SmallVLM, build
from neverblink.vision.pixels import PixelOptions, cut, normalise, resize

BINS = 20  # of the picture's width or height
# What is to be named, and in how many classes; the three that speak of the ball come first.
STATE = {
    "x": BINS,
    "y": BINS,
    "direction": 2,
    "there": 2,
    "left": BINS,
    "right": BINS,
    "left score": 22,
    "right score": 22,
}


class Pairs(IterableDataset[tuple[np.ndarray, np.ndarray]]):
    """Yields (patches uint8 of one pair of frames, state [8] int64) of many games at once, for ever."""

    def __init__(self, size: SmallVLM, pixels: PixelOptions, seed: int, games: int = 24, pairs: int = 60):
        self.size, self.pixels, self.seed, self.games, self.pairs = size, pixels, seed, games, pairs

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        worker = get_worker_info()
        rng = np.random.default_rng((self.seed, worker.id if worker else 0))
        live = [self._one(int(rng.integers(1_000_000))) for _ in range(self.games)]
        while True:
            i = int(rng.integers(self.games))
            pair = next(live[i], None)
            if pair is None:
                live[i] = self._one(int(rng.integers(1_000_000)))
            else:
                yield pair

    def _one(self, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        game, rng = PongGame(seed, start_score="random"), np.random.default_rng(seed)
        step, state = FRAMES_PER_SECOND / self.size.fps, game.state
        for _ in range(self.pairs):
            first = state.frame + int(rng.integers(2, 40))
            pictures = []
            for frame in (first, first + round(step)):
                while state.frame < frame:
                    state = next(game)
                pictures.append(game.pixels.copy())
            stack = resize(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2), self.pixels)
            s = state
            places = [s.ball_x * BINS // WIDTH, s.ball_y * BINS // HEIGHT, int(s.ball_dx > 0), int(s.in_play)]
            paddles = [s.left_y * BINS // HEIGHT, s.right_y * BINS // HEIGHT]
            truth = np.array([*places, *paddles, *s.score], np.int64)
            truth[[0, 1, 4, 5]] = truth[[0, 1, 4, 5]].clip(0, BINS - 1)
            yield cut(stack, self.pixels)[0].numpy(), truth


def look(adapter: Qwen25VL, batches: Iterator[list[torch.Tensor]], grid: tuple[int, int], minutes: float) -> None:
    """Train the vision tower in place until the time is over."""
    width = adapter.model.config.text_config.hidden_size
    head = torch.nn.Linear(width, sum(STATE.values())).to(adapter.device)
    tower = adapter.model.model.visual.train()
    optimizer = torch.optim.AdamW([*tower.parameters(), *head.parameters()], lr=1e-3, betas=(0.9, 0.95), fused=True)
    began, step = time.monotonic(), 0
    while (done := (time.monotonic() - began) / 60 / minutes) < 1:
        patches, truth = (t.to(adapter.device) for t in next(batches))
        pairs = len(patches)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, (step + 1) / 50) * (1 - 0.9 * done)
        with torch.autocast(adapter.device.type, dtype=torch.bfloat16):
            flat = normalise(patches.flatten(0, 1), adapter.pixels, torch.bfloat16)
            seen = adapter.encode_patches(flat, torch.tensor([[pairs, *grid]]))
            said = head(seen).float()
        losses, right = [], {}
        for column, (name, logits) in enumerate(zip(STATE, said.split(list(STATE.values()), 1), strict=True)):
            # Without a ball its place means nothing.
            rows = truth[:, 3] > 0 if column < 3 else torch.ones(pairs, dtype=torch.bool, device=truth.device)
            losses.append(torch.nn.functional.cross_entropy(logits[rows], truth[rows, column]))
            right[name] = (logits[rows].argmax(-1) == truth[rows, column]).float().mean().item()
        loss = torch.stack(losses).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        optimizer.step()
        if step % 25 == 0:
            shares = " ".join(f"{name} {share:.2f}" for name, share in right.items())
            print(f"step {step} minutes {done * minutes:.1f} loss {loss.item():.3f} {shares}", flush=True)
        step += 1
    tower.eval()


@torch.no_grad()
def sharpen(
    adapter: Qwen25VL, pairs: Iterator[tuple[np.ndarray, np.ndarray]], samples: int, scale: float = 0.3
) -> None:
    """Make what the tower knows easy to read, by a linear map folded into the merger's last layer.

    A tower that answers a linear head perfectly may still hold a score in directions of little variance, which a
    decoder did not find in 200 steps. After this the first values of a token are the state's classes themselves (a
    ridge regression on `samples` pairs) and the rest its whitened principal components, all of standard deviation
    `scale`.
    """
    seen, truth = [], []
    for _ in range(samples):
        patches, state = next(pairs)
        side = int(len(patches) ** 0.5)
        pixels = normalise(torch.from_numpy(patches), adapter.pixels)
        seen.append(adapter.encode_patches(pixels, torch.tensor([[1, side, side]]))[0].double())
        truth.append(torch.from_numpy(state))
    x, goals = torch.stack(seen), torch.stack(truth)
    mean, count = x.mean(0), x.shape[1]
    x = x - mean
    wanted = torch.cat([torch.nn.functional.one_hot(goals[:, c], n).double() for c, n in enumerate(STATE.values())], 1)
    covariance = x.T @ x / samples
    ridge = 1e-4 * covariance.diagonal().mean() * torch.eye(count, dtype=torch.double)
    classes = torch.linalg.solve(covariance + ridge, x.T @ (wanted - wanted.mean(0)) / samples)  # [hidden, classes]
    values, vectors = torch.linalg.eigh(covariance)
    top = vectors[:, -(count - classes.shape[1]) :] / (values[-(count - classes.shape[1]) :] + ridge[0, 0]).sqrt()
    turn = torch.cat([classes, top], 1)
    turn = turn / (x @ turn).std(0).clamp(min=1e-6) * scale
    last = adapter.model.model.visual.merger.mlp[2]
    last.bias.copy_(((last.bias.double() - mean) @ turn).to(last.bias.dtype))
    last.weight.copy_((turn.T @ last.weight.double()).to(last.weight.dtype))


def main() -> None:
    from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="a checkpoint of training.pong, changed in place")
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=128, help="pairs of frames a step")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fresh", action="store_true", help="begin with a new tower")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(args.out, dtype=torch.float32)
    size = SmallVLM()
    if args.fresh:
        model.model.visual = build(size, AutoTokenizer.from_pretrained(args.out)).model.visual
    pixels = read_pixel_options(args.out, model.config)
    adapter = Qwen25VL(model, AutoTokenizer.from_pretrained(args.out), pixels)
    loader = DataLoader(Pairs(size, pixels, args.seed), batch_size=args.batch, num_workers=1, prefetch_factor=4)
    if args.minutes > 0:
        look(adapter, iter(loader), (size.height // size.patch, size.width // size.patch), args.minutes)
    sharpen(adapter, iter(Pairs(size, pixels, args.seed + 1)), samples=4_000)
    model.save_pretrained(args.out)


if __name__ == "__main__":
    main()
