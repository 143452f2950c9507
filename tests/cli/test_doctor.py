"""`neverblink doctor`: what was found and why, whatever is broken."""

import json

import pytest

from neverblink.cli import doctor, main


def test_doctor_tells_what_matters(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    findings = {finding["what"]: finding for finding in json.loads(capsys.readouterr().out)["findings"]}
    for what in ("python", "torch", "transformers", "cpu cores", "PyAV", "bundled model"):
        assert findings[what]["found"], what
    for codec in ("h264", "hevc", "av1", "vp9"):
        assert findings[f"decode {codec}"]["found"] == "yes"
    for extra in ("arcade", "screen", "server", "train", "bench"):
        finding = findings[f"extra {extra}"]
        assert finding["ok"] or f"pip install 'neverblink[{extra}]'" in finding["why"]


def test_doctor_prints_a_line_a_finding_when_piped(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 12
    assert not any("\x1b" in line for line in lines)


def test_a_broken_part_hides_no_other(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> list[doctor.Finding]:
        raise OSError("libcuda.so: wrong\nELF class")

    monkeypatch.setattr(doctor, "_torch", broken)
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "OSError: libcuda.so: wrong ELF class" in out
    assert "PyAV" in out
