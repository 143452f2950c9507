"""`neverblink watch` with a scripted model: what goes where, and how it ends."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.models import families

import neverblink
import neverblink.sources
from neverblink.cli import main
from neverblink.errors import SourceDamaged
from neverblink.options import StreamOptions
from neverblink.testing import ScriptedModel, SyntheticSource

LINES = ["Left serves.", "", "Right scores: 0-1."]


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> ScriptedModel:
    """Every model is this one, every source three synthetic seconds."""
    model = ScriptedModel(LINES, seconds=3)
    loaded: list[Any] = []
    model.loaded = loaded

    def from_pretrained(name: str, **options: Any) -> ScriptedModel:
        loaded.append((name, options))
        return model

    monkeypatch.setattr(neverblink, "Model", SimpleNamespace(from_pretrained=from_pretrained), raising=False)
    monkeypatch.setattr(neverblink.sources, "open_source", lambda name, options: SyntheticSource(), raising=False)
    return model


def test_captions_go_to_stdout_and_to_the_files(
    scripted: ScriptedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vtt, srt, jsonl = (tmp_path / f"a.{name}" for name in ("vtt", "srt", "jsonl"))
    arguments = ["watch", "x.mp4", "--vtt", str(vtt), "--srt", str(srt), "--jsonl", str(jsonl)]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert out == "[00:00:00] Left serves.\n[00:00:02] Right scores: 0-1.\n"
    assert "device none (a script needs no device)" in err
    assert vtt.read_text().startswith("WEBVTT\n\n00:00:00.000 --> 00:00:01.000\nLeft serves.\n\n00:00:02")
    assert srt.read_text().endswith("2\n00:00:02,000 --> 00:00:03,000\nRight scores: 0-1.\n\n")
    events = [json.loads(line) for line in jsonl.read_text().splitlines()]
    assert ["source", "caption", "silence", "caption"] == [event["type"] for event in events]
    assert [0, 1, 2, 3] == [event["seq"] for event in events]
    assert {"scripted"} == {event["model"] for event in events}


def test_what_is_asked_for_reaches_the_model(scripted: ScriptedModel, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = "watch x.mp4 --model there --device cpu --dtype float32 --attn eager --revision r1 --fps 4 --seconds 2"
    arguments += " --lora tuned"
    arguments += " --policy sliding --vision-window 8 --positions native --seed 3 --temperature 0.5 --start 1 --end 9"
    arguments += " --quiet-from 0.6"
    arguments += " --gate pixel:similarity=0.9 --encoder-cache stc --compress differential+stc --loop-tokens 200"
    arguments += " --kv-dtype int8 --recall"
    assert (
        main(
            [
                *arguments.split(),
                "--realtime",
                "--pipeline",
                "--recall",
                "--ask",
                "1.5:Who leads?",
                "--query",
                "the score",
            ]
        )
        == 0
    )
    loaded = {"device": "cpu", "dtype": "float32", "attn": "eager", "revision": "r1", "lora": "tuned"}
    assert scripted.loaded == [("there", loaded)]
    assert scripted.watched[0] == {
        "source": "x.mp4",
        "recall": True,
        "fps": 4.0,
        "seconds": 2.0,
        "policy": "sliding",
        "policy_options": {"vision_seconds": 8.0},
        "positions": "native",
        "seed": 3,
        "temperature": 0.5,
        "quiet_from": 0.6,
        "start": 1.0,
        "end": 9.0,
        "realtime": True,
        "questions": {1.5: "Who leads?"},
        "query": "the score",
        "max_tokens_per_second": None,
        "pipeline": True,
        "gate": "pixel:similarity=0.9",
        "encoder_cache": "stc",
        "compress": "differential+stc",
        "loop_tokens": 200,
        "kv_dtype": "int8",
    }
    assert "[00:00:01] answer: I do not know.\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["arcade:pong"], True),
        (["arcade:pong", "--no-realtime"], False),
        (["x.mp4"], False),
        (["x.mp4", "--realtime"], True),
    ],
)
def test_arcade_games_run_in_real_time(scripted: ScriptedModel, arguments: list[str], expected: bool) -> None:
    assert main(["watch", *arguments]) == 0
    assert scripted.watched[0]["realtime"] is expected


@pytest.mark.parametrize(("kind", "lines"), [("file", 1), ("arcade", 0)])
def test_a_model_out_of_its_depth_says_so(
    scripted: ScriptedModel,
    kind: str,
    lines: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    scripted.domain = "arcade games (Pong)"
    monkeypatch.setattr(neverblink.sources, "open_source", lambda name, options: SyntheticSource(kind=kind))
    assert main(["watch", "x.mp4"]) == 0
    err = capsys.readouterr().err
    told = "this bundled model only knows arcade games (Pong); name another with --model PATH_OR_HUB_ID\n"
    assert err.count(told) == lines


def test_happenings_are_events(
    scripted: ScriptedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Gaps and drops are told on stderr and in the JSONL file, never on stdout."""
    told = scripted.watch

    def watch(source: Any, *, on_event: Any, **options: Any) -> Any:
        on_event("gap", "10 s are missing", 0.5)
        yield from told(source, on_event=on_event, **options)

    scripted.watch = watch  # type: ignore[method-assign]
    assert main(["watch", "x.mp4", "--jsonl", str(tmp_path / "a.jsonl")]) == 0
    out, err = capsys.readouterr()
    assert "missing" not in out
    assert "[00:00:00] gap: 10 s are missing\n" in err
    events = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert ("gap", 0.5) == (events[0]["type"], events[0]["t_start"])


