"""Stage `see`: teach the vision tower to see before anybody talks.

Captions alone teach where a ball of eight pixels is very slowly: after 440 steps the words for the paddles were right
in 96 % and the ball's column in 43 %. Here a linear head on the tower's tokens names the numbers of the game's state
(`Sport.fields`: ball, players, scores, clock) for every pair of frames, and where a course can say it another one names
what stands in each cell of a patch (`spots.py`). The heads are thrown away; the tower goes into the checkpoint.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.utils.parametrize
from torch.utils.data import IterableDataset, get_worker_info

from neverblink.arcade.sport import Sport
from neverblink.errors import ConfigError
from neverblink.models.qwen2_5_vl import Qwen25VL
from neverblink.training.courses import Course
from neverblink.training.loop import optimizers_of
from neverblink.training.spots import Kinds, Where, cells_a_side, cells_of
from neverblink.vision.pixels import PixelOptions, cut, normalise, resize, uncut

KEEP = 10.0  # loss weight of the drift of tokens that are to stay, as a share of their variance
LATELY = 0.9  # what a batch counts beside the next one, in what is reported
KNOWN = 0.5  # loss weight of naming the state of sports that are kept
# Where places are told: recordings are few and soon known by heart, and the merger has most of the weights.
DROPPED = 0.2
DECAY = 0.01  # of weights, as a share of the learning rate
NOTHING = Kinds()
Field = tuple[str, int]  # name and number of classes
Grid = tuple[int, int]  # height and width in patches
# Pairs whose pictures have one grid: patches [pairs, patches, values] uint8, classes [pairs, fields] int64, and cells
# [pairs, patches, cells, kinds] int8.
Group = tuple[Grid, torch.Tensor, torch.Tensor, torch.Tensor]
# The same of one pair.
Item = tuple[Grid, np.ndarray, np.ndarray, np.ndarray]


def fields_of(known: Sequence[Sport]) -> list[Field]:
    """What the head names. Fields of one name and size are shared: the ball's column is one thing in every sport."""
    fields: list[Field] = [("sport", len(known))]
    for sport in known:
        fields += [field for field in sport.fields.items() if field not in fields]
    return fields


def kinds_of(courses: Sequence[Course]) -> Kinds:
    """What the tower is to tell the places of. Kinds of one name are shared."""
    many, one = ([name for course in courses for name in course.kinds[i]] for i in (0, 1))
    return Kinds(tuple(dict.fromkeys(many)), tuple(dict.fromkeys(one)))


class Pairs(IterableDataset[Item]):
    """Yields (grid, patches uint8 of one pair of frames, classes [fields] int64, cells), -1 where unknown, for ever.

    Args:
        courses: what to draw from.
        live: streams that run side by side, of all courses together.
        often: how often each course is drawn; () is equally often.
    """

    def __init__(
        self,
        courses: Sequence[Course],
        pixels: PixelOptions,
        seed: int,
        live: int = 32,
        often: Sequence[float] = (),
    ):
        self.courses, self.pixels, self.seed, self.live = tuple(courses), pixels, seed, live
        ends = np.cumsum(often or [1.0] * len(courses))
        # Stream i is of the course whose share of the streams i is in.
        self._course_of = np.searchsorted(ends / ends[-1], (np.arange(live) + 0.5) / live).tolist()

    def __iter__(self) -> Iterator[Item]:
        worker = get_worker_info()
        rng = np.random.default_rng((self.seed, worker.id if worker else 0))
        fields = fields_of([course.sport for course in self.courses])
        live = [self._one(i, int(rng.integers(2**31)), fields) for i in range(self.live)]
        while True:
            i = int(rng.integers(self.live))
            pair = next(live[i], None)
            if pair is None:
                live[i] = self._one(i, int(rng.integers(2**31)), fields)
            else:
                yield pair

    def _one(self, number: int, seed: int, fields: list[Field]) -> Iterator[Item]:
        index = self._course_of[number]
        course = self.courses[index]
        columns = [fields.index(field) for field in course.sport.fields.items()]
        kinds = kinds_of(self.courses)
        numbers = np.array([(*kinds.many, *kinds.one).index(name) for name in (*course.kinds.many, *course.kinds.one)])
        for pictures, state, spots in course.pairs(seed):
            stack = resize(torch.from_numpy(pictures).permute(0, 3, 1, 2), self.pixels)
            truth = np.full(len(fields), -1, np.int64)
            truth[0] = index
            truth[columns] = course.sport.measure(state)
            patches, (_, *grid) = cut(stack, self.pixels)
            if spots is not None:
                spots = np.column_stack([spots[:, :2], numbers[spots[:, 2].astype(int)]])
            cells = cells_of(spots, len(kinds), (grid[0], grid[1]), self.pixels)
            yield (grid[0], grid[1]), patches.numpy(), truth, cells


