"""Transcribed tables agree with themselves, and with what was derived from them."""

import numpy as np
import pytest

from llm_dynamics.continual.published import derived_rows, published
from llm_dynamics.errors import UserError


def _derived(quantity):
    return {
        row["name"].rsplit("/", 1)[0]: row
        for row in derived_rows()
        if row["name"].endswith(quantity)
    }


@pytest.mark.parametrize(
    ("new_set", "percent"),
    [("SlimPajama", [63, 67, 78, 85, 104]), ("German", [53, 71, 79, 88, 95])],
)
def test_shares_of_forgetting_that_replay_removes(new_set, percent):
    rows = [row for name, row in _derived("replay_removes").items() if f"405M/{new_set}" in name]
    assert [round(100 * row["value"]) for row in rows] == percent
    for row in rows:
        assert row["low"] < row["value"] < row["high"] and "rounding" in row["note"]


def test_forgetting():
    rows = _derived("forgetting")
    weak = [0.27, 0.10, 0.09, 0.06, 0.04, -0.01]
    strong = [1.39, 0.66, 0.40, 0.29, 0.16, 0.07]
    for new_set, expected in (("SlimPajama", weak), ("German", strong)):
        found = [row["value"] for name, row in rows.items() if f"405M/{new_set}/" in name]
        np.testing.assert_allclose(found, expected, atol=1e-9)
    assert rows["10B/SlimPajama/0"]["value"] == pytest.approx(0.23)
    assert rows["10B/SlimPajama/0.05"]["value"] == pytest.approx(0.04)
    zero = rows["405M/SlimPajama/0.5"]
    assert zero["low"] == pytest.approx(-0.02) and zero["high"] == pytest.approx(0)


def test_rewarming_is_a_small_part_of_forgetting():
    rows = _derived("due_to_rewarming")
    assert round(100 * rows["405M/German/0"]["value"]) == 24
    assert round(100 * rows["405M/SlimPajama/0"]["value"]) == 7


def test_printed_averages_are_means():
    rows = [row for row in published().losses if row.average is not None]
    assert len(rows) == 19
    for row in rows:
        assert row.derived_average == pytest.approx(row.average, abs=0.0101), row
    assert published().loss("3", "SlimPajama", "old only").derived_average == pytest.approx(2.435)


def test_printed_evaluation_means():
    rows = [row for row in published().scores if row.scores]
    assert len(rows) == 4
    for row in rows:
        assert len(row.scores) == 13
        assert np.mean(list(row.scores.values())) == pytest.approx(row.average, abs=0.01), row


def test_tables_agree_where_they_overlap():
    known = published()
    for new_set in ("SlimPajama", "German"):
        one, other = (known.loss(t, new_set, "re-warmed", 0, 3e-4) for t in ("2", "12"))
        assert (one.old, one.new) == (other.old, other.new)


def test_every_figure_has_a_known_mark():
    known = published()
    marked = [*known.losses, *known.scores]
    assert {row.mark for row in marked} <= set(known.marks)
    assert all(figures["mark"] in known.marks for figures in known.other.values())


@pytest.mark.parametrize(("share", "found"), [(0, 3), (0.3, 0)])
def test_an_ambiguous_or_absent_row_is_refused(share, found):
    with pytest.raises(UserError, match=f"got {found}"):
        published().loss("12", "German", "re-warmed", share)
