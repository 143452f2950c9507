"""Streams to train on: pictures, events and words of the same second."""

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from neverblink.arcade.commentary import parse, shorten
from neverblink.arcade.pong import PONG, PongGame
from neverblink.bench.quality import read_truth
from neverblink.training.data import game_stream, write_mp4


def test_seconds_follow_each_other_and_are_full():
    """Second k starts at k and holds the pictures of [k, k + 1)."""
    seconds = list(game_stream(PONG, 1, 5, fps=8))
    assert [0.0, 1.0, 2.0, 3.0, 4.0] == [second.start for second in seconds]
    assert {(8, 210, 160, 3)} == {second.frames.shape for second in seconds}
    assert {np.dtype(np.uint8)} == {second.frames.dtype for second in seconds}


@pytest.mark.parametrize(("fps", "counts"), [(1, [1, 1, 1, 1]), (2.5, [3, 2, 3, 2]), (24, [24] * 4), (60, [60] * 4)])
def test_any_rate_gives_the_pictures_of_its_ticks(fps: float, counts: list[int]):
    """Tick k is at k / fps; a second holds those in it, whatever the rate."""
    assert counts == [len(second.frames) for second in game_stream(PONG, 1, 4, fps)]


def test_pictures_are_those_of_the_game_at_their_time():
    """Picture k of second s is the emulator's at s + k / 8, found by playing the game frame by frame."""
    game, pictures = PongGame(5, start_score="random"), {}
    pictures[0] = game.pixels
    for state in islice(game, 3 * 60):
        pictures[state.frame] = game.pixels
    for second in game_stream(PONG, 5, 3):
        for k, frame in enumerate(second.frames):
            np.testing.assert_array_equal(pictures[int((second.start + k / 8) * 60)], frame)
        assert int((second.start + 7 / 8) * 60) == second.state.frame


def test_every_event_is_told_once_and_in_its_second():
    """The texts, read back, are the truth: nothing lost, nothing twice, nothing early."""
    seconds = list(game_stream(PONG, 2, 120, fps=1, start_score=(19, 18)))
    for second in seconds:
        assert shorten([event.claim for event in second.events], PONG) == parse(second.text, PONG)
        assert all(PONG.second_of(event) == second.start for event in second.events)
    game = PongGame(2, start_score=(19, 18))
    while game.state.time < 119.9:
        next(game)
    told = [event for second in seconds for event in second.events]
    assert [event for event in game.take_events() if PONG.second_of(event) < 120] == told


def test_same_seed_gives_the_same_stream():
    def content(seed: int) -> list[tuple[bytes, str, str]]:
        return [(s.frames.tobytes(), s.text, s.state_text) for s in game_stream(PONG, seed, 8, fps=2)]

    assert content(3) == content(3)
    assert content(3) != content(4)


def test_mp4_and_truth_hold_the_stream(tmp_path: Path):
    """The file gives back the pictures nearly unchanged, the truth file the words and the events."""
    import av

    write_mp4(PONG, 6, 4, tmp_path / "a.mp4", tmp_path / "a.jsonl", fps=8)
    seconds = list(game_stream(PONG, 6, 4, fps=8))
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert "yuv444p" == container.streams.video[0].pix_fmt  # halved colour would blur a ball two pixels wide
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert 32 == len(frames)
    for second in seconds:
        for k, expected in enumerate(second.frames):
            error = np.abs(frames[int(second.start) * 8 + k].astype(int) - expected)
            assert error.mean() < 4
            white = (expected[34:194] == 236).all(-1)  # the ball keeps its brightness
            assert not white.any() or frames[int(second.start) * 8 + k][34:194][white].mean() > 180
    rows = [json.loads(row) for row in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [second.text for second in seconds] == [row["text"] for row in rows]
    events = [event for second in seconds for event in second.events]
    assert [event.claim for event in events] == [event.claim for event in read_truth(tmp_path / "a.jsonl")]
