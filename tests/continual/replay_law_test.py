"""Laws of replay: published sweeps, parameters found again, intervals, held-out shares."""

import json
import math

import numpy as np
import pytest
from scipy import optimize

from llm_dynamics.continual import replay_law
from llm_dynamics.continual.published import published
from llm_dynamics.continual.replay_law import (
    FEW_SEEDS,
    critical_row,
    fit_replay,
    new_loss,
    old_loss,
)
from llm_dynamics.errors import UserError
from llm_dynamics.seeds import PerSeed

SHARES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5)
OLD = {"floor": 3.6, "rise": 3.8, "B": 150.0, "a": 0.7}
NEW = {"floor": 4.1, "rise": 0.3, "a": 0.9}


def _sweep(law, parameters, seeds=1, noise=0.0, shares=SHARES):
    rng = np.random.default_rng(0)
    lift = noise * rng.normal(size=seeds)
    return {
        share: PerSeed(
            {s: law(parameters, share) + lift[s] + noise * rng.normal() / 3 for s in range(seeds)}
        )
        for share in shares
    }


def _printed(new_set, field):
    rows = [
        r for r in published().losses if (r.table, r.new_set, r.run) == ("2", new_set, "re-warmed")
    ]
    return {row.share: PerSeed({0: getattr(row, field)}) for row in rows}


@pytest.mark.parametrize(("which", "law", "true"), [("old", old_loss, OLD), ("new", new_loss, NEW)])
def test_parameters_are_found_again(which, law, true):
    found = fit_replay(which, _sweep(law, true))
    for name, value in true.items():
        assert found.parameters[name] == pytest.approx(value, rel=0.02), name
    assert found.left_out_error(inner=True) < 0.02
    assert found.predict([0.15]).value[0] == pytest.approx(law(true, 0.15), rel=1e-3)


@pytest.mark.parametrize(
    ("new_set", "old_error", "new_error"), [("SlimPajama", 0.02, 0.01), ("German", 0.05, 0.02)]
)
def test_published_sweeps_are_described(new_set, old_error, new_error):
    for which, field, error in (("old", "old", old_error), ("new", "new", new_error)):
        sweep = _printed(new_set, field)
        found = fit_replay(which, sweep)
        predicted = found.predict(list(sweep)).value
        measured = [per_seed.mean for per_seed in sweep.values()]
        np.testing.assert_allclose(predicted, measured, atol=0.012)  # printed to 0.01
        assert found.left_out_error(inner=True) < error


def test_interval_is_over_seeds():
    found = fit_replay("old", _sweep(old_loss, OLD, seeds=5, noise=0.03))
    band = found.predict([0.02, 0.2])
    truth = old_loss(OLD, np.array([0.02, 0.2]))
    assert (band.low < truth).all() and (truth < band.high).all()
    assert (band.high - band.low < 0.2).all()
    rows = {row["name"]: row for row in found.rows("old")}
    json.dumps(list(rows.values()), allow_nan=False)
    assert rows["old/floor"]["low"] < rows["old/floor"]["value"] and rows["old/floor"]["n"] == 5
    assert rows["old/left_out_error"]["low"] is None


def test_few_seeds_have_no_interval():
    found = fit_replay("old", _sweep(old_loss, OLD, seeds=2, noise=0.01))
    assert math.isnan(found.predict([0.1]).low[0])
    assert all(FEW_SEEDS in row["note"] for row in found.rows("old")[:4])


def test_known_floor_saves_a_share():
    sweep = _sweep(old_loss, OLD, shares=SHARES[:4])
    with pytest.raises(UserError, match="give the floor"):
        fit_replay("old", sweep)
    found = fit_replay("old", sweep, floor=3.6)
    assert found.parameters["B"] == pytest.approx(150, rel=0.02)


def test_a_share_is_held_out_of_its_own_prediction():
    sweep = _sweep(old_loss, OLD)
    sweep[0.1] = PerSeed({0: old_loss(OLD, 0.1) + 0.4})
    found = fit_replay("old", sweep)
    assert found.left_out[0.1] == pytest.approx(-0.4, abs=1e-3)
    assert abs(found.predict([0.1]).value[0] - sweep[0.1].mean) < 0.35


