"""Tennis' truth against its picture, and what its events promise."""

import hashlib
import random
from collections import Counter
from functools import cache
from itertools import islice, pairwise

import numpy as np
import pytest

from neverblink.arcade.commentary import parse, write
from neverblink.arcade.emulator import Emulator
from neverblink.arcade.events import GameEvent
from neverblink.arcade.tennis import (
    ADVANTAGE,
    BLUE_SIGN,
    DEUCE,
    HOLD_FRAMES,
    PINK_SIGN,
    PLAYER_HEIGHT,
    PLAYER_WIDTH,
    SIGNS,
    TENNIS,
    Style,
    TennisGame,
    TennisState,
)
from neverblink.errors import ConfigError

PINK, BLUE, BALL, SHADOW = (240, 128, 128), (117, 128, 240), (236, 236, 236), (74, 74, 74)
BOARD = slice(2, 14)  # rows
SIGN_SHIFT = 81  # the address that moves two signs together, for words such as DEU CE
PERFECT = Style(miss=0.0, edge=0.6, forward=0, lazy=0)


def board_of(pixels: np.ndarray) -> np.ndarray:
    """[12, 160] 0, 1 or 2: nothing, pink or blue in the rows of the score."""
    rows = pixels[BOARD]
    return (rows == PINK).all(-1) + 2 * (rows == BLUE).all(-1)


@cache
def console() -> Emulator:
    emulator = Emulator("tennis")  # starting one takes a tenth of a second
    for _ in range(5):
        emulator.step(0)
    return emulator


@cache
def drawn_board(signs: tuple[int, int]) -> np.ndarray:
    """How the console draws two signs that are written into its memory."""
    snapshot = console().save()
    console().poke(PINK_SIGN, signs[0])
    console().poke(BLUE_SIGN, signs[1])
    console().poke(SIGN_SHIFT, 3 if signs[0] in (DEUCE, ADVANTAGE) else 0)
    console().step(0)
    board = board_of(console().pixels)
    console().restore(snapshot)
    return board


def boxes_of(pixels: np.ndarray, colour: tuple[int, int, int]) -> tuple[int, int] | None:
    """Left column and top row of a colour below the board and above the sign of the maker."""
    rows, columns = np.nonzero((pixels[14:190] == colour).all(-1))
    return (int(columns.min()), int(rows.min()) + 14) if len(rows) else None


def events_of(game: TennisGame, seconds: float) -> list[GameEvent]:
    for _ in islice(game, int(seconds * 60)):
        pass
    return game.take_events()


def test_every_score_looks_different():
    """Otherwise comparing pictures would prove nothing; only the two zeros are alike."""
    looks = {sign: drawn_board((n, n)).tobytes() for n, sign in enumerate(SIGNS)}
    assert len(set(looks.values())) == len(looks) == 16


@pytest.mark.parametrize(("seed", "start"), [(0, "random"), (1, (40, 30)), (2, (30, 40)), (3, None)])
def test_signs_are_those_in_the_picture(seed: int, start: tuple[int, int] | None):
    """Exactly, in the frames around every change, too: neither early nor late."""
    game = TennisGame(seed, start_score=start)
    if isinstance(start, tuple):
        assert start == game.state.score
    before, near, seen = game.state, 3, set()
    for state in islice(game, 3000):
        near = 3 if state.signs != before.signs else near - 1
        if near > 0 or state.frame % 20 == 0:
            np.testing.assert_array_equal(drawn_board(state.signs), board_of(game.pixels), str(state))
        seen.add(state.signs)
        before = state
    assert len(seen) > 2


@pytest.mark.parametrize("signs", [(13, 16), (15, 14), (8, 9), (10, 12), (3, 5)])
def test_score_is_what_the_signs_say(signs: tuple[int, int]):
    called = {"DEU": 40, "CE": 40, "AD": 40, "IN": 40, "OUT": 40}
    game = TennisGame(0)
    game._emulator.poke(PINK_SIGN, signs[0])
    game._emulator.poke(BLUE_SIGN, signs[1])
    score = next(game).score
    assert tuple(called.get(SIGNS[n]) or int(SIGNS[n]) for n in signs) == score


