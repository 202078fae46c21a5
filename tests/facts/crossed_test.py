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


ARMS = ("duplication", "paraphrase", "late", "control", "every", "rare")
FACTS, RUNS = 24, len(ARMS)


def _square_run(turn, seed, effect_sd, paraphrase=0.1, noise=NOISE_SD):
    """One of six runs in which every fact takes every arm; runs differ in what saying adds."""
    own = np.random.default_rng([seed, 99]).normal(0, OWN_SD, FACTS)
    pair = np.random.default_rng([seed, 98]).normal(0, 1, RUNS)[turn % (RUNS // 2)]
    rng = np.random.default_rng([seed, turn])
    said = np.array([ARMS[(i + turn) % RUNS] for i in range(FACTS)])
    effect = np.select(
        [said == "duplication", said == "paraphrase"], [EFFECT, paraphrase], 0.0
    ) + np.where(said == "duplication", effect_sd * pair, 0.0)
    gain = own + effect + rng.normal(0, noise, FACTS)
    values = np.where(STEPS[:, None] > 20, gain, 0.0) - 5
    score = np.stack([values, values, values, np.exp(-values), values > 0], axis=2)
    log = _run(0, facts=FACTS)
    log["score"] = (("step", "probe", "measure"), score)
    return log.assign_coords(arm=("probe", said))


def _square(seed, effect_sd=0.0, noise=NOISE_SD, resamples=400):
    times = {arm: () if arm == "control" else (10, 20) for arm in ARMS}
    turns = [turn for i in range(RUNS // 2) for turn in (i, i + RUNS // 2)]
    return [
        estimates.open_study(
            _square_run(turn, seed, effect_sd, noise=noise), times, 5, 0, resamples
        )
        for turn in turns
    ]


UNITS = (0, 0, 1, 1, 2, 2)


def test_pairs_of_runs_are_resampled_and_no_value_changes():
    runs = _square(0)
    plain, both = cross(runs), cross(runs, units=UNITS)
    assert (plain.seeds, both.seeds, both.runs) == (1, 3, 6)
    for arm in ("duplication", "paraphrase"):
        found = [
            claims.subtracted(study, arm, "memorization", claims.gain_after(0))
            for study in (plain, both)
        ]
        assert found[1].seeds == 3
        assert found[1].draws_RxT[0, 0] == pytest.approx(found[0].draws_RxT[0, 0])
        # What facts differ in, said or not, stays out of contrasts between arms of other pairs.
        widths = [np.ptp(one.interval()[1:]) for one in found]
        assert widths[1] < 2 * widths[0]
    # The replicates that keep all runs are those of facts alone.
    alone = _gain(both.over_facts_alone()).draws_RxT
    np.testing.assert_allclose(alone[1:], _gain(plain).draws_RxT[-80:], atol=1e-9)


def test_two_pairs_are_not_resampled():
    found = cross(_square(0)[:4], units=UNITS[:4])
    assert found.seeds == 1 and found.runs == 4 and found.centred is None


def test_intervals_hold_where_pairs_of_runs_differ():
    held = {False: [], True: []}
    for seed in range(120):
        runs = _square(seed, effect_sd=0.15, noise=0.1, resamples=200)
        for resampled, units in ((False, None), (True, UNITS)):
            low, high = (end[0] for end in _gain(cross(runs, units=units)).interval()[1:])
            held[resampled].append(low <= EFFECT <= high)
    assert np.mean(held[False]) < 0.65
    assert 0.84 <= np.mean(held[True]) <= 0.99


def test_a_fact_in_one_arm_in_several_units_is_refused():
    one = _open(_run(0))
    with pytest.raises(UserError, match="every fact in an arm in one unit"):
        cross([one, one, one], units=(0, 1, 2))
