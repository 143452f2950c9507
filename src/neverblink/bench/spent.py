"""What a run of quality has cost, and the options that make it cost less."""

from __future__ import annotations

import argparse
from dataclasses import replace
from statistics import fmean
from typing import Any

from neverblink.economy import compressors, encoder_caches, gates
from neverblink.errors import ConfigError
from neverblink.options import KV_DTYPES
from neverblink.types import Caption
from neverblink.vision.pixels import PixelOptions

PARTS = {"gate": gates, "encoder_cache": encoder_caches, "compress": compressors}


def add_parts(parser: argparse.ArgumentParser) -> None:
    """--gate, --encoder-cache, --compress and --kv-dtype."""
    for name, registry in PARTS.items():
        several = "; several joined by +" if name == "compress" else ""
        parser.add_argument(
            "--" + name.replace("_", "-"),
            metavar="NAME[:OPTION=VALUE,...]",
            default=argparse.SUPPRESS,
            help=f"{', '.join(registry)}{several}",
        )
    parser.add_argument(
        "--kv-dtype", choices=KV_DTYPES[1:], default=argparse.SUPPRESS, help="of keys and values of vision"
    )


def smaller(pixels: Any, most: int) -> PixelOptions:
    """Pixel options with at most so many pixels a frame.

    Raises:
        ConfigError: fewer than one token's, or the family sees squares of one size.
    """
    if not isinstance(pixels, PixelOptions):
        raise ConfigError(f"max_pixels {most} is for families that see any size of picture; leave it out")
    least = (pixels.patch * pixels.merge) ** 2
    if most < least:
        raise ConfigError(f"max_pixels {most} is less than one token of this model, {least}; give it as many or more")
    return replace(pixels, max_pixels=most, min_pixels=min(pixels.min_pixels, most))


class Spent:
    """Sums over the captions of a stream."""

    def __init__(self) -> None:
        self._captions: list[tuple[int, int, int, int, dict[str, float]]] = []

    def add(self, caption: Caption) -> None:
        numbers = (caption.vision_tokens, caption.frames_skipped, caption.frames_used, caption.kv_bytes)
        self._captions.append((*numbers, dict(caption.seconds)))

    def result(self, media_seconds: float) -> dict[str, Any]:
        """vision_tokens_per_second: told, a media second. frames_skipped: share of the frames. vision_ms, prefill_ms
        and chunk_ms: mean wall time of a chunk's encoder, of making room and reading it, and of all of it but the
        questions. kv_bytes: of the rows that were held, in the mean; None where a model has none."""
        told, skipped, frames, held, seconds = zip(*self._captions, strict=True)
        spent = {
            "vision_ms": [each.get("see", 0.0) for each in seconds],
            "prefill_ms": [each.get("make_room", 0.0) + each.get("read", 0.0) for each in seconds],
            "chunk_ms": [sum(value for name, value in each.items() if name != "answer") for each in seconds],
        }
        return {
            "vision_tokens_per_second": round(sum(told) / media_seconds, 3),
            "frames_skipped": round(sum(skipped) / sum(frames), 4),
            **{name: round(1e3 * fmean(values), 3) for name, values in spent.items()},
            "kv_bytes": round(fmean(held)) or None,
        }
