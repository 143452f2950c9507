"""A packed call as one kernel of variable lengths takes it. On a CPU the kernel is a plain one that keeps to the
documented contract of torch's; tests/gpu runs the real one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from neverblink.models import varlen
from tests.engine import crowd


def plain(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool,
    seqused_k: torch.Tensor,
) -> torch.Tensor:
    """Sequence by sequence: queries [T, heads, dim] at the end of their sequence's keys, the first `seqused_k` of which
    count."""
    assert window_size == (-1, 0)
    assert enable_gqa or query.shape[1] == key.shape[1]
    for cu in (cu_seq_q, cu_seq_k, seqused_k):
        assert cu.dtype == torch.int32
    lengths, rooms = cu_seq_q.diff(), cu_seq_k.diff()
    assert len(lengths) == len(rooms) == len(seqused_k)
    assert (int(lengths.max()), int(seqused_k.max())) == (max_q, max_k)
    assert bool((rooms >= seqused_k).all())
    assert int(cu_seq_q[-1]) == len(query)
    assert int(cu_seq_k[-1]) <= len(key)
    out = []
    for i, used in enumerate(seqused_k.tolist()):
        begin = int(cu_seq_k[i])
        q = query[cu_seq_q[i] : cu_seq_q[i + 1]].transpose(0, 1)
        k, v = (part[begin : begin + used].transpose(0, 1).expand(len(q), -1, -1) for part in (key, value))
        seen = torch.ones(q.shape[1], used, dtype=torch.bool).tril(used - q.shape[1])
        out.append(scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale).transpose(0, 1))
    return torch.cat(out)


@pytest.mark.parametrize("members", [(0,), (0, 1, 2), (0, 1, 2, 3, 4, 5, 6, 7)])
def test_streams_in_one_kernel_say_what_each_says_alone(
    members: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ragged feeds, slots in another order than the call's, one stream that leaves; the rows behind are full of NaN."""
    adapter: Any = crowd.model("float64").adapter
    calls: list[int] = []

    def counting(*args: Any, **options: Any) -> torch.Tensor:
        calls.append(len(args[3]) - 1)
        return plain(*args, **options)

    monkeypatch.setattr(adapter, "varlen", counting)
    engine = crowd.make_engine(len(members) + 1)
    lives = {i: crowd.join(engine, i) for i in reversed(members)}
    for second in range(4):
        crowd.play(engine, lives, second)
        crowd.run(engine, lives)
    assert not engine.packs_broken
    assert max(calls) == len(members) * adapter.kv_heads
    for i in members:
        crowd.assert_same(crowd.alone(i, range(4)), lives[i])


def test_torch_has_the_kernel_that_is_asked_for() -> None:
    """The canary: a name or an argument of torch's that goes away."""
    assert varlen.kernel() is not None
