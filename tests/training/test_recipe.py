"""The recipe of the bundled model, stage by stage at toy size: scenes, windows, loop, look."""

import json
import re
from argparse import Namespace
from collections import Counter
from dataclasses import asdict, replace
from functools import partial
from itertools import count, islice, repeat
from pathlib import Path

import numpy as np
import pytest
import torch

from neverblink.arcade.commentary import Slip
from neverblink.arcade.pong import PONG
from neverblink.errors import ConfigError
from neverblink.model import Model
from neverblink.models.base import VisionBlock
from neverblink.outputs.base import clock
from neverblink.script import Script, ScriptOptions
from neverblink.training.arcade import COMMENTATE, adapter_of, film, known_fields, see
from neverblink.training.courses import ArcadeCourse, courses_of
from neverblink.training.embedding import LOUD, Print, directions_of, letter, letters, whiten
from neverblink.training.export import export
from neverblink.training.look import LATELY, Glance, Group, Looks, Pairs, Shares, by_grid, fields_of, look
from neverblink.training.loop import LoopOptions, optimizers_of, train
from neverblink.training.recipes import SmallVLM, build, save
from neverblink.training.scenes import Encode, Encoded, Footage, Quiz, Scene, collect, read
from neverblink.training.tokenizer import train_tokenizer
from neverblink.training.windows import ROUND, TURN, WindowOptions, Windows, _pick, belated, by_length, collate, slipped
from neverblink.types import Kind
from neverblink.vision.pixels import PixelOptions, fit, normalise
from tests.checkpoints import toy_checkpoint

QUERIES = ("Say it.", "Look.")
TOKENS, HIDDEN = 3, 8


def toy_film(seed: int) -> Footage:
    """Five to nine seconds; the first value of every patch tells the second."""
    seconds = 5 + seed % 5
    patches = [np.full((TOKENS, 2), i, np.uint8) for i in range(seconds)]
    lines = {query: [f" {query} {seed} {i}" for i in range(seconds)] for query in QUERIES}
    slips = [None, *(Slip("left", f"{i}") for i in range(1, seconds))]
    quizzes = [[Quiz("last", "?", "!", 0, [0])]] * seconds
    return Footage(patches, lines, (1, TOKENS), quizzes, turns=[seed % 5], slips=slips)


def load() -> Encode:
    return lambda patches, grid, seconds: patches[:, :1].float().view(seconds, grid[1], 1).expand(-1, -1, HIDDEN)


def a_checkpoint(folder: Path, seed: int = 0) -> None:
    """A small model with random weights."""
    torch.manual_seed(seed)
    size = SmallVLM(layers=1, hidden=64, vision_hidden=96, vision_layers=1, vision_mlp=96, mlp=64)
    tokenizer = train_tokenizer(["the ball"] * 10, folder, vocabulary=300)
    save(build(size, tokenizer), tokenizer, folder, size, {})


@pytest.mark.parametrize("workers", [0, 2])
def test_scenes_come_back_as_they_were_seen(tmp_path: Path, workers: int):
    """What is read is what the tower gave for each second, beside its own lines; going on adds, not repeats."""
    said: list[str] = []
    collect(Encoded(load, toy_film, 1), tmp_path, 40, workers, said.append)
    scenes = read(tmp_path)
    assert sum(len(scene.vision) for scene in scenes) >= 40
    for scene in scenes:
        assert scene.vision.dtype == torch.bfloat16
        assert scene.vision.shape[1:] == (TOKENS, HIDDEN)
        assert scene.vision[:, 0, 0].tolist() == list(range(len(scene.vision)))
        for query in QUERIES:
            assert [line.split()[-1] for line in scene.lines[query]] == [str(i) for i in range(len(scene.vision))]
        assert (1, TOKENS) == scene.grid
        assert scene.quizzes[0] == [Quiz("last", "?", "!", 0, [0])]
        assert "last" == scene.quizzes[0][0].kind
        assert [len(scene.vision) - 5] == scene.turns
        assert [None, *(Slip("left", f"{i}") for i in range(1, len(scene.vision)))] == scene.slips
        assert isinstance(scene.slips[1], Slip)
    before = len(scenes)
    collect(Encoded(load, toy_film, 1), tmp_path, 40, 0, said.append)
    assert len(read(tmp_path)) == before
    collect(Encoded(load, toy_film, 1), tmp_path, 80, workers, said.append)
    after = read(tmp_path)
    firsts = [scene.lines[QUERIES[0]][0] for scene in after]
    assert len(set(firsts)) == len(firsts)
    assert said


def test_no_scenes_is_one_clear_line(tmp_path: Path):
    with pytest.raises(ConfigError, match="run the stage `scenes` first"):
        read(tmp_path)


def scenes_of(count: int, seconds: int, hidden: int) -> list[Scene]:
    vision = torch.arange(seconds).view(-1, 1, 1).expand(-1, TOKENS, hidden).to(torch.bfloat16)
    texts = {query: [f" {query} {i}." for i in range(seconds)] for query in QUERIES}
    return [Scene(vision + 100 * n, texts, (1, TOKENS)) for n in range(count)]


def windows_of(scenes: list[Scene], script: Script, share: tuple[float, float], options: WindowOptions) -> Windows:
    places = VisionBlock(torch.empty(TOKENS, 0), np.zeros((TOKENS, 3)), 1.0)
    shares = dict(zip(QUERIES, map(torch.tensor, share), strict=True))
    return Windows(scenes, lambda query: script, shares, lambda fps, grid: places, options, 0)


def test_a_round_gives_every_window_once_with_its_own_vision():
    script = Script(Model.from_pretrained(toy_checkpoint(), device="cpu").adapter.tokenizer, ScriptOptions())
    windows = windows_of(scenes_of(3, 9, HIDDEN), script, (0.0, 1.0), WindowOptions(seconds=4, overlap=2, forget=0.0))
    assert [start for n, start in windows.starts if n == 0] == [0, 2, 4]
    stream = iter(windows)
    seen = []
    for sample, vision in (next(stream) for _ in windows.starts):
        first = int(vision[0, 0])
        seen.append(first)
        assert vision[:, 0].tolist() == [first + i for i in range(4) for _ in range(TOKENS)]
        text = script.decode(sample.ids[sample.learn].tolist())
        assert [int(word.strip(".")) for word in text.split() if word.strip(".").isdigit()] == [
            first % 100 + i for i in range(4)
        ]
        said_before = script.decode(sample.ids[sample.kinds == Kind.PREVIOUS].tolist())
        assert (f"{QUERIES[1]} 0." in said_before) == (first % 100 > 0)
        assert QUERIES[0] not in script.decode(sample.ids.tolist()).replace(script.options.query, "")
    assert sorted(seen) == [n * 100 + start for n in range(3) for start in (0, 2, 4)]


