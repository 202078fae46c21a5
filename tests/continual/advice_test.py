"""Advice from made sweeps: the right choice, what is not shown, and limits on forgetting."""

import json

import numpy as np
import pytest

from llm_dynamics.continual import advice
from llm_dynamics.continual.advice import Trial, advise, between_shares, from_curves, measured
from llm_dynamics.continual.areas import DECAY
from llm_dynamics.continual.curve_fit import fit_curves
from llm_dynamics.continual.curve_law import Curve, at_steps, evaluate
from llm_dynamics.errors import UserError
from llm_dynamics.seeds import PerSeed

SHARES = (0.0, 0.01, 0.05, 0.25, 0.5)
BASE = PerSeed({0: 3.9, 1: 3.88, 2: 3.92})


def _losses(peak, share):
    """Old and new loss: a higher peak adapts more and forgets more, replay mends the latter."""
    old = 3.8 + 3 * peak / 1e-3 * (1 + 100 * share) ** -0.7
    new = 4.3 - 0.1 * peak / 1e-3 + 0.4 * ((1 - share) ** -1 - 1)
    return old, new


def _sweep(noise=0.01, seeds=3, peaks=(1e-3, 2e-3), shares=SHARES):
    rng = np.random.default_rng(0)
    lift = 0.05 * rng.normal(size=seeds)  # common to all runs of a seed
    trials = []
    for peak in peaks:
        for share in shares:
            for seed in range(seeds):
                old, new = (x + lift[seed] + noise * rng.normal() for x in _losses(peak, share))
                trials.append(Trial("cosine", peak, share, seed, old, new))
    return trials


def test_lowest_average_is_chosen_and_shown():
    found = advise(measured(_sweep(noise=0.002)))
    best = min(((p, s) for p in (1e-3, 2e-3) for s in SHARES), key=lambda c: sum(_losses(*c)))
    assert (found.choice.peak, found.choice.share) == best == (1e-3, 0.25)
    assert found.shown and not found.rivals and "All 9 others are shown" in found.words
    rows = {row["name"]: row for row in found.rows}
    json.dumps(list(rows.values()), allow_nan=False)
    assert rows["cosine/0.001/0.25/average"]["value"] == pytest.approx(
        sum(_losses(*best)) / 2, abs=0.1
    )
    excess = rows["cosine/0.001/0.5/excess"]
    truth = (sum(_losses(1e-3, 0.5)) - sum(_losses(*best))) / 2
    assert excess["low"] < truth < excess["high"] and excess["low"] > 0


def test_noise_is_not_shown():
    found = advise(measured(_sweep(noise=0.2)))
    assert not found.shown and found.rivals and "Not shown" in found.words
    names = {row["name"]: row for row in found.rows}
    assert all("not shown" in names[f"{rival.name}/excess"]["note"] for rival in found.rivals)


def test_one_seed_shows_nothing():
    found = advise(measured(_sweep(seeds=1)))
    assert not found.shown and len(found.rivals) == 9 and "1 seed)" in found.words


def test_comparisons_are_widened_for_their_number():
    few, many = (
        advise(measured(_sweep(shares=shares, peaks=(1e-3,)))) for shares in ((0.25, 0.5), SHARES)
    )
    ends = [
        next(row for row in found.rows if row["name"] == "cosine/0.001/0.5/excess")
        for found in (few, many)
    ]
    assert "for 1 comparison" in ends[0]["note"] and "for 4 comparisons" in ends[1]["note"]
    widths = [row["high"] - row["low"] for row in ends]
    assert widths[1] > 1.5 * widths[0]


def test_adaptation_within_a_limit_of_forgetting():
    candidates = measured(_sweep(noise=0.002))
    found = advise(candidates, advice.ADAPTATION, BASE, forgetting=0.5)
    allowed = {
        (p, s): _losses(p, s)[1]
        for p in (1e-3, 2e-3)
        for s in SHARES
        if _losses(p, s)[0] - 3.9 <= 0.5
    }
    assert (found.choice.peak, found.choice.share) == min(allowed, key=allowed.get)
    tight = advise(candidates, advice.ADAPTATION, BASE, forgetting=-1.0)
    assert tight.choice is None and "No candidate" in tight.words
    least = advise(candidates, advice.ADAPTATION, BASE, forgetting=0.09)
    assert "No other candidate" in least.words or not least.shown


