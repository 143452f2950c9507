"""The next chunk is read and encoded while this one is spoken: the same captions, errors and notes in their places."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import neverblink.sources
from neverblink import Caption, Frame, Model
from neverblink.errors import ModelError, SourceDamaged
from neverblink.sources.ahead import Ahead
from neverblink.testing import SyntheticSource
from tests.checkpoints import toy_checkpoint


class Watched:
    """An adapter that writes down in which thread it encodes, and how many chunks were encoded at each prefill."""

    def __init__(self, adapter: Any, fails_at: int | None = None):
        self._adapter, self.fails_at = adapter, fails_at
        self.encoded, self.threads, self.ahead = 0, set[str](), list[int]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)

    def encode(self, frames: Any, fps: float) -> Any:
        self.encoded += 1
        self.threads.add(threading.current_thread().name)
        if self.encoded == self.fails_at:
            raise ModelError("the tower has failed")
        return self._adapter.encode(frames, fps)

    def encode_packed(self, looks: Any) -> Any:
        self.encoded += 1
        self.threads.add(threading.current_thread().name)
        return self._adapter.encode_packed(looks)

    def forward(self, embeds: Any, positions: Any, cache: Any) -> Any:
        if len(embeds) > 1:
            self.ahead.append(self.encoded)
        return self._adapter.forward(embeds, positions, cache)


class Dancing(SyntheticSource):
    """Every second picture is noise of its own, so that no two chunks look alike."""

    def _picture(self, i: int) -> np.ndarray:
        return np.random.default_rng(i).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def watch(pipeline: bool, source: Any = None, fails_at: int | None = None, **options: Any) -> tuple[list[Any], Watched]:
    """What a watch gives, its error last."""
    model = Model.from_pretrained(toy_checkpoint(), device="cpu")
    model.adapter = adapter = Watched(model.adapter, fails_at)  # type: ignore[assignment]
    windows = {"sink_tokens": 8, "text_window": 8, "vision_seconds": 2.0}
    given: list[Any] = []
    try:
        for caption in model.watch(
            source or Dancing(seconds=6, dropped=[0, 3]),
            fps=2,
            policy_options=windows,
            max_tokens_per_second=4,
            pipeline=pipeline,
            **options,
        ):
            given.append(replace(caption, seconds={}))
    except Exception as error:
        given.append((type(error), str(error)))
    return given, adapter


SPARING = {"gate": "pixel:similarity=0.7,skipped=reuse", "encoder_cache": "stc:every=3", "compress": "stc:keep=0.5"}


@pytest.mark.parametrize("parts", [{}, SPARING], ids=["whole", "sparing"])
def test_the_pipeline_says_the_same(parts: dict[str, str]) -> None:
    """Captions with all their numbers, questions included; encoded in another thread, one chunk ahead at most. What a
    gate, an encoder cache and a compressor remember is that of the chunk before, spoken or not."""
    asked = {2.5: "What now?"}
    plain, before = watch(False, questions=asked, temperature=0.8, seed=3, **parts)
    ahead, after = watch(True, questions=asked, temperature=0.8, seed=3, **parts)
    assert len(plain) == 6
    assert [0, 3] == [caption.frames_dropped for caption in plain[:2]]
    assert plain == ahead
    assert before.threads == {"MainThread"}
    assert after.threads == {"read ahead"}
    assert all(encoded <= spoken + 2 for spoken, encoded in enumerate(after.ahead))


def test_seconds_end_both_alike() -> None:
    source = Dancing(seconds=60)
    plain, _ = watch(False, Dancing(seconds=60), seconds=2.0)
    ahead, adapter = watch(True, source, seconds=2.0)
    assert plain == ahead
    assert (2, 2, True) == (len(ahead), adapter.encoded, source.closed)


@pytest.mark.parametrize("fault", ["source", "tower"])
def test_an_error_comes_in_its_place(fault: str) -> None:
    """Every second before it is told, and then the same error."""
    source = {"error": SourceDamaged("damaged after 3 s", 3.0), "error_at": 3.0} if fault == "source" else {}
    fails_at = 4 if fault == "tower" else None
    plain, _ = watch(False, Dancing(**source), fails_at)
    ahead, _ = watch(True, Dancing(**source), fails_at)
    assert [Caption] * 3 + [tuple] == [type(item) for item in ahead]
    assert plain == ahead
    assert not [thread for thread in threading.enumerate() if thread.name == "read ahead"]


class Telling(Dancing):
    """Tells of a gap in the middle of second 2, and of the thread in which it does."""

    on_event: Any = None

    def frames(self) -> Iterator[Frame]:
        for frame in super().frames():
            if frame.time == 2.5:
                self.on_event("gap", threading.current_thread().name, frame.time)
            yield frame


def test_notes_are_told_in_their_place_by_the_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener needs no lock: it hears in the thread that reads the captions, before the chunk that came later."""
    source = Telling(seconds=4)

    def open_source(name: str, options: Any) -> Telling:
        source.on_event = options.on_event
        return source

    monkeypatch.setattr(neverblink.sources, "open_source", open_source)
    heard: list[Any] = []
    model = Model.from_pretrained(toy_checkpoint(), device="cpu")
    told = lambda *words: heard.append((*words, threading.current_thread().name))  # noqa: E731
    shown = lambda chunk: told("chunk", chunk.end)  # noqa: E731
    for caption in model.watch("x", fps=2, on_event=told, on_chunk=shown, pipeline=True, max_tokens_per_second=2):
        heard.append(caption.end)
    chunks = [[("chunk", end, "MainThread"), end] for end in (1.0, 2.0, 3.0, 4.0)]
    assert [*chunks[0], *chunks[1], ("gap", "read ahead", 2.5, "MainThread"), *chunks[2], *chunks[3]] == heard


def test_a_reader_that_leaves_frees_a_maker_that_waits() -> None:
    """For room as for a source that gives nothing."""
    stuck, made = threading.Event(), []

    def items() -> Iterator[int]:
        for i in range(10):
            made.append(i)
            yield i
        stuck.wait()

    with Ahead(items(), depth=2) as ahead:
        assert 0 == next(iter(ahead))
        while len(made) < 3:
            time.sleep(0.001)
    assert made == [0, 1, 2]
    with Ahead(items(), free=stuck.set) as ahead:
        assert list(range(10)) == [number for _, number in zip(range(10), ahead, strict=False)]


def test_an_error_waits_behind_what_was_made_before_it() -> None:
    def items() -> Iterator[int]:
        yield from (1, 2)
        raise ModelError("no third")

    with Ahead(items(), depth=5) as ahead:
        ahead._thread.join()  # all is made before anything is read
        assert [1, 2] == [next(ahead), next(ahead)]
        for _ in range(2):  # whoever asks again gets the same answer
            with pytest.raises(ModelError, match="no third"):
                next(ahead)
