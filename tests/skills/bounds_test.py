"""Bounds on uneven failure: the golden tables, their properties, and what they refuse."""

import numpy as np
from absl.testing import absltest, parameterized
from scipy import stats

from llm_dynamics.errors import UserError
from llm_dynamics.skills import bounds, clusters, tuples

NONE = np.nan
ALPHAS = (0.02, 0.05, 0.10, 0.15, 0.20, 0.30, 0.40, 0.50, 0.60)
AT_5_PERCENT = {  # k: theorem, exact worst case
    2: (
        (33.41, 16.36, 9.48, NONE, NONE, NONE, NONE, NONE, NONE),
        (20.0, 10.5, 6.00, 4.83, 4.50, 3.33, 2.50, 2.00, 1.67),
    ),
    4: (
        (21.25, 11.06, 6.87, 5.21, 4.27, 3.19, NONE, NONE, NONE),
        (13.09, 6.45, 5.19, 3.75, 3.22, 2.64, 2.195, 2.00, 1.67),
    ),
    8: (
        (13.65, 7.52, 4.93, 3.89, 3.30, 2.61, 2.20, 1.90, 1.66),
        (7.60, 5.31, 3.59, 2.91, 2.65, 2.19, 1.93, 1.70, 1.53),
    ),
    16: (
        (8.97, 5.25, 3.63, 2.97, 2.59, 2.14, 1.87, 1.67, 1.52),
        (5.86, 3.77, 2.76, 2.34, 2.10, 1.81, 1.64, 1.50, 1.40),
    ),
}
HALF_DIGIT = 0.00501


def draws(seed: int, count: int = 200):
    rng = np.random.default_rng(seed)
    alpha, theta = rng.uniform(0.01, 0.95, (2, count))
    return alpha, theta, rng.integers(1, 33, count)


class GoldenTest(parameterized.TestCase):
    @parameterized.parameters(*AT_5_PERCENT)
    def test_curves_at_5_percent(self, k):
        theorem, exact = AT_5_PERCENT[k]
        np.testing.assert_allclose(bounds.beta_theorem(ALPHAS, 0.05, k), theorem, atol=HALF_DIGIT)
        np.testing.assert_allclose(bounds.beta_exact(ALPHAS, 0.05, k), exact, atol=HALF_DIGIT)

    @parameterized.parameters(
        (0.1, (6.76, 4.50, 3.07, 2.46, 1.83)),
        (0.2, (5.89, 4.01, 2.80, 2.28, 1.75)),
        (0.4, (4.84, 3.39, 2.45, 2.05, 1.62)),
    )
    def test_curves_of_eight_skills(self, theta, betas):
        found = bounds.beta_theorem((0.05, 0.1, 0.2, 0.3, 0.5), theta, 8)
        np.testing.assert_allclose(found, betas, atol=HALF_DIGIT)

    @parameterized.parameters(
        (0.05, (0.137, 0.371, 0.609, 0.780)),
        (0.1, (0.197, 0.444, 0.666, 0.816)),
        (0.2, (0.286, 0.535, 0.731, 0.855)),
        (0.4, (0.431, 0.657, 0.810, 0.900)),
    )
    def test_where_curves_end(self, theta, ends):
        np.testing.assert_allclose(bounds.alpha_max(theta, (2, 4, 8, 16)), ends, atol=0.0005)

    @parameterized.parameters(
        (0.05, 0.1, 4.933, 5.296, 3.589),
        (0.05, 0.2, 3.298, 3.585, 2.647),
        (0.05, 0.5, 1.901, 1.993, 1.695),
        (0.10, 0.1, 4.502, 4.701, 3.045),
        (0.20, 0.2, 2.798, 2.892, 2.088),
    )
    def test_theorem_finite_and_exact(self, theta, alpha, theorem, finite, exact):
        found = (
            bounds.beta_theorem(alpha, theta, 8),
            bounds.beta_finite(alpha, theta, 8, 10),
            bounds.beta_exact(alpha, theta, 8),
        )
        np.testing.assert_allclose(found, (theorem, finite, exact), atol=0.000501)

    def test_error_bound(self):
        theta = np.array([0.02, 0.05, 0.1, 0.2])
        found = bounds.error_bound(bounds.beta_theorem(0.2, theta, 8), theta)
        np.testing.assert_allclose(found, (0.071, 0.165, 0.307, 0.560), atol=0.0005)

    def test_chance(self):
        self.assertAlmostEqual(float(bounds.beta_random(0.1, 0.05, 800)), 1.270, places=3)

    def test_pairs_within_a_piece(self):
        np.testing.assert_allclose(
            tuples.beta_within((0.1, 0.2, 0.5), 0.05, 8, 2), (6.87, 4.27, NONE), atol=HALF_DIGIT
        )
        self.assertAlmostEqual(float(tuples.beta_within(0.5, 0.05, 8, 2, exact=True)), 2.0)


