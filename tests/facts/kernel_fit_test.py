"""Laws of retention recovered from simulated logs with known parameters."""

import numpy as np
import pytest
from absl.testing import parameterized

from llm_dynamics.errors import UserError
from llm_dynamics.facts import kernel, kernel_fit
from tests.facts.simulate import make_log
from tests.facts.simulate_law import TRUE, simulate

EIGHT = {"duplication": range(20, 180, 20)}
UNSATURATED = {"saturation": 0.0}


def value(found, name):
    return float(found.parameter(name).draws_RxT[0, 0])


class FitTest(parameterized.TestCase):
    @parameterized.parameters(*kernel.FORMS)
    def test_exact_without_noise(self, form):
        arms = {"duplication": range(20, 180, 20), "once": (20,)}
        values = list(TRUE[form])
        values[1] = 0.5
        observed, _ = simulate(form, values, arms, 400, noise=0, spread=0)
        found = kernel_fit.fit(observed, form=form, resamples=0)
        np.testing.assert_allclose(found.draws_RxQ[0], values, rtol=1e-3)
        self.assertLess(found.residual, 1e-4)
        self.assertEqual((found.longest, found.encounters), (380, 8))

    @parameterized.parameters("power", "logarithm")
    def test_intervals_hold_the_truth(self, form):
        logs, held = 60, np.zeros(2)
        for seed in range(logs):
            observed, control = simulate(form, TRUE[form], EIGHT, 300, seed=seed)
            found = kernel_fit.fit(observed, control, form, fixed=UNSATURATED, resamples=60)
            for i, q in enumerate((0, 2)):
                _, low, high = kernel_estimate(found, q)
                held[i] += low <= TRUE[form][q] <= high
        self.assertGreaterEqual(held.min() / logs, 0.9, held)

    def test_saturation_recovered(self):
        values = [0.5, 0.8, 0.3]
        observed, control = simulate("power", values, EIGHT, 300, facts=40, noise=0.05, seed=3)
        found = kernel_fit.fit(observed, control, "power", resamples=80)
        for q in range(3):
            _, low, high = kernel_estimate(found, q)
            self.assertBetween(values[q], low, high)
        self.assertGreater(kernel_estimate(found, 1)[1], 0.1)
        self.assertBetween(value(found, "saturation"), 0.4, 1.3)
        blind = kernel_fit.fit(observed, control, "power", fixed=UNSATURATED, resamples=0)
        self.assertGreater(blind.residual, 1.5 * found.residual)

    def test_replicates_leave_the_corner_where_all_is_kept(self):
        """At exponent 0 and floor 1 both gradients vanish, and the data's own fit ends there."""
        observed, control = simulate(
            "power_floor", [0.5, 0.0, 0.0, 1.0], EIGHT, 300, facts=8, noise=0.3, seed=1
        )
        found = kernel_fit.fit(observed, control, "power_floor", fixed=UNSATURATED, resamples=30)
        np.testing.assert_allclose(found.draws_RxQ[0, 2:], [0, 1], atol=1e-6)
        self.assertGreater(np.ptp(found.draws_RxQ[1:, 3]), 0.1)

    def test_facts_with_their_own_schedules(self):
        rng = np.random.default_rng(0)
        schedules = tuple(
            tuple(np.sort(rng.integers(5, 280, rng.integers(1, 9)))) for _ in "x" * 30
        )
        steps = np.arange(301)
        sums = kernel.Superposition(schedules, np.tile(steps, (30, 1)))
        gain_SxK = sums.gains("power", np.array([[0.4, 0.6, 0.5]]), 0.9, 10.0)[0].T
        noisy_SxK = gain_SxK + 0.02 * rng.standard_normal(gain_SxK.shape)
        arm = kernel_fit.Observed("tail", steps, noisy_SxK, schedules)
        found = kernel_fit.fit([arm], form="power", resamples=20)
        np.testing.assert_allclose(found.draws_RxQ[0], [0.4, 0.6, 0.5], rtol=0.1)

    def test_steps_that_were_not_recorded(self):
        observed, _ = simulate("power", TRUE["power"], EIGHT, 300, noise=0, spread=0)
        one = observed[0]
        rows = np.flatnonzero((one.steps_S <= 190) | (one.steps_S % 25 == 0))
        thin = kernel_fit.Observed(one.arm, one.steps_S[rows], one.score_SxK[rows], one.encounters)
        found = kernel_fit.fit([thin], form="power", fixed=UNSATURATED, resamples=0)
        np.testing.assert_allclose(found.draws_RxQ[0], TRUE["power"], rtol=1e-3)

    def test_spread_of_facts(self):
        observed, control = simulate("power", TRUE["power"], EIGHT, 300, facts=200, noise=0)
        found = kernel_fit.fit(observed, control, "power", resamples=0)
        at = kernel.Superposition([EIGHT["duplication"]], np.array([[170, 300]]))
        high, low = at.gains("power", found.draws_RxQ, 0.9, 10.0)[0, 0]
        self.assertBetween(found.fact_sd, 0.25 * low, 0.35 * high)

    def test_control_is_subtracted(self):
        schedule = {"duplication": (20, 60), "control": ()}
        log = make_log(schedule, 200, gains={"control": (0, 0)}, shared=2.0)
        observed, control = kernel_fit.observe(log, schedule, "memorization")
        self.assertEqual([one.arm for one in observed], ["duplication"])
        self.assertEqual(control.shape, (201, 12))
        options = {"form": "logarithm", "resamples": 0}
        found = kernel_fit.fit(observed, control, **options)
        alone, _ = kernel_fit.observe(make_log(schedule, 200), schedule, "memorization")
        want = kernel_fit.fit(alone, None, **options)
        np.testing.assert_allclose(found.draws_RxQ, want.draws_RxQ, rtol=1e-3, atol=1e-4)
        raw = kernel_fit.fit(observed, None, **options)
        self.assertGreater(value(raw, "effect"), 2 * value(found, "effect"))

    def test_no_gain_is_not_identified(self):
        observed, control = simulate("power", [0.0, 0.0, 0.4], EIGHT, 300)
        found = kernel_fit.fit(observed, control, "power", resamples=80)
        self.assertStartsWith(found.doubts["effect"], "not identified")
        self.assertSetEqual(set(found.doubts), {"effect", "saturation", "exponent"})
        falling, _ = simulate("power", [-0.3, 0.0, 0.4], EIGHT, 300)
        found = kernel_fit.fit(falling, form="power", resamples=80)
        self.assertIn("is not positive", found.doubts["effect"])

    def test_short_noisy_log_says_what_it_cannot_tell(self):
        arms = {"duplication": range(60, 300, 20)}
        observed, control = simulate(
            "power_floor", TRUE["power_floor"], arms, 360, facts=9, noise=0.4, seed=1
        )
        found = kernel_fit.fit(observed, control, "power_floor")
        self.assertContainsSubset({"floor", "exponent"}, found.doubts)

    def test_bad_input(self):
        observed, control = simulate("power", TRUE["power"], EIGHT, 200)
        one = observed[0]

        def changed(**parts):
            return [kernel_fit.Observed(**{**vars(one), **parts})]

        def bad(why, arms, **options):
            with pytest.raises(UserError, match=why):
                kernel_fit.fit(arms, control, **options)

        bad("at least one fact with an encounter", changed(encounters=((),) * 12))
        bad("at least one fact with an encounter", observed, until=20)
        bad("finite scores", changed(score_SxK=np.full((201, 12), np.nan)))
        bad("unknown form", observed, form="powr")
        bad("unknown parameter 'satura'", observed, fixed={"satura": 0.0})
        bad("expected saturation from 0 to 10", observed, fixed={"saturation": -1.0})
        bad("beta1", observed, beta1=1.0)
        bad("onset", observed, onset=0.0)
        bad("more points", observed, until=22)
        rows = np.arange(201) != 20
        thin = changed(steps_S=one.steps_S[rows], score_SxK=one.score_SxK[rows])
        with pytest.raises(UserError, match="just before its first encounter at update 20"):
            kernel_fit.fit(thin)
        with pytest.raises(UserError, match="control"):
            kernel_fit.fit(observed, np.full_like(control, np.nan))
        log = make_log({"duplication": (20,)}, 60)
        with pytest.raises(UserError, match="expected a depth"):
            kernel_fit.observe(log, {"duplication": (20,)}, "deep")
        with pytest.raises(UserError, match="expected an arm"):
            kernel_fit.observe(log, {"duplication": (20,)}, "semantic", ["twice"])


def kernel_estimate(found, q):
    return [float(v[0]) for v in found.estimate(found.draws_RxQ[:, [q]]).interval()]
