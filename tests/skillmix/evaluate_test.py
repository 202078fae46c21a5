"""The whole evaluation with models made of words: two turns, gradings, scores, costs, rows."""

import numpy as np
import pytest

from llm_dynamics.errors import UserError
from llm_dynamics.skillmix import evaluate as lib
from llm_dynamics.skillmix import parsing, result_rows
from llm_dynamics.skillmix.chat import Reply, Settings
from llm_dynamics.skillmix.evaluate import EvalConfig, ModelGrader, Prices, Prose, Synth
from llm_dynamics.skillmix.items import Item, items
from llm_dynamics.skillmix.ledger import Ledger
from llm_dynamics.skillmix.skills import Skill

SKILLS = [Skill(name, "x", "Example.") for name in ("irony", "pun", "litotes")]


class Scripted:
    """Replies what a function of the request says."""

    name, concurrency, batch = "scripted", 1, 1

    def __init__(self, reply, name="scripted"):
        self.reply, self.name, self.asked = reply, name, []

    def complete(self, requests):
        self.asked += requests
        return [self.reply(request) for request in requests]


def write(request):
    turn = "second" if len(request.messages) == 3 else "first"
    return Reply(f"Answer: A {turn} text {request.draw}.\nExplanation: none", "length")


def evaluated(tmp_path, grade, asked=None, **config):
    config = EvalConfig(**{"ks": (2,), "items": 4, "generations": 2, "gradings": 3} | config)
    asked = asked or items(SKILLS, ["glass", "tea"], 2, 4, 0)
    writer, judge = Scripted(write, "writer"), Scripted(grade, "judge")
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        grader = ModelGrader(judge, config.grader)
        results = lib.evaluate(config, asked, Prose(), writer, grader, ledger)
    return config, results, writer, judge


def by_draw(request):
    """Full marks but for the topic, which two of three gradings deny the first text."""
    denied = request.draw in (0, 2)
    return Reply(parsing.lines((1, 1, int(not denied), 1, 1)))


def test_texts_of_the_second_turn_are_graded_by_majority(tmp_path):
    config, results, writer, judge = evaluated(tmp_path, by_draw)
    assert len(writer.asked) == 4 * 2 * 2 and len(judge.asked) == 4 * 2 * 3
    first, second = results[0].generations
    assert first.answer == ("A second text 0.", True) and first.finish == "length"
    assert first.scored.points == (1, 1, 0, 1, 1) and second.scored.points == (1, 1, 1, 1, 1)
    rows = {row["name"]: row for row in result_rows.score_rows(config, results)}
    assert rows["k=2/full_marks"]["value"] == 1 and rows["k=2/full_marks/mean"]["value"] == 0.5
    assert rows["k=2/skill_fraction/mean"]["value"] == 0.5
    assert rows["saturation/full_marks"]["value"] is None
    trouble = {row["name"]: row for row in result_rows.trouble_rows(results)}
    assert trouble["k=2/trouble/cut"]["value"] == 8
    assert trouble["k=2/trouble/disagreement"]["value"] == 4
    # Again with more generations: only what is new is asked for.
    _, _, writer, judge = evaluated(tmp_path, by_draw, generations=3)
    assert len(writer.asked) == 4 * 2 and len(judge.asked) == 4 * 3


def test_equal_items_get_texts_of_their_own(tmp_path):
    item = items(SKILLS, ["glass"], 2, 1, 0)[0]
    _, results, *_ = evaluated(tmp_path, by_draw, [item, Item(1, item.skills, item.topic)])
    texts = [one.answer.text for result in results for one in result.generations]
    assert len(set(texts)) == 4


def test_unreadable_gradings_make_items_missing_and_are_counted(tmp_path):
    def grade(request):
        is_first = "glass" in request.messages[0].content
        return Reply("Very nice!" if is_first else parsing.lines((1, 1, 1, 1, 1)))

    config, results, *_ = evaluated(tmp_path, grade)
    missing = sum(result.item.topic == "glass" for result in results)
    assert 0 < missing < 4
    rows = {row["name"]: row for row in result_rows.score_rows(config, results)}
    assert rows["k=2/full_marks"]["value"] == 1 and rows["k=2/full_marks"]["n"] == 4 - missing
    assert rows["k=2/full_marks/missing_as_0"]["value"] == 1 - missing / 4
    trouble = {row["name"]: row for row in result_rows.trouble_rows(results)}
    assert trouble["k=2/trouble/unreadable"]["value"] == 6 * missing
    assert result_rows.reasons(results) == {2: {"no points at all": 6 * missing}}


def test_items_whose_best_is_of_fewer_are_counted(tmp_path):
    def grade(request):
        short = "glass" in request.messages[0].content and "text 0" in request.messages[0].content
        return Reply("Very nice!" if short else parsing.lines((1, 1, 1, 1, 1)))

    config, results, *_ = evaluated(tmp_path, grade)
    rows = result_rows.score_rows(config, results) + result_rows.trouble_rows(results)
    rows = {row["name"]: row for row in rows}
    short = sum(result.item.topic == "glass" for result in results)
    assert 0 < short < 4 and rows["k=2/trouble/short_items"]["value"] == short
    assert rows["k=2/trouble/missing_items"]["value"] == 0
    assert "best of the readable ones of 2 generations" in rows["k=2/full_marks"]["definition"]


def test_empty_texts_are_not_graded(tmp_path):
    config = EvalConfig(ks=(1,), items=2, generations=1, gradings=1, second_turn="none")
    writer = Scripted(lambda request: Reply("Answer:"))
    judge = Scripted(by_draw)
    asked = items(SKILLS, ["tea"], 1, 2, 0)
    with Ledger(tmp_path / "l") as ledger:
        grader = ModelGrader(judge, Settings())
        results = lib.evaluate(config, asked, Prose(), writer, grader, ledger)
    assert not judge.asked and np.isnan(result_rows.values(results, "full_marks")).all()
    rows = {row["name"]: row for row in result_rows.trouble_rows(results)}
    assert rows["k=1/trouble/empty"]["value"] == rows["k=1/trouble/missing_items"]["value"] == 2


def test_the_second_turn_may_be_mild_from_some_k():
    config = EvalConfig(second_turn="strict", mild_from=3)
    assert [config.turn(k) for k in (2, 3, 4)] == ["strict", "mild", "mild"]
    assert EvalConfig(second_turn="none", mild_from=2).turn(2) == "none"


def test_the_estimate_counts_what_would_be_asked(tmp_path):
    config, _, writer, judge = evaluated(tmp_path, by_draw)
    asked = items(SKILLS, ["glass", "tea"], 2, 4, 0)
    found = lib.estimate(config, asked, Prose(), model_grader=True)
    assert found["writer"].requests == len(writer.asked)
    assert found["grader"].requests == len(judge.asked)
    assert found["writer"].completion_tokens == 16 * 512
    said = sum(len(m.content) for request in writer.asked for m in request.messages)
    assert found["writer"].prompt_tokens > said // 5
    line = found["writer"].line("writer", Prices(completion=1000.0))
    assert line.startswith("writer: 16 requests") and line.endswith("8.19 at the given prices")
    assert lib.estimate(config, asked, Synth(), model_grader=False)["grader"].requests == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"ks": ()},
        {"ks": (2, 2)},
        {"items": 0},
        {"second_turn": "stern"},
        {"interval": "wilson"},
        {"gradings": 1001},
    ],
)
def test_settings_that_cannot_work_are_refused(wrong):
    with pytest.raises(UserError):
        EvalConfig(**wrong)
