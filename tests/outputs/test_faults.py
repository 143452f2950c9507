"""Outputs when the world is against them: kill -9, a full disk, a directory that cannot be written."""

import errno
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from neverblink.errors import ConfigError
from neverblink.outputs import OUTPUTS
from neverblink.outputs.base import PAGE, STEADY, Outputs, Recorder, WholeRecords
from neverblink.outputs.jsonl import Jsonl
from neverblink.outputs.vtt import Vtt
from neverblink.testing import ListOutput, make_caption

WRITER = """
import sys
from neverblink.outputs import OUTPUTS
from neverblink.outputs.base import Recorder
from neverblink.testing import make_caption
folder = sys.argv[1]
recorder = Recorder("scripted")
with OUTPUTS["vtt"](folder + "/a.vtt") as vtt, OUTPUTS["srt"](folder + "/a.srt") as srt, \\
        OUTPUTS["jsonl"](folder + "/a.jsonl") as jsonl:
    second = 0
    while True:
        for event in recorder.caption(make_caption(float(second), f"second {second} " + "x" * (second % 700) + " END")):
            for output in (vtt, srt, jsonl):
                output.write(event)
        second += 1
"""
CUES = {
    "vtt": r"(?:\d\d+:\d\d:\d\d\.\d{3} --> \d\d+:\d\d:\d\d\.\d{3}\nsecond (\d+)(?: x+)? END\n\n\n*)",
    "srt": r"(?:\d+\n\d\d+:\d\d:\d\d,\d{3} --> \d\d+:\d\d:\d\d,\d{3}\nsecond (\d+)(?: x+)? END\n\n\n*)",
}


def seconds_in(path: Path) -> list[int]:
    """The seconds that a file tells of; fails where one byte of it is not part of a whole record."""
    text = path.read_text()
    if path.suffix == ".jsonl":
        assert not text or text.endswith("\n") or not text.rpartition("\n")[2].strip(), "a torn line"
        return [int(json.loads(line)["text"].split()[1]) for line in text.splitlines() if line.strip()]
    cue = CUES[path.suffix[1:]]
    body = text.removeprefix("WEBVTT\n\n").lstrip("\n")
    assert re.fullmatch(cue + "*", body), f"a torn cue at the end: {body[-200:]!r}"
    return [int(second) for second in re.findall(cue, body)]


def test_files_are_whole_after_kill_9(tmp_path: Path) -> None:
    """A writer that never pauses, killed at 20 random moments: each file parses, and no second is missing in it."""
    generator = random.Random(1)
    total = 0
    processes = []
    for i in range(20):
        folder = tmp_path / str(i)
        folder.mkdir()
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)])
        processes.append(writer)
        deadline = time.monotonic() + 20
        while not ((folder / "a.jsonl").exists() and (folder / "a.jsonl").stat().st_size > 10_000):
            assert time.monotonic() < deadline, "the writer did not start"
            time.sleep(0.005)
        time.sleep(generator.uniform(0, 0.1))
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        for name in ("vtt", "srt", "jsonl"):
            found = seconds_in(folder / f"a.{name}")
            assert found == list(range(len(found)))
            total += len(found)
    assert total > 1000


def test_no_record_crosses_a_page(tmp_path: Path) -> None:
    """The kernel may stop a killed process between two pages of one write, so a record lies within one page."""
    path = tmp_path / "a.jsonl"
    recorder = Recorder("scripted")
    with Jsonl(path) as output:
        for second in range(300):
            for event in recorder.caption(make_caption(float(second), "y" * (second * 7 % 1500))):
                output.write(event)
    data = path.read_bytes()
    for record in re.finditer(rb"\{[^\n]*\n", data):
        assert record.start() // PAGE == (record.end() - 1) // PAGE
    assert [json.loads(line)["seq"] for line in data.splitlines()] == list(range(300))


@pytest.mark.parametrize("name", ["vtt", "srt", "jsonl"])
@pytest.mark.parametrize("place", ["missing/a.x", "."])
def test_a_file_that_cannot_be_made_is_one_clear_error(tmp_path: Path, name: str, place: str) -> None:
    with pytest.raises(ConfigError, match=r"^cannot write .*; name a file in a directory that you can write to$"):
        OUTPUTS[name](tmp_path / place).__enter__()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_a_full_disk_at_the_start_is_one_clear_error() -> None:
    with pytest.raises(ConfigError, match="No space left"):
        Vtt("/dev/full").__enter__()


def test_a_full_disk_leaves_whole_records_and_writing_goes_on_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk takes half a record: the half is cut off, and the next record follows the last whole one."""
    records = WholeRecords(tmp_path / "a.txt", header=b"head\n", filler=b"\n")
    records.open()
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[: len(data) // 2], at))
    with pytest.raises(OSError, match="No space left"):
        records.add(b"half\n")
    monkeypatch.undo()
    assert records.path.read_bytes() == b"head\n"
    records.add(b"whole\n")
    records.close()
    assert records.path.read_bytes() == b"head\nwhole\n"


def test_an_output_that_fails_is_told_once_and_the_others_go_on() -> None:
    """Ten seconds with a full disk: one error event for the healthy output; another only after recovery."""
    full, healthy = ListOutput(OSError(errno.ENOSPC, "No space left on device")), ListOutput()
    recorder = Recorder("scripted")
    outputs = Outputs([full, healthy], recorder)
    for second in range(10):
        for event in recorder.caption(make_caption(float(second))):
            outputs.write(event)
    assert ["caption", "error"] + ["caption"] * 9 == [event.type for event in healthy.events]
    assert "No space left on device" in healthy.events[1].text
    assert list(range(11)) == [event.seq for event in healthy.events]

    for written, expected in ((STEADY - 1, 0), (STEADY, 1)):  # a record that happens to fit is no recovery
        del healthy.events[:]
        full.fail_with = None
        for _ in range(written):
            outputs.write(recorder.note("gap", "back", 10.0))
        full.fail_with = OSError(errno.EIO, "Input/output error")
        outputs.write(recorder.note("gap", "again", 11.0))
        assert expected == sum(event.type == "error" for event in healthy.events)


def test_all_outputs_failing_does_not_stop_the_stream() -> None:
    outputs = Outputs([ListOutput(OSError(errno.EIO, "x")), ListOutput(OSError(errno.EIO, "y"))], Recorder("scripted"))
    for second in range(3):
        outputs.write(Recorder("scripted").note("gap", "", second))


def test_a_reader_that_went_away_is_a_wish_to_stop() -> None:
    with pytest.raises(BrokenPipeError):
        Outputs([ListOutput(BrokenPipeError())], Recorder("scripted")).write(Recorder("x").note("gap", "", 0))


def test_a_pipe_gets_whole_lines(tmp_path: Path) -> None:
    """A FIFO is as good as a file: no seeking, no padding."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = subprocess.Popen(["cat", str(path)], stdout=subprocess.PIPE)
    recorder = Recorder("scripted")
    with Jsonl(path) as output:
        for second in range(100):
            for event in recorder.caption(make_caption(float(second))):
                output.write(event)
    out, _ = reader.communicate(timeout=10)
    assert [json.loads(line)["seq"] for line in out.splitlines()] == list(range(100))
    assert b"  {" not in out
