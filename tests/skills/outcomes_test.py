"""Competences against counting by hand."""

import itertools

import numpy as np
import pytest
from absl.testing import parameterized

from llm_dynamics.errors import UserError
from llm_dynamics.skills.outcomes import Outcomes
from tests.skills import invented_runs


class OutcomesTest(parameterized.TestCase):
    @parameterized.parameters(1, 2, 3, 4)
    def test_competence_on_tuples_is_a_count_over_subsets(self, size):
        found = invented_runs.outcomes(np.full(5, 0.7), 4, 60)
        by_hand = np.mean(
            [
                all(right[list(chosen)])
                for right in found.right_TxA
                for chosen in itertools.combinations(range(4), size)
            ]
        )
        np.testing.assert_allclose(found.joint(size), by_hand)
        accuracy = np.linspace(0.2, 0.9, 5)
        by_hand = np.mean(
            [
                np.prod(accuracy[list(chosen)])
                for skills in found.skills_TxK
                for chosen in itertools.combinations(skills, size)
            ]
        )
        np.testing.assert_allclose(found.product(accuracy, size), by_hand)

    def test_edges_are_counted_with_repetition_and_failures_charged_to_all(self):
        found = Outcomes(
            np.array([[0, 0, 1], [1, 2, -1], [2, 2, 2]]),
            np.array([[True, False, True], [True, True, True], [True, True, True]]),
            np.array([0.9, 0.0, 0.4]),
            4,
        )
        np.testing.assert_array_equal(found.edges_S, [2, 2, 4, 0])
        np.testing.assert_array_equal(found.failed_edges_S, [2, 1, 0, 0])
        np.testing.assert_array_equal(found.error_S, [1.0, 0.5, 0.0, np.nan])
        assert found.theta == found.theta_half == 1 / 3
        np.testing.assert_allclose(found.delta, 1.3 / 3)

    def test_accuracy_is_of_the_own_answers_where_there_are_some(self):
        found = Outcomes(
            np.array([[0, 1], [0, 1]]), np.array([[True, False], [True, True]]), np.zeros(2), 2
        )
        np.testing.assert_array_equal(found.accuracy_S, [1.0, 0.5])
        # The answer in the place of no skill is nobody's, not the last skill's.
        fewer = Outcomes(
            np.array([[0, -1], [0, 1]]), np.array([[True, True], [True, False]]), np.zeros(2), 2
        )
        np.testing.assert_array_equal(fewer.accuracy_S, [1.0, 0.0])
        whole = Outcomes(np.array([[0, 1], [0, 1]]), np.array([[False], [True]]), np.zeros(2), 2)
        np.testing.assert_array_equal(whole.accuracy_S, [0.5, 0.5])

    def test_independent_errors_follow_the_product(self):
        found = invented_runs.outcomes(np.linspace(0.3, 1.0, 8), 4, 20_000)
        first, second = found.halves()
        for size in (2, 4):
            assert abs(second.joint(size) - second.product(first.accuracy_S, size)) < 0.015

    def test_dealing_skills_anew_leaves_errors_to_chance(self):
        found = invented_runs.outcomes([0.0, *[1.0] * 9], 3, 5000)
        assert found.error_S[0] == 1.0
        permuted = found.permuted(np.random.default_rng(0))
        np.testing.assert_array_equal(permuted.edges_S, found.edges_S)
        assert np.abs(permuted.error_S - found.theta).max() < 0.06

    def test_what_cannot_be_outcomes(self):
        good = {
            "skills_TxK": np.zeros((3, 2), int),
            "right_TxA": np.ones((3, 2), bool),
            "excess_T": np.zeros(3),
            "num_skills": 1,
        }
        for changes, words in (
            ({"num_skills": 0}, "skills of 0 to -1"),
            ({"excess_T": np.full(3, np.nan)}, "finite"),
            ({"right_TxA": np.ones((3, 3), bool)}, "one answer a text or one for each of 2"),
            ({"excess_T": np.zeros(2)}, "text by text"),
        ):
            with pytest.raises(UserError, match=words):
                Outcomes(**(good | changes))
        with pytest.raises(UserError, match="tuples of 1 to 2"):
            Outcomes(**good).joint(3)
