"""Metrics on points made by hand, majority, corrections; sentences; prompts."""

import itertools

import numpy as np
import pytest

from llm_dynamics.errors import UserError
from llm_dynamics.skillmix import prompts, scores, sentences
from llm_dynamics.skillmix.items import Item
from llm_dynamics.skillmix.parsing import Grading
from llm_dynamics.skillmix.scores import Corrections, Scored
from llm_dynamics.skillmix.skills import Skill

ITEM = Item(0, (Skill("metaphor", "x", "An example."), Skill("red herring (logic)", "y")), "glass")
PLAIN = Corrections(names="off", sentences=False)


@pytest.mark.parametrize(
    ("points", "wanted"),
    [
        ((1, 1, 1, 1, 1), (1, 1, 1)),
        ((1, 1, 1, 1, 0), (0, 1, 0)),  # all skills, two of the three others
        ((1, 1, 0, 1, 0), (0, 0, 0)),
        ((1, 0, 1, 1, 1), (0, 0, 0.5)),
        ((0, 0, 1, 1, 1), (0, 0, 0)),
        ((1, 0, 1, 1, 0), (0, 0, 0)),
    ],
)
def test_metrics_on_points_made_by_hand(points, wanted):
    assert tuple(scores.metrics(points).values()) == wanted


def test_metrics_are_ordered_and_at_one_together():
    for points in itertools.product((0, 1), repeat=6):
        full, every, share = scores.metrics(points).values()
        assert full <= every and full <= share
        assert (full == 1) == (every == 1 and share == 1)
    with pytest.raises(ValueError, match="k of at least 1"):
        scores.metrics((1, 1, 1))


def test_a_majority_needs_more_than_half():
    three = [(1, 1, 0, 0), (1, 0, 0, 1), (1, 1, 0, 0)]
    assert scores.majority(three) == ((1, 1, 0, 0), 0)
    assert scores.majority(three[:2]) == ((1, 0, 0, 0), 2)
    assert scores.majority(three[:2], "grant") == ((1, 1, 0, 1), 2)


@pytest.mark.parametrize(
    ("name", "text", "word", "substring"),
    [
        ("metaphor", "A metaphor, no doubt.", True, True),
        ("metaphor", "Metaphorical talk.", False, True),
        ("red herring (logic)", "A Red-Herring!", True, False),
        ("red herring (logic)", "red herrings", False, True),
        ("irony", "Nothing of the kind.", False, False),
        ("pun", "They punish.", False, True),
    ],
)
def test_names_are_found_as_words_or_anywhere(name, text, word, substring):
    assert scores.is_named(name, text, "word") == word
    assert scores.is_named(name, text, "substring") == substring
    assert not scores.is_named(name, text, "off")


def test_corrections_change_points_and_say_so():
    given = [Grading((1, 1, 1, 1, 0))]
    found = scores.score(ITEM, "A metaphor of glass.", given, Corrections())
    assert found == Scored((0, 1, 1, 1, 1), named=("metaphor",), recounted=True)
    assert scores.score(ITEM, "A metaphor of glass.", given, PLAIN) == Scored((1, 1, 1, 1, 0))
    two = scores.score(ITEM, "Glass is sand. It is.", [Grading((1, 1, 1, 1, 1))], Corrections())
    assert two.points == (1, 1, 1, 1, 0)  # one sentence is the limit for two skills
    for key in ("names", "ties"):
        with pytest.raises(UserError, match=f"expected {key}"):
            Corrections(**{key: "perhaps"})


def test_unreadable_gradings_do_not_count_as_zeros():
    good, bad = Grading((1, 1, 1, 1, 1)), Grading(None, "no points at all")
    assert scores.score(ITEM, "t", [bad, good, bad], PLAIN).points == (1, 1, 1, 1, 1)
    missing = scores.score(ITEM, "t", [bad, bad], PLAIN)
    assert missing.points is None and np.isnan(missing.metric("full_marks"))


def test_items_take_the_best_or_the_mean_of_what_is_there():
    full, half, none = Scored((1, 1, 1, 1, 1)), Scored((1, 0, 1, 1, 1)), Scored(None)
    items = [[half, full, none], [none, none], [half]]
    best = scores.item_values(items, "skill_fraction")
    np.testing.assert_array_equal(best, [1, np.nan, 0.5])
    mean = scores.item_values(items, "skill_fraction", "mean")
    np.testing.assert_array_equal(mean, [0.75, np.nan, 0.5])


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", 0),
        ("...", 0),
        ("No stop at all", 1),
        ("One. Two! Three?", 3),
        ("it rained. we stayed.", 2),
        ("Dr. Smith paid $3.50 to J. Doe, i.e. too much.", 1),
        ("He waited... then left.", 1),
        ("Wait… What?!", 2),
        ('"Stop!" he cried. "Why?" She ran.', 3),
        ("A title\n\nA sentence.", 2),
        ("Version 2.0 came out at 5 p.m. on Monday.", 1),
    ],
)
def test_sentences_are_counted(text, wanted):
    assert sentences.count(text) == wanted


def test_prompts_hold_what_the_protocol_asks_for():
    first = prompts.first_turn(ITEM)[0].content
    for words in ("glass", "- metaphor: x", "Example: An example.", "at most one sentence"):
        assert words in first
    dialogue = prompts.second_turn(ITEM, "Answer: a\nExplanation: b", "strict")
    assert [turn.role for turn in dialogue] == ["user", "assistant", "user"]
    assert "at most one sentence" in dialogue[-1].content
    mild = prompts.second_turn(ITEM, "a", "mild")[-1].content
    assert len(mild) < len(dialogue[-1].content) and "one sentence" in mild
    assert prompts.second_turn(ITEM, "a", "none") == []
    with pytest.raises(UserError, match="unknown second turn"):
        prompts.second_turn(ITEM, "a", "harsh")
    rubric = prompts.grading(ITEM, "The text.")[0].content
    assert "\n5. " in rubric and "\n6. " not in rubric and "The text." in rubric
    assert "An example." not in prompts.grading(ITEM, "t", with_examples=False)[0].content
