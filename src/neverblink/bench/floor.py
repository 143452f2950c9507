"""The least time that a machine needs for a model's work: bytes over measured bandwidth, products over measured rate.

A decode step reads every weight of the decoder and every held row once; a prefill multiplies every fed token by every
weight. Nothing that computes the same numbers is faster, so a measured time is shown beside its floor.
"""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from neverblink.models.base import Adapter
from neverblink.models.products import Linear, stock_is_slow

# What stands behind a tower, in the names that the families give it, and works on merged tokens.
_BEHIND = re.compile("merger|connector|multi_modal_projector")


@dataclass(frozen=True, slots=True)
class Rates:
    """What a device was measured to do."""

    bytes_per_second: float  # memory to processor
    flops: float  # a second, of a large matrix product in the model's dtype


class Sizes:
    """The weights of a model by what touches them.

    Args:
        adapter: its `model` is a stock transformers module with `get_decoder` and `get_output_embeddings`.
    """

    def __init__(self, adapter: Adapter):
        model, self._adapter = adapter.model, adapter
        table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        layers = [p for p in model.get_decoder().parameters() if p is not table]
        decoder = {id(p) for p in (*layers, table, head)}
        vision = [(name, p) for name, p in model.named_parameters() if id(p) not in decoder]
        # Of the embedding table a token reads one row; the head is read whole, also where it is the same tensor.
        self.bytes_per_token = sum(p.numel() * p.element_size() for p in (*layers, head))
        self.layers = _products(layers)  # multiply-adds a fed token
        self.head = head.numel()  # multiply-adds for the logits of one token
        self.tower = _products(p for name, p in vision if not _BEHIND.search(name))  # multiply-adds a patch
        self.merger = _products(p for name, p in vision if _BEHIND.search(name))  # multiply-adds a merged token
        self.attention = adapter.layers * model.config.get_text_config().num_attention_heads * adapter.head_dim

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of one row of the KV cache."""
        a = self._adapter
        return 2 * a.layers * a.kv_heads * a.head_dim * a.dtype.itemsize

    def prefill_flops(self, tokens: int, past: int) -> int:
        """Feeding `tokens` behind `past` rows and the logits of the last: 2 a multiply-add, attention causal."""
        seen = tokens * past + tokens * (tokens + 1) // 2
        return 2 * (self.layers * tokens + self.head + 2 * self.attention * seen)

    def vision_flops(self, tokens: int, patches: int) -> int:
        """Encoding pictures; the tower's attention, a few per cent of it, is left out."""
        return 2 * (self.tower * patches + self.merger * tokens)

    def decode_seconds(self, rows: float, rates: Rates) -> float:
        """Least time of one token behind `rows` held rows."""
        return (self.bytes_per_token + rows * self.row_bytes) / rates.bytes_per_second

    def prefill_seconds(self, flops: float, rates: Rates) -> float:
        """Least time of a prefill: it cannot be over before the weights were read once."""
        return max(flops / rates.flops, self.bytes_per_token / rates.bytes_per_second)


def _products(weights: Any) -> int:
    return sum(weight.numel() for weight in weights if weight.ndim > 1)  # norms and biases multiply no matrix


@dataclass(frozen=True, slots=True)
class Work:
    """What a model was given to do."""

    fed: int = 0  # tokens of prefills
    prefill_flops: int = 0
    vision_tokens: int = 0
    vision_flops: int = 0
    vision: float = 0.0  # wall seconds in the tower, in prefills and in decode steps
    prefill: float = 0.0
    decode: float = 0.0


