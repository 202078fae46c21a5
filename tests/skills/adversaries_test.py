"""Adversaries in JAX: the same as plain numpy and in chunks, and as bad as the theory says."""

import functools

import jax
import numpy as np
from absl.testing import absltest, parameterized
from scipy import stats

from llm_dynamics.errors import UserError
from llm_dynamics.skills import adversaries, bounds, targets, tuples
from llm_dynamics.skills.graph import SkillGraph, pair_number

SMALL = SkillGraph(5000, 50, 4, zipf=0.8)
PAIRS = SkillGraph(5000, 20, 5, distinct=True, tuple_size=2)
WIDE = SkillGraph(100_000, 1000, 8)  # 100 pieces a skill
NARROW = SkillGraph(10_000, 1000, 8)
WITHIN = SkillGraph(150_000, 60, 8, distinct=True, tuple_size=2)

drawn = functools.cache(adversaries.draw)
_skills = jax.jit(SkillGraph.skills_of, static_argnums=0)


def skills_of(graph: SkillGraph, seed: int) -> np.ndarray:
    return np.asarray(_skills(graph, jax.random.key(seed), np.arange(graph.pieces)))


def reference(graph: SkillGraph, seed: int, aim_I, theta: float):
    """Edges of each item in all pieces and in the failed ones, by sorting."""
    skill_KxP = skills_of(graph, seed).astype(int)
    item_JxP = skill_KxP
    if graph.tuple_size == 2:
        a, b = np.triu_indices(graph.k, 1)
        low, high = np.sort([skill_KxP[a], skill_KxP[b]], axis=0)
        item_JxP = high * (high - 1) // 2 + low
    order_P = np.argsort(-aim_I[item_JxP].sum(0), kind="stable")
    failed = order_P[: round(theta * graph.pieces)]
    count = functools.partial(np.bincount, minlength=graph.items)
    return count(item_JxP.ravel()), count(item_JxP[:, failed].ravel())


class GraphTest(parameterized.TestCase):
    @parameterized.parameters(SMALL, SkillGraph(5000, 50, 4))
    def test_skills_follow_their_measure(self, graph):
        count_S = np.bincount(skills_of(graph, 0).ravel(), minlength=graph.skills)
        expected = graph.mass_I * graph.pieces * graph.k
        self.assertGreater(stats.chisquare(count_S, expected).pvalue, 1e-4)

    def test_distinct_skills_and_all_pairs_alike(self):
        skill_KxP = np.sort(skills_of(PAIRS, 0), axis=0)
        self.assertTrue(np.all(np.diff(skill_KxP.astype(int), axis=0) > 0))
        degree_I = drawn(PAIRS, 0).degree_I
        self.assertEqual(degree_I.sum(), PAIRS.pieces * 10)
        # Pairs of one piece depend on each other a little; their variance is the binomial's.
        spread = degree_I.var() / degree_I.mean()
        self.assertBetween(spread, 0.7, 1.4)

    def test_pairs_are_numbered_once(self):
        b, a = np.tril_indices(20, -1)
        np.testing.assert_array_equal(pair_number(a, b), np.arange(190))
        np.testing.assert_array_equal(pair_number(b, a), np.arange(190))

    def test_a_piece_depends_on_its_number_alone(self):
        whole = skills_of(SMALL, 3)
        some = _skills(SMALL, jax.random.key(3), np.array([4711, 3]))
        np.testing.assert_array_equal(some, whole[:, [4711, 3]])
        self.assertFalse(np.array_equal(whole, skills_of(SMALL, 4)))

    @parameterized.parameters(
        ({"skills": 70_000}, "skills"),
        ({"k": 0}, "1 skill a piece"),
        ({"tuple_size": 2}, "distinct"),
        ({"distinct": True, "zipf": 1.0}, "zipf=0"),
        ({"pieces": 2**30}, "edges"),
        ({"k": 20, "distinct": True, "tuple_size": 2}, "a piece"),
    )
    def test_refusals(self, changes, words):
        with self.assertRaisesRegex(UserError, words):
            SkillGraph(**{"pieces": 100, "skills": 50, "k": 4, **changes})


