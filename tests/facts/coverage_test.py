"""Intervals hold the truth as often as they say, on simulated logs with a known law.

`python -m benchmarks.coverage` does the same with 2,000 studies at many settings.
"""

import dataclasses

import numpy as np
from absl.testing import parameterized

from benchmarks.coverage import cover, truths
from tests.facts.synthetic import Law, simulate

_LINES = [
    f"{what}, {fit}" for what in ("a", "intercept", "x_intercept") for fit in ("binned", "ols")
]
_MEASURES = ["effectivity", "gain", "R(10)", "R(100)", *_LINES]
_SHORT = Law(end=350)  # for speed


class LawTest(parameterized.TestCase):
    def test_without_noise_the_measures_are_the_truth(self):
        law = Law(spread=0, fact_noise=0, probe_noise=0, shared_noise=0)
        for origin in ("lag", "chosen", "own"):
            found = cover(law, 3, 2, origin, resamples=5)
            for name in truths(law):
                if name in found:
                    np.testing.assert_allclose(found[name].bias, 0, atol=1e-9, err_msg=name)
            np.testing.assert_allclose(found["a, binned"].bias, 0, atol=1e-9)

    def test_noise_has_the_autocorrelation_and_is_shared_as_said(self):
        law = Law(gain=0, template=0, rho=0.9, end=4000)
        logs = simulate(law, 1, 12, 3, np.random.default_rng(0))
        own = logs["control"] - logs["control"].mean(axis=(2, 3), keepdims=True)
        fact_SxK = own[:, 0].mean(axis=2)
        lagged = np.mean(fact_SxK[1:] * fact_SxK[:-1]) / np.mean(fact_SxK**2)
        self.assertAlmostEqual(lagged, 0.9, delta=0.01)
        self.assertAlmostEqual(fact_SxK.std(), np.hypot(0.1, 0.05 / np.sqrt(3)), delta=0.01)
        means = [logs[arm].mean(axis=(1, 2, 3)) for arm in logs]
        self.assertGreater(np.corrcoef(means)[0, 1], 0.95)
        self.assertAlmostEqual(means[0].std(), 0.2, delta=0.03)


class CoverageTest(parameterized.TestCase):
    @parameterized.parameters((0.95, 30), (0.99, 9))
    def test_intervals_of_one_run(self, rho, facts):
        law = dataclasses.replace(_SHORT, rho=rho)
        found = cover(law, facts, 400, methods=("binned", "ols"))
        for name in _MEASURES:
            with self.subTest(name):
                self.assertBetween(found[name].share, 0.92, 0.98)
                if not name.startswith("x_intercept"):  # a ratio, skewed
                    self.assertLess(abs(found[name].bias), 0.2 * found[name].sd)
        # The published +/- and its like: the curve's own error, its steps taken for independent.
        for name in ("a, ols stderr", "a, published"):
            self.assertLess(found[name].share, 0.4)
            self.assertGreater(found[name].sd / (found[name].half / 1.96), 3)

    def test_errors_of_gls_are_still_too_small_and_its_bootstrap_is_not(self):
        found = cover(_SHORT, 9, 120, methods=("gls",))
        self.assertBetween(found["a, gls"].share, 0.9, 1)
        self.assertBetween(found["a, gls stderr"].share, 0.5, 0.85)
        self.assertLess(found["x_intercept, gls delta"].share, 0.6)

    def test_what_a_run_shares_needs_the_control(self):
        without = cover(
            dataclasses.replace(_SHORT, template=0), 30, 80, control=False, methods=("binned",)
        )
        self.assertLess(without["gain"].share, 0.6)
        self.assertLess(without["R(100)"].share, 0.75)

    def test_own_maxima_do_not_cover(self):
        found = cover(_SHORT, 30, 80, origin="own", methods=("binned",))
        self.assertLess(found["R(10)"].share, 0.85)
        self.assertLess(found["effectivity"].bias, -0.02)

    def test_runs_that_differ_need_several(self):
        law = dataclasses.replace(_SHORT, run_spread=0.2, end=250)
        one = cover(law, 10, 100, methods=("binned",))
        several = cover(law, 10, 100, seeds=5, methods=("binned",))
        for name in ("gain", "a, binned"):
            self.assertLess(one[name].share, 0.85)
            self.assertBetween(several[name].share, 0.88, 0.99)