class Meter:
    """An adapter that adds up the work of a model and ends each stage of it when the device has done it.

    Without the wait a CUDA device would do the work of one stage while the clock of the next one runs. What moves in
    the cache between chunks is still waited for by the prefill that follows it.

    Args:
        adapter: stays as it is; `Meter.adapter` is the metered twin, on the same weights.
        wait: returns when the device is idle; None chooses.
    """

    def __init__(self, adapter: Adapter, wait: Callable[[], None] | None = None):
        self.sizes, self.wait = Sizes(adapter), wait or waits_for(adapter.device)
        self.adapter: Any = copy.copy(adapter)
        vars(self.adapter).update(encode=self._encode, forward=self._forward)
        vars(self.adapter).update(encode_packed=self._encode_packed, forward_packed=self._forward_packed)
        self._plain, self._work = adapter, Work()

    def take(self) -> Work:
        """The work since the last call."""
        work, self._work = self._work, Work()
        return work

    def _encode(self, frames: Any, fps: float) -> Any:
        return self._seen(lambda: [self._plain.encode(frames, fps)])[0]

    def _encode_packed(self, looks: Any) -> Any:
        return self._seen(lambda: self._plain.encode_packed(looks))

    def _seen(self, encode: Callable[[], list[Any]]) -> list[Any]:
        began = time.perf_counter()
        blocks = encode()
        self.wait()
        tokens = sum(block.tokens for block in blocks)
        patches = sum(round(block.tokens * self.adapter.patches_per_token) for block in blocks)
        more, w = self.sizes.vision_flops(tokens, patches), self._work
        self._work = replace(
            w,
            vision_tokens=w.vision_tokens + tokens,
            vision_flops=w.vision_flops + more,
            vision=w.vision + time.perf_counter() - began,
        )
        return blocks

    def _forward(self, embeds: torch.Tensor, positions: torch.Tensor, cache: Any) -> torch.Tensor:
        fed = [(embeds.shape[0], cache.get_seq_length())]
        return self._read(fed, lambda: self._plain.forward(embeds, positions, cache))

    def _forward_packed(self, embeds: torch.Tensor, positions: torch.Tensor, cache: Any) -> torch.Tensor:
        fed = [(s.end - s.start, s.rows - (s.end - s.start)) for s in cache.segments]
        return self._read(fed, lambda: self._plain.forward_packed(embeds, positions, cache))

    def _read(self, fed: list[tuple[int, int]], forward: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Args: fed: tokens of each stream, and the rows before them."""
        began = time.perf_counter()
        hidden = forward()
        self.wait()
        took, w = time.perf_counter() - began, self._work
        # One token is a decode step, whose floor is bytes.
        chunks = [(tokens, past) for tokens, past in fed if tokens > 1]
        flops = sum(self.sizes.prefill_flops(tokens, past) for tokens, past in chunks)
        w = replace(w, fed=w.fed + sum(tokens for tokens, _ in chunks), prefill_flops=w.prefill_flops + flops)
        # A mixed call counts as the prefill that made it long.
        self._work = replace(w, prefill=w.prefill + took) if chunks else replace(w, decode=w.decode + took)
        return hidden


def waits_for(device: torch.device) -> Callable[[], None]:
    """A function that returns when a device is idle; a CPU always is."""
    if device.type == "cpu":
        return lambda: None
    return lambda: torch.accelerator.synchronize(device)


def measure_rates(device: torch.device, dtype: torch.dtype, *, megabytes: int = 0, edge: int = 0) -> Rates:
    """Bandwidth and rate of a device, the best of several tries: another process can only make them worse.

    Args:
        megabytes: read at once, MiB; must be far beyond every cache. 0 is 256 on a CPU, 2,048 elsewhere.
        edge: rows and columns of the product. 0 is 1,024 on a CPU, 8,192 elsewhere.
    """
    small, wait = device.type == "cpu", waits_for(device)
    edge, megabytes = edge or (1_024 if small else 8_192), megabytes or (256 if small else 2_048)
    bandwidth = _bandwidth(device, megabytes, wait)
    left = torch.randn(edge, edge, device=device).to(dtype)
    ways = [lambda: left @ left]
    if small and dtype == torch.float32 and stock_is_slow():
        quick = Linear(torch.nn.Linear(edge, edge, bias=False))
        ways.append(lambda: quick(left))
    with torch.inference_mode():
        return Rates(bandwidth, 2 * edge**3 / min(_fastest(way, wait) for way in ways))


def _bandwidth(device: torch.device, megabytes: int, wait: Callable[[], None]) -> float:
    # In float32 whatever the model's dtype is: a byte is a byte, and a CPU's bfloat16 products do not keep up with it.
    weights = torch.ones(megabytes * 2**20 // 4 // 8_192, 8_192, device=device)
    vector, target = torch.ones(8_192, device=device), torch.empty_like(weights)
    multiplied = _fastest(lambda: torch.mv(weights, vector), wait)
    summed = _fastest(lambda: weights.sum(), wait)
    copied = _fastest(lambda: target.copy_(weights), wait)  # reads and writes
    return 4 * weights.numel() / min(multiplied, summed, copied / 2)


def _fastest(work: Callable[[], Any], wait: Callable[[], None], tries: int = 5) -> float:
    best = float("inf")
    for _ in range(tries):
        wait()
        began = time.perf_counter()
        work()
        wait()
        best = min(best, time.perf_counter() - began)
    return best
