"""Intervals against scipy's, their pairing, and their coverage."""

import numpy as np
import pytest
from absl.testing import parameterized
from scipy import stats

from llm_dynamics.errors import UserError
from llm_dynamics.facts.statistics import (
    Estimate,
    facts_alone,
    mean_over_probes,
    replicate_weights,
    runs_of_facts,
)


def _mean(values_P, fact_P, arm="a", seed=0, resamples=2000, **options):
    weights = replicate_weights({arm: len(set(fact_P))}, seed, resamples)
    return mean_over_probes(values_P, fact_P, arm, weights[arm], **options)


class BootstrapTest(parameterized.TestCase):
    def test_value_is_the_mean_over_probes_of_unequal_facts(self):
        found = _mean(np.array([1.0, 2.0, 6.0]), ["x", "x", "y"])
        self.assertEqual(found.interval().value[0], 3.0)

    def test_kept_values_alone_count(self):
        values_TxP = np.array([[1.0, 2.0, 6.0], [1.0, 2.0, 6.0]])
        kept_TxP = np.array([[1, 0, 1], [1, 1, 1]])
        found = _mean(values_TxP, ["x", "x", "y"], kept_TxP=kept_TxP)
        np.testing.assert_array_equal(found.interval().value, [3.5, 3.0])

    def test_agrees_with_scipy_on_facts(self):
        values_K = np.random.default_rng(0).gamma(2.0, size=40)
        fact_P = [f"f{k:02d}" for k in range(40) for _ in range(5)]
        draws_RxT = _mean(np.repeat(values_K, 5), fact_P, resamples=20_000).draws_RxT
        found = np.quantile(draws_RxT[1:, 0], (0.025, 0.975))
        want = stats.bootstrap(
            (values_K,), np.mean, n_resamples=20_000, method="percentile", rng=1
        ).confidence_interval
        np.testing.assert_allclose(found, [want.low, want.high], rtol=0.01)

    def test_probes_of_a_fact_do_not_add_evidence(self):
        values_K = np.random.default_rng(0).standard_normal(20)
        one = _mean(values_K, [f"f{k:02d}" for k in range(20)])
        many = _mean(np.repeat(values_K, 9), [f"f{k:02d}" for k in range(20) for _ in range(9)])
        np.testing.assert_allclose(one.draws_RxT, many.draws_RxT)

    def test_same_seed_same_interval_and_another_seed_another(self):
        values_K, facts = np.arange(9.0), [str(k) for k in range(9)]
        self.assertEqual(_mean(values_K, facts).interval(), _mean(values_K, facts).interval())
        other = _mean(values_K, facts, seed=1)
        self.assertFalse((other.draws_RxT == _mean(values_K, facts).draws_RxT).all())

    def test_measures_of_an_arm_are_paired_and_arms_are_not(self):
        facts = [f"f{k:02d}" for k in range(30)]
        values_K = np.random.default_rng(0).standard_normal(30)
        one, shifted = _mean(values_K, facts), _mean(values_K + 1, facts)
        low, high = (shifted - one).interval()[1:]
        np.testing.assert_allclose([low[0], high[0]], [1, 1])
        other = _mean(values_K + 1, facts, arm="b")
        low, high = (other - one).interval()[1:]
        self.assertGreater(high[0] - low[0], 0.5)
        self.assertEqual((other - one).facts, {"a": 30, "b": 30})

    def test_order_of_probes_does_not_matter(self):
        values_K = np.random.default_rng(0).standard_normal(12)
        facts = np.array([f"f{k:02d}" for k in range(12)])
        turned = np.random.default_rng(1).permutation(12)
        np.testing.assert_allclose(
            _mean(values_K, facts).draws_RxT, _mean(values_K[turned], facts[turned]).draws_RxT
        )

    def test_a_single_fact_has_no_interval(self):
        found = _mean(np.array([1.0, 3.0]), ["x", "x"]).interval()
        self.assertEqual(found.value[0], 2.0)
        self.assertTrue(np.isnan([found.low[0], found.high[0]]).all())

    def test_values_that_do_not_exist_are_left_out_and_infinite_ends_kept(self):
        draws = np.concatenate([[0.5], np.full(10, np.nan), np.linspace(0, 1, 101)])[:, None]
        found = Estimate(draws, {"a": 50}).interval()
        self.assertAlmostEqual(found.low[0], 0.02, delta=0.011)
        self.assertAlmostEqual(found.high[0], 0.98, delta=0.011)
        draws[-20:] = np.inf
        found = Estimate(draws, {"a": 50}).interval()
        self.assertEqual(found.high[0], np.inf)

    def test_wrong_number_of_facts(self):
        with pytest.raises(ValueError, match="expected 3 facts"):
            mean_over_probes(np.ones(2), ["x", "y"], "a", np.ones((5, 3)))

    @parameterized.parameters((8, 3), (25, 3))
    def test_intervals_of_a_difference_cover(self, num_facts, probes):
        """Correlated probes, two arms: 95 % intervals hold the truth in about 95 % of trials."""
        rng = np.random.default_rng(num_facts)
        facts = [str(k) for k in range(num_facts) for _ in range(probes)]
        trials, hits, naive = 400, 0, 0
        weights = replicate_weights({"a": num_facts, "b": num_facts}, 0, 400)
        for _ in range(trials):
            values = {
                arm: np.repeat(rng.standard_normal(num_facts), probes)
                + 0.3 * rng.standard_normal(num_facts * probes)
                for arm in "ab"
            }
            one, other = (mean_over_probes(values[x], facts, x, weights[x]) for x in "ab")
            found = (one - other).interval()
            hits += found.low[0] <= 0 <= found.high[0]
            gap = values["a"].mean() - values["b"].mean()
            naive += abs(gap) < 1.96 * np.hypot(*(stats.sem(v) for v in values.values()))
        self.assertBetween(hits / trials, 0.92, 0.99)
        self.assertLess(naive / trials, 0.85)  # probes taken as independent


