"""A training sample is what a stream holds: ids, kinds, positions, pictures, logits; questions and old text too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from neverblink import Model, ScriptOptions, SpeakOptions, StreamOptions
from neverblink.sources import SourceOptions, chunks, open_source
from neverblink.training.sft.collate import collate
from neverblink.training.sft.dataset import Windows
from neverblink.training.sft.records import live
from neverblink.training.sft.trainer import predict
from tests.checkpoints import toy_checkpoint
from tests.forced import Forced
from tests.training.clips import record, write_data

SECONDS, SINK, RECENT = 4, 7, 9


class Listening(Forced):
    """Forces the script and keeps what the model would have said: logits before each token."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[torch.Tensor] = []

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.heard.append(scores[0])
        return super().__call__(ids, scores)


@pytest.fixture(scope="module")
def model() -> Model:
    return Model.from_pretrained(toy_checkpoint(), device="cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"), [record(10)])


def windows_for(model: Model, data: Path, **changes: object) -> Windows:
    script = model.stream(script=ScriptOptions(query="Say it.")).script
    settings = {"fps": 2.0, "seconds": SECONDS, "overlap": 2, "sink_tokens": SINK, "text_window": RECENT, **changes}
    return Windows(data, script, model.adapter.pixels, model.adapter.places, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("fps", [2.0, 4.0])
def test_every_window_is_what_a_stream_holds_at_its_end(model: Model, data: Path, fps: float) -> None:
    """At one and at two temporal patches a second, a stream watches the file, says what the record says and remembers
    its questions. At the end of each window it holds the sample: up to three answers in one turn, words that became
    previous text, answers among them."""
    windows, spoken = windows_for(model, data, fps=fps), Listening()
    kept = {"sink_tokens": SINK, "text_window": RECENT, "vision_seconds": float(SECONDS)}
    options = StreamOptions(fps=fps, policy_options=kept, speak=SpeakOptions(max_tokens_per_second=60))
    stream = model.stream(options, ScriptOptions(query="Say it."), processor=spoken)
    _, lived = live(windows.index[0])
    ends = {w.first + w.seconds: n for n, w in enumerate(windows.windows)}
    compared = 0
    with open_source(data / "clip.mp4", SourceOptions(fps=fps)) as source:
        for chunk, second in zip(chunks(source, fps), lived, strict=True):
            spoken.script = list(stream.script.said(second.text))
            stream.step(chunk)
            for question, answer in second.asked:
                spoken.script = [*stream.script.encode(answer), stream.script.end_id]
                assert answer == stream.ask(question, remember=True)
            if round(chunk.end) not in ends:
                continue
            example, rows = windows[ends[round(chunk.end)]], stream.rows()
            assert "" == example.fault
            np.testing.assert_array_equal(rows.ids, example.sample.ids)
            np.testing.assert_array_equal(rows.kinds, example.sample.kinds)
            np.testing.assert_array_equal(stream.places().T, example.sample.positions)
            if round(chunk.end) == SECONDS:  # nothing has left yet, so the keys are those of one whole forward
                batch = collate([example], pad_id=0, pack=True)
                with torch.inference_mode():
                    logits, goal = predict(model.adapter.model, batch, model.adapter.pixels)
                assert len(spoken.heard) == int((goal != -100).sum())
                torch.testing.assert_close(logits, torch.stack(spoken.heard), rtol=1e-4, atol=1e-4)
            compared += 1
    assert compared == len(ends) == 4


def test_what_is_learned_is_what_the_assistant_says(model: Model, data: Path) -> None:
    """Commentary, silence marks, answers and their ends; no question, no picture, no time."""
    windows = windows_for(model, data, seconds=10, overlap=0)
    sample, script = windows[0].sample, windows.script
    expected = []
    for second in live(windows.index[0])[1]:
        expected += script.said(second.text)
        for _, answer in second.asked:
            expected += [*script.encode(answer), script.end_id]
    assert expected == sample.ids[sample.learn].tolist()
    assert script.decode(sample.ids[sample.learn].tolist()).count(" ...") == 10


def test_text_before_the_span_is_previous_text(model: Model, tmp_path: Path) -> None:
    """Of a span that begins in mid-game: what was said before it, and in its cut first second, cut to the budget."""
    words = record(10).words
    later = replace(record(10), start=2.5, previous="Long ago they began.", words=words[2:], asked=())
    windows = windows_for(model, write_data(tmp_path, [later]), sink_tokens=3, text_window=5)
    sample, script = windows[0].sample, windows.script
    said = [*script.encode(" Long ago they began.")]
    head = [i for piece in script.opening(tuple(said[:3] + said[-5:])) for i in piece.ids]
    assert head == sample.ids[: len(head)].tolist()
    assert "Time=3.0-4.0s" in script.decode(sample.ids.tolist())


def test_annealing_keeps_windows_full_of_talk(model: Model, data: Path) -> None:
    """Of four windows of four seconds only those with talk in three or more are kept; none at all is refused."""
    shares = [w.dense for w in windows_for(model, data).windows]
    assert [0.75, 0.75, 0.75, 0.75] == shares
    dense = windows_for(model, data, seconds=3, overlap=2, least_dense=0.8)
    assert [5] == [w.first for w in dense.windows]
    with pytest.raises(Exception, match="7 windows with too little talk"):
        windows_for(model, data, seconds=4, overlap=3, least_dense=0.8)


def test_a_broken_video_is_named_and_teaches_nothing(model: Model, tmp_path: Path) -> None:
    """Its window becomes an example without a single learned token, which carries file, line and reason."""
    data = write_data(tmp_path, [record(10), replace(record(10), video="gone.mp4"), replace(record(10), end=20.0)])
    windows = windows_for(model, data, seconds=10, overlap=0)
    good, gone, short = (windows[n] for n in (0, 1, 3))
    assert "" == good.fault
    assert f"{data / 'data.jsonl'}:2: " in gone.fault
    assert "no such file" in gone.fault
    assert "data.jsonl:3: " in short.fault
    assert "shows 0 of the seconds 10-20" in short.fault
    for empty in (gone, short):
        assert not empty.sample.learn.any()
    batch = collate([good, gone], pad_id=0, pack=True)
    assert [gone.fault] == batch["faults"]
    assert int((batch["labels"] != -100).sum()) == int(good.sample.learn.sum())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_and_padded_samples_learn_as_if_alone(data: Path, attention: str) -> None:
    """Logits of three samples of different lengths: alone, padded, and packed into one row."""
    model = Model.from_pretrained(toy_checkpoint(), device="cpu", attn=attention)
    windows = windows_for(model, data, seconds=3, overlap=0)
    examples = [windows[n] for n in (0, 1, 2)]
    assert len({len(e.sample.ids) for e in examples}) == 3

    def logits_of(some: list, pack: bool) -> torch.Tensor:  # type: ignore[type-arg]
        with torch.inference_mode():
            logits, goal = predict(model.adapter.model, collate(some, pad_id=0, pack=pack), model.adapter.pixels)
        return logits[goal != -100]

    alone = torch.cat([logits_of([e], False) for e in examples])
    torch.testing.assert_close(logits_of(examples, True), alone, rtol=1e-4, atol=1e-4)
    padded = logits_of(examples, False)
    assert len(alone) == len(padded)
    # Padded rows come column by column for all rows at once: compare as sets of predictions per row.
    batch = collate(examples, pad_id=0, pack=False)
    columns = (batch["labels"][:, 1:] != -100).any(0)
    rows = (batch["labels"][:, 1:] != -100)[:, columns]
    with torch.inference_mode():
        logits, _ = predict(model.adapter.model, batch, model.adapter.pixels)
    torch.testing.assert_close(logits.view(3, -1, logits.shape[-1])[rows], alone, rtol=1e-4, atol=1e-4)
