"""The tower's patch embedding while it learns: along directions in which what is to be seen stands out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.utils.parametrize

from neverblink.models.qwen2_5_vl import Qwen25VL
from neverblink.training.look import Grid, Group
from neverblink.vision.pixels import normalise

LOUD = 8.0  # how strong small print is, where main directions are 1
AGAINST = 0.3  # weight of what the directions of small print answer elsewhere


class Along(torch.nn.Module):
    """A patch embedding that is learned along given directions, on top of what it is; all else about it stays.

    A parametrisation in torch's sense: the weights that are saved are plain.

    Args:
        base: [out, 3, 2, patch, patch]. rows: [n, values].
        start: deviation of what is there of each direction at first.
    """

    base: torch.Tensor
    rows: torch.Tensor

    def __init__(self, base: torch.Tensor, rows: torch.Tensor, start: float = 0.0):
        super().__init__()
        self.start = start
        self.register_buffer("base", base.detach().clone())
        self.register_buffer("rows", rows)

    def forward(self, inner: torch.Tensor) -> torch.Tensor:
        """[out, n] -> [out, 3, 2, patch, patch]."""
        return self.base + (inner @ self.rows).view_as(self.base)

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        """Where the learning begins, whatever the weight."""
        return self.start * torch.randn(len(weight), len(self.rows), device=weight.device)


class Print(NamedTuple):
    """Small print in pictures of one grid, and what it tells."""

    grid: Grid
    where: torch.Tensor  # [patches, values] bool; all of it in one patch
    columns: list[int]  # of the fields


def letters(small: torch.Tensor, other: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
    """Directions in which print is read.

    A ball and a player are what patches differ in; a digit of four pixels on a grey bar is not among their first 1,536
    directions: a tower read a clock in 0.50 after 650 steps, and a ridge regression in 0.95 at once. Where no print is
    these directions answer little, as the other patches are held against them.

    Args:
        small: [n, m] the pixels of the print. other: [k, m] the same of other patches. told: [n, fields] classes.

    Returns:
        [classes, m], along each of which the print varies by `LOUD`.
    """
    wanted = torch.cat([torch.nn.functional.one_hot(column) for column in told.T], 1).float()
    wanted = wanted[:, wanted.any(0)]
    mean = small.mean(0)
    small, other = small - mean, other - mean
    spread = small.T @ small / len(small) + AGAINST * other.T @ other / len(other)
    spread.diagonal().add_(0.01 * spread.diagonal().mean())
    found = torch.linalg.solve(spread, small.T @ (wanted - wanted.mean(0)) / len(small))  # [m, classes]
    return (found * (LOUD / (small @ found).std(0))).T


def _pixels(adapter: Qwen25VL, patches: torch.Tensor, those: torch.Tensor) -> torch.Tensor:
    """[pairs, n, values] uint8 -> [pairs * n, m] normalised, of those [values] bool."""
    return normalise(patches.flatten(0, 1), adapter.pixels)[:, those]


def directions_of(adapter: Qwen25VL, batches: Iterator[list[Group]], small: Print, read: int = 4_000) -> torch.Tensor:
    """The `letters` of small print, told by so many pairs, as directions of whole patches: [classes, values]."""
    grid, where, columns = small
    there, pixels = where.any(1), where.any(0)
    own: list[torch.Tensor] = []
    told: list[torch.Tensor] = []
    other: list[torch.Tensor] = []
    while sum(map(len, told)) < read:
        for shape, patches, truth, _ in next(batches):
            if shape == grid:
                shown = truth[:, columns].amin(1) >= 0
                own.append(_pixels(adapter, patches[shown][:, there], pixels))
                told.append(truth[shown][:, columns])
                patches = patches[:, ~there]
            some = torch.randint(patches.shape[1], (len(patches), 2))
            other.append(_pixels(adapter, patches[torch.arange(len(patches))[:, None], some], pixels))
    rows = letters(torch.cat(own), torch.cat(other), torch.cat(told))
    whole = torch.zeros(len(rows), where.shape[1])
    whole[:, pixels] = rows
    return whole.to(adapter.device)


def main_directions(patches: torch.Tensor, rank: int) -> torch.Tensor:
    """[rank, values]: the main directions of patches [n, values], each as strong in them as the other.

    The gradient for plain weights follows what varies most, players and backgrounds; digits of 5 x 4 pixels, that
    a linear probe on the pixels reads at once (0.92 of 2,400 pairs), were at 0.1 after half an hour. Learned in these
    directions they come as fast as the rest.
    """
    spread, directions = _directions(patches, rank)
    strength = spread / len(patches) ** 0.5  # root mean square along each direction
    return (directions / (strength + strength[-1])).T


def _directions(patches: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The main singular values [rank] and directions [values, rank] of patches [n, values]."""
    _, spread, directions = torch.svd_lowrank(patches, q=rank + 32, niter=2)
    return spread[:rank], directions[:, :rank]


def whiten(
    adapter: Qwen25VL,
    batches: Iterator[list[Group]],
    fresh: bool,
    more: Sequence[torch.Tensor] = (),
    kept: Sequence[int] = (),
    seen: int = 24_000,
    rank: int = 1_536,
    stays: int = 400,
) -> None:
    """Let the tower's patch embedding learn along the main directions of the next `seen` patches, and along `more`.

    Args:
        fresh: forget what is there.
        kept: numbers of sports whose tokens are to stay: the directions are those of the others' patches, at right
            angles to the `stays` main ones of theirs, so that what is learned is hardly seen there. Where all are kept
            there are no others, and the directions are theirs.
    """
    held: list[torch.Tensor] = []
    known: list[torch.Tensor] = []
    numbers = torch.tensor(list(kept), dtype=torch.int64)
    while sum(map(len, held)) < seen:
        for _, patches, truth, _ in next(batches):
            held.append(patches.flatten(0, 1))
            known.append(torch.isin(truth[:, 0], numbers).repeat_interleave(patches.shape[1]))
    patches, theirs = normalise(torch.cat(held), adapter.pixels).to(adapter.device), torch.cat(known)
    weight = _embedding(adapter).weight
    others = ~theirs if not theirs.all() else theirs
    rows = main_directions(patches[others], rank)
    if not others.all():
        _, stay = _directions(patches[theirs], stays)
        rows = rows - rows @ stay @ stay.T
    rows = torch.cat([rows, *more])
    _write(adapter, Along(torch.zeros_like(weight), rows, rank**-0.5) if fresh else Along(weight, rows))


def letter(adapter: Qwen25VL, directions: Sequence[torch.Tensor]) -> None:
    """Let the tower's patch embedding learn what stands along these directions, and nothing else."""
    _write(adapter, Along(_embedding(adapter).weight, torch.cat(list(directions))))


def _embedding(adapter: Qwen25VL) -> Any:
    return adapter.model.model.visual.patch_embed.proj


def _write(adapter: Qwen25VL, how: Along) -> None:
    torch.nn.utils.parametrize.register_parametrization(_embedding(adapter), "weight", how)
