"""Measures of runs whose competences are invented, against what was put in."""

import math

import numpy as np
from absl.testing import parameterized

from llm_dynamics.skills import measures
from llm_dynamics.skills.outcomes import Outcomes
from tests.skills import invented_runs


class MeasuresTest(parameterized.TestCase):
    def test_excess_at_a_competence_lies_between_looks(self):
        found = measures.excess_at(np.array([8.0, 4.0, 1.0]), np.array([0.1, 0.5, 0.9]), 0.7)
        np.testing.assert_allclose(found, 2.0)  # half way in the logarithm
        assert math.isnan(measures.excess_at(np.array([8.0, 4.0]), np.array([0.1, 0.5]), 0.7))
        assert math.isnan(measures.excess_at(np.array([8.0, 4.0]), np.array([0.8, 0.9]), 0.7))

    def test_slingshot_is_one_where_wrong_answers_go_as_the_excess(self):
        # c_j = c_1^j and excess -4 ln c_1: dividing it by j gives c_j what c_1 had.
        right = np.linspace(0.3, 0.995, 60)
        made = invented_runs.run(
            np.repeat(right[:, None], 10, axis=1), np.arange(60), -4 * np.log(right), texts=20_000
        )
        for found in measures.slingshot(made, "k4", 0.8).values():
            np.testing.assert_allclose(found, 1.0, atol=0.03)

    @parameterized.parameters(0.5, 1.0, 1.5)
    def test_slope_of_emergence_is_the_power_that_was_put_in(self, power):
        steps, ranks = np.arange(0, 12_001, 60), np.arange(1, 31)
        emerged = 70 * ranks**power
        right = 1 / (1 + np.exp(-8 * np.log(np.maximum(steps, 1)[:, None] / emerged)))
        made = invented_runs.run(right, steps, size=4, texts=4000)
        found_S = measures.emergence_steps(made, "k4")
        np.testing.assert_allclose(measures.rank_slope(found_S), power, atol=0.06)

    @parameterized.parameters((0.0, 1.0), (150.0, 1.0), (300.0, 0.5))
    def test_an_onset_is_told_from_the_power(self, onset, power):
        ranks = np.arange(1, 81.0)
        noise = np.exp(0.02 * np.random.default_rng(0).standard_normal(80))
        steps_S = (onset + 20 * ranks**power) * noise
        found = measures.onset_and_slope(steps_S)
        np.testing.assert_allclose(found[1], power, atol=0.1)
        np.testing.assert_allclose(found[0], onset, atol=25)
        assert onset == 0 or measures.rank_slope(steps_S) < 0.8 * power

    def test_skills_that_never_emerge_end_the_fit(self):
        steps_S = np.arange(1, 41.0)
        steps_S[20:] = np.nan
        np.testing.assert_allclose(measures.rank_slope(steps_S), 1.0)
        steps_S[:] = np.nan
        assert math.isnan(measures.rank_slope(steps_S))

    def test_size_of_tuples_at_a_competence(self):
        joint_A = np.array([0.9, 0.8, 0.6, 0.2])
        assert measures.tuple_size_at(joint_A, 0.7) == 2.5
        assert measures.tuple_size_at(joint_A, 0.9) == 1.0
        assert measures.tuple_size_at(joint_A, 0.2) == 4.0
        assert math.isnan(measures.tuple_size_at(joint_A, 0.95))
        assert math.isnan(measures.tuple_size_at(joint_A, 0.1))

    def test_residual_of_independent_and_of_common_failures(self):
        found = invented_runs.outcomes(np.full(6, 0.6), 3, 20_000)
        assert abs(measures.product_residual(found, 3)) < 0.02
        common = invented_runs.outcomes(np.ones(6), 3, 20_000)
        common.right_TxA[:8000] = False
        order = np.random.default_rng(0).permutation(20_000)
        # All or nothing: c_3 is 0.6, where 0.6^3 was to be expected.
        np.testing.assert_allclose(
            measures.product_residual(common.take(order), 3), 0.6 - 0.6**3, atol=0.02
        )

    def test_texts_with_skills_that_were_never_measured_count_on_neither_side(self):
        # The second skill stands only in texts of one half, which fail: a product cannot know it.
        skills, right = np.zeros((4000, 2), int), np.ones((4000, 2), bool)
        skills[1:1000:2] = 1
        right[1:1000:2] = False
        found = Outcomes(skills, right, np.where(right, 0.0, 2.0).sum(axis=1), 2)
        assert measures.product_residual(found, 2) == 0
