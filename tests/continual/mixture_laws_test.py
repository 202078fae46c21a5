"""Published laws of mixtures: values by hand, and parameters found again."""

import json

import numpy as np
import pytest

from llm_dynamics.continual import mixture_laws
from llm_dynamics.continual.mixture_laws import (
    Points,
    critical_share,
    dcpt_rows,
    fit_dcpt,
    fit_injection,
)
from llm_dynamics.errors import UserError

DCPT = {
    "E": 1.2, "A": 400.0, "alpha": 0.34, "B": 300.0, "eta": 0.4, "beta": 0.3,
    "C": 0.15, "eps": 0.05, "gamma": 0.6,
}  # fmt: skip
INJECTION = {"L0": 2.4, "A": 2.0, "beta": 0.25, "B": 829.0, "alpha": 0.3}


def _points(law, parameters, sizes, tokens, shares, noise=0.0):
    grid = [column.ravel() for column in np.meshgrid(sizes, tokens, shares)]
    losses = law(parameters, *grid)
    rng = np.random.default_rng(0)
    return Points(*grid, losses * np.exp(noise * rng.normal(size=len(losses))))


@pytest.mark.parametrize(
    ("size", "percent"), [("460M", 29.8), ("940M", 34.9), ("1.6B", 41.4), ("3.1B", 47.8)]
)
def test_critical_share_of_20_billion_tokens(size, percent):
    assert 100 * critical_share(size, 20e9) == pytest.approx(percent, abs=0.05)


def test_values_by_hand():
    p = {"E": 1, "A": 8, "alpha": 0.5, "B": 6, "eta": 2, "beta": 1, "C": 0.3, "eps": 0.1}
    found = mixture_laws.dcpt_loss(p | {"gamma": 1}, 16.0, 3.0, 0.5)
    assert found == pytest.approx(1 + 2 + 0.5 + 0.5)
    p = {"L0": 2, "A": 3, "beta": 0.5, "B": 30, "alpha": 1}
    assert mixture_laws.injection_loss(p, 2.0, 16.0, 0.1) == pytest.approx(2 + 12 / 8)


def test_dcpt_predicts_a_size_and_share_it_has_not_seen():
    shares = (0.05, 0.1, 0.2, 0.33, 0.5, 0.67, 0.8, 0.9, 1.0)
    points = _points(mixture_laws.dcpt_loss, DCPT, (5e8, 1.8e9), (1e8, 1e9, 1e10), shares, 1e-4)
    found = fit_dcpt(points)
    assert found.held == () and found.error < 3e-4 and found.left_out_error < 1e-3
    true = mixture_laws.dcpt_loss(DCPT, 4e9, 3e9, 0.6)
    assert found.predict(4e9, 3e9, 0.6) == pytest.approx(true, rel=0.01)


def test_what_one_size_and_one_budget_do_not_determine_is_held():
    shares = (0.05, 0.1, 0.2, 0.33, 0.5, 0.67, 0.8, 0.9, 1.0)
    found = fit_dcpt(_points(mixture_laws.dcpt_loss, DCPT, (5e8,), (1e9,), shares))
    assert found.held == ("A", "alpha", "beta")
    assert all(found.parameters[name] == 0 for name in found.held)
    true = mixture_laws.dcpt_loss(DCPT, 5e8, 1e9, 0.4)
    assert found.predict(5e8, 1e9, 0.4) == pytest.approx(true, rel=2e-3)


def test_whole_shares_are_left_out_where_points_of_one_run_are_alike():
    shares = (0.5, 0.75, 0.9, 0.95, 1.0)
    points = _points(mixture_laws.dcpt_loss, DCPT, (5e8,), np.geomspace(1e8, 2e9, 12), shares)
    found = fit_dcpt(points, by_share=True)
    assert tuple(found.left_out_shares) == (0.75, 0.9, 0.95)
    assert found.left_out_error == np.mean(list(found.left_out_shares.values())) < 1e-3
    # Shares that each lie a little off, so that points of a share would foretell each other.
    off = dict(zip(shares, (0.0, 0.02, -0.02, 0.02, 0.0), strict=True))
    losses_P = points.losses_P * [1 + off[share] for share in points.shares_P]
    moved = Points(points.sizes_P, points.tokens_P, points.shares_P, losses_P)
    at = np.flatnonzero(points.shares_P == 0.9)
    others = fit_dcpt(moved.without(at))
    by_hand = [
        abs(others.predict(5e8, tokens, 0.9) / loss - 1)
        for tokens, loss in zip(moved.tokens_P[at], moved.losses_P[at], strict=True)
    ]
    left = fit_dcpt(moved, by_share=True).left_out_shares[0.9]
    assert left == pytest.approx(np.mean(by_hand), rel=0.05) and left > 0.02


def test_rows_of_runs_of_one_model():
    shares = (0.5, 0.75, 0.9, 0.95, 1.0)
    points = _points(mixture_laws.dcpt_loss, DCPT, (1.0,), np.geomspace(1e8, 2e9, 8), shares)
    rows = {row["name"]: row for row in dcpt_rows("x", points, seeds=3)}
    json.dumps(list(rows.values()), allow_nan=False)
    error = rows["x/left_out_error"]
    assert error["value"] < 1e-3 and error["n"] == 3 and error["low"] is not None
    assert "not identified" in error["note"] and "not identified" in rows["x/E"]["note"]
    assert set(rows) == {f"x/{key}" for key in DCPT if key not in ("A", "alpha")} | {
        "x/left_out_error"
    }
    few = points.without(np.flatnonzero(points.shares_P < 0.9))
    (row,) = dcpt_rows("x", few, seeds=3)
    assert row["value"] is None and "five shares" in row["note"]


def test_injection_is_found_again():
    points = _points(
        mixture_laws.injection_loss,
        INJECTION,
        (4e7, 3e8, 1.3e9),
        (3e5, 3e6, 3e7),
        (0.0, 0.001, 0.005, 0.01, 0.05),
    )
    found = fit_injection(points)
    for name, value in INJECTION.items():
        assert found.parameters[name] == pytest.approx(value, rel=0.02), name
    assert found.left_out_error < 1e-3


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: critical_share("7B", 2e10), "model size"),
        (lambda: critical_share("460M", 2e8), "gives a share"),
        (lambda: Points(np.ones(2), np.ones(2), np.array([0, 5]), np.ones(2)), "fraction"),
        (lambda: Points(np.ones(2), np.ones(2), np.zeros(2), np.zeros(2)), "above 0"),
        (lambda: Points(np.zeros(2), np.ones(2), np.zeros(2), np.ones(2)), "sizes"),
        (lambda: Points(np.ones(3), np.ones(2), np.zeros(2), np.ones(2)), "every point"),
        (lambda: fit_dcpt(Points(*np.ones((4, 30)))), "three shares"),
        (lambda: fit_injection(Points(*np.ones((2, 3)), np.arange(3) / 9, np.ones(3))), "add runs"),
    ],
)
def test_mistakes_are_refused(make, words):
    with pytest.raises(UserError, match=words):
        make()
