"""When an alert is told: patterns, conditions, and no flood."""

import pytest

from neverblink.errors import ConfigError
from neverblink.server.alerts import Rule, Watch, is_yes, matches


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("scores", "Left scores: 1-0.", True),
        ("SCORES", "left scores", True),
        ("score", "Left scores.", False),
        ("score*", "Left scores.", True),
        ("match point|scores", "A match point!", True),
        ("left * right", "Left serves to the right.", True),
        ("right * left", "Left serves to the right.", False),
        ("1-0", "It is 1-0", True),
        ("1-0", "It is 11-0", False),
        (".", "anything", False),
        ("(a+)+$", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!", False),
        ("|", "x", False),
        ("", "x", False),
    ],
)
def test_patterns_are_words(pattern: str, text: str, expected: bool) -> None:
    assert expected is matches(pattern, text)


def test_what_is_told_is_not_told_again_for_a_while() -> None:
    watch = Watch(Rule("a", pattern="goal", debounce=10))
    assert [True, False, False, True] == [watch.caption("Goal!", end) for end in (1.0, 2.0, 10.9, 11.0)]
    assert not Watch(Rule("a", pattern="goal")).caption("", 1.0)


def test_a_condition_is_asked_about_now_and_then_and_told_when_it_becomes_true() -> None:
    watch = Watch(Rule("a", condition="it rains", every=5, debounce=0))
    assert watch.rule.question == "Is this true now: it rains? Answer yes or no."
    assert [True, False] == [watch.wants_to_ask(1.0), watch.wants_to_ask(9.0)], "one question at a time"
    assert not watch.answered("No, it is dry.", 2.0)
    assert not watch.wants_to_ask(5.9)
    told = []
    for second, answer in ((6.0, "Yes."), (12.0, "yes, it does"), (18.0, "no"), (24.0, "True")):
        assert watch.wants_to_ask(second)
        told.append(watch.answered(answer, second))
    assert [True, False, False, True] == told


def test_yes_is_yes() -> None:
    assert [True, True, True, False, False] == [
        is_yes(x) for x in ("Yes", " *yes*, so", "TRUE", "yesterday", "no, yes")
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"pattern": "a", "condition": "b"},
        {"pattern": " "},
        {"pattern": "a*b*c*d*e"},
        {"pattern": "a", "every": 0.5},
    ],
)
def test_rules_that_mean_nothing_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        Rule("a", **wrong)
