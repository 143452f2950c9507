"""What a second of video costs: figures from made-up times, floors against counted products, real runs at toy size.

No test looks at a wall time: what differs between strategies is shown by the rows that they hold and feed.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from neverblink import Caption, Chunk, Model, Stream
from neverblink.bench.floor import Meter, Rates, Sizes, measure_rates
from neverblink.bench.latency import (
    STRATEGIES,
    MovingPictures,
    main,
    measure,
    options_for,
    round_robin,
    run,
    warm_up_of,
)
from neverblink.bench.latency_figures import STEP, Measured, Workload, growth, per_chunk, series, slope, summary
from neverblink.bench.shapes import SHAPES, build, config_of, random_model
from neverblink.cli import main as neverblink
from neverblink.errors import BudgetError, ConfigError, UnknownName
from neverblink.kv.cache import StreamCache
from tests.checkpoints import toy_checkpoint

WINDOWS = {"sink_tokens": 4, "text_window": 4, "vision_seconds": 4.0, "frames": 4, "kv_budget": 2_000}
WORK = Workload(seconds=24, size=(84, 56), tokens=4, windows=WINDOWS, ask_every=6.0)
RATES = Rates(bytes_per_second=1e9, flops=1e10)
NAMED_BY_THE_ISSUE = [
    *("strategy", "model", "params", "device", "dtype", "streams", "chunks", "ms_per_chunk_p50", "ms_per_chunk_p99"),
    *("ms_per_token_p50", "vision_ms_p50", "ttft_ms_p50", "growth", "kv_tokens_max", "kv_bytes", "rss_mb_slope"),
    *("fps_sustained", "floor_ms_per_token", "floor_fraction"),
]


@cache
def toy() -> Model:
    return Model.from_pretrained(toy_checkpoint(), device="cpu", dtype="float32")


@cache
def runs() -> dict[str, tuple[dict[str, Any], Measured]]:
    """Every strategy on the same stream, once for all tests that only look."""
    return {line["strategy"]: (line, measured) for line, measured in run(toy(), STRATEGIES, WORK, RATES)}


def made_up(walls: list[float], **columns: Any) -> Measured:
    """A run whose chunks took these seconds: a tenth of it vision, half of it speech."""
    steps = np.zeros(len(walls), dtype=STEP)
    steps["end"], steps["wall"], steps["ttft"] = np.arange(len(walls)) + 1.0, walls, np.nan
    steps["cpu"], steps["vision"], steps["speak"] = steps["wall"] / 2, steps["wall"] / 10, steps["wall"] / 2
    if "rows" in columns:
        columns["kv_bytes"] = np.asarray(columns["rows"]) * Sizes(toy().adapter).row_bytes
    for name, values in columns.items():
        steps[name] = values
    return Measured(steps, warm_up=20, frames=2, sizes=Sizes(toy().adapter), reserved=0, device_bytes=0, ended=None)


class TestFigures:
    def test_growth_is_the_last_tenth_over_the_first_behind_the_warm_up(self) -> None:
        """The warm-up's own times, and what lies between the tenths, do not count; a single outlier neither."""
        steady = [2.0] * 10 + [50.0] * 80 + [3.0] * 10
        steady[0] = steady[-1] = 1_000.0
        assert 1.5 == growth(np.array([100.0] * 20 + steady), 20)
        assert 1.0 == growth(np.array([7.0] * 10), 0)

    def test_a_run_that_never_filled_its_windows_has_no_growth(self) -> None:
        assert growth(np.ones(29), 20) is None
        assert 1.0 == growth(np.ones(30), 20)

    def test_percentiles_are_of_the_chunks_behind_the_warm_up(self) -> None:
        measured = made_up([9.0] * 20 + [k / 1000 for k in range(1, 102)])
        figures = summary(measured, Workload(tokens=6), RATES)
        assert (51.0, 100.0) == (figures["ms_per_chunk_p50"], figures["ms_per_chunk_p99"])
        assert (5.1, 25.5) == (figures["vision_ms_p50"], figures["cpu_ms_per_chunk_p50"])
        assert 5.1 == figures["ms_per_token_p50"]  # half of it is speech: 6 tokens, 5 of them cost a step
        assert 8.5 == figures["ms_per_spoken_token_p50"]
        assert 39.22 == figures["fps_sustained"]  # 2 frames in 51 ms
        assert (0.051, 19) == (figures["real_time_factor"], figures["streams_sustained"])

    def test_a_short_run_shows_all_its_chunks(self) -> None:
        figures = summary(made_up([0.1] * 20 + [0.3] * 9), WORK, RATES)
        assert (100.0, None, 29) == (figures["ms_per_chunk_p50"], figures["growth"], figures["chunks"])

    def test_several_streams_share_a_round(self) -> None:
        """A chunk of one stream costs its share of the round; its caption may be as late as the round is long."""
        figures = summary(made_up([0.4] * 40, rows=100), Workload(tokens=5, streams=4), RATES)
        assert (100.0, 400.0, 160) == tuple(figures[n] for n in ("ms_per_chunk_p50", "ms_per_round_p50", "chunks"))
        assert (12.5, 0.4, 10) == tuple(
            figures[n] for n in ("ms_per_token_p50", "real_time_factor", "streams_sustained")
        )
        assert 4 * 100 * toy().adapter.layers * 2 * 2 * 16 * 4 == figures["kv_bytes"]

    def test_only_asked_seconds_count_for_the_first_token(self) -> None:
        ttft = np.full(40, np.nan)
        ttft[[9, 19, 29]] = 0.2, 0.1, 0.6
        figures = summary(made_up([0.1] * 40, ttft=ttft), WORK, RATES)
        assert (200.0, 3) == (figures["ttft_ms_p50"], figures["questions"])
        assert summary(made_up([0.1] * 40), WORK, RATES)["ttft_ms_p50"] is None

    def test_the_slope_is_of_least_squares_behind_the_warm_up(self) -> None:
        assert 500.0 == pytest.approx(slope(np.array([1.0, 1.5, 2.0, 2.5])))
        assert 300.0 == pytest.approx(slope(np.array([0.0, 1.0, 0.0, 1.0, 1.0]) * 1.5))
        assert 0.0 == slope(np.array([1.0, 9.0]))
        rss = np.concatenate([np.linspace(0, 5e8, 20), 5e8 + 2e3 * np.arange(40)])
        assert 2.0 == summary(made_up([0.1] * 60, rss=rss), WORK, RATES)["rss_mb_slope"]

    def test_the_floor_stands_beside_the_measured_time(self) -> None:
        sizes = Sizes(toy().adapter)
        figures = summary(made_up([0.3] * 40, rows=1_000, prefill_flops=10**9), Workload(tokens=4), RATES)
        seconds = (sizes.bytes_per_token + 1_000 * sizes.row_bytes) / 1e9
        assert seconds * 1e3 == pytest.approx(figures["floor_ms_per_token"], rel=1e-3)
        assert seconds / 0.05 == pytest.approx(figures["floor_fraction"], rel=1e-3)
        assert 100.0 == figures["floor_ms_prefill"]
        assert (0.1 + 3 * seconds) / 0.3 == pytest.approx(figures["floor_fraction_chunk"], rel=1e-3)

    def test_series_are_medians_of_stretches(self) -> None:
        found = series(made_up([0.1, 0.3, 0.2, 0.5, 0.5, 0.9], rows=[1, 2, 3, 4, 6, 5]), WORK, points=2)
        row = Sizes(toy().adapter).row_bytes
        assert {"second": [2.0, 5.0], "ms_per_spoken_token": [50.0, 125.0]}.items() <= found.items()
        assert [3 * row, 6 * row] == found["kv_bytes"]