@pytest.mark.parametrize("forget", [0.0, 1.0])
def test_only_what_the_stream_still_holds_is_asked(forget: float):
    """The second that an answer rests on stands in the sample before its question, in the seconds or in what is left of
    the text before; all such seconds are asked about. Every second may be asked after, the last one always is."""
    script = Script(Model.from_pretrained(toy_checkpoint(), device="cpu").adapter.tokenizer, ScriptOptions())
    [scene] = scenes_of(1, 40, HIDDEN)
    scene = replace(scene, quizzes=[[Quiz("last", f"q{at}?", f"a{at}.", at) for at in range(i + 1)] for i in range(40)])
    options = WindowOptions(seconds=4, overlap=2, sink_tokens=20, text_window=40, forget=forget, ask=1.0)
    windows = windows_of([scene], script, (1.0, 0.0), options)
    windows.talk = QUERIES[0]
    stream, asked_about, turns_asked_after = iter(windows), set(), []
    for sample, _ in (next(stream) for _ in range(600)):
        text = script.decode(sample.ids.tolist())
        about = [int(n) for n in re.findall(r"q(\d+)\?", text)]
        assert [int(n) for n in re.findall(r"a(\d+)\.", text)] == about
        *earlier, last_turn = text.split("Time=")
        assert 1 <= last_turn.count("?") <= 3
        assert all(turn.count("?") <= 1 for turn in earlier)
        turns_asked_after += [turn for turn in earlier if "?" in turn]
        last = max(int(n) for n in re.findall(r"Say it. (\d+)\.", text))
        for at in about:
            assert f" {at}." in text[: text.index(f"q{at}?")]
            asked_about.add((last, at))
    assert turns_asked_after
    late = {at for last, at in asked_about if last == 39}
    assert set(range(36, 40)) <= late
    assert (0 in late) == (forget == 0)
    assert (33 in late) == (forget == 0)
    assert 10 not in late


def test_slips_end_where_another_side_or_something_else_is_told():
    lines = ["a", "", "b", "c", "", "d", "e", ""]
    slips = [Slip(side, text) if side else None for side, text in zip("x xx yy", "A BC DE", strict=True)] + [None]
    slips[1] = slips[4] = None
    assert ["a", "", "b", "c", "", "D", "E", ""] == slipped(lines, slips)
    assert ["A", "", "B", "C", ""] == slipped(lines[:5], slips)
    assert lines[:5] == ["a", "", "b", "c", ""]
    slips[3] = None  # something that nobody mistakes
    assert lines[:5] == slipped(lines[:5], slips)
    assert lines == slipped(lines, ())
    assert slipped([], slips) == []


def test_changes_of_sides_that_are_told_late():
    change, other, remark = Slip("left", "x", change=True), Slip("left", "x"), Slip("left", "x", remark=True)
    lines = ["a", "", "", "b", "", "", "", "c", "d", ""]
    slips = [change, None, None, other, None, None, None, remark, remark, None]
    assert (lines, set()) == belated(lines, slips, [0] * 10)
    assert (["", "", "a", *lines[3:]], {0, 1}) == belated(lines, slips, [2, *[0] * 9])
    assert (lines, set()) == belated(lines, slips, [3, *[0] * 9])  # something else is told then
    assert (lines, set()) == belated(lines, slips, [0, 0, 0, 1, *[0] * 6])
    slips[3] = change  # the remark behind it is due later then, so it is not learned
    told, unlearned = belated(lines, slips, [1, 0, 0, 3, *[0] * 6])
    assert ["", "a", "", "", "", "", "b", "c", "d", ""] == told
    assert {0, 3, 4, 5, 7} == unlearned
    assert lines == ["a", "", "", "b", "", "", "", "c", "d", ""]
    assert (["", "a"], {0}) == belated(["a", ""], [change, None], [1, 0])
    assert (["a", ""], set()) == belated(["a", ""], [change, None], [2, 0])


def test_windows_tell_some_changes_late():
    script = Script(Model.from_pretrained(toy_checkpoint(), device="cpu").adapter.tokenizer, ScriptOptions())
    [scene] = scenes_of(1, 12, HIDDEN)
    lines = [text if i in (2, 6, 11) else "" for i, text in enumerate(scene.lines[QUERIES[0]])]
    slips = [Slip("left", "", change=i == 6) if i in (2, 6, 11) else None for i in range(12)]
    quizzes = [[Quiz("last", "q?", "a.", 6, (6, 2))] if i > 5 else [] for i in range(12)]
    scene = replace(scene, lines={**scene.lines, QUERIES[0]: lines}, slips=slips, quizzes=quizzes)
    for late, by in ((0.0, {0}), (0.5, {0, 1, 2, 3}), (1.0, {1, 2, 3})):
        o = WindowOptions(4, 2, forget=0.0, slip=0.0, late=late, ask=1.0, ask_often=1.0, recall=1.0)
        windows = windows_of([scene], script, (1.0, 0.0), o)
        windows.talk = QUERIES[0]
        found = set()
        for seed in range(40):
            sample, _ = windows._window(0, 6, np.random.default_rng(seed))
            text, learned = script.decode(sample.ids.tolist()), script.decode(sample.ids[sample.learn].tolist())
            seconds = text.split("Time=")[1:]
            [told] = [i for i, second in enumerate(seconds) if f"assistant\n {QUERIES[0]} 6. ..." in second]
            found.add(told)
            # What was silent in its place is not learned, what is said late and the silence behind it is.
            assert learned.replace("a.", "") == f" {QUERIES[0]} 6." + " ..." * (4 - told)
            quoted = text.replace(f"assistant\n {QUERIES[0]}", "").count("Say it. 6")
            assert (quoted > 0) == (told == 0)  # the journal has no line that was not told yet
            assert text.count("Say it. 2") > 1
            assert not re.search(r":\d\d *\n", text)
        assert found == by


