"""Questions on a stream: their answers follow from the events that were to be seen, and can be judged exactly."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neverblink.arcade.events import Claim, GameEvent
from neverblink.arcade.pong import PONG
from neverblink.arcade.questions import QUESTIONS, Asked, judge, kind_of, questions
from neverblink.arcade.sport import Sport
from neverblink.errors import ConfigError
from neverblink.football.commentary import FOOTBALL

MATCH = [
    GameEvent(0.0, Claim("new_match", "", (0, 0))),
    GameEvent(30.0, Claim("corner", "blue")),
    GameEvent(50.0, Claim("goal", "yellow", (1, 0))),
    GameEvent(100.0, Claim("corner", "blue")),
    GameEvent(200.0, Claim("goal", "blue", (1, 1))),
    GameEvent(250.0, Claim("corner", "yellow")),
    GameEvent(300.0, Claim("new_match", "", (0, 0))),
    GameEvent(320.0, Claim("corner", "blue")),
]


def answers(
    now: float, sport: Sport = FOOTBALL, events: list[GameEvent] = MATCH, **options: object
) -> dict[str, Asked]:
    """Every question that 300 throws of the dice ask at a moment."""
    found = {}
    for seed in range(300):
        for asked in questions(sport, events, now, random.Random(seed), **options):  # type: ignore[arg-type]
            found[asked.question] = asked
    return found


@pytest.mark.parametrize(
    ("now", "question", "answer", "age"),
    [
        (40, "What is the score?", "It is 0 to 0.", 39.6),
        (40, "Who leads?", "Nobody, 0 to 0.", 39.6),
        (50.3, "What is the score?", "It is 0 to 0.", 49.9),  # the goal has happened, but no picture shows it yet
        (60, "What is the score?", "It is 1 to 0.", 9.6),
        (60, "Who is ahead?", "Yellow, 1 to 0.", 9.6),
        (260, "Who leads?", "Nobody, 1 to 1.", 59.6),
        (60, "Who had the last of the corners?", "Blue.", 29.6),
        (260, "Who had the last of the corners?", "Yellow.", 9.6),
        (260, "Who had the last of the goals?", "Blue.", 59.6),
        (260, "How many corners for blue in this game so far?", "2.", 159.6),
        (330, "How many corners for blue in this game so far?", "1.", 9.6),
        (330, "How many corners for yellow in this game so far?", "0.", 29.6),
        (330, "How many corners for blue in the last 5 minutes?", "3.", 9.6),
        (330, "How many corners for yellow in the last 1 minute?", "0.", 60),
        (260, "How many free kicks for yellow in the last 2 minutes?", "0.", 120),
        (260, "Who made it 1 to 0?", "Yellow.", 209.6),
        (260, "Who made it 1 to 1?", "Blue.", 59.6),
        (260, "What was the score 1 minute ago?", "It was 1 to 0.", 209.6),
        (260, "What was the score 3 minutes ago?", "It was 1 to 0.", 209.6),
        (330, "What was the score 1 minute ago?", "It was 1 to 1.", 129.6),
        (330, "What was the score 5 minutes ago?", "It was 0 to 0.", 329.6),
    ],
)  # fmt: skip
def test_answers_follow_from_the_events(now: float, question: str, answer: str, age: float):
    asked = answers(now)[question]
    assert answer == asked.answer
    assert age == pytest.approx(asked.age, abs=1e-6)


def test_what_happened_last_is_said_in_the_words_of_the_sport():
    asked = questions(FOOTBALL, MATCH, 260, random.Random(0))
    [last] = [a for a in asked if a.kind == "last"]
    assert judge(last.question, "Yellow have a corner.", last.answer, FOOTBALL)
    assert not judge(last.question, "Corner for blue.", last.answer, FOOTBALL)
    assert not judge(last.question, "", last.answer, FOOTBALL)


def test_only_what_can_be_known_is_asked():
    """No score before the first that was told, no past before the stream, no place without a picture."""
    assert {} == answers(0.2)
    known = answers(40)
    assert not [q for q in known if "ago" in q or "minute" in q or "Where" in q]
    unknown_score = answers(40, events=[GameEvent(10, Claim("corner", "blue"))])
    assert {"last", "last_of", "first"} == {asked.kind for asked in unknown_score.values()}
    assert "It is 7 to 3." == answers(5, PONG, [], start_score=(7, 3))["What is the score?"].answer


def test_what_happened_first_is_the_oldest_event_of_the_stream():
    [first] = [a for a in questions(FOOTBALL, MATCH, 260, random.Random(0)) if a.kind == "first"]
    assert judge(first.question, "A new match, 0 to 0.", first.answer, FOOTBALL)
    assert not judge(first.question, "Corner for blue.", first.answer, FOOTBALL)
    assert 259.6 == pytest.approx(first.age, abs=1e-6)


def test_a_score_that_stood_twice_is_asked_of_the_last_time():
    again = [*MATCH, GameEvent(350.0, Claim("goal", "blue", (1, 0)))]  # by a wrong side: nobody else can be meant
    assert "Blue." == answers(360, events=again)["Who made it 1 to 0?"].answer


def test_a_score_that_is_shown_is_taken_from_the_picture():
    asked = answers(260, shown=(2, 5))
    assert ("It is 2 to 5.", 0.0) == (asked["What is the score?"].answer, asked["What is the score?"].age)


def test_counting_needs_all_since_the_game_began():
    asked = answers(260)
    assert 259.6 == pytest.approx(asked["How many corners for blue in this game so far?"].span, abs=1e-6)
    assert 120 == pytest.approx(asked["How many free kicks for yellow in the last 2 minutes?"].span)


def test_the_place_is_the_first_clause_of_the_state():
    state = " Ball in the left third, top; blue have it, moving right."
    assert "Ball in the left third, top." == answers(40, state_text=state)["Where is the ball?"].answer
    puck = answers(40, state_text=" Puck left, high; clock 0:55.")["Where is the puck?"]
    assert "Puck left, high." == puck.answer
    assert "where" not in {a.kind for a in answers(40, state_text=" Yellow left, low; blue right.").values()}


def test_pong_can_be_asked_too():
    events = [GameEvent(1.0, Claim("hit", "left")), GameEvent(2.0, Claim("point", "right", (3, 4)))]
    asked = answers(70, PONG, events)
    assert "Right, 3 to 4." == asked["Who leads?"].answer
    assert "1." == answers(59, PONG, [GameEvent(0, Claim("new_game", "", (0, 0))), *events])[
        "How many hits for left in this game so far?"
    ].answer  # fmt: skip


@pytest.mark.parametrize(
    ("question", "truth", "right", "wrong"),
    [
        ("What is the score?", "It is 2 to 1.", ["2 to 1", "Yellow lead 2 to 1."],
         ["It is 1 to 2.", "It is 12 to 1.", "2", "", "2 to 1 or 1 to 2"]),
        ("What was the score 1 minute ago?", "It was 0 to 0.", ["0 to 0."], ["It was 0 to 1.", "nothing"]),
        ("Who leads?", "Yellow, 2 to 1.", ["yellow", "Yellow, 2 to 1"],
         ["Blue, 2 to 1.", "Yellow, 3 to 1.", "yellow or blue", ""]),
        ("Who is ahead?", "Nobody, 1 to 1.", ["It is level.", "nobody"], ["Yellow.", "Yellow or nobody"]),
        ("Who had the last of the corners?", "Blue.", ["It was blue."], ["Yellow.", "Yellow and blue.", "Bluer"]),
        ("How many goals for blue in this game so far?", "2.", ["2", "Two goals.", "two, 2"],
         ["3.", "12", "2 or 3", ""]),
        ("How many throw-ins for blue in the last 5 minutes?", "0.", ["no throw-ins", "0"], ["1", "none of them, 1"]),
        ("Where is the ball?", "Ball in the left third, top.", ["ball in the left third top"],
         ["Ball in the left third, bottom.", "Ball in the left third, top, or centre."]),
    ],
)  # fmt: skip
def test_the_judge_knows_right_from_wrong(question: str, truth: str, right: list[str], wrong: list[str]):
    assert judge(question, truth, truth, FOOTBALL)
    assert [] == [answer for answer in right if not judge(question, answer, truth, FOOTBALL)]
    assert [] == [answer for answer in wrong if judge(question, answer, truth, FOOTBALL)]


def test_a_question_out_of_nowhere_is_refused():
    with pytest.raises(ConfigError, match=r"is no question of the table; known: score, leader"):
        judge("Who is the referee?", "Me.", "You.", FOOTBALL)


@given(
    st.lists(
        st.tuples(st.floats(0, 400), st.sampled_from(["goal", "corner", "shot"]), st.sampled_from(["yellow", "blue"])),
        max_size=20,
    ),
    st.floats(0, 500),
    st.integers(0, 99),
)
def test_every_true_answer_is_judged_right_and_kinds_are_read_back(
    drawn: list[tuple[float, str, str]], now: float, seed: int
):
    events, points = [GameEvent(0.0, Claim("new_match", "", (0, 0)))], [0, 0]
    for time, kind, side in sorted(drawn):
        points[side == "blue"] += kind == "goal"
        events.append(GameEvent(time, Claim(kind, side, (points[0], points[1]) if kind == "goal" else None)))
    asked = questions(FOOTBALL, events, now, random.Random(seed), state_text=" Ball here; no.")
    assert len({a.kind for a in asked}) == len(asked)
    for kind, question, answer, age, span in asked:
        assert kind == kind_of(question)
        assert 0 <= age <= span <= now + 1e-6
        assert judge(question, answer, answer, FOOTBALL)


def test_every_way_to_ask_is_read_as_its_kind():
    for kind, ways in QUESTIONS.items():
        for way in ways:
            assert kind == kind_of(way.format(noun="goal kicks", side="blue", minutes="5 minutes", score="1 to 0"))
