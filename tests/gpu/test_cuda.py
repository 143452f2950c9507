"""The same stream on a CUDA device and on the CPU. Run by scripts/gpu-test; skipped where there is no such device."""

from __future__ import annotations

import pytest
import torch

from neverblink import Model, SpeakOptions, StreamOptions
from neverblink.bench.floor import Rates
from neverblink.bench.latency import run
from neverblink.bench.latency_figures import Workload
from neverblink.bench.shapes import random_model
from neverblink.kv.arena import Arena
from neverblink.kv.cache import PackedCache, StreamCache
from neverblink.kv.table import Table
from neverblink.models import varlen
from tests.checkpoints import toy_checkpoint
from tests.strategies import Plot, Second, chunk_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: run scripts/gpu-test there")


def test_cuda_says_what_the_cpu_says() -> None:
    """Float32, greedy, with eviction, a rebase and questions: the same words and the same rows."""
    options = StreamOptions(
        fps=4.0,
        policy_options={"sink_tokens": 8, "text_window": 8, "vision_seconds": 3.0},
        speak=SpeakOptions(max_tokens_per_second=6),
        rebase_at=200.0,
    )
    streams = [
        Model.from_pretrained(toy_checkpoint(), device=d, dtype="float32").stream(options) for d in ("cpu", "cuda")
    ]
    seconds = tuple(Second((56, 84), 2, (), None, False) for _ in range(20))
    plot = Plot(seconds, "streaming", {}, "contiguous", 200.0, "system", "", 0.0, 0)
    for i in range(20):
        question = "What now?" if i % 5 == 4 else None
        cpu, cuda = (s.step(chunk_of(plot, i), question) for s in streams)
        assert (cpu.text, cpu.answer, cpu.kv_tokens) == (cuda.text, cuda.answer, cuda.kv_tokens)
    assert streams[0].places().tolist() == streams[1].places().tolist()


def test_cuda_stages_hold_their_own_work_and_the_peak_is_known() -> None:
    """A published shape of two layers: every chunk's stages add up to its wall time, bytes are those of the device."""
    model = random_model("qwen2.5-vl-3b", device="cuda", layers=2, vocabulary=512)
    work = Workload(seconds=30, size=(224, 224), tokens=4, windows={"vision_seconds": 4.0, "text_window": 16})
    [(line, measured)] = run(model, ["streaming"], work, Rates(3e12, 5e14))
    stages = sum(measured.steps[name] for name in ("vision", "make_room", "prefill", "speak"))
    assert (stages[2:] > 0.5 * measured.steps["wall"][2:]).all()
    assert ("cuda", "bfloat16") == (line["device"], line["dtype"])
    assert line["device_mb_max"] * 1e6 > measured.sizes.bytes_per_token + measured.reserved


def test_the_decode_graph_says_what_the_plain_decoder_says() -> None:
    """Float32, two streams with graphs of their own, eviction and a question in between: the same words."""
    options = StreamOptions(
        fps=4.0,
        policy_options={"sink_tokens": 8, "text_window": 8, "vision_seconds": 3.0},
        speak=SpeakOptions(max_tokens_per_second=6),
    )
    plot = Plot(
        tuple([Second((56, 84), 2, (), None, False)] * 12), "streaming", {}, "contiguous", 200.0, "system", "", 0.0, 0
    )
    said = []
    for graph, backend in ((False, ""), (True, ""), (True, "inductor")):
        model = Model.from_pretrained(toy_checkpoint(), device="cuda", dtype="float32")
        model.adapter.graph, model.adapter.compile = graph, backend  # type: ignore[attr-defined]
        streams = [model.stream(options) for _ in range(2)]
        question = {5: "What now?"}
        steps = [stream.step(chunk_of(plot, i), question.get(i)) for i in range(12) for stream in streams]
        said.append([(caption.text, caption.answer, caption.kv_tokens) for caption in steps])
    assert said[0] == said[1] == said[2]


def test_packed_streams_say_what_each_says_alone() -> None:
    model = Model.from_pretrained(toy_checkpoint(), device="cuda", dtype="float32")
    options = StreamOptions(fps=4.0, speak=SpeakOptions(max_tokens_per_second=6))
    plot = Plot(
        tuple([Second((56, 84), 2, (), None, False)] * 6), "streaming", {}, "contiguous", 200.0, "system", "", 0.0, 0
    )
    alone = model.stream(options)
    expected = [alone.step(chunk_of(plot, i)).text for i in range(6)]
    for pipeline in (False, True):
        engine = model.engine([options], max_streams=3, pipeline=pipeline)
        for name in "abc":
            engine.add(name, overload="slow", most_waiting=6)
            for i in range(6):
                assert engine.submit(name, chunk_of(plot, i))
        told: dict[str, list[str]] = {name: [] for name in "abc"}
        for result in engine.run():
            assert result.caption is not None, result.error
            told[result.stream_id].append(result.caption.text)
        assert dict.fromkeys("abc", expected) == told


def test_one_kernel_for_all_streams_is_the_loop_over_them() -> None:
    """A published shape of two layers in bfloat16, ragged feeds: torch's kernel beside attention stream by stream."""
    run = varlen.kernel()
    assert run is not None, f"torch {torch.__version__} has no varlen_attn that counts rows in use"
    adapter = random_model("qwen2.5-vl-3b", device="cuda", layers=2, vocabulary=512).adapter
    hidden = {}
    for name, kernel in (("loop", None), ("varlen", run)):
        adapter.varlen = kernel  # type: ignore[attr-defined]
        arena = Arena.of(adapter, 96, 0, slots=4)
        tables = [Table(96) for _ in range(3)]
        caches = [StreamCache(arena, table, slot) for table, slot in zip(tables, (2, 0, 3), strict=True)]
        torch.manual_seed(0)
        out = []
        for sizes in ((40, 7, 1), (1, 1, 1), (3, 30, 1)):
            total, held = sum(sizes), [table.n for table in tables]
            places = torch.cat([torch.arange(n, n + size) for n, size in zip(held, sizes, strict=True)])
            embeds = torch.randn(total, adapter.model.config.text_config.hidden_size).to("cuda", adapter.dtype)
            with torch.inference_mode():
                out.append(adapter.forward_packed(embeds, places.expand(3, -1).float(), PackedCache(caches, sizes)))
            for table, size in zip(tables, sizes, strict=True):
                table.n += size
        hidden[name] = torch.cat(out).float()
    torch.testing.assert_close(hidden["varlen"], hidden["loop"], atol=0.05, rtol=0.05)