class RoundTest(parameterized.TestCase):
    @parameterized.product(graph=(SMALL, PAIRS), theta=(0.0002, 0.05, 0.37, 0.98), seed=(0, 1))
    def test_as_plain_numpy(self, graph, theta, seed):
        for aim_I in (targets.random_set(graph, 0.2, seed), np.zeros(graph.items, bool)):
            degree_I, inside_I = reference(graph, seed, aim_I, theta)
            np.testing.assert_array_equal(drawn(graph, seed).degree_I, degree_I)
            found = adversaries.fail_most(drawn(graph, seed), aim_I, theta)
            np.testing.assert_array_equal(found, inside_I)

    @parameterized.parameters((512, True), (768, False))
    def test_chunks_change_nothing(self, chunk, keep):
        aim_I = targets.random_set(SMALL, 0.2, 0)
        other = adversaries.draw(SMALL, 0, chunk=chunk, keep=keep)
        np.testing.assert_array_equal(other.degree_I, drawn(SMALL, 0).degree_I)
        for theta in (0.05, 0.37):
            np.testing.assert_array_equal(
                adversaries.fail_most(other, aim_I, theta),
                adversaries.fail_most(drawn(SMALL, 0), aim_I, theta),
            )

    def test_an_outcome_keeps_to_its_measures(self):
        aim_I = targets.random_set(SMALL, 0.2, 0)
        found = adversaries.aimed_at(drawn(SMALL, 0), aim_I, 0.05, 0.2)
        self.assertEqual(found.theta, 0.05)
        self.assertBetween(found.alpha, 0.15, 0.2)
        self.assertAlmostEqual(found.alpha, SMALL.mass_I[found.worst_I].sum())
        self.assertLessEqual(found.quantile, found.error_I[~found.worst_I].max() / 0.05)
        weight = SMALL.mass_I[found.worst_I]
        self.assertAlmostEqual(
            found.worst * 0.05, np.average(found.error_I[found.worst_I], weights=weight)
        )
        exact = bounds.beta_exact(found.alpha, 0.05, 4)
        self.assertBetween(found.worst, 1.2, exact * 1.1)

    def test_refusals(self):
        with self.assertRaisesRegex(UserError, "raise pieces"):
            adversaries.by_chance(drawn(SMALL, 0), 1e-5, 0.2)
        with self.assertRaisesRegex(UserError, "raise alpha or skills"):
            adversaries.by_chance(drawn(SMALL, 0), 0.1, 1e-5)
        with self.assertRaisesRegex(UserError, "multiple of 256"):
            adversaries.draw(SMALL, 0, chunk=1000)
        with self.assertRaisesRegex(UserError, "sets of pairs"):
            targets.star(SMALL, 0.2)


class TheoryTest(parameterized.TestCase):
    @parameterized.parameters(
        (0.05, 0.1, 1.270, 3.600, 3.590),
        (0.05, 0.2, 1.219, 2.652, 2.646),
        (0.05, 0.5, 1.127, 1.697, 1.694),
        (0.10, 0.1, 1.193, 3.052, 3.051),
        (0.20, 0.2, 1.102, 2.094, 2.091),
    )
    def test_many_pieces_reach_the_exact_worst_case(self, theta, alpha, chance, fixed, greedy):
        graph = drawn(WIDE, 0)
        aim_I = targets.random_set(WIDE, alpha, 0)
        found = adversaries.by_chance(graph, theta, alpha)
        self.assertAlmostEqual(found.worst / chance, 1, delta=0.02)
        predicted = bounds.beta_random(alpha, theta, 800)
        self.assertAlmostEqual(found.worst / float(predicted), 1, delta=0.02)
        exact = float(bounds.beta_exact(alpha, theta, 8))
        aimed = adversaries.aimed_at(graph, aim_I, theta, alpha).aimed
        self.assertAlmostEqual(aimed / fixed, 1, delta=0.01)
        self.assertAlmostEqual(aimed / exact, 1, delta=0.01)
        searched = adversaries.search(graph, aim_I, theta, alpha)
        self.assertAlmostEqual(searched.worst / greedy, 1, delta=0.01)
        self.assertLess(searched.worst, exact * 1.01)
        self.assertLess(searched.quantile, searched.worst)

    @parameterized.parameters((0.05, 0.1), (0.05, 0.2), (0.05, 0.5), (0.1, 0.1), (0.2, 0.2))
    def test_few_pieces_stay_below_the_finite_bound(self, theta, alpha):
        exact = float(bounds.beta_exact(alpha, theta, 8))
        finite = float(bounds.beta_finite(alpha, theta, 8, 10))
        for seed in (0, 1):
            start = adversaries.by_chance(drawn(NARROW, seed), theta, alpha).worst_I
            found = adversaries.search(drawn(NARROW, seed), start, theta, alpha)
            self.assertLess(found.worst, finite)
            self.assertGreater(found.worst, exact)

    @parameterized.parameters(
        (0.05, 0.1, 2.28, 3.98, 4.46),
        (0.05, 0.2, 1.87, 2.97, 2.85),
        (0.05, 0.5, 1.37, 1.96, 1.75),
        (0.10, 0.1, 2.09, 3.20, 3.49),
    )
    def test_pairs_within_a_piece(self, theta, alpha, fixed, clique, star):
        graph = drawn(WITHIN, 0)
        aims = {
            fixed: targets.random_set(WITHIN, alpha, 0),
            clique: targets.clique(WITHIN, alpha),
            star: targets.star(WITHIN, alpha),
        }
        searched = []
        for golden, aim_I in aims.items():
            found = adversaries.aimed_at(graph, aim_I, theta, alpha)
            # Sets of random pairs differ from each other, and few pieces a pair add noise.
            measured = found.aimed if golden == fixed else found.worst
            self.assertAlmostEqual(measured / golden, 1, delta=0.06)
            searched.append(adversaries.search(graph, aim_I, theta, alpha).worst)
        block = tuples.beta_within(alpha, theta, 8, 2)
        self.assertLess(max(searched), 1 / alpha if np.isnan(block) else block)
        self.assertLess(max(searched), 1.02 * tuples.beta_within(alpha, theta, 8, 2, exact=True))
        if alpha == 0.5:  # k is not to be used for pairs
            self.assertGreater(max(searched), bounds.beta_theorem(alpha, theta, 8))


if __name__ == "__main__":
    absltest.main()
