"""Where things stand in a picture, as something that the tower learns: what is named of cells of ten pixels.

Names for a whole picture teach a tower to know the matches that it has seen: after 12 minutes it told the side that has
the ball in 0.97 of their pictures and in 0.81 of others. Whose shirt is in this cell can only be learned by looking.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from neverblink.vision.pixels import PixelOptions, cut

CELL = 10  # pixels of the picture that the tower is given
MANY, ONE = 2.0, 0.5  # loss weights of the two sorts of things
RARE = 4.0  # how much more a cell counts that has one of many


class Kinds(NamedTuple):
    """What is told the places of."""

    many: tuple[str, ...] = ()  # of which any number is in a picture
    one: tuple[str, ...] = ()  # of which there is one, of all of them together

    def __len__(self) -> int:
        return len(self.many) + len(self.one)


def cells_a_side(pixels: PixelOptions) -> int:
    """Cells on each side of a patch; patches smaller than a cell are cells themselves."""
    return max(1, pixels.patch // CELL)


def cells_of(spots: np.ndarray | None, kinds: int, grid: tuple[int, int], pixels: PixelOptions) -> np.ndarray:
    """[patches, cells, kinds] int8 in the order of the tower's patches: 1 where a thing of the kind is, -1 if unknown.

    Args:
        spots: [n, 3] x and y as shares of the picture, number of the kind; what is outside counts nowhere.
        grid: height and width in patches.
    """
    side = cells_a_side(pixels)
    height, width = grid[0] * side, grid[1] * side
    if spots is None:
        return np.full((grid[0] * grid[1], side * side, kinds), -1, np.int8)
    found = np.zeros((kinds, height, width), np.int8)
    column, row = (np.floor(spots[:, axis] * length).astype(int) for axis, length in ((0, width), (1, height)))
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    found[spots[inside, 2].astype(int), row[inside], column[inside]] = 1
    small = PixelOptions(patch=side, temporal_patch=1, merge=pixels.merge)
    # One kind is a picture of its own: the patches of all of them come one picture after the other.
    patches, _ = cut(torch.from_numpy(found)[:, None].expand(-1, 3, -1, -1), small)
    told = patches.view(kinds, grid[0] * grid[1], 3, side * side)[:, :, 0]
    return told.permute(1, 2, 0).contiguous().numpy()


class Where(torch.nn.Module):
    """Names what is in each cell of a patch, from what the tower makes of the patch.

    Args:
        hidden: width of the tower. cells: of a patch.
    """

    def __init__(self, hidden: int, cells: int, kinds: Kinds):
        super().__init__()
        self.kinds, self.cells = kinds, cells
        self.head = torch.nn.Linear(hidden, cells * len(kinds))

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """[pairs, patches, hidden] -> logits [pairs, patches, cells, kinds]."""
        told: torch.Tensor = self.head(patches)
        return told.float().unflatten(-1, (self.cells, len(self.kinds)))

    def loss(self, told: torch.Tensor, cells: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
        """How wrong the logits are, and name -> F1 of each of many; under ", ", joined, how often the one is told in
        its own cell and kind.

        Args:
            cells: as of `cells_of`, [pairs, patches, cells, kinds]; pairs of which nothing is known are left out.
        """
        known = cells.flatten(1).amin(1) >= 0
        told, cells = told[known], cells[known].float()
        loss: torch.Tensor = told.new_zeros(())
        right: dict[str, float] = {}
        if not len(told):
            return loss, right
        n = len(self.kinds.many)
        if n:
            weight = told.new_tensor(RARE)
            loss = loss + MANY * binary_cross_entropy_with_logits(told[..., :n], cells[..., :n], pos_weight=weight)
            said, true = told[..., :n] > 0, cells[..., :n] > 0
            both, all_ = (said & true).sum((0, 1, 2)), (said.sum((0, 1, 2)) + true.sum((0, 1, 2))).clamp(min=1)
            right |= dict(zip(self.kinds.many, (2 * both / all_).tolist(), strict=True))
        if self.kinds.one:
            one, truth = told[..., n:].flatten(1), cells[..., n:].flatten(1)
            there = truth.any(1)
            if there.any():
                place = truth[there].argmax(1)
                loss = loss + ONE * cross_entropy(one[there], place)
                right[", ".join(self.kinds.one)] = (one[there].argmax(1) == place).float().mean().item()
        return loss, right
