"""Bounds on the weakest skills: kept by adversaries and by chance, broken by dependent texts."""

import dataclasses

import numpy as np
import pytest
from absl.testing import parameterized

from llm_dynamics.errors import UserError
from llm_dynamics.skills.outcomes import Outcomes
from llm_dynamics.skills.weakest import exact_error, theorem_error, weakest
from tests.skills import invented_runs

UNIFORM = np.full(50, 1 / 50)


def failing(skills_TxK, failed_T) -> Outcomes:
    right_TxA = np.broadcast_to(~failed_T[:, None], skills_TxK.shape)
    return Outcomes(skills_TxK, right_TxA, failed_T * 1.0, 50)


class WeakestTest(parameterized.TestCase):
    @parameterized.parameters((0.1, 0.05), (0.2, 0.1), (0.5, 0.2))
    def test_the_worst_adversary_reaches_the_exact_bound(self, alpha, theta):
        skills_TxK = np.random.default_rng(0).integers(50, size=(60_000, 8))
        inside_T = (skills_TxK < alpha * 50).sum(axis=1) + np.linspace(0, 0.5, len(skills_TxK))
        worst = np.argsort(-inside_T)[: round(theta * len(skills_TxK))]
        failed_T = np.zeros(len(skills_TxK), bool)
        failed_T[worst] = True
        found = weakest(failing(skills_TxK, failed_T), alpha, UNIFORM)
        np.testing.assert_allclose(found.alpha, alpha)
        np.testing.assert_allclose(found.error, found.exact, rtol=0.02)
        assert found.exact < found.theorem and not found.violated
        assert abs(found.adversariality - 1) < 0.05

    def test_chance_is_no_adversary(self):
        rng = np.random.default_rng(1)
        skills_TxK = rng.integers(50, size=(60_000, 8))
        found = weakest(failing(skills_TxK, rng.random(60_000) < 0.1), 0.2, UNIFORM)
        assert abs(found.adversariality) < 0.03 and found.random == found.theta

    def test_texts_that_are_not_independent_can_break_the_bound(self):
        skills_TxK = np.random.default_rng(2).integers(5, 50, size=(20_000, 4))
        skills_TxK[:2000] = np.arange(2000)[:, None] % 5
        found = failing(skills_TxK, np.arange(20_000) < 2000)
        order = np.random.default_rng(3).permutation(20_000)
        assert weakest(found.take(order), 0.1, UNIFORM).violated

    def test_zipf_skills_are_counted_by_measure(self):
        measure_S = np.arange(1, 51.0) ** -1
        measure_S /= measure_S.sum()
        right_S = np.where(np.arange(50) < 40, 1.0, 0.0)  # the ten rarest fail
        found = weakest(
            invented_runs.outcomes(right_S, 4, 40_000, measure_S=measure_S), 0.04, measure_S
        )
        np.testing.assert_allclose(found.error, 1.0)
        assert 0.04 <= found.alpha < measure_S[40:].sum() + 1e-9
        # All texts that need them fail, so the bound is met: theta >= 1 - (1 - alpha)^k.
        np.testing.assert_allclose(found.exact, 1.0)
        assert not found.violated

    def test_ends(self):
        assert exact_error(0.1, 0.0, 4) == 0.0 and exact_error(0.1, 1.0, 4) == 1.0
        assert theorem_error(0.3, 0.05, 2) == 1.0  # no solution
        np.testing.assert_allclose(exact_error(0.1, 0.05, 8), 3.589 * 0.05, rtol=1e-3)
        np.testing.assert_allclose(theorem_error(0.1, 0.05, 8), 4.933 * 0.05, rtol=1e-3)

    def test_bad_input(self):
        found = invented_runs.outcomes(np.ones(50), 2, 10)
        with pytest.raises(UserError, match="alpha between 0 and 1, got 1"):
            weakest(found, 1, UNIFORM)
        mixed = dataclasses.replace(found, skills_TxK=np.where(found.skills_TxK % 2, -1, 0))
        with pytest.raises(UserError, match="one number of skills"):
            weakest(mixed, 0.1, UNIFORM)