@pytest.mark.parametrize("losses", [(3.0, 2.0, 1.0), (3.0, 0.5, 0.2), (1.0, 2.0, 3.0)])
def test_floor_and_rise_are_least_squares_not_below_zero(losses):
    shape, losses = np.array([1.0, 0.6, 0.4]), np.array(losses)
    floor, rise, cost = replay_law._linear(shape[None], losses, None)
    columns = np.stack([np.ones(3), shape], axis=1) / losses[:, None]
    expected, norm = optimize.nnls(columns, np.ones(3))
    np.testing.assert_allclose((floor[0], rise[0]), expected, atol=1e-12)
    assert cost[0] == pytest.approx(norm**2)


def test_share_for_a_loss_is_the_inverse_of_the_law():
    found = fit_replay("old", _sweep(old_loss, OLD))
    for share in (0.003, 0.02, 0.3):
        assert found.share_for(old_loss(OLD, share)) == pytest.approx(share, rel=0.01)
    assert found.share_for(old_loss(OLD, 0.0) + 0.1) == 0
    assert found.share_for(old_loss(OLD, 0.5) - 0.01) == math.inf
    with pytest.raises(UserError, match="old set"):
        fit_replay("new", _sweep(new_loss, NEW)).share_for(4.1)


def test_critical_share_is_that_of_each_seed():
    # 3 % above 4.0 is reached at a share that each seed's own lift moves.
    sweep, share = _sweep(old_loss, OLD, seeds=3), 0.1
    base = old_loss(OLD, share) / 1.03
    before = PerSeed({seed: base * (1 + 0.002 * (seed - 1)) for seed in range(3)})
    row = critical_row("x/critical_share", before, sweep)
    json.dumps(row, allow_nan=False)
    assert row["value"] == pytest.approx(1 - share, abs=0.01) and row["n"] == 3
    assert row["low"] < row["value"] < row["high"] and row["note"] == ""
    one = critical_row("x", PerSeed({0: base}), _sweep(old_loss, OLD))
    assert one["low"] is None and "one seed" in one["note"]
    # A larger tolerance lets more new data in, a smaller one less.
    values = [critical_row("x", before, sweep, t)["value"] for t in (0.01, 0.03, 0.1)]
    assert values == sorted(values) and values[0] < values[-1]


def test_critical_share_outside_of_the_shares_that_were_run():
    sweep = _sweep(old_loss, OLD, seeds=2)
    never = critical_row("x", PerSeed({0: 3.0, 1: 3.9}), sweep)
    assert never["value"] is None and "in 1 of 2 seeds a share of replay of 0.5" in never["note"]
    always = critical_row("x", PerSeed({0: 8.0, 1: 8.0}), sweep)
    assert always["value"] == 1 and "least replay" in always["note"]
    mixed = critical_row("x", PerSeed({0: 8.0, 1: old_loss(OLD, 0.1)}), sweep, 0.0)
    assert mixed["high"] == 1 and mixed["low"] == 0.5 and "cut" in mixed["note"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: fit_replay("new", {1.0: PerSeed({0: 1})}), "below 1"),
        (lambda: fit_replay("old", {5: PerSeed({0: 1})}), "fraction"),
        (lambda: fit_replay("Pile", {}), "old set"),
        (lambda: fit_replay("old", {s: PerSeed({i: 2}) for i, s in enumerate(SHARES)}), "a seed"),
        (lambda: fit_replay("old", {s: PerSeed({0: s}) for s in SHARES}), "above 0"),
        (lambda: fit_replay("old", _sweep(old_loss, OLD)).predict([-0.1]), "fraction"),
        (lambda: critical_row("x", PerSeed({0: 4}), _sweep(old_loss, OLD), -1), "tolerance"),
        (lambda: critical_row("x", PerSeed({9: 4}), _sweep(old_loss, OLD)), "a base model"),
        (lambda: critical_row("x", PerSeed({0: 4}), _sweep(old_loss, OLD, shares=SHARES[:4])), "5"),
    ],
)
def test_mistakes_are_refused(make, words):
    with pytest.raises(UserError, match=words):
        make()
