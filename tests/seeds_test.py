"""Intervals over seeds: paired, by Student's t and by Fieller."""

import math

import numpy as np
import pytest
from scipy import stats

from llm_dynamics.errors import UserError
from llm_dynamics.seeds import ONE_SEED, PerSeed, ratio_interval, ratio_row, seed_row


def test_interval_is_that_of_a_paired_t_test():
    rng = np.random.default_rng(0)
    base = rng.normal(size=6)
    a, b = base + 1 + 0.1 * rng.normal(size=6), base + 0.1 * rng.normal(size=6)
    found = (PerSeed(dict(enumerate(a))) - PerSeed(dict(enumerate(b)))).interval()
    expected = stats.ttest_rel(a, b).confidence_interval()
    np.testing.assert_allclose((found.low[0], found.high[0]), expected)


def test_common_seeds_alone_are_paired():
    difference = PerSeed({1: 3.0, 2: 5.0}) - PerSeed({2: 1.0, 3: 9.0})
    assert difference.values == {2: 4.0}
    with pytest.raises(UserError, match="same seed"):
        PerSeed({1: 3.0}) - PerSeed({2: 1.0})


@pytest.mark.parametrize("values", [{}, {1: math.nan}, {1: math.inf}])
def test_no_number_is_refused(values):
    with pytest.raises(UserError, match="finite"):
        PerSeed(values)


def test_ends_of_fieller_are_where_the_t_test_turns():
    rng = np.random.default_rng(1)
    a, b = 2 + 0.2 * rng.normal(size=5), 4 + 0.3 * rng.normal(size=5)
    found = ratio_interval(PerSeed(dict(enumerate(a))), PerSeed(dict(enumerate(b))))
    assert found.value[0] == pytest.approx(a.mean() / b.mean())
    for end in (found.low[0], found.high[0]):
        assert stats.ttest_1samp(a - end * b, 0).pvalue == pytest.approx(0.05)
    middle = (found.low[0] + found.high[0]) / 2
    assert stats.ttest_1samp(a - middle * b, 0).pvalue > 0.05


def test_ratio_without_a_denominator_has_no_interval():
    a, b = PerSeed({1: 1.0, 2: 1.2, 3: 0.9}), PerSeed({1: 0.5, 2: -0.4, 3: 0.1})
    row = ratio_row("r", a, b, "1", "a / b", "b is not shown to differ from 0")
    assert row["low"] is None and row["note"] == "b is not shown to differ from 0"
    assert row["n"] == 3 and row["value"] == pytest.approx(3.1 / 0.2)


def test_rows_say_what_is_not_shown_and_what_is_one_seed():
    row = seed_row("d", PerSeed({1: 1.0, 2: -1.0}), "1", "of d")
    assert "not shown" in row["note"] and row["low"] < 0 < row["high"]
    row = seed_row("d", PerSeed({1: 1.0, 2: -1.0}), "1", "of d", contrast=False)
    assert row["note"] == ""
    row = seed_row("d", PerSeed({7: 1.0}), "1", "of d")
    assert (row["value"], row["low"], row["note"]) == (1.0, None, ONE_SEED)