def test_until_some_second_one_side_was_taken_for_the_other():
    """What was said wrong stands there and is not learned, what is to be said is true; nobody asks for the former."""
    script = Script(Model.from_pretrained(toy_checkpoint(), device="cpu").adapter.tokenizer, ScriptOptions())
    [scene] = scenes_of(1, 12, HIDDEN)
    quizzes = [[Quiz("last", f"q{at}?", f"a{at}.", at) for at in range(i + 1)] for i in range(12)]
    slips = [None, None, None, *(Slip("left", f" slip {i}.") for i in range(3, 12))]
    lines = [*scene.lines[QUERIES[0]]]
    lines[7], slips[7] = "", None  # to leave it at what is wrong is not learned either
    scene = replace(scene, slips=slips, quizzes=quizzes, lines={**scene.lines, QUERIES[0]: lines})
    for share, ends in ((0.0, {3}), (0.5, {3, 6, 7, 9}), (1.0, {6, 7, 9})):
        o = WindowOptions(seconds=4, overlap=2, text_window=4000, forget=0.0, ask=1.0, ask_often=1.0, slip=share)
        windows = windows_of([scene], script, (1.0, 0.0), o)
        windows.talk = QUERIES[0]
        found, asked = set(), set()
        for seed in range(60):
            sample, _ = windows._window(0, 6, np.random.default_rng(seed))
            text, learned = script.decode(sample.ids.tolist()), script.decode(sample.ids[sample.learn].tolist())
            past, now = text[: text.index("Time=")], text[text.index("Time=") :]
            wrong = [n for n in range(12) if f" slip {n}." in text]
            end = max(wrong, default=2) + 1
            assert [n for n in range(3, end) if n != 7] == wrong
            found.add(end)
            assert [n for n in wrong if n < 6] == [n for n in range(12) if f" slip {n}." in past]
            assert [n for n in wrong if n >= 6] == [n for n in range(12) if f" slip {n}." in now]
            true = [n for n in range(6, 10) if n not in wrong and (n != 7 or 6 not in wrong)]
            said = [n for n in true if n != 7]
            assert said == [n for n in range(12) if f"{QUERIES[0]} {n}." in now]
            assert said == [n for n in range(12) if f"{QUERIES[0]} {n}." in learned]
            assert "slip" not in learned
            here = [int(n) for n in re.findall(r"q(\d+)\?", now)]
            assert not {*here} & {*wrong}
            assert [f"a{n}." for n in here] == re.findall(r"a\d+\.", learned)
            # Of each other second, silence too, the words, the silence mark and the end of the turn; and the answers.
            tokens = [
                *(script.said(lines[n]) for n in true),
                *((*script.encode(f"a{n}."), script.end_id) for n in here),
            ]
            assert sum(map(len, tokens)) == sample.learn.sum()
            asked |= {(bool(wrong), n) for n in here}
        assert found == ends
        assert share == 1.0 or {3, 4, 5} < {n for wrong, n in asked if not wrong}
        assert share == 0.0 or {6, 8, 9} < {n for wrong, n in asked if wrong}


def test_what_is_held_is_what_was_said_wrong_or_not():
    """Wrong words that are longer leave less room: what fell out is not asked for. The journal has them as said."""
    script = Script(Model.from_pretrained(toy_checkpoint(), device="cpu").adapter.tokenizer, ScriptOptions())
    [scene] = scenes_of(1, 12, HIDDEN)
    quizzes = [[Quiz("last", f"q{at}?", f"a{at}.", at, (7,)) for at in range(i + 1)] for i in range(12)]
    slips = [*[None] * 5, *(Slip("left", f" slip {i}, and this goes on and on and on.") for i in range(5, 12))]
    scene = replace(scene, slips=slips, quizzes=quizzes)
    for slip in (0.0, 1.0):
        o = WindowOptions(
            seconds=4, overlap=2, sink_tokens=0, text_window=60, forget=0.0, ask=1.0, ask_often=1.0, slip=slip
        )
        windows = windows_of([scene], script, (1.0, 0.0), o)
        windows.talk = QUERIES[0]
        before, quoted = set(), []
        for seed in range(60):
            sample, _ = windows._window(0, 8, np.random.default_rng(seed))
            text = script.decode(sample.ids.tolist())
            for found in re.finditer(r"q(\d+)\?", text):
                if int(found[1]) < 8:
                    before.add(int(found[1]))
                    assert f"{QUERIES[0]} {found[1]}." in text[: found.start()]
            quoted += re.findall(r"(slip 7, and|Say it. 7\.)", text[text.index("Time=") :])
        assert bool(before) == (slip == 0.0)
        assert {"slip 7, and" if slip else "Say it. 7."} == set(quoted)


def test_no_window_shows_a_cut():
    """Its pictures do not go on; what was said before it is the past of the windows behind it."""
    script = Script(Model.from_pretrained(toy_checkpoint(), device="cpu").adapter.tokenizer, ScriptOptions())
    [scene] = scenes_of(1, 40, HIDDEN)
    options = WindowOptions(seconds=6, overlap=3, sink_tokens=20, text_window=4000, forget=0.0)
    windows = windows_of([replace(scene, cuts=[7, 20])], script, (1.0, 0.0), options)
    assert [(0, first) for first in (0, 7, 10, 13, 20, 23, 26, 29, 32)] == windows.starts
    sample, vision = windows._window(0, 7, np.random.default_rng(0))
    assert [7, 8, 9, 10, 11, 12] == vision[::TOKENS, 0].int().tolist()
    assert f" {QUERIES[0]} 6." in script.decode(sample.ids.tolist())
    with pytest.raises(ConfigError, match="the longest scene has 20 s without a cut, a window 24 s"):
        windows_of([replace(scene, cuts=[7, 20])], script, (1.0, 0.0), WindowOptions(seconds=24))


