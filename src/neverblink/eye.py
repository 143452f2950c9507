"""How one stream sees a chunk: gate, encoder, compressors, and what they remember, as a function of state.

    frames -> glances -> gate -> Look (with the encoder cache) -> compressors -> what is told, at its own places

Whatever is left out, every told token keeps the place that it has in the whole block, the text behind the block stands
where it would stand behind the whole one, and every chunk is told by one token at least.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import torch
from torch.nn.functional import cosine_similarity

from neverblink.compress.change import alike
from neverblink.compress.stc import top
from neverblink.economy import Glance, State, Tokens, Verdict, make_parts
from neverblink.errors import ConfigError
from neverblink.models.base import Adapter, Cached, Sparing, Steps, VisionBlock
from neverblink.options import StreamOptions
from neverblink.types import Chunk


class Told(NamedTuple):
    """A glance of the chunk that is told: which one, its tokens, and which of them may stay."""

    at: int
    embeds: torch.Tensor  # [h*w, hidden]
    alive: torch.Tensor  # [h*w] bool


class Eye:
    """Args: the adapter of the model, and the options of the stream, which name the parts.

    Raises:
        UnknownName, ConfigError: no such part or option, parts that do not go together, or a family without them.
    """

    NOTHING: ClassVar[State] = {}  # the state of a stream that has seen nothing

    def __init__(self, adapter: Adapter, options: StreamOptions):
        self.options, self.fps = options, options.fps
        self.gate, self.cache, self.compressors = parts = make_parts(
            options.gate, options.encoder_cache, options.compress
        )
        self.plain = not parts
        for name, part in zip(("gate", "encoder_cache", "compress"), parts, strict=True):
            if part and name not in getattr(adapter, "takes", ()):
                raise ConfigError(f"the family {adapter.family} takes no --{name.replace('_', '-')} yet; leave it out")
        self.adapter = cast("Sparing", adapter)

    def see(self, state: State, chunk: Chunk, *, asked: bool) -> Steps[VisionBlock]:
        """The block of a chunk, which brings the state after it.

        Args:
            state: of the block before; {} at the start.
            asked: a question comes with the chunk, so its newest glance is kept.
        """
        look = self.options.look(chunk)
        if self.plain:
            block: VisionBlock = yield look
            return block
        size = self.adapter.frames_per_glance
        groups = [chunk.frames[i : i + size] for i in range(0, len(chunk.frames), size)]
        newest = groups[-1][-1].pixels
        grid = self.adapter.whole(newest, 1, self.fps).grid
        shape = torch.tensor([*newest.shape[:2], *grid])
        if "eye/shape" not in state or not torch.equal(state["eye/shape"], shape):
            state = {}  # nothing compares pictures of two sizes
        after: dict[str, torch.Tensor] = {**state, "eye/shape": shape}
        glances = [
            Glance(tuple(f.pixels for f in group), group[0].time, grid, asked and i == len(groups) - 1)
            for i, group in enumerate(groups)
        ]
        early = self.gate is not None and not self.gate.after_encoder
        verdicts = self._judge(glances, after) if early else [Verdict(True)] * len(glances)
        seen: dict[int, torch.Tensor] = {}
        kept = [i for i, verdict in enumerate(verdicts) if verdict.keep]
        if kept:
            frames = [f for i in kept for f in glances[i].frames]
            cached = None
            if self.cache is not None:
                times = tuple(glances[i].time for i in kept)
                cached = Cached(self.cache, times, _part(after, "cache"))
            looked: VisionBlock = yield look._replace(frames=frames, cached=cached)
            _put(after, "cache", looked.state)
            seen = dict(zip(kept, looked.embeds.view(len(kept), grid[0] * grid[1], -1), strict=True))
        if self.gate is not None and not early:
            verdicts = self._judge([_with(g, seen[i]) for i, g in enumerate(glances)], after)
        told = self._told(verdicts, seen, after)
        self._compress(told, [glances[t.at].time for t in told], grid, after)
        whole = self.adapter.whole(newest, len(groups), self.fps)
        masks = [_anchored(t) for t in told]
        return VisionBlock(
            torch.cat([t.embeds[mask] for t, mask in zip(told, masks, strict=True)]),
            np.concatenate([whole.loc[t.at][m.cpu().numpy()] for t, m in zip(told, masks, strict=True)]),
            whole.advance,
            state=after,
            frames_skipped=sum(len(g.frames) for g, verdict in zip(glances, verdicts, strict=True) if not verdict.keep),
        )

    def _judge(self, glances: list[Glance], after: dict[str, torch.Tensor]) -> list[Verdict]:
        """Verdicts in order of time; what must be kept is kept, whatever the gate says."""
        assert self.gate is not None
        verdicts: list[Verdict] = []
        for glance in glances:
            held = after.get("eye/kept_at")
            odd = len({f.shape for f in glance.frames} | {glances[-1].frames[-1].shape}) > 1
            late = held is None or glance.time - float(held) >= self.gate.max_gap - 1e-6
            glance = _with(glance, glance.features, must=glance.must or late or odd)
            verdict, state = self.gate(glance, _part(after, "gate"))
            _put(after, "gate", state)
            if glance.must:
                verdict = Verdict(True)
            if verdict.keep:
                after["eye/kept_at"] = torch.tensor(glance.time, dtype=torch.float64)
            verdicts.append(verdict)
        return verdicts

    def _told(
        self, verdicts: list[Verdict], seen: Mapping[int, torch.Tensor], after: dict[str, torch.Tensor]
    ) -> list[Told]:
        """The glances that are told, with the gate's share and cells applied."""
        told: list[Told] = []
        for i, verdict in enumerate(verdicts):
            last = after.get("eye/last")
            if verdict.keep:
                embeds = seen[i]
                alive = torch.ones(len(embeds), dtype=torch.bool, device=embeds.device)
                if verdict.cells is not None:
                    alive &= verdict.cells.to(alive.device)
                if verdict.share < 1 and last is not None:
                    alive &= top(1 - alike(embeds, last), int(verdict.share * len(embeds)))
                elif self.gate is not None:
                    after["eye/last"] = embeds.clone()
                told.append(Told(i, embeds, alive))
            elif self.gate.skipped == "reuse":
                assert last is not None, "the first glance is kept"
                told.append(Told(i, last, torch.ones(len(last), dtype=torch.bool, device=last.device)))
        if not told:
            # Nothing new in the whole chunk. One token of the last picture says that time went on.
            last = after["eye/last"]
            told.append(Told(len(verdicts) - 1, last, torch.zeros(len(last), dtype=torch.bool, device=last.device)))
        return told

    def _compress(
        self, told: list[Told], times: list[float], grid: tuple[int, int], after: dict[str, torch.Tensor]
    ) -> None:
        """Let each compressor in turn take tokens out of what is told."""
        for i, compressor in enumerate(self.compressors):
            if not any(bool(t.alive.any()) for t in told):
                return
            embeds, alive = torch.stack([t.embeds for t in told]), torch.stack([t.alive for t in told])
            mask, state = compressor(Tokens(embeds, alive, grid, tuple(times)), _part(after, f"compress{i}"))
            if mask.shape != alive.shape or mask.dtype != torch.bool:
                raise ConfigError(
                    f"{type(compressor).__name__} gave a mask {mask.dtype} {list(mask.shape)}; it must be "
                    f"torch.bool {list(alive.shape)}"
                )
            _put(after, f"compress{i}", state)
            for t, row in zip(told, mask.to(alive.device), strict=True):
                t.alive.logical_and_(row)


def _with(glance: Glance, features: torch.Tensor | None, must: bool | None = None) -> Glance:
    return Glance(glance.frames, glance.time, glance.grid, glance.must if must is None else must, features)


def _anchored(told: Told) -> torch.Tensor:
    """What stays of a glance; when that is nothing, the token most like all of them."""
    if told.alive.any():
        return told.alive
    mean = told.embeds.float().mean(0, keepdim=True)
    return top(cosine_similarity(told.embeds.float(), mean, dim=-1), 1)


def _part(state: Mapping[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """The state of one part, under its own names."""
    return {key.removeprefix(f"{name}/"): value for key, value in state.items() if key.startswith(f"{name}/")}


def _put(state: dict[str, torch.Tensor], name: str, part: Mapping[str, Any]) -> None:
    """In place of what the part had."""
    for key in [key for key in state if key.startswith(f"{name}/")]:
        del state[key]
    state.update({f"{name}/{key}": value for key, value in part.items()})
