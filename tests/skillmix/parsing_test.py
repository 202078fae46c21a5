"""Parsers: what is written is read back, and what is cut or wrong is never filled up."""

import itertools
import json

import pytest

from llm_dynamics.skillmix import parsing
from llm_dynamics.skillmix.parsing import Answer


@pytest.mark.parametrize("k", [1, 3])
def test_points_are_read_back_in_any_order_and_company(k):
    for points in itertools.product((0, 1), repeat=k + 3):
        text = parsing.lines(points)
        assert parsing.grading(text, k).points == points
        upside_down = "\n".join(["Here you are:", "```", *reversed(text.splitlines()), "```"])
        assert parsing.grading(upside_down, k).points == points


def test_a_table_is_read_too():
    table = "| criterion | why | points |\n|---|---|---|\n| 1 | a \\| b | 1 |\n| 2. | | 0 |\n"
    table += "| 3 | fine | 1 |\n| 4 | one | 1 |"
    assert parsing.grading(table, 1).points == (1, 0, 1, 1)


def test_what_is_cut_anywhere_is_not_readable_or_whole():
    text = parsing.lines((1, 0, 1, 1, 0))
    whole = parsing.grading(text, 2).points
    for end in range(len(text)):
        assert parsing.grading(text[:end], 2).points is None
    assert whole == (1, 0, 1, 1, 0)
    assert parsing.grading(text, 1).why == "a criterion that does not exist"
    assert parsing.grading(text, 3).why == "criteria are missing"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("", "no points at all"),
        ("I would give it full marks: 1 1 1 1.", "no points at all"),
        ('{"criterion": 1, "points": 2}', "points that are not 0 or 1"),
        ('{"criterion": 1, "points": true}', "points that are not 0 or 1"),
        ('{"criterion": 1, "points": "1"}', "points that are not 0 or 1"),
        ('{"criterion": 1, "points": 0.5}', "points that are not 0 or 1"),
        ('{"points": 1}', "a line names no criterion"),
        ('{"criterion": 1, "points": 1', "a line is no valid JSON"),
        ('{"criterion": 1, "points": 1}\n{"criterion": 1, "points": 1}', "graded twice"),
        ('{"criterion": 0, "points": 1}', "does not exist"),
    ],
)
def test_what_is_wrong_is_said(line, why):
    found = parsing.grading(line, 1)
    assert found.points is None and why in found.why


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        ("Answer: It rains.\nExplanation: wet", Answer("It rains.", True)),
        ("Sure!\n\n**Answer:** It rains.\n\n**Explanation:** wet", Answer("It rains.", True)),
        ('### answer:\n"It rains."', Answer("It rains.", True)),
        ('Answer: "It" rains "now"', Answer('"It" rains "now"', True)),
        ("Answer: first\nAnswer: second", Answer("second", True)),
        ("It rains.", Answer("It rains.", False)),
        ("My answer is no.", Answer("My answer is no.", False)),
        ("Answer:", Answer("", True)),
        ("", Answer("", False)),
    ],
)
def test_answers_are_what_is_marked(written, wanted):
    assert parsing.answer(written) == wanted


def test_lines_are_json():
    assert [json.loads(line)["points"] for line in parsing.lines((1, 0)).splitlines()] == [1, 0]