def test_the_journal_is_asked_about_what_is_not_held_any_more():
    """With recall a question comes with the lines that the journal found for it, at their own times; an answer that
    rests on a second of these may be asked for, whatever has been forgotten."""
    script = Script(Model.from_pretrained(toy_checkpoint(), device="cpu").adapter.tokenizer, ScriptOptions())
    [scene] = scenes_of(1, 40, HIDDEN)
    quizzes = [[Quiz("last", "q3?", "a3.", 3, [5, 3])] if i > 5 else [] for i in range(40)]
    quizzes[39] += [Quiz("made", "q9?", "a9.", 9, [8])]  # what it rests on was not found
    scene = replace(scene, quizzes=quizzes)
    for recall in (0.0, 1.0):
        options = WindowOptions(seconds=4, overlap=2, forget=1.0, ask=1.0, ask_often=1.0, recall=recall)
        windows = windows_of([scene], script, (1.0, 0.0), options)
        windows.talk = QUERIES[0]
        stream, asked = iter(windows), 0
        for sample, vision in (next(stream) for _ in range(40)):
            first = int(vision[0, 0])
            text = script.decode(sample.ids.tolist())
            assert "q9?" not in text
            base = float(re.findall(r"Time=([\d.]+)-", text)[0])
            times = {at: clock(base + at - first) for at in (3, 5)}
            told = f"previous text\n{times[3]} {QUERIES[0]} 3.\n{times[5]} {QUERIES[0]} 5.\nq3?"
            asked += text.count("q3?")
            if first > 5:  # the seconds themselves are not in the window
                assert text.count("q3?") == (4 if recall else 0) == text.count(told)
        assert bool(asked) == bool(recall)


def test_what_the_journal_finds_is_told_with_each_question():
    """Lines that were said up to then, and for a point that was made the line that says so."""
    footage = film(7, courses_of(["pong"], None), PixelOptions(patch=40, merge=4, min_pixels=25_600, max_pixels=51_200))
    found = 0
    for now, asked in enumerate(footage.quizzes):
        for quiz in asked:
            assert all(0 <= at <= now for at in quiz.recalled)
            assert all(footage.lines[COMMENTATE][at] for at in quiz.recalled)
            if quiz.kind == "made":
                found += quiz.since in quiz.recalled
    assert found > 20


def test_a_scene_that_may_not_forget_never_does():
    """Whatever `forget` says, the talk finds what was said before; lines of what is only seen may do without."""
    script = Script(Model.from_pretrained(toy_checkpoint(), device="cpu").adapter.tokenizer, ScriptOptions())
    [scene], options = scenes_of(1, 10, HIDDEN), WindowOptions(seconds=4, overlap=2, forget=1.0)
    for forgets, query in ((True, 0), (False, 0), (True, 1)):
        shares = (1.0, 0.0) if query == 0 else (0.0, 1.0)
        windows = windows_of([replace(scene, forgets=forgets and query == 0)], script, shares, options)
        windows.talk = QUERIES[0]
        stream = iter(windows)
        samples = [next(stream) for _ in windows.starts]
        held = [(sample.kinds == Kind.PREVIOUS).any() for sample, vision in samples if int(vision[0, 0])]
        assert [not forgets] * (len(windows.starts) - 1) == held


def test_many_pictures_at_once_are_seen_as_one_by_one(tmp_path: Path):
    """`Glance` gives what the stock tower gives, for every picture of a stack."""
    torch.manual_seed(0)
    size = SmallVLM(layers=1, hidden=64, vision_hidden=96, vision_layers=2, vision_mlp=96, mlp=64)
    tokenizer = train_tokenizer(["the ball"] * 10, tmp_path, vocabulary=300)
    save(build(size, tokenizer), tokenizer, tmp_path, size, {})
    adapter = adapter_of(tmp_path)
    assert ((160, 160), (160, 320)) == (fit(210, 160, adapter.pixels), fit(180, 320, adapter.pixels))
    pictures = torch.randn(5, 16, 9600)
    with torch.no_grad():
        at_once = Glance(adapter.model.model.visual, (4, 4))(pictures)
        each = torch.cat([adapter.encode_patches(picture, torch.tensor([[1, 4, 4]])) for picture in pictures])
    torch.testing.assert_close(at_once, each, rtol=1e-4, atol=1e-5)


def test_scenes_shorter_than_a_window_are_refused():
    script = Script(Model.from_pretrained(toy_checkpoint(), device="cpu").adapter.tokenizer, ScriptOptions())
    with pytest.raises(ConfigError, match="the longest scene has 3 s without a cut, a window 4 s"):
        windows_of(scenes_of(1, 3, HIDDEN), script, (1.0, 0.0), WindowOptions(seconds=4, overlap=2))


