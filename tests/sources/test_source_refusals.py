"""What must never be decoded is refused in one clear line, before any decode."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

import media
from neverblink.errors import ConfigError, SourceError, SourceRefused
from neverblink.sources import SourceOptions, kind_of, open_source, redact
from neverblink.sources.decoded import DecodedSource

SECRET = "The password is hunter2. Second line of a file that nobody should read aloud.\n" * 40


@pytest.mark.parametrize(
    "name",
    [
        "file:/etc/passwd",
        "concat:a.mp4|b.mp4",
        "subfile:,,start,0,end,9,,:a.mp4",
        "data:video/mp4;base64,AAAA",
        "udp://127.0.0.1:1234",
        "gopher://127.0.0.1/x",
        "ftp://127.0.0.1/x.mp4",
        "rtmp://127.0.0.1/x",
        "pipe:0",
        "lavfi:testsrc",
        "crypto+http://127.0.0.1/x",
        "FILE:///etc/passwd",
        "http:///nohost",
        "http://127.0.0.1:99999999/x",
        "http://a b/",
        "network:x",
        "",
        "a\0b.mp4",
        "/nope/nothing.mp4",
        "/tmp",
        "/dev/null",
        "camera:99",
        "camera:x",
        "/dev/video98",
        "screen:x",
    ],
)
def test_names_that_mean_no_source_are_refused_at_once(name):
    """No process is started for them: open_source itself refuses, in one line."""
    with pytest.raises(SourceRefused) as refusal:
        open_source(name)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) > 15


def test_text_is_never_rendered(tmp_path, watch):
    """Without the allow-list FFmpeg shows the TEXT of these files as video; here nothing is decoded."""
    for name in ("notes.txt", "notes.nfo", "notes", "notes.mp4"):
        path = tmp_path / name
        path.write_text(SECRET)
        watched = watch(path)
        assert isinstance(watched.error, SourceRefused)
        assert [] == watched.frames


def test_lists_that_name_other_files_are_refused(tmp_path, watch):
    """A local ffconcat, HLS, SDP or DASH file opens nothing else, whatever it is called."""
    (tmp_path / "notes.txt").write_text(SECRET)
    clip = media.write_video(tmp_path / "clip.ts")
    lists = {
        "list.ffconcat": "ffconcat version 1.0\nfile notes.txt\n",
        "list.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{clip}\n#EXT-X-ENDLIST\n",
        "list.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfile://{clip}\n#EXT-X-ENDLIST\n",
        "list.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
        "list.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>',
    }
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
        watched = watch(tmp_path / name)
        assert isinstance(watched.error, SourceRefused), name
        assert [] == watched.frames


def test_served_lists_cannot_reach_local_files(tmp_path, watch):
    """A playlist from the network that names a local file or a text file shows nothing of it."""
    (tmp_path / "notes.txt").write_text(SECRET)
    clip = media.write_video(tmp_path / "clip.ts")
    with media.http_server(tmp_path) as base:
        inline = f"data:video/mp2t;base64,{base64.b64encode(clip.read_bytes()).decode()}"  # FFmpeg's own list allows it
        targets = [f"file://{clip}", str(clip)[1:], f"{base}/notes.txt", f"concat:{clip}", inline]
        for number, target in enumerate(targets):
            playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{target}\n#EXT-X-ENDLIST\n"
            (tmp_path / f"evil{number}.m3u8").write_text(playlist)
            watched = watch(f"{base}/evil{number}.m3u8")
            assert isinstance(watched.error, SourceError), target
            assert [] == watched.frames, target
        assert isinstance(watch(f"{base}/notes.txt").error, SourceRefused)


@pytest.mark.parametrize(
    ("rules", "url"),
    [("http", "file:{clip}"), ("http", "{clip}"), ("rtsp", "file:{clip}"), ("file", "concat:{clip}|{clip}")],
)
def test_the_child_itself_refuses_other_protocols(rules, url, tmp_path):
    """Even if the parent were fooled about a name, the child's own list of protocols stands."""
    clip = media.write_video(tmp_path / "clip.ts")
    source = DecodedSource("fooled", url.format(clip=clip), kind="network", rules=rules, options=SourceOptions())
    with pytest.raises(SourceError), source:
        pass


@pytest.mark.parametrize(("name", "words"), [("empty.mp4", "empty"), ("audio.m4a", "no video"), ("cut.mp4", "video")])
def test_files_without_video_are_refused(name, words, tmp_path, watch):
    """Zero bytes, sound only, an MP4 whose index never arrived: one line that says so."""
    path = tmp_path / name
    if name == "empty.mp4":
        path.touch()
    elif name == "audio.m4a":
        media.write_audio(path)
    else:
        path = media.truncated(media.write_video(path), 0.6)
    watched = watch(path)
    assert isinstance(watched.error, SourceRefused)
    assert words in str(watched.error)
    assert [] == watched.frames


def test_a_codec_off_the_list_is_refused(tmp_path, watch):
    """The demuxer is allowed, the codec is not: refused by name."""
    watched = watch(media.write_video(tmp_path / "runs.mov", codec="qtrle", pix_fmt="rgb24", frames=2))
    assert isinstance(watched.error, SourceRefused)
    assert "codec qtrle is not allowed" in str(watched.error)


def test_a_secret_never_shows(watch):
    """User, password and query of a URL are in no message and in no event."""
    watched = watch(f"rtsp://someone:hunter2@127.0.0.1:{media.free_port()}/cam?key=hunter3", open_timeout=1.0)
    assert isinstance(watched.error, SourceError)
    shown = str(watched.error) + repr(watched.events)
    assert "127.0.0.1" in shown
    assert not any(secret in shown for secret in ("someone", "hunter2", "hunter3"))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://u:p@cam/1", "rtsp://cam/1"),
        ("rtsp://u:p@ss@cam:554/1", "rtsp://cam:554/1"),
        ("rtsp://u:p/ss@cam/1", "rtsp://.../cam/1"),
        ("https://cam/x?token=1#f", "https://cam/x?..."),
        ("https://cam/x#f", "https://cam/x"),
        ("cannot open 'http://u:p@cam/x': gone", "cannot open 'http://cam/x': gone"),
        ("clip@home.mp4", "clip@home.mp4"),
    ],
)
def test_redact(url, shown):
    assert shown == redact(url)


def test_kinds_of_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a:b.mp4").touch()
    names = {"a:b.mp4": "file", "x.mp4": "file", "./0": "file", "0": "camera", "/dev/video3": "camera"}
    names |= {"camera:1": "camera", "screen": "screen", "screen:2": "screen", "arcade:pong": "arcade"}
    names |= {"RTSP://h/x": "network", "https://h/x.m3u8": "network", "/dev/videos/x.mp4": "file"}
    assert names == {name: kind_of(name) for name in names}


@pytest.mark.parametrize("wrong", [{"fps": 0}, {"fps": 1e9}, {"start": -1}, {"start": 5, "end": 5}, {"max_pixels": 1}])
def test_options_out_of_range(wrong):
    with pytest.raises(ConfigError):
        SourceOptions(**wrong)
