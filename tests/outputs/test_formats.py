"""What stands in the files: escaped, silent where the model was, and readable by others."""

import html
import json
import re
from pathlib import Path

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neverblink.outputs import OUTPUTS
from neverblink.outputs.base import Recorder, clock, plain
from neverblink.outputs.jsonl import Jsonl
from neverblink.outputs.srt import Srt
from neverblink.outputs.vtt import Vtt, escape
from neverblink.testing import check_output_contract, make_caption

CUE = re.compile(r"(\d\d+:\d\d:\d\d[.,]\d{3}) --> (\d\d+:\d\d:\d\d[.,]\d{3})\n([^\n]+)\n\n")


def vtt_texts(path: Path) -> list[str]:
    body = path.read_text().removeprefix("WEBVTT\n\n")
    assert "" == CUE.sub("", body).strip(), "something in the file is no cue"
    return [html.unescape(text) for _, _, text in CUE.findall(body)]


def srt_texts(path: Path) -> list[str]:
    body = path.read_text()
    cues = re.findall(r"(\d+)\n" + CUE.pattern, body)
    assert [str(i + 1) for i in range(len(cues))] == [cue[0] for cue in cues], "cues are numbered from 1"
    assert "" == re.sub(r"\d+\n" + CUE.pattern, "", body).strip(), "something in the file is no cue"
    return [cue[3] for cue in cues]


def jsonl_texts(path: Path) -> list[str]:
    events = [json.loads(line) for line in path.read_text().splitlines()]
    return [event["text"] for event in events if event["type"] == "caption"]


def written(output_class: type, path: Path, *captions: object) -> str:
    recorder = Recorder("scripted", now=lambda: 1.5)
    with output_class(path) as output:
        for caption in captions:
            for event in recorder.caption(caption):
                output.write(event)
    return path.read_text()


@pytest.mark.parametrize(("name", "read"), [("vtt", vtt_texts), ("srt", srt_texts), ("jsonl", jsonl_texts)])
def test_contract(tmp_path: Path, name: str, read: object) -> None:
    """Each file format keeps the contract for hostile text, and is complete before it is closed."""
    path = tmp_path / f"captions.{name}"
    check_output_contract(lambda: OUTPUTS[name](path), lambda: read(path))


def test_vtt_file_to_the_byte(tmp_path: Path) -> None:
    text = written(Vtt, tmp_path / "a.vtt", make_caption(3661.25, "1 < 2 --> <b>"))
    assert text == "WEBVTT\n\n01:01:01.250 --> 01:01:02.250\n1 &lt; 2 --&gt; &lt;b&gt;\n\n"


def test_srt_file_to_the_byte(tmp_path: Path) -> None:
    text = written(Srt, tmp_path / "a.srt", make_caption(0, "a"), make_caption(1, ""), make_caption(2, "<i>{\\an8}b"))
    assert text == "1\n00:00:00,000 --> 00:00:01,000\na\n\n2\n00:00:02,000 --> 00:00:03,000\n‹i›❴\\an8❵b\n\n"


def test_jsonl_has_the_promised_fields_in_order(tmp_path: Path) -> None:
    text = written(Jsonl, tmp_path / "a.jsonl", make_caption(1.0, "a"), make_caption(2.0, ""))
    first, second = (json.loads(line) for line in text.splitlines())
    fields = (
        "seq stream_id t_start t_end wall_time type text model latency_ms tokens kv_tokens frames_used frames_dropped "
        "frames_skipped"
    )
    assert fields.split() == list(first)
    assert (0, "main", 1.0, 2.0, 1.5, "caption", "a", "scripted", 30.0, 4, 256, 2, 0, 0) == tuple(first.values())
    assert (1, "silence", "") == (second["seq"], second["type"], second["text"])


def test_silence_writes_no_cue(tmp_path: Path) -> None:
    """A second in which the model stays silent leaves no line in the subtitle files."""
    assert written(Vtt, tmp_path / "a.vtt", make_caption(0, "")) == "WEBVTT\n\n"
    assert written(Srt, tmp_path / "a.srt", make_caption(0, "")) == ""


