"""The journal keeps what it was given, finds it again, and lets go of the oldest first."""

import json
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from neverblink.cli import main
from neverblink.errors import ConfigError, SourceRefused
from neverblink.memory.journal import Journal, StreamRecord, default_path, fts_query
from neverblink.memory.output import JournalOutput
from neverblink.memory.recall import recall
from neverblink.outputs.base import Recorder
from neverblink.pictures import from_bytes, to_jpeg
from neverblink.testing import check_output_contract, make_caption

LINES = [
    "Left serves.",
    "",
    "Right scores: 0-1.",
    "A long rally goes on.",
    "Left scores: 1-1.",
    "Match point for Left.",
]
PICTURE = np.arange(48 * 64 * 3, dtype=np.uint8).reshape(48, 64, 3)


def told(journal: Journal, lines: list[str] = LINES, stream_id: str = "a", wall: float = 1000.0) -> Recorder:
    clock = iter(np.arange(wall, wall + 1e6).tolist())
    recorder = Recorder("m", stream_id, now=lambda: next(clock), first=journal.last_seq(stream_id) + 1)
    for second, text in enumerate(lines):
        for event in recorder.caption(make_caption(second, text)):
            journal.add(event, b"jpeg" if text else None)
    return recorder


def texts(entries: list) -> list[str]:
    return [entry.event.text for entry in entries]


def test_what_went_in_comes_out(tmp_path: Path) -> None:
    """Every field of every event, its picture, and the numbers of the next run behind those of the last."""
    with Journal(tmp_path / "j.db") as journal:
        told(journal)
        event = Recorder("m", "a", now=lambda: 5.0, first=99).note("question", "half \ud800 a pair", 3.0)
        row = journal.add(event)
        assert journal.events("a")[-1] == (row, journal.events("a")[-1].event, False)
        assert journal.events("a")[-1].event.text == "half ? a pair"
    with Journal(tmp_path / "j.db", read_only=True) as journal:
        entries = journal.events("a")
        assert [*LINES, "half ? a pair"] == texts(entries)
        assert [0, 1, 2, 3, 4, 5, 99] == [entry.event.seq for entry in entries]
        assert entries[2].event == next(
            e for e in Recorder("m", "a", now=lambda: 1002.0, first=2).caption(make_caption(2, LINES[2]))
        )
        assert [True, False] == [entry.has_picture for entry in entries[:2]]
        assert (b"jpeg", None) == (journal.picture(entries[0].row), journal.picture(entries[1].row))
        assert (99, 0, -1, 6.0) == (
            journal.last_seq("a"),
            journal.first_seq("a"),
            journal.last_seq("b"),
            journal.last_second("a"),
        )
        assert [2, 3] == [e.event.seq for e in journal.events("a", after_seq=1, limit=2)]
        assert ["Match point for Left.", "half ? a pair"] == texts(journal.events(newest=True, limit=2))
        assert 1 == len(journal.events(types=["silence"]))


def test_a_sequence_number_is_taken_once(tmp_path: Path) -> None:
    """A second event of the same number would be a caption twice for whoever reconnects."""
    with Journal(tmp_path / "j.db") as journal:
        event = told(journal).note("gap", "x", 0.0)
        journal.add(event)
        with pytest.raises(sqlite3.IntegrityError):
            journal.add(event)
        assert len(LINES) + 1 == len(journal.events())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("who scored", ["Left scores: 1-1.", "Right scores: 0-1."]),
        ("scored for the right", ["Right scores: 0-1.", "Left scores: 1-1."]),
        ("0-1", ["Right scores: 0-1."]),
        ('"match point"', ["Match point for Left."]),
        ('"point match"', []),
        ("RALLY", ["A long rally goes on."]),
        ("who", []),
        ("", []),
        ("\" OR text:* NEAR( -- ; ' ) {", []),
    ],
)
def test_search_takes_plain_words(tmp_path: Path, words: str, expected: list[str]) -> None:
    with Journal(tmp_path / "j.db") as journal:
        told(journal)
        told(journal, ["Left scores: 5-5."], stream_id="b")
        assert expected == texts(journal.search(words, "a"))


def test_a_word_may_be_half_typed() -> None:
    assert '"long"*' == fts_query("a long", prefix=True)
    assert '"long"' == fts_query("long ", prefix=True), "a blank ends the word"


