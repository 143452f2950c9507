"""Double Dunk's truth against its picture, and what its events promise."""

import hashlib
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import astuple
from functools import lru_cache
from itertools import islice, pairwise

import numpy as np
import pytest

from neverblink.arcade.commentary import parse, write
from neverblink.arcade.double_dunk import (
    BALL_SIZE,
    DOUBLE_DUNK,
    GREEN,
    HOLD_FRAMES,
    PLAYER_WIDTH,
    DoubleDunkGame,
    DoubleDunkState,
    Style,
    describe,
    measure,
)
from neverblink.arcade.emulator import PICTURE
from neverblink.arcade.events import Claim, GameEvent, Score, Side
from neverblink.arcade.sport import sports
from neverblink.errors import ConfigError

BALL = (144, 72, 17)
SHIRTS = {"green": (45, 129, 105), "white": (236, 236, 236)}
PLAYERS = {"green": GREEN, "white": (1, 3)}
BELTS = (12, 15, 10, 12)  # pixels from the row below the feet up to the belt: tall green, tall white, small ones
COURT_ROWS = slice(46, 179)  # from the players' highest jump to their lowest foot
RIM = (slice(20, 52), slice(56, 104))
# The console's digits, as seen: 7 rows of 8 pixels, the leftmost pixel is the highest bit.
GLYPHS = (
    "70d8d8d8d8d870",
    "30703030303078",
    "70d81870c0d8f8",
    "70d8187018d870",
    "183878d8f81818",
    "f8d8c0f018d870",
    "70d8c0f0d8d870",
    "f8d81830306060",
    "70d8d870d8d870",
    "70d8d87818d870",
    "00000000000000",
)
SCORE_ROW, SCORE_CELLS = 9, ((38, 46), (102, 110))  # top; left columns of tens and units, green and white
TEXT_ROWS, GREEN_TEXT, WHITE_TEXT = slice(182, 189), slice(36, 54), 100
SECONDS = 60  # of each stream whose events are compared with pictures
# For the kinds that are compared with pictures: with the pictures so many frames from the event.
OFFSETS: dict[str, tuple[int, ...]] = {
    "point": (0, 1, int(DOUBLE_DUNK.visible_after["point"] * 60 + 1e-6), 60),
    "ball": (-2, 8),
    # Two players share a sprite, each in every other picture: an even number of frames apart the same are drawn.
    "inbound": (-2, 0, 2, 4),
    "shot": tuple(range(0, 150, 10)),
}


def read_score(pixels: np.ndarray) -> Score:
    """What the digits say; 0 where none is drawn."""

    def digit(column: int) -> int:
        bits = np.packbits(pixels[SCORE_ROW : SCORE_ROW + 7, column : column + 8].any(-1), axis=1)
        return GLYPHS.index(bits.tobytes().hex()) % 10

    green, white = (10 * digit(tens) + digit(units) for tens, units in SCORE_CELLS)
    return green, white


def read_attack(pixels: np.ndarray) -> Side:
    """Whose ball it is by the words under the court: OFF or DEF on green's side, or the colour of a message in the
    middle; "" while the words blink."""
    text = pixels[TEXT_ROWS]
    if text[:, GREEN_TEXT].any():
        return "white" if text[0, GREEN_TEXT.start].any() else "green"  # a D has a corner there, an O has none
    middle = text[:, GREEN_TEXT.stop : WHITE_TEXT]  # each side's own word blinks when it has chosen
    return next((side for side, colour in SHIRTS.items() if (middle == colour).all(-1).any()), "")


