"""`neverblink drill` and the table that is written from its lines."""

import json
from pathlib import Path

import numpy as np
import pytest

from neverblink.cli import main
from neverblink.drills import drills, table
from neverblink.drills.base import Drill, Finding
from neverblink.drills.rows import ROWS
from neverblink.errors import ConfigError


def drill_of(row: str, figure: str, held: bool = True, fault: str = "") -> Drill:
    def run(folder: Path, scale: float) -> Finding:
        assert folder.is_dir()
        assert [] == list(folder.iterdir()), "a folder of its own"
        (folder / "a").touch()
        return Finding(f"{figure} at {scale:g}", np.bool_(held), {"n": np.int64(3)})  # type: ignore[arg-type]

    return Drill(row, fault or f"fault of {row}", "peers | others", "better", run)


def broken(folder: Path, scale: float) -> Finding:
    raise OSError("no part to break")


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> None:
    """R2 has two drills, R11 one that does not reach its figure, S1 one that cannot be held."""
    known = {
        "R11": drill_of("R11", "one", held=False),
        "R2b": drill_of("R2", "two and a half", fault="another fault"),
        "R2": drill_of("R2", "two"),
        "S1": Drill("S1", "fault", "-", "-", broken),
    }
    monkeypatch.setattr(drills, "_targets", dict(known))


@pytest.mark.usefixtures("three")
def test_drills_are_held_in_order_and_written_down(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A row brings all its drills; the table is on stdout, progress on stderr, a line for each in the file."""
    path = tmp_path / "drills-x.jsonl"
    assert 0 == main(["drill", "R2", "--scale", "0.5", "--json", str(path)])
    out, err = capsys.readouterr()
    assert out.splitlines()[2:] == [
        "| R2 | fault of R2 | peers / others | better | two at 0.5 (at scale 0.5) | yes |",
        "| R2 | another fault | peers / others | better | two and a half at 0.5 (at scale 0.5) | yes |",
    ]
    assert "R2: fault of R2 ...\nR2: two at 0.5 [held, 0 s]\n" in err
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    assert [("R2", "two at 0.5"), ("R2", "two and a half at 0.5")] == [(x["row"], x["figure"]) for x in lines]
    assert {"n": 3} == lines[0]["measured"]
    assert "neverblink drill R2 --scale 0.5" == lines[0]["command"]
    assert "cores" in lines[0]["machine"]
    assert set(lines[0]) == table.FIELDS


@pytest.mark.usefixtures("three")
def test_one_that_fails_does_not_end_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "drills-x.jsonl"
    assert 1 == main(["drill", "--json", str(path)])
    out, err = capsys.readouterr()
    assert ["R2", "R2", "R11"] == [json.loads(text)["row"] for text in path.read_text().splitlines()]
    assert "S1: could not be held: OSError: no part to break\n" in err
    assert err.endswith("not held: S1\nfigure not reached: R11\n")
    assert "| one at 1 | **no** |" in out


@pytest.mark.usefixtures("three")
def test_what_is_no_drill_is_refused_before_any_is_held(capsys: pytest.CaptureFixture[str]) -> None:
    assert 2 == main(["drill", "R2", "R3"])
    assert "no drill 'R3'; known: R2, R2b, R11, S1" in capsys.readouterr().err
    assert 2 == main(["drill", "--scale", "0"])
    assert "--scale is 0" in capsys.readouterr().err


def line(row: str, figure: str, **changes: object) -> dict[str, object]:
    values = {"row": row, "fault": "f", "peers": "-", "beat": "b", "figure": figure, "held": True}
    return {**values, "measured": {}, "scale": 1.0, "command": "c", "machine": "m", **changes}


def write(path: Path, *lines: dict[str, object]) -> None:
    path.write_text("".join(json.dumps(text) + "\n" for text in lines))


def test_the_table_has_every_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The last line of the largest scale counts, whichever file it stands in; a row with no line says so."""
    small, full, again = line("R8", "small", scale=0.1), line("R8", "full"), line("R8", "again")
    write(tmp_path / "drills-engine.jsonl", full, again, small)
    write(tmp_path / "drills-server.jsonl", line("S9", "all 404"), line("S9", "other", fault="g"))
    open_rows = [name for name, row in ROWS.items() if name not in ("R8", "S9") and not row.reason]
    assert 1 == table.main([str(tmp_path)])
    assert f"no figure and no reason yet: {', '.join(open_rows)}\n" == capsys.readouterr().err
    text = (tmp_path / "hardening.md").read_text()
    rows = [row.split(" | ") for row in text.splitlines() if row.startswith("| ")]
    assert {"| " + name for name in ROWS} <= {row[0] for row in rows}
    assert ["again"] == [row[4] for row in rows if row[0] == "| R8"]
    assert ["all 404", "other"] == [row[4] for row in rows if row[0] == "| S9"]
    assert {6} == {len(row) for row in rows}


def test_every_row_of_the_list_is_there() -> None:
    expected = [f"R{i}" for i in range(1, 20) if i != 10] + [f"S{i}" for i in range(1, 13) if i != 5]
    assert expected == list(ROWS)


@pytest.mark.parametrize(
    ("text", "said"),
    [('{"row": 1', "is no JSON"), ('{"row": "R8"}', "lacks beat, command"), (json.dumps(line("R99", "")), "known row")],
)
def test_a_line_that_is_none_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "drills-x.jsonl").write_text(text + "\n")
    with pytest.raises(ConfigError, match=said):
        table.read(tmp_path)


def test_every_drill_belongs_to_a_row() -> None:
    for key in drills:
        found = drills[key]
        assert found.row in ROWS
        assert key.rstrip("bcdefgh") == found.row
