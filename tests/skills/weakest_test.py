"""Bounds on the weakest skills: kept by adversaries and by chance, broken by dependent texts."""

import dataclasses

import numpy as np
import pytest
from absl.testing import parameterized
from statsmodels.stats.proportion import proportion_confint

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

    @parameterized.parameters((0.3, 20), (0.95, 12))
    def test_groups_that_fail_together_are_worth_one(self, p, groups):
        """The interval covers the error in about 95 of 100 cases, the bound's is hardly left."""
        rng, outside, violated = np.random.default_rng(0), 0, 0
        for _ in range(300):
            # Ten texts a group; neighbours, in different halves, are of different groups.
            groups_T = np.repeat(np.arange(groups).reshape(-1, 2), 10, axis=0).ravel()
            skills_TxK = rng.integers(50, size=(len(groups_T), 2))
            failed_T = (rng.random(groups) < p)[groups_T]
            found = weakest(failing(skills_TxK, failed_T), 0.5, UNIFORM, groups_T)
            outside += not found.ends[0] <= p <= found.ends[1]
            violated += found.violated
        assert outside <= 25 and not violated

    def test_groups_of_one_text_are_independent_texts(self):
        found = invented_runs.outcomes(np.full(50, 0.7), 2, 4000)
        alone, of_one = (weakest(found, 0.2, UNIFORM, g) for g in (None, np.arange(4000)))
        assert alone.error == of_one.error
        np.testing.assert_allclose(alone.ends, of_one.ends, atol=2e-3)
        np.testing.assert_allclose(alone.exact_high, of_one.exact_high, atol=2e-3)

    def test_no_failure_among_few_texts_proves_little(self):
        found = weakest(failing(np.zeros((12, 1), int), np.zeros(12, bool)), 0.5,
            np.eye(50)[0], np.arange(12))  # fmt: skip
        ends = proportion_confint(0, 6, method="wilson")
        np.testing.assert_allclose(found.ends, ends, atol=1e-12)

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
