"""The best token without all logits: products of bytes leave a few candidates, whose logits are then computed in full.

A small model with a large vocabulary spends most of a token on reading its output weights (39 MB for 152,064 words of
64 floats). A copy of them in 8 bits is a quarter of that, and what rounding can do to a product is bounded
(Cauchy-Schwarz): |w.h - q.g| <= |w - q| |h| + |q| |h - g|. Whoever cannot be the best within the bound needs no logit.
"""

from __future__ import annotations

import math

import numpy as np
import torch

MOST = 2_048  # candidates; beyond, the full product is as fast
BLOCK = 16_384  # rows quantised at once, so that no second float copy of the weights is made


class BestToken:
    """Finds the largest logit of output weights [vocabulary, hidden] float32 on a CPU."""

    def __init__(self, weight: torch.Tensor):
        self._weight = weight
        self._bytes = torch.empty(weight.shape, dtype=torch.int8)
        self._scale = torch.empty(len(weight))
        lost = kept = 0.0
        for a in range(0, len(weight), BLOCK):
            rows = weight[a : a + BLOCK]
            scale = rows.abs().amax(1).clamp_min(1e-12) / 127
            whole = (rows / scale[:, None]).round_()
            self._bytes[a : a + BLOCK], self._scale[a : a + BLOCK] = whole.to(torch.int8), scale
            whole *= scale[:, None]
            lost = max(lost, float((rows - whole).norm(dim=1).max()))
            kept = max(kept, float(whole.norm(dim=1).max()))
        self._lost, self._kept = lost, kept
        self._held = torch.zeros(len(weight), dtype=torch.bool)

    def pick(self, hidden: torch.Tensor, penalty: float, held: torch.Tensor | None) -> int | None:
        """The id that greedy decoding takes; None where all logits have to be looked at.

        Args:
            hidden: [1, hidden]. penalty: a repetition penalty's, on the ids `held` [n].
        """
        size, largest = float(hidden.norm()), float(hidden.abs().max())
        if not math.isfinite(size) or largest == 0:
            return None
        step = largest / 127
        rough = (hidden / step).round_()
        off = float((hidden - rough * step).norm())
        products = torch._int_mm(rough.to(torch.int8), self._bytes.T)[0]  # [vocabulary] int32
        scores = products * self._scale
        scores *= step
        bound = self._lost * size + self._kept * off + 1e-5 * self._kept * size  # the last: float32's own rounding
        if held is not None:
            scores[held] = _penalised(scores[held], penalty)
            bound *= max(penalty, 1 / penalty)
        likely = torch.from_numpy(np.flatnonzero(scores.numpy() >= float(scores.max()) - 2 * bound))
        if len(likely) > MOST:
            return None
        exact = torch.nn.functional.linear(hidden, self._weight[likely])[0]
        if held is not None:
            self._held[held] = True
            exact = torch.where(self._held[likely], _penalised(exact, penalty), exact)
            self._held[held] = False
        best = float(exact.max())
        return int(likely[int(exact.argmax())]) if math.isfinite(best) else None


def _penalised(scores: torch.Tensor, penalty: float) -> torch.Tensor:
    return torch.where(scores < 0, scores * penalty, scores / penalty)
