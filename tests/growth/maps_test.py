"""Maps along one axis: what is copied, shared out, averaged, composed."""

import numpy as np
from absl.testing import parameterized

from llm_dynamics.growth import maps

X = np.arange(12, dtype=np.float32).reshape(3, 4)


class MapTest(parameterized.TestCase):
    def test_gather_copies_scales_and_leaves_new_entries_empty(self):
        grown = maps.Gather(np.array([2, maps.NEW, 0]), np.array([2.0, 5.0, 1.0]))(X, 0)
        np.testing.assert_array_equal(grown, [2 * X[2], 0 * X[0], X[0]])

    def test_mix_is_a_product_along_the_axis(self):
        matrix = np.random.default_rng(0).normal(size=(5, 4))
        np.testing.assert_allclose(maps.Mix(matrix)(X, 1), X @ matrix.T, rtol=1e-5)

    def test_a_matrix_a_layer(self):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(2, 3, 4)).astype(np.float32)
        matrix = rng.normal(size=(2, 5, 4))
        found = maps.Mix(matrix, "source")(x, 2)
        np.testing.assert_allclose(found, np.einsum("lNn,lxn->lxN", matrix, x), rtol=1e-5)

    @parameterized.parameters(0.0, 0.5)
    def test_shares_of_copies_sum_to_one(self, uneven):
        index = np.array([0, 1, 2, 1, 1, 0])
        shares = maps.shared(index, uneven)
        totals = np.bincount(index, shares.scale)
        np.testing.assert_allclose(totals, 1)
        self.assertEqual(shares.scale[2], 1)
        self.assertEqual(bool(shares.scale[0] == shares.scale[5]), not uneven)

    def test_averages_leave_the_mean_and_the_deviations(self):
        grown = np.asarray(maps.averaged(4, 7)(X, 1))
        np.testing.assert_allclose(grown.mean(axis=1), X.mean(axis=1), rtol=1e-6)
        deviations = grown - grown.mean(axis=1, keepdims=True)
        np.testing.assert_allclose(deviations[:, 4:], 0, atol=1e-6)

    def test_one_map_after_another(self):
        first, second = maps.tile(2, 4, 0.5), maps.pad(4, 6)
        both = maps.both(first, second)
        x = np.array([[3.0, 4.0]])
        np.testing.assert_array_equal(both(x, 1), second(np.asarray(first(x, 1)), 1))