@pytest.mark.parametrize("seed", [0, 1])
def test_memory_says_where_the_picture_shows_ball_and_shadow(seed: int):
    """Columns and rows to a pixel; where the measure says -1 nothing is to be seen, but for a few frames."""
    rng, game, compared, wrong = random.Random(seed), TennisGame(seed, start_score="random"), Counter[str](), 0
    for state in islice(game, 3000):
        if rng.random() < 0.8:
            continue
        measured = dict(zip(TENNIS.fields, TENNIS.measure(state), strict=True))
        ball, shadow = boxes_of(game.pixels, BALL), boxes_of(game.pixels, SHADOW)
        if ball and measured["ball y"] >= 0:
            assert ball[0] == pytest.approx(state.ball_x, abs=1)
            assert ball[1] == pytest.approx(state.ball_y, abs=2)
            compared["ball"] += 1
        if shadow and measured["shadow y"] >= 0:
            assert shadow[0] == pytest.approx(state.ball_x, abs=1)
            assert shadow[1] == pytest.approx(state.shadow_y, abs=2)
            compared["shadow"] += 1
        assert state.ball_x > 0 or not state.there, "a ball in the first column has left the court"
        if not state.there:
            assert ball is None
            compared["none"] += 1
        # Rackets cover a ball now and then.
        wrong += ball is None and measured["ball y"] >= 0
    assert min(compared["ball"], compared["shadow"], compared["none"]) > 20
    assert wrong < 0.05 * sum(compared.values())


def test_memory_says_where_the_picture_shows_the_players():
    """Heads and feet are where the state says, in each player's own colour, at either end."""
    compared, ends = Counter[str](), set()
    games = [TennisGame(seed, start_score="random") for seed in range(5)]
    for n, state in ((n, state) for n, game in enumerate(games) for state in islice(game, 1500)):
        if state.frame % 25:
            continue
        pixels = games[n].pixels
        for side, colour, x, y in (
            ("pink", PINK, state.pink_x, state.pink_y),
            ("blue", BLUE, state.blue_x, state.blue_y),
        ):
            if x < 58 or x > 88:
                continue  # the lines have the players' colours
            around = (pixels[max(y - 12, 14) : min(y + PLAYER_HEIGHT + 12, 188), x - 12 : x + 28] == colour).all(-1)
            rows = np.nonzero(around.any(1))[0] + max(y - 12, 14)
            columns = np.nonzero(around.any(0))[0] + x - 12
            assert rows[0] == pytest.approx(y, abs=1)
            assert rows[-1] + 1 == rows[0] + PLAYER_HEIGHT
            assert columns[0] >= x - 1
            assert columns[-1] < x + PLAYER_WIDTH
            compared[side] += 1
        ends.add(state.pink_y < state.blue_y)
    assert min(compared.values()) > 60
    assert {True, False} == ends


def upper_colour(pixels: np.ndarray) -> str:
    """Whose colour the side lines of the upper half have."""
    lines = pixels[55:90]
    return "pink" if (lines == PINK).all(-1)[:, 20:42].sum() > (lines == BLUE).all(-1)[:, 20:42].sum() else "blue"


@pytest.mark.parametrize("seed", [1, 4])
def test_strokes_turn_the_ball_round_in_the_picture(seed: int):
    """After the upper player's stroke the shadow comes down the picture, after the lower one's it goes up; and
    between two strokes it never turns."""
    game = TennisGame(seed, start_score="random", style=Style(0.05, 0.6, 10, 5))
    shadows: list[tuple[int, int | None]] = []
    strokes: list[tuple[int, str, str]] = []
    for state in islice(game, 3600):
        shadow = boxes_of(game.pixels, SHADOW) if state.frame % 2 == 0 else None
        shadows.append((state.frame, shadow[1] if shadow else None))
        strokes += [(state.frame, e.side, upper_colour(game.pixels)) for e in game.take_events() if e.score is None
                    and e.kind in ("serve", "hit")]  # fmt: skip
    rows = {frame: row for frame, row in shadows if row is not None}
    told = Counter[str]()
    for frame, side, upper in strokes:
        after = [rows[n] for n in range(frame + 4, frame + 24) if n in rows]
        if len(after) > 3:
            assert (side == upper) == (after[-1] > after[0]), (frame, side)
            told[side] += 1
    for (start, *_), (end, *_) in pairwise(strokes):
        flight = [rows[n] for n in range(start + 4, end - 4) if n in rows]
        if end - start < 100 and len(flight) > 3:
            steps = {int(np.sign(b - a)) for a, b in pairwise(flight)} - {0}
            assert len(steps) == 1, (start, end)
    assert min(told["pink"], told["blue"]) > 10


