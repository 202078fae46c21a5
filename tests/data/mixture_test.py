"""Exact proportions at every prefix, in closed form."""

from fractions import Fraction

import numpy as np
from absl.testing import parameterized

from llm_dynamics.data.mixture import Mixture
from llm_dynamics.errors import UserError

WEIGHTS = (
    ("one", [2.5]),
    ("even", [1, 1]),
    ("skewed", [0.9, 0.1]),
    ("decimals", [4.9, 16.3, 8.2, 0.01]),
    ("five", [5, 1, 1, 2, 1]),
    ("thirds", [1 / 3, 1 / 3, 1 / 3]),
    ("many", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
)
FAR = 10**12 + 7


class MixtureTest(parameterized.TestCase):
    @parameterized.named_parameters(*WEIGHTS)
    def test_every_prefix_has_the_right_proportions(self, weights):
        mixture = Mixture(weights)
        rows = np.arange(20_000)
        source, _ = mixture.locate(rows)
        counts = np.cumsum(source[:, None] == np.arange(len(weights)), axis=0)
        share = np.array(weights) / sum(weights)
        error = np.abs(counts - (rows + 1)[:, None] * share)
        levels = int(np.ceil(np.log2(len(weights))))
        self.assertLessEqual(error.max(), levels / 2 + 1e-6)

    @parameterized.named_parameters(*WEIGHTS)
    def test_a_whole_period_is_exact(self, weights):
        mixture = Mixture(weights)
        period = sum(mixture.weights)
        np.testing.assert_array_equal(mixture.counts(3 * period), 3 * np.array(mixture.weights))

    @parameterized.named_parameters(*WEIGHTS)
    def test_each_source_is_read_in_order_without_gaps(self, weights):
        mixture = Mixture(weights)
        source, index = mixture.locate(np.arange(5000))
        for z in range(len(weights)):
            mine = index[source == z]
            np.testing.assert_array_equal(mine, np.arange(len(mine)))

    @parameterized.product(weights=[w for _, w in WEIGHTS], start=[0, 12345, FAR])
    def test_counts_are_the_inverse_of_locate(self, weights, start):
        mixture = Mixture(weights)
        rows = start + np.arange(500)
        source, index = mixture.locate(rows)
        counts = mixture.counts(rows)
        np.testing.assert_array_equal(counts.sum(-1), rows)
        np.testing.assert_array_equal(np.take_along_axis(counts, source[:, None], 1)[:, 0], index)
        step = np.diff(counts, axis=0)
        np.testing.assert_array_equal(step, source[:-1, None] == np.arange(len(weights)))

    @parameterized.named_parameters(*WEIGHTS)
    def test_far_out_is_still_exact(self, weights):
        mixture = Mixture(weights)
        counts = mixture.counts(FAR)
        for count, share in zip(counts.tolist(), mixture.shares, strict=True):
            self.assertLess(abs(count - FAR * share), 3)

    def test_rows_may_come_in_any_order_and_shape(self):
        mixture = Mixture([5, 1, 3])
        rows = np.random.default_rng(0).permutation(1000).reshape(10, 100)
        source, index = mixture.locate(rows)
        whole_source, whole_index = mixture.locate(np.arange(1000))
        np.testing.assert_array_equal(source, whole_source[rows])
        np.testing.assert_array_equal(index, whole_index[rows])

    def test_a_thousand_sources(self):
        weights = np.random.default_rng(0).integers(1, 1000, 1000).tolist()
        mixture = Mixture(weights)
        rows = FAR + np.arange(1104)
        source, index = mixture.locate(rows)
        self.assertGreater(len(np.unique(source)), 400)
        counts = mixture.counts(np.array([FAR, FAR + 1104]))
        for g in (0, 500, 1103):
            self.assertEqual(mixture.counts(FAR + g)[source[g]], index[g])
        expected = np.bincount(source, minlength=1000)
        np.testing.assert_array_equal(counts[1] - counts[0], expected)
        shares = np.array(weights) / sum(weights)
        self.assertLess(np.abs(counts[0] - FAR * shares).max(), 5)

    def test_golden(self):
        # The order of sources is part of a run; if this changes, raise plan._FORMAT.
        source, _ = Mixture([3, 2, 1]).locate(np.arange(12))
        self.assertEqual(source.tolist(), [0, 1, 0, 2, 0, 1, 0, 1, 0, 2, 0, 1])

    def test_weights_are_taken_at_their_face_value(self):
        self.assertEqual(Mixture([0.1, 0.2]).weights, (1, 2))
        self.assertEqual(Mixture([1 / 3, 1]).weights, (1, 3))
        self.assertEqual(Mixture([2, 2]).shares, (Fraction(1, 2), Fraction(1, 2)))

    @parameterized.parameters([[]], [[1, 0]], [[-1]], [[1, 1 / 999983, 1 / 999979]])
    def test_impossible_weights(self, weights):
        with self.assertRaises(UserError):
            Mixture(weights)
