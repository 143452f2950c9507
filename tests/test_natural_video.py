"""Real video through the whole path: source, decode child, chunks, stream, captions, outputs.

Most clips are cut from a natural video and written in the codec or container under test; the peers are real servers on
this machine. The model is a real Qwen2.5-VL of toy size, so what it says means nothing: when, from what and at what
cost it says it is what counts.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from neverblink import Model
from neverblink.errors import NeverblinkError, SourceDamaged
from neverblink.stream import Stream
from neverblink.types import Caption, Kind
from tests import media
from tests.checkpoints import toy_checkpoint

SECRET = "The password is hunter2. Second line of a file that nobody should read aloud.\n" * 40
WINDOWS = {"sink_tokens": 8, "text_window": 8, "vision_seconds": 4.0}
FPS = 8  # of the clips
SIZE = (160, 120)

needs_rtsp = pytest.mark.skipif(media.without_rtsp(), reason="NEVERBLINK_NO_RTSP=1")


@dataclass
class Watched:
    """A model and all that is to be known about one `watch` of it."""

    model: Model
    monkeypatch: pytest.MonkeyPatch
    captions: list[Caption] = field(default_factory=list)
    pixels: list[np.ndarray] = field(default_factory=list)  # of every frame that the model was shown
    events: list[tuple[str, str, float]] = field(default_factory=list)
    streams: list[Stream] = field(default_factory=list)
    error: NeverblinkError | None = None

    def start(self, source: Path | str, **options: Any) -> Any:
        """The captions of `Model.watch`; its stream and the pictures it takes in are kept on the way."""
        make, encode = self.model.stream, self.model.adapter.encode

        def stream(*arguments: Any, **more: Any) -> Stream:
            self.streams.append(make(*arguments, **more))
            return self.streams[-1]

        def see(frames: Any, fps: float) -> Any:
            self.pixels.extend(frames)
            return encode(frames, fps)

        self.monkeypatch.setattr(self.model, "stream", stream)
        self.monkeypatch.setattr(self.model.adapter, "encode", see)
        options = {"fps": 2, "policy_options": WINDOWS, "max_tokens_per_second": 3, **options}
        return self.model.watch(source, on_event=lambda *event: self.events.append(event), **options)

    def __call__(self, source: Path | str, **options: Any) -> Watched:
        """Watch to the end and check what holds for every video."""
        try:
            with closing(self.start(source, **options)) as captions:
                for caption in captions:
                    self.captions.append(caption)
        except NeverblinkError as error:
            self.error = error
        self.check()
        return self

    def check(self) -> None:
        assert 1 == len(self.streams)
        for caption in self.captions:
            assert 0 < caption.kv_tokens <= caption.kv_budget
            assert 1 <= caption.tokens <= 3
            assert 1 == caption.end - caption.start
        assert all(a.end <= b.start for a, b in zip(self.captions, self.captions[1:], strict=False)), self.spans
        assert len(self.pixels) == sum(self.frames_used)

    @property
    def spans(self) -> list[tuple[float, float]]:
        return [(caption.start, caption.end) for caption in self.captions]

    @property
    def frames_used(self) -> list[int]:
        return [caption.frames_used for caption in self.captions]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of vision tokens that the stream holds for its newest second."""
        rows = self.streams[0].rows()
        places = rows.loc[(rows.turns == rows.turns.max()) & (rows.kinds == Kind.PIXELS)]
        _, high, wide = places.max(axis=0) + 1
        assert high * wide == len(places), "two frames make one layer of tokens"
        return int(high), int(wide)


def seconds(count: int) -> list[tuple[float, float]]:
    return [(second, second + 1) for second in range(count)]


@pytest.fixture(scope="module")
def model() -> Model:
    return Model.from_pretrained(toy_checkpoint(), device="cpu")


