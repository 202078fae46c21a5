"""Rows of made-up answers: shares, their intervals, groups, parts and aggregates."""

import dataclasses
import json
import math

import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from llm_dynamics.harness import rows, run
from llm_dynamics.harness.run import Answered, Sample


def sample(right, labels=None, choices=4, **metrics):
    doc = {"context": "Is it", "labels": labels}
    return Sample(doc, "none", [[-1.0, False]], choices, {"acc": right, **metrics})


def answered(samples, values=None, output_type="multiple_choice", questions=0):
    values = values or {("acc", "none"): float(np.mean([s.metrics["acc"] for s in samples]))}
    return Answered("mine", "3", output_type, values, samples, questions or len(samples))


def test_a_share_has_wilsons_interval_and_says_where_it_is_from():
    found = answered([sample(n < 3) for n in range(8)], questions=20)
    (row,) = rows.rows("run/step=5", found, "0.4.13")
    assert row["name"] == "run/step=5/mine/acc"
    low, high = proportion_confint(3, 8, method="wilson")
    assert (row["value"], row["n"], row["unit"]) == (0.375, 8, "share")
    assert (row["low"], row["high"]) == (pytest.approx(low), pytest.approx(high))
    assert "task version 3, lm-evaluation-harness 0.4.13" in row["definition"]
    assert row["note"] == "Wilson's interval; the first 8 of 20 questions"


def test_groups_that_answer_alike_count_as_one():
    labels = [{"page": str(n // 4)} for n in range(16)]
    found = answered([sample(n < 8, labels[n]) for n in range(16)])
    (alone,) = rows.rows("a", found, "1", group="")[:1]
    (row,) = [r for r in rows.rows("a", found, "1", group="page") if r["name"] == "a/mine/acc"]
    assert (alone["n"], row["n"]) == (16, 4)
    assert row["high"] - row["low"] > 1.3 * (alone["high"] - alone["low"])
    assert "16 questions in 4 groups" in row["note"]


def test_parts_of_labels_with_few_values():
    samples = [sample(n % 2, {"side": "ew"[n % 2], "id": str(n)}) for n in range(12)]
    found = {row["name"]: row["value"] for row in rows.rows("a", answered(samples), "1")}
    assert found == {"a/mine/acc": 0.5, "a/mine/side=e/acc": 0.0, "a/mine/side=w/acc": 1.0}


def test_chance_is_one_over_the_choices_of_each_question():
    (row,) = rows.chance_rows(answered([sample(1, choices=2), sample(0, choices=4)]))
    assert (row["name"], row["value"]) == ("mine/chance", 0.375)
    assert rows.chance_rows(answered([sample(1)], output_type="loglikelihood")) == []


def test_what_is_no_share_has_no_interval():
    samples = [sample(0, bits_per_byte=(-3.0, 4)), sample(0, bits_per_byte=(-1.0, 4))]
    found = answered(samples, {("bits_per_byte", "none"): 0.7}, "loglikelihood_rolling")
    (row,) = rows.rows("a", found, "1")
    assert (row["value"], row["low"], row["unit"]) == (0.7, None, "bits per byte")
    assert "without an interval" in row["note"]


def test_what_is_no_number_is_kept_and_said():
    found = answered([sample(math.nan), sample(1)], {("acc", "none"): math.nan})
    kept = run.from_json(json.loads(json.dumps(run.to_json(found), allow_nan=False)))
    assert math.isnan(kept.values["acc", "none"])
    assert [s.metrics["acc"] for s in kept.samples] == [None, 1]
    for each in (found, kept):
        (row,) = rows.rows("a", each, "1")
        assert row["value"] is None and "no finite number" in row["note"]


def test_filters_are_part_of_the_name():
    mine = Sample({}, "strict", ["x"], 1, {"exact_match": 1.0})
    found = answered([mine], {("exact_match", "strict"): 1.0}, "generate_until")
    assert [r["name"] for r in rows.rows("a", found, "1")] == ["a/mine/exact_match,strict"]


def test_parts_under_several_filters_have_names_of_their_own():
    labels = [{"side": "ew"[n % 2]} for n in range(12)]
    samples = [sample(n % 2, labels[n]) for n in range(12)]
    samples += [dataclasses.replace(s, filter="strict", metrics={"acc": 0}) for s in samples]
    found = answered(samples, {("acc", "none"): 0.5, ("acc", "strict"): 0.0})
    made = rows.rows("a", found, "1")
    assert {row["name"]: row["value"] for row in made} == {
        "a/mine/acc": 0.5, "a/mine/side=e/acc": 0.0, "a/mine/side=w/acc": 1.0,
        "a/mine/acc,strict": 0.0, "a/mine/side=e/acc,strict": 0.0, "a/mine/side=w/acc,strict": 0.0,
    }  # fmt: skip
    assert len(made) == 6


def test_answers_survive_a_file():
    found = answered([sample(1, {"side": "e"})], {("acc", "none"): 1.0, ("ppl", "f"): math.pi})
    assert run.from_json(json.loads(json.dumps(run.to_json(found)))) == found
