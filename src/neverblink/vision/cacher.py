"""STC-Cacher: of a picture much like the last one encoded in full, a vision tower computes only what has changed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import cosine_similarity

from neverblink.economy import State, Tower, check


@dataclass(frozen=True)
class StcCacher:
    """Every `every`-th glance is a reference: encoded in full, with each layer's keys, values, attention and MLP output
    kept. For the others each layer computes all keys, takes the `recompute` share of patches whose keys are least like
    the reference's, and computes values, queries, attention and MLP of those alone.

    A glance becomes a reference early when its patches are, in the mean, less like the reference's than `cut` (a new
    scene: cosine of the embedded patches without the reference's mean), when the reference is `max_age` media seconds
    old, and when the picture has another size.

    Costs 4 x layers x patches x width numbers of memory a stream: 390 MB for Qwen2.5-VL at 640x360 in bfloat16.
    """

    recompute: float = 0.25
    every: int = 4
    cut: float = 0.5
    max_age: float = 8.0

    def __post_init__(self) -> None:
        check(self, recompute=(0, 1), every=(1, 1_000_000), cut=(-1, 1), max_age=(0, 1e9))

    def __call__(
        self, tower: Tower, patches: torch.Tensor, grid: tuple[int, int], time: float, state: State
    ) -> tuple[torch.Tensor, State]:
        x, place = tower.begin(patches, grid)
        if self._is_reference(x, time, state):
            return self._full(tower, x, place, time)
        most = int(self.recompute * len(x))
        for layer in range(tower.layers):
            normed = tower.norm(layer, x)
            keys = tower.keys(layer, normed, place)
            score = cosine_similarity(keys.float(), state["keys"][layer].float(), dim=-1)
            rows = torch.sort(score, stable=True).indices[:most].sort().values
            values, attended = state["values"][layer].clone(), state["attended"][layer].clone()
            if most:
                values[rows] = tower.values(layer, normed[rows])
                attended[rows] = tower.attend(layer, normed[rows], rows, keys, values, place)
            x = x + attended
            second = state["mlp"][layer].clone()
            if most:
                second[rows] = tower.mlp(layer, x[rows])
            x = x + second
        return tower.finish(x, place), {**state, "used": state["used"] + 1}

    def _is_reference(self, x: torch.Tensor, time: float, state: State) -> bool:
        if not state or state["start"].shape != x.shape:
            return True
        if int(state["used"]) >= self.every or time - float(state["time"]) >= self.max_age:
            return True
        start = state["start"].float()
        mean = start.mean(0)
        return float(cosine_similarity(x.float() - mean, start - mean, dim=-1).mean()) < self.cut

    @staticmethod
    def _full(tower: Tower, x: torch.Tensor, place: object, time: float) -> tuple[torch.Tensor, State]:
        names = ("keys", "values", "attended", "mlp")
        state = {name: x.new_empty(tower.layers, *x.shape) for name in names}
        state |= {"start": x.clone(), "used": torch.tensor(1), "time": torch.tensor(time, dtype=torch.float64)}
        rows = torch.arange(len(x), device=x.device)
        for layer in range(tower.layers):
            normed = tower.norm(layer, x)
            keys, values = tower.keys(layer, normed, place), tower.values(layer, normed)
            attended = tower.attend(layer, normed, rows, keys, values, place)
            x = x + attended
            second = tower.mlp(layer, x)
            x = x + second
            for name, tensor in zip(names, (keys, values, attended, second), strict=True):
                state[name][layer] = tensor
        return tower.finish(x, place), state
