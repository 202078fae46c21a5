"""Sums over rates against the double sum that defines them."""

import numpy as np
import pytest

from llm_dynamics.continual.areas import areas, warm_up_at_peak
from llm_dynamics.errors import UserError


def _double_sum(rates_T, decay, kept_T):
    """S2 as written; `kept_T` picks the steps k whose fall counts."""
    total, out = 0.0, []
    for i in range(len(rates_T)):
        for k in range(1, i + 1):
            if kept_T[k]:
                total += (rates_T[k - 1] - rates_T[k]) * decay ** (i - k)
        out.append(total)
    return out


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.999])
def test_recursion_is_the_double_sum(decay):
    rates_T = np.random.default_rng(0).uniform(0, 1e-3, 60)
    first_T = np.arange(60) < 25
    found = areas(rates_T, 25, decay)
    np.testing.assert_allclose(found.first_decay_T, _double_sum(rates_T, decay, first_T))
    np.testing.assert_allclose(found.second_decay_T, _double_sum(rates_T, decay, ~first_T))
    np.testing.assert_allclose(found.first_T[24:], rates_T[:25].sum())
    np.testing.assert_allclose(found.first_T[10], rates_T[:11].sum())
    np.testing.assert_allclose(found.second_T[30], rates_T[25:31].sum())
    assert not found.second_T[:25].any() and not found.second_decay_T[:25].any()


def test_stages_add_up_to_one_run():
    rates_T = np.random.default_rng(1).uniform(0, 1e-3, 60)
    one, two = areas(rates_T), areas(rates_T, 25)
    np.testing.assert_allclose(two.first_T + two.second_T, one.first_T)
    np.testing.assert_allclose(two.first_decay_T + two.second_decay_T, one.first_decay_T)


def test_by_hand():
    found = areas(np.array([4.0, 4.0, 2.0, 2.0, 3.0]), 4, 0.5)
    np.testing.assert_allclose(found.first_decay_T, [0, 0, 2, 3, 3.5])
    np.testing.assert_allclose(found.second_decay_T, [0, 0, 0, 0, -1])


def test_warm_up_counts_at_the_peak():
    rates_T = np.array([0.0, 1, 2, 3, 2, 1, 0, 5])
    np.testing.assert_array_equal(warm_up_at_peak(rates_T, 7), [3, 3, 3, 3, 2, 1, 0, 5])
    assert areas(warm_up_at_peak(rates_T, 7), 7).first_decay_T[3] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([],), "learning rates"),
        (([1.0, -1.0],), "learning rates"),
        (([1.0, 1.0], 0), "first stage"),
        (([1.0, 1.0], 3), "first stage"),
        (([1.0, 1.0], 1, 1.0), "decay"),
    ],
)
def test_mistakes_are_refused(arguments, words):
    with pytest.raises(UserError, match=words):
        areas(*arguments)
