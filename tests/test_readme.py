"""The README does not lie: its commands and its Python run, its table of options is the real one.

Every ```sh and ```python block is run in a folder that holds what a reader has: scripts/ and clip.mp4. The environment
keeps it short (NEVERBLINK_SECONDS, NEVERBLINK_REALTIME and NEVERBLINK_DEMO_SECONDS); ```text blocks need a download and
are not run.
"""

import json
import os
import re
import subprocess
import sys
from dataclasses import fields
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from neverblink.cli.options import WatchOptions

ROOT = Path(__file__).parents[1]
COMPARED = ROOT / "results" / "compare"
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(sh|python)\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reader")
    (folder / "scripts").symlink_to(ROOT / "scripts")
    with av.open(str(folder / "clip.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(8))
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for i in range(24):
            picture = np.full((120, 160, 3), i * 10, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return folder


@pytest.mark.parametrize(("language", "block"), BLOCKS, ids=[f"{i}-{b[0]}" for i, b in enumerate(BLOCKS)])
def test_block_runs(home: Path, language: str, block: str) -> None:
    command = ["bash", "-ec", block] if language == "sh" else [sys.executable, "-c", block]
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "NEVERBLINK_SECONDS": "2",
        "NEVERBLINK_REALTIME": "false",
        "NEVERBLINK_DEMO_SECONDS": "2",
    }
    ran = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for name in re.findall(r"--(?:vtt|srt|jsonl) (\S+)", block):
        assert (home / name).exists()


def test_there_are_commands_to_run() -> None:
    """A change of fence or language mark must not empty the test above."""
    assert sum(block.count("neverblink watch") for _, block in BLOCKS) >= 2
    assert {"sh", "python"} == {language for language, _ in BLOCKS}


def test_option_table_is_the_real_one() -> None:
    table = README.partition("<!-- options")[2].partition("<!-- end of options")[0]
    documented = dict(re.findall(r"^\| `--([a-z-]+)` \| `?([^`|]*?)`? \|", table, re.MULTILINE))
    real = {}
    for field in fields(WatchOptions):
        default = field.default
        shown = "" if default in (None, ()) else f"{default:g}" if isinstance(default, float) else str(default)
        real[field.name.replace("_", "-")] = shown
    assert documented == real


def compared() -> str:
    """The table of ways to remember, out of the committed runs."""
    runs = {
        sport: {run["way"]: run for run in map(json.loads, (COMPARED / f"{sport}.jsonl").read_text().splitlines())}
        for sport in ("pong", "football")
    }

    def cells(run: dict[str, Any]) -> list[str]:
        ended = (run["ended"] or "").partition(":")[0]
        return [*(f"{run[name]:.2f}" for name in ("event_f1", "score_accuracy", "qa_accuracy")), ended]

    lines = []
    for way, football in runs["football"].items():
        *first, _ = cells(runs["pong"][way]) if way in runs["pong"] else ["", "", "", ""]
        *second, ended = cells(football)
        cost = [f"{1000 * football['seconds_per_chunk_p50']:.0f}", f"{football['kv_tokens_max']:,}"]
        lines.append(" | ".join([f"| {way}{f' ({ended})' if ended else ''}", *first, *second, *cost]) + " |")
    return "\n".join(lines)


def test_the_ways_to_remember_are_those_that_were_measured() -> None:
    assert compared() in README