def test_a_damaged_file_gives_captions_then_one_line(
    scripted: ScriptedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = scripted.watch

    def watch(source: Any, **options: Any) -> Any:
        yield from told(source, **options)
        raise SourceDamaged("x.mp4 is damaged after 3.0 s", 3.0)

    scripted.watch = watch  # type: ignore[method-assign]
    assert main(["watch", "x.mp4", "--jsonl", str(tmp_path / "a.jsonl")]) == 2
    out, err = capsys.readouterr()
    assert out.count("\n") == 2
    assert err.splitlines()[-1] == "neverblink: x.mp4 is damaged after 3.0 s"
    assert err.count("damaged") == 1
    last = json.loads((tmp_path / "a.jsonl").read_text().splitlines()[-1])
    assert ("error", "x.mp4 is damaged after 3.0 s", 3.0) == (last["type"], last["text"], last["t_start"])


def test_a_fault_of_ours_is_one_line_unless_debug(scripted: ScriptedModel, capsys: pytest.CaptureFixture[str]) -> None:
    def watch(source: Any, **options: Any) -> Any:
        raise RuntimeError("two\nlines")
        yield

    scripted.watch = watch  # type: ignore[method-assign]
    assert main(["watch", "x.mp4", "--quiet"]) == 1
    err = capsys.readouterr().err
    assert err == "neverblink: unexpected RuntimeError: two lines; run with --debug to see where\n"
    assert main(["watch", "x.mp4", "--quiet", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("more", [[], ["--debug"]])
def test_a_password_in_a_url_is_never_shown(
    scripted: ScriptedModel, more: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even when a library that we call puts the whole URL into its error."""

    def refuse(name: str, options: Any) -> Any:
        raise RuntimeError(f"cannot reach {name}")

    monkeypatch.setattr(neverblink.sources, "open_source", refuse)
    assert main(["watch", "rtsp://user:swordfish@camera/1?key=swordfish", *more]) == 1
    out, err = capsys.readouterr()
    assert "swordfish" not in out + err
    assert "rtsp://camera/1" in err


def test_an_unwritable_file_is_told_before_the_model_is_loaded(
    scripted: ScriptedModel, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["watch", "x.mp4", "--vtt", "/nonexistent/a.vtt"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "cannot write /nonexistent/a.vtt: No such file or directory" in err
    assert scripted.loaded == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--policy", "magic"], "no KV policy 'magic'; known: full, last-frames, recompute"),
        (["--policy", "full", "--text-window", "9"], "has no option 'text_window'"),
        (["--gate", "magic"], "no gate 'magic'; known: curvestream, grt"),
        (["--compress", "stc+evs"], "compressor 'evs' compares whole pictures and 'stc' before it drops parts"),
    ],
)
def test_a_wrong_policy_or_part_is_told_before_the_model_is_loaded(
    scripted: ScriptedModel, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["watch", "x.mp4", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert words in err
    assert scripted.loaded == []


ENDLESS = """
import sys, time
from types import SimpleNamespace
import neverblink, neverblink.sources
from neverblink.cli import main
from neverblink.testing import ScriptedModel, SyntheticSource

class Slow(ScriptedModel):
    def watch(self, source, **options):
        for caption in super().watch(source, **options):
            time.sleep(0.05)
            yield caption

neverblink.Model = SimpleNamespace(from_pretrained=lambda name, **options: Slow(["Hit."], seconds=10**6))
neverblink.sources.open_source = lambda name, options: SyntheticSource()
sys.exit(main(["watch", "x.mp4", *sys.argv[1:]]))
"""


def start_endless(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", "-c", ENDLESS, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_with_whole_files_and_status_0(tmp_path: Path, number: signal.Signals) -> None:
    """Also when the signal comes twice, as it does from a terminal through a wrapper."""
    vtt = tmp_path / "a.vtt"
    process = start_endless("--vtt", str(vtt))
    assert process.stdout is not None
    for _ in range(5):
        assert process.stdout.readline()
    process.send_signal(number)
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "Traceback" not in err
    text = vtt.read_text()
    assert text.endswith("Hit.\n\n")
    assert 0 <= 5 + out.count("Hit.") - text.count("Hit.") <= 1  # the console comes first


def test_a_reader_that_goes_away_ends_it(tmp_path: Path) -> None:
    """`neverblink watch ... | head -3` ends with status 0 and without a complaint."""
    process = start_endless("--quiet", "--vtt", str(tmp_path / "a.vtt"))
    process.kill()
    process.communicate()
    process = start_endless()
    assert process.stdout is not None
    assert process.stderr is not None
    for _ in range(3):
        process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=10) == 0
    err = process.stderr.read()
    process.stderr.close()
    assert "Traceback" not in err
    assert "Broken pipe" not in err


def test_open_serves_one_source_with_the_same_outputs(
    scripted: ScriptedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--open` hands source, options and files to the server, which keeps nothing of its own."""
    from neverblink.cli import serve

    served: list[Any] = []

    def run(options: Any, begin: Any, load: Any, **given: Any) -> None:
        assert options.folder.is_dir()
        served.append((options, begin, load()[1], given))

    monkeypatch.setattr(serve, "run", run)
    monkeypatch.setattr(scripted, "options", families.model("qwen2_5_vl").options, raising=False)
    how = "--quiet-from 0.25 --gate pixel --loop-tokens 0 --positions native --vision-window 3 --seed 5"
    files = ["--vtt", str(tmp_path / "a.vtt")]
    assert main(["watch", "x.mp4", "--open", *files, "--fps", "4", "--seconds", "9", *how.split()]) == 0
    ((options, (spec,), streams, given),) = served
    assert (4.0, "native", "pixel", 0) == (streams.fps, streams.positions, streams.gate, streams.loop_tokens)
    assert (3.0, 0.25, 5) == (streams.policy_options["vision_seconds"], streams.speak.quiet_from, streams.speak.seed)
    assert StreamOptions().speak.max_tokens_per_second == streams.speak.max_tokens_per_second  # was not given
    assert ("x.mp4", True, 4.0, 9.0) == (spec.source, spec.realtime, spec.fps, spec.seconds)
    assert (True, True, 2) == (given["open_page"], given["any_port"], len(given["outputs"]))
    assert (True, False) == (options.loopback, options.folder.exists())
    assert main(["watch", "x.mp4", "--open", "--ask", "1:What?"]) == 2
    assert "--ask and --open do not go together" in capsys.readouterr().err
    assert main(["watch", "x.mp4", "--open", "--recall"]) == 2
    assert "--recall and --open do not go together" in capsys.readouterr().err
    assert main(["watch", "x.mp4", "y.mp4", "--recall"]) == 2
    assert "--recall is for one source, here are 2" in capsys.readouterr().err
