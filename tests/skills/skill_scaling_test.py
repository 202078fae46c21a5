"""From scale to failed texts, and how many tuples a corpus shows: golden values and chance."""

import math

import numpy as np
from absl.testing import absltest, parameterized

from llm_dynamics.errors import UserError
from llm_dynamics.skills import coverage, scaling


class ScalingTest(parameterized.TestCase):
    @parameterized.parameters((1e9, 2e10, 2.009), (7e10, 1.4e12, 1.992), (1e12, 2e13, 1.983))
    def test_ten_times_the_scale(self, parameters, tokens, factor):
        self.assertAlmostEqual(float(scaling.fall(parameters, tokens)), factor, delta=0.0005)
        refit = scaling.fall(parameters, tokens, law=scaling.BESIROGLU)
        self.assertAlmostEqual(float(refit), 2.27, delta=0.005)

    def test_the_floor_does_not_matter(self):
        self.assertEqual(
            scaling.excess_loss(1e9, 2e10), scaling.excess_loss(1e9, 2e10, scaling.AS_PRINTED)
        )

    def test_scale_that_divides_the_excess(self):
        n, d = scaling.scale_for((2, 3, 4, 5, 8))
        np.testing.assert_allclose(n, (7.7, 25, 59, 114, 453), rtol=0.02)
        np.testing.assert_allclose(d, (11.9, 51, 141, 314, 1680), rtol=0.01)
        before, after = scaling.excess_loss(1e9, 2e10), scaling.excess_loss(1e9 * n, 2e10 * d)
        np.testing.assert_allclose(before / after, (2, 3, 4, 5, 8))

    def test_loss_to_failures(self):
        self.assertAlmostEqual(float(scaling.binary_error(0.02)), 0.2)
        self.assertAlmostEqual(float(scaling.failed_by_loss(0.1)), 0.2)
        self.assertAlmostEqual(float(scaling.failed_by_argmax(0.397)), 0.572, delta=0.001)
        np.testing.assert_array_equal(scaling.failed_by_loss((0, 3)), (0, 1))

    def test_markov_holds_for_losses(self):
        loss = np.random.default_rng(0).exponential(0.2, 100_000)
        self.assertLess((loss >= 0.5).mean(), scaling.failed_by_loss(loss.mean()))

    def test_compute_to_failures(self):
        flops = 6 * 1e20 * 20  # N = 1e10
        expected = scaling.failed_by_loss(0.5 * scaling.excess_loss(1e10, 2e11))
        found = scaling.failed_of_compute(flops, 1, cloze_factor=0.5)
        np.testing.assert_allclose(found, expected)
        more = scaling.failed_of_compute(flops * np.array([1, 1e2, 1e4]), 1, argmax=True)
        self.assertTrue(np.all(np.diff(more) < 0))

    def test_refusals(self):
        with self.assertRaisesRegex(UserError, "subtract the entropy"):
            scaling.failed_by_loss(-0.1)
        with self.assertRaisesRegex(UserError, "tokens above 0"):
            scaling.excess_loss(1e9, 0)


class CoverageTest(parameterized.TestCase):
    @parameterized.parameters(
        (1000, 8, (87, 1.2e4, 2.1e6, 4.1e8, 1.0e11), (1e3, 5.0e5, 1.66e8, 4.1e10, 8.3e12)),
        (101, 5, (14, 350, 1.2e4, 5.7e5, 5.5e7), (101, 5050, 1.67e5, 4.08e6, 7.92e7)),
    )
    def test_golden(self, skills, k, half, count):
        sizes = range(1, 6)
        found = [coverage.half_coverage(skills, k, size) for size in sizes]
        np.testing.assert_allclose(found, half, rtol=0.04)
        self.assertEqual(found[0], half[0])
        np.testing.assert_allclose(
            [coverage.tuples(skills, size) for size in sizes], count, rtol=0.012
        )

    @parameterized.parameters((1000, 8, 3), (101, 5, 2), (6, 3, 1))
    def test_least_numbers_of_pieces(self, skills, k, size):
        half = coverage.half_coverage(skills, k, size)
        before, at = coverage.seen_share((half - 1, half), skills, k, size)
        self.assertLess(before, 0.5)
        self.assertGreaterEqual(at, 0.5)
        full = coverage.full_coverage(skills, k, size)
        unseen = (1 - coverage.seen_share((full - 1, full), skills, k, size)) * math.comb(
            skills, size
        )
        self.assertGreater(unseen[0], 1)
        self.assertLessEqual(unseen[1], 1 + 1e-6)

    def test_against_drawn_pieces(self):
        rng, seen = np.random.default_rng(1), []
        for _ in range(40):
            pairs = {
                (a, b)
                for _ in range(30)
                for piece in [sorted(rng.choice(12, 4, replace=False))]
                for i, a in enumerate(piece)
                for b in piece[i + 1 :]
            }
            seen.append(len(pairs) / 66)
        self.assertAlmostEqual(np.mean(seen), float(coverage.seen_share(30, 12, 4, 2)), delta=0.02)

    def test_edges(self):
        np.testing.assert_array_equal(coverage.seen_share((0, 1), 4, 4, 2), (0, 1))
        self.assertEqual(coverage.half_coverage(4, 4, 2), 1)
        with self.assertRaisesRegex(UserError, "tuple size <= skills a piece"):
            coverage.chance(100, 3, 4)
        with self.assertRaisesRegex(UserError, "whole"):
            coverage.tuples(100, 2.5)


if __name__ == "__main__":
    absltest.main()
