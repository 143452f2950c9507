"""The quality score: what it rewards, what it does not forgive."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from neverblink.arcade.events import Claim, GameEvent
from neverblink.arcade.pong import PONG
from neverblink.arcade.sport import Second
from neverblink.bench import quality
from neverblink.bench.quality import run_quality
from neverblink.bench.quiz import Memory, Quiz, Shown
from neverblink.bench.scoring import Line, Said, match, score, score_at
from neverblink.errors import ConfigError
from neverblink.football.commentary import FOOTBALL
from neverblink.football.streams import football_stream
from neverblink.model import Model
from neverblink.options import StreamOptions
from neverblink.sources import open_source
from neverblink.sources.base import Source, SourceOptions
from neverblink.sources.chunks import chunks
from neverblink.stream import Stream
from neverblink.training.data import game_stream, write_mp4
from neverblink.types import Caption, Chunk
from tests.checkpoints import toy_checkpoint
from tests.football.recording import write_match

SEED, SECONDS = 11, 90


@pytest.fixture(scope="module")
def game() -> list[Second]:
    return list(game_stream(PONG, SEED, SECONDS, fps=1))


def truth_of(game: list[Second]) -> list[GameEvent]:
    return [event for second in game for event in second.events]


def lines_of(game: list[Second], change: Callable[[str], str] = lambda text: text, shift: int = 0) -> list[Line]:
    """What a commentator says who tells the truth, but for a change of words or a delay in whole seconds."""
    texts = [change(second.text) for second in game]
    texts = ([""] * shift + texts)[: len(texts)] if shift >= 0 else texts[-shift:] + [""] * -shift
    return [Line(second.start, second.start + 1, text) for second, text in zip(game, texts, strict=True)]


def swapped(text: str) -> str:
    for a, b in (("left", "LEFT"), ("Left", "LEFT"), ("right", "left"), ("Right", "Left"), ("LEFT", "right")):
        text = text.replace(a, b)
    return text


def test_truth_scores_one(game: list[Second]):
    result = score(truth_of(game), lines_of(game), PONG)
    for name in ("event_f1", "event_precision", "event_recall", "score_accuracy", "silence_accuracy"):
        assert 1.0 == result[name], name
    assert 0.0 == result["false_alarms_per_minute"]
    assert 0.0 == result["repetition_rate"]
    assert {"serve", "hit", "point"} <= set(result["by_kind"])


def test_silence_tells_nothing(game: list[Second]):
    """No recall, no false alarm; silence is right only where nothing happened."""
    result = score(truth_of(game), lines_of(game, lambda _: ""), PONG)
    assert (0.0, 0.0, 0.0) == (result["event_f1"], result["event_precision"], result["event_recall"])
    assert 0.0 == result["false_alarms_per_minute"]
    assert result["score_accuracy"] is None
    quiet = sum(not second.text for second in game)
    assert round(quiet / len(game), 4) == result["silence_accuracy"]


def test_one_second_late_is_still_in_time(game: list[Second]):
    """A line may come with the next chunk; only what was said past the end is lost."""
    result = score(truth_of(game), [*lines_of(game[:-1], shift=1), Line(SECONDS - 1, SECONDS, "")], PONG)
    assert 1.0 == result["event_precision"]
    assert 1.0 == result["score_accuracy"]
    assert result["event_recall"] > 0.95


def test_possession_is_that_of_whom_was_last_said_to_have_the_ball():
    """From the first kick-off on, second by second; a take that nobody told is wrong until the next one is told."""
    happened = [("kick_off", "yellow", 1.0), ("turnover", "blue", 3.0), ("goal_kick", "yellow", 7.0)]
    truth = [GameEvent(time, Claim(kind, side)) for kind, side, time in happened]
    told = {1: " Yellow kick off.", 5: " Blue win the ball.", 7: " Goal kick for yellow."}
    # Visible at 1.4, 4.5 and 7.4; said of seconds 1, 5 and 7: of nine seconds the fourth is wrong.
    lines = [Line(t, t + 1, told.get(t, "")) for t in range(10)]
    assert round(8 / 9, 4) == score(truth, lines, FOOTBALL)["possession_accuracy"]
    attack = [*lines[:4], Line(4, 5, " Blue attack."), *lines[5:]]  # nobody told that they won it, but they have it
    assert 1.0 == score(truth, attack, FOOTBALL)["possession_accuracy"]
    assert score(truth, [Line(t, t + 1, "") for t in range(10)], FOOTBALL)["possession_accuracy"] == 0.0
    assert score([], lines, FOOTBALL)["possession_accuracy"] is None
    assert score([], lines, PONG)["possession_accuracy"] is None


def test_three_seconds_late_is_too_late():
    event = GameEvent(10.5, Claim("point", "left", (4, 2)))
    said = [Line(t, t + 1, " Left scores, 4 to 2." if t == 13 else "") for t in range(20)]
    assert 0.0 == score([event], said, PONG)["event_f1"]


@pytest.mark.parametrize(("start", "found"), [(8, 0), (9, 1), (10, 1), (11, 1), (12, 0)])
def test_tolerance_is_one_second_from_the_chunk(start: int, found: int):
    """A hit at 10.5 shows at 10.7: the chunk that holds it and its two neighbours count, no others."""
    said = [Line(t, t + 1, " Left hits." if t == start else "") for t in range(20)]
    assert found == score([GameEvent(10.5, Claim("hit", "left"))], said, PONG)["event_recall"]


def test_wrong_side_finds_nothing():
    """Scorer and striker matter: with the sides exchanged every line is a false alarm."""
    events = [GameEvent(t + 0.5, Claim("hit", side)) for t, side in ((2, "left"), (8, "right"), (14, "left"))]
    said = [Line(t, t + 1, {2: " Right hits.", 8: " Left hits.", 14: " Right hits."}.get(t, "")) for t in range(20)]
    result = score(events, said, PONG)
    assert 0.0 == result["event_f1"]
    assert 9.0 == result["false_alarms_per_minute"]


def test_exchanged_sides_lower_the_score_of_a_whole_game(game: list[Second]):
    assert score(truth_of(game), lines_of(game, swapped), PONG)["event_f1"] < 0.35


def test_wrong_score_lowers_score_accuracy_only():
    """Both points are found; one of the two scores was misread."""
    events = [GameEvent(2.5, Claim("point", "left", (4, 2))), GameEvent(9.5, Claim("point", "right", (4, 3)))]
    said = [Line(t, t + 1, {2: " Left scores, 4 to 2.", 9: " Right scores, 4 to 8."}.get(t, "")) for t in range(12)]
    result = score(events, said, PONG)
    assert (1.0, 0.5) == (result["event_f1"], result["score_accuracy"])


def test_old_score_with_a_new_point_is_wrong():
    """Copying the last score said, instead of reading the screen, earns nothing."""
    events = [GameEvent(2.1, Claim("point", "left", (5, 2)))]
    said = [Line(t, t + 1, " Left scores, 4 to 2." if t == 2 else "") for t in range(6)]
    assert 0.0 == score(events, said, PONG)["score_accuracy"]


def test_score_of_a_false_alarm_is_held_against_the_screen():
    events = [GameEvent(2.5, Claim("point", "left", (5, 2)))]
    said = [Line(t, t + 1, {2: " Left scores, 5 to 2.", 8: " Right scores, 5 to 2."}.get(t, "")) for t in range(10)]
    result = score(events, said, PONG)
    assert 1.0 == result["score_accuracy"]
    assert (0.5, 6.0) == (result["event_precision"], result["false_alarms_per_minute"])


def test_each_event_counts_once():
    """Saying it three times is one hit and two false alarms."""
    said = [Line(t, t + 1, " Left hits." if 9 <= t <= 11 else "") for t in range(20)]
    result = score([GameEvent(10.5, Claim("hit", "left"))], said, PONG)
    assert (1.0, round(1 / 3, 4)) == (result["event_recall"], result["event_precision"])
    assert round(2 / 3, 4) == result["repetition_rate"]


def test_match_gives_the_most_pairs():
    """Two events and two lines that both reach the first event: each finds its own."""
    events = [GameEvent(t, Claim("hit", "left")) for t in (10.2, 12.4)]
    said = [Said(Line(t, t + 1, ""), Claim("hit", "left")) for t in (10, 11)]
    assert [(0, 0), (1, 1)] == match(events, said, PONG)


def test_events_outside_what_was_watched_do_not_count():
    """An event that no watched picture shows is no miss."""
    events = [GameEvent(t, Claim("hit", "left")) for t in (0.5, 5.5, 9.95)]
    said = [Line(t, t + 1, " Left hits." if t == 5 else "") for t in range(3, 10)]
    assert 1.0 == score(events, said, PONG)["event_recall"]


@pytest.mark.parametrize(("side", "before"), [("left", (2, 6)), ("right", (3, 5))])
def test_score_before_the_first_point_is_known_from_it(side: Any, before: tuple[int, int]):
    events = [GameEvent(5.0, Claim("point", side, (3, 6)))]
    assert before == score_at(events, 4.0, PONG)
    assert (3, 6) == score_at(events, 5.2, PONG)
    assert score_at([], 5.0, PONG) is None


def test_nothing_to_say_and_nothing_said_is_perfect():
    assert 1.0 == score([], [Line(0, 1, "")], PONG)["event_f1"]


def test_scoring_nothing_is_refused():
    with pytest.raises(ConfigError, match="nothing was watched"):
        score([], [], PONG)


class Teacher:
    """A model that knows the game by heart; the surface of `neverblink.Model`."""

    name, fps = "teacher", 8.0

    def __init__(self, lines: list[str]):
        self.lines = lines
        self.asked: dict[str, Any] = {}

    def options(self, policy: str | None = None, **others: Any) -> StreamOptions:
        return StreamOptions(policy=policy or "streaming")

    def watch(self, source: str | Source, *, seconds: int, **options: Any) -> Iterator[Caption]:
        self.asked = options
        opened = open_source(source, SourceOptions(fps=self.fps)) if isinstance(source, str) else source
        with opened:
            for chunk, text in zip(chunks(opened, self.fps), self.lines[:seconds], strict=False):
                question = options["questions"](chunk.end)
                answer = self.knows(question) if question else None
                caption = Caption(chunk.start, chunk.end, text, not text, "end", 1, 100, len(chunk.frames), 0)
                yield replace(caption, question=question, answer=answer, seconds={"see": 0.25, "speak": 0.25})

    def knows(self, question: str) -> str:
        return {"What is the score": "It is 3 to 3."}.get(question, "I was not looking.")


@pytest.mark.parametrize("recall", [True, False])
def test_with_recall_the_journal_stands_in_front_of_a_question(recall: bool, monkeypatch: pytest.MonkeyPatch):
    """Each line was said before the question, and who reads them knows who made it two to one; without recall nobody
    does, and nothing stands there. A caption tells the question as it was asked."""
    lines = [second.text for second in game_stream(PONG, 12, 200)]
    heard: list[str] = []

    def step(stream: Stream, chunk: Chunk, question: str | None = None, **_: Any) -> Caption:
        text = lines[int(chunk.start)]
        answer = None
        if question is not None:
            heard.append(question)
            *told, asked = question.split("\n")
            made = re.fullmatch(r"Who made it (\d+ to \d+)\?", asked)
            answer = ([line for line in told if made and made[1] in line] or ["I was not looking."])[-1]
        caption = Caption(chunk.start, chunk.end, text, not text, "end", 1, 100, len(chunk.frames), 0)
        return replace(caption, question=question, answer=answer)

    monkeypatch.setattr(Stream, "step", step)
    model = Model.from_pretrained(toy_checkpoint(), device="cpu")
    captions: list[Caption] = []
    watch = model.watch
    monkeypatch.setattr(model, "watch", lambda *a, **k: (captions.append(c) or c for c in watch(*a, **k)))
    run = partial(run_quality, model, seed=12, seconds=200, fps=2, ask_every=1.0, recall=recall)
    result = run()
    assert recall == result["recalling"] == any("\n" in question for question in heard)
    assert not any("\n" in (caption.question or "") for caption in captions)
    share, number = result["qa_by_kind"]["made"]
    assert number > 5
    assert share > 0.9 if recall else share == 0
    for now, question in enumerate(heard):
        head, *told = question.split("\n")[:-1] or [""]
        assert head in ("", "previous text")
        for line in told:
            time, _, text = line.partition(" ")
            hours, minutes, seconds = map(int, time.split(":"))
            said = hours * 3600 + minutes * 60 + seconds
            assert lines[said].strip() == text
            assert said <= now + 20  # the first questions find nothing to ask about


FIELDS = {
    *("sport", "policy", "positions", "seconds", "event_f1", "event_precision", "event_recall", "by_kind"),
    *("score_accuracy", "silence_accuracy", "false_alarms_per_minute", "repetition_rate"),
    *("fps", "gate", "encoder_cache", "compress", "vision_tokens_per_second", "frames_skipped", "vision_ms"),
    *("prefill_ms", "chunk_ms", "kv_bytes"),
    "recalling",
    *("seconds_per_chunk_p50", "kv_tokens_max", "rss_mb", "real_time_factor", "qa_accuracy", "by_fifth", "ended"),
}


def test_model_that_tells_the_truth_of_a_live_game_scores_one():
    """The game played, its truth and the lines belong together; the line of results is complete."""
    model = Teacher([second.text for second in game_stream(PONG, 12, 30)])
    result = run_quality(model, seed=12, seconds=30, policy="sliding", positions="native")  # type: ignore[arg-type]
    assert (1.0, 1.0) == (result["event_f1"], result["silence_accuracy"])
    assert (0.5, 0.5, 100, 30.0) == tuple(
        result[name] for name in ("seconds_per_chunk_p50", "real_time_factor", "kv_tokens_max", "seconds")
    )
    assert {"policy": "sliding", "positions": "native"}.items() <= model.asked.items()
    assert set(result) >= FIELDS
    assert result["rss_mb"] > 10


def quiz_of(seed: int, every: float = 2.0, memory: Memory | None = None) -> tuple[Quiz, list[Second]]:
    """A quiz that is given what each second of a game shows; the seconds are taken from the list as it asks."""
    seconds = list(game_stream(PONG, seed, 120, fps=8))
    left = list(seconds)
    shown = [seconds[0]]

    def take() -> list[GameEvent]:
        shown[0] = left.pop(0)
        return list(shown[0].events)

    return Quiz(
        PONG, seed, take, lambda: Shown(shown[0].state.score, shown[0].state_text), every, memory=memory
    ), seconds


def test_a_quiz_counts_right_answers_by_kind_and_age():
    """A twin who is asked the same knows all answers; a mute one knows none; who only reads the picture is right about
    what it shows and wrong about the past."""
    sums = {}
    for pupil in ("twin", "mute", "reader"):
        (quiz, seconds), (twin, _) = quiz_of(5), quiz_of(5)
        for second in seconds:
            question, same = quiz(second.start + 1), twin(second.start + 1)
            assert question == same
            if question:
                truth = twin._open.answer  # type: ignore[union-attr]
                score = "It is {} to {}.".format(*second.state.score)
                quiz.hear({"twin": truth, "mute": None, "reader": score}[pupil])
        sums[pupil] = quiz.result()
    assert 1.0 == sums["twin"]["qa_accuracy"]
    assert 0.0 == sums["mute"]["qa_accuracy"]
    reader = sums["reader"]["qa_by_kind"]
    assert (1.0, 0.0) == (reader["score"][0], reader["last_of"][0])
    assert sum(number for _, number in reader.values()) == 60
    assert max(number for _, number in reader.values()) - min(number for _, number in reader.values()) <= 4
    assert {"now", "minutes"} == set(sums["reader"]["qa_by_age"])


def test_what_an_answer_can_be_known_from():
    """Three tokens a second, ten of text behind eight seconds of video, at second 30: words of 22 and before count."""
    memory = Memory(vision_seconds=8.0, text_window=10)
    for end in range(1, 31):
        memory.add(float(end), 3)
    assert ["vision", "text", "text", "gone"] == [memory.of(at, 30.0) for at in (22.5, 21.5, 19.0, 18.0)]
    quiet = Memory(vision_seconds=8.0, text_window=10)
    for end in range(1, 31):
        quiet.add(float(end), 3 * (end % 10 == 0))
    assert ["vision", "text", "text"] == [quiet.of(at, 30.0) for at in (25.0, 12.0, 0.5)]  # silence takes no room


def test_recall_parts_what_was_seen_from_what_was_told():
    """Who answers from pictures alone knows nothing of what left them; who knows all is right about it."""
    for remembers in (True, False):
        memory = Memory(vision_seconds=4.0, text_window=60)
        (quiz, seconds), (twin, _) = quiz_of(5, memory=memory), quiz_of(5)
        for second in seconds:
            if quiz(second.start + 1) is not None:
                twin(second.start + 1)
                asked = twin._open
                assert asked is not None
                quiz.hear(asked.answer if remembers or asked.age <= 4.0 else "Nobody knows.")
            else:
                twin(second.start + 1)
            memory.add(second.start + 1, 6 * bool(second.text))
        recall = quiz.result()["recall"]
        assert {"vision", "text", "gone"} == set(recall)
        assert 1.0 == recall["vision"][0]
        assert float(remembers) == recall["text"][0] == recall["gone"][0]


def test_without_questions_there_is_no_accuracy():
    model = Teacher([second.text for second in game_stream(PONG, 12, 12)])
    result = run_quality(model, seed=12, seconds=12, ask_every=0)  # type: ignore[arg-type]
    assert (None, {}) == (result["qa_accuracy"], result["qa_by_kind"])
    result = run_quality(model, seed=12, seconds=12, ask_every=3)  # type: ignore[arg-type]
    assert (0.0, 4) == (result["qa_accuracy"], sum(n for _, n in result["qa_by_kind"].values()))


def test_a_policy_that_runs_out_of_room_is_scored_for_what_it_saw():
    result = run_quality("bundled", seed=12, seconds=20, policy="full", policy_options={"kv_budget": 400})
    assert 2 <= result["seconds"] < 20
    assert result["ended"].startswith(f"after {result['seconds']:.0f} s: ")


def test_football_is_scored_from_its_folder(tmp_path: Path):
    """Lines from the truth score one."""
    write_match(tmp_path, 0)
    write_match(tmp_path, 1)
    seconds = list(football_stream(tmp_path, 0, shuffle=False, draw=False, seconds=60))
    model = Teacher([second.text for second in seconds])
    model.fps = 2.0
    result = run_quality(model, sport="football", data=tmp_path, seconds=60)  # type: ignore[arg-type]
    assert (1.0, 1.0, 60.0, "football") == tuple(
        result[name] for name in ("event_f1", "silence_accuracy", "seconds", "sport")
    )
    assert 2.0 == model.asked["fps"]


def test_what_does_not_belong_together_is_refused(tmp_path: Path):
    model: Any = Teacher([])
    with pytest.raises(ConfigError, match="football is recorded: give --data FOLDER"):
        run_quality(model, sport="football")
    with pytest.raises(ConfigError, match="--data holds football matches, the sport is ice-hockey"):
        run_quality(model, sport="ice-hockey", data=tmp_path)


def test_recording_scores_like_the_game(tmp_path: Path):
    write_mp4(PONG, 13, 10, tmp_path / "a.mp4", tmp_path / "a.jsonl")
    model = Teacher([second.text for second in game_stream(PONG, 13, 10)])
    result = run_quality(model, seconds=10, video=tmp_path / "a.mp4", truth=tmp_path / "a.jsonl")  # type: ignore[arg-type]
    assert (1.0, 1.0) == (result["event_f1"], result["silence_accuracy"])


def test_recording_without_truth_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="a video needs its truth"):
        run_quality("bundled", video=tmp_path / "a.mp4")


def test_command_prints_one_line_and_writes_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Only options that were given are passed on, so the defaults stay in one place."""
    given: dict[str, Any] = {}
    monkeypatch.setattr(quality, "run_quality", lambda **options: given.update(options) or {"event_f1": 0.5})
    assert 0 == quality.main(["--model", "m", "--seed", "3", "--json", str(tmp_path / "q.json")])
    assert {"model": "m", "seed": 3} == given
    assert {"event_f1": 0.5} == json.loads(capsys.readouterr().out) == json.loads((tmp_path / "q.json").read_text())
    assert 0 == quality.main(["--policy", "last-frames", "--frames", "4", "--vision-seconds", "2.5"])
    assert {"frames": 4, "vision_seconds": 2.5} == given["policy_options"]


def test_command_tells_errors_in_one_line(capsys: pytest.CaptureFixture[str]):
    assert 2 == quality.main(["--model", "/nowhere"])
    assert 1 == len(capsys.readouterr().err.splitlines())


def test_the_command_line_reaches_the_benchmark(capfd: pytest.CaptureFixture[str]):
    from neverblink.cli import main

    assert 2 == main(["bench", "quality", "--sport", "curling", "--seconds", "1"])
    told = capfd.readouterr()
    assert "" == told.out
    assert "no arcade game 'curling'; known: " in told.err
    assert 1 == len(told.err.splitlines())