def by_grid(pairs: Sequence[Item]) -> list[Group]:
    """A batch of `Pairs`, pictures of one shape together."""
    groups: dict[Grid, list[tuple[np.ndarray, ...]]] = defaultdict(list)
    for grid, *parts in pairs:
        groups[grid].append(tuple(parts))
    found: list[Group] = []
    for grid, group in sorted(groups.items()):
        patches, truth, cells = (torch.from_numpy(np.stack(part)) for part in zip(*group, strict=True))
        found.append((grid, patches, truth, cells))
    return found


class Glance:
    """The stock tower over many pairs of frames of one grid at once.

    The stock forward runs its attention picture by picture, which costs more than all else at this size; the result
    is the same (tests/training/test_recipe.py).

    Args:
        grid: (h, w) in patches; the picture must fit into one attention window.
    """

    def __init__(self, tower: Any, grid: tuple[int, int]):
        self.tower = tower
        seen: list[Any] = []
        hook = tower.blocks[0].register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(kwargs["position_embeddings"]), with_kwargs=True
        )
        weight = tower.patch_embed.proj.weight
        with torch.no_grad():
            n = grid[0] * grid[1]
            tower(weight.new_zeros(n, weight[0].numel()), grid_thw=torch.tensor([[1, *grid]], device=weight.device))
        hook.remove()
        # [1, 1, n, head] each; in float32 as in the stock forward
        self.cos, self.sin = (part.float()[None, None] for part in seen[0])

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """[pairs, patches, values] normalised -> [pairs * tokens, hidden]."""
        return self.merged(self.tower.merger.ln_q(self.patches(values))).flatten(0, 1)

    def patches(self, values: torch.Tensor) -> torch.Tensor:
        """[pairs, patches, values] normalised -> [pairs, patches, tower's hidden], before they are merged."""
        weight = self.tower.patch_embed.proj.weight
        hidden = torch.nn.functional.linear(values, weight.flatten(1))
        for block in self.tower.blocks:
            attn = block.attn
            q, k, v = attn.qkv(block.norm1(hidden)).unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
            # Plain: the backward of fused attention on a CPU is slow for so few patches.
            weights = (self._turn(q) * attn.scaling @ self._turn(k).mT).softmax(-1, torch.float32)
            mixed = weights.to(v.dtype) @ v
            hidden = hidden + attn.proj(mixed.transpose(1, 2).flatten(2))
            hidden = hidden + block.mlp(block.norm2(hidden))
        return hidden

    def merged(self, hidden: torch.Tensor, dropped: float = 0.0) -> torch.Tensor:
        """[pairs, patches, tower's hidden] behind the merger's norm -> [pairs, tokens, hidden].

        Args:
            dropped: probability of dropout inside of the merger, half of it before.
        """
        first, act, last = self.tower.merger.mlp
        patches = torch.nn.functional.dropout(hidden, dropped / 2).unflatten(
            1, (-1, first.in_features // hidden.shape[-1])
        )
        out: torch.Tensor = last(torch.nn.functional.dropout(act(first(patches.flatten(2))), dropped))
        return out

    def _turn(self, x: torch.Tensor) -> torch.Tensor:
        half = x.shape[-1] // 2
        turned = torch.cat([-x[..., half:], x[..., :half]], -1)
        return (x.float() * self.cos + turned.float() * self.sin).to(x.dtype)


class Looked(NamedTuple):
    """What the tower and the heads made of a batch."""

    logits: torch.Tensor  # [pairs, classes of all fields]
    truth: torch.Tensor  # [pairs, fields]
    drift: torch.Tensor | None  # of kept sports' tokens from what they were, as a share of their variance
    misplaced: torch.Tensor  # loss of the places of things
    placed: dict[str, float]  # as of `Where.loss`


class Looks:
    """What the tower and the heads make of a batch, whatever grids its pictures have.

    Args:
        keep, before: as for `look`.
    """

    def __init__(
        self,
        adapter: Qwen25VL,
        head: torch.nn.Linear,
        where: Where | None,
        keep: Sequence[int],
        before: Qwen25VL | None,
    ):
        self.adapter, self.head, self.where, self.before = adapter, head, where, before
        self.keep = torch.tensor(list(keep), dtype=torch.int64, device=adapter.device)
        self._glance = cache(partial(Glance, adapter.model.model.visual))
        self._past = cache(partial(Glance, before.model.model.visual)) if before else None

    def __call__(self, batch: list[Group]) -> Looked:
        heard, truths, drifts, misplaced = [], [], [], []
        placed: dict[str, float] = {}
        for grid, *tensors in batch:
            patches, truth, cells = (t.to(self.adapter.device) for t in tensors)
            glance = self._glance(grid)
            kept = self.kept(truth)
            with torch.autocast(self.adapter.device.type, dtype=torch.bfloat16):
                values = normalise(patches.flatten(0, 1), self.adapter.pixels, torch.bfloat16)
                values = values.unflatten(0, patches.shape[:2])
                hidden = glance.tower.merger.ln_q(glance.patches(values))
                places = self.where if bool((cells[~kept] >= 0).any()) else None
                tokens = glance.merged(hidden, DROPPED if places else 0.0)
                # Their mean: a token that does not say where it is cannot help.
                heard.append(self.head(tokens.mean(1)).float())
                truths.append(truth)
                if places:
                    wrong, right = places.loss(places(hidden[~kept]), cells[~kept])
                    misplaced.append(wrong)
                    placed |= right
                if kept.any():
                    told = self._told_before(patches[kept], grid).view_as(tokens[kept]).float()
                    drifts.append((tokens[kept].float() - told).square().mean() / told.var())
        drift = torch.stack(drifts).mean() if drifts else None
        lost = torch.stack(misplaced).sum() if misplaced else torch.zeros((), device=self.adapter.device)
        return Looked(torch.cat(heard), torch.cat(truths), drift, lost, placed)

    def kept(self, truth: torch.Tensor) -> torch.Tensor:
        """[pairs] bool: pairs of a sport that is kept."""
        return torch.isin(truth[:, 0], self.keep)

    @torch.no_grad()
    def _told_before(self, patches: torch.Tensor, grid: Grid) -> torch.Tensor:
        """Tokens of the tower before, of patches [pairs, patches, values] uint8 cut anew as it wants them."""
        assert self.before and self._past, "kept sports have a tower before"
        own, its = self.adapter.pixels, self.before.pixels
        there, (_, height, width) = cut(uncut(patches.flatten(0, 1), (len(patches), *grid), own), its)
        values = normalise(there, its, torch.bfloat16).unflatten(0, (-1, height * width))
        tokens: torch.Tensor = self._past((height, width))(values)
        return tokens


def _named(logits: Sequence[torch.Tensor], truth: torch.Tensor) -> torch.Tensor:
    """Mean loss over the fields that some of the pairs have.

    Args:
        logits: [pairs, classes] of each field. truth: [pairs, fields], -1 where unknown or not asked for.
    """
    losses = []
    for column, told in enumerate(logits):
        rows = truth[:, column] >= 0
        if rows.any():
            losses.append(torch.nn.functional.cross_entropy(told[rows], truth[rows, column]))
    return torch.stack(losses).mean() if losses else torch.zeros((), device=truth.device)


class Shares:
    """How often fields are told right, lately: the mean over a field's classes of the share of each one's pairs.

    Every class counts alike. Of a field that mostly is "none", as restarts are, the share of all pairs says nothing:
    0.99 were right while of free kicks it was 0.24.
    """

    def __init__(self, fields: Sequence[Field]):
        self._names = [name for name, _ in fields]
        self._pairs, self._right = ([torch.zeros(classes) for _, classes in fields] for _ in range(2))

    def add(self, logits: Sequence[torch.Tensor], truth: torch.Tensor) -> None:
        """One batch, as for `_named`."""
        said = torch.stack([told.argmax(-1) for told in logits])
        both = zip(said.cpu(), truth.T.cpu(), strict=True)  # a GPU is waited for once
        for (told, true), pairs, right in zip(both, self._pairs, self._right, strict=True):
            rows = true >= 0
            hits = true[rows][told[rows] == true[rows]]
            counts, correct = (torch.bincount(which, minlength=len(pairs)) for which in (true[rows], hits))
            shown = counts > 0  # a class that is rare keeps what was seen of it
            pairs[shown] = LATELY * pairs[shown] + counts[shown]
            right[shown] = LATELY * right[shown] + correct[shown]

    def __call__(self) -> dict[str, float]:
        """Field -> its share; 0 if no pair has had it."""
        found = {}
        for name, pairs, right in zip(self._names, self._pairs, self._right, strict=True):
            shown = pairs > 0
            found[name] = (right[shown] / pairs[shown]).mean().item() if shown.any() else 0.0
        return found


def _side(pixels: PixelOptions) -> int:
    return pixels.patch * pixels.merge


def look(
    adapter: Qwen25VL,
    batches: Iterator[list[Group]],
    fields: Sequence[Field],
    minutes: float,
    report: Callable[[str], None],
    lr: float = 1e-3,
    steps: int = 1_000_000,
    keep: Sequence[int] = (),
    before: Qwen25VL | None = None,
    new: Sequence[int] = (),
    kinds: Kinds = NOTHING,
) -> dict[str, float]:
    """Train the vision tower in place until the time is over or the steps are done.

    Args:
        batches: of `Pairs`, by grid.
        keep: numbers of sports whose tokens stay as near as can be to what `before` gives for them, so that a
            decoder that knows them has little to learn anew.
        new: columns of fields that are learned even of sports that are kept.
        kinds: of things whose places are learned too, of sports that are not kept.

    Returns:
        field -> share read right lately, as of `Shares`.

    Raises:
        ConfigError: a token of `before` shows another part of the picture.
    """
    if before and (there := _side(before.pixels)) != (here := _side(adapter.pixels)):
        raise ConfigError(
            f"tokens are to stay like those of a tower whose tokens show {there} x {there} pixels, here they show "
            f"{here} x {here}; choose --patch and --merge so that both are the same"
        )
    sizes = [classes for _, classes in fields]
    head = torch.nn.Linear(adapter.model.config.text_config.hidden_size, sum(sizes)).to(adapter.device)
    tower = adapter.model.model.visual.train()
    cells = cells_a_side(adapter.pixels) ** 2
    where = Where(tower.config.hidden_size, cells, kinds).to(adapter.device) if kinds else None
    looks = Looks(adapter, head, where, keep, before)
    learned_by = [*tower.parameters(), *head.parameters(), *(where.parameters() if where else ())]
    # The merger is no layer here: its matrices are so large that Muon's products would take longer than all else.
    optimizers = optimizers_of(learned_by, (*tower.blocks, tower.patch_embed), lr, DECAY)
    began, step = time.monotonic(), 0
    shares = Shares(fields)
    while (done := max(step / steps, (time.monotonic() - began) / 60 / minutes)) < 1:
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = lr * min(1.0, (step + 1) / 50) * (1 - 0.9 * done)
        said, truth, drift, misplaced, placed = looks(next(batches))
        logits, old = said.split(sizes, 1), looks.kept(truth)
        fresh = torch.zeros_like(truth, dtype=torch.bool)
        fresh[:, list(new)] = True
        fresh |= ~old[:, None]
        learned, known = _named(logits, truth.where(fresh, -1)), _named(logits, truth.where(~fresh, -1))
        loss = learned + misplaced + KNOWN * known + (KEEP * drift if drift is not None else 0.0)
        shares.add(logits, truth)
        for parameter in learned_by:
            parameter.grad = None
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        if step % 50 == 0:
            each = " ".join(f"{name.replace(' ', '_')} {share:.2f}" for name, share in shares().items())
            off = "" if drift is None else f" drift {drift.item():.4f}"
            spots = "".join(f" {name.replace(' ', '_')} {share:.2f}" for name, share in placed.items())
            report(f"see step {step} minutes {done * minutes:.1f} loss {loss.item():.3f}{off} {each}{spots}")
        step += 1
    tower.eval()
    if torch.nn.utils.parametrize.is_parametrized(tower.patch_embed.proj):
        torch.nn.utils.parametrize.remove_parametrizations(tower.patch_embed.proj, "weight")
    return shares()
