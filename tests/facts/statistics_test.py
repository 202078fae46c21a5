"""Intervals against scipy's, their pairing, and their coverage."""

import numpy as np
import pytest
from absl.testing import parameterized
from scipy import stats

from llm_dynamics.facts.statistics import Estimate, mean_over_probes, replicate_weights


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
