"""Carries out a policy's plan: drops rows, moves rows, and turns the keys whose place has changed.

Contiguous positions (StreamingVLM, section 3.1): after eviction the kept rows stand one behind the other again. RoPE
is relative, so the window is left untouched and the few anchors before it are turned FORWARD, each from its
first-written master. When positions pass `rebase_at` everything is turned back to zero once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from neverblink.kv.arena import Arena
from neverblink.kv.compact import CompactArena
from neverblink.kv.policies import Plan
from neverblink.kv.table import Table, layout
from neverblink.models.base import Adapter
from neverblink.types import Kind

Positions = Literal["contiguous", "native"]


@dataclass(frozen=True, slots=True)
class Moved:
    """What a relocation did, in rows."""

    dropped: int
    turned: int
    rebased: bool


def relocate(
    table: Table, arena: Arena, slot: int, plan: Plan, adapter: Adapter, positions: Positions, rebase_at: float = 4096.0
) -> Moved:
    """Apply a plan to a table and its slot of the arena.

    Args:
        rebase_at: positions are turned back to zero when the next token would stand beyond this.

    Raises:
        ModelError: an earlier one failed half-way; whatever fails in here leaves the table torn.
    """
    table.check_whole()
    table.torn = True
    moved = _relocate(table, arena, slot, plan, adapter, positions, rebase_at)
    table.torn = False
    return moved


def _relocate(
    table: Table, arena: Arena, slot: int, plan: Plan, adapter: Adapter, positions: Positions, rebase_at: float
) -> Moved:
    keep, n = plan.keep, table.n
    dropped = table.m - len(keep)
    if not plan.reuse:
        _rewrite(table, plan)
        return Moved(dropped, 0, False)
    cached = keep[keep < n]
    assert np.array_equal(keep[: len(cached)], cached), "a plan keeps pending rows behind cached ones"
    unchanged = len(keep) == table.m and bool((keep == np.arange(table.m)).all())
    if unchanged and (positions == "native" or table.next_pos <= rebase_at):
        return Moved(0, 0, False)
    was_anchor = table.anchors
    vision = table.cells[:n] >= 0 if isinstance(arena, CompactArena) else np.zeros(0, dtype=bool)
    table.gather(keep)
    table.kinds[: len(keep)][plan.moved] = Kind.PREVIOUS
    if plan.reread and plan.moved.any():
        behind = table.kinds[: len(keep)] == Kind.PREVIOUS_CLOSE
        table.serials[: len(keep)][plan.moved | behind] = -1
    table.n = kept = len(cached)
    if positions == "native" or not kept:
        table.anchors = 0
        if not kept:
            table.next_pos = 0.0 if positions == "contiguous" else table.next_pos
        if isinstance(arena, CompactArena):
            cached = _move_vision(arena, slot, cached, vision)
        _move(arena, slot, cached)
        return Moved(dropped, 0, False)

    places = layout(table.adv[:kept], table.loc[:kept])
    shift = table.pos[:kept, 0] - places[:, 0]
    stay = shift[-1]  # the newest rows are the window: the most rows, and they stand right already
    wrong = np.flatnonzero(np.abs(shift - stay) > 1e-9)
    anchors = max(int(wrong[-1]) + 1 if len(wrong) else 0, min(was_anchor, int((cached < was_anchor).sum())))
    end = stay + float(table.adv[:kept].sum())
    rebased = end > rebase_at and stay > 0
    base = 0.0 if rebased else stay
    # A row that was an anchor brings its master along; a new one is written down as it stands. Bytes stay as they are.
    exact = table.cells[:kept] < 0 if isinstance(arena, CompactArena) else np.ones(kept, dtype=bool)
    old, front, rest = cached[:anchors] < was_anchor, exact[:anchors], exact[anchors:]
    table.pos0[:anchors][~old & front] = table.pos[:anchors][~old & front]
    before = table.pos[anchors:kept][rest] if rebased else None
    table.pos[:kept] = places + base
    table.anchors, table.next_pos = anchors, base + float(table.adv[:kept].sum())
    if isinstance(arena, CompactArena):
        cached = _move_vision(arena, slot, cached, vision)
    now = table.pos[:kept][exact]
    _turn(arena, slot, adapter, cached, old[front], table.pos0[:anchors][front], now, before)
    return Moved(dropped, kept if rebased else anchors, rebased)


def _rewrite(table: Table, plan: Plan) -> None:
    """Every kept row becomes pending, from position 0."""
    table.gather(plan.keep)
    table.kinds[: table.m][plan.moved] = Kind.PREVIOUS
    table.serials[: table.m] = -1
    table.n, table.anchors, table.next_pos = 0, 0, 0.0


def _first_moved(cached: np.ndarray) -> int:
    """Of rows [kept] that were `cached` before: the first one that is not where it was; kept: none."""
    moved = cached != np.arange(len(cached))
    return int(np.argmax(moved)) if moved.any() else len(cached)


def _move_vision(arena: CompactArena, slot: int, cached: np.ndarray, vision: np.ndarray) -> np.ndarray:
    """Gather the bytes of a slot; gives [exact rows] which exact row each one was.

    Args:
        cached: [kept] which row each one was. vision: [n] bool, of the rows as they were.
    """
    rank = np.where(vision, np.cumsum(vision), np.cumsum(~vision)) - 1
    moved = rank[cached[vision[cached]]]
    first, kept = _first_moved(moved), len(moved)
    if first < kept:
        index = torch.from_numpy(moved[first:]).to(arena.device)
        for tensor in (*arena.bytes, *arena.scales):
            tensor[slot, :, :, first:kept] = tensor[slot].index_select(2, index)
    exact: np.ndarray = rank[cached[~vision[cached]]]
    return exact


def _move(arena: Arena, slot: int, cached: np.ndarray) -> None:
    """Gather keys and values of the rows that are not where they were."""
    first, kept = _first_moved(cached), len(cached)
    if first == kept:
        return
    index = torch.from_numpy(cached[first:]).to(arena.device)
    for layer in range(arena.layers):
        for tensor in (arena.k[layer], arena.v[layer]):
            tensor[slot, :, first:kept] = tensor[slot].index_select(1, index)


def _turn(
    arena: Arena,
    slot: int,
    adapter: Adapter,
    cached: np.ndarray,
    old: np.ndarray,
    pos0: np.ndarray,
    pos: np.ndarray,
    before: np.ndarray | None,
) -> None:
    """Gather exact rows, write masters of new anchors, turn anchors from their masters, and on a rebase the rest in
    place.

    Args:
        cached: [kept] which row each one was. old: [anchors] bool: the row was an anchor before. pos0: [anchors, 3] of
            the masters. pos: [kept, 3] of all. before: positions [rest, 3] of the rest, on a rebase.
    """
    device, anchors, kept, first = arena.device, len(old), len(cached), _first_moved(cached)
    assert anchors <= arena.anchor_rows, f"{anchors} anchors > {arena.anchor_rows} masters: the policy promised fewer"
    index = torch.from_numpy(cached[first:]).to(device)
    # Anchors before `fresh` are the same rows as before, and so are their masters.
    fresh = min(first, int(np.argmin(old)) if not old.all() else anchors)
    source = torch.from_numpy(cached[fresh:anchors]).to(device)
    from_master = torch.from_numpy(old[fresh:]).to(device)
    was, now = torch.from_numpy(pos0), torch.from_numpy(pos[:anchors])
    front = {rope: adapter.rotation(was, now, rope) for rope in set(adapter.ropes)}
    if before is not None:
        was, now = torch.from_numpy(before), torch.from_numpy(pos[anchors:])
        behind = {rope: adapter.rotation(was, now, rope) for rope in set(adapter.ropes)}
    for layer, rope in enumerate(adapter.ropes):
        k, v, masters = arena.k[layer][slot], arena.v[layer][slot], arena.masters[layer][slot]
        if fresh < anchors:
            written = k.index_select(1, source)  # [heads, fresh.., dim]
            known = masters.index_select(1, source.clamp(max=arena.anchor_rows - 1))
            masters[:, fresh:anchors] = torch.where(from_master[None, :, None], known, written)
        if first < kept:
            v[:, first:kept] = v.index_select(1, index)
            k[:, first:kept] = k.index_select(1, index)
        if anchors:
            k[:, :anchors] = turn(masters[:, :anchors], *front[rope])
        if before is not None:
            k[:, anchors:kept] = turn(k[:, anchors:kept], *behind[rope])


def turn(k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate the first `turned` of keys [.., n, dim] by angles [n, turned]; computed in float32 or wider; a new tensor
    of k's dtype."""
    turned = cos.shape[-1]
    wide, half = k[..., :turned], turned // 2
    wide = wide if k.dtype == torch.float64 else wide.float()
    swapped = torch.cat((-wide[..., half:], wide[..., :half]), dim=-1)
    done = (wide * cos.to(wide.dtype) + swapped * sin.to(wide.dtype)).to(k.dtype)
    return done if turned == k.shape[-1] else torch.cat((done, k[..., turned:]), dim=-1)