def rules(events: list[GameEvent], points: list[int], games: list[int], last: str) -> Counter[tuple[str, str]]:
    """Reads events as an umpire: each has to follow from those before it by the rules of tennis."""
    called, told, serving = (0, 15, 30, 40), Counter[tuple[str, str]](), last == ""
    for event in events:
        side = TENNIS.sides.index(event.side) if event.side else -1
        told[event.kind, event.side] += 1
        if event.kind == "serve":
            assert serving
            serving, last = False, event.side
        elif event.kind == "hit":
            assert not serving
            assert event.side != last
            last = event.side
        elif event.kind == "new_game":
            assert event.score == (0, 0)
            points, games, serving = [0, 0], [0, 0], True
        else:
            assert not serving
            assert last in (event.side, "?"), "who strikes last wins the point"
            serving = True
            points[side] += 1
            mine, other = points[side], points[1 - side]
            if mine >= 4 and mine - other >= 2:
                games[side] += 1
                points = [0, 0]
                ends = games[side] == 7 or (games[side] == 6 and games[1 - side] < 5)
                assert (event.kind, event.score) == ("game_over" if ends else "game", tuple(games))
            elif mine == other >= 3:
                assert event.kind == "deuce"
            elif mine > 3:
                assert event.kind == "advantage"
            else:
                assert (event.kind, event.score) == ("point", tuple(called[n] for n in points))
    return told


def test_ten_minutes_hold_every_kind_for_both_sides():
    """Ten minutes of three streams follow the rules of tennis, and hold everything that is told."""
    told = Counter[tuple[str, str]]()
    for seed, seconds in ((7, 200), (1_000_000, 200), (5, 200)):
        game = TennisGame(seed, start_score="random")
        state = game.state
        last = "?" if state.ball_dy else ""
        told += rules(events_of(game, seconds), list(state.points), list(state.games), last)
    assert {
        (kind, side) for kind in ("serve", "hit", "point", "deuce", "advantage", "game") for side in TENNIS.sides
    } <= set(told)
    assert told["new_game", ""]


def test_both_sides_win_points_and_sets():
    """Good and bad players meet the console's; both win a share of the points, and sets."""
    points, sets = Counter[str](), set()
    for seed, style in ((3, PERFECT), (0, Style(0.3, 0.5, 10, 10))):
        game = TennisGame(seed, start_score="random", style=style)
        for event in events_of(game, 180):
            points[event.side] += event.kind not in ("serve", "hit", "game_over", "new_game")
            sets |= {event.side} if event.kind == "game_over" else set()
    assert 0.25 < points["pink"] / points.total() < 0.75
    assert {"pink", "blue"} == sets


def test_end_is_drawn_until_the_new_set():
    """The last game is on the board while the picture is held; then a new set starts from 0 to 0."""
    for seed in range(40):
        game = TennisGame(seed, start_score=(0, 40), style=Style(1.0, 0.0, 0, 0))
        if game.state.games[1] == 5 and game.state.games[0] < 5:
            break
    while not (over := [event for event in game.take_events() if event.kind == "game_over"]):
        next(game)
    score = game.state.games
    assert ("blue", score, 6) == (over[0].side, over[0].score, score[1])
    for held in islice(game, HOLD_FRAMES):
        assert (score, score) == (held.score, held.games)
        np.testing.assert_array_equal(drawn_board(score), board_of(game.pixels))
    assert [] == game.take_events()
    assert (0, 0) == next(game).score
    assert ["new_game"] == [event.kind for event in game.take_events()]
    np.testing.assert_array_equal(drawn_board((0, 0)), board_of(game.pixels))


def test_a_pause_that_the_console_never_ends_is_ended():
    game = TennisGame(1_000_001, start_score="random")
    last, longest = 0.0, 0.0
    for state in islice(game, 240 * 60):  # the console stops counting after 208 s
        for event in game.take_events():
            last = event.time
        longest = max(longest, state.time - last)
    assert 3 < longest < 8


def test_ends_change_with_the_games_wherever_a_stream_starts():
    """Pink is above after 0, 3, 4, 7 ... games and servers alternate, as in a set that was played from 0 to 0."""
    above, servers = dict[int, set[bool]](), dict[int, set[str]]()
    for seed in range(10):
        game = TennisGame(seed, start_score="random" if seed else None)
        for state in islice(game, 900):
            if state.ball_dy and game._in_rally:
                above.setdefault(sum(state.games) % 4, set()).add(state.pink_y < state.blue_y)
            for event in game.take_events():
                if event.kind == "serve":
                    servers.setdefault(sum(state.games) % 2, set()).add(event.side)
    assert {0: {True}, 1: {False}, 2: {False}, 3: {True}} == above
    assert {0: {"pink"}, 1: {"blue"}} == servers


