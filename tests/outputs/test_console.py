"""The terminal: captions on stdout, the rest on stderr, nothing of a caption is obeyed."""

import io

import pytest

from neverblink.outputs.base import Recorder
from neverblink.outputs.console import Console, Status
from neverblink.testing import HOSTILE_TEXTS, make_caption


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(*captions: object, terminal: bool = False, quiet: bool = False) -> tuple[str, str]:
    out, err = (Terminal(), Terminal()) if terminal else (io.StringIO(), io.StringIO())
    recorder = Recorder("scripted")
    with Console(out=out, err=err, quiet=quiet) as console:
        for caption in captions:
            for event in recorder.caption(caption):
                console.write(event)
        console.write(recorder.note("gap", "10 s are missing", 12.0))
    return out.getvalue(), err.getvalue()


def test_a_pipe_gets_captions_only() -> None:
    """`neverblink watch ... | grep goal` sees lines of text; silence, status and gaps are not among them."""
    out, err = shown(make_caption(83, "Left serves."), make_caption(84, ""), make_caption(85, "Right scores."))
    assert out == "[00:01:23] Left serves.\n[00:01:25] Right scores.\n"
    assert "[00:00:12] gap: 10 s are missing\n" in err
    assert "real-time factor 0.03" in err.splitlines()[-1]


def test_quiet_prints_errors_only() -> None:
    out, err = io.StringIO(), io.StringIO()
    recorder = Recorder("scripted")
    with Console(out=out, err=err, quiet=True) as console:
        for event in recorder.caption(make_caption(0, "a")):
            console.write(event)
        console.write(recorder.note("gap", "b", 0))
        console.write(recorder.note("error", "disk full", 0))
    assert (out.getvalue(), err.getvalue()) == ("", "[00:00:00] error: disk full\n")


def test_an_answer_says_that_it_is_one() -> None:
    out, _ = shown(make_caption(4, "", question="Who leads?", answer="Left."))
    assert out == "[00:00:04] answer: Left.\n"


def test_a_terminal_gets_a_live_status_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    out, err = shown(make_caption(0, "Left serves."), make_caption(1, ""), terminal=True)
    assert "[00:00:00] Left serves." in out
    assert "2 fps" in out
    assert "kv 256 tokens" in out
    assert "silent 1 s" in out
    assert err == ""


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
@pytest.mark.parametrize("terminal", [False, True])
def test_nothing_in_a_caption_is_obeyed(text: str, terminal: bool) -> None:
    """Escape codes and rich markup come out as text or not at all: the only escapes are those of the status line."""
    hostile, _ = shown(make_caption(0, text), terminal=terminal)
    harmless, _ = shown(make_caption(0, "harmless"), terminal=terminal)
    assert hostile.count("\x1b") == harmless.count("\x1b")
    assert "[link=x]y[/link]" in hostile or "[link=x]" not in text
    assert hostile.count("[00:00:00]") == harmless.count("[00:00:00]")


def test_status_counts() -> None:
    """Frames a second and the real-time factor are means over the last 30 s; drops are a total."""
    status = Status(kv_budget=512)
    recorder = Recorder("scripted")
    for second in range(100):
        caption = make_caption(float(second), "a", frames_used=8, frames_dropped=1, seconds={"speak": 0.25})
        for event in recorder.caption(caption):
            status.add(event)
    assert (status.fps, status.real_time_factor, status.dropped) == (8.0, 0.25, 100)
    assert (
        "00:01:40 · 8 fps · real-time factor 0.25 · kv 256/512 tokens · dropped 100 · latency 250 ms" == status.line()
    )
