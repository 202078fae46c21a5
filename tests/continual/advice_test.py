"""Advice from made sweeps: the right choice, what is not shown, and limits on forgetting."""

import json

import numpy as np
import pytest

from llm_dynamics.continual import advice
from llm_dynamics.continual.advice import (
    Trial,
    advise,
    between_shares,
    compare,
    lengthened,
    measured,
)
from llm_dynamics.continual.published import published
from llm_dynamics.errors import UserError
from llm_dynamics.results import Interval
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


def test_the_smallest_share_within_a_part_of_the_lowest_is_taken():
    candidates = measured(_sweep(noise=0.002))
    lowest, found = advise(candidates), advise(candidates, within=0.06)
    assert lowest.choice is lowest.best and (found.best.peak, found.best.share) == (1e-3, 0.25)
    assert (found.choice.peak, found.choice.share) == (1e-3, 0.05)
    assert "above the lowest" in found.words and found.best.name in found.words
    for one in candidates:
        if one.share < found.choice.share:
            assert one.average.mean > 1.06 * found.best.average.mean
    # Of equal shares the lower average.
    everything = advise(candidates, within=0.9).choice
    assert (everything.peak, everything.share) == (1e-3, 0.0)


def test_the_rule_takes_the_published_share_for_a_weak_shift():
    rows = [
        row
        for row in published().losses
        if (row.table, row.new_set, row.run) == ("2", "SlimPajama", "re-warmed")
    ]
    trials = [Trial("rewarm", row.peak, row.share, 0, row.old, row.new) for row in rows]
    assert advise(measured(trials), within=advice.WITHIN).choice.share == 0.05


def test_the_rule_says_how_much_is_needed_to_show_a_difference():
    lines = " ".join(advice.rule(0.01, 11, 3))
    assert "at most 1.00% above the lowest" in lines and "smallest share" in lines
    # Student's t with 2 degrees of freedom at 1 - 0.05 / 10 / 2.
    assert "10 comparisons" in lines and "14.1 standard errors" in lines
    assert "nothing here is shown" in " ".join(advice.rule(0.01, 11, 1))


def test_every_candidate_has_forgetting_and_adaptation():
    new = PerSeed({0: 9.0, 1: 9.1, 2: 9.2})
    candidates = measured(_sweep(noise=0.002))
    rows = {row["name"]: row for row in advise(candidates, base=BASE, base_new=new).rows}
    for one in candidates:
        forgot, learned = (rows[f"{one.name}/{key}"] for key in ("forgetting", "adaptation"))
        assert forgot["value"] == pytest.approx((one.old - BASE).mean)
        assert learned["value"] == pytest.approx((one.new - new).mean) and learned["high"] < 0
        assert forgot["low"] < forgot["value"] < forgot["high"]


class _OffByShare:
    """A law that is right about time and rates, and wrong about replay."""

    def __init__(self, which, slope=1.0):
        self._which, self._slope = which, slope

    def predict(self, rates_T, start, steps_S, replay):
        assert start == 300 and list(steps_S) == [len(rates_T)]
        after = len(rates_T) - start
        known = _after(rates_T[start], replay, 50, self._which)
        more = self._slope * (_after(rates_T[start], replay, after, self._which) - known)
        return Interval(np.array([known + more + 3 * replay]), None, None)


def _after(peak, share, steps, which):
    old, new = _losses(peak, share)
    return {"old": old + 0.1 * np.log(steps), "new": new - 0.2 * np.log(steps)}[which]


def test_longer_stages_take_from_the_law_what_it_adds_alone():
    peaks = (1e-3, 2e-3)
    trials = [
        Trial("linear", p, x, seed, *(_after(p, x, 50, w) + seed for w in ("old", "new")))
        for p in peaks
        for x in SHARES
        for seed in (0, 1)
    ]
    slopes = (0.5, 1.0, 1.5)
    fits = {
        seed: tuple([_OffByShare(which, slope) for slope in slopes] for which in ("old", "new"))
        for seed in (0, 1)
    }
    short, whole = (
        {
            ("linear", p, x): np.concatenate([np.full(300, 1e-2), np.full(n, p)])
            for p in peaks
            for x in SHARES
        }
        for n in (50, 200)
    )
    found = lengthened(trials, fits, short, whole, 300)
    assert len(found) == 10
    for one in found:
        assert one.source == advice.FORETOLD
        for which in ("old", "new"):
            right = _after(one.peak, one.share, 200, which)
            for seed, value in getattr(one, which).values.items():
                assert value == pytest.approx(right + seed)
        # The old loss rises by 0.1 log 4 and the new one falls by twice that.
        assert one.spread == pytest.approx(0.15 * np.log(4))


def test_laws_that_fit_about_as_well_are_alike():
    class Off:
        def __init__(self, error):
            self.error = error

        def relative_error(self, curve):
            return self.error * curve

    laws = [Off(error) for error in (0.01, 0.014, 0.016, 0.1)]
    assert advice.alike(laws, [1, 2]) == laws[:2]


def test_predictions_are_compared_with_longer_runs():
    truth = measured(_sweep(noise=0.002))
    foretold = [
        advice.Candidate(c.schedule, c.peak, c.share, c.old * 1.01, c.new * (1 + c.share), "law")
        for c in truth
    ]
    advised = advise(foretold)
    rows = {row["name"]: row for row in compare(foretold, truth, advised.choice, within=0.0)}
    json.dumps(list(rows.values()), allow_nan=False)
    assert rows["old/relative_error"]["value"] == pytest.approx(0.01)
    assert rows["new/relative_error"]["value"] == pytest.approx(np.mean(SHARES))
    some = next(c for c in truth if c.name == "cosine/0.002/0.05")
    assert rows["cosine/0.002/0.05/old/error"]["value"] == pytest.approx(0.01 * some.old.mean)
    # Losses on new data foretold too high at large shares: too little is replayed.
    assert advised.choice.name == "cosine/0.001/0.05"
    right = (sum(_losses(1e-3, 0.05)) - sum(_losses(1e-3, 0.25))) / 2
    assert rows["regret"]["value"] == pytest.approx(right, abs=0.01) and rows["regret"]["low"] > 0
    # What the rule would have taken of the measured ones.
    rows = {r["name"]: r for r in compare(foretold, truth, advised.choice, within=0.06)}
    assert rows["regret_rule"]["value"] == 0
    others = [c for c in truth if c.name != advised.choice.name]
    without = {row["name"] for row in compare(foretold, others, advised.choice, within=0.0)}
    assert "old/relative_error" in without and "regret" not in without
    with pytest.raises(UserError, match=r"expected full runs of cosine/0\.001/0\.05"):
        compare(foretold, truth[:1], advised.choice, within=0.0)


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
        (lambda: advise(measured(_sweep()), within=1.0), "part of the lowest"),
    ],
)
def test_mistakes_are_refused(make, words):
    with pytest.raises(UserError, match=words):
        make()
