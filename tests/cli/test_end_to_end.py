"""The whole path from a command line: a real file, the decoder child, a real Qwen2.5-VL of toy size, real outputs."""

import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from tests.checkpoints import toy_checkpoint


def test_watch_a_real_file(tmp_path: Path) -> None:
    """Three seconds of H.264: an event for each, within the cache budget, and nothing on stdout but captions."""
    clip = tmp_path / "clip.mp4"
    with av.open(str(clip), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(8))
        stream.width, stream.height, stream.pix_fmt = 112, 84, "yuv420p"
        for i in range(24):
            frame = av.VideoFrame.from_ndarray(np.full((84, 112, 3), i * 10, dtype=np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    jsonl, vtt = tmp_path / "a.jsonl", tmp_path / "a.vtt"
    command = [sys.executable, "-m", "neverblink", "watch", str(clip), "--model", str(toy_checkpoint()), "--fps", "2"]
    command += ["--threads", "1", "--jsonl", str(jsonl), "--vtt", str(vtt), "--ask", "1.5:What happens?", "--seed", "1"]
    command += ["--sink-tokens", "16", "--text-window", "16", "--vision-window", "2"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    events = [json.loads(line) for line in jsonl.read_text().splitlines()]
    said = [event for event in events if event["type"] in ("caption", "silence")]
    assert [(0, 1), (1, 2), (2, 3)] == [(event["t_start"], event["t_end"]) for event in said]
    assert [2, 2, 2] == [event["frames_used"] for event in said]
    assert [1] == [event["t_start"] for event in events if event["type"] == "answer"]
    assert events[0]["type"] == "source"
    assert list(range(len(events))) == [event["seq"] for event in events]
    assert all(line.startswith("[00:00:0") for line in ran.stdout.splitlines())
    assert vtt.read_text().startswith("WEBVTT\n\n")
    assert "device cpu" in ran.stderr
