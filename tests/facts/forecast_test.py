"""Forecasts against longer simulated runs, and what follows from known laws."""

import json
import math

import numpy as np
import pytest
from absl.testing import parameterized

from llm_dynamics.errors import UserError
from llm_dynamics.facts import forecast, kernel, kernel_fit, long_tail
from llm_dynamics.facts.forecast_rows import forecast_rows
from tests.facts.simulate_law import TRUE, simulate


def law(form, values, replicates=1, jitter=0.0, **changes):
    """A fitted law with given parameters."""
    draws_RxQ = np.tile(np.array(values, float), (replicates + 1, 1))
    draws_RxQ[1:] *= 1 + jitter * np.random.default_rng(0).standard_normal((replicates, 1))
    settings = {
        "form": form,
        "beta1": 0.9,
        "onset": 10.0,
        "draws_RxQ": draws_RxQ,
        "facts": {"duplication": 12, "control": 12},
        "longest": 280,
        "encounters": 8,
        "residual": 0.05,
        "fact_sd": 0.4,
        "doubts": {},
    }
    return kernel.Kernel(**{**settings, **changes})


class ForecastTest(parameterized.TestCase):
    @parameterized.parameters(*kernel.FORMS)
    def test_longer_run_than_fitted(self, form):
        times, inside = tuple(range(20, 180, 20)), []
        for seed in range(12):
            observed, control = simulate(form, TRUE[form], {"twice": times}, 900, seed=100 + seed)
            found = kernel_fit.fit(
                observed, control, form, fixed={"saturation": 0.0}, until=300, resamples=80
            )
            self.assertEqual(found.longest, 280)
            true = kernel.Superposition([times], np.array([[160 + t for t in (200, 400, 740)]]))
            wanted = true.gains(form, np.array([TRUE[form]]), 0.9, 10.0)[0, 0]
            for after, want in zip((200, 400, 740), wanted, strict=True):
                one = forecast.forecast(found, 8, 20, after)
                inside.append(one.low <= want <= one.high)
            self.assertAlmostEqual(one.decades, math.log10(880 / 280))
            self.assertIn("extrapolated by 0.50 decades", one.note)
        self.assertGreaterEqual(np.mean(inside), 0.9)

    def test_single_fact_and_notes(self):
        found = law("power", TRUE["power"], 200, jitter=0.1)
        mean = forecast.forecast(found, 8, 20, 100)
        one = forecast.forecast(found, 8, 20, 100, of="fact")
        self.assertEqual((mean.value, mean.decades, mean.note), (one.value, 0.0, ""))
        spread = 0.4 * 2.2  # a fact's standard deviation times Student's t of 12 facts
        self.assertBetween(one.high - one.low, 2 * spread, 3 * spread)
        self.assertGreater(one.high - one.low, mean.high - mean.low)
        self.assertIn("at most 8 encounters", forecast.forecast(found, 9, 20, 100).note)
        doubtful = law("power", TRUE["power"], doubts={"effect": "not identified: no gain"})
        self.assertIn("effect not identified", forecast.forecast(doubtful, 1, 20, 5).note)
        with pytest.raises(UserError, match="expected encounters"):
            forecast.forecast(found, 0, 20, 100)
        with pytest.raises(UserError, match="expected a forecast of"):
            forecast.forecast(found, 1, 20, 100, of="all")

    def test_envelope_over_forms(self):
        laws = [law(f, TRUE[f], 50, 0.05, residual=0.1 + (f != "power_floor")) for f in TRUE]
        each = [forecast.forecast(one, 8, 20, 2000) for one in laws]
        found = forecast.over_forms(laws, 8, 20, 2000)
        self.assertEqual(found.value, each[list(TRUE).index("power_floor")].value)
        self.assertEqual(found.low, min(one.low for one in each))
        self.assertEqual(found.high, max(one.high for one in each))
        self.assertIn("power, power_floor, logarithm", found.note)
        with pytest.raises(UserError, match="at least one law"):
            forecast.over_forms([], 8, 20, 2000)

    def test_threshold_of_the_logarithm_is_its_crossing(self):
        found = law("logarithm", [0.3, 0.0, 0.4], 200, jitter=0.02)
        crossing = 10 * (10 ** (1 / 0.4) - 1)
        beyond = forecast.accumulates(found, 4000)
        np.testing.assert_allclose(beyond.threshold.value, [crossing], rtol=1e-12)
        self.assertLess(beyond.threshold.low[0], crossing)
        self.assertAlmostEqual(beyond.decades, math.log10(crossing / 280), places=6)
        self.assertFalse(beyond.accumulates)
        np.testing.assert_array_equal(beyond.before.value, 0)
        within = forecast.accumulates(found, 300)
        self.assertTrue(within.accumulates)
        self.assertTrue((np.diff(within.before.value) >= 0).all())
        self.assertLen(within.before.value, 9)
        near = law("logarithm", [0.3, 0.0, 0.4], 200, jitter=0.2)
        self.assertIsNone(forecast.accumulates(near, 2500).accumulates)

    @parameterized.parameters("power", "power_floor")
    def test_no_threshold_without_a_crossing(self, form):
        found = forecast.accumulates(law(form, TRUE[form], 50), 100_000)
        self.assertEqual(found.threshold.value[0], math.inf)
        self.assertIn("no threshold exists", found.note)
        self.assertTrue(found.accumulates)

    def test_levels_before_encounters_agree_with_the_superposition(self):
        found = law("power_floor", [0.3, 0.8, 0.5, 0.2])
        before = forecast.accumulates(found, 30, 6).before.value
        want = [
            found.gains([range(0, 30 * n, 30)], np.array([[30 * n]]))[0, 0, 0] for n in range(1, 6)
        ]
        np.testing.assert_allclose(before, want, rtol=1e-12)

    def test_keeping_a_level(self):
        found = law("power", [0.3, 0.0, 1.5], 100, jitter=0.05)
        kept = forecast.keep_at_least(found, 0.1, 1000.0, every_tokens=50_000.0)
        steps = float(kept.steps.value[0])
        lags = steps * np.arange(1, 101)
        self.assertAlmostEqual(0.3 * found.retention(lags)[0].sum(), 0.1, delta=0.002)
        self.assertBetween(steps, kept.steps.low[0], kept.steps.high[0])
        self.assertAlmostEqual(kept.tokens.value[0], steps * 1000)
        self.assertAlmostEqual(kept.batch_tokens.value[0], 50_000 / steps)
        self.assertIn("independent of the batch size", kept.note)
        self.assertNotIn("not a steady state", kept.note)
        flat = law("power_floor", TRUE["power_floor"])
        rising = forecast.keep_at_least(flat, 2.0, 1000.0)
        self.assertEqual(rising.steps.value[0], math.inf)
        self.assertIn("not a steady state", rising.note)
        self.assertIn("extrapolated by 3.00 decades", rising.note)
        short = float(forecast.keep_at_least(flat, 2.0, 1000.0, horizon=500.0).steps.value[0])
        times = range(0, math.ceil(short) * (500 // math.ceil(short)), math.ceil(short))
        self.assertLess(short, 100)
        self.assertBetween(
            flat.gains([times], np.array([[times[-1] + math.ceil(short)]]))[0, 0, 0], 1.8, 2.2
        )
        none = forecast.keep_at_least(found, 500.0, 1000.0, every_tokens=1.0)
        self.assertEqual((none.steps.value[0], none.batch_tokens.value[0]), (0, math.inf))
        with pytest.raises(UserError, match="level above 0"):
            forecast.keep_at_least(found, 0.0, 1000.0)


class LongTailTest(parameterized.TestCase):
    @parameterized.parameters((0.0,), (1.5,))
    def test_random_times(self, saturation):
        found = law("power", [0.4, saturation, 0.5], 3, 0.1)
        rates, steps, rng = np.array([0.002, 0.01, 0.05]), 500, np.random.default_rng(1)
        tail = long_tail.long_tail(found, rates, steps)
        for f, rate in enumerate(rates):
            times = [np.sort(rng.integers(0, steps, n)) for n in rng.poisson(rate * steps, 600)]
            at = np.full((600, 1), steps)
            sums = kernel.Superposition(times, at)
            gain_K = sums.gains("power", found.draws_RxQ[:1], 0.9, 10.0)[0, :, 0]
            error = gain_K.std() / math.sqrt(600)
            room = 3 * error + 0.03 * gain_K.mean()
            self.assertBetween(tail.gain.value[f], gain_K.mean() - room, gain_K.mean() + room)
            if not saturation:
                np.testing.assert_allclose(tail.exposure_sd_F[f], gain_K.std(), rtol=0.1)
        self.assertIn("extrapolated by 0.25 decades", tail.note)

    def test_equal_times(self):
        found = law("logarithm", [0.4, 0.3, 0.3])
        tail = long_tail.long_tail(found, [0.0, 0.001, 0.02], 250, "regular")
        want = found.gains([(25, 75, 125, 175, 225)], np.array([[250]]))[0, 0, 0]
        np.testing.assert_allclose(tail.gain.value, [0, 0, want], rtol=1e-12)

    def test_calibration(self):
        rng = np.random.default_rng(0)
        predicted = rng.uniform(0, 2, 60)
        measured = 0.2 + 0.7 * predicted + 0.1 * rng.standard_normal(60)
        control = 0.5 + 0.05 * rng.standard_normal(30)
        found = long_tail.calibrate(predicted, measured + 0.5, control)
        for interval, true in ((found.slope, 0.7), (found.intercept, 0.2)):
            self.assertBetween(true, float(interval.low), float(interval.high))
        self.assertLess(found.slope.high, 1)
        self.assertBetween(found.residual_sd, 0.08, 0.12)
        self.assertEqual(found.n, 60)

    def test_bad_input(self):
        found = law("power", TRUE["power"])
        for frequencies, steps, exposure, why in (
            ([], 100, "poisson", "frequencies"),
            ([-1], 100, "poisson", "frequencies"),
            ([1], 0, "poisson", "at least 1 step"),
            ([1], 100, "often", "exposure poisson or regular"),
            ([1], 900, "regular", "at most 200"),
        ):
            with pytest.raises(UserError, match=why):
                long_tail.long_tail(found, frequencies, steps, exposure)
        for predicted, measured, why in (
            ([1, 2], [1, 2], "at least 3"),
            ([1, 2, 3], [1, 2, np.nan], "finite"),
            ([1, 1, 1], [1, 2, 3], "differ"),
        ):
            with pytest.raises(UserError, match=why):
                long_tail.calibrate(np.array(predicted), np.array(measured))


class RowsTest(parameterized.TestCase):
    def test_an_interval_without_width_is_no_certainty(self):
        found = law("power_floor", [0.3, 0.0, 0.0, 1.0], 100, 0.05)
        found.draws_RxQ[:, 1:] = [0.0, 0.0, 1.0]
        notes = {row["name"]: row["note"] for row in forecast_rows([found], 4096.0)}
        for name in ("saturation", "exponent", "floor"):
            self.assertIn("same in every resample", notes[f"forecast/power_floor/{name}"])
        self.assertEqual(notes["forecast/power_floor/effect"], "")

    @parameterized.parameters(*kernel.FORMS)
    def test_rows(self, form):
        found = law(form, TRUE[form], 100, 0.05)
        rows = forecast_rows([found], 4096.0, [(8, 20, 100)], [0.1], 1e5, "duplication/semantic")
        json.dumps(rows, allow_nan=False)
        self.assertEqual(len({row["name"] for row in rows}), len(rows))
        for row in rows:
            self.assertEqual(
                list(row), ["name", "value", "low", "high", "unit", "n", "definition", "note"]
            )
            self.assertTrue(row["value"] is not None or row["note"], row)
            self.assertEqual(row["low"] is None, row["high"] is None)
        by_name = {row["name"].removeprefix(f"duplication/semantic/{form}/"): row for row in rows}
        gain = by_name["gain_mean/8x20+100"]
        self.assertBetween(gain["value"], gain["low"], gain["high"])
        threshold = by_name["threshold_tokens"]
        if form == "logarithm":
            self.assertAlmostEqual(threshold["value"] / by_name["threshold_steps"]["value"], 4096.0)
            self.assertNotIn("any_form", "".join(by_name))
            both = forecast_rows([found, law("power", TRUE["power"])], 4096.0, [(8, 20, 100)])
            self.assertIn("forecast/any_form/gain_mean/8x20+100", [row["name"] for row in both])
        else:
            self.assertIsNone(threshold["value"])
            self.assertIn("no threshold exists", threshold["note"])