@pytest.fixture
def watch(model: Model, monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(model, monkeypatch)


def natural_clip(path: Path, length: int = 3, **options: Any) -> Path:
    """So many seconds of natural video, in the container that the name asks for."""
    size = options.setdefault("size", SIZE)
    return media.write_video(path, pictures=media.natural_pictures(length * FPS, size), fps=FPS, **options)


# -- the command line ------------------------------------------------------------------------------------------------


def command(source: Path | str, folder: Path, *more: str) -> list[str]:
    """`neverblink watch` of a source, with captions in folder/a.vtt, a.srt and a.jsonl."""
    given = ["--model", str(toy_checkpoint()), "--fps", "2", "--max-tokens-per-second", "3", "--threads", "1"]
    given += ["--device", "cpu", "--sink-tokens", "8", "--text-window", "8", "--vision-window", "4"]
    for name in ("vtt", "srt", "jsonl"):
        given += [f"--{name}", str(folder / f"a.{name}")]
    return [sys.executable, "-m", "neverblink", "watch", str(source), *given, *more]


def cues(path: Path) -> list[tuple[float, float]]:
    """Start and end of every cue of a WebVTT or SubRip file, each of which must be whole."""
    text = path.read_text()
    if path.suffix == ".vtt":
        assert text.startswith("WEBVTT\n\n")
        text = text.removeprefix("WEBVTT\n\n")
    assert not text or text.endswith("\n\n")
    found = []
    for cue in re.split(r"\n\n+", text.strip("\n")) if text.strip("\n") else []:
        stamp = r"(\d\d):(\d\d):(\d\d[.,]\d\d\d)"
        match = re.fullmatch(rf"(?:\d+\n)?{stamp} --> {stamp}\n[^\n]+", cue)
        assert match, cue
        h0, m0, s0, h1, m1, s1 = (float(part.replace(",", ".")) for part in match.groups())
        found.append((h0 * 3600 + m0 * 60 + s0, h1 * 3600 + m1 * 60 + s1))
    return found


def recorded(folder: Path) -> tuple[list[dict[str, Any]], list[tuple[float, float]]]:
    """The events of a.jsonl and the spans of its captions; the subtitle files must hold the same captions."""
    events = [json.loads(line) for line in (folder / "a.jsonl").read_text().splitlines()]
    assert list(range(len(events))) == [event["seq"] for event in events]
    said = [event for event in events if event["type"] in ("caption", "silence")]
    shown = [(event["t_start"], event["t_end"]) for event in said if event["text"]]
    assert shown == cues(folder / "a.vtt") == cues(folder / "a.srt")
    return events, [(event["t_start"], event["t_end"]) for event in said]


def refused_source(kind: str, folder: Path) -> Path:
    """A file that is no video."""
    (folder / "notes.txt").write_text(SECRET)
    path = folder / kind
    if kind == "sound.m4a":
        media.write_audio(path)
    elif kind == "empty.mp4":
        path.touch()
    elif kind == "list.ffconcat":
        path.write_text("ffconcat version 1.0\nfile notes.txt\n")
    elif kind == "list.m3u8":
        path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nnotes.txt\n#EXT-X-ENDLIST\n")
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("sound.m4a", "no video in it (it holds audio)"),
        ("empty.mp4", "the file is empty (0 bytes)"),
        ("notes.txt", "not a video"),
        ("list.ffconcat", "not a video"),
        ("list.m3u8", "not a video"),
    ],
)
def test_what_is_no_video_is_refused_in_one_line(kind: str, words: str, tmp_path: Path) -> None:
    """Sound, nothing, text and lists of text end with status 2, one line that says why, and untouched files."""
    (tmp_path / "a.vtt").write_text("captions of yesterday")
    ran = subprocess.run(
        command(refused_source(kind, tmp_path), tmp_path), capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert (2, "", 1) == (ran.returncode, ran.stdout, ran.stderr.count("\n")), ran.stderr
    assert ran.stderr.startswith("neverblink: ")
    assert words in ran.stderr
    assert kind in ran.stderr
    assert "hunter2" not in ran.stderr
    assert "captions of yesterday" == (tmp_path / "a.vtt").read_text()
    assert not (tmp_path / "a.jsonl").exists()


def test_a_truncated_file_on_the_command_line(tmp_path: Path) -> None:
    """The captions before the damage are in every file, then status 2 and one line that tells the second."""
    cut = media.truncated(natural_clip(tmp_path / "clip.ts", 4), 0.6)
    ran = subprocess.run(command(cut, tmp_path), capture_output=True, text=True, timeout=120)
    assert 2 == ran.returncode, ran.stderr
    events, spans = recorded(tmp_path)
    assert seconds(3) == spans
    assert ["error"] == [event["type"] for event in events if event["type"] not in ("source", "caption", "silence")]
    assert "error" == events[-1]["type"]
    assert f"neverblink: {events[-1]['text']}" == ran.stderr.splitlines()[-1]
    intro, opened, status = ran.stderr.splitlines()[:-1]  # and nothing else
    assert "device cpu" in intro
    assert "source: open" in opened
    assert status.startswith("00:00:03 · 2 fps")
    assert str(cut) in events[-1]["text"]
    assert len(cues(tmp_path / "a.vtt")) == len(ran.stdout.splitlines())


def test_ctrl_c_ends_the_decoder_too(tmp_path: Path) -> None:
    """Ctrl-C, which a terminal sends to the decoder as well: status 0, whole files, and no process is left."""
    process = subprocess.Popen(
        command(media.natural_video(), tmp_path, "--realtime"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 90
        while not (tmp_path / "a.jsonl").exists() or '"t_end": 2.0' not in (tmp_path / "a.jsonl").read_text():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        children = psutil.Process(process.pid).children(recursive=True)
        assert any("neverblink.sources.child" in child.cmdline() for child in children)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert 0 == process.returncode, err
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)
    assert "Traceback" not in err
    assert "neverblink: " not in err
    events, spans = recorded(tmp_path)
    assert seconds(len(spans)) == spans
    assert 2 <= len(spans) < 10
    assert not [event for event in events if event["type"] == "error"]
    assert len(cues(tmp_path / "a.vtt")) >= len(out.splitlines()) - 1  # the console comes first


# -- files -----------------------------------------------------------------------------------------------------------


def test_natural_video_is_told_second_by_second(watch: Watched) -> None:
    """Ten seconds of natural H.264: ten captions from 0 to 10, two frames each, a cache that ends growing."""
    watched = watch(media.natural_video())
    assert watched.error is None
    assert seconds(10) == watched.spans
    assert [2] * 10 == watched.frames_used
    assert [0] * 10 == [caption.frames_dropped for caption in watched.captions]
    assert all(pixels.std() > 20 for pixels in watched.pixels)
    rows = watched.streams[0].rows()
    assert {6, 7, 8, 9} == set(rows.turns[rows.kinds == Kind.PIXELS].tolist())  # four seconds of vision stay
    assert 1.3 < watched.grid[1] / watched.grid[0] <= 3  # 640x272, as near as a few tokens can come
    assert ["source"] == [kind for kind, _, _ in watched.events]


KINDS: dict[str, dict[str, Any]] = {
    "mpeg-ts.ts": {},
    "hevc-10-bit.mp4": {"codec": "libx265", "pix_fmt": "yuv420p10le"},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "av1.mkv": {"codec": "libsvtav1"},
    "with-sound.mp4": {"with_sound": True},
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_is_told_alike(name: str, tmp_path: Path, watch: Watched) -> None:
    """Three natural seconds give three captions from pictures near the original, whatever codec and container."""
    watched = watch(natural_clip(tmp_path / name, **KINDS[name]))
    assert (None, seconds(3), [2, 2, 2]) == (watched.error, watched.spans, watched.frames_used)
    originals = media.natural_pictures(3 * FPS, SIZE)[:: FPS // 2]
    for original, pixels in zip(originals, watched.pixels, strict=True):
        assert original.shape == pixels.shape
        assert np.abs(original.astype(float) - pixels).mean() < 16
    assert (3, 4) == watched.grid


def test_a_variable_rate_keeps_its_seconds(tmp_path: Path, watch: Watched) -> None:
    """Frames at odd moments: a caption for every second, each from the frames that were on the screen."""
    times = [0, 0.1, 0.15, 0.9, 2.0, 2.6]
    watched = watch(media.write_video(tmp_path / "vfr.mp4", times=times, frames=len(times)))
    assert (None, seconds(3), [2, 2, 2]) == (watched.error, watched.spans, watched.frames_used)
    assert [0, 2, 3, 3, 4, 4] == [media.number_of(pixels) for pixels in watched.pixels]


@pytest.mark.parametrize(("turn", "grid"), [(None, (3, 4)), (90, (4, 3)), (-90, (4, 3)), (180, (3, 4))])
def test_a_phone_clip_is_told_upright(turn: int | None, grid: tuple[int, int], tmp_path: Path, watch: Watched) -> None:
    """A clip that was filmed upright reaches the stream as a portrait: 4x3 vision tokens in place of 3x4."""
    watched = watch(natural_clip(tmp_path / "phone.mp4", 2, rotation=turn))
    assert (None, seconds(2), grid) == (watched.error, watched.spans, watched.grid)
    upright = media.natural_pictures(1, SIZE)[0]
    turned = upright if turn is None else np.rot90(upright, turn // 90)
    assert turned.shape == watched.pixels[0].shape
    assert np.abs(turned.astype(float) - watched.pixels[0]).mean() < 16


@pytest.mark.parametrize("name", ["cut.ts", "fragmented.mp4"])
def test_a_truncated_file_is_told_up_to_the_damage(name: str, tmp_path: Path, watch: Watched) -> None:
    """A caption for every second that arrived, then SourceDamaged in one line with the second of the damage."""
    flags = {"container_options": {"movflags": "frag_keyframe+empty_moov"}} if name.endswith("mp4") else {}
    watched = watch(media.truncated(natural_clip(tmp_path / name, 4, **flags), 0.6))
    assert isinstance(watched.error, SourceDamaged)
    assert "\n" not in str(watched.error)
    assert 1 <= watched.error.at < 3.5
    assert seconds(int(watched.error.at) + 1) == watched.spans
    assert all(used == 2 for used in watched.frames_used[:-1])


def test_one_frame_is_one_caption(tmp_path: Path, watch: Watched) -> None:
    """A clip of a single frame is one second with one frame."""
    watched = watch(media.write_video(tmp_path / "one.mp4", pictures=media.natural_pictures(1, SIZE)))
    assert (None, seconds(1), [1]) == (watched.error, watched.spans, watched.frames_used)


def test_4k_costs_no_more_than_a_small_picture(tmp_path: Path, watch: Watched) -> None:
    """3840x2160 arrives scaled, and takes no more vision tokens than the checkpoint allows."""
    pictures = media.natural_pictures(2, (3840, 2160))
    watched = watch(media.write_video(tmp_path / "4k.mp4", pictures=pictures, fps=2, size=(3840, 2160)))
    assert (None, seconds(1), [2]) == (watched.error, watched.spans, watched.frames_used)
    assert {(720, 1280, 3)} == {pixels.shape for pixels in watched.pixels}
    high, wide = watched.grid
    assert high * wide <= watched.model.adapter.max_vision_tokens(2)
    assert wide > high


# -- network ---------------------------------------------------------------------------------------------------------


def test_a_closed_playlist_is_told_to_its_end(tmp_path: Path, watch: Watched) -> None:
    """HLS from a web server, as a recording: every second once, nothing dropped, then the end."""
    media.write_hls(tmp_path, seconds=3, fps=FPS)
    with media.http_server(tmp_path) as base:
        watched = watch(f"{base}/live.m3u8")
    assert (None, seconds(3), [2, 2, 2]) == (watched.error, watched.spans, watched.frames_used)
    shown = [media.number_of(pixels) for pixels in watched.pixels]
    assert [k * FPS // 2 % media.LEVELS for k in range(6)] == shown


@needs_rtsp
def test_a_camera_is_told_while_it_runs(watch: Watched) -> None:
    """Three seconds of an RTSP camera: a caption for each, at the camera's own pace."""
    began = time.monotonic()
    with media.RtspCamera() as camera:
        watched = watch(camera.url, seconds=3)
    assert (None, seconds(3)) == (watched.error, watched.spans)
    assert all(1 <= used <= 2 for used in watched.frames_used)
    assert time.monotonic() - began > 2
    assert all(pixels.max() > 200 for pixels in watched.pixels)  # the white ball


@needs_rtsp
def test_a_camera_that_comes_back_goes_on_in_the_same_stream(watch: Watched) -> None:
    """Ten seconds without a camera: an error and a gap event, then later captions on top of what was held before."""
    camera = media.RtspCamera()
    camera.switch_on()
    back = threading.Timer(10.0, camera.switch_on)
    gaps: list[float] = []
    try:
        with closing(watch.start(camera.url, policy_options={**WINDOWS, "vision_seconds": 60.0})) as captions:
            for caption in captions:
                watch.captions.append(caption)
                if len(watch.captions) == 2:
                    camera.kill()
                    back.start()
                gaps = [at for kind, _, at in watch.events if kind == "gap"]
                if gaps and caption.start >= gaps[0] + 1:
                    break
                assert caption.end < 40, "it does not come back"
    finally:
        back.cancel()
        back.join()
        camera.kill()
    watch.check()
    assert 1 == len(gaps)
    assert ["source", "error", "source", "gap"] == [kind for kind, _, _ in watch.events]
    assert any(kind == "error" and "reconnecting" in text for kind, text, _ in watch.events)
    before = [caption for caption in watch.captions if caption.end <= gaps[0]]
    after = watch.captions[len(before) :]
    assert len(before) >= 2
    assert len(after) >= 2
    assert int(gaps[0]) == after[0].start
    assert 8 <= after[0].start - before[-1].end < 30  # time went on by the clock
    held = [caption.kv_tokens for caption in watch.captions]
    assert sorted(set(held)) == held  # every second adds to what was held
    assert set(range(len(held))) <= set(watch.streams[0].rows().turns.tolist())
