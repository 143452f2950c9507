"""Training writes what a stream holds: one script, one table, one text budget."""

from __future__ import annotations

import numpy as np
import torch

from neverblink import Chunk, Frame, Model, ScriptOptions, SpeakOptions, StreamOptions
from neverblink.training.samples import Spoken, previous_ids, write_sample
from tests.checkpoints import toy_checkpoint
from tests.forced import Forced

TEXTS = [
    "It starts.",
    "",
    "You win.",
    "What?",
    "",
    "Previous text.",
    "Now!",
    "The user happens.",
    "",
    "You are 3 to 5.",
]


def test_a_sample_is_what_the_stream_holds() -> None:
    """After ten seconds: the ids, kinds and positions of the last four, behind the same trimmed previous text."""
    window, sink, recent = 4, 5, 6
    model, forced = Model.from_pretrained(toy_checkpoint(), device="cpu"), Forced()
    windows = {"sink_tokens": sink, "text_window": recent, "vision_seconds": float(window)}
    options = StreamOptions(policy_options=windows, speak=SpeakOptions(max_tokens_per_second=40))
    stream = model.stream(options, ScriptOptions(query="Say it."), processor=forced)
    picture = np.zeros((84, 112, 3), np.uint8)
    block = model.adapter.encode([picture, picture], 2.0)
    for i, text in enumerate(TEXTS):
        forced.script = list(stream.script.said(text))
        stream.step(Chunk(float(i), i + 1.0, (Frame(i, picture), Frame(i + 0.5, picture))))
    gone = len(TEXTS) - window
    seconds = [Spoken(float(i), i + 1.0, block, TEXTS[i]) for i in range(gone, len(TEXTS))]
    sample = write_sample(stream.script, seconds, previous_ids(stream.script, TEXTS[:gone], sink, recent))
    rows = stream.rows()
    np.testing.assert_array_equal(rows.ids, sample.ids)
    np.testing.assert_array_equal(rows.kinds, sample.kinds)
    np.testing.assert_array_equal(stream.places().T, sample.positions)
    assert sample.learn.sum() == sum(len(stream.script.said(t)) for t in TEXTS[gone:])


def test_two_steps_of_the_loop(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """The loss is finite, the weights move, the log and the optimizer's state are written, and it can go on."""
    from neverblink.models.base import VisionBlock
    from neverblink.script import Script
    from neverblink.training.loop import LoopOptions, train
    from neverblink.training.windows import Footage, WindowOptions, Windows, collate
    from neverblink.types import Kind
    from neverblink.vision.pixels import cut

    adapter = Model.from_pretrained(toy_checkpoint(), device="cpu").adapter
    script = Script(adapter.tokenizer, ScriptOptions(query="Say it."))
    grid = (1, 6, 8)
    loc, advance = adapter.places(grid, 1.0)
    patches = cut(torch.zeros(2, 3, 84, 112, dtype=torch.uint8), adapter.pixels)[0].numpy()

    def stream(seed: int):  # type: ignore[no-untyped-def]
        return "Say it.", (Footage(patches, text) for text in TEXTS)

    options = WindowOptions(seconds=4, overlap=2, streams=2)
    windows = iter(
        Windows(stream, lambda query: script, VisionBlock(torch.empty(len(loc), 0), loc, advance), options, 0)
    )
    heavy = torch.ones(len(adapter.tokenizer))
    batches = (collate([next(windows) for _ in range(2)], Kind.PIXELS, 0, heavy) for _ in iter(int, 1))
    before = adapter._lm.embed_tokens.weight.detach().clone()
    saved: list[bool] = []
    for steps in (2, 3):  # the second call resumes at step 2
        loop = LoopOptions(steps=steps, batch=2, warm_up=1)
        train(adapter, grid, batches, loop, tmp_path, lambda: saved.append(True), report=lambda line: None)
    assert not torch.equal(before, adapter._lm.embed_tokens.weight)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 3
    assert len(saved) == 2
