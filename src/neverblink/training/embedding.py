"""The tower's patch embedding while it learns: written in directions in which what is to be seen stands out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.utils.parametrize

from neverblink.models.qwen2_5_vl import Qwen25VL
from neverblink.training.look import Grid, Group
from neverblink.vision.pixels import normalise

LOUD = 8.0  # how strong small print is, where main directions are 1
AGAINST = 0.3  # weight of what the directions of small print answer elsewhere


class Whitened(torch.nn.Module):
    """A patch embedding written in the main directions of real patches, each as strong as the other.

    The gradient for the plain weights follows what varies most, players and backgrounds; digits of 5 x 4 pixels, that
    a linear probe on the pixels reads at once (0.92 of 2,400 pairs), were at 0.1 after half an hour. Learned in these
    directions they come as fast as the rest. A parametrisation in torch's sense: the weights that are saved are plain.

    Args:
        patches: [n, values] normalised, from all that is to be seen.
        rank: number of directions.
        fresh: start anew; else from the weights that are there, as far as the directions can tell them.
        more: [n, values], directions of what is too small to count among the main ones.
    """

    basis: torch.Tensor  # [rank + n, values]

    def __init__(self, patches: torch.Tensor, rank: int, fresh: bool, more: Sequence[torch.Tensor] = ()):
        super().__init__()
        self.fresh, self.rank = fresh, rank
        _, spread, directions = torch.svd_lowrank(patches, q=rank + 32, niter=2)
        strength = spread[:rank] / len(patches) ** 0.5  # root mean square along each direction
        self.register_buffer("basis", torch.cat([(directions[:, :rank] / (strength + strength[-1])).T, *more]))

    def forward(self, inner: torch.Tensor) -> torch.Tensor:
        """[out, rank + n] -> [out, 3, 2, patch, patch]."""
        size = math.isqrt(self.basis.shape[1] // 6)
        return (inner @ self.basis).view(len(inner), 3, 2, size, size)

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        """[out, 3, 2, patch, patch] -> [out, rank + n]; the main directions are at right angles to each other."""
        if self.fresh:
            return torch.randn(len(weight), len(self.basis), device=weight.device) / self.rank**0.5
        main = self.basis[: self.rank]
        told = weight.flatten(1) @ (main / main.square().sum(1, keepdim=True)).T
        return torch.nn.functional.pad(told, (0, len(self.basis) - self.rank))


class Lettered(torch.nn.Module):
    """A patch embedding that stays as it is, but for what it makes of the directions in which print is read.

    Args:
        weight: [out, 3, 2, patch, patch] as it is. rows: [n, values].
    """

    base: torch.Tensor
    rows: torch.Tensor

    def __init__(self, weight: torch.Tensor, rows: torch.Tensor):
        super().__init__()
        self.register_buffer("base", weight.detach().clone())
        self.register_buffer("rows", rows)

    def forward(self, inner: torch.Tensor) -> torch.Tensor:
        """[out, n] -> [out, 3, 2, patch, patch]."""
        return self.base + (inner @ self.rows).view_as(self.base)

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        """Nothing of the directions yet."""
        return weight.new_zeros(len(weight), len(self.rows))


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
        for shape, patches, truth in next(batches):
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


def whiten(
    adapter: Qwen25VL,
    batches: Iterator[list[Group]],
    fresh: bool,
    more: Sequence[torch.Tensor] = (),
    seen: int = 24_000,
    rank: int = 1_536,
) -> None:
    """Write the tower's patch embedding in the directions of the next `seen` patches, and in `more` of them."""
    held: list[torch.Tensor] = []
    while sum(map(len, held)) < seen:
        held += [patches.flatten(0, 1) for _, patches, _ in next(batches)]
    patches = normalise(torch.cat(held), adapter.pixels).to(adapter.device)
    _write(adapter, Whitened(patches, rank, fresh, more))


def letter(adapter: Qwen25VL, directions: Sequence[torch.Tensor]) -> None:
    """Let the tower's patch embedding learn what stands along these directions, and nothing else."""
    _write(adapter, Lettered(adapter.model.model.visual.patch_embed.proj.weight, torch.cat(list(directions))))


def _write(adapter: Qwen25VL, how: torch.nn.Module) -> None:
    torch.nn.utils.parametrize.register_parametrization(adapter.model.model.visual.patch_embed.proj, "weight", how)
