"""The command line before anything heavy: help, version, and refusals of one line."""

import os
import subprocess
import sys

import pytest

import neverblink
from neverblink.cli import main

HEAVY = ("torch", "transformers", "av", "numpy", "rich", "ale_py")


@pytest.mark.parametrize("arguments", [["--help"], ["watch", "--help"], ["doctor", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    """What makes it answer at once: about 0.1 s on two cores."""
    code = (
        "import sys; from neverblink.cli import main; status = main(sys.argv[1:]);"
        f"sys.exit(status or [name for name in {HEAVY!r} if name in sys.modules] or 0)"
    )
    ran = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert (0, "") == (ran.returncode, ran.stderr)
    assert ran.stdout


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"neverblink {neverblink.__version__}\n"


def test_no_arguments_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "watch" in capsys.readouterr().out


REFUSED = [
    (["--nonsense"], "--nonsense"),
    (["watch"], "SOURCE"),
    (["watch", "x.mp4", "--nonsense"], "--nonsense"),
    (["watch", "x.mp4", "--fps", "0"], "--fps is 0.0; it must be above 0"),
    (["watch", "x.mp4", "--fps", "-2"], "--fps is -2.0; it must be above 0"),
    (["watch", "x.mp4", "--fps", "nan"], "--fps is nan"),
    (["watch", "x.mp4", "--fps", "inf"], "--fps is inf"),
    (["watch", "x.mp4", "--fps", "many"], "--fps"),
    (["watch", "x.mp4", "--quiet-from", "1.5"], "--quiet-from is 1.5; it must be a probability, 0 to 1"),
    (["watch", "x.mp4", "--quiet-from", "nan"], "--quiet-from is nan"),
    (["watch", "x.mp4", "--seconds", "0"], "--seconds is 0.0"),
    (["watch", "x.mp4", "--seed", "-1"], "--seed is -1"),
    (["watch", "x.mp4", "--start", "9", "--end", "3"], "--start 9 is not before --end 3"),
    (["watch", "x.mp4", "--positions", "magic"], "no positions 'magic'; known: contiguous, native"),
    (["watch", "x.mp4", "--ask", "What?"], "--ask 'What?' is not SECONDS:QUESTION"),
    (["watch", "x.mp4", "--ask", "3:"], "is not SECONDS:QUESTION"),
    (["watch", "x.mp4", "--ask", "3:a", "--ask", "3.0:b"], "two questions for second 3"),
    (["watch", "x.mp4", "--max-tokens-per-second", "0"], "--max-tokens-per-second is 0"),
    (["watch", "x.mp4", "--vtt", "a", "--srt", "a"], "name the same file (a)"),
    (["watch", "/nonexistent/x.mp4"], "x.mp4"),
]


@pytest.mark.parametrize(("arguments", "words"), REFUSED)
def test_a_refusal_is_one_line_on_stderr(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Status 2, one line that says why, nothing on stdout; and no model was loaded for it."""
    monkeypatch.setattr(neverblink, "Model", None, raising=False)  # loading it would be an unexpected error, status 1
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("neverblink: ")
    assert words in err


def test_a_text_file_is_refused_before_the_model_is_loaded(tmp_path: object) -> None:
    """FFmpeg would show the text as video. A real process: no torch is imported on the way."""
    path = os.path.join(str(tmp_path), "notes.txt")
    with open(path, "w") as file:
        file.write("my password is swordfish\n" * 100)
    code = (
        "import sys; from neverblink.cli import main; status = main(sys.argv[1:]);"
        "assert 'torch' not in sys.modules; sys.exit(status)"
    )
    ran = subprocess.run([sys.executable, "-c", code, "watch", path], capture_output=True, text=True, timeout=60)
    assert (2, "") == (ran.returncode, ran.stdout)
    assert ran.stderr.count("\n") == 1
    assert "notes.txt" in ran.stderr
    assert "swordfish" not in ran.stderr


def test_the_environment_fills_what_the_command_line_leaves_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from neverblink.cli.settings import load

    monkeypatch.setenv("NEVERBLINK_FPS", "3.5")
    monkeypatch.setenv("NEVERBLINK_SEED", "7")
    assert (3.5, 9, "contiguous") == ((o := load({"seed": 9})).fps, o.seed, o.positions)
    monkeypatch.setenv("NEVERBLINK_FPS", "many")
    assert main(["watch", "x.mp4"]) == 2
    assert capsys.readouterr().err.startswith("neverblink: NEVERBLINK_FPS is 'many': ")


def test_every_option_of_the_dataclass_is_an_option_of_the_command() -> None:
    """One list of options: none can be in the environment and not on the command line, or the other way round."""
    import inspect
    from dataclasses import fields

    from neverblink.cli.options import WatchOptions
    from neverblink.cli.watch import watch

    assert {field.name for field in fields(WatchOptions)} == set(inspect.signature(watch).parameters) - {
        "context",
        "source",
        "open_page",
        "quiet",
        "debug",
    }