def test_an_answer_follows_its_caption(tmp_path: Path) -> None:
    caption = make_caption(4, "a", question="Who leads?", answer="Left.", seconds={"speak": 0.1, "answer": 0.25})
    events = Recorder("scripted").caption(caption)
    expected = [("caption", "a", 0), ("question", "Who leads?", 1), ("answer", "Left.", 2)]
    assert expected == [(e.type, e.text, e.seq) for e in events]
    assert events[2].latency_ms == 250
    assert vtt_texts_of(tmp_path, caption) == ["a", "Left."]


def test_a_question_that_failed_is_told_behind_its_caption() -> None:
    events = Recorder("scripted").caption(make_caption(4, "a", question="Who leads?", unanswered="Gone: x"))
    expected = [("caption", "a", 5.0), ("question", "Who leads?", 5.0), ("error", "no answer: Gone: x", 5.0)]
    assert expected == [(e.type, e.text, e.t_end) for e in events]


def vtt_texts_of(folder: Path, *captions: object) -> list[str]:
    written(Vtt, folder / "a.vtt", *captions)
    return vtt_texts(folder / "a.vtt")


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "00:00:00.000"),
        (59.9996, "00:01:00.000"),  # rounded as a whole, never 00:00:59.1000
        (3599.9994, "00:59:59.999"),
        (360_000, "100:00:00.000"),
        (-1, "00:00:00.000"),
    ],
)
def test_clock(seconds: float, expected: str) -> None:
    assert clock(seconds, fraction=".") == expected


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 3)), max_size=20))
def test_cue_times_never_go_back(times: list[tuple[float, float]]) -> None:
    """Whatever the clock of the source does, cues start in order and last at least a millisecond."""
    output = Vtt("unused.vtt")
    recorder = Recorder("scripted")
    last = 0
    for start, length in times:
        for event in recorder.caption(make_caption(start, "a", end=start + length)):
            begin, end = (milliseconds(t) for t in re.findall(r"[\d:.]{12,}", output.record(event)))
            assert last <= begin < end
            last = begin


def milliseconds(text: str) -> int:
    hours, minutes, rest = text.split(":")
    return round((int(hours) * 3600 + int(minutes) * 60) * 1000 + float(rest) * 1000)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x9b1;31mred", "red"),
        ("\x1b]8;;http://x\x07link\x1b]8;;\x1b\\", "link"),
        ("\x1b]0;title", ""),
        ("a\r\n\tb\x00c", "a bc"),
        ("\u202eabc", "abc"),
        ("\ud800x", "x"),
        ("👩\u200d🔬", "👩\u200d🔬"),  # the joiner inside an emoji is text
    ],
)
def test_plain(text: str, expected: str) -> None:
    """Escape sequences go as a whole: no rest such as "[31m" stays."""
    assert plain(text) == expected


def test_what_looks_escaped_already_is_shown_as_it_was_said() -> None:
    assert escape("&lt;b> & &amp;") == "&amp;lt;b&gt; &amp; &amp;amp;"


@given(st.text())
def test_escaped_text_is_one_line_and_safe(text: str) -> None:
    """Any text at all: no line break, no control character, no markup, nothing that starts a cue; and it is stable."""
    shown = plain(text)
    assert shown == plain(shown)
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]", shown)
    assert shown.encode().decode() == shown
    assert not re.search(r"[<>]|-->", escape(text))
    assert html.escape(shown, quote=False) == escape(text)


@pytest.mark.parametrize("name", ["vtt", "srt"])
def test_ffmpeg_reads_the_files(tmp_path: Path, name: str) -> None:
    """The players' own parser finds the same cues."""
    path = tmp_path / f"a.{name}"
    written(OUTPUTS[name], path, *(make_caption(t, f"second {t} --> <b>x</b>") for t in range(200)))
    with av.open(str(path)) as container:
        starts = [packet.pts for packet in container.demux() if packet.pts is not None]
    assert len(starts) == 200
    assert starts == sorted(starts)