class PropertyTest(parameterized.TestCase):
    @parameterized.parameters(0, 1, 2)
    def test_printed_form_is_the_divergence_form(self, seed):
        alpha, theta, k = draws(seed)
        beta = np.random.default_rng(seed).uniform(1.0001, 0.9999 / alpha)
        kept = beta > 1
        given = [x[kept] for x in (alpha, beta, theta, k)]
        np.testing.assert_allclose(
            bounds.printed_condition(*given), bounds.condition(*given), rtol=1e-9, atol=1e-12
        )

    @parameterized.parameters(0, 1, 2)
    def test_the_curve_is_the_edge_of_the_condition(self, seed):
        alpha, theta, k = draws(seed)
        beta = bounds.beta_theorem(alpha, theta, k)
        inside = np.flatnonzero((beta < 0.99 / alpha) & (beta > 1.01))
        alpha, theta, k, beta = (x[inside] for x in (alpha, theta, k, beta))
        self.assertGreater(len(inside), 30)
        self.assertTrue(np.all(bounds.condition(alpha, beta * 1.001, theta, k) < 0))
        self.assertTrue(np.all(bounds.condition(alpha, beta * 0.999, theta, k) > 0))

    @parameterized.parameters(0, 1, 2)
    def test_exact_below_theorem_below_finite(self, seed):
        alpha, theta, k = draws(seed)
        theorem = bounds.beta_theorem(alpha, theta, k)
        there = ~np.isnan(theorem)
        exact = bounds.beta_exact(alpha, theta, k)
        self.assertTrue(np.all(exact[there] <= theorem[there] * (1 + 1e-9)))
        self.assertTrue(np.all(exact <= np.minimum(1 / alpha, 1 / theta) * (1 + 1e-9)))
        finite = bounds.beta_finite(alpha, theta, k, 20)
        both = there & ~np.isnan(finite)
        self.assertTrue(np.all(finite[both] >= theorem[both] * (1 - 1e-9)))
        np.testing.assert_array_equal(there, alpha <= bounds.alpha_max(theta, k))
        np.testing.assert_allclose(bounds.beta_finite(alpha, theta, k, 1e14), theorem, rtol=1e-5)
        unequal = bounds.beta_finite(alpha, theta, k, 20, equal=False)
        self.assertTrue(np.all((unequal >= finite * (1 - 1e-9)) | np.isnan(unequal)))

    @parameterized.parameters(0, 1)
    def test_all_fails_only_where_every_touched_piece_does(self, seed):
        alpha, _, k = draws(seed)
        touched = -np.expm1(k * np.log1p(-alpha))
        inside = touched < 1 - 1e-9
        alpha, touched, k = alpha[inside], touched[inside], k[inside]
        for factor, full in ((0.99, False), (1.0, True), (1.01, True)):
            theta = np.minimum(factor * touched, 1 - 1e-12)
            error = bounds.beta_exact(alpha, theta, k) * theta
            np.testing.assert_array_equal(error > 1 - 1e-9, full)

    @parameterized.parameters((0.1, 0.05, 8), (0.5, 0.3, 5), (0.03, 0.6, 3))
    def test_exact_is_the_tail_mean_of_a_sorted_binomial(self, alpha, theta, k):
        levels = (np.arange(200_000) + 0.5) / 200_000
        count = stats.binom.ppf(1 - theta * levels, k, alpha)
        found = float(bounds.beta_exact(alpha, theta, k))
        self.assertAlmostEqual(found, count.mean() / (k * alpha), delta=1e-4)

    def test_smallest_failures(self):
        theta = np.array([1e-3, 1e-12, 1e-300])
        error = bounds.beta_exact(0.1, theta, 8) * theta
        self.assertTrue(np.all((error > 0) & (error <= 10 * theta * (1 + 1e-12))))
        np.testing.assert_allclose(bounds.alpha_max(theta, 8), (theta / np.e) ** (1 / 8), rtol=1e-4)
        self.assertTrue(np.all(np.isfinite(bounds.beta_theorem(1e-40, theta, 8))))

    def test_what_is_said(self):
        beta, theta = np.array([np.nan, 20.0, 3.0]), 0.05
        self.assertEqual(
            bounds.standing(beta, theta).tolist(), ["no solution", "above 1", "informative"]
        )
        np.testing.assert_array_equal(bounds.error_bound(beta * 2, theta), [NONE, 1.0, 3.0 * 0.1])

    def test_arrays_of_any_shape(self):
        found = bounds.beta_exact(np.full((3, 1), 0.1), np.full((1, 2), 0.05), 8)
        np.testing.assert_allclose(found, np.full((3, 2), 3.5893), atol=1e-4)


