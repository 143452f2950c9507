"""Drills of the sources at a small scale: they hold, and they would tell if they did not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from neverblink.drills import changes, corpus, drills, refusals, sources
from neverblink.drills.rows import ROWS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
OURS = ("R1", "R2", "R3", "R4", "R5", "R6", "R7", "R17", "S1", "S2", "S3", "S4")


def test_every_row_of_the_sources_has_its_drill():
    for row in OURS:
        assert (row, ROWS[row].beat) == (drills[row].row, drills[row].beat)


@pytest.mark.parametrize(
    ("drill", "scale"),
    [(sources.R4, 0.02), (sources.R5, 0.02)],
    ids=lambda value: getattr(value, "row", ""),
)
def test_a_small_drill_holds(drill, scale, tmp_path):
    finding = drill.run(tmp_path, scale)
    assert finding.held, finding.figure


def test_a_small_corpus_is_played(tmp_path):
    """In a process of its own: it forks, and a fork of a test worker with its many threads may wait for ever."""
    written = tmp_path / "line.jsonl"
    command = [sys.executable, "-m", "neverblink", "drill", "S4", "--scale", "0.003", "--json", str(written)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=240)
    line = json.loads(written.read_text())
    assert line["held"], (line["figure"], told.stderr)


def test_corrupted_inputs_come_from_their_numbers_alone(tmp_path):
    """The same number gives the same bytes; every container and every way of corruption comes up; none is whole."""
    paths = corpus.write_seeds(tmp_path)
    seeds = [path.read_bytes() for path in paths]
    made = [corpus.corrupted(seeds, number) for number in range(240)]
    assert made == [corpus.corrupted(seeds, number) for number in range(240)]
    assert set(range(12)) == {which for which, _, _ in made}
    assert 10 == len({way for _, way, _ in made})
    assert len([1 for which, _, data in made if data == seeds[which]]) <= 12


SEES = """
import sys, time
from pathlib import Path
from neverblink.drills import corpus
fork = corpus.os.fork
def slow_fork():
    pid = fork()
    time.sleep(0.3 if pid else 0)  # the child is dead before it is asked for anything
    return pid
corpus.os.fork = slow_fork
folder, frames = Path(sys.argv[1]), corpus.ForkedSource.frames
main, corpus.decoder.main = corpus.decoder.main, corpus.os.abort
played = corpus.play(folder, 0, 2)
assert {"SIGABRT": 2} == dict(played.child_signals), played
assert 0 == played.parent_crashes, played
corpus.decoder.main, corpus.ForkedSource.frames = main, lambda self: 1 / 0
assert corpus.play(folder, 9, 3).parent_crashes >= 1
"""


def test_the_corpus_sees_a_crash_of_the_parent_and_a_death_of_the_child(tmp_path):
    """What the drill counts as 0 is counted when it happens; in a process of its own, as above."""
    told = subprocess.run([sys.executable, "-c", SEES, str(tmp_path)], capture_output=True, text=True, timeout=240)
    assert 0 == told.returncode, told.stderr


def test_the_bombs_are_what_they_say(tmp_path: Path):
    """The PNG has its full size, so that refusing it is no accident."""
    import io

    from PIL import Image

    assert (3000, 2000) == Image.open(io.BytesIO(refusals.png(3000, 2000))).size
    assert changes.R6.row == "R6"
