"""The superposition of encounters, and many small fits at once."""

import numpy as np
import pytest
from absl.testing import parameterized
from scipy import optimize

from llm_dynamics.errors import UserError
from llm_dynamics.facts import kernel
from llm_dynamics.facts.many_fits import fit_many

DRAWS = {
    "power": [0.3, 0.7, 0.4],
    "power_floor": [0.3, 0.7, 0.9, 0.2],
    "logarithm": [0.3, 0.7, 0.35],
}


def reference(form, values, lag, beta1, onset):
    """The formula of one lag, unscaled."""
    x = 1 + lag / onset
    if form == "power":
        fall = x ** -values[2]
    elif form == "power_floor":
        fall = values[3] + (1 - values[3]) * x ** -values[2]
    else:
        fall = max(0, 1 - values[2] * np.log10(x))
    return fall * (1 - beta1**lag)


class KernelTest(parameterized.TestCase):
    @parameterized.product(form=tuple(kernel.FORMS), beta1=(0.0, 0.9))
    def test_formula(self, form, beta1):
        lags = np.array([1, 2, 7, 30, 400])
        values = DRAWS[form]
        found = kernel.retention(form, np.array([values]), lags, beta1, 5.0)[0]
        top = max(reference(form, values, d, beta1, 5.0) for d in range(1, 200))
        want = [reference(form, values, d, beta1, 5.0) / top for d in lags]
        np.testing.assert_allclose(found, want, rtol=1e-12)
        none = kernel.retention(form, np.array([values]), np.array([0, -3]), beta1, 5.0)
        np.testing.assert_array_equal(none, 0)

    @parameterized.parameters(*kernel.FORMS)
    def test_superposition_with_saturation(self, form):
        values = np.array([DRAWS[form]])
        schedules = [(3, 10, 11, 40), (0,), ()]
        at = np.array([[3, 4, 12, 100]] * 3)
        found = kernel.Superposition(schedules, at).gains(form, values, 0.9, 10.0)[0]

        def k(lag):
            return kernel.retention(form, values, np.array([lag]), 0.9, 10.0)[0, 0]

        for row, times in zip(found, schedules, strict=True):
            added = []
            for t in times:
                held = sum(e * k(t - u) for e, u in zip(added, times, strict=False))
                added.append(0.3 * np.exp(-0.7 * held))
            want = [sum(e * k(s - u) for e, u in zip(added, times, strict=True)) for s in at[0]]
            np.testing.assert_allclose(row, want, rtol=1e-12, atol=1e-15)
        self.assertEqual(found[0, 0], 0)  # before update 3 is done, it has taught nothing

    def test_order_of_encounters(self):
        with pytest.raises(UserError, match="ascending"):
            kernel.Superposition([(5, 3)], np.array([[9]]))

    def test_agrees_with_scipy(self):
        rng = np.random.default_rng(0)
        lags = np.arange(1.0, 60)
        true = np.array([1.0, 0.8, 0.15])
        data_RxB = true[0] * ((1 - true[2]) * np.exp(-true[1] * np.log(lags)) + true[2])
        data_RxB = data_RxB + 0.1 * rng.standard_normal((8, len(lags)))
        low, high = np.array([-np.inf, 0, 0.1]), np.array([np.inf, 3, 1])

        def curve(x_NxQ):
            a, b, c = x_NxQ.T[:, :, None]
            return a * ((1 - c) * lags**-b + c)

        found = fit_many(
            lambda x, r: curve(x) - data_RxB[r], np.tile([0.5, 0.3, 0.3], (8, 1)), low, high
        )
        for row, data in zip(found, data_RxB, strict=True):
            want = optimize.least_squares(
                lambda x, data=data: curve(x[None])[0] - data,
                [0.5, 0.3, 0.3],
                bounds=(low, high),
                ftol=1e-12,
                xtol=1e-12,
            )
            cost = 0.5 * np.square(curve(row[None])[0] - data).sum()
            self.assertLess(cost, want.cost * (1 + 1e-5))
            np.testing.assert_allclose(row, want.x, atol=5e-3)
        self.assertTrue((found[:, 2] == 0.1).any(), "a bound is reached")

    def test_fixed_parameter_stays(self):
        data = np.array([[2.0, 4.0, 6.5]])

        def residuals(x, r):
            return x[:, :1] + x[:, 1:] * np.arange(1, 4) - data[r]

        found = fit_many(residuals, np.array([[0.0, 1.0]]), np.array([0.5, -9]), np.array([0.5, 9]))
        t, y = np.arange(1, 4), data[0] - 0.5
        np.testing.assert_allclose(found, [[0.5, t @ y / (t @ t)]], rtol=1e-6)