def test_samples_of_like_length_come_together():
    """Every sample once, and less padding than in the order of drawing."""
    script = Script(Model.from_pretrained(toy_checkpoint(), device="cpu").adapter.tokenizer, ScriptOptions())
    windows = iter(
        windows_of(scenes_of(2, 30, HIDDEN), script, (1.0, 0.0), WindowOptions(seconds=4, overlap=2, forget=0.5))
    )
    samples = [next(windows) for _ in range(16)]
    batches = by_length(samples, 4, 0, torch.ones(len(script.tokenizer)))
    assert [4] * 4 == [len(b.ids) for b in batches]
    assert sum(int(b.learn.sum()) for b in batches) == sum(int(s.learn.sum()) for s, _ in samples)
    longest = sorted(len(s.ids) for s, _ in samples)[3::4]
    assert [-(-n // ROUND) * ROUND for n in longest] == sorted(b.ids.shape[1] for b in batches)
    assert sorted(v[0, 0].item() for _, v in samples) == sorted(
        part[0, 0].item() for b in batches for part in b.vision.split(4 * TOKENS)
    )


def test_what_was_said_before_teaches_how_it_stands():
    """Digits of the previous text are learned, each once; nothing else of it is, and no picture is."""
    script = Script(Model.from_pretrained(toy_checkpoint(), device="cpu").adapter.tokenizer, ScriptOptions())
    [scene] = scenes_of(1, 12, HIDDEN)
    windows = windows_of([scene], script, (1.0, 0.0), WindowOptions(seconds=4, overlap=2, forget=0.0))
    sample, vision = windows._window(0, 8, np.random.default_rng(0))
    digits = sorted({i for n in range(8) for i in script.encode(f" {n}.")[:-1]} - set(script.encode(" ")))
    heavy = torch.ones(len(script.tokenizer))
    heavy[digits] = 3.0
    batch = collate([(sample, vision)], 0, heavy)
    size = len(sample.ids)
    before, is_digit = sample.kinds == Kind.PREVIOUS, np.isin(sample.ids, digits)
    assert 8 <= (before & is_digit).sum() < before.sum()
    assert (sample.learn | (before & is_digit)).tolist() == batch.learn[0, :size].tolist()
    assert {3.0} == set(batch.weight[0, :size][torch.from_numpy(before & is_digit)].tolist())
    assert 0 == batch.weight[0, :size][torch.from_numpy(~sample.learn & ~(before & is_digit))].sum()
    assert not batch.learn[0, size:].any()


def test_a_minute_is_learned_beside_its_picture_alone():
    """No words tell the minute of a line said before; the numbers beside it, and the minute that is said now, are
    learned."""
    script = Script(Model.from_pretrained(toy_checkpoint(), device="cpu").adapter.tokenizer, ScriptOptions())
    [scene] = scenes_of(1, 12, HIDDEN)
    lines = [f" {40 + n}' Goal, {n} to 6." if n % 2 else f" {n}' Goal." for n in range(12)]
    windows = windows_of(
        [replace(scene, lines=dict.fromkeys(QUERIES, lines))],
        script,
        (1.0, 0.0),
        WindowOptions(seconds=4, overlap=2, forget=0.0),
    )
    sample, vision = windows._window(0, 8, np.random.default_rng(0))
    heavy = torch.ones(len(script.tokenizer))
    heavy[[i for word, i in script.tokenizer.get_vocab().items() if word.lstrip("Ġ").isdigit()]] = 3.0
    [tick] = script.encode("'")
    [batch] = by_length([(sample, vision)], 1, 0, heavy, tick)
    learned = sample.ids[batch.learn[0, : len(sample.ids)].numpy() & (sample.kinds == Kind.PREVIOUS)]
    assert script.tokenizer.decode(learned.tolist()).replace(" ", "") == "16365676"
    said = batch.learn[0, : len(sample.ids)].numpy() & (sample.kinds == Kind.SAID)
    assert (sample.kinds == Kind.SAID).tolist() == said.tolist()


def test_the_loop_learns_resumes_and_reads_the_pictures(tmp_path: Path):
    """The loss falls, a second call goes on at its step, a stage of another name begins anew, and the answer hangs on
    the vision tokens: with those of another second the loss is higher."""
    from neverblink.training.loop import loss_of

    torch.manual_seed(0)
    adapter = Model.from_pretrained(toy_checkpoint(), device="cpu").adapter
    hidden = adapter.model.config.text_config.hidden_size
    script = Script(adapter.tokenizer, ScriptOptions())
    vision = torch.randn(8, TOKENS, hidden).to(torch.bfloat16)
    scene = Scene(vision, {query: [f" {'abcdefgh'[i]}" for i in range(8)] for query in QUERIES}, (1, TOKENS))
    windows = iter(windows_of([scene], script, (1.0, 1.0), WindowOptions(seconds=1, overlap=0, forget=1.0)))
    heavy = torch.ones(len(adapter.tokenizer))
    batches = (collate([next(windows) for _ in range(8)], 0, heavy) for _ in iter(int, 1))
    saved: list[bool] = []
    losses: list[str] = []
    run = partial(train, adapter, batches, folder=tmp_path, save=lambda: saved.append(True), report=losses.append)
    run(LoopOptions(steps=40, batch=8, warm_up=5, lr=1e-2), stage="read")
    run(LoopOptions(steps=41, batch=8, warm_up=5, lr=1e-2), stage="read")
    assert losses[-1].startswith("stage read step 40 ")
    run(LoopOptions(steps=1, batch=8), stage="talk")
    assert losses[-1].startswith("stage talk step 0 ")
    assert len(saved) == 3
    batch = next(batches)
    right, _ = loss_of(adapter, batch, autocast=False)
    batch.vision.copy_(batch.vision.roll(TOKENS, 0))
    wrong, _ = loss_of(adapter, batch, autocast=False)
    assert right < 0.5 * wrong


def test_every_weight_has_one_optimizer():
    """Matrices inside the layers are Muon's; a frozen weight belongs to nobody."""
    adapter = Model.from_pretrained(toy_checkpoint(), device="cpu").adapter
    adapter.model.requires_grad_(True).model.visual.merger.requires_grad_(False)
    layers = (*adapter._lm.layers, *adapter._visual.blocks)
    learned = [p for p in adapter.model.parameters() if p.requires_grad]
    optimizers = optimizers_of(learned, layers, 1e-3, 0.05)
    muon, adamw = ([p for group in o.param_groups for p in group["params"]] for o in optimizers)
    inside = [p for layer in layers for p in layer.parameters() if p.ndim == 2]
    assert {id(p) for p in inside} == {id(p) for p in muon}
    assert sorted(map(id, learned)) == sorted(id(p) for p in (*muon, *adamw))


def test_a_size_fits_the_games_and_is_found_again(tmp_path: Path):
    """Whole tokens, as near to the emulator's 210 x 160 as they come; the resize gives just that."""
    frame = ArcadeCourse.frame
    assert SmallVLM() == SmallVLM.tiled(40, 4, frame)
    for patch, merge, height, width in ((40, 4, 160, 160), (40, 2, 240, 160), (40, 1, 200, 160), (20, 4, 240, 160)):
        size = SmallVLM.tiled(patch, merge, frame)
        area = height * width
        assert (height, width) == (size.height, size.width)
        assert (height, width) == fit(
            *frame, PixelOptions(min_pixels=area, max_pixels=area * size.widest, patch=patch, merge=merge)
        )
        (tmp_path / "neverblink.json").write_text(json.dumps({"size": asdict(size), "name": "a"}))
        assert size == SmallVLM.of(tmp_path)
    with pytest.raises(ConfigError, match="does not divide a picture of 160 x 160; choose patch and merge so that 120"):
        SmallVLM(patch=40, merge=3)


def test_a_tower_of_many_small_patches_is_narrow_and_deep(tmp_path: Path):
    """Its merger is as large as the usual one's: that is most of what a tower weighs."""
    size = SmallVLM.tiled(20, 8, (160, 160))
    assert (64, 5, 4, 256) == (size.vision_hidden, size.vision_layers, size.vision_heads, size.vision_mlp)
    tokenizer = train_tokenizer(["the ball"] * 10, tmp_path, vocabulary=300)
    towers = [build(each, tokenizer).model.visual for each in (SmallVLM(), size)]
    usual, fine = ([p.numel() for p in tower.merger.mlp.parameters()] for tower in towers)
    assert usual == fine
    assert [0, 1, 2, 3, 4] == towers[1].config.fullatt_block_indexes


def test_windows_that_change_what_is_to_be_remembered_come_more_often():
    script = Script(Model.from_pretrained(toy_checkpoint(), device="cpu").adapter.tokenizer, ScriptOptions())
    scenes = [replace(scene, turns=(3,)) if n == 1 else scene for n, scene in enumerate(scenes_of(2, 9, HIDDEN))]
    windows = windows_of(scenes, script, (0.0, 1.0), WindowOptions(seconds=4, overlap=2, forget=0.0))
    times = {(n, start): TURN if n == 1 and start in (0, 2) else 1 for n in range(2) for start in (0, 2, 4)}
    assert times == Counter(windows.starts)


def test_what_no_picture_shows_is_asked_three_times_as_often():
    known = [Quiz("last", "seen?", "a.", 30), Quiz("where", "where?", "b.", 30), Quiz("made", "made?", "c.", 31)]
    rng = np.random.default_rng(0)
    drawn = Counter(_pick(known, 1, rng)[0].question for _ in range(4000))
    assert 2.7 < drawn["made?"] / drawn["seen?"] < 3.3
    assert 0.8 < drawn["where?"] / drawn["seen?"] < 1.25


def test_a_sport_is_learned_while_the_others_stay(tmp_path: Path):
    """Tokens of a sport that is kept stay nearly what they were; left alone they drift."""
    a_checkpoint(tmp_path)
    courses = courses_of(["pong", "boxing"], None)
    fields = fields_of([course.sport for course in courses])
    pairs = iter(Pairs(courses, adapter_of(tmp_path).pixels, 3, live=8, often=(1, 3)))
    batch = by_grid([next(pairs) for _ in range(32)])
    [(grid, patches, truth, _)] = batch
    assert 4 <= int((truth[:, 0] == 0).sum()) <= 12  # a quarter, as often says
    drifts = {}
    for keep in ((), (0,)):
        adapter = adapter_of(tmp_path)
        tower = adapter.model.model.visual
        values = normalise(patches.flatten(0, 1), adapter.pixels).unflatten(0, patches.shape[:2])
        before = adapter_of(tmp_path)
        lines: list[str] = []
        shares = look(adapter, repeat(batch), fields, 5.0, lines.append, lr=2e-3, steps=60, keep=keep, before=before)
        with torch.no_grad():
            past, now = (Glance(each, grid)(values) for each in (before.model.model.visual, tower))
        old = truth[:, 0] == 0
        drifts[keep] = float((now - past)[old].square().mean() / past[old].var())
        assert ("drift" in lines[-1]) == bool(keep)
        assert shares["white units"] > 0.5
        assert shares["there"] > 0.5  # of Pong: what is kept is named too
    assert drifts[(0,)] < 0.1 * drifts[()]


def test_a_tower_of_other_patches_is_asked_with_its_own(tmp_path: Path):
    """Tokens of patches of 20 pixels learn to be those of patches of 40, of the very same pictures; where a token shows
    another part of the picture that cannot be."""
    runs = [tmp_path / name for name in ("fine", "coarse", "parts")]
    for run, (patch, merge) in zip(runs, ((20, 8), (40, 4), (40, 2)), strict=True):
        run.mkdir()
        torch.manual_seed(0)
        size = replace(SmallVLM.tiled(patch, merge, ArcadeCourse.frame), layers=1, hidden=64, mlp=64)
        size = replace(size, vision_hidden=32, vision_layers=1, vision_mlp=48, vision_heads=2)
        size = replace(size, background=(patch / 100, 0.3, 0.1))  # each has pixels normalised its own way
        tokenizer = train_tokenizer(["the ball"] * 10, run, vocabulary=300)
        save(build(size, tokenizer), tokenizer, run, size, {})
    fine, coarse, parts = (adapter_of(run) for run in runs)
    course = ArcadeCourse("pong")
    pairs = [list(islice(Pairs([course], each.pixels, 3, live=4), 24)) for each in (fine, coarse)]
    batch, [(grid, expected, *_)] = by_grid(pairs[0]), by_grid(pairs[1])
    [(_, patches, *_)] = batch
    assert ((4, 4), (24, 64, 2400)) == (grid, patches.shape)
    fields = fields_of([course.sport])
    head = torch.nn.Linear(64, sum(classes for _, classes in fields))
    looked = Looks(fine, head, None, (0,), coarse)(batch)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        told, own = (
            Glance(each.model.model.visual, shape)(
                normalise(seen.flatten(0, 1), each.pixels, torch.bfloat16).unflatten(0, seen.shape[:2])
            ).float()
            for each, shape, seen in ((coarse, (4, 4), expected), (fine, (8, 8), patches))
        )
    assert looked.drift is not None
    assert looked.drift.item() == pytest.approx(((own - told).square().mean() / told.var()).item(), rel=1e-3)
    lines: list[str] = []
    look(fine, repeat(batch), fields, 5.0, lines.append, lr=2e-3, steps=51, keep=(0,), before=coarse)
    drifts = [float(line.split(" drift ")[1].split()[0]) for line in lines]
    assert drifts[1] < 0.5 * drifts[0]
    with pytest.raises(ConfigError, match="show 80 x 80 pixels, here they show 160 x 160; choose --patch"):
        look(fine, repeat(batch), fields, 5.0, lines.append, steps=1, keep=(0,), before=parts)


@pytest.mark.parametrize("other", [False, True])
def test_a_kept_sport_stays_like_the_run_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: bool):
    runs = [tmp_path / "run", tmp_path / "like"]
    for seed, run in enumerate(runs):
        run.mkdir()
        a_checkpoint(run, seed)
    seen = {}

    def looked(adapter: object, batches: object, fields: object, *rest: object) -> dict[str, float]:
        *_, seen["keep"], seen["before"], seen["new"], seen["kinds"] = rest
        seen["fields"] = fields
        return {"there": 1.0}

    monkeypatch.setattr("neverblink.training.arcade.look", looked)
    monkeypatch.setattr("neverblink.training.arcade.whiten", lambda *args: seen.update(beside=args[-1], fresh=args[2]))
    asked = Namespace(stage="see", sports=["pong", "boxing"], keep=["boxing"], like=runs[1] if other else None)
    asked.football, asked.seed, asked.batch, asked.workers, asked.device = None, 0, 4, 0, "cpu"
    asked.minutes, asked.lr, asked.steps = 1.0, 1e-3, 1
    # Without workers a loader has no batches to fetch ahead.
    monkeypatch.setattr("neverblink.training.arcade.DataLoader", lambda *args, **options: iter(()))
    see(runs[0], asked)
    weights = [adapter_of(run).model.model.visual.blocks[0].attn.qkv.weight for run in runs]
    assert [1] == seen["keep"] == seen["beside"]
    torch.testing.assert_close(seen["before"].model.model.visual.blocks[0].attn.qkv.weight, weights[other])
    assert not torch.equal(*weights)
    assert {"there": 1.0} == json.loads((runs[0] / "seen.json").read_text())
    assert list(range(len(seen["fields"]))) == seen["new"]  # no field was learned before
    see(runs[0], asked)
    names = [name for name, _ in seen["fields"]]
    assert [i for i, name in enumerate(names) if name != "there"] == seen["new"]
    if other:  # what the named run knows is taken over, but the tower of this one is new as long as it knows nothing
        (runs[0] / "seen.json").rename(runs[1] / "seen.json")
        see(runs[0], asked)
        assert [i for i, name in enumerate(names) if name != "there"] == seen["new"]
        assert seen["fresh"]


def test_a_new_field_of_a_kept_sport_is_learned(tmp_path: Path):
    """That it is not named counts much more than for what is known."""
    a_checkpoint(tmp_path)
    courses = courses_of(["pong"], None)
    fields = fields_of([course.sport for course in courses])
    pairs = iter(Pairs(courses, adapter_of(tmp_path).pixels, 3, live=8))
    batch = by_grid([next(pairs) for _ in range(32)])
    losses = []
    for new in ((), (fields.index(("left score", 22)),)):
        torch.manual_seed(1)
        adapter = adapter_of(tmp_path)
        lines: list[str] = []
        before = adapter_of(tmp_path)
        look(adapter, repeat(batch), fields, 5.0, lines.append, steps=1, keep=(0,), before=before, new=new)
        losses.append(float(lines[0].split(" loss ")[1].split()[0]))
    assert losses[1] > 1.5 * losses[0]


def a_print(pairs: int, seed: int) -> Group:
    """In a corner of the second of four patches a faint stroke of six pixels, in one of three places. The other patches
    are loud noise in the first half of each stroke."""
    dice = torch.Generator().manual_seed(seed)
    patches = torch.randint(126, 131, (pairs, 4, 9_600), generator=dice, dtype=torch.uint8)
    loud = torch.arange(9_600) % 20 < 3
    patches[..., loud] = torch.randint(0, 256, (pairs, 4, int(loud.sum())), generator=dice, dtype=torch.uint8)
    told = torch.randint(3, (pairs, 1), generator=dice)
    patches[:, 1, :60] = torch.randint(126, 131, (pairs, 60), generator=dice, dtype=torch.uint8)
    for i, place in enumerate(told[:, 0].tolist()):
        patches[i, 1, 20 * place : 20 * place + 6] += torch.randint(4, 9, (6,), generator=dice, dtype=torch.uint8)
    return (2, 2), patches, torch.cat([torch.zeros_like(told), told], 1), torch.zeros(pairs, 4, 16, 0)


def test_small_print_is_read_in_directions_of_its_own(tmp_path: Path):
    """What a stroke of six pixels says is plain along them, and they answer less to what is no print."""
    where = torch.zeros(4, 9_600, dtype=torch.bool)
    where[1, :60] = True
    a_checkpoint(tmp_path)
    adapter = adapter_of(tmp_path)
    proj = adapter.model.model.visual.patch_embed.proj
    before = proj.weight.detach().clone()
    batches = ([a_print(100, seed)] for seed in count())
    letter(adapter, [directions_of(adapter, batches, Print((2, 2), where, [1]), read=2_000)])
    assert torch.equal(before, proj.weight)  # nothing is read yet
    rows = proj.parametrizations.weight[0].rows
    assert (3, 9_600) == rows.shape
    assert not rows[:, 60:].any()
    _, patches, truth, _ = a_print(500, 1_000_000)
    said = normalise(patches.flatten(0, 1), adapter.pixels).unflatten(0, (500, 4)) @ rows.T  # [pairs, 4, 3]
    assert ((said[:, 1] - said[:, 1].mean(0)).argmax(-1) == truth[:, 1]).float().mean() > 0.95
    assert 0.8 * LOUD < said[:, 1].std(0).mean() < 1.2 * LOUD
    noise = said[:, [0, 2, 3]].flatten(0, 1).std(0).mean()
    own = normalise(patches[:, 1], adapter.pixels)[:, :60]
    plain = letters(own, own, truth[:, 1:])
    alone = (normalise(patches[:, 0], adapter.pixels)[:, :60] @ plain.T).std(0).mean()
    assert noise < 0.5 * alone
    with torch.no_grad():
        proj.parametrizations.weight.original[5, 2] = 1.0
    assert not torch.equal(before[5], proj.weight[5])
    assert torch.equal(before[6], proj.weight[6])


def test_several_runs_are_exported_as_the_mean_of_their_weights(tmp_path: Path):
    size = SmallVLM(layers=1, hidden=64, vision_hidden=96, vision_layers=1, vision_mlp=96, mlp=64)
    runs = [tmp_path / name for name in "abc"]
    for seed, run in enumerate(runs):
        torch.manual_seed(seed)
        run.mkdir()
        tokenizer = train_tokenizer(["the ball"] * 10, run, vocabulary=300)
        shape = size if seed < 2 else replace(size, mlp=32)
        save(build(shape, tokenizer), tokenizer, run, shape, {"training": {"mean_of": [{}], "last_log_line": {}}})
        (run / "log.jsonl").write_text(f'{{"step": 1}}\n{{"step": {seed + 7}}}\n')
    export(runs[:2], tmp_path / "to")
    found, *parts = (dict(adapter_of(run).model.named_parameters()) for run in (tmp_path / "to", *runs[:2]))
    for name, weight in found.items():
        mean = (parts[0][name] + parts[1][name]) / 2
        torch.testing.assert_close(weight, mean.bfloat16().float(), rtol=0, atol=0)
    told = json.loads((tmp_path / "to" / "neverblink.json").read_text())["training"]
    assert {"mean_of": [{"step": 7}, {"step": 8}]} == told
    config = json.loads((tmp_path / "to" / "config.json").read_text())
    assert {"bfloat16"} == {part["dtype"] for part in (config, config["text_config"], config["vision_config"])}
    export(runs[:1], tmp_path / "to")
    told = json.loads((tmp_path / "to" / "neverblink.json").read_text())["training"]
    assert {"last_log_line": {"step": 7}} == told
    assert set() == known_fields(runs[0]) == known_fields(tmp_path / "to")
    (runs[0] / "seen.json").write_text('{"there": 0.9, "ball x": 0.5}')
    export(runs[:1], tmp_path / "to")
    assert {"there", "ball x"} == known_fields(runs[0]) == known_fields(tmp_path / "to")
    with pytest.raises(ConfigError, match=r"\(64, 64\) in .*a and \(32, 64\) in .*c: no mean"):
        export([runs[0], runs[2], runs[1]], tmp_path / "to")


def test_fields_are_shared_by_name_and_size():
    twin = replace(PONG, name="b", fields={"x": 20, "left": 3})
    assert fields_of([PONG, twin]) == [("sport", 2), *PONG.fields.items(), ("left", 3)]


def test_what_is_rarely_asked_counts_as_much_as_what_is_always_asked():
    """97 of 100 pairs without a restart are told right, a free kick in 1 of 3, and nothing has a throw-in."""
    shares = Shares([("restart", 3), ("side", 2), ("never", 4)])
    truth = torch.full((100, 3), -1)
    truth[:, 0], truth[97:, 0], truth[:50, 1] = 0, 1, 1
    told = torch.zeros(100, 3)
    told[:, 0], told[99, 1] = 1.0, 2.0
    logits = told, torch.tensor([0.0, 1.0]).expand(100, -1), torch.zeros(100, 4)
    for _ in range(2):
        shares.add(logits, truth)
        assert shares() == pytest.approx({"restart": (1 + 1 / 3) / 2, "side": 1.0, "never": 0.0})
    truth[:, 0] = -1
    truth[0, 0] = 1  # and now a free kick that is missed: 2 x 0.9 + 1 of them, of each of which 1 in 3 was right
    for _ in range(50):  # kinds that are not shown keep what was seen of them
        shares.add([rows[1:] for rows in logits], truth[1:])
    shares.add(logits, truth)
    rights, pairs = 1 + LATELY, 3 + 3 * LATELY
    assert shares()["restart"] == pytest.approx((1 + LATELY * rights / (LATELY * pairs + 1)) / 2)


@pytest.mark.parametrize(("merge", "steps"), [(4, 60), (2, 100)])
def test_the_tower_learns_to_name_the_state(tmp_path: Path, merge: int, steps: int):
    """Some steps on the same 24 pairs: a new tower reads their scores, and only the tower has changed. By one token a
    picture, and by six."""
    torch.manual_seed(0)
    whole = SmallVLM.tiled(40, merge, ArcadeCourse.frame)
    size = replace(whole, layers=1, hidden=64, vision_hidden=96, vision_layers=1, vision_mlp=96, mlp=64)
    tokenizer = train_tokenizer(["the ball"] * 10, tmp_path, vocabulary=300)
    save(build(size, tokenizer), tokenizer, tmp_path, size, {})
    adapter = adapter_of(tmp_path)
    before = {name: value.clone() for name, value in adapter.model.named_parameters()}
    pairs = iter(Pairs([ArcadeCourse("pong")], adapter.pixels, 3, live=8))
    batch = by_grid([next(pairs) for _ in range(24)])
    lines: list[str] = []
    shares = look(adapter, repeat(batch), fields_of([PONG]), 5.0, lines.append, lr=2e-3, steps=steps)
    assert lines[0].startswith("see step 0 ")
    assert min(shares["left score"], shares["right score"]) > 0.8
    for name, value in adapter.model.named_parameters():
        assert torch.equal(before[name], value) == (not name.startswith("model.visual")), name


@pytest.mark.parametrize("fresh", [True, False])
def test_a_tower_that_goes_on_sees_what_it_saw(tmp_path: Path, fresh: bool):
    """Learning along the directions of real patches begins at what the weights are; a fresh start forgets them."""
    a_checkpoint(tmp_path)
    adapter = adapter_of(tmp_path)
    proj = adapter.model.model.visual.patch_embed.proj
    pairs = iter(Pairs([ArcadeCourse("pong")], adapter.pixels, 3, live=4))
    batch = by_grid([next(pairs) for _ in range(24)])
    [(_, patches, _, _)] = batch
    patches = normalise(patches.flatten(0, 1), adapter.pixels)
    kept = proj.weight.detach().clone()
    whiten(adapter, repeat(batch), fresh, seen=24 * 16, rank=300)
    assert torch.equal(kept, proj.weight) != fresh
    before, after = (patches @ weight.detach().flatten(1).T for weight in (kept, proj.weight))
    assert fresh == bool((after - before).norm() > 0.5 * before.norm())


def test_what_is_learned_of_one_sport_is_hardly_seen_in_another(tmp_path: Path):
    """Directions at right angles to those of the sport that is kept: any step along them changes its patches less."""
    a_checkpoint(tmp_path)
    courses = courses_of(["pong", "boxing"], None)
    pairs = iter(Pairs(courses, adapter_of(tmp_path).pixels, 3, live=8))
    batch = by_grid([next(pairs) for _ in range(48)])
    [(_, patches, truth, _)] = batch
    change = {}
    for kept in ((), (0,)):
        torch.manual_seed(1)
        adapter = adapter_of(tmp_path)
        proj = adapter.model.model.visual.patch_embed.proj
        before = proj.weight.detach().clone()
        whiten(adapter, repeat(batch), False, kept=kept, seen=16 * 16, rank=60, stays=60)
        inner = proj.parametrizations.weight.original
        torch.nn.init.normal_(inner)
        step = (proj.weight.detach() - before).flatten(1)
        values = normalise(patches.flatten(0, 1), adapter.pixels).unflatten(0, patches.shape[:2])
        pong, boxing = ((values[truth[:, 0] == sport] @ step.T).square().mean() for sport in (0, 1))
        change[kept] = float(pong / boxing)
    assert change[(0,)] < 0.1 * change[()]
    adapter = adapter_of(tmp_path)
    whiten(adapter, repeat(batch), False, kept=(0, 1), seen=16 * 16, rank=60)  # there are no others
    assert adapter.model.model.visual.patch_embed.proj.parametrizations.weight[0].rows.norm() > 0
