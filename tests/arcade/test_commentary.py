"""Lines of commentary: written from events, read back from lines, by one phrase table."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neverblink.arcade.commentary import (
    MOST_WORDS,
    parse,
    shorten,
    write,
    write_second,
)
from neverblink.arcade.events import Claim, GameEvent
from neverblink.arcade.pong import PONG, PongState, describe

sides = st.sampled_from(["left", "right"])
scores = st.tuples(st.integers(0, 21), st.integers(0, 21))
claims = st.one_of(
    st.builds(Claim, st.sampled_from(["serve", "hit"]), sides, st.none()),
    st.builds(Claim, st.sampled_from(["point", "game_over"]), sides, scores),
    st.builds(Claim, st.just("new_game"), st.just(""), scores),
)


@given(st.lists(claims, max_size=6), st.integers(0, 1000))
def test_parse_gives_back_what_was_written(said: list[Claim], seed: int):
    """Whatever the phrasing, a line says its claims, all of them, in order (hits that did not fit are left out)."""
    assert shorten(said, PONG) == parse(write(said, random.Random(seed), PONG), PONG)


@pytest.mark.parametrize("kind", PONG.kinds)
def test_every_phrase_is_understood(kind: str):
    """Each entry of the table, capital letter and full stop on it, is read as its own kind."""
    for phrase in PONG.phrases[kind]:
        line = phrase.format(side="right", score="12 to 7")
        [claim] = parse(f" {line[0].upper()}{line[1:]}.", PONG)
        assert kind == claim.kind
        assert claim.side == ("right" if "{side}" in phrase else "")
        assert claim.score == ((12, 7) if "{score}" in phrase else None)


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ([], ""),
        ([Claim("hit", "left")], " Left hits."),
        ([Claim("hit", "left"), Claim("hit", "right")], " Left hits, right hits."),
        ([Claim("serve", "left")], " Serve to the left."),
        ([Claim("hit", "left"), Claim("point", "left", (4, 2))], " Left hits. Left scores, 4 to 2."),
        (
            [Claim("point", "right", (15, 21)), Claim("game_over", "right", (15, 21))],
            " Right scores, 15 to 21. Game over, right wins 15 to 21.",
        ),
        ([Claim("new_game", "", (0, 0))], " A new game, 0 to 0."),
    ],
)
def test_line_reads_as_a_commentator_speaks(said: list[Claim], line: str):
    class First(random.Random):
        def random(self) -> float:
            return 0.0

    assert line == write(said, First(), PONG)


@given(st.lists(claims.filter(lambda c: c.kind in ("hit", "point")), max_size=20).filter(
    lambda said: sum(c.kind == "point" for c in said) < 3), st.integers(0, 99))  # fmt: skip
def test_lines_stay_short(said: list[Claim], seed: int):
    """Too many hits for one second lose the oldest ones; points never go."""
    text = write(said, random.Random(seed), PONG)
    assert len(text.split()) <= MOST_WORDS
    assert [c for c in said if c.kind == "point"] == [c for c in parse(text, PONG) if c.kind == "point"]


@pytest.mark.parametrize("text", ["", " Nothing here.", " Left.", " Righthits.", " scores, 3 to 5", " Left scores, 3."])
def test_words_that_are_no_phrase_claim_nothing(text: str):
    assert [] == parse(text, PONG)


def test_event_belongs_to_the_second_whose_pictures_show_it():
    """At 8 pictures a second the last one of a second is at .875; a point right after it is the next second's."""
    assert 4 == PONG.second_of(GameEvent(4.85, Claim("point", "left", (1, 0))))
    assert 5 == PONG.second_of(GameEvent(4 + 53 / 60, Claim("point", "left", (1, 0))))
    assert 4 == PONG.second_of(GameEvent(4.75, Claim("hit", "left")))
    assert 5 == PONG.second_of(GameEvent(4.8, Claim("hit", "left")))
    assert 0 == PONG.second_of(GameEvent(0.0, Claim("new_game", "", (0, 0))))


def test_only_the_events_of_a_second_are_written():
    events = [GameEvent(1.5, Claim("hit", "left")), GameEvent(2.5, Claim("hit", "right"))]
    assert [Claim("hit", "right")] == parse(write_second(2, events, 0, PONG), PONG)
    assert "" == write_second(3, events, 0, PONG)


@pytest.mark.parametrize(
    ("ball", "expected"),
    [
        ((True, 20, 36, 1), " Ball far left, top, moving right; paddles high, bottom; score 3 to 5."),
        ((True, 79, 112, -2), " Ball centre, middle, moving left; paddles high, bottom; score 3 to 5."),
        ((True, 157, 190, 4), " Ball far right, bottom, moving right; paddles high, bottom; score 3 to 5."),
        ((False, -49, -14, 0), " No ball; paddles high, bottom; score 3 to 5."),
    ],
)
def test_state_line_says_where_everything_is(ball: tuple[bool, int, int, int], expected: str):
    assert expected == describe(PongState(0, 0.0, *ball, left_y=68, right_y=178, score=(3, 5)))
