"""The published tables are whole, and nothing is claimed beside them without an interval."""

import json
import math

import numpy as np
import pytest
from paper_test import log_of

from llm_dynamics.facts import anchors, paper
from llm_dynamics.facts.facts import DEPTHS


def test_all_cells_are_consistent():
    """a (x0 - log10 tokens per step) is R at t = 1, so about 1."""
    found = anchors.load()
    at_one = [
        a * (x - math.log10(found.tokens_per_step[cell.batch]))
        for cell in found.cells
        for a, x in zip(cell.a, cell.x_intercept, strict=True)
    ]
    assert len(at_one) == 36
    assert round(min(at_one), 2) == 0.76
    assert round(max(at_one), 2) == 1.27
    assert found.tokens_per_step == {2048: 4_194_304, 128: 262_144}
    keys = {(cell.batch, cell.arm, cell.depth) for cell in found.cells}
    arms = ("duplication", "paraphrase")
    assert keys == {(b, arm, depth) for b in (2048, 128) for arm in arms for depth in DEPTHS}
    assert "not verified" in found.status


def test_golden_cells():
    found = anchors.load()
    assert found.at("duplication", "memorization")[2048].a == (0.26, 0.25, 0.20)
    assert found.at("paraphrase", "compositional")[2048].x_intercept == (12.05, 11.88, 11.40)
    assert found.at("paraphrase", "semantic")[128].a == (0.25, 0.32, 0.30)
    # Paraphrases are forgotten more slowly in 7 of the 9 cells of Table 2, as fast in one.
    pairs = [
        pair
        for depth in DEPTHS
        for pair in zip(
            found.at("paraphrase", depth)[2048].a,
            found.at("duplication", depth)[2048].a,
            strict=True,
        )
    ]
    assert sum(p < d for p, d in pairs) == 7
    assert sum(p == d for p, d in pairs) == 1


@pytest.fixture(scope="module")
def analysis():
    """Duplication, paraphrase, once and control, facts of which fade in log time."""
    rng = np.random.default_rng(0)
    schedule = {"duplication": (0, 60), "paraphrase": (0, 60), "once": (0,), "control": (0, 60)}
    labels, columns = [], []
    for arm, a in (("duplication", 0.3), ("paraphrase", 0.2), ("once", 0.25), ("control", 0.3)):
        for depth, peak in zip(DEPTHS, (3.0, 2.0, 1.0), strict=True):
            for k in range(6):
                since = np.arange(400) - schedule[arm][-1] - 1
                fade = 1 - a * np.log10(np.maximum(since, 1))
                gain = np.where(since >= 0, peak * fade, 0)
                columns.append(gain - 9 + 0.01 * rng.standard_normal(400))
                labels.append((f"{arm}-{k}", arm, depth))
    return paper.analyse(log_of(np.stack(columns, 1), labels), schedule, 50)


def test_no_ordering_is_shown_without_an_interval(analysis):
    rows = {row["name"]: row for row in anchors.compare(analysis, "tiny")}
    kinds = {row["kind"] for row in rows.values()}
    assert kinds == {"value", "form", "sign", "ordering"}
    for row in rows.values():
        assert row["comparable"] == (row["kind"] != "value")
        if row["kind"] in ("sign", "ordering"):
            assert row["verdict"] == "not shown: rests on no interval"
    assert "duplication-minus-paraphrase/memorization/a" in rows
    assert "once-minus-duplication/semantic/effectivity" in rows
    assert not any("control" in name for name in rows)
    json.dumps(list(rows.values()), allow_nan=False)


def test_values_stand_beside_each_other_and_are_not_compared(analysis):
    rows = {row["name"]: row for row in anchors.compare(analysis, "1,234 parameters")}
    row = rows["duplication/memorization/a"]
    assert row["published"] == {"batch 2048": [0.26, 0.25, 0.20], "batch 128": [0.26, 0.31, 0.30]}
    cell = next(c for c in analysis if (c.arm, c.depth) == ("duplication", "memorization"))
    assert row["ours"] == cell.decay.a == pytest.approx(0.3, abs=0.05)
    assert row["verdict"].startswith("not comparable")
    assert "1,234 parameters" in row["note"]
    assert "OLMo-7B" in row["note"]
    # The tables have no fit of the arm once.
    assert "once/memorization/a" not in rows
    form = rows["duplication/memorization/line_on_log_time"]
    assert (form["published"], form["verdict"]) == ("R2 above 0.80", "as published")
    pairs = rows["duplication-minus-paraphrase/memorization/a"]["published"]
    assert pairs["batch 2048"] == "larger in 3, equal in 0, smaller in 0 of 3"
    assert pairs["batch 128"] == "larger in 1, equal in 2, smaller in 0 of 3"


def test_intervals_decide(analysis):
    intervals = {
        "duplication/memorization/decay/published/a": (0.1, 0.4),
        "duplication/semantic/decay/published/a": (-0.1, 0.4),
        "paraphrase/memorization/decay/published/a": (-0.4, -0.1),
        "ordering/duplication/memorization-minus-semantic/effectivity": (0.5, 1.5),
        "ordering/paraphrase-minus-duplication/memorization/effectivity": (0.5, 1.5),  # turned
        "ordering/duplication-minus-paraphrase/semantic/decay_published": (0.01, 0.2),
    }
    rows = {row["name"]: row for row in anchors.compare(analysis, "tiny", intervals)}
    verdicts = {
        "duplication/memorization/sign_of_a": "shown: 0.1 to 0.4, as published",
        "duplication/semantic/sign_of_a": "not shown: the interval -0.1 to 0.4 includes 0",
        "paraphrase/memorization/sign_of_a": "shown: -0.4 to -0.1, against the published",
        "duplication/memorization-minus-semantic/effectivity": (
            "shown: in the run's own results 0.5 to 1.5, as published"
        ),
        "duplication-minus-paraphrase/memorization/effectivity": (
            "shown: in the run's own results -1.5 to -0.5, against the published"
        ),
        "duplication-minus-paraphrase/semantic/a": (
            "shown: 0.01 to 0.2, where published cells are mixed"
        ),
    }
    assert {name: rows[name]["verdict"] for name in verdicts} == verdicts
