"""Material to learn from: games that the benchmark never draws, matches that it never shows."""

from collections import Counter
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from neverblink.arcade.commentary import parse
from neverblink.arcade.sport import BINS
from neverblink.errors import ConfigError
from neverblink.football.commentary import FOOTBALL, measure
from neverblink.football.matches import Match, is_held_out
from neverblink.football.truth import states
from neverblink.training.arcade import COMMENTATE, DESCRIBE, LENGTH_TOLD, film, print_of
from neverblink.training.courses import BAR, LIGHT, ArcadeCourse, FootballCourse, Pair, courses_of, disturbed, mirrored
from neverblink.training.look import Pairs, fields_of
from neverblink.vision.pixels import PixelOptions, fit
from tests.football.recording import write_match

PIXELS = PixelOptions(patch=40, merge=4, min_pixels=25_600, max_pixels=51_200)  # as the recipe's sizes say


def test_games_follow_from_the_seed_and_never_from_one_of_the_benchmark(monkeypatch: pytest.MonkeyPatch):
    course = ArcadeCourse("pong", per_game=3)
    drawn: list[int] = []
    make = course.sport.make

    def spy(seed: int, **options: object) -> object:
        drawn.append(seed)
        return make(seed, **options)  # type: ignore[arg-type]

    object.__setattr__(course.sport, "make", spy)
    try:
        pairs = list(course.pairs(5_000_001))
        again = list(course.pairs(5_000_001))
        assert 2 == len(list(course.seconds(1_000_000, 2)))
    finally:
        object.__setattr__(course.sport, "make", make)
    assert [1, 1, 0] == drawn
    assert 3 == len(pairs)
    for (pictures, state, _), (same, _, _) in zip(pairs, again, strict=True):
        assert (2, 210, 160, 3) == pictures.shape
        np.testing.assert_array_equal(pictures, same)
        assert course.sport.describe(state)


@pytest.fixture(scope="module")
def matches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("matches")
    for number in (4, 5, 6):
        write_match(folder, number)
    return folder


def test_every_sixth_match_is_kept_for_the_benchmark(matches: Path, tmp_path: Path):
    course = FootballCourse(matches)
    assert ["match_0004", "match_0006"] == [path.stem for path in course.matches]
    write_match(tmp_path, 11)
    with pytest.raises(ConfigError, match="every match in it is kept for the benchmark"):
        FootballCourse(tmp_path)
    assert [n for n in range(24) if is_held_out(Path(f"match_{n:04d}.npz"))] == [5, 11, 17, 23]


def test_pairs_of_a_match_are_neighbours_with_the_state_of_the_later_one(
    matches: Path, monkeypatch: pytest.MonkeyPatch
):
    """The recording's pictures get lighter by 2 each half second, so a picture tells its number."""
    monkeypatch.setattr("neverblink.training.courses.disturbed", lambda pictures, rng: pictures)
    monkeypatch.setattr("neverblink.training.courses.mirrored", lambda pair: pair)
    monkeypatch.setattr("neverblink.training.courses.STRETCH", 1000)
    course = FootballCourse(matches)
    record = Match(course.matches[0]).record
    expected = {state.time: state for state in states(record, 2)}
    seen = list(islice(course.pairs(1), 20))
    for pictures, state, _ in seen:
        before, now = pictures.mean(axis=(1, 2, 3))
        assert abs(now - before - 2) <= 1
        assert abs(now - 16 - 4 * state.time) <= 1.5
        assert expected[state.time].x == pytest.approx(state.x, abs=1)
    assert len({state.time for _, state, _ in seen}) == 20


def test_a_restart_is_always_among_the_pairs(matches: Path, monkeypatch: pytest.MonkeyPatch):
    """They are rare, and most other pictures are left out. In a stream it may be the first of two pictures or the
    second, so it is to be named of both."""
    monkeypatch.setattr("neverblink.training.courses.STRETCH", 1000)
    course = FootballCourse(matches)
    record = Match(course.matches[0]).record
    monkeypatch.setattr(course, "matches", course.matches[:1])
    true = [state.time for state in states(record, 2)][1:]
    shown = list(states(record, 2))
    restarts = [now.time for before, now in pairwise(shown) if now.restart or before.restart]
    seen = [state for _, state, _ in course.pairs(1)]
    assert restarts == [state.time for state in seen if state.restart]
    assert any(before.restart and not now.restart for before, now in pairwise(shown))
    assert len(seen) - len(restarts) < 0.5 * (len(true) - len(restarts))


