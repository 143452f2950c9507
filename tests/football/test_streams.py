"""Two files become seconds with pictures, events and words; matches follow one another for hours."""

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from neverblink.arcade.commentary import parse, slip_of, write
from neverblink.arcade.events import Claim
from neverblink.arcade.sport import Second
from neverblink.errors import ConfigError, SourceError, SourceRefused
from neverblink.football.clips import Clip
from neverblink.football.commentary import FOOTBALL, describe_state
from neverblink.football.matches import Match, find_matches, read_record
from neverblink.football.source import FootballSource
from neverblink.football.streams import clip_stream, football_stream, match_stream
from neverblink.football.truth import MatchState
from neverblink.sources.base import SourceOptions
from tests.football.recording import hand_made, write_match


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("matches")
    write_match(folder, 0)
    write_match(folder, 1)
    return folder


def test_a_second_has_the_pictures_of_its_time(folder: Path):
    """The pictures get lighter by 2 each half second: each second holds its own two."""
    for second in football_stream(folder, seed=0, seconds=40):
        assert (2, 180, 320, 3) == second.frames.shape
        wanted = 16 + 4 * second.start + 2 * np.arange(2)
        assert abs(second.frames.mean(axis=(1, 2, 3)) - wanted).max() <= 1  # the codec rounds


def test_ten_pictures_a_second_are_thinned(tmp_path: Path):
    write_match(tmp_path, 7, video_fps=10, stride=1)
    seconds = list(football_stream(tmp_path, seed=0, seconds=3))
    greys = np.concatenate([second.frames for second in seconds]).mean(axis=(1, 2, 3))
    assert abs(greys - (16 + 2 * np.arange(6))).max() <= 1
    assert (10, 180, 320, 3) == next(football_stream(tmp_path, seed=0, fps=10)).frames.shape


def test_words_say_the_events_of_their_second(folder: Path):
    seconds = list(football_stream(folder, seed=5, seconds=40))
    for second in seconds:
        assert [event.claim for event in second.events] == parse(second.text, FOOTBALL)
        assert all(second.start <= FOOTBALL.visible_at(event) < second.start + 1 for event in second.events)
    spoken = {int(second.start): second.text for second in seconds if second.text}
    assert [0, 5, 6, 11, 15, 20, 21, 22, 25, 30, 32, 34, 36, 37, 39] == list(spoken)
    assert sum(not second.text for second in seconds) > len(seconds) / 2


@pytest.mark.parametrize(
    ("claims", "text", "change", "remark"),
    [
        ([Claim("hold", "blue"), Claim("tally", "", (2, 1))], " Yellow have it. Still 2 to 1.", False, True),
        ([Claim("turnover", "yellow"), Claim("attack", "yellow")], " Blue win the ball. Blue attack.", True, False),
        ([Claim("attack", "blue")], " Yellow attack.", False, False),
        ([Claim("turnover", "yellow"), Claim("turnover", "blue")], None, None, None),
        ([Claim("turnover", "yellow"), Claim("shot", "yellow")], None, None, None),
        ([Claim("kick_off", "blue")], None, None, None),
        ([Claim("tally", "", (2, 1))], None, None, None),
        ([], None, None, None),
    ],
)
def test_a_slip_tells_the_same_of_the_other_side(
    claims: list[Claim], text: str | None, change: bool | None, remark: bool | None
):
    """Who wins the ball, attacks or has it is easily mistaken; a restart, a shot or a goal is not."""
    slip = slip_of(claims, random.Random(1), FOOTBALL)
    if text is None:
        assert slip is None
    else:
        assert slip is not None
        assert parse(slip.text, FOOTBALL) == parse(text, FOOTBALL)
        assert (claims[0].side, change, remark) == (slip.side, slip.change, slip.remark)


def test_goals_and_beginnings_are_told_with_the_minute_of_their_picture(folder: Path):
    """The clock runs 90 minutes in 300 seconds and begins anew with each match: second 25 shows 7, second 37 shows 11.
    What a clip shows keeps the minute of its own match, whenever it is shown."""

    def stamps(stream: Iterator[Second]) -> dict[int, str]:
        found = {int(s.start): re.match(r" (\d+)' [A-Z]", s.text) for s in stream}
        return {second: minute[1] for second, minute in found.items() if minute}

    match = Match(folder / "match_0000")
    clips = [Clip(match, 0, 2), Clip(match, 36, 39), Clip(match, 24, 27)]
    wanted = {0: "0", 25: "7", 37: "11", 40: "0", 65: "7", 77: "11"}
    assert wanted == stamps(football_stream(folder, 5, 80, draw=False))
    assert {0: "0", 3: "11", 6: "7"} == stamps(clip_stream(clips, 5, draw=False))