def test_the_oldest_lines_go_first_by_age_and_by_size(tmp_path: Path) -> None:
    now = [1000.0]
    with Journal(tmp_path / "j.db", keep_days=1, now=lambda: now[0]) as journal:
        told(journal, wall=0.0)
        now[0] = 86400 + 2.5
        assert 3 == journal.prune()
        assert LINES[3:] == texts(journal.events())
        assert [] == journal.search("serves")
        assert LINES[4:5] == texts(journal.search("scores"))
        assert [None, b"jpeg"] == [journal.picture(row) for row in (1, 4)]
        journal.keep_days, journal.keep_mb = None, 0.5
        recorder = Recorder("m", "big")
        for second in range(1600):
            for event in recorder.caption(make_caption(second, f"word{second}")):
                journal.add(event, b"x" * 1000)
        journal.prune()
        assert 100 < len(journal.events())
        assert journal.nbytes <= 0.5 * 2**20
        assert "word1599" == journal.events(newest=True, limit=1)[0].event.text
        assert [] == journal.search("word1")
    assert (tmp_path / "j.db").stat().st_size < 1.2 * 2**20


def test_a_killed_writer_leaves_a_whole_journal(tmp_path: Path) -> None:
    """kill -9 in the middle of writing: every event that `add` has returned for is there, and the file is sound."""
    code = (
        "import sys\nfrom neverblink.memory.journal import Journal\nfrom neverblink.outputs.base import Recorder\n"
        "journal, recorder = Journal(sys.argv[1]), Recorder('m', 'a')\n"
        "while True:\n  seq = journal.add(recorder.note('gap', 'x' * 300, 0.0), b'y' * 3000)\n  print(seq, flush=True)"
    )
    for run in range(3):
        path = tmp_path / f"{run}.db"
        child = subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        confirmed = [int(child.stdout.readline()) for _ in range(20 + 17 * run)]
        child.send_signal(signal.SIGKILL)
        confirmed += [int(line) for line in child.stdout.read().splitlines()]
        child.wait()
        with Journal(path) as journal:
            assert "ok" == journal._one("PRAGMA integrity_check")
            assert confirmed == [entry.row for entry in journal.events(limit=10**6)][: len(confirmed)]


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a database" * 100)
    sqlite3.connect(tmp_path / "other.db").executescript("CREATE TABLE t (x); PRAGMA user_version = 7")
    for name, words in (("text", "cannot open"), ("other.db", "no neverblink journal of version 1 (found 7)")):
        with pytest.raises(ConfigError, match=words.replace("(", r"\(").replace(")", r"\)")):
            Journal(tmp_path / name)
    with pytest.raises(ConfigError, match="no journal at"):
        Journal(tmp_path / "none.db", read_only=True)
    assert not (tmp_path / "none.db").exists()
    with pytest.raises(ConfigError, match="keep_days is 0"):
        Journal(tmp_path / "j.db", keep_days=0)


def test_streams_are_remembered(tmp_path: Path) -> None:
    with Journal(tmp_path / "j.db") as journal:
        journal.put_stream(StreamRecord("a", 1.0, {"name": "x"}))
        journal.put_stream(StreamRecord("a", 9.0, {"name": "y"}))
        assert [StreamRecord("a", 1.0, {"name": "y"})] == journal.streams()


def test_recall_puts_what_fits_in_front_of_the_question(tmp_path: Path) -> None:
    with Journal(tmp_path / "j.db") as journal:
        told(journal, [*LINES, "Left scores: 1-1.", "Right scores: 1-2."])
        recalled = recall(journal, "a", "Who scored?", fits=lambda words: words.count("\n") <= 3)
        assert recalled.words.startswith("previous text\n00:00:06 Left scores: 1-1.\n"), "said twice: the newer one"
        assert 2 == len(recalled.entries) == recalled.words.count("\n") - 1
        assert recalled.words.endswith("\nWho scored?")
        assert recalled.citation == " ".join(f"[00:00:0{e.event.t_start:.0f}]" for e in recalled.entries)
        whole = recall(journal, "a", "Who scored?", fits=lambda words: True)
        assert ["Right scores: 0-1.", "Left scores: 1-1.", "Right scores: 1-2."] == texts(whole.entries), (
            "each text once"
        )
        nothing = recall(journal, "a", "Who scored?", fits=lambda words: False)
        assert ("Who scored?", [], "") == (nothing.words, nothing.entries, nothing.citation)


