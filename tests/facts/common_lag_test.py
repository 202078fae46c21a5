"""Gains at one lag: exact cancelling, the choice of the lag, steps between rows."""

import numpy as np
import pytest
from absl.testing import parameterized

from llm_dynamics.errors import UserError
from llm_dynamics.facts import common_lag

_ENCOUNTERS = (0, 30)


def _scores(peak=4, steps=101, probes=3):
    since_S = np.arange(steps) % 30
    gain_S = np.where(since_S > 0, np.exp(-((since_S - peak) ** 2) / 8), 0.0)
    gain_S[61:] = 0
    return np.repeat(gain_S[:, None], probes, axis=1)


class CommonLagTest(parameterized.TestCase):
    @parameterized.parameters(1, 4, 9)
    def test_lag_of_the_maximum_whatever_the_run_shares(self, peak):
        rng = np.random.default_rng(0)
        shared_Sx1 = rng.standard_normal((101, 1)).cumsum(axis=0)
        found = common_lag.common_lag(
            [(_scores(peak) + shared_Sx1, _ENCOUNTERS)],
            (np.zeros((101, 5)) + shared_Sx1).mean(axis=1),
            np.arange(101),
            10,
        )
        self.assertEqual(found, peak)

    def test_gain_of_each_encounter(self):
        scores_SxP = _scores()
        scores_SxP[30] = 0.25
        found = common_lag.gains_at_lag(scores_SxP, np.arange(101), _ENCOUNTERS, 4)
        np.testing.assert_allclose(found, [[1, 1, 1], [0.75, 0.75, 0.75]])

    def test_linear_in_the_scores(self):
        rng = np.random.default_rng(0)
        one, other = rng.standard_normal((2, 101, 3))
        args = (np.arange(101), _ENCOUNTERS, 4)
        for function, more in (
            (common_lag.gains_at_lag, ()),
            (common_lag.after_lag, (np.arange(60),)),
        ):
            np.testing.assert_allclose(
                function(one, *args, *more) - function(other, *args, *more),
                function(one - other, *args, *more),
            )

    def test_after_the_lag_and_between_rows(self):
        scores_Sx1 = np.arange(101.0)[:, None] ** 2
        offsets_T = np.array([0, 1, 5])
        want = [34.0**2, 35.0**2, 39.0**2]
        found = common_lag.after_lag(scores_Sx1, np.arange(101), _ENCOUNTERS, 4, offsets_T)
        np.testing.assert_allclose(found[:, 0], want)
        steps_S = np.array([0, 30, 34, 36, 40, 50])
        found = common_lag.after_lag(scores_Sx1[steps_S], steps_S, _ENCOUNTERS, 4, offsets_T)
        between = [34.0**2, (34.0**2 + 36.0**2) / 2, 0.25 * 36.0**2 + 0.75 * 40.0**2]
        np.testing.assert_allclose(found[:, 0], between)

    def test_missing_steps(self):
        steps_S = np.array([0, 30, 34, 40])
        with pytest.raises(UserError, match="gain of an encounter"):
            common_lag.gains_at_lag(np.zeros((4, 1)), steps_S, _ENCOUNTERS, 4)
        with pytest.raises(ValueError, match="up to step 40"):
            common_lag.after_lag(np.zeros((4, 1)), steps_S, _ENCOUNTERS, 4, np.arange(8))
