"""Clips of matches are told as one match: the score goes on, and nothing is said that rests on what was not shown."""

from collections.abc import Iterator
from itertools import cycle, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neverblink.arcade.commentary import parse
from neverblink.arcade.events import Claim
from neverblink.football.clips import Clip, retell
from neverblink.football.commentary import FOOTBALL
from neverblink.football.matches import Match
from neverblink.football.streams import clip_stream, match_stream
from neverblink.football.truth import events
from tests.football.recording import hand_made, write_match


@pytest.fixture
def match(tmp_path: Path) -> Match:
    return Match(write_match(tmp_path))


def long_match(folder: Path) -> Match:
    """Three times the hand-made match: 120 s, six goals, a fourth goal in five minutes and a minute of one side."""
    arrays: dict[str, Any] = {}
    for name, values in hand_made().items():
        if np.ndim(values):
            parts = [values[1:] + (part if name == "score" else 0) * values[-1] for part in range(3)]
            arrays[name] = np.concatenate([values[:1], *parts])
    arrays["ball_owned_team"] = np.where(arrays["ball_owned_team"] < 0, -1, np.arange(1201) % 900 > 890).astype(np.int8)
    return Match(write_match(folder, pictures=1, **arrays))


def told(clips: list[Clip]) -> list[tuple[float, Claim]]:
    return [(round(event.time, 4), event.claim) for event in retell(clips)[0]]


def test_a_whole_match_is_told_as_it_was(match: Match, tmp_path: Path):
    for whole in (match, long_match(tmp_path)):
        true = sorted(events(whole.record), key=FOOTBALL.visible_at)
        shown = [event for event in true if FOOTBALL.second_of(event) < whole.seconds]
        found, ahead = retell([Clip(whole, 0, whole.seconds)])
        assert shown == [event for event in found if FOOTBALL.second_of(event) < whole.seconds]
        assert [(0, 0)] == ahead
    assert {"second_goal", "third_goal", "fourth_goal", "spell"} < {event.kind for event in found}


def test_goals_count_on_from_clip_to_clip(match: Match):
    clips = [Clip(match, 0, 30), Clip(match, 20, 28), Clip(match, 30, 40), Clip(match, 1, 10)]
    scores = [(time, claim.kind, claim.score) for time, claim in told(clips) if claim.score]
    assert scores == [
        (0, "new_match", (0, 0)),
        (25.5, "goal", (1, 0)),
        (30 + 5.5, "goal", (2, 0)),
        (38 + 7.1, "goal", (2, 1)),
    ]
    reminders = [(time, claim.kind) for time, claim in told(clips) if claim.kind.endswith("_goal")]
    assert [(35.5, "second_goal"), (45.1, "third_goal")] == reminders
    assert [(0, 0), (1, 0), (1, 0), (2, 1)] == retell(clips)[1]


def test_nothing_of_the_seconds_left_out_is_told(match: Match):
    """A shot at 20.1 s is seen in second 20, the save behind it in second 21, the corner in second 22."""
    kinds = [claim.kind for _, claim in told([Clip(match, 0, 4), Clip(match, 21, 22)])]
    assert ["new_match", "kick_off", "save"] == kinds


def test_a_minute_of_which_a_part_is_missing_is_not_summed_up(tmp_path: Path):
    match = long_match(tmp_path)
    [spell] = {FOOTBALL.second_of(event) for event in events(match.record) if event.kind == "spell"} - {119}
    assert 59 == spell
    for start, end, summed in ((0, 60, True), (0, 59, False), (1, 60, False)):
        clips = [Clip(match, 0, 5), Clip(match, start, end)] if start else [Clip(match, start, end)]
        assert summed == ("spell" in {claim.kind for _, claim in told(clips)})


def test_a_stream_of_clips_shows_and_tells_the_same_seconds(match: Match):
    """The pictures get lighter by 4 each second, so a picture tells when it was taken; words, states and cuts agree."""
    clips = [Clip(match, 0, 10), Clip(match, 22, 30), Clip(match, 35, 40)]
    own = [*range(10), *range(22, 30), *range(35, 40)]
    stream = list(clip_stream(clips, 3, start=100))
    whole = list(match_stream(match, 3))
    assert [float(100 + n) for n in range(23)] == [second.start for second in stream]
    assert [110, 118] == [second.start for second in stream if second.cut]
    for second, at in zip(stream, own, strict=True):
        np.testing.assert_array_equal(whole[at].frames, second.frames)
        assert second.start + 0.5 == second.state.time
        assert whole[at].state_text == second.state_text
        assert [event.claim for event in second.events] == parse(second.text, FOOTBALL)
        assert all(second.start <= FOOTBALL.visible_at(event) < second.start + 1 for event in second.events)
    stated = [second.state.score for second in stream if second.state.score != (0, 0)]
    assert [(1, 0)] * 7 + [(1, 1)] * 3 == stated


def test_a_remark_that_is_not_made_stays_due(match: Match, monkeypatch: pytest.MonkeyPatch):
    """Words of what happens are in seconds 0, 6, 11 and 15."""
    monkeypatch.setattr("neverblink.football.remarks.QUIET", 2)

    def remarks(remarked: Iterator[bool]) -> list[int]:
        stream = clip_stream([Clip(match, 0, 20)], 3, draw=False, remarked=lambda: next(remarked))
        return [int(second.start) for second in stream if any(event.kind == "hold" for event in second.events)]

    assert [2, 4, 8, 10, 13, 17, 19] == remarks(repeat(True))
    assert [3, 8, 13, 18] == remarks(cycle([False, True]))
