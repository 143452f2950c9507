"""What each gate keeps, on pictures with one thing in them. A glance is two frames; four glances a second."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from neverblink.economy import Glance, State, gates, make
from neverblink.errors import ConfigError
from neverblink.vision.gates.curve import curvature

GRID = (3, 4)
ALL = ["pixel", "grt", "curvestream:features=thumbnail", "slow-fast:share=0", "key-frames:share=0"]


def ground(seed: int = 0, noise: float = 0.0, light: int = 0) -> np.ndarray:
    """A coarse pattern of 96x128, with sensor noise (grey levels) and more or less light."""
    pattern = np.random.default_rng(seed).integers(40, 200, (6, 8, 3))
    picture = np.kron(pattern, np.ones((16, 16, 1))) + light
    picture += noise * np.random.default_rng(abs(hash((seed, noise, light))) % 2**32).standard_normal(picture.shape)
    return picture.clip(0, 255).astype(np.uint8)


def noisy(i: int) -> np.ndarray:
    noise = np.random.default_rng(i).standard_normal((96, 128, 3)) * 6
    return (ground().astype(float) + noise).clip(0, 255).astype(np.uint8)


def with_ball(left: int) -> np.ndarray:
    picture = ground()
    picture[40:64, left : left + 24] = 255
    return picture


def run(gate: Any, *pairs: tuple[np.ndarray, np.ndarray], musts: tuple[int, ...] = (0,), every: float = 0.25) -> Any:
    """(verdict, state) of each glance."""
    state: State = {}
    out = []
    for i, pair in enumerate(pairs):
        verdict, state = gate(Glance(pair, i * every, GRID, i in musts), state)
        out.append(verdict)
    return out


def kept(*args: Any, **named: Any) -> list[int]:
    return [i for i, verdict in enumerate(run(*args, **named)) if verdict.keep]


def twice(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return picture, picture


# The budgets tell a share of the tokens of what is alike, one at least: `told` looks at what is told in full.
def told(name: str, *pairs: tuple[np.ndarray, np.ndarray], **named: Any) -> list[int]:
    return [i for i, v in enumerate(run(make(gates, name), *pairs, **named)) if v.keep and v.share == 1]


@pytest.mark.parametrize("name", ALL)
def test_a_still_picture_is_told_once(name: str) -> None:
    first = 3 if name.startswith("curve") else 1  # a bend needs three
    assert list(range(first)) == told(name, *[twice(ground())] * 12)


@pytest.mark.parametrize("name", [n for n in ALL if not n.startswith("curve")])
def test_sensor_noise_is_nothing_new(name: str) -> None:
    assert [0] == told(name, *((noisy(2 * i), noisy(2 * i + 1)) for i in range(10)))


@pytest.mark.parametrize("name", ALL)
def test_a_scene_cut_is_told_at_once(name: str) -> None:
    assert 6 in told(name, *[twice(ground())] * 6, *[twice(ground(1))] * 2)


@pytest.mark.parametrize("name", ["pixel", "grt", "slow-fast", "key-frames"])
@pytest.mark.parametrize("position", [0, 1])
def test_a_flash_of_one_frame_is_seen_in_either_frame_of_a_glance(name: str, position: int) -> None:
    pair = [ground(), ground()]
    pair[position] = ground(7)
    assert 4 in told(name, *[twice(ground())] * 4, (pair[0], pair[1]), twice(ground()))


@pytest.mark.parametrize("name", ["pixel:similarity=0.95", "grt:theta=0.02", "slow-fast", "key-frames:threshold=0.05"])
def test_a_slow_drift_is_told_again_and_again(name: str) -> None:
    """A ball that moves half a pixel a glance: against the glance before it nothing would ever be new."""
    pairs = [twice(with_ball(10 + i // 2)) for i in range(120)]
    assert len(told(name, *pairs)) >= 3
    assert [0] == told(name, *pairs[:2]), "one step alone is nothing"


def test_pixel_gate_sees_the_same_at_any_rate() -> None:
    """Twice the frames a second, the same moments."""
    slow = kept(make(gates, "pixel"), *(twice(with_ball(10 + i)) for i in range(20)))
    fast = kept(make(gates, "pixel"), *(twice(with_ball(10 + i // 2)) for i in range(40)))
    assert len(slow) >= 3
    assert abs(len(slow) - len(fast)) <= 1


def test_grt_tells_the_changed_places_only_and_not_the_light() -> None:
    """The ball covers rows 40-63 (of 32 a token) and columns 72-95: it stands in tokens 6 (1, 2)."""
    grt = make(gates, "grt")
    [first, ball, same, light] = run(grt, twice(ground()), twice(with_ball(70)), twice(with_ball(70)), twice(ground()))
    assert first.cells is None
    assert ball.cells is not None
    assert [6] == torch.nonzero(ball.cells).flatten().tolist()
    assert not same.keep
    assert light.cells is not None
    assert [6] == torch.nonzero(light.cells).flatten().tolist()
    assert [0] == kept(grt, twice(ground()), twice(ground(light=30)), twice(ground(light=30)))
    assert [0, 1] == kept(grt, twice(ground()), twice(ground(4)))


def unit(angle: float) -> torch.Tensor:
    return torch.tensor([math.cos(angle), math.sin(angle), 0.0], dtype=torch.float64)


def test_curvature_of_known_paths() -> None:
    """Standing still 0; turning by a steady angle a chord that bends by that angle; turning back 2."""
    assert (0.0, False) == curvature(torch.stack([unit(0.3)] * 3), 1.0, 1e-4)
    for angle in (0.1, 0.5):
        score, moved = curvature(torch.stack([unit(0), unit(angle), unit(2 * angle)]), 1.0, 1e-4)
        assert moved
        assert score - (1 - math.cos(angle)) == pytest.approx(1 - math.cos(angle), abs=1e-6)
    score, _ = curvature(torch.stack([unit(0), unit(0.5), unit(0)]), 1.0, 1e-4)
    assert score - (1 - math.cos(0.5)) == pytest.approx(2.0, abs=1e-6)


def test_curvestream_takes_the_models_features_when_they_are_there() -> None:
    """Pictures that are all the same, features that jump."""
    gate, state, out = make(gates, "curvestream"), {}, []
    for i in range(12):
        features = torch.eye(12)[[0 if i < 9 else 5]].expand(12, 12)
        verdict, state = gate(Glance(twice(ground()), i / 4, GRID, i == 0, features), state)
        out.append(verdict.keep and verdict.share == 1)
    assert gate.after_encoder
    assert [0, 1, 2, 9] == [i for i, keep in enumerate(out) if keep]


@pytest.mark.parametrize("name", ["slow-fast", "key-frames"])
def test_a_budget_is_never_passed_but_by_what_must_be_kept(name: str) -> None:
    """Tokens of any prefix stay within burst + rate x time + one glance that must be kept; none is lost for ever."""
    rate, burst, n = 10.0, 3.0, GRID[0] * GRID[1]
    pairs = [twice(ground(i)) for i in range(80)]
    verdicts = run(make(gates, f"{name}:tokens_per_second={rate},burst={burst}"), *pairs, musts=(0, 50))
    spent, most = 0, 0.0
    for i, verdict in enumerate(verdicts):
        spent += max(1, int(verdict.share * n)) if verdict.keep else 0
        most = max(most, spent - rate * i * 0.25)
    assert most <= burst * rate + n
    assert spent >= rate * 80 * 0.25 * 0.8
    assert verdicts[50].keep
    assert verdicts[50].share == 1
    assert {True, False} == {verdict.keep for verdict in verdicts}


def test_fast_glances_get_a_share_of_the_tokens() -> None:
    verdicts = run(make(gates, "slow-fast:share=0.3"), *[twice(ground())] * 5, twice(ground(1)))
    assert [1, 0.3, 0.3, 0.3, 0.3, 1] == [verdict.share for verdict in verdicts]


@pytest.mark.parametrize(
    "text", ["pixel:similarity=2", "curvestream:features=flow", "key-frames:burst=-1", "slow-fast:share=x"]
)
def test_gates_refuse_what_is_out_of_range(text: str) -> None:
    with pytest.raises(ConfigError, match=r"must be from|no features 'flow'; known: model, thumbnail"):
        make(gates, text)