class TestFloor:
    def test_bytes_per_token_are_the_decoder_and_the_head(self) -> None:
        """Not the tower, and of the embedding table nothing but the head where that is the same tensor."""
        for name, tied in (("qwen2.5-vl-7b", False), ("qwen2.5-vl-3b", True)):
            config = config_of(name, layers=1)
            text, weights = config.text_config, build(config, "meta", torch.bfloat16)
            hidden, wide = text.hidden_size, text.intermediate_size
            kv = text.num_key_value_heads * 128
            layer = 2 * hidden * hidden + 2 * kv * hidden + 3 * hidden * wide + (hidden + 2 * kv) + 2 * hidden
            sizes = Sizes(adapter_of(weights))
            assert tied == (weights.get_input_embeddings().weight is weights.get_output_embeddings().weight)
            assert 2 * (layer + hidden + hidden * text.vocab_size) == sizes.bytes_per_token
            assert 2 * 2 * kv == sizes.row_bytes

    def test_the_7b_floor_is_the_published_one(self) -> None:
        """14.1 GB read at 3.35 TB/s, the H100's own figure, are 4.2 ms a token; 6,000 rows add a tenth of one."""
        sizes = Sizes(adapter_of(build(config_of("qwen2.5-vl-7b"), "meta", torch.bfloat16)))
        rates = Rates(3.35e12, 1e15)
        assert 57_344 == sizes.row_bytes
        assert 4.22 == pytest.approx(1e3 * sizes.decode_seconds(0, rates), abs=0.01)
        assert 0.103 == pytest.approx(
            1e3 * (sizes.decode_seconds(6_000, rates) - sizes.decode_seconds(0, rates)), abs=1e-3
        )

    def test_a_row_is_what_the_arena_keeps_for_it(self) -> None:
        model = toy()
        arena = model.stream(options_for(model, "full", WORK)).arena
        assert arena.nbytes == arena.max_rows * Sizes(model.adapter).row_bytes

    def test_prefill_products_are_those_that_torch_counts(self) -> None:
        """Eager attention multiplies the masked half too, which no floor has to."""
        model = Model.from_pretrained(toy_checkpoint(), device="cpu", dtype="float32", attn="eager")
        adapter, sizes = model.adapter, Sizes(model.adapter)
        stream = model.stream(options_for(model, "full", WORK))
        stream.table.n, stream.table.m = 50, 50
        counted = []
        for tokens in (1, 7):
            with FlopCounterMode(display=False) as counter, torch.inference_mode():
                embeds = adapter.embed(torch.zeros(tokens, dtype=torch.long))
                hidden = adapter.forward(embeds, torch.zeros(3, tokens), StreamCache(stream.arena, stream.table))
                adapter.logits(hidden[-1:])
            counted.append(counter.get_total_flops())
        masked = 2 * 2 * sizes.attention * (7 * 6 // 2)
        assert counted == [sizes.prefill_flops(1, 50), sizes.prefill_flops(7, 50) + masked]

    def test_a_prefill_is_not_over_before_the_weights_were_read(self) -> None:
        sizes = Sizes(toy().adapter)
        assert sizes.bytes_per_token / 1e9 == sizes.prefill_seconds(10.0, RATES)
        assert 1.0 == sizes.prefill_seconds(1e10, RATES)

    def test_vision_products_are_those_that_torch_counts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """All but the attention inside the tower; of floats, since products of bytes are three times as many."""
        monkeypatch.setattr("neverblink.models.patches.multiplies_bytes", lambda: False)
        adapter = toy().adapter
        picture = np.zeros((84, 112, 3), dtype=np.uint8)
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            block = adapter.encode([picture, picture], 2.0)
        attention = counter.flop_counts["Global"]
        products = sum(count for op, count in attention.items() if "attention" not in str(op) and "bmm" not in str(op))
        assert 12 == block.tokens
        assert products == Sizes(adapter).vision_flops(12, 48)

    def test_rates_are_measured(self) -> None:
        rates = measure_rates(torch.device("cpu"), torch.float32, megabytes=1, edge=16)
        assert 1e6 < rates.bytes_per_second < 1e14
        assert 1e5 < rates.flops < 1e16

    def test_the_meter_waits_at_the_end_of_each_stage_and_changes_nothing(self) -> None:
        """On a device the clock of a stage must not stop before its work does."""
        model, waits = toy(), []
        meter = Meter(model.adapter, wait=lambda: waits.append(1))
        options = options_for(model, "recompute", WORK)
        plain = model.stream(options)
        metered = Stream(meter.adapter, plain.script, options)
        pictures = MovingPictures((84, 56), 2.0, seed=1)
        for i in range(6):
            waits.clear()
            said, twin = plain.step(pictures.chunk(i)), metered.step(pictures.chunk(i))
            work = meter.take()
            assert (said.text, said.kv_tokens) == (twin.text, twin.kv_tokens)
            assert 2 + said.tokens - 1 == len(waits)  # encode, prefill, and a forward for each token but the last
            assert work.fed == twin.kv_tokens - (said.tokens - 1)  # all that is held was fed at once
            assert work.prefill_flops == meter.sizes.prefill_flops(work.fed, 0)
            assert (6, meter.sizes.vision_flops(6, 24)) == (work.vision_tokens, work.vision_flops)
        assert "encode" not in vars(model.adapter)


def adapter_of(weights: Any) -> Any:
    """As much of an adapter as `Sizes` looks at."""
    text = weights.config.text_config
    shape = {"layers": text.num_hidden_layers, "kv_heads": text.num_key_value_heads, "head_dim": 128}
    return SimpleNamespace(model=weights, dtype=weights.dtype, **shape)


class TestShapes:
    @pytest.mark.parametrize(("name", "count"), [("qwen2.5-vl-7b", 8_292_166_656), ("qwen2.5-vl-3b", 3_754_622_976)])
    def test_parameters_are_the_published_number(self, name: str, count: int) -> None:
        weights = build(config_of(name), "meta", torch.bfloat16)
        assert count == sum(weight.numel() for weight in weights.parameters())

    def test_a_shape_of_one_layer_runs_on_a_cpu(self) -> None:
        """The real widths and the real heads; what is fewer are layers and ids."""
        model = random_model("qwen2.5-vl-3b", device="cpu", dtype="bfloat16", layers=1, vocabulary=512)
        assert (1, 2, 128) == (model.adapter.layers, model.adapter.kv_heads, model.adapter.head_dim)
        assert torch.float32 == model.adapter.model.model.language_model.rotary_emb.inv_freq.dtype
        work = Workload(seconds=3, size=(56, 56), tokens=2, windows=WINDOWS)
        [(line, measured)] = run(model, ["streaming"], work, RATES)
        assert [4, 4, 4] == measured.steps["vision_tokens"].tolist()
        assert ("qwen2.5-vl-3b", "bfloat16", "cpu") == (line["model"], line["dtype"], line["device"])

    def test_an_unknown_shape_lists_the_known_ones(self) -> None:
        with pytest.raises(UnknownName, match=f"no shape 'gpt'; known: {', '.join(SHAPES)}"):
            config_of("gpt")


class TestRuns:
    def test_every_line_has_the_fields_that_others_read(self) -> None:
        for strategy, (line, measured) in runs().items():
            assert [] == [name for name in NAMED_BY_THE_ISSUE if line.get(name) is None], strategy
            assert {"end", "vision_ms", "prefill_ms", "ms_per_token", "kv_tokens", "kv_bytes"} <= set(
                next(per_chunk(measured, WORK))
            )
            assert (24, 4, 2) == (line["chunks"], line["questions"], line["fps"])
            json.dumps(line)

    def test_full_grows_and_streaming_does_not(self) -> None:
        """Rows held behind the warm-up. Their number may breathe with the digits of the time, not with its passing."""
        rows = {name: measured.steps["rows"] for name, (_, measured) in runs().items()}
        warm = warm_up_of(toy(), WORK)
        assert 7 == warm
        assert (np.diff(rows["full"]) > 20).all()
        assert np.ptp(rows["streaming"][13:]) == 0  # every time that is held has two digits by then
        assert rows["streaming"].max() < rows["full"][6]
        assert np.array_equal(rows["streaming"], rows["recompute"])
        assert rows["last-frames"].max() < rows["streaming"].max()
        assert (np.diff(rows["sliding"]) < 0).sum() >= 4  # all at once, every four seconds

    def test_recompute_feeds_all_that_it_holds_and_streaming_only_what_is_new(self) -> None:
        fed = {name: measured.steps["fed"][12:] for name, (_, measured) in runs().items()}
        assert (fed["streaming"] == fed["full"]).all()
        held = runs()["recompute"][1].steps["rows"][12:]
        assert (fed["recompute"] == held - (WORK.tokens - 1)).all()
        assert (fed["recompute"] > 3 * fed["streaming"]).all()

    def test_every_second_says_the_same_number_of_tokens(self) -> None:
        """Never a stop, never silence: otherwise strategies would be compared at unequal work."""
        heard: list[Caption] = []

        def listen(streams: Any, chunks: Any) -> list[Caption]:
            heard.extend(captions := round_robin(streams, chunks))
            return captions

        measure(toy(), "last-frames", WORK, drive=listen)
        assert {(4, "length", False)} == {(c.tokens, c.why_stopped, c.silent) for c in heard}

    def test_full_ends_with_its_budget(self) -> None:
        [(line, measured)] = run(toy(), ["full"], Workload(24, tokens=4, windows={"kv_budget": 900}), RATES)
        assert 1 < line["chunks"] == len(measured.steps) < 24
        assert line["ended"].startswith(f"after {line['chunks']} s: kept ")
        assert line["kv_tokens_max"] <= 900
        with pytest.raises(BudgetError):
            measure(toy(), "full", Workload(24, windows={"kv_budget": 250}))

    def test_streams_take_turns_and_do_not_touch_each_other(self) -> None:
        seen: list[list[Caption]] = []

        def listen(streams: Any, chunks: list[Chunk]) -> list[Caption]:
            assert not np.array_equal(chunks[0].frames[0].pixels, chunks[1].frames[0].pixels)
            seen.append(round_robin(streams, chunks))
            return seen[-1]

        work = Workload(8, streams=2, size=(84, 56), tokens=4, windows=WINDOWS)
        measured = measure(toy(), "streaming", work, drive=listen)
        figures = summary(measured, work, RATES)
        assert (2, 16) == (figures["streams"], figures["chunks"])
        alone: list[str] = []
        for seed in (0, 1):
            words: list[Caption] = []
            solo = Workload(8, size=(84, 56), tokens=4, windows=WINDOWS, seed=seed)
            measure(toy(), "streaming", solo, drive=lambda s, c, w=words: w.extend(got := round_robin(s, c)) or got)
            alone.append(" ".join(caption.text for caption in words))
        assert alone == [" ".join(captions[i].text for captions in seen) for i in (0, 1)]

    def test_several_streams_go_through_the_engine(self) -> None:
        """Packed forwards, the same work as in turns, stages that fill the wall time, and one arena for all."""
        work = Workload(12, streams=3, size=(84, 56), tokens=4, windows=WINDOWS, ask_every=4.0)
        [(line, packed)] = run(toy(), ["streaming"], work, RATES)
        [(turns, plain)] = run(toy(), ["streaming"], work, RATES, drive=round_robin)
        assert (True, False) == (line["packed"], turns["packed"])
        for column in ("fed", "prefill_flops", "vision_tokens", "vision_flops", "rows", "end"):
            np.testing.assert_array_equal(plain.steps[column], packed.steps[column], column)
        stages = sum(packed.steps[name] for name in ("vision", "make_room", "prefill", "speak"))
        np.testing.assert_allclose(stages, packed.steps["wall"])
        assert all((packed.steps[name] > 0).all() for name in ("vision", "prefill", "speak"))
        assert 3 == line["questions"] == turns["questions"]
        assert packed.reserved == plain.reserved
        assert packed.steps["ttft"][3] > 0

    def test_pictures_move_and_are_the_same_for_a_seed(self) -> None:
        one, two = (MovingPictures((60, 40), 2.0, seed=3) for _ in range(2))
        a, b = one.chunk(5).frames
        assert ((40, 60, 3), 5.0, 5.5) == (a.pixels.shape, a.time, b.time)
        assert np.array_equal(a.pixels, two.chunk(5).frames[0].pixels)
        assert not np.array_equal(a.pixels, b.pixels)

    def test_a_model_that_repeats_itself_forgets_nothing(self) -> None:
        """Random weights say the same for ever; the loop guard would empty the cache that is measured."""
        work = Workload(seconds=30, size=(56, 56), tokens=40, windows={"budget": 4000})
        [(_, measured)] = run(toy(), ["full"], work, RATES)
        assert (np.diff(measured.steps["rows"]) > 0).all()

    def test_nothing_runs_when_one_strategy_is_unknown(self) -> None:
        with pytest.raises(UnknownName, match="no KV policy 'fast'; known: full, "):
            next(run(toy(), ["streaming", "fast"], WORK, RATES))

    def test_a_workload_that_cannot_be_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="tokens must be 2 or more, got 1"):
            Workload(tokens=1)
        with pytest.raises(ConfigError, match="streams 0"):
            Workload(streams=0)