def test_same_seed_plays_the_same_game():
    """States, events and pictures follow from the seed; another seed plays another game."""

    def fingerprint(seed: int) -> str:
        game, digest = TennisGame(seed, start_score="random"), hashlib.sha256()
        for state in islice(game, 600):
            digest.update(repr(state).encode())
            if state.frame % 100 == 0:
                digest.update(game.pixels.tobytes())
        digest.update(repr(game.take_events()).encode())
        return digest.hexdigest()

    assert fingerprint(7) == fingerprint(7)
    assert fingerprint(7) != fingerprint(8)


def test_random_start_is_silent_and_varied():
    """Nothing is told of what came before; a new game says so."""
    starts = set()
    for seed in range(12):
        game = TennisGame(seed, start_score="random")
        assert [] == game.take_events()
        assert (0, 0.0) == game.state[:2]
        np.testing.assert_array_equal(drawn_board(game.state.signs), board_of(game.pixels))
        starts.add((game.state.score, game.state.games))
    assert len(starts) > 9
    assert ["new_game"] == [event.kind for event in TennisGame(0).take_events()]


def test_benchmark_seeds_bring_styles_that_training_never_draws():
    """Each of their skills comes from tenths of the range that training leaves out."""

    def tenth(style: Style) -> int:
        return int((style.edge - 0.2) / 0.6 * 10)

    drawn = {s: {tenth(Style.draw(random.Random(n), stranger=s)) for n in range(300)} for s in (False, True)}
    assert drawn == {True: {2, 5, 8}, False: {0, 1, 3, 4, 6, 7, 9}}
    assert tenth(TennisGame(1_000_000).style) in drawn[True]
    assert tenth(TennisGame(999_999).style) in drawn[False]


STATE = TennisState(0, 0.0, True, 30, 150, 160, -2, 76, 24, 20, 152, (13, 15), (0, 2), (3, 4), (0, 30))


def test_line_and_fields_tell_what_the_picture_shows():
    """The line and the classes are those of the state, and deuce and advantage are told as drawn."""
    assert " Ball far left, low, flying up; pink centre, top; blue far left, bottom; score 0 to 30." == TENNIS.describe(
        STATE
    )
    assert TENNIS.describe(STATE._replace(there=False, signs=(8, 9))).startswith(" No ball; pink")
    assert TENNIS.describe(STATE._replace(signs=(8, 9))).endswith("bottom; deuce.")
    assert TENNIS.describe(STATE._replace(signs=(10, 12))).endswith("bottom; ad out.")
    assert " Ball far left, low, at rest;" in TENNIS.describe(STATE._replace(ball_dy=0))
    fields = dict(zip(TENNIS.fields, TENNIS.measure(STATE), strict=True))
    assert (3, 14, 15, 0, 1) == tuple(fields[n] for n in ("ball x", "ball y", "shadow y", "direction", "there"))
    assert (0, 14) == (fields["pink sign"], fields["blue sign"])
    for seed in range(3):
        for shown in islice(TennisGame(seed, start_score="random"), 600):
            assert len(TENNIS.describe(shown).split()) <= 22
            for value, classes in zip(TENNIS.measure(shown), TENNIS.fields.values(), strict=True):
                assert -1 <= value < classes


def test_commentary_is_read_back():
    """What is written of real seconds parses to the same claims, in every phrasing."""
    kinds = set()
    for seed in (0, 2):
        events = events_of(TennisGame(seed, start_score=(40, 30)), 120)
        for second in range(119):
            claims = [event.claim for event in events if TENNIS.second_of(event) == second]
            for n in range(4):
                assert claims == parse(write(claims, random.Random(n), TENNIS), TENNIS)
            kinds |= {claim.kind for claim in claims}
        assert max(Counter(TENNIS.second_of(event) for event in events).values()) <= 3
    assert {"serve", "hit", "point", "deuce", "advantage", "game"} <= kinds


@pytest.mark.parametrize("score", [(40, 40), (10, 0), (0, 60)])
def test_impossible_starts_are_refused(score: tuple[int, int]):
    with pytest.raises(
        ConfigError, match=r"start score \(\d+, \d+\): each side needs 0, 15, 30 or 40, and not both 40"
    ):
        TennisGame(0, start_score=score)
