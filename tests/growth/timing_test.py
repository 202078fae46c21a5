"""The published laws of when to grow and by how much, and the two ways to say what is saved."""

import pytest

from llm_dynamics.errors import UserError
from llm_dynamics.growth.timing import (
    growth_factor,
    growth_tokens,
    saved_from_speedup,
    speedup_from_saved,
)


@pytest.mark.parametrize(
    ("params", "budget", "billion"),
    [(8e9, 15e12, 6.58), (7e9, 2e12, 11.11), (13e9, 2e12, 15.84), (70e9, 2e12, 42.48)],
)
def test_printed_times_of_growth(params, budget, billion):
    found = growth_tokens(params, budget)
    assert found.tokens / 1e9 == pytest.approx(billion, abs=0.005)
    assert found.tokens == found.law_tokens and not found.warning


@pytest.mark.parametrize(
    ("params", "budget", "billion"), [(410e6, 8.2e9, 19.8), (125e6, 2.5e9, 20.9)]
)
def test_law_is_not_taken_down(params, budget, billion):
    found = growth_tokens(params, budget)
    assert found.law_tokens / 1e9 == pytest.approx(billion, abs=0.05)
    assert found.tokens == budget
    assert "beyond the budget" in found.warning


def test_small_models_are_warned_of_even_within_the_budget():
    found = growth_tokens(3e6, 1e13)
    assert found.tokens == found.law_tokens < 1e13
    assert found.warning.startswith("extrapolated: the target has 3M parameters")
    assert "extrapolated" not in growth_tokens(410e6, 750e9).warning


def test_a_smaller_share_of_the_budget_may_be_the_most():
    found = growth_tokens(1.1e9, 100e9, most=0.1)
    assert found.tokens == pytest.approx(10e9) and found.law_tokens > 10e9
    assert "10 % of the budget" in found.warning


def test_factor():
    found = growth_factor(3e9, 300e9)
    assert found.law == pytest.approx(6.87, abs=0.005)
    assert found.factor == 4 and "2 to 4" in found.warning
    found = growth_factor(1.1e9, 100e9)
    assert found.factor == found.law == pytest.approx(2.17, abs=0.005) and not found.warning
    assert growth_factor(125e6, 2.5e9).factor == 2


@pytest.mark.parametrize(("speedup", "saved"), [(0.546, 0.353), (0.808, 0.447)])
def test_speedup_is_not_saved(speedup, saved):
    assert saved_from_speedup(speedup) == pytest.approx(saved, abs=0.0005)
    assert speedup_from_saved(saved) == pytest.approx(speedup, abs=0.0015)
    assert speedup_from_saved(saved_from_speedup(speedup)) == pytest.approx(speedup)


def test_nothing_saved_is_no_speedup():
    assert saved_from_speedup(0) == speedup_from_saved(0) == 0
    assert saved_from_speedup(-0.2) == pytest.approx(-0.25)


@pytest.mark.parametrize(
    "call",
    [
        lambda: growth_tokens(0, 1e9),
        lambda: growth_tokens(1e9, -1),
        lambda: growth_tokens(1e9, 0.5),
        lambda: growth_tokens(1e9, 1e9, most=0),
        lambda: growth_factor(1e9, 0),
        lambda: saved_from_speedup(-1),
        lambda: speedup_from_saved(1),
    ],
)
def test_what_makes_no_sense_is_refused(call):
    with pytest.raises(UserError, match="expected"):
        call()
