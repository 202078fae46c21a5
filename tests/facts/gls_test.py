"""Lines through autocorrelated curves against known laws and statsmodels."""

import numpy as np
import pytest
import statsmodels.api as sm
from absl.testing import parameterized
from scipy import signal

from llm_dynamics.facts import fits, gls
from llm_dynamics.facts.log_bins import log_bins
from llm_dynamics.facts.statistics import Estimate


def _noise(rng, shape, rho):
    white = rng.standard_normal(shape)
    white[1:] *= np.sqrt(1 - rho**2)
    return signal.lfilter([1.0], [1.0, -rho], white, axis=0)


class LogBinsTest(parameterized.TestCase):
    def test_bins_of_a_decade(self):
        bins = log_bins(np.arange(1, 101), per_decade=1)
        np.testing.assert_allclose(bins.average_BxT @ np.arange(1, 101), [5, 54.5, 100])
        np.testing.assert_allclose(bins.t_B[-1], 100)

    def test_empty_bins_are_left_out_and_a_line_stays_a_line(self):
        t_T = np.arange(1, 1551)
        bins = log_bins(t_T)
        self.assertTrue((np.diff(bins.log_t_B) > 0).all())
        np.testing.assert_allclose(bins.average_BxT.sum(axis=1), 1)
        line = bins.average_BxT @ (1 - 0.25 * np.log10(t_T))
        np.testing.assert_allclose(line, 1 - 0.25 * bins.log_t_B)

    @parameterized.parameters(([0, 1], 8), ([], 8), ([1, 2], 0))
    def test_bad_times(self, t, per_decade):
        with pytest.raises(ValueError, match="at least"):
            log_bins(np.array(t), per_decade)


class LineTest(parameterized.TestCase):
    @parameterized.parameters(*gls.METHODS)
    def test_known_line(self, method):
        t_T = np.arange(1, 1551)
        found = gls.fit_line(t_T, 0.25 * (4.40 - np.log10(t_T)), method)
        self.assertAlmostEqual(found.a, 0.25, places=10)
        self.assertAlmostEqual(found.intercept, 1.1, places=10)
        self.assertAlmostEqual(found.x_intercept, 4.40, places=8)
        self.assertLess(found.x_stderr, 1e-6)

    def test_ols_is_the_published_line(self):
        rng = np.random.default_rng(0)
        t_T = np.arange(1, 400)
        curve_T = 0.9 - 0.2 * np.log10(t_T) + 0.1 * rng.standard_normal(t_T.size)
        want, found = fits.fit_log_decay(t_T, curve_T), gls.fit_line(t_T, curve_T, "ols")
        np.testing.assert_allclose(
            [found.a, found.intercept, found.x_intercept, found.stderr],
            [want.a, want.intercept, want.x_intercept, want.stderr],
        )

    def test_gls_agrees_with_statsmodels_given_rho(self):
        rng = np.random.default_rng(0)
        t_T = np.arange(1, 300)
        curve_T = 1 - 0.25 * np.log10(t_T) + 0.05 * _noise(rng, t_T.size, 0.9)
        found = gls.fit_line(t_T, curve_T, "gls")
        lag_TxT = np.abs(t_T[:, None] - t_T)
        design = np.stack([np.log10(t_T), np.ones(t_T.size)], axis=1)
        want = sm.GLS(curve_T, design, sigma=found.rho**lag_TxT).fit()
        np.testing.assert_allclose([found.slope, found.intercept], want.params, rtol=1e-8)
        np.testing.assert_allclose(found.stderr, want.bse[0], rtol=1e-8)

    @parameterized.parameters(0.5, 0.9, 0.95)
    def test_autocorrelation(self, rho):
        rng = np.random.default_rng(1)
        t_T = np.arange(1, 4001)
        curve_T = 1 - 0.25 * np.log10(t_T) + 0.1 * _noise(rng, t_T.size, rho)
        self.assertAlmostEqual(gls.autocorrelation(t_T, curve_T), rho, delta=0.03)

    def test_delta_method(self):
        fit = gls.LineFit(-0.25, 1.0, np.array([[4e-4, -2e-4], [-2e-4, 9e-4]]), 0.0, 100)
        draws = np.random.default_rng(0).multivariate_normal(
            [fit.slope, fit.intercept], fit.covariance_2x2 / 100, size=200_000
        )
        want = np.std(-draws[:, 1] / draws[:, 0]) * 10
        np.testing.assert_allclose(fit.x_stderr, want, rtol=0.01)
        rising = gls.LineFit(0.1, 1.0, fit.covariance_2x2, 0.0, 100)
        self.assertEqual((rising.x_intercept, rising.x_stderr), (np.inf, np.inf))

    def test_errors_of_one_curve_are_right_for_gls_and_several_times_too_small_for_ols(self):
        """Noise along a single curve with a known line: what the standard errors are about."""
        rng = np.random.default_rng(2)
        t_T = np.arange(1, 601)
        curves_NxT = 1 - 0.25 * np.log10(t_T) + 0.05 * _noise(rng, (t_T.size, 150), 0.9).T
        for method, least, most in (("gls", 0.85, 1.25), ("ols", 2.5, 6)):
            fits_N = [gls.fit_line(t_T, curve_T, method) for curve_T in curves_NxT]
            spread = np.std([fit.a for fit in fits_N])
            self.assertBetween(spread / np.mean([fit.stderr for fit in fits_N]), least, most)

    @parameterized.parameters(*gls.METHODS)
    def test_replicates_are_fitted_as_curves_are(self, method):
        rng = np.random.default_rng(0)
        offsets_T = np.arange(0, 200)
        line_T = 1 - 0.25 * np.log10(np.maximum(offsets_T, 1))
        draws_RxT = line_T + 0.05 * _noise(rng, (200, 3), 0.9).T
        found = gls.line_estimate(Estimate(draws_RxT, {"a": 9}), offsets_T, method)
        self.assertEqual(found.draws_RxT.shape, (3, 2))
        want = gls.fit_line(offsets_T[1:], draws_RxT[0, 1:], method)
        np.testing.assert_allclose(found.draws_RxT[0], [want.slope, want.intercept])
        if method != "gls":  # whose autocorrelation stays that of the data
            want = gls.fit_line(offsets_T[1:], draws_RxT[2, 1:], method)
            np.testing.assert_allclose(found.draws_RxT[2], [want.slope, want.intercept])

    def test_bad_input(self):
        t_T = np.arange(1, 10)
        with pytest.raises(ValueError, match="evenly"):
            gls.autocorrelation(np.array([1, 2, 4, 8, 16]), np.ones(5))
        with pytest.raises(ValueError, match="finite"):
            gls.fit_line(t_T, np.full(9, np.nan))
        with pytest.raises(ValueError, match="one of binned"):
            gls.coefficients_of_curve(t_T, "lowess")
        with pytest.raises(ValueError, match="two different"):
            gls.coefficients_of_curve(np.array([3, 3]))