def test_the_next_match_begins_anew(folder: Path):
    """Times go on; the score and the kick-off do not."""
    stream = list(football_stream(folder, seed=1, seconds=90, draw=False))
    assert [float(n) for n in range(90)] == [second.start for second in stream]
    for start in (0, 40, 80):
        assert {"new_match", "kick_off"} == {event.kind for event in stream[start].events}
        assert (0, 0) == stream[start].state.score
        assert start + 0.5 == stream[start].state.time
    assert (1, 1) == stream[39].state.score
    assert [event.claim for event in stream[25].events] == [event.claim for event in stream[65].events]


def test_the_seed_orders_matches_and_words(tmp_path: Path):
    for number in range(6):  # told apart by the half second in which the ball is kicked off
        ball = hand_made()["ball"].copy()
        ball[:, 1] += np.float16(0.001 * number)
        write_match(tmp_path, number, pictures=1, ball=ball)

    def order(seed: int) -> tuple[list[float], list[str]]:
        stream = list(football_stream(tmp_path, seed, seconds=480, draw=False))
        return [round(s.state.y, 3) for s in stream[5::40]], [s.text for s in stream]

    assert order(3) == order(3)
    assert order(3)[0] != order(4)[0]
    assert order(3)[1] != order(4)[1]
    first, second = order(3)[0][:6], order(3)[0][6:]
    assert sorted(first) == sorted(second)  # each match once a round
    assert first != second


@pytest.mark.parametrize("kind", FOOTBALL.kinds)
def test_every_phrase_is_read_as_its_kind(kind: str):
    for phrase in FOOTBALL.phrases[kind]:
        line = phrase.format(side="blue", score="12 to 7")
        [claim] = parse(f" {line[0].upper()}{line[1:]}.", FOOTBALL)
        assert kind == claim.kind
        assert claim.side == ("blue" if "{side}" in phrase else "")
        assert claim.score == ((12, 7) if "{score}" in phrase else None)


def test_whole_match_reads_back(folder: Path):
    """Any wording of any second gives its claims back, in order."""
    told = [second.events for second in match_stream(Match(folder / "match_0000"), 0, draw=False)]
    for seed in range(50):
        for now in told:
            claims = [event.claim for event in now]
            assert claims == parse(write(claims, random.Random(seed), FOOTBALL), FOOTBALL)


@pytest.mark.parametrize(
    ("state", "line", "classes"),
    [
        ((-0.95, -0.4, 0.2, 1, ""), " Ball in the left third, top; blue have it, moving right; minute 45.",
         (0, 0, 1, 2, 0)),
        ((0.0, 0.0, 0.0, 0, "kick_off"), " Ball in the middle third, centre; yellow have it, still; minute 45.",
         (10, 5, 0, 0, 7)),
        ((1.1, 0.5, -0.3, 1, "corner"), " Ball in the right third, bottom; blue have it, moving left; minute 45.",
         (19, 9, 1, 1, 4)),
    ],
)  # fmt: skip
def test_state_line_and_classes(state: tuple[Any, ...], line: str, classes: tuple[int, ...]):
    x, y, speed, side, restart = state
    full = MatchState(0, 0.0, (3, 2), x, y, speed, side, restart, 1, (0.2, 0.02), (-0.99, 0.2), 45)
    assert line == describe_state(full)
    assert (*classes, 2, 1, 7, 2, 0, 12, 4, 5) == FOOTBALL.measure(full)
    later = full._replace(frame=900)
    assert FOOTBALL.measure(later)[4] == (1 if restart == "kick_off" else classes[4])
    assert all(0 <= c < n for c, n in zip(FOOTBALL.measure(full), FOOTBALL.fields.values(), strict=True))


def test_source_gives_the_pictures_and_the_truth_of_the_stream(folder: Path):
    """What a model watches and what it is judged by: 90 s over three matches, and no frame more."""
    stream = list(football_stream([folder / "match_0001", folder / "match_0000"], 0, 90, shuffle=False))
    options = SourceOptions(fps=2, end=90)
    with FootballSource([folder / "match_0001.mp4", folder / "match_0000.npz"], options) as source:
        frames, told = [], []
        for frame in source.frames():
            frames.append(frame)
            told += source.take_events()
        told += source.take_events()
    assert [k / 2 for k in range(180)] == [frame.time for frame in frames]
    assert (np.concatenate([second.frames for second in stream]) == np.stack([f.pixels for f in frames])).all()
    assert [event for second in stream for event in second.events] == told
    assert ("file", False, 320, 180) == (source.info.kind, source.info.live, source.info.width, source.info.height)


