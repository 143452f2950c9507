"""Boxing's truth against its picture, and what its events promise."""

import hashlib
import random
from collections import Counter
from functools import cache
from itertools import islice, pairwise

import numpy as np
import pytest

from neverblink.arcade.boxing import (
    BLACK_SCORE,
    BODY_HEIGHT,
    BODY_WIDTH,
    BOXING,
    COLON,
    HOLD_FRAMES,
    KNOCKOUT,
    MINUTES,
    SECONDS,
    WHITE_SCORE,
    BoxingGame,
    BoxingState,
    Style,
)
from neverblink.arcade.commentary import parse, write
from neverblink.arcade.emulator import Emulator, stick
from neverblink.arcade.events import GameEvent
from neverblink.errors import ConfigError

WHITE, BLACK, CLOCK = (214, 214, 214), (0, 0, 0), (20, 60, 0)
SCORE_ROWS, CLOCK_ROWS = slice(4, 14), slice(16, 26)
SCORE_COLUMNS = {"white": slice(30, 60), "black": slice(96, 126)}
CLOCK_COLUMNS = slice(56, 104)


def lit(pixels: np.ndarray, side: str) -> np.ndarray:
    """[10, 30] bool: the digits of one side's score."""
    return (pixels[SCORE_ROWS, SCORE_COLUMNS[side]] == {"white": WHITE, "black": BLACK}[side]).all(-1)


def clock_of(pixels: np.ndarray) -> np.ndarray:
    """[10, 48] bool: the digits of the clock."""
    return (pixels[CLOCK_ROWS, CLOCK_COLUMNS] == CLOCK).all(-1)


@cache
def console() -> Emulator:
    emulator = Emulator("boxing")  # starting one takes a tenth of a second
    emulator.step(0)
    return emulator


@cache
def drawn_score(points: int, side: str) -> np.ndarray:
    """How the console draws a score that is written into its memory; 100 is KO."""
    return lit(
        picture_with({WHITE_SCORE if side == "white" else BLACK_SCORE: KNOCKOUT if points == 100 else decimal(points)}),
        side,
    )


