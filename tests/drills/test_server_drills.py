"""The drills of the server, small: real processes are killed, stopped, listened to and attacked."""

import copy
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from neverblink.drills import doors, server
from neverblink.drills.base import Drill
from neverblink.drills.server import trouble_of
from neverblink.drills.serving import Starter, cues, numbered
from neverblink.memory.journal import Journal
from tests.memory.test_journal import told


@pytest.fixture(scope="module")
def starter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starter]:
    with Starter(tmp_path_factory.mktemp("starter")) as running:
        yield running


class Shared:
    """The module's one starter, in another folder: its imports are paid for once."""

    def __init__(self, starter: Starter, folder: Path):
        self.__dict__.update(copy.copy(starter).__dict__, folder=folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        """Stays."""

    tell, start = Starter.tell, Starter.start


# What must hold on a machine as busy as it likes; seconds are for the published drill.
ALWAYS = {
    "vtt_damaged": 0,
    "journal_trouble": "none",
    "told_twice": 0,
    "heard_and_not_kept": 0,
    "vtt_wrong": 0,
    "seq_whole": 1,
    "statuses": "[0]",
}


@pytest.mark.parametrize(
    ("drill", "scale"),
    [
        (server.R13, 0.01),  # 2 kills
        (server.R13b, 0.04),  # 2 kills
        (server.R19, 0.1),  # 8 stops
        (doors.S6, 1.0),
        (doors.S7, 1.0),
        (doors.S8, 0.02),
        (doors.S9, 1.0),
        (doors.S11B, 1.0),
        (doors.S12, 1.0),
    ],
    ids=lambda value: value.row if isinstance(value, Drill) else "",
)
def test_the_figure_is_reached(
    drill: Drill, scale: float, starter: Starter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (server, doors):
        monkeypatch.setattr(module, "Starter", lambda folder: Shared(starter, folder))
    finding = drill.run(tmp_path, scale)
    timed = {name: finding.measured[name] for name in ALWAYS if name in finding.measured}
    assert timed == {name: ALWAYS[name] for name in timed}, finding.figure
    assert finding.measured.get("wrong") in (None, "", 0), finding.measured
    assert timed or finding.held, (finding.figure, finding.measured)
    assert json.dumps(dict(finding.measured))


def test_a_damaged_journal_is_seen(tmp_path: Path) -> None:
    """The drill's own eye: a line that the index does not know, a page that was overwritten."""
    with Journal(tmp_path / "j.db") as journal:
        told(journal)
    assert "" == trouble_of(tmp_path / "j.db")
    with sqlite3.connect(tmp_path / "j.db") as db:
        db.execute("DELETE FROM words_docsize WHERE id = 1")
    db.close()
    assert trouble_of(tmp_path / "j.db")
    data = bytearray((tmp_path / "j.db").read_bytes())
    data[4096:8192] = bytes(4096)
    (tmp_path / "j.db").write_bytes(data)
    assert trouble_of(tmp_path / "j.db")


@pytest.mark.parametrize(
    "text",
    [
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\nhalf",
        "WEBVTT\n\n00:00:01.000 --> 00:00:02.000\na\n\n00:00:00.000 --> 00:00:01.000\nb\n\n",
        "WEBVTT\n\n00:00:01.000 --> 00:00:01.000\na\n\n",
        "WEBVTT\n\n00:00:01.000 --> 00:00:02.000\n<b>a\n\n",
        "webvtt\n\n",
    ],
)
def test_what_is_no_vtt_is_seen(text: str) -> None:
    assert ["a &amp; b"] == cues("WEBVTT\n\n00:00:00.000 --> 00:00:01.000\na &amp; b\n\n\n\n")
    with pytest.raises(ValueError, match=r"WebVTT|backwards"):
        cues(text)


def test_events_are_read_whole() -> None:
    lines = [
        b"retry: 1\n",
        b"\n",
        b"id: 4\n",
        b"event: caption\n",
        b'data: {"a": 1}\n',
        b"\n",
        b"id: 5\n",
        b'data: {"a"',
    ]
    assert [{"a": 1, "id": 4}] == list(numbered(iter(lines)))
