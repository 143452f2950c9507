"""Where things stand: cells in the order of the tower's patches, what a wrong place costs, a tower that learns it."""

import math
from itertools import repeat
from pathlib import Path

import numpy as np
import pytest
import torch

from neverblink.football.camera import Sight
from neverblink.training.arcade import adapter_of
from neverblink.training.courses import FootballCourse, spots_of
from neverblink.training.look import Looks, Pairs, by_grid, kinds_of, look
from neverblink.training.recipes import SmallVLM, build, save
from neverblink.training.spots import CELL, MANY, ONE, RARE, Kinds, Where, cells_a_side, cells_of
from neverblink.training.tokenizer import train_tokenizer
from neverblink.vision.pixels import PixelOptions, cut
from tests.football.recording import write_match


@pytest.mark.parametrize(("patch", "merge"), [(40, 4), (20, 8), (40, 2), (10, 4), (8, 4)])
def test_a_cell_is_where_the_pixels_of_the_spot_are(patch: int, merge: int):
    """A white dot is drawn at the spot and the picture is cut as the tower gets it: the patch that has the dot is the
    one that is marked, in the cell that has it."""
    pixels = PixelOptions(patch=patch, merge=merge)
    grid = (2 * merge, 4 * merge)
    height, width = grid[0] * patch, grid[1] * patch
    side = cells_a_side(pixels)
    dice = np.random.default_rng(0)
    for _ in range(20):
        x, y, kind = int(dice.integers(width)), int(dice.integers(height)), int(dice.integers(3))
        picture = torch.zeros(2, 3, height, width, dtype=torch.uint8)
        picture[:, :, y, x] = 255
        patches, _ = cut(picture, pixels)
        dots = patches.view(len(patches), 6, patch, patch)[:, 0]
        [(there, row, column)] = torch.argwhere(dots > 0).tolist()
        cells = cells_of(np.array([[(x + 0.5) / width, (y + 0.5) / height, kind]]), 3, grid, pixels)
        size = patch // side
        assert (len(patches), side * side, 3) == cells.shape
        assert [[there, row // size * side + column // size, kind]] == np.argwhere(cells).tolist()


def test_what_is_outside_counts_nowhere_and_what_is_not_known_is_said():
    pixels = PixelOptions(patch=20, merge=2)
    spots = np.array([[-0.01, 0.5, 0], [0.5, 1.0, 0], [1.2, 0.5, 0], [0.5, -0.3, 0]])
    assert 0 == np.abs(cells_of(spots, 1, (2, 2), pixels)).sum()
    assert (cells_of(None, 2, (2, 2), pixels) == -1).all()
    assert (4, 4, 0) == cells_of(None, 0, (2, 2), pixels).shape


def test_the_loss_is_that_of_plain_sums():
    """Pairs of which nothing is known count nothing; where the one is outside of the picture only the many count."""
    torch.manual_seed(0)
    where = Where(8, 4, Kinds(("a", "b"), ("c", "d")))
    told = torch.randn(4, 2, 4, 4)
    cells = torch.zeros(4, 2, 4, 4, dtype=torch.int8)
    cells[0, 1, 2, 0] = cells[0, 0, 0, 1] = cells[1, 1, 3, 1] = cells[0, 1, 3, 3] = cells[1, 0, 2, 2] = 1
    cells[2] = -1
    loss, right = where.loss(told, cells)
    many, said = 0.0, {0: [0, 0, 0], 1: [0, 0, 0]}
    for pair in (0, 1, 3):
        for patch in range(2):
            for cell in range(4):
                for kind in range(2):
                    x, true = float(told[pair, patch, cell, kind]), bool(cells[pair, patch, cell, kind])
                    p = 1 / (1 + math.exp(-x))
                    many -= RARE * math.log(p) if true else math.log(1 - p)
                    said[kind][0] += x > 0 and true
                    said[kind][1] += x > 0
                    said[kind][2] += true
    ones = told[0, 1, 3, 3], told[1, 0, 2, 2]
    one = sum(-math.log(math.exp(x) / float(told[i, ..., 2:].exp().sum())) for i, x in enumerate(ones)) / 2
    assert float(loss) == pytest.approx(MANY * many / 48 + ONE * one, rel=1e-5)
    assert right["a"] == pytest.approx(2 * said[0][0] / max(said[0][1] + said[0][2], 1))
    assert right["b"] == pytest.approx(2 * said[1][0] / max(said[1][1] + said[1][2], 1))
    assert right["c, d"] in (0.0, 0.5, 1.0)
    told[0, 1, 3, 3] = told[1, 0, 2, 2] = 50.0
    assert where.loss(told, cells)[1]["c, d"] == 1.0
    told[0, 1, 3, 2] = 60.0  # the right place, but the other kind
    assert where.loss(told, cells)[1]["c, d"] == 0.5
    nothing, none = where.loss(told[2:3], cells[2:3])
    assert (0.0, {}) == (float(nothing), none)


def test_spots_are_those_of_the_sight():
    feet = np.arange(44.0).reshape(2, 11, 2)
    spots = spots_of(Sight(feet, np.array([160.0, 90.0]), 0.9), side=1)
    assert spots is not None
    assert (23, 3) == spots.shape
    assert [0] * 11 + [1] * 11 + [3] == spots[:, 2].tolist()
    assert (0.5, 0.5) == tuple(spots[22, :2])
    np.testing.assert_allclose(spots[1, :2] * (320, 180), feet[0, 1] - (0, 3))
    assert spots_of(Sight(feet, np.zeros(2), 0.1), side=0) is None
    names = (*FootballCourse.kinds.many, *FootballCourse.kinds.one)
    assert "blue" in names[1]
    assert "blue" in names[3]


def test_grey_pictures_tell_no_places(tmp_path: Path):
    """The hand-made match has no players in its pictures: nothing may be learned of where they stand."""
    write_match(tmp_path, 4)
    course = FootballCourse(tmp_path)
    pixels = PixelOptions(patch=40, merge=4, min_pixels=25_600, max_pixels=51_200)
    pairs = iter(Pairs([course], pixels, 0, live=2))
    [(_, patches, _, cells)] = by_grid([next(pairs) for _ in range(8)])
    assert (8, patches.shape[1], (40 // CELL) ** 2, len(kinds_of([course]))) == cells.shape
    assert (cells == -1).all()


def test_a_tower_learns_where_things_stand(tmp_path: Path):
    """Bright squares and one dark one in noise: after some steps on the same pictures they are told, and the report
    says so."""
    torch.manual_seed(0)
    size = SmallVLM(layers=1, hidden=64, vision_hidden=96, vision_layers=1, vision_mlp=96, mlp=64)
    tokenizer = train_tokenizer(["the ball"] * 10, tmp_path, vocabulary=300)
    save(build(size, tokenizer), tokenizer, tmp_path, size, {})
    adapter = adapter_of(tmp_path)
    dice, kinds, items = np.random.default_rng(0), Kinds(("a light",), ("a shadow",)), []
    for _ in range(16):
        picture = torch.from_numpy(dice.integers(100, 140, (2, 3, 160, 160), dtype=np.uint8))
        places = dice.permutation(256)[:6]
        spots = []
        for number, place in enumerate(places):
            row, column = divmod(int(place), 16)
            picture[:, :, row * 10 + 2 : row * 10 + 8, column * 10 + 2 : column * 10 + 8] = 255 if number else 0
            spots.append([(column + 0.5) / 16, (row + 0.5) / 16, 0 if number else 1])
        patches, (_, *grid) = cut(picture, adapter.pixels)
        cells = cells_of(np.array(spots), 2, (grid[0], grid[1]), adapter.pixels)
        items.append(((grid[0], grid[1]), patches.numpy(), np.zeros(1, np.int64), cells))
    lines: list[str] = []
    look(adapter, repeat(by_grid(items)), [("sport", 1)], 5.0, lines.append, lr=2e-3, steps=151, kinds=kinds)
    told = lines[-1].split()
    assert float(told[told.index("a_light") + 1]) > 0.9
    assert float(told[told.index("a_shadow") + 1]) > 0.9
    first = lines[0].split()
    assert float(first[first.index("a_light") + 1]) < 0.3
    # What has places is recorded, so it is learned with dropout; games never end.
    head, where = torch.nn.Linear(64, 1), Where(96, 16, kinds)
    for places, same in ((where, False), (None, True)):
        looks = Looks(adapter, head, places, (), None)
        assert same == torch.equal(looks(by_grid(items)).logits, looks(by_grid(items)).logits)
    # Of a sport that is to stay nothing new is learned, so neither are its places.
    look(
        adapter,
        repeat(by_grid(items)),
        [("sport", 1)],
        5.0,
        lines.append,
        steps=1,
        keep=(0,),
        before=adapter_of(tmp_path),
        kinds=kinds,
    )
    assert "a_light" not in lines[-1]
