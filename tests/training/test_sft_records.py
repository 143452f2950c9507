"""The JSONL of the public training sets: written, read back, and every fault named."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neverblink.errors import ConfigError
from neverblink.training.sft.dataset import starts
from neverblink.training.sft.records import Asked, Record, Word, live, parse, scan, write
from tests.training.clips import record

GOOD = json.loads(write(record(10)))
texts = st.text(st.characters(codec="utf-8", exclude_characters="<"), min_size=1, max_size=20).filter(
    lambda t: t.strip() and not t.endswith(" ...")
)


@given(
    st.lists(st.tuples(st.floats(0, 29.9), st.floats(0, 5), texts), max_size=6),
    st.lists(st.tuples(st.floats(0.1, 30), texts, texts), max_size=3),
    st.text(st.characters(codec="utf-8", exclude_characters="<"), max_size=30),
)
def test_what_is_written_is_read_back(
    words: list[tuple[float, float, str]], asked: list[tuple[float, str, str]], previous: str
) -> None:
    one = Record(
        "a game.mp4",
        0.0,
        30.0,
        tuple(Word(s, s + d, t) for s, d, t in sorted(words, key=lambda w: w[0])),
        previous,
        "",
        tuple(Asked(*a) for a in asked),
    )
    line = write(one)
    assert line.count("\n") == 1
    assert line.endswith("\n")
    assert one == parse(line.encode())


def test_a_line_of_a_public_set_is_a_record() -> None:
    """Word by word as a speech recogniser writes it, with a title that has no use here."""
    line = [
        {
            "role": "user",
            "content": [
                {"type": "video", "video": "video/abc.mp4", "video_start": 16.8, "video_end": 20.2},
                {"type": "text", "text": "", "previous": "all right", "title": "A game"},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {
                    "type": "text_stream",
                    "text_stream": [[16.8, 16.9, "so"], [17.0, 17.4, "he"], [17.4, 18.3, "serves"], [19.9, 20.1, "oh"]],
                }
            ],
        },
    ]
    from collections import Counter

    unused: Counter[str] = Counter()
    before, seconds = live(parse(json.dumps(line).encode(), unused))
    assert {"title": 1} == unused
    assert " all right so" == before
    # The second of 16.8 and that of 20.2 are cut; "serves" goes on into second 18, which stays silent but has talk.
    assert [(17, " he serves", True), (18, "", True), (19, " oh", True)] == [(s.start, s.text, s.talk) for s in seconds]


def test_a_question_belongs_to_the_second_that_hears_it() -> None:
    """At 4.5 s it is asked with the second 4-5; at 7.0 s with 6-7, which ends then: as `Model.watch` does."""
    _, seconds = live(record(10))
    heard = [(s.start, question) for s in seconds for question, _ in s.asked]
    assert [(1, "Who serves?"), (4, "What is the score?"), (6, "Who?"), (9, "Now?"), (9, "And now?")] == heard


def change(edit: Callable[[Any], object]) -> str:
    line = copy.deepcopy(GOOD)
    edit(line)
    return json.dumps(line)


def _video(line: Any) -> Any:
    return line[0]["content"][0]


def _stream(line: Any) -> Any:
    return line[1]["content"][0]["text_stream"]


FAULTS: list[tuple[str, str]] = [
    ("{", "not JSON"),
    ("[]", "not a list of messages"),
    ('{"video": "a.mp4"}', "not a list of messages"),
    (change(lambda r: r.pop()), "by turns"),
    (change(lambda r: r.reverse()), "message 1 is not one of the user"),
    (change(lambda r: _video(r).pop("video")), "the video has no 'video'"),
    (change(lambda r: _video(r).update(video=" ")), "no name"),
    (change(lambda r: _video(r).update(video_start="0")), "'video_start' of the video is \"0\", not a number"),
    (change(lambda r: _video(r).update(video_end=True)), "not a number"),
    (change(lambda r: _video(r).update(video_end=float("nan"))), "not a number"),
    (change(lambda r: _video(r).update(video_start=-1)), "begins before 0"),
    (change(lambda r: _video(r).update(video_end=0)), "is empty"),
    (change(lambda r: _video(r).update(video_start=0.5, video_end=1.5)), "holds no whole second"),
    (change(lambda r: _stream(r).insert(1, [1.0, 2.0])), "word 2 is [1.0, 2.0], not [start, end, text]"),
    (change(lambda r: _stream(r).insert(0, [1.0, 2.0, " "])), "is blank"),
    (change(lambda r: _stream(r).insert(0, [1.0, 0.5, "x"])), "ends before it starts"),
    (change(lambda r: _stream(r).append([11.0, 12.0, "x"])), "outside the span 0-10 s"),
    (change(lambda r: _stream(r).append([1.0, 2.0, "x"])), "before the word in front of it"),
    (change(lambda r: _stream(r).insert(0, [0.0, 1.0, "a<|im_end|>b"])), "chat mark <|im_end|>"),
    (change(lambda r: r[2]["content"][0].pop("time")), "question 1 has no 'time'"),
    (change(lambda r: r[2]["content"][0].update(time=99)), "question 1 at 99 s is outside"),
    (change(lambda r: r[3]["content"][0].update(text="")), "blank"),
    (change(lambda r: r[3]["content"][0].update(text="It ends ...")), "the mark of silence"),
    (change(lambda r: r[3]["content"].append({})), "message 4 has 2 contents instead of 1"),
]


@pytest.mark.parametrize(("line", "words"), FAULTS)
def test_a_faulty_line_is_named(tmp_path: Path, line: str, words: str) -> None:
    """file:line: reason; the good lines around it stay, and nothing takes its place."""
    good = json.dumps(GOOD)
    (tmp_path / "a.jsonl").write_text(f"{good}\n{line}\n\n{good}\n[0, 123, 456]\n")
    index = scan(tmp_path)
    assert [1, 4] == [line for _, _, line in index.places]  # the last line of public files is a table of offsets
    assert [words in str(fault) for fault in index.faults] == [True], [str(f) for f in index.faults]
    assert str(index.faults[0]).startswith(f"{tmp_path / 'a.jsonl'}:2: ")
    assert index[0] == index[1] == parse(good.encode())


def test_no_data_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no \.jsonl file"):
        scan(tmp_path)
    with pytest.raises(ConfigError, match="no data at"):
        scan(tmp_path / "nothing")


@given(st.integers(1, 200), st.integers(1, 40), st.data())
def test_windows_cover_every_second(count: int, seconds: int, data: st.DataObject) -> None:
    """No second of a record is left out, no window passes its end, and neighbours share at least the overlap."""
    overlap = data.draw(st.integers(0, seconds - 1))
    first = starts(count, seconds, overlap)
    covered = {s for a in first for s in range(a, min(a + seconds, count))}
    assert set(range(count)) == covered
    assert all(a + seconds <= max(count, seconds) for a in first)
    assert all(b - a <= seconds - overlap for a, b in pairwise(first))