@cache
def drawn_clock(seconds: int) -> np.ndarray:
    return clock_of(picture_with({MINUTES: seconds // 60 << 4 | COLON, SECONDS: decimal(seconds % 60)}))


def decimal(number: int) -> int:
    return int(str(number), 16)


def picture_with(memory: dict[int, int]) -> np.ndarray:
    snapshot = console().save()
    for address, value in memory.items():
        console().poke(address, value)
    console().step(0)
    pixels = console().pixels
    console().restore(snapshot)
    return pixels


def check_picture(state: BoxingState, pixels: np.ndarray) -> None:
    """The score and the clock of the state are those in the picture."""
    for side, points in zip(BOXING.sides, state.score, strict=True):
        np.testing.assert_array_equal(drawn_score(points, side), lit(pixels, side), str(state))
    np.testing.assert_array_equal(drawn_clock(state.clock), clock_of(pixels), str(state))


def events_of(game: BoxingGame, seconds: float) -> list[GameEvent]:
    for _ in islice(game, int(seconds * 60)):
        pass
    return game.take_events()


def test_every_score_and_clock_looks_different():
    """Otherwise comparing pictures would prove nothing."""
    for side in BOXING.sides:
        assert 101 == len({drawn_score(n, side).tobytes() for n in range(101)})
    assert 120 == len({drawn_clock(n).tobytes() for n in range(120)})


@pytest.mark.parametrize(("seed", "start", "clock"), [(0, (0, 0), 119), (1, (58, 59), 63), (2, (94, 95), 40)])
def test_score_and_clock_are_those_in_the_picture(seed: int, start: tuple[int, int], clock: int):
    """Exactly, in the frames around every change, too: neither early nor late."""
    game = BoxingGame(seed, start_score=start, clock=clock)
    assert (0, start, clock) == (game.state.frame, game.state.score, game.state.clock)
    check_picture(game.state, game.pixels)
    scores, before, near = {start}, game.state, 0
    for state in islice(game, 1500):
        near = 3 if (state.score, state.clock) != (before.score, before.clock) else near - 1
        if near > 0 or state.frame % 10 == 0:
            check_picture(state, game.pixels)
        scores.add(state.score)
        before = state
    assert len(scores) > 6


def box_of(pixels: np.ndarray, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Left, top, width and height of a colour in the ring, in pixels."""
    rows, columns = np.nonzero((pixels[37:178, 30:130] == colour).all(-1))
    return int(columns.min()) + 30, int(rows.min()) + 37, int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_memory_says_where_the_picture_shows_the_boxers(seed: int):
    """Bodies whose arms are drawn in are where the state says, to 2 pixels; a glove may cover black's
    top or bottom."""
    rng, game, compared = random.Random(seed), BoxingGame(seed, start_score="random"), Counter[str]()
    for state in islice(game, 2400):
        if rng.random() < 0.8:
            continue
        for side, colour, x, y, slack in (
            ("white", WHITE, state.white_x, state.white_y, 3),
            ("black", BLACK, state.black_x, state.black_y, 5),
        ):
            left, top, width, height = box_of(game.pixels, colour)
            assert top == pytest.approx(y, abs=slack)
            assert height == pytest.approx(BODY_HEIGHT, abs=slack)
            if width <= BODY_WIDTH + 1:
                assert left == pytest.approx(x, abs=2)
                compared[side] += 1
            else:
                assert x in range(left - 2, left + width - BODY_WIDTH + 4)
    assert min(compared.values()) > 100


@pytest.mark.parametrize(
    ("start", "clock", "shows"), [((30, 12), 3, "clock"), ((5, 40), 2, "clock"), ((96, 98), 60, "KO")]
)
def test_end_is_drawn_until_the_new_game(start: tuple[int, int], clock: int, shows: str):
    """The emulator stops before it draws 0:00 or KO; the picture that is held must show it all the same."""
    game = BoxingGame(1, start_score=start, clock=clock)
    while not (events := [e for e in game.take_events() if e.kind in ("game_over", "draw")]):
        next(game)
    assert (shows == "clock") == (game.state.clock == 0)
    assert (shows == "KO") == (100 in game.state.score)
    assert [game.state.score] == [event.score for event in events]
    score = game.state.score
    for held in islice(game, HOLD_FRAMES):
        assert score == held.score
        check_picture(held, game.pixels)
    assert [] == game.take_events()
    next(game)
    assert (0, 0) == game.state.score
    assert ["new_game"] == [event.kind for event in game.take_events()]
    check_picture(game.state, game.pixels)


def test_equal_scores_end_in_a_draw():
    """A draw has no winner, and reads well."""
    for seed in range(30):
        game = BoxingGame(seed, start_score=(50, 50), clock=1)
        last = events_of(game, 1.5)[-1]
        a, b = game.state.score
        assert ("draw" if a == b else "game_over", "" if a == b else "white" if a > b else "black") == last.claim[:2]
        if a == b:
            break
    assert last.kind == "draw"
    assert " Game over, a draw, 50 to 50." in {write([last.claim], random.Random(n), BOXING) for n in range(9)}


def test_seconds_pass_as_on_the_clock():
    """The clock loses one second every 60 frames, and one minute left is told when it shows 1:00."""
    game = BoxingGame(0, start_score=(1, 2), clock=63)
    changes = [(a, b) for a, b in pairwise(islice(game, 600)) if a.clock != b.clock]
    assert all(b.clock == a.clock - 1 for a, b in changes)
    assert {60} == {b[1].frame - a[1].frame for a, b in pairwise(changes)}
    at = [b.time for _, b in changes if b.clock == 60]
    assert at == [event.time for event in game.take_events() if event.kind == "minute"]


@pytest.mark.parametrize("seed", [1_000_000])
def test_ten_minutes_hold_every_kind_for_both_sides(seed: int):
    """Blows add one or two points to their side's score; games end at 0:00 or 100 and start again from 0 to 0."""
    game = BoxingGame(seed, start_score="random")
    score, events = game.state.score, events_of(game, 600)
    assert [event.time for event in events] == sorted(event.time for event in events)
    for event in events:
        assert event.score is not None or event.kind == "minute"
        if event.kind == "punch":
            gained = event.score[0] - score[0], event.score[1] - score[1]
            assert gained in {"white": ((1, 0), (2, 0)), "black": ((0, 1), (0, 2))}[event.side]
            score = event.score
        elif event.kind in ("game_over", "draw"):
            assert score == event.score
            winner = "" if score[0] == score[1] else "white" if score[0] > score[1] else "black"
            assert (winner == "", winner) == (event.kind == "draw", event.side)
        elif event.kind == "new_game":
            score = (0, 0)
            assert score == event.score
    told = Counter((event.kind, event.side) for event in events)
    blows = told["punch", "white"], told["punch", "black"]
    assert 0.25 < blows[0] / sum(blows) < 0.75
    assert sum(blows) > 200
    assert told["new_game", ""] >= 4
    assert told["minute", ""] >= 3


def test_both_sides_win():
    """From equal scores, each boxer wins some of a few short games."""
    games = (BoxingGame(seed, start_score=(50, 50), clock=10) for seed in range(10))
    assert {"white", "black"} <= {event.side for game in games for event in events_of(game, 11) if "over" in event.kind}


def test_same_seed_fights_the_same_fight():
    """States, events and pictures follow from the seed; another seed fights another fight."""

    def fingerprint(seed: int) -> str:
        game, digest = BoxingGame(seed, start_score="random"), hashlib.sha256()
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
        game = BoxingGame(seed, start_score="random")
        assert [] == game.take_events()
        assert (0, 0.0) == game.state[:2]
        check_picture(game.state, game.pixels)
        starts.add((game.state.score, game.state.clock))
    assert 12 == len(starts)
    assert ["new_game"] == [event.kind for event in BoxingGame(0).take_events()]


def test_benchmark_seeds_bring_styles_that_training_never_draws():
    """Each of their skills comes from tenths of the range that training leaves out."""
    skills = {
        stranger: [Style.draw(random.Random(n), stranger=stranger).attack for n in range(300)]
        for stranger in (False, True)
    }
    tenths = {stranger: {int((x - 0.5) / 0.5 * 10) for x in drawn} for stranger, drawn in skills.items()}
    assert tenths == {True: {2, 5, 8}, False: {0, 1, 3, 4, 6, 7, 9}}
    assert int((BoxingGame(1_000_000).style.attack - 0.5) / 0.5 * 10) in tenths[True]
    assert int((BoxingGame(999_999).style.attack - 0.5) / 0.5 * 10) in tenths[False]


def test_fields_and_line_tell_what_the_picture_shows():
    """The line and the classes are those of the state; fresh scores count from the last picture on."""
    state = BoxingState(0, 0.0, 35, 42, 112, 121, 67, 3, 7, (3, 100))
    assert (
        " White far left, high; black far right, low; score 3 to 100; clock 1:07."
        == BOXING.describe(state)
        != BOXING.describe(state._replace(white_x=70))
    )
    fields = dict(zip(BOXING.fields, BOXING.measure(state), strict=True))
    assert (1, -1) == (fields["white landed"], fields["black landed"])
    assert (0, 3, 10, 0) == tuple(fields[n] for n in ("white tens", "white units", "black tens", "black units"))
    assert (1, 0, 7) == tuple(fields[n] for n in ("minutes", "tens of seconds", "seconds"))
    assert 0 == dict(zip(BOXING.fields, BOXING.measure(state._replace(white_landed=8)), strict=True))["white landed"]
    for seed in range(3):
        for shown in islice(BoxingGame(seed, start_score="random"), 300):
            for value, classes in zip(BOXING.measure(shown), BOXING.fields.values(), strict=True):
                assert -1 <= value < classes


def test_fresh_score_differs_from_the_last_picture():
    """What `landed` says is what two pictures 7 or 8 frames apart show."""
    game = BoxingGame(3, start_score=(20, 30), clock=100)
    pictures, fresh = [game.pixels], Counter[int]()
    for state in islice(game, 900):
        pictures = [*pictures[-8:], game.pixels]
        if len(pictures) < 9:
            continue
        measured = dict(zip(BOXING.fields, BOXING.measure(state), strict=True))
        for side in BOXING.sides:
            changed = [bool((lit(pictures[-1 - ago], side) != lit(pictures[-1], side)).any()) for ago in (7, 8)]
            expected = int(changed[0]) if changed[0] == changed[1] else -1
            assert expected == measured[f"{side} landed"]
            fresh[expected] += 1
    assert min(fresh.values()) > 5


def test_commentary_is_read_back():
    """What is written of real seconds parses to the last blow of each side and everything else."""
    game = BoxingGame(5, start_score="random", clock=62)
    events = events_of(game, 75)
    for second in range(75):
        claims = [event.claim for event in events if BOXING.second_of(event) == second]
        last = {(claim.kind, claim.side): claim for claim in claims}
        said = parse(write(claims, random.Random(second), BOXING), BOXING)
        assert sorted(last.values(), key=str) == sorted(said, key=str)
    assert {"punch", "minute"} <= {event.kind for event in events}


def test_impossible_starts_are_refused():
    with pytest.raises(ConfigError, match=r"start score \(100, 0\): each side needs 0 to 99"):
        BoxingGame(0, start_score=(100, 0))
    with pytest.raises(ConfigError, match=r"clock 120: needs 1 to 119 seconds left"):
        BoxingGame(0, start_score=(1, 0), clock=120)


def test_stick_actions_are_the_emulators():
    """Every way, with the button and without, by the emulator's own names."""
    ale_py = pytest.importorskip("ale_py")
    for fire in (False, True):
        for dx, across in ((-1, "LEFT"), (0, ""), (9, "RIGHT")):
            for dy, along in ((-9, "UP"), (0, ""), (1, "DOWN")):
                name = along + across + ("FIRE" if fire else "")
                assert ale_py.Action[name or "NOOP"].value == stick(dx, dy, fire)