def test_source_starts_where_it_is_told(folder: Path):
    """The past is left out, its truth too; without an end it is over when every match was shown once."""
    with FootballSource(folder, SourceOptions(fps=1, start=37.5)) as source:
        frames = list(source.frames())
        assert [float(n) for n in range(38, 80)] == [frame.time for frame in frames]
        assert min(event.time for event in source.take_events()) == pytest.approx(37.2, abs=0.5)
        assert 80 == source.info.duration
    with FootballSource(folder, SourceOptions(end=2.5)) as source:
        assert [0, 0.5, 1, 1.5, 2] == [frame.time for frame in source.frames()]
    with pytest.raises(ConfigError, match="pictures a second"):
        FootballSource(folder, SourceOptions(fps=1.5))


def test_football_cannot_be_played():
    with pytest.raises(ConfigError, match="football is recorded"):
        FOOTBALL.make(0)


def test_a_match_that_is_not_there(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"no match_\*\.npz"):
        find_matches(tmp_path)
    with pytest.raises(SourceRefused, match="no such file"):
        read_record(tmp_path / "match_0000.npz")
    path = write_match(tmp_path, pictures=1)
    path.with_suffix(".mp4").unlink()
    with pytest.raises(SourceRefused, match=r"its \.npz is there"):
        next(football_stream(tmp_path, 0))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"score": None}, "lacks score"),
        ({"cards": np.zeros((7, 4), np.int8)}, r"cards has shape \(7, 4\), 401 steps need \(401, 4\)"),
        (
            {name: value[:9] for name, value in hand_made().items() if np.ndim(value)},
            "holds 9 steps, less than a second",
        ),
        ({"stride": 3}, "a picture every 3 steps of 0.1 s is not 2 a second"),
    ],
)
def test_a_damaged_state_says_what_is_wrong(tmp_path: Path, changed: dict[str, Any], message: str):
    path = write_match(tmp_path, pictures=1, **changed)
    with pytest.raises(SourceError, match=message):
        read_record(path)


def test_files_that_are_something_else(tmp_path: Path):
    path = tmp_path / "match_0000.npz"
    for content in (b"", b"PK\x03\x04 no", b"words"):
        path.write_bytes(content)
        with pytest.raises(SourceError, match="cannot be read"):
            read_record(path)
    write_match(tmp_path)
    path.with_suffix(".mp4").write_bytes(b"words")
    with pytest.raises(SourceError, match="cannot be decoded"):
        next(football_stream(tmp_path, 0))


def test_a_video_that_ends_early_is_named(tmp_path: Path):
    write_match(tmp_path, pictures=31)
    with pytest.raises(SourceError, match="ends after 31 pictures, its state has 80"):
        list(football_stream(tmp_path, 0, 40))


def test_rates_that_were_not_recorded(folder: Path):
    with pytest.raises(ConfigError, match="recorded at 2 pictures a second, 8 cannot"):
        next(football_stream(folder, 0, fps=8))


@pytest.mark.parametrize("fps", [2, 5, 10])
@pytest.mark.parametrize("coder", [{"g": "13", "bf": "3", "b-pyramid": "normal"}, {"g": "40", "preset": "veryfast"}])
def test_pictures_from_a_second_on_are_those_that_come_then(tmp_path: Path, fps: int, coder: dict[str, str]):
    """Whatever stands between key frames, and at either end; nothing before the key frame is decoded."""
    match = Match(write_match(tmp_path, coder=coder, video_fps=10, stride=1))
    whole = list(match.frames(fps))
    for start in (0, 1, 2, 13, 14, 25, 26, 39, 40, 41):
        part = list(match.frames(fps, start))
        assert [frame.time for frame in whole[start * fps :]] == [frame.time for frame in part]
        for one, two in zip(whole[start * fps :], part, strict=True):
            np.testing.assert_array_equal(one.pixels, two.pixels)
    with av.open(str(match.video)) as container:
        first, _ = next(match._decoded(container, 39))
    assert 340 < first <= 390
    slow = Match(write_match(tmp_path, coder=coder, rate=5, video_fps=10, stride=1))  # played at half its speed
    whole = [frame.pixels for frame in slow.frames(fps)]
    np.testing.assert_array_equal(whole[14 * fps :], [frame.pixels for frame in slow.frames(fps, 14)])
