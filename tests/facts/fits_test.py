"""The published line, recovered from curves with known parameters."""

import numpy as np
import pytest
from absl.testing import parameterized
from scipy import stats

from llm_dynamics.facts import fits


class LogDecayTest(parameterized.TestCase):
    def test_known_line(self):
        t_T = np.arange(1, 1551)
        found = fits.fit_log_decay(t_T, 0.25 * (4.40 - np.log10(t_T)))
        self.assertAlmostEqual(found.a, 0.25, places=13)
        self.assertAlmostEqual(found.x_intercept, 4.40, places=12)
        self.assertAlmostEqual(found.r2, 1.0, places=12)
        self.assertTrue(found.extrapolated)
        self.assertAlmostEqual(found.intercept - found.a * 2, 0.25 * 2.40, places=12)

    def test_agrees_with_scipy_on_noise(self):
        rng = np.random.default_rng(0)
        t_T = np.arange(1, 400)
        curve_T = 0.9 - 0.2 * np.log10(t_T) + 0.1 * rng.standard_normal(t_T.size)
        found = fits.fit_log_decay(t_T, curve_T)
        want = stats.linregress(np.log10(t_T), curve_T)
        np.testing.assert_allclose(
            [found.a, found.intercept, found.r2, found.stderr],
            [-want.slope, want.intercept, want.rvalue**2, want.stderr],
            rtol=1e-10,
        )
        slope, intercept = fits.line_coefficients(t_T, np.stack([curve_T, 2 * curve_T]))
        np.testing.assert_allclose(slope, [want.slope, 2 * want.slope])
        np.testing.assert_allclose(intercept, [want.intercept, 2 * want.intercept])

    def test_crossing_within_the_data_is_no_extrapolation(self):
        t_T = np.arange(1, 1001)
        self.assertFalse(fits.fit_log_decay(t_T, 0.5 * (2 - np.log10(t_T))).extrapolated)

    def test_constant_curve_has_no_crossing_and_no_r2(self):
        found = fits.fit_log_decay(np.arange(1, 9), np.zeros(8))
        self.assertIsNone(found.x_intercept)
        self.assertIsNone(found.r2)
        self.assertTrue(found.extrapolated)

    @parameterized.parameters(([1],), ([0, 1],), ([3, 3],))
    def test_too_few_times(self, t):
        with pytest.raises(ValueError, match="two different times"):
            fits.fit_log_decay(np.array(t), np.ones(len(t)))
