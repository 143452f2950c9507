"""What an encoder cache and a pruner save on published shapes: real widths, random weights, fewer layers.

A tower of 8 layers has one layer of full attention, as every eighth of the published 32 has, so the share that is saved
of its layers is that of the whole. The decoder is measured by one layer and counted as often as the shape has layers;
the pruner's own time is counted once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import numpy as np
import torch

from neverblink.bench.shapes import SHAPES, random_model
from neverblink.economy import Tokens, compressors, encoder_caches, make
from neverblink.errors import ConfigError
from neverblink.kv.arena import Arena
from neverblink.kv.cache import StreamCache
from neverblink.kv.table import Table
from neverblink.models.base import Cached, Look

FPS = 5.0
CONTEXT = 4_096  # rows that a chunk is read behind
WORDS = 24  # tokens of a turn that are no pixels
CACHES = ("stc:recompute=0.25,every=4", "stc:recompute=0.25,every=2")
KEEPS = (0.25, 0.3)


def savings(shape: str, layers: int = 8, size: str = "640x360") -> Iterator[dict[str, Any]]:
    """Lines for the vision tower with each cache, and for the prefill of one glance with the pruner.

    Args:
        layers: of the tower that run. size: WIDTHxHEIGHT of the pictures.

    Raises:
        UnknownName: no such shape. ConfigError: the size cannot be read.
    """
    try:
        width, height = (int(part) for part in size.lower().split("x"))
    except ValueError as error:
        raise ConfigError(f"size {size!r} is no WIDTHxHEIGHT such as 640x360") from error
    facts = {"shape": shape, "size": size, "threads": torch.get_num_threads(), "times": "CPU ms of one thread"}
    with torch.inference_mode():
        yield from _vision(shape, layers, width, height, facts)
        yield from _prefill(shape, width, height, facts)


def _vision(shape: str, layers: int, width: int, height: int, facts: dict[str, Any]) -> Iterator[dict[str, Any]]:
    model = random_model(
        shape, device="cpu", layers=layers, vocabulary=512, max_pixels=width * height, decoder_layers=1
    )
    adapter: Any = model.adapter
    ground = np.random.default_rng(0).integers(0, 200, (height, width, 3), dtype=np.uint8)

    def glance(i: int) -> list[np.ndarray]:
        """Two frames of a still ground and a square that moves, as a fixed camera sees at 5 fps."""
        pair = [ground.copy(), ground.copy()]
        for k, picture in enumerate(pair):
            left = 8 * (2 * i + k) % width
            picture[height // 3 : height // 2, left : left + width // 8] = 255
        return pair

    plain = [_ms(adapter.encode, glance(i), FPS) for i in range(4)][1:]
    facts = {**facts, "stage": "vision", "layers": layers, "patches": 4 * adapter.encode(glance(0), FPS).tokens}
    for text in CACHES:
        cache, state = make(encoder_caches, text), dict[str, torch.Tensor]()
        times: list[float] = []
        for i in range(cache.every + 1):  # the first reference warms the memory up; the last closes the round
            look = Look(glance(i), FPS, Cached(cache, (2 * i / FPS,), state))
            began = time.thread_time()
            [block] = adapter.encode_packed([look])
            times.append(1e3 * (time.thread_time() - began))
            state = dict(block.state)
        reference, others = times[cache.every], times[1 : cache.every]
        mean = (reference + sum(others)) / cache.every
        yield {
            **facts,
            "method": f"cache {text}",
            "plain_ms": round(median(plain), 1),
            "reference_ms": round(reference, 1),
            "other_ms": round(median(others), 1),
            "mean_ms": round(mean, 1),
            "saved": round(1 - mean / median(plain), 4),
            "state_bytes": sum(value.nbytes for value in state.values()) * _depth(shape) // layers,
        }


def _prefill(shape: str, width: int, height: int, facts: dict[str, Any]) -> Iterator[dict[str, Any]]:
    model = random_model(shape, device="cpu", layers=1, vocabulary=512, max_pixels=width * height)
    adapter: Any = model.adapter
    depth = SHAPES[shape]["text_config"]["num_hidden_layers"]
    tokens = adapter.whole(np.zeros((height, width, 3), np.uint8), 1, FPS).loc.shape[1]
    table = Table(CONTEXT + WORDS + tokens)
    cache = StreamCache(Arena.of(adapter, table.max_rows, 0), table)
    table.n = table.m = CONTEXT  # whatever they hold, they are attended to
    hidden = adapter.embed(torch.tensor([0])).shape[-1]
    picture = torch.randn(1, tokens, hidden)

    def read(count: int) -> float:
        embeds = torch.randn(count, hidden, dtype=adapter.dtype)
        positions = torch.arange(CONTEXT, CONTEXT + count).float().expand(3, -1)
        return median([_ms(adapter.forward, embeds, positions, cache) for _ in range(4)][1:])

    plain = read(WORDS + tokens) * depth
    for keep in KEEPS:
        pruner = make(compressors, f"stc:keep={keep}")
        whole = Tokens(picture, torch.ones(1, tokens, dtype=torch.bool), (1, tokens), (0.0,))
        own = median([_ms(pruner, whole, {}) for _ in range(4)][1:])
        kept = int(pruner(whole, {})[0].sum())
        pruned = read(WORDS + kept) * depth + own
        yield {
            **facts,
            "stage": "prefill",
            "layers": 1,
            "counted_layers": depth,
            "behind_rows": CONTEXT,
            "method": f"stc:keep={keep}",
            "vision_tokens": tokens,
            "kept_tokens": kept,
            "words": WORDS,
            "plain_ms": round(plain, 1),
            "pruned_ms": round(pruned, 1),
            "pruner_ms": round(own, 2),
            "saved": round(1 - pruned / plain, 4),
        }


def _depth(shape: str) -> int:
    depth: int = SHAPES[shape]["vision_config"]["depth"]
    return depth


def _ms(work: Callable[..., Any], *given: Any) -> float:
    began = time.thread_time()
    work(*given)
    return 1e3 * (time.thread_time() - began)
