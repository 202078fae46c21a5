"""Runs put together fact by fact: what cancels, what is left, and how often intervals hold."""

import numpy as np
import pytest
import xarray as xr

from llm_dynamics.errors import UserError
from llm_dynamics.facts import claims, estimates
from llm_dynamics.facts.crossed import cross

SCHEDULE = {"duplication": (10, 20), "control": ()}
STEPS = np.arange(61)
MEASURES = ["logprob_mean", "logprob_sum", "logprob_first", "rank_first", "greedy_match"]
EFFECT, OWN_SD, NOISE_SD = 0.3, 1.0, 0.2


def _run(turn, facts=12, effect=EFFECT, own=None, shift=0.0, noise=NOISE_SD, seed=0):
    """A run of two arms; from step 20 on facts gain their own amount, whether said or not."""
    rng = np.random.default_rng([seed, turn])
    own = np.random.default_rng([seed, 99]).normal(0, OWN_SD, facts) if own is None else own
    said = (np.arange(facts) + turn) % 2 == 0
    gain = own + effect * said + rng.normal(0, noise, facts) + shift
    values = np.where(STEPS[:, None] > 20, gain, 0.0) - 5
    score = np.stack([values, values, values, np.exp(-values), values > 0], axis=2)
    names = np.array([f"fact-{i}" for i in range(facts)])
    labels = {
        "fact": names,
        "arm": np.where(said, "duplication", "control"),
        "depth": np.full(facts, "memorization"),
        "attribute": np.full(facts, "a"),
    }
    return xr.Dataset(
        {"score": (("step", "probe", "measure"), score)},
        coords={
            "step": STEPS,
            "tokens": ("step", STEPS * 100),
            "probe": names,
            "measure": MEASURES,
            **{name: ("probe", column) for name, column in labels.items()},
        },
    )


def _open(log):
    return estimates.open_study(log, SCHEDULE, 5, 0, 400)


def _gain(study):
    return claims.subtracted(study, "duplication", "memorization", claims.gain_after(0))


def test_the_difference_is_the_mean_over_facts_of_said_less_not_said():
    logs = [_run(0), _run(1)]
    found = _gain(cross([_open(log) for log in logs]))
    by_fact = []
    for i in range(12):
        level = [log["score"].values[30, i, 0] - log["score"].values[0, i, 0] for log in logs]
        by_fact.append(level[i % 2] - level[1 - i % 2])
    assert found.draws_RxT[0, 0] == pytest.approx(np.mean(by_fact))
    assert found.n == 12
    low, high = (end[0] for end in found.interval()[1:])
    alone = _gain(_open(logs[0])).interval()
    assert high - low < 0.35 * (alone.high[0] - alone.low[0])


def test_what_runs_differ_in_cancels_in_every_replicate():
    plain, shifted = (
        _gain(cross([_open(_run(0)), _open(_run(1, shift=shift))])) for shift in (0.0, 7.0)
    )
    np.testing.assert_allclose(plain.draws_RxT, shifted.draws_RxT, atol=1e-9)


def test_intervals_hold_the_truth():
    held = []
    for seed in range(200):
        found = _gain(cross([_open(_run(turn, facts=24, seed=seed)) for turn in (0, 1)]))
        low, high = (end[0] for end in found.interval()[1:])
        held.append(low <= EFFECT <= high)
    assert 0.90 <= np.mean(held) <= 0.99  # 0.95 +- 3 standard errors of 200 studies


def test_a_run_crossed_with_itself_alone_keeps_its_value():
    study = _open(_run(0))
    assert _gain(cross([study])).draws_RxT[0] == pytest.approx(_gain(study).draws_RxT[0])


def test_runs_that_do_not_fit_are_refused():
    one = _open(_run(0))
    with pytest.raises(UserError, match="runs of the same facts"):
        cross([one, _open(_run(1, facts=10))])
    with pytest.raises(UserError, match="two facts or more that take the turns"):
        cross([_open(_run(0, facts=2)), _open(_run(1, facts=2))])
