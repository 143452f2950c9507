"""The `streaming-vlm` preset against exact traces of the public StreamingVLM reference.

Every `<case>_<mode>.json` in the folder of NEVERBLINK_TRACES is replayed (default: the copies in tests/data/traces).

The reference's rules, with R = text_round, W = window_size and chunk i:
1. the first turn holds the query; a later turn begins with the newline that closes the answer before;
2. i >= R: the answer of turn i - R, less its stop and less one token more, joins the previous text; the rest of that
   answer goes, and its turn's time text too if W > R;
3. i >= W and W < R: the vision of turn i - W goes; 4. i >= max(W, R): the whole user turn i - max(W, R) goes;
5. i > 0: previous text of sink + window tokens or more keeps the first `sink` and the last `window - 1`;
6. a vision block's times are not rounded; the text behind it stands at the maximum over its axes + 1.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neverblink import Chunk, Frame, Model
from neverblink.kv.relocate import turn as rotate
from neverblink.presets import streaming_vlm
from tests.checkpoints import trace_checkpoint
from tests.forced import Forced

COPIES = Path(__file__).parent / "data" / "traces"
TRACES = Path(os.environ.get("NEVERBLINK_TRACES") or COPIES)
MAKER = next(p for p in (TRACES / "make_tiny_model.py", COPIES / "make_tiny_model.py") if p.is_file())
CASES = sorted(p.stem for p in TRACES.glob("*_*.json"))


class Recorder:
    """An adapter that also keeps the raw logits of every step."""

    def __init__(self, adapter: Any):
        self._adapter, self.logits_seen = adapter, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        out = self._adapter.logits(hidden)
        self.logits_seen.append(out[0].numpy().copy())
        return out


def frames_of(chunk: int, duration: int, fps: int) -> list[np.ndarray]:
    """The formula of the traces' README; [56, 84, 3] uint8."""
    y, x, ch = np.meshgrid(np.arange(56), np.arange(84), np.arange(3), indexing="ij")
    return [
        (
            (53 * chunk + 29 * f + 71 * ch + y * (3 + ch) + x * (5 + f) + 17 * (x // 8) * (y // 8))
            + 5 * ((x * y + 7 * chunk) % 13)
        ).astype(np.int64)
        % 256
        for f in range(duration * fps)
    ]


def test_there_are_cases() -> None:
    assert CASES, f"no <case>_<mode>.json in {TRACES}"


def test_frames_and_vision_tower() -> None:
    """Our frames are the recorded ones, and our pixels and tower give the recorded embeddings."""
    recorded = np.load(COPIES / "frames_and_vision.npz")
    model = Model.from_pretrained(trace_checkpoint(MAKER), device="cpu")
    for prefix, duration, fps in (("d1", 1, 2), ("d2", 2, 2), ("d2f8", 2, 8)):
        for chunk in (0, 3):
            key = f"{prefix}/c{chunk:02d}/"
            frames = [f.astype(np.uint8) for f in frames_of(chunk, duration, fps)]
            np.testing.assert_array_equal(recorded[key + "frames"], np.stack(frames).transpose(0, 3, 1, 2))
            with torch.inference_mode():
                block = model.adapter.encode(frames, fps)
            np.testing.assert_allclose(block.embeds.numpy(), recorded[key + "vision_embeds"], atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_trace(name: str) -> None:
    """Token order, KV order, positions, keys, values, logits and (greedy) tokens are the reference's."""
    about, arrays = json.loads((TRACES / f"{name}.json").read_text()), np.load(TRACES / f"{name}.npz")
    params = {**about["defaults_used"], **about["params"]}
    params = {k.lower(): v for k, v in params.items()}
    chunks = params.pop("chunks")
    duration, fps = int(params["chunk_duration"]), int(params["fps"])
    append, recompute = params.get("pos_mode") == "append", bool(params.get("recompute"))
    preset = streaming_vlm(query=about["query"], **params)
    model = Model.from_pretrained(trace_checkpoint(MAKER), device="cpu", dtype="float32", time_grid=preset.time_grid)
    model.adapter = recorder = Recorder(model.adapter)
    forced = Forced()
    stream = model.stream(preset.options, preset.script, processor=forced)
    logit_ids = arrays["logit_ids"]
    k_store, v_store = arrays["k_store"], arrays["v_store"]
    for i in range(chunks):
        key, facts = f"c{i:02d}/", about["chunks"][i]
        recorder.logits_seen.clear()
        forced.script = list(facts["script_ids"] or [])[:20] if about["mode"] == "tf" else []
        times = np.arange(duration * fps) / fps + i * duration
        pictures = [f.astype(np.uint8) for f in frames_of(i, duration, fps)]
        chunk = Chunk(i * duration, (i + 1) * duration, tuple(map(Frame, times, pictures)))
        caption = stream.step(chunk)
        rows, places = stream.rows(), stream.places()

        read, said = arrays[key + "input_ids"], arrays[key + "generated_ids"]
        at = f"{name} chunk {i}"
        np.testing.assert_array_equal(rows.ids[: len(read)], read, err_msg=f"{at}: ids")
        np.testing.assert_array_equal(rows.ids[len(read) : len(read) + len(said)], said, err_msg=f"{at}: said")
        assert caption.tokens == len(said)
        assert rows.n == facts["kv_len_after_generate"], at
        if not recompute:
            np.testing.assert_array_equal(rows.serials[: rows.n], arrays[key + "uid_after_generate"], err_msg=at)
        told = arrays[key + "position_ids"]
        fed = len(read) - told.shape[1]
        assert fed == (facts["n_cached"] if append else 0), at
        np.testing.assert_array_equal(places[fed : len(read)].T, told, err_msg=f"{at}: positions")
        decoded = arrays[key + "decode_position_ids"]
        np.testing.assert_array_equal(places[len(read) : len(read) + decoded.shape[1]].T, decoded, err_msg=at)

        seen = np.stack(recorder.logits_seen)
        np.testing.assert_allclose(seen[:, logit_ids], arrays[key + "logits"], atol=1e-4, rtol=0, err_msg=at)
        top = np.take_along_axis(seen, arrays[key + "top64_ids"].astype(np.int64), 1)
        np.testing.assert_allclose(top, arrays[key + "top64_values"], atol=1e-4, rtol=0, err_msg=at)

        uids = arrays[key + "uid_after_generate"]
        position = torch.from_numpy(rows.pos[: rows.n].T.copy()).float()[:, None]
        cos, sin = recorder._lm.rotary_emb(torch.zeros(1), position)
        for layer in range(3):
            want = torch.from_numpy(k_store[uids, layer]).transpose(0, 1)  # [heads, rows, dim]
            want = want if append else rotate(want, cos[0], sin[0])
            held = stream.arena.k[layer][0, :, : rows.n]
            np.testing.assert_allclose(held, want, atol=1e-4, rtol=0, err_msg=f"{at}: keys of layer {layer}")
            values = stream.arena.v[layer][0, :, : rows.n]
            torch.testing.assert_close(
                values, torch.from_numpy(v_store[uids, layer]).transpose(0, 1), atol=1e-4, rtol=0
            )