def find(pixels: np.ndarray, colour: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of a colour; of shirts on the court only."""
    rows = slice(20, 180) if colour == BALL else COURT_ROWS
    found = np.nonzero((pixels[rows] == colour).all(-1))
    return found[0] + rows.start, found[1]


def played(game: DoubleDunkGame, frames: int) -> Iterator[DoubleDunkState]:
    return islice(game, frames)


@lru_cache(maxsize=8)
def watched(seed: int) -> tuple[list[GameEvent], dict[int, np.ndarray]]:
    """The events of a stream, and by frame the pictures that they are compared with."""
    game = DoubleDunkGame(seed)
    events: list[GameEvent] = []
    shown: dict[int, np.ndarray] = {}
    wanted: set[int] = set()
    for state in played(game, SECONDS * 60):
        shown[state.frame] = game.pixels
        for event in game.take_events():
            events.append(event)
            wanted.update(round(event.time * 60) + offset for offset in OFFSETS.get(event.kind, ()))
        if state.frame - 10 not in wanted:
            shown.pop(state.frame - 10, None)
    return events, shown


def events_of(seed: int) -> list[GameEvent]:
    return watched(seed)[0]


def pictures(seed: int, kind: str) -> Iterator[tuple[GameEvent, list[np.ndarray]]]:
    """The events of a kind, each with its pictures; those too close to an end of the stream are left out."""
    events, shown = watched(seed)
    for event in events:
        frames = [round(event.time * 60) + offset for offset in OFFSETS.get(event.kind, ())]
        if event.kind == kind and shown.keys() >= set(frames):
            yield event, [shown[frame] for frame in frames]


@pytest.mark.parametrize("seed", [0, 1])
def test_memory_says_where_the_picture_shows_the_ball(seed: int):
    """When the whole ball is drawn: the console draws the row that is in memory and the column of one frame ago.

    And unless it is in a shot, it is at its holder."""
    game, exact, held = DoubleDunkGame(seed, start_score="random"), [], []
    drawn = game.state
    for state in played(game, 2400):
        if state.frame % 5 == 0:
            rows, columns = find(game.pixels, BALL)
            if len(rows) == BALL_SIZE**2 and np.ptp(rows) == np.ptp(columns) == BALL_SIZE - 1:
                assert drawn.ball_x == columns.min()
                exact.append(state.ball_y == rows.max() + 1)
                assert 0 <= rows.max() + 1 - state.ball_y <= 3  # in a few pictures the ball is drawn lower
        if not (state.shoots or state.chooses):
            held.append(state.ball_x - state.players[state.holder][0])
        drawn = state
    assert len(exact) > 80
    assert np.mean(exact) > 0.95
    assert len(held) > 80
    assert -4 <= min(held) <= max(held) <= 8


@pytest.mark.parametrize("seed", [0, 1])
def test_memory_says_where_the_picture_shows_the_players(seed: int):
    """All shirts, belts and shoes are in boxes of the players, and each player has its own belt where it has to be.

    The belt has the other side's colour. Not every player is drawn in every picture, and one may hide another."""
    game, seen = DoubleDunkGame(seed, start_score="random"), np.zeros(2, int)
    belts: list[Counter[int]] = [Counter() for _ in BELTS]
    drawn = game.state
    for state in played(game, 2400):
        if state.frame % 10 == 0:
            pixels = game.pixels[: COURT_ROWS.stop]
            worn = {side: (pixels == shirt).all(-1) for side, shirt in SHIRTS.items()}
            players, box = worn["green"] | worn["white"], np.zeros(pixels.shape[:2], bool)
            players[: COURT_ROWS.start] = False
            for player, (x, y) in enumerate(drawn.players):
                columns = slice(x, x + PLAYER_WIDTH)
                box[y - 21 : y, columns] = True
                belt = worn["green" if player in PLAYERS["white"] else "white"][y - 18 : y - 7, columns].sum(1) > 2
                belts[player].update((18 - np.nonzero(belt)[0]).tolist())
            seen += (players & box).sum(), players.sum()
        drawn = state
    assert seen[0] > 0.98 * seen[1]
    assert [belt.most_common(1)[0][0] for belt in belts] == list(BELTS)


@pytest.mark.parametrize("seed", range(2))
def test_score_and_attack_are_those_of_the_picture(seed: int):
    """Digits and words under the court say what the state says; a new score is drawn one frame later."""
    game, told = DoubleDunkGame(seed, start_score="random"), 0
    before = game.state
    for state in played(game, 3000):
        if state.frame % 4 == 0 and (state.score, state.attack) == (before.score, before.attack):
            pixels = game.pixels
            assert state.score == read_score(pixels)
            if attack := read_attack(pixels):
                assert max(state.score) >= 24 or state.attack == attack, state
                told += 1
        before = state
    assert told > 500


@pytest.mark.parametrize("score", [(0, 0), (9, 10), (16, 8), (17, 23), (4, 5)])
def test_start_score_is_drawn(score: Score):
    game = DoubleDunkGame(0, start_score=score)
    assert score == game.state.score == read_score(game.pixels)


def test_point_is_a_new_score_in_the_picture():
    """Points are counted one by one; the event comes with the last of a basket, and the score is two or three more."""
    gains = []
    for seed in range(4):
        score = (0, 0)
        for event, seen in pictures(seed, "point"):
            scorer = DOUBLE_DUNK.sides.index(event.side)
            assert [event.score] * 3 == [read_score(pixels) for pixels in seen[1:]]
            assert event.score[scorer] - 1 == read_score(seen[0])[scorer]
            assert event.score[1 - scorer] == score[1 - scorer]
            gains.append(event.score[scorer] - score[scorer])
            score = event.score
    assert {2, 3} == set(gains)


def test_won_ball_is_told_by_the_words_under_the_court():
    """Around a "ball" event the words change to the event's side."""
    told: dict[Side, int] = {"green": 0, "white": 0}
    for seed in range(4):
        for event, (before, after) in pictures(seed, "ball"):
            assert event.side != read_attack(before)
            assert event.side == (read_attack(after) or event.side)
            told[event.side] += bool(read_attack(after))
    assert min(told.values()) > 5


def test_inbound_sets_the_players_in_motion():
    """Shirts stand still before it and move behind it, and the words call its side the attacker."""
    told = 0
    for seed in range(4):
        for event, seen in pictures(seed, "inbound"):
            shirts = [np.stack([(pixels[COURT_ROWS] == shirt).all(-1) for shirt in SHIRTS.values()]) for pixels in seen]
            np.testing.assert_array_equal(shirts[0], shirts[1])
            assert (shirts[1] != shirts[2]).sum() > 50
            assert (shirts[2] != shirts[3]).sum() > 50
            assert event.side == read_attack(seen[-1])
            told += 1
    assert told > 10


def test_shot_flies_to_the_rim():
    """Behind every shot the ball is seen at the board; before every point its side has shot."""
    shots: dict[Side, int] = {"green": 0, "white": 0}
    for seed in range(4):
        for event, seen in pictures(seed, "shot"):
            assert any((pixels[RIM] == BALL).all(-1).any() for pixels in seen), event
            shots[event.side] += 1
        tried = [event for event in events_of(seed) if event.kind == "shot"]
        for event in (e for e in events_of(seed) if e.kind == "point"):
            assert any(shot.side == event.side and 0 < event.time - shot.time < 5 for shot in tried)
    assert min(shots.values()) > 10


@pytest.mark.parametrize("start", [(22, 0), (0, 22)])
def test_last_basket_ends_the_game_and_the_picture_stays(start: Score):
    """24 or more are drawn and stay for 2.5 s; then a new game starts, which says so."""
    game = DoubleDunkGame(3, start_score=start)
    claims: list[Claim] = []
    while not claims or claims[-1].kind != "game_over":
        next(game)
        claims += [event.claim for event in game.take_events()]
    score = game.state.score
    winner = DOUBLE_DUNK.sides[score[1] > score[0]]
    assert [Claim("point", winner, score), Claim("game_over", winner, score)] == claims[-2:]
    assert max(score) >= 24
    held = [(state, game.pixels) for state in played(game, HOLD_FRAMES)]
    for state, pixels in held[2:]:
        assert score == state.score == read_score(pixels)
        np.testing.assert_array_equal(held[2][1], pixels)
    assert [a.frame + 1 for a, _ in held[:-1]] == [b.frame for b, _ in held[1:]]
    while game.state.score == score:
        next(game)
        assert game.state.frame < held[-1][0].frame + 5
    assert [Claim("new_game", "", (0, 0))] == [event.claim for event in game.take_events()]
    assert (0, 0) == read_score(game.pixels)


def test_same_seed_plays_the_same_game():
    """States, events and pictures follow from the seed; another seed plays another game."""

    def fingerprint(seed: int) -> str:
        game, digest = DoubleDunkGame(seed, start_score="random"), hashlib.sha256()
        for state in played(game, 900):
            digest.update(repr(state).encode())
            if state.frame % 100 == 0:
                digest.update(game.pixels.tobytes())
        digest.update(repr(game.take_events()).encode())
        return digest.hexdigest()

    assert fingerprint(7) == fingerprint(7)
    assert fingerprint(7) != fingerprint(8)


def test_new_game_is_told_at_the_start_only_when_it_starts_there():
    assert ["new_game"] == [event.kind for event in DoubleDunkGame(0).take_events()]
    assert [] == DoubleDunkGame(0, start_score=(3, 5)).take_events()
    for seed in range(3):
        game = DoubleDunkGame(seed, start_score="random")
        assert [] == game.take_events()
        assert (0, 0.0) == game.state[:2]


def test_impossible_start_score_is_refused():
    with pytest.raises(ConfigError, match=r"start score \(24, 0\): each side needs 0 to 23"):
        DoubleDunkGame(0, start_score=(24, 0))


def test_ten_minutes_have_every_event_for_both_sides():
    """All kinds, less than one event a second on average, and a possible course of the score."""
    game = DoubleDunkGame(4)
    for _ in played(game, 10 * 60 * 60):
        pass
    events = game.take_events()
    for kind in ("inbound", "ball", "shot", "point"):
        assert {"green", "white"} == {event.side for event in events if event.kind == kind}
    assert set(DOUBLE_DUNK.kinds) == {event.kind for event in events}
    assert [event.time for event in events] == sorted(event.time for event in events)
    assert 250 < len(events) < 600
    for before, after in pairwise([event for event in events if event.score]):
        growth = (after.score[0] - before.score[0], after.score[1] - before.score[1])
        if after.kind == "point":
            assert growth in (((2, 0), (3, 0)) if after.side == "green" else ((0, 2), (0, 3)))
        elif after.kind == "game_over":
            assert (0, 0) == growth
            assert max(after.score) == after.score[DOUBLE_DUNK.sides.index(after.side)] >= 24
        else:
            assert ("game_over", (0, 0)) == (before.kind, after.score)
    points = [event.side for event in events if event.kind == "point"]
    assert 0.2 < points.count("green") / len(points) < 0.7


def test_strangers_play_in_styles_that_training_never_draws():
    """From seed 1,000,000 on every trait comes from other tenths of its range; the game asks the seed."""
    rng = random.Random(0)
    familiar = {int(Style.draw(rng, stranger=False).steal * 20) for _ in range(500)}
    strange = {int(Style.draw(rng, stranger=True).steal * 20) for _ in range(500)}
    assert set(range(10)) == familiar | strange
    assert set() == familiar & strange
    assert int(DoubleDunkGame(1_000_000).style.steal * 20) in strange
    assert int(DoubleDunkGame(999_999).style.steal * 20) in familiar
    styles = [astuple(DoubleDunkGame(seed).style) for seed in range(3)]
    assert len(set(styles)) == 3


def test_lines_are_read_back():
    """What was written of any claim is parsed to that claim."""
    rng = random.Random(0)
    for kind in DOUBLE_DUNK.kinds:
        for side in ("",) if kind == "new_game" else DOUBLE_DUNK.sides:
            claim = Claim(kind, side, (rng.randrange(27), 7) if kind in ("point", "game_over", "new_game") else None)
            for _ in range(20):
                assert [claim] == parse(write([claim], rng, DOUBLE_DUNK), DOUBLE_DUNK)


def test_dense_line_and_numbers_say_what_the_state_says():
    players = ((76, 90), (20, 100), (140, 170), (60, 130))
    state = DoubleDunkState(0, 0.0, 60, 60, players, 3, True, False, True, False, False, (3, 15))
    assert (
        " Ball left, high, in the air; white attacks; green centre, far right; white far left, left; score 3 to 15."
        == describe(state)
    )
    assert (7, 5, 1, 1, 9, 8, 2, 9, 17, 16, 7, 12, 0, 3, 1, 5) == measure(state)
    held = state._replace(ball_y=110)
    assert describe(held).startswith(" Ball left, middle; white attacks;")
    assert 0 == measure(held)[2]
    assert "green attacks" in describe(state._replace(holder=2))
    assert len(describe(state).split()) <= 22
    game = DoubleDunkGame(3, start_score="random")
    for state in played(game, 3000):
        for value, classes in zip(measure(state), DOUBLE_DUNK.fields.values(), strict=True):
            assert -1 <= value < classes


def test_sport_is_registered_and_complete():
    assert sports["double_dunk"] is DOUBLE_DUNK
    assert DOUBLE_DUNK.phrases.keys() == DOUBLE_DUNK.visible_after.keys()
    assert min(DOUBLE_DUNK.visible_after.values()) >= PICTURE