def test_a_limit_kept_by_the_mean_alone_is_not_shown():
    old = PerSeed({0: 2.0, 1: 2.4, 2: 2.1})
    base = PerSeed({0: 2.0, 1: 2.0, 2: 2.0})
    new = PerSeed({0: 1.0, 1: 1.01, 2: 1.02})
    worse = PerSeed({0: 2.0, 1: 2.01, 2: 2.02})
    candidates = [advice.Candidate("a", 1, 0, old, new), advice.Candidate("b", 1, 0, old, worse)]
    found = advise(candidates, advice.ADAPTATION, base, forgetting=0.2)
    assert not found.rivals and not found.shown and "not shown that it keeps" in found.words


def test_shares_between_those_run():
    trials = _sweep(noise=0.002, shares=(*SHARES, 0.1))
    found = between_shares(trials, (0.15, 0.35, 0.9))
    assert {c.share for c in found} == {0.15, 0.35} and found[0].old.n == 3
    one = next(c for c in found if (c.peak, c.share) == (1e-3, 0.35))
    assert one.average.mean == pytest.approx(sum(_losses(1e-3, 0.35)) / 2, abs=0.1)
    assert one.source == "law of replay"
    both = advise(measured(trials) + found)
    assert both.choice.peak == 1e-3 and 0.1 < both.choice.share < 0.5
    with pytest.raises(UserError, match="five shares"):
        between_shares(_sweep(shares=SHARES[:4]), (0.02,))


def test_schedules_that_were_not_run():
    first = np.linspace(3e-3, 3e-4, 300)
    rates = {
        ("linear", peak): np.concatenate([first, np.linspace(peak, peak / 10, 200)])
        for peak in (1e-3, 3e-3)
    }
    law = {"L0": 2.5, "A": 0.6, "alpha": 0.45, "C1": 0.5, "C2": 0.7, "E": 20.0, "beta": 0.3}
    truth = {"old": law | {"B": 0.8}, "new": law | {"B": -0.8}}
    steps = np.arange(10, 501, 10)

    def loss(which, some, at):
        return evaluate(truth[which], at_steps(some, 300, at, DECAY), 0.0, which)

    fits = {
        0: tuple(
            fit_curves(
                [Curve(0, steps, loss(which, r, steps), r, 300) for r in rates.values()],
                which,
                resamples=0,
            )
            for which in ("old", "new")
        )
    }
    unseen = {("linear", 2e-3): np.concatenate([first, np.linspace(2e-3, 0, 200)])}
    (one,) = from_curves(fits, unseen, 300, [0.0])
    some = unseen["linear", 2e-3]
    assert one.old.mean == pytest.approx(loss("old", some, [500])[0], rel=0.003)
    assert one.new.mean == pytest.approx(loss("new", some, [500])[0], rel=0.003)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Trial("a", 1e-3, 5, 0, 1, 1), "fraction"),
        (lambda: Trial("a", 1e-3, 0.5, 0, 0, 1), "above 0"),
        (lambda: Trial("a", 0, 0.5, 0, 1, 1), "peak"),
        (lambda: measured([Trial("a", 1, 0, 0, 1, 1)] * 2), "one run"),
        (lambda: advise(measured([Trial("a", 1, 0, 0, 1, 1)])), "two candidates"),
        (lambda: advise(measured(_sweep()), "speed"), "objective"),
        (lambda: advise(measured(_sweep()), "adaptation"), "limit on forgetting"),
        (lambda: advise(measured(_sweep()), "average", forgetting=0.1), "base model"),
    ],
)
def test_mistakes_are_refused(make, words):
    with pytest.raises(UserError, match=words):
        make()