class TuplesTest(absltest.TestCase):
    def test_failures_of_joined_pieces(self):
        self.assertAlmostEqual(float(tuples.failure_mass(0.05, 2)), 0.0975)
        self.assertAlmostEqual(float(tuples.failure_mass(1e-15, 3)), 3e-15, delta=1e-24)

    def test_less_loss_for_larger_tuples_is_the_old_curve(self):
        single = bounds.beta_theorem(0.1, 0.05, 8)
        theta = 1 - 0.95 ** (1 / 4)
        np.testing.assert_allclose(tuples.beta_joined(0.1, theta, 8, 4), single, rtol=1e-9)
        self.assertLess(float(tuples.beta_joined(0.1, theta, 8, 4, exact=True)), float(single))

    def test_blocks(self):
        np.testing.assert_array_equal(tuples.blocks(8, (1, 2, 3, 8)), (8, 4, 2, 1))
        with self.assertRaisesRegex(UserError, "at most"):
            tuples.blocks(8, 9)


class ClustersTest(absltest.TestCase):
    def test_three_cases(self):
        weight, theta, k = (0.6, 0.4), (0.05, 0.2), (8, 4)
        overall = clusters.overall_failure(weight, theta)
        self.assertAlmostEqual(overall, 0.11)
        known = clusters.beta_known(0.1, theta, k)
        np.testing.assert_allclose(
            known, [bounds.beta_theorem(0.1, t, c) for t, c in zip(theta, k, strict=True)]
        )
        np.testing.assert_allclose(clusters.worst_failure(overall, weight), (0.11 / 0.6, 0.275))
        mixed = clusters.beta_mixed(0.1, overall, (5, 3))
        np.testing.assert_allclose(mixed, bounds.beta_theorem(0.1, overall, (5, 3)))
        unknown = clusters.error_unknown(0.1, overall, weight, k)
        self.assertTrue(np.all(unknown >= bounds.error_bound(known, theta)))

    def test_rare_clusters_get_no_guarantee(self):
        found = clusters.error_unknown(0.1, 0.05, (0.97, 0.03), 8)
        self.assertLess(found[0], 0.3)
        self.assertEqual(found[1], 1)

    def test_weights_are_checked(self):
        with self.assertRaisesRegex(UserError, "sum to 1"):
            clusters.worst_failure(0.05, (0.5, 0.6))


class RefusalTest(parameterized.TestCase):
    @parameterized.parameters(
        (lambda: bounds.beta_theorem(0, 0.1, 8), "alpha"),
        (lambda: bounds.beta_exact(0.1, [0.1, 1.0], 8), "theta"),
        (lambda: bounds.beta_exact(0.1, np.nan, 8), "theta"),
        (lambda: bounds.beta_theorem(0.1, 0.1, 0.5), "k, skills"),
        (lambda: bounds.condition(0.1, 1.0, 0.1, 8), "beta above 1"),
        (lambda: bounds.condition(0.5, 2.0, 0.1, 8), "alpha \\* beta below 1"),
        (lambda: bounds.beta_finite(0.1, 0.1, 8, 0), "pieces_per_skill"),
        (lambda: bounds.beta_random(0.1, 0.1, -1), "degree"),
    )
    def test_numbers_outside_of_their_range(self, call, words):
        with self.assertRaisesRegex(UserError, words):
            call()


if __name__ == "__main__":
    absltest.main()
