import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from llm_dynamics.errors import UserError
from llm_dynamics.optim.phases import join
from llm_dynamics.optim.schedules import (
    KINDS,
    ScheduleConfig,
    autoregressive_peaks,
    cosine_reaches,
    make_schedule,
    phases_of,
)

# Ibrahim et al. 2024: 132,366 steps, warm-up 1 %, cool-down 60 %, constant 25 %, alpha 10, rates
# 3e-4, 1.65e-4 and 3e-5, from the closed forms of section 7.2; step as a share of all steps,
# cosine-infinite, inverse-sqrt-infinite, plain cosine.
GOLDEN = (
    (0.005, 1.500000e-4, 1.500000e-4, 1.500000e-4),
    (0.01, 3.000000e-4, 3.000000e-4, 3.000000e-4),
    (0.05, 2.985250e-4, 2.564353e-4, 2.989139e-4),
    (0.16, 2.802297e-4, 2.100351e-4, 2.849928e-4),
    (0.25, 2.533586e-4, 1.931605e-4, 2.627041e-4),
    (0.31, 2.325000e-4, 1.856295e-4, 2.433077e-4),
    (0.46, 1.847703e-4, 1.730181e-4, 1.842125e-4),
    (0.50, 1.758897e-4, 1.705620e-4, 1.671419e-4),
    (0.61, 1.650000e-4, 1.650000e-4, 1.208458e-4),
    (0.75, 1.650000e-4, 1.650000e-4, 7.030089e-5),
    (0.86, 1.650000e-4, 1.650000e-4, 4.310492e-5),
    (0.90, 1.013799e-4, 1.013799e-4, 3.674040e-5),
    (0.95, 5.514886e-5, 5.514886e-5, 3.169575e-5),
    (1.00, 3.000000e-5, 3.000000e-5, 3.000000e-5),
)
STEPS = 132_366


def _closed_form(kind, x):
    """The published schedule at the share x of its steps, in floats of 64 bits."""
    top, level, low = 3e-4, 1.65e-4, 3e-5
    if x <= 0.01:
        return top * x / 0.01
    if kind == "cosine":
        return low + (top - low) / 2 * (1 + np.cos(np.pi * (x - 0.01) / 0.99))
    p = (x - 0.01) / 0.6
    if p <= 1:
        if kind == "cosine_infinite":
            return level + (top - level) / 2 * (1 + np.cos(np.pi * p))
        return top + (level - top) * ((1 + 10 * p) ** -0.5 - 1) / (11**-0.5 - 1)
    return level if x <= 0.86 else level * (low / level) ** ((x - 0.86) / 0.14)


