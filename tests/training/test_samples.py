"""Training writes what a stream holds: one script, one table, one text budget."""

from __future__ import annotations

import numpy as np

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