def test_a_line_that_the_question_quotes_comes_alone(tmp_path: Path) -> None:
    """A score is more than its figures: "1 to 12" holds those of "12 to 1" too. Words alone are no quotation."""
    lines = ["Left scores, 1 to 12.", "Left scores, 12 to 1.", "Right made it 2 to 1.", "Right scores, 12 to 1."]
    with Journal(tmp_path / "j.db") as journal:
        told(journal, [*lines, "Right have had most in the last minute."])

        def found(question: str) -> list[str]:
            return texts(recall(journal, "a", question, fits=lambda words: True).entries)

        assert [lines[1], lines[3]] == found("Who made it 12 to 1?")
        assert lines[:3] == [text for text in found("Who made it 12 to 2?") if text in lines[:3]]  # quoted nowhere
        assert lines[2] in found("How many points were made in the last minute?")


def test_the_output_keeps_the_contract(tmp_path: Path) -> None:
    def read() -> list[str]:
        with Journal(tmp_path / "j.db", read_only=True) as journal:
            types = ("caption", "answer", "alert")
            from neverblink.outputs.base import plain

            return [plain(text) for text in texts(journal.events(types=types))]

    check_output_contract(lambda: JournalOutput(tmp_path / "j.db"), read)


def test_the_output_keeps_a_picture_of_what_was_seen(tmp_path: Path) -> None:
    with JournalOutput(tmp_path / "j.db") as output:
        recorder = Recorder("m", output.begin("arcade:pong", 5.0))
        output.see(np.full((480, 640, 3), 200, np.uint8))
        for event in recorder.caption(make_caption(0, "a")):
            output.write(event)
        assert "watch-2" == output.begin("again", 6.0)
    with Journal(tmp_path / "j.db") as journal:
        (entry,) = journal.events("watch-1")
        jpeg = journal.picture(entry.row)
        assert jpeg is not None
        assert (120, 160, 3) == from_bytes(jpeg).shape
        assert abs(int(from_bytes(jpeg).mean()) - 200) <= 2


def test_pictures_of_strangers_are_checked() -> None:
    good = to_jpeg(PICTURE)
    assert PICTURE.shape == from_bytes(good).shape
    assert np.abs(from_bytes(to_jpeg(np.full((9, 9, 3), 77, np.uint8))).astype(int) - 77).max() <= 3
    for bad in (b"", b"GIF89a" + bytes(50), good[:100], b"<svg/>"):
        with pytest.raises(SourceRefused):
            from_bytes(bad)
    bomb = good.replace(b"\xff\xc0\x00\x11\x08\x00\x30\x00\x40", b"\xff\xc0\x00\x11\x08\x0f\xa0\x0f\xa0")
    with pytest.raises(SourceRefused, match="4000x4000"):
        from_bytes(bomb)


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """logs, search and export on the journal of a server, found where nobody names one."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert tmp_path / "neverblink" / "journal.db" == default_path()
    assert main(["logs"]) == 2
    assert "no journal at" in capsys.readouterr().err
    with Journal(default_path()) as journal:
        told(journal)
        told(journal, ["Left scores: 5-5."], stream_id="b", wall=0.0)
    assert main(["logs", "--stream", "a", "-n", "2"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert ["a  [00:00:04] Left scores: 1-1.", "a  [00:00:05] Match point for Left."] == [x[21:] for x in out]
    assert main(["search", "who scored", "--stream", "a", "--since", "1970-01-01T00:00"]) == 0
    assert 2 == len(capsys.readouterr().out.splitlines())
    assert main(["search", "penguin"]) == 1
    assert "nothing about 'penguin'" in capsys.readouterr().err
    assert main(["search", "scored", "--since", "1d"]) == 1
    assert main(["logs", "--since", "soon"]) == 2
    vtt, jsonl = tmp_path / "a.vtt", tmp_path / "a.jsonl"
    assert main(["export", "--vtt", str(vtt), "--jsonl", str(jsonl), "--stream", "a"]) == 0
    assert 5 == vtt.read_text().count("-->")
    assert [*LINES] == [json.loads(line)["text"] for line in jsonl.read_text().splitlines()]
    assert main(["export", "--vtt", str(vtt)]) == 0
    assert "5-5" in vtt.read_text(), "the stream that spoke last"
    capsys.readouterr()
    for arguments, words in (([], "nothing to write"), (["--srt", "x", "--stream", "c"], "it has: a, b")):
        assert main(["export", *arguments]) == 2
        assert words in capsys.readouterr().err
