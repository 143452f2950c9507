"""Gemma 3 with vision on the stock transformers class.

Most layers see the last `sliding_window` places only, and have a rotary embedding of their own. The tokens of a picture
see each other in both directions; a chunk is fed as a whole, so a picture is never cut by the cache. The window is
measured between positions, which is what the model was trained on: with contiguous positions it counts held rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from neverblink.errors import ModelError
from neverblink.models.packed import packed_calls
from neverblink.models.squares import SquareAdapter
from neverblink.types import Marks
from neverblink.vision.pixels import SquareOptions


class Gemma3(SquareAdapter):
    """Adapter of `Gemma3ForConditionalGeneration`."""

    family, kind = "gemma3", "Gemma3ForConditionalGeneration"
    about = "Gemma 3 from 4B on: square frames, seen in both directions; sliding layers"
    marks = Marks(
        "<image_soft_token>",
        before="\n\n<start_of_image>",
        after="<end_of_image>\n\n",
        item="image",
        placeholder="<start_of_image>",
    )
    _slides = True
    refused_kv_dtype = "what its layers see depends on where a row stands"

    def __init__(self, model: Any, tokenizer: Any, pixels: SquareOptions, tokens: int, name: str = ""):
        super().__init__(model, tokenizer, pixels, tokens, name)
        config = self._lm.config
        if config.use_bidirectional_attention or config.attn_logit_softcapping:
            raise ModelError(f"{name}: text that is read in both directions, or capped scores, cannot be streamed")
        self.ropes, self._window = tuple(config.layer_types), int(config.sliding_window)

    @staticmethod
    def tokens_of(config: Any, side: int) -> int:
        tokens: int = config.mm_tokens_per_image
        return tokens

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        embeds: torch.Tensor = self.model.model.get_image_features(pixel_values=pixels).pooler_output
        return embeds

    def _masks(self, new: int, positions: torch.Tensor, cache: Any) -> Any:
        seen = self._sees(cache.table, new)
        return {kind: None if see is None else self._as_mask(see) for kind, see in seen.items()}

    def forward_packed(self, embeds: torch.Tensor, positions: torch.Tensor, cache: Any) -> torch.Tensor:
        seen = {s.start: self._sees(s.cache.table, s.end - s.start) for s in cache.segments}

        def sees(layer: Any, segment: Any) -> torch.Tensor | None:
            return seen[segment.start][layer.layer_type]

        ready = dict.fromkeys(self.ropes)
        with packed_calls(self._lm.config):
            return self._call(embeds, positions, cache, ready, packed=cache, sees=sees)

    def _sees(self, table: Any, new: int) -> dict[str, torch.Tensor | None]:
        """For each kind of layer, what [new] pending rows of a stream see [new, n + new]; None: all of it."""
        n = table.n
        at, cells, turns = (column[: n + new] for column in (table.pos[:, 0], table.cells, table.turns))
        # A picture's number; -1 for text. A turn's cells are those of its pictures, one after the other.
        picture = np.where(cells >= 0, turns.astype(np.int64) * 2**20 + cells // self.tokens, -1)
        full = np.tri(new, n + new, n, dtype=bool)
        full |= (picture[n:, None] == picture[None]) & (picture[n:, None] >= 0)
        near = full & (at[None] > at[n:, None] - self._window)
        found = {"full_attention": full, "sliding_attention": near}
        return {kind: None if see.all() else torch.from_numpy(see).to(self.device) for kind, see in found.items()}
