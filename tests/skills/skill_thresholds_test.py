"""Limits of random graphs: golden values, and graphs drawn."""

import math

import numpy as np
from absl.testing import absltest, parameterized

from llm_dynamics.errors import UserError
from llm_dynamics.skills import random_graphs, thresholds


class LimitsTest(parameterized.TestCase):
    def test_giant_component(self):
        np.testing.assert_allclose(
            thresholds.giant_share((0, 0.5, 1, 1.1, 1.5, 2, 3)),
            (0, 0, 0, 0.176, 0.583, 0.797, 0.940),
            atol=0.0006,
        )

    @parameterized.parameters((8, 0.204), (4, 0.412), (2, 0.797))
    def test_giant_component_of_skills(self, k, share):
        threshold = thresholds.giant_skill_threshold(k)
        self.assertAlmostEqual(threshold, 1 / (k * (k - 1)))
        found = thresholds.giant_skill_share((0.9 * threshold, 2 * threshold, 50), k)
        np.testing.assert_allclose(found, (0, share, 1), atol=0.0006)

    def test_two_skills_a_piece_are_an_ordinary_graph(self):
        c = np.linspace(1.01, 4, 20)
        np.testing.assert_allclose(
            thresholds.giant_skill_share(c / 2, 2), thresholds.giant_share(c), rtol=1e-8
        )

    @parameterized.parameters((3, 1.0379), (4, 1.4664), (5, 2.4565), (6, 4.533))
    def test_where_peeling_jumps(self, c, ratio):
        found, before, after = thresholds.peeling_jump(c)
        self.assertAlmostEqual(found, ratio, delta=0.0001)
        np.testing.assert_allclose(
            thresholds.unlearned_share((found * (1 - 1e-7), found * (1 + 1e-7)), c),
            (before, after),
            rtol=2e-3,
        )

    def test_sides_of_the_jump(self):
        self.assertIsNone(thresholds.peeling_jump(math.e))
        for c, before, after in ((3, 0.538, 0.099), (4, 0.699, 0.003)):
            np.testing.assert_allclose(thresholds.peeling_jump(c)[1:], (before, after), atol=0.0006)

    def test_bipartite(self):
        self.assertAlmostEqual(thresholds.bipartite_threshold(900, 18_000) ** 2, 1 / 16.2e6)

    def test_refusals(self):
        with self.assertRaisesRegex(UserError, "k of at least 2"):
            thresholds.giant_skill_share(1.0, 1)
        with self.assertRaisesRegex(UserError, "c, mean skills"):
            thresholds.peeling_jump(0)


class DrawnTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.rng = np.random.default_rng(5)

    def test_pairs_are_distinct_and_all_alike(self):
        edges = random_graphs.pairs(40, 0.3, self.rng)
        self.assertTrue(np.all((edges[:, 0] < edges[:, 1]) & (edges >= 0).all(1)))
        self.assertLen(np.unique(edges, axis=0), len(edges))
        every = random_graphs.pairs(40, 1.0, self.rng)
        self.assertLen(np.unique(every, axis=0), 780)
        self.assertEqual(every.max(), 39)

    @parameterized.parameters(-1.0, 0.0, 1.0)
    def test_isolated_nodes_are_the_last_obstruction(self, c):
        nodes, runs = 1000, 300
        lone, whole = [], []
        for _ in range(runs):
            edges = random_graphs.pairs(nodes, (math.log(nodes) + c) / nodes, self.rng)
            lone.append(random_graphs.isolated(nodes, edges))
            whole.append(random_graphs.components(nodes, edges)[0] == nodes)
        mean = float(thresholds.expected_isolated(c))
        self.assertAlmostEqual(np.mean(lone), mean, delta=4 * math.sqrt(mean / runs) + 0.1)
        none = float(thresholds.none_isolated(c))
        error = 4 * math.sqrt(none * (1 - none) / runs)
        self.assertAlmostEqual(np.mean(np.equal(lone, 0)), none, delta=error)
        self.assertAlmostEqual(np.mean(whole), np.mean(np.equal(lone, 0)), delta=0.02)

    @parameterized.parameters(0.5, 1.5, 2.0, 3.0)
    def test_giant_component(self, c):
        nodes = 30_000
        sizes = random_graphs.components(nodes, random_graphs.pairs(nodes, c / nodes, self.rng))
        self.assertEqual(sizes.sum(), nodes)
        share = float(thresholds.giant_share(c))
        self.assertAlmostEqual(sizes[0] / nodes, share, delta=0.025)

    def test_missing_skills(self):
        pieces = round(thresholds.pieces_for_all(1000, 8, 0.0))
        found = [random_graphs.missing_skills(1000, pieces, 8, self.rng) for _ in range(400)]
        self.assertAlmostEqual(np.mean(found), 1.0, delta=0.2)

    @parameterized.parameters((8, 0.204), (4, 0.412))
    def test_giant_component_of_skills(self, k, share):
        pieces = round(2 * 40_000 * thresholds.giant_skill_threshold(k))
        found = random_graphs.largest_skill_share(40_000, pieces, k, self.rng)
        self.assertAlmostEqual(found, share, delta=0.03)

    @parameterized.parameters((3, 1.0), (3, 1.05), (4, 1.45), (4, 1.5))
    def test_peeling(self, c, ratio):
        skills = 100_000  # at 20,000 some graphs do not jump yet 1 % above the threshold
        found = random_graphs.peel(skills, round(ratio * skills), c, self.rng)
        expected = float(thresholds.unlearned_share(ratio, c))
        self.assertAlmostEqual(found, expected, delta=0.04 if expected > 0.01 else 0.005)


if __name__ == "__main__":
    absltest.main()
