"""Forms of forgetting: recovered from clean curves, told apart by held-out times."""

import numpy as np
import pytest
from absl.testing import parameterized

from llm_dynamics.errors import UserError
from llm_dynamics.facts import decay_models
from llm_dynamics.facts.log_bins import log_bins
from llm_dynamics.facts.statistics import Estimate, mean_over_probes, replicate_weights

_T = np.arange(801)
_CLEAN = {
    "log_linear": (0.25, 1.0),
    "power": (1.0, 0.15),
    "exponential": (1.0, np.log10(300)),
    "power_floor": (0.6, 0.6, 0.35),
    "stretched_exponential": (1.2, np.log10(300), 0.4),
}


def _curve(name, noise=0.03, facts=30, resamples=200):
    rng = np.random.default_rng(0)
    truth_T = decay_models.FORMS[name].value(np.maximum(_T, 1), *_CLEAN[name])
    gain_K = 1 + 0.3 * rng.standard_normal(facts)
    wander_TxK = noise * np.repeat(rng.standard_normal((81, facts)), 10, axis=0)[: len(_T)]
    values_TxK = gain_K * truth_T[:, None] + wander_TxK
    weights = replicate_weights({"a": facts}, 0, resamples)["a"]
    found = mean_over_probes(values_TxK, [f"{k:02d}" for k in range(facts)], "a", weights)
    return found / Estimate(weights @ gain_K[:, None] / facts, {"a": facts})


class FormsTest(parameterized.TestCase):
    @parameterized.parameters(*_CLEAN)
    def test_parameters_come_back(self, name):
        t_B = log_bins(_T[1:]).t_B
        curve_B = decay_models.FORMS[name].value(t_B, *_CLEAN[name])
        np.testing.assert_allclose(
            decay_models.fit_form(name, t_B, curve_B), _CLEAN[name], rtol=1e-3
        )

    def test_weights_count(self):
        t_B, curve_B = np.array([1.0, 10, 100]), np.array([1.0, 0.5, 0.5])
        sd_B = np.array([1e-3, 1e-3, 10])
        a, intercept = decay_models.fit_form("log_linear", t_B, curve_B, sd_B)
        np.testing.assert_allclose([a, intercept], [0.5, 1], atol=1e-4)

    def test_bounds_hold(self):
        t_B = np.array([1.0, 10, 100, 1000])
        self.assertEqual(round(decay_models.fit_form("power", t_B, np.log10(t_B) + 1)[1], 6), 0)


class CompareTest(parameterized.TestCase):
    @parameterized.parameters("power", "exponential", "power_floor")
    def test_the_true_form_predicts_better_than_the_line(self, name):
        scores = {s.form: s for s in decay_models.compare(_curve(name), _T)}
        self.assertLess(scores[name].rmse.value[0], 0.03)
        self.assertLess(scores[name].excess.high[0], 0)

    def test_the_line_is_best_where_it_is_true(self):
        scores = {s.form: s for s in decay_models.compare(_curve("log_linear"), _T)}
        self.assertLess(scores["log_linear"].rmse.value[0], 0.03)
        for form in ("exponential", "power"):
            self.assertGreater(scores[form].excess.low[0], 0, form)

    def test_ranked_with_intervals(self):
        scores = decay_models.compare(_curve("power"), _T, until=0.5)
        values = [s.rmse.value[0] for s in scores]
        self.assertEqual(values, sorted(values))
        self.assertEqual({s.form for s in scores}, set(decay_models.FORMS))
        line = {s.form: s for s in scores}["log_linear"]
        self.assertEqual([float(end[0]) for end in line.excess], [0, 0, 0])
        for s in scores:
            self.assertLessEqual(s.rmse.low[0], s.rmse.high[0])
            self.assertAlmostEqual(s.excess.value[0], s.rmse.value[0] - line.rmse.value[0])
        self.assertAlmostEqual(scores[0].parameters["b"], 0.15, delta=0.03)

    @parameterized.parameters(*_CLEAN)
    def test_replicates_are_fitted_as_well_as_the_data(self, name):
        """Fitted at once from the fit of the data, or each alone from all starts."""
        curve = _curve("power_floor", resamples=6)
        bins = [log_bins(_T[1:201]), log_bins(_T[201:])]
        early_RxB = curve.draws_RxT[:, 1:201] @ bins[0].average_BxT.T
        late_RxB = curve.draws_RxT[:, 201:] @ bins[1].average_BxT.T
        first_Q = decay_models.fit_form(name, bins[0].t_B, early_RxB[0])
        found_R = decay_models._errors(name, bins, early_RxB, late_RxB, None, first_Q)
        for early_B, late_B, found in zip(early_RxB, late_RxB, found_R, strict=True):
            alone_Q = decay_models.fit_form(name, bins[0].t_B, early_B)
            off_B = decay_models.FORMS[name].value(bins[1].t_B, *alone_Q) - late_B
            self.assertAlmostEqual(found, np.sqrt(np.mean(off_B**2)), delta=2e-3)

    def test_held_out_times_do_not_change_the_fit(self):
        curve = _curve("power", resamples=3)
        changed = curve.draws_RxT.copy()
        changed[:, _T > 200] = 0.9
        one, other = (
            {s.form: s.parameters for s in decay_models.compare(c, _T, resamples=3)}
            for c in (curve, Estimate(changed, curve.facts))
        )
        self.assertEqual(one, other)

    def test_replicates_without_a_curve_are_left_out(self):
        curve = _curve("power", resamples=8)
        curve.draws_RxT[5] = np.nan
        found = decay_models.compare(curve, _T, resamples=8)[0]
        self.assertTrue(np.isfinite(found.rmse.high[0]))

    def test_too_short(self):
        curve = Estimate(np.ones((3, 12)), {"a": 9})
        with pytest.raises(UserError, match="at least 6 bins"):
            decay_models.compare(curve, np.arange(12))
