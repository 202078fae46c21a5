import jax
import numpy as np
from absl.testing import absltest, parameterized

from llm_dynamics.errors import UserError
from llm_dynamics.optim.phases import SHAPES, Phase, join, parse

# Factors at p = 0.25 on the way from 1 to 0.1, worked out by hand.
QUARTER = {
    "linear": 0.775,
    "cosine": 0.1 + 0.45 * (1 + 2**-0.5),
    "mirror_cosine": 1.55 - 0.1 - 0.45 * (1 + 2**-0.5),
    "square": 0.1 + 0.9 * 15 / 16,
    "one_minus_sqrt": 0.55,
    "exponential": 0.1**0.25,
    "inverse": 1 / (0.25 / 0.1 + 0.75),
}


class PhasesTest(parameterized.TestCase):
    @parameterized.parameters(sorted(set(SHAPES) - {"constant"}))
    def test_both_ends_are_exact_and_hold_outside(self, shape):
        with jax.enable_x64(True):
            phase = Phase(shape, 40, 1.0, 0.1)
            for t, expected in ((-5, 1.0), (0, 1.0), (40, 0.1), (99, 0.1)):
                np.testing.assert_allclose(phase(t), expected, rtol=1e-14)

    @parameterized.parameters(sorted(QUARTER.items()))
    def test_values_within(self, shape, expected):
        with jax.enable_x64(True):
            np.testing.assert_allclose(Phase(shape, 40, 1.0, 0.1)(10), expected, rtol=1e-14)

    def test_boundaries_need_not_be_whole(self):
        with jax.enable_x64(True):
            schedule = join([Phase("linear", 2.5, 0.0, 1.0), Phase("linear", 2.5, 1.0, 0.0)])
            found = [float(schedule(t)) for t in range(6)]
        np.testing.assert_allclose(found, [0, 0.4, 0.8, 0.8, 0.4, 0], atol=1e-14)

    def test_phases_of_no_steps_are_jumps(self):
        schedule = join([Phase("constant", 3, 1.0, 1.0), Phase("linear", 0, 1, 0.5)])
        self.assertEqual(float(schedule(7)), 1.0)

    def test_parsed_phases_begin_where_the_last_one_ended(self):
        self.assertEqual(parse("cosine:900:0.1", 2.0, 2.0), Phase("cosine", 900, 2.0, 0.2))
        self.assertEqual(parse("linear:5:1:0", 0.3, 2.0), Phase("linear", 5, 2.0, 0.0))
        self.assertEqual(parse("constant:5", 0.3, 2.0), Phase("constant", 5, 0.3, 0.3))

    @parameterized.parameters(
        ("cosine:900", "expected an END"),
        ("cosine:x:1", "SHAPE:STEPS:END"),
        ("cosine:1:1:1:1", "SHAPE:STEPS:END"),
        ("cosin:1:1", "did you mean 'cosine'"),
        ("exponential:10:0", "never reaches 0"),
        ("linear:-1:0", "steps and rates >= 0"),
    )
    def test_bad_phases(self, entry, message):
        with self.assertRaisesRegex(UserError, message):
            parse(entry, 1.0, 1.0)


if __name__ == "__main__":
    absltest.main()