class TestCommand:
    def test_lines_table_and_picture(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Lines are appended, so a file may hold many runs."""
        file, picture, chunks = tmp_path / "l.jsonl", tmp_path / "l.png", tmp_path / "c.jsonl"
        file.write_text(json.dumps({"strategy": "of an earlier run"}) + "\n")
        given = ["--model", "toy", "--seconds", "4", "--size", "84x56", "--device", "cpu", "--json", str(file)]
        given += ["--strategies", "streaming,full", "--kv-budget", "400", "--per-chunk", str(chunks)]
        assert 0 == main([*given, "--plot", str(picture)])
        shown = capsys.readouterr()
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        assert ["of an earlier run", "streaming", "full"] == [line["strategy"] for line in lines]
        assert {"toy"} == {line["model"] for line in lines[1:]}
        assert lines[1]["command"].startswith("neverblink bench latency --model toy --seconds 4 ")
        assert lines[2]["ended"]
        assert " streaming " in shown.out
        assert f"full ended {lines[2]['ended']}" in shown.out
        assert "streaming: 4 of 4 s" in shown.err
        assert b"\x89PNG" == picture.read_bytes()[:4]
        rows = [json.loads(row) for row in chunks.read_text().splitlines()]
        assert [1.0, 2.0, 3.0, 4.0] == [row["end"] for row in rows if row["strategy"] == "streaming"]

    @pytest.mark.parametrize(
        ("given", "told"),
        [
            (["--shape", "qwen2.5-vl-7b"], "--shape qwen2.5-vl-7b has no weights; add --random-weights"),
            (["--shape", "qwen2.5-vl-7b", "--model", "toy", "--random-weights"], "name two models; take one"),
            (["--random-weights"], "--random-weights and --layers belong to --shape"),
            (["--shape", "gpt", "--random-weights"], "no shape 'gpt'; known: "),
            (["--model", "/nowhere"], "no model at '/nowhere'"),
            (["--tokens", "1"], "tokens must be 2 or more, got 1"),
            (["--cuda-graph", "--model", "toy", "--device", "cpu"], "--cuda-graph is for a CUDA device"),
            (["--cuda-graph", "--model", "toy", "--kv-dtype", "int8"], "--cuda-graph reads exact rows"),
            (["--varlen", "--model", "toy", "--kv-dtype", "fp8"], "--varlen reads exact rows"),
            (["--varlen", "--model", "toy", "--device", "cpu"], "--varlen is for a CUDA device"),
        ],
    )
    def test_a_contradiction_is_one_line(self, given: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert 2 == neverblink(["bench", "latency", *given])
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("neverblink: ")
        assert told in line
