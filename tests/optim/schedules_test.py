import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from llm_dynamics.errors import UserError
from llm_dynamics.optim.schedules import ScheduleConfig, make_schedule


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


if __name__ == "__main__":
    absltest.main()