class TwoLevelTest(parameterized.TestCase):
    def _weights(self, runs=4, resamples=500, seed=0):
        run_of = {"a": np.repeat(np.arange(runs), 5), "b": np.tile(np.arange(runs), 3)}
        sizes = {arm: len(labels) for arm, labels in run_of.items()}
        return run_of, replicate_weights(sizes, seed, resamples, run_of)

    def test_arms_draw_the_same_runs_and_their_own_facts(self):
        run_of, weights = self._weights()
        times = {}
        for arm, per_run in (("a", 5), ("b", 3)):
            member_KxS = run_of[arm][:, None] == np.arange(4)
            times[arm] = weights[arm] @ member_KxS / per_run
        np.testing.assert_array_equal(times["a"], times["b"])
        split = 501 - facts_alone(500)
        np.testing.assert_array_equal(times["a"][split:], 1)  # facts alone
        np.testing.assert_array_equal(times["a"][0], 1)
        self.assertGreater(times["a"][1:split].max(), 2)
        np.testing.assert_allclose(times["a"][1:split].mean(axis=0), 1, atol=0.15)
        np.testing.assert_array_equal(times["a"].sum(axis=1), 4)
        self.assertGreater(np.ptp(weights["a"][split:]), 1)

    def test_one_run_is_what_it_was(self):
        plain = replicate_weights({"a": 7}, 3, 50)["a"]
        named = replicate_weights({"a": 7}, 3, 50, {"a": ["only"] * 7})["a"]
        np.testing.assert_array_equal(plain, named)

    def test_what_a_run_shares_cancels_between_arms(self):
        run_of, weights = self._weights()
        shift_S = np.array([-3.0, 0, 1, 5])
        one, other = (
            mean_over_probes(
                shift_S[labels],
                [f"{k:02d}" for k in range(len(labels))],
                arm,
                weights[arm],
                seeds=4,
            )
            for arm, labels in run_of.items()
        )
        self.assertGreater(one.interval().high[0] - one.interval().low[0], 3)
        np.testing.assert_allclose((one - other).draws_RxT, 0, atol=1e-12)

    def test_spread_of_both_levels(self):
        """Variance of the resamples: (B + W)(1 - 1/S) + W (1 - 1/K), and W (1 - 1/K) alone."""
        runs, facts, resamples = 6, 8, 40_000
        rng = np.random.default_rng(0)
        values_SxK = rng.standard_normal((runs, 1)) + rng.standard_normal((runs, facts))
        weights = replicate_weights(
            {"a": runs * facts}, 0, resamples, {"a": np.repeat(np.arange(runs), facts)}
        )["a"]
        names = [f"{k:02d}" for k in range(runs * facts)]
        draws_R = mean_over_probes(values_SxK.ravel(), names, "a", weights).draws_RxT[1:, 0]
        split = resamples - facts_alone(resamples)
        among = values_SxK.mean(axis=1).var() / runs
        within = values_SxK.var(axis=1).mean() / runs / facts
        np.testing.assert_allclose(draws_R[:split].var(), among + within, rtol=0.04)
        np.testing.assert_allclose(draws_R[split:].var(), within, rtol=0.05)

    def test_number_of_runs_is_kept_and_told(self):
        _, weights = self._weights(resamples=100)
        names = [f"{k:02d}" for k in range(20)]
        found = mean_over_probes(np.arange(20.0), names, "a", weights["a"], seeds=4)
        self.assertEqual((found - found).then(np.abs).seeds, 4)
        self.assertIn("20 facts in 4 independent runs; fewer than 5", found.sample)
        self.assertEqual(Estimate(found.draws_RxT, found.facts).sample, "")
        with pytest.raises(ValueError, match="seeds"):
            found - Estimate(found.draws_RxT, found.facts)

    def test_thinned_keeps_both_kinds_of_replicates(self):
        found = Estimate(np.arange(101.0)[:, None], {"a": 20}, seeds=4).thinned(20)
        np.testing.assert_array_equal(found.draws_RxT[:, 0], [*range(17), 97, 98, 99, 100])
        plain = Estimate(np.arange(101.0)[:, None], {"a": 20}).thinned(20)
        np.testing.assert_array_equal(plain.draws_RxT[:, 0], range(21))

    def test_without_a_finite_spread_there_is_an_interval(self):
        draws = np.concatenate([[1.0], np.full(60, np.inf), np.linspace(0, 2, 40)])[:, None]
        found = Estimate(draws, {"a": 20}, seeds=4).interval()
        self.assertEqual(found.high[0], np.inf)
        gone = Estimate(np.full((101, 1), np.nan), {"a": 20}, seeds=4).interval()
        self.assertTrue(np.isnan(gone.low[0]))

    def test_runs_of_facts(self):
        found = runs_of_facts(["y", "x", "y"], ["r1", "r0", "r1"])
        self.assertEqual(found.tolist(), ["r0", "r1"])
        with pytest.raises(ValueError, match="'x' in several"):
            runs_of_facts(["x", "x"], ["r0", "r1"])

    def test_an_arm_missing_from_a_run(self):
        with pytest.raises(UserError, match="none of arm 'b' in run 1"):
            replicate_weights({"a": 2, "b": 2}, 0, 9, {"a": [0, 1], "b": [0, 0]})

    @parameterized.parameters(
        (5, 0.0, 0.94, 0.99), (5, 1.0, 0.92, 0.985), (10, 3.0, 0.92, 0.98), (3, 1.0, 0.91, 0.98)
    )
    def test_intervals_over_runs_cover(self, runs, ratio, least, most):
        """Arm less control; `ratio` is the deviation of runs over that of their means of facts."""
        facts, trials = 10, 800
        rng = np.random.default_rng(runs)
        labels = np.repeat(np.arange(runs), facts)
        sizes, run_of = {"a": runs * facts, "b": runs * facts}, {"a": labels, "b": labels}
        weights = replicate_weights(sizes, 0, 1000, run_of)
        run_SxN = ratio * np.sqrt(2 / facts) * rng.standard_normal((runs, trials))
        common_SxN = 5 * rng.standard_normal((runs, trials))
        names = [f"{k:03d}" for k in range(runs * facts)]
        one, other = (
            mean_over_probes(
                (shift_SxN[labels] + rng.standard_normal((runs * facts, trials))).T,
                names,
                arm,
                weights[arm],
                seeds=runs,
            )
            for arm, shift_SxN in (("a", run_SxN + common_SxN), ("b", common_SxN))
        )
        found = (one - other).interval()
        self.assertBetween(np.mean((found.low <= 0) & (found.high >= 0)), least, most)