def test_pairs_are_taken_from_a_short_part_and_all_parts_come(matches: Path, monkeypatch: pytest.MonkeyPatch):
    """Then from another match, as neighbours are alike; the opening is in as many of them as in whole matches."""
    monkeypatch.setattr("neverblink.training.courses.STRETCH", 8)
    course = FootballCourse(matches)
    found = [[state for _, state, _ in course.pairs(seed)] for seed in range(40)]
    for states_of in found:
        times = [state.time for state in states_of]
        assert times == sorted(times)
        assert times[-1] - times[0] < 8
    begins = Counter(int(states_of[0].time) // 8 for states_of in found)
    assert set(range(5)) == set(begins)
    assert max(begins.values()) < 20


def test_a_disturbed_pair_is_lit_as_one_and_stays_where_it_is():
    pictures = np.zeros((2, 180, 320, 3), np.uint8)
    pictures[:, 90, 160] = 200
    lights = set()
    for seed in range(40):
        lit = disturbed(pictures, np.random.default_rng(seed))
        assert np.uint8 == lit.dtype
        np.testing.assert_array_equal(lit[0], lit[1])
        assert [(90, 160)] == [tuple(place) for place in np.argwhere(lit[0].sum(-1) > lit[0, 20, 0].sum())]
        lights.add(int(lit[0, 90, 160, 0]))
    assert len(lights) > 15
    assert max(abs(light - 200) for light in lights) <= LIGHT * (128 + 72) + 1
    assert 200 == pictures.max()


def test_a_mirrored_pair_is_true_of_the_mirrored_state(matches: Path):
    """What is named of it is what is named of the other with left and right exchanged; the score bar stays readable."""
    course = FootballCourse(matches)
    [(pictures, state, _), *_] = course.pairs(1)
    state = state._replace(x=0.33, speed_x=0.2, block=(-0.21, 0.43))
    before, spots = pictures.copy(), np.array([[0.25, 0.5, 1.0], [1.0, 0.125, 2.0]])
    other, told, there = mirrored(Pair(pictures, state, spots))
    assert [[0.75, 0.5, 1.0], [0.0, 0.125, 2.0]] == there.tolist()
    assert mirrored(Pair(pictures, state)).spots is None
    np.testing.assert_array_equal(before, pictures)
    np.testing.assert_array_equal(pictures[:, 40:, ::-1], other[:, 40:])
    np.testing.assert_array_equal(pictures[:, BAR[0]], other[:, BAR[0]])
    names = dict(zip(FOOTBALL.fields, zip(measure(state), measure(told), strict=True), strict=True))
    assert names.pop("way") == (2, 1)
    for name in ("column", "yellow block", "blue block"):
        one, two = names.pop(name)
        assert one != two == BINS - 1 - one
    assert all(one == two for one, two in names.values())
    back, again, same = mirrored(Pair(other, told, there))
    np.testing.assert_array_equal(pictures, back)
    np.testing.assert_array_equal(spots, same)
    assert again == state


def test_half_of_the_pairs_are_mirrored(matches: Path, monkeypatch: pytest.MonkeyPatch):
    course = FootballCourse(matches)
    whole = [state for _, state, _ in course.pairs(1)]
    monkeypatch.setattr("neverblink.training.courses.mirrored", lambda pair: pair)
    plain = [state for _, state, _ in course.pairs(1)]
    turned = sum(one.block != two.block for one, two in zip(whole, plain, strict=True))
    assert 0.3 < turned / len(whole) < 0.7


def test_the_score_bar_stays_as_it_is():
    """It is drawn over the picture: a camera does not move it, and no cloud passes over it."""
    pictures = np.random.default_rng(0).integers(0, 256, (2, 180, 320, 3), np.uint8)
    for seed in range(10):
        moved = disturbed(pictures, np.random.default_rng(seed))
        np.testing.assert_array_equal(pictures[:, *BAR], moved[:, *BAR])
        assert (pictures[:, 11:30, 50:152] != moved[:, 11:30, 50:152]).mean() > 0.5


def test_where_the_clock_is_read(matches: Path):
    """Its pixels, in the patch that they fall into; the fields are those of the sport."""
    course = FootballCourse(matches)
    fields = fields_of([course.sport])
    grid, where, columns = print_of(course, fields, PIXELS)
    assert [("minute tens", 10), ("minute units", 10)] == [fields[column] for column in columns]
    height, width = fit(*course.frame, PIXELS)
    assert (height // PIXELS.patch, width // PIXELS.patch) == grid
    (rows, across), _ = course.fine
    share = (rows.stop - rows.start) * (across.stop - across.start) / (course.frame[0] * course.frame[1])
    assert share == pytest.approx(float(where.float().mean()), rel=0.35)


def test_football_needs_its_folder():
    with pytest.raises(ConfigError, match="give --football FOLDER"):
        courses_of(["pong", "football"], None)


def test_pairs_of_all_courses_are_drawn_and_marked(matches: Path):
    """What the other sport asks for is unknown; the number of the sport comes first."""
    courses = courses_of(["pong", "football"], matches)
    fields = fields_of([course.sport for course in courses])
    pairs = list(islice(Pairs(courses, PIXELS, 1, live=4), 60))
    assert {0, 1} == {int(truth[0]) for _, _, truth, _ in pairs}
    of_football = [fields.index(field) for field in FOOTBALL.fields.items()]
    others = [i for i in range(1, len(fields)) if i not in of_football]
    for grid, patches, truth, cells in pairs:
        assert grid == ((4, 4), (4, 8))[truth[0]]
        assert (grid[0] * grid[1], 9600) == patches.shape
        assert (grid[0] * grid[1], 16, 4) == cells.shape
        if truth[0] == 1:
            assert (truth[of_football] >= 0).all()
            assert (truth[others] == -1).all()


def test_a_match_on_film_is_what_was_played_and_asks_for_no_score_that_is_not_known(
    matches: Path, monkeypatch: pytest.MonkeyPatch
):
    """One temporal patch a second; the score is a matter of memory: whoever is asked for it must know of the last
    goal, and no window may begin without its past."""
    monkeypatch.setattr("neverblink.football.remarks.QUIET", 2)  # the match is so short
    monkeypatch.setattr("neverblink.training.courses.CLIPPED", 0.0)  # whole matches
    footage = film(3, courses_of(["football"], matches), PIXELS)
    assert (2, False) == (footage.fps, footage.forgets)
    assert len(footage.patches) == len(footage.lines[COMMENTATE]) == len(footage.lines[DESCRIBE])
    assert {(32, 9600)} == {patches.shape for patches in footage.patches}
    assert (4, 8) == footage.grid
    goals = [i for i, line in enumerate(footage.lines[COMMENTATE]) if " to " in line]
    assert goals
    told = [i for i in goals if "till" not in footage.lines[COMMENTATE][i]]  # not only told again
    assert told == [0, *footage.turns]
    assert set(told) < set(goals)
    for now, asked in enumerate(footage.quizzes):
        for kind, _, answer, since, _ in asked:
            if kind == "score":
                last = max((goal for goal in goals if goal <= now), default=0)
                assert since <= last
                assert answer.removeprefix("It is ").rstrip(".") in footage.lines[COMMENTATE][last]


def test_clips_begin_with_a_kick_off_and_many_show_a_goal(matches: Path, monkeypatch: pytest.MonkeyPatch):
    """The same from the same seed; whoever is held out is in none; the pictures of one clip are lit as one."""
    monkeypatch.setattr("neverblink.training.courses.CLIPPED", 1.0)
    monkeypatch.setattr("neverblink.training.courses.CLIP", (6, 12))
    seen: list[np.random.Generator] = []

    def spy(pictures: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        seen.append(rng)
        return disturbed(pictures, rng)

    monkeypatch.setattr("neverblink.training.courses.disturbed", spy)
    course = FootballCourse(matches)
    stream = list(islice(course.seconds(4, 300), 300))
    again = list(islice(course.seconds(4, 300), 300))
    assert [second.text for second in stream] == [second.text for second in again]
    assert all((a.frames == b.frames).all() for a, b in zip(stream, again, strict=True))
    openings = [int(s.start) for s in stream if any(event.kind == "new_match" for event in s.events)]
    cuts = [int(s.start) for s in stream if s.cut]
    begins = sorted([*openings, *cuts])
    assert 0 == openings[0]
    assert set(openings).isdisjoint(cuts)
    assert {b - a for a, b in pairwise(begins)} <= set(range(6, 12))
    assert 0.05 < len(openings) / len(begins) < 0.4  # ENDS
    goals = [s for s in stream if any(event.kind == "goal" for event in s.events)]
    assert 0.3 * len(begins) < len(goals)
    assert max(sum(s.state.score) for s in stream) > 3  # more than any match has
    ways = [rng.bit_generator.state["state"]["inc"] for rng in seen[: len(stream)]]
    assert begins == [0, *(i for i in range(1, len(stream)) if ways[i] != ways[i - 1])]
    assert not any(is_held_out(path) for path, _ in course._goals)


def test_clips_of_a_goal_show_it_and_none_but_the_first_is_an_opening(matches: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("neverblink.training.courses.CLIP", (4, 9))
    course = FootballCourse(matches)
    rng = np.random.default_rng(5)
    for of_goals in (1.0, 0.0):
        clips = [course._inside(rng, of_goals) for _ in range(200)]
        assert min(clip.start for clip in clips) >= 1
        shown = [any(c.match.video.stem == p.stem and c.start <= at < c.end for p, at in course._goals) for c in clips]
        assert all(shown) == bool(of_goals)
    assert 1 == min(clip.start for clip in clips)


def test_in_clips_a_remark_is_not_always_made_when_it_is_due(matches: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("neverblink.training.courses.CLIPPED", 1.0)
    course = FootballCourse(matches)
    held = []
    for keen in (0.0, 0.5, 1.0):
        monkeypatch.setattr("neverblink.training.courses.KEEN", keen)
        stream = islice(course.seconds(6, 200), 200)
        held.append(sum(event.kind == "hold" for second in stream for event in second.events))
    assert 0 == held[0] < held[1] < held[2]


def test_film_marks_where_pictures_are_cut(matches: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("neverblink.training.courses.CLIPPED", 1.0)
    [course] = courses_of(["football"], matches)
    footage = film(3, [course], PIXELS)
    rng = np.random.default_rng(3)
    rng.integers(1)
    seconds = list(course.seconds(3, int(rng.integers(*LENGTH_TOLD))))
    assert footage.cuts
    assert [] == footage.turns  # many of them are there as it is
    assert footage.cuts == [i for i, second in enumerate(seconds) if second.cut]
    assert any(footage.slips)
    for second, slip in zip(seconds, footage.slips, strict=True):
        claims = parse(second.text, FOOTBALL)
        told = {claim.side for claim in claims if claim.side}
        easily = {claim.kind for claim in claims} <= {"turnover", "attack", "hold", "tally"} and len(told) == 1
        assert easily == (slip is not None)
        if slip:
            assert {slip.side} == told
            other = dict(zip(FOOTBALL.sides, FOOTBALL.sides[::-1], strict=True))
            assert [c._replace(side=other.get(c.side, "")) for c in claims] == parse(slip.text, FOOTBALL)


def test_arcade_on_film_may_forget():
    torch.manual_seed(0)
    footage = film(4, courses_of(["boxing"], None), PIXELS)
    assert (8, True, []) == (footage.fps, footage.forgets, footage.turns)
    assert not any(footage.slips)
    assert {(64, 9600)} == {patches.shape for patches in footage.patches}