class SchedulesTest(parameterized.TestCase):
    @parameterized.parameters(
        ("cosine", 0, 0.0),
        ("cosine", 5, 0.5),
        ("cosine", 10, 1.0),
        ("cosine", 55, 0.55),
        ("cosine", 100, 0.1),
        ("linear", 55, 0.55),
        ("linear", 100, 0.1),
        ("constant", 10, 1.0),
        ("constant", 99, 1.0),
        ("wsd", 10, 1.0),
        ("wsd", 80, 1.0),
        ("wsd", 90, 0.55),
        ("wsd", 100, 0.1),
        ("inverse_sqrt", 10, 1.0),
        ("inverse_sqrt", 40, 0.5),
    )
    def test_phase_boundaries(self, kind, step, expected):
        config = ScheduleConfig(kind, peak=1.0, warmup=10, floor=0.1, decay=20)
        value = make_schedule(config, 100)(jnp.asarray(step))
        np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-7)

    def test_without_warmup_the_first_update_uses_the_peak(self):
        for kind in ("cosine", "linear", "constant", "wsd", "inverse_sqrt"):
            value = make_schedule(ScheduleConfig(kind, peak=0.3, decay=2), 10)(jnp.asarray(0))
            np.testing.assert_allclose(value, 0.3, rtol=1e-6)

    def test_what_does_not_fit_is_refused(self):
        with self.assertRaisesRegex(UserError, "needs 30 steps .* the run has 20"):
            make_schedule(ScheduleConfig("wsd", warmup=10, decay=20), 20)
        with self.assertRaisesRegex(UserError, "did you mean 'cosine'"):
            ScheduleConfig("cosin")
        with self.assertRaisesRegex(UserError, "peak > 0"):
            ScheduleConfig(peak=-1.0)

    @parameterized.parameters("cosine", "linear", "constant", "wsd", "inverse_sqrt")
    def test_a_run_may_read_a_part_of_a_longer_schedule(self, kind):
        config = ScheduleConfig(kind, 1e-2, warmup=5, decay=10)
        whole = make_schedule(config, 100)
        horizon = ScheduleConfig(kind, 1e-2, warmup=5, decay=10, horizon=100)
        for part in (make_schedule(config, 20, 30, 100), make_schedule(horizon, 20, 30)):
            self.assertEqual(
                [float(part(jnp.asarray(t))) for t in range(20)],
                [float(whole(jnp.asarray(t))) for t in range(30, 50)],
            )
        with self.assertRaisesRegex(UserError, "ends at step 100, .* up to step 101; .* anew"):
            make_schedule(horizon, 20, 81)
        with self.assertRaisesRegex(UserError, "up to step 101; .* shorten the run$"):
            make_schedule(horizon, 101)

    @parameterized.parameters("cosine_infinite", "inverse_sqrt_infinite", "cosine")
    def test_published_schedules(self, kind):
        column = ("cosine_infinite", "inverse_sqrt_infinite", "cosine").index(kind) + 1
        config = ScheduleConfig(kind, 3e-4, floor=0.1, constant=0.55, timescale=10)
        phases = {"warmup": 0.01, "cooldown": 0.6, "decay": 0.14}
        for name, share in phases.items():  # real boundaries, which the spec rounds to steps
            object.__setattr__(config, name, share * STEPS)
        with jax.enable_x64(True):
            schedule = join(phases_of(config, STEPS))
            for row in GOLDEN:
                value = float(schedule(row[0] * STEPS))
                np.testing.assert_allclose(value, row[column], rtol=5e-7)
                np.testing.assert_allclose(value, _closed_form(kind, row[0]), rtol=1e-12)

    def test_whole_steps_stay_within_a_thousandth_of_real_ones(self):
        config = ScheduleConfig(
            "cosine_infinite", 3e-4, warmup=1323, cooldown=79_419, decay=18_533, constant=0.55
        )
        with jax.enable_x64(True):
            schedule = make_schedule(config, STEPS)
            for row in GOLDEN:
                value = float(schedule(round(row[0] * STEPS)))
                np.testing.assert_allclose(value, row[1], rtol=8.5e-4)

    @parameterized.parameters("constant", "inverse_sqrt", "cosine_infinite", "wsd")
    def test_an_open_schedule_keeps_its_past_when_the_run_is_made_longer(self, kind):
        config = ScheduleConfig(kind, 1e-3, warmup=5, cooldown=20 * kind.endswith("infinite"))
        short, long = make_schedule(config, 60), make_schedule(config, 600)
        for t in range(61):
            self.assertEqual(float(short(jnp.asarray(t))), float(long(jnp.asarray(t))))

    def test_an_anneal_changes_the_last_steps_alone(self):
        trunk = ScheduleConfig("cosine_infinite", 1e-3, warmup=5, cooldown=20)
        branch = ScheduleConfig("cosine_infinite", 1e-3, warmup=5, cooldown=20, decay=15)
        one, other = make_schedule(trunk, 100), make_schedule(branch, 100)
        same = [float(one(jnp.asarray(t))) == float(other(jnp.asarray(t))) for t in range(101)]
        self.assertEqual(same, [True] * 86 + [False] * 15)
        np.testing.assert_allclose(other(jnp.asarray(100)), 1e-4, rtol=1e-6)

    def test_wsd_s_decays_at_the_end_of_every_cycle(self):
        config = ScheduleConfig("wsd_s", 1.0, warmup=4, decay=10, cycles=(30, 60), floor=0.1)
        schedule = make_schedule(config, 100)
        steps = (4, 20, 25, 29, 30, 50, 55, 60, 90, 95, 100)
        halfway = 1 / (0.5 / 0.1 + 0.5)
        expected = (1, 1, halfway, 1 / (9 + 0.1), 1, 1, halfway, 1, 1, halfway, 0.1)
        found = [float(schedule(jnp.asarray(t))) for t in steps]
        np.testing.assert_allclose(found, expected, rtol=1e-5)

    def test_pieces_and_other_shapes_of_a_decay(self):
        pieces = ScheduleConfig(
            "piecewise", 2.0, phases=("linear:10:1", "constant:20", "one_minus_sqrt:20:0.5")
        )
        same = ScheduleConfig("wsd", 2.0, warmup=10, decay=20, shape="one_minus_sqrt", floor=0.5)
        one, other = make_schedule(pieces, 50), make_schedule(same, 50)
        for t in range(51):
            np.testing.assert_allclose(one(jnp.asarray(t)), other(jnp.asarray(t)), rtol=1e-6)

    def test_phases_that_are_no_whole_steps_may_add_up(self):
        self.assertNotEqual(51.7 + 31.1 + 17.2, 100)  # in floats
        phases = ("linear:51.7:1", "linear:31.1:0.5", "linear:17.2:0.25")
        schedule = make_schedule(ScheduleConfig("piecewise", 1.0, phases=phases), 100)
        np.testing.assert_allclose(schedule(jnp.asarray(100)), 0.25, rtol=1e-5)
        with self.assertRaisesRegex(UserError, "the schedule's 100, got 100.01"):
            phases = (*phases[:2], "linear:17.21:0.25")
            make_schedule(ScheduleConfig("piecewise", 1.0, phases=phases), 100)

    def test_a_schedule_is_a_function_of_many_steps_at_once(self):
        phases = ("linear:10:1", "cosine:40:0.5", "exponential:50:0.1")
        for kind in KINDS:
            pieces = phases if kind == "piecewise" else ()
            config = ScheduleConfig(kind, 2.0, warmup=8, decay=4, cooldown=7, phases=pieces)
            schedule = make_schedule(config, 100)
            found = schedule(jnp.arange(101))
            expected = [float(schedule(jnp.asarray(t))) for t in range(101)]
            np.testing.assert_allclose(found, expected, rtol=2e-6, err_msg=kind)

    def test_rounds_on_one_cosine(self):
        found = autoregressive_peaks(3, 1e-3, 1e-4)
        expected = [1e-3, 5.5e-4, 1e-4 + 4.5e-4 * (1 + np.cos(np.pi * 2 / 3))]
        np.testing.assert_allclose(found, expected, rtol=1e-12)

    def test_where_a_cosine_has_fallen_to_a_rate(self):
        self.assertAlmostEqual(cosine_reaches(0.2, 0.01), 0.7113, places=4)
        self.assertEqual(cosine_reaches(1.0, 0.01), 0.0)
        with self.assertRaisesRegex(UserError, "floor <= rate"):
            cosine_reaches(0.1, 0.2)

    @parameterized.parameters(
        ({"kind": "cosine_infinite", "decay": 10, "floor": 0.0}, "never reaches 0"),
        ({"kind": "cosine_infinite", "cooldown": 60, "decay": 50}, "needs 110 steps"),
        ({"kind": "wsd_s", "cycles": (20, 30), "decay": 15}, "needs 105 steps"),
        ({"kind": "piecewise", "phases": ("linear:10:1",)}, "add up to the schedule's 100"),
        ({"kind": "wsd", "shape": "sqrt"}, "unknown optim.schedule.shape 'sqrt'"),
        ({"kind": "piecewise"}, "belongs to the kind piecewise"),
        ({"kind": "wsd", "cycles": (5,)}, "belongs to the kind wsd_s"),
        ({"initial": 1.5}, "initial 1.5"),
    )
    def test_phases_that_do_not_fit(self, settings, message):
        with self.assertRaisesRegex(UserError, message):
            make_schedule(ScheduleConfig(**settings), 100)

    def test_every_kind_starts_at_its_initial_rate(self):
        for kind in set(KINDS) - {"piecewise"}:
            config = ScheduleConfig(kind, 2.0, warmup=8, initial=0.25, decay=4)
            value = make_schedule(config, 40)(jnp.asarray(0))
            np.testing.assert_allclose(value, 0.5, rtol=1e-6, err_msg=kind)


if __name__ == "__main__":
    absltest.main()
