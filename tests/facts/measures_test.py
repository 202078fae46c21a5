"""Definitions of the paper on logs small enough to see through, and its numbers."""

import numpy as np
from absl.testing import parameterized

from llm_dynamics.errors import UserError
from llm_dynamics.facts import measures


class MaximumTest(parameterized.TestCase):
    def test_window_is_open_at_the_encounter_and_closed_at_its_end(self):
        steps_S = np.arange(21)
        loglik_SxP = np.full((21, 3), -5.0)
        loglik_SxP[4, 0] = 9.0  # the encounter's own row does not count
        loglik_SxP[9, 1] = 9.0  # the last row of the window does
        loglik_SxP[10, 2] = 9.0  # one beyond does not
        loglik_SxP[7, 2] = -4.0
        found = measures.local_acquisition_maximum(loglik_SxP, steps_S, [4], 5)
        np.testing.assert_array_equal(found.step_UxP, [[5, 9, 7]])
        np.testing.assert_array_equal(found.value_UxP, [[-5.0, 9.0, -4.0]])

    def test_first_step_on_ties(self):
        loglik_SxP = np.array([[0.0], [1.0], [2.0], [2.0], [0.0]])
        found = measures.local_acquisition_maximum(loglik_SxP, np.arange(5), [0], 4)
        self.assertEqual(found.step_UxP[0, 0], 2)

    def test_effectivity_starts_from_its_own_encounter(self):
        loglik_SxP = np.array([[0.0], [3.0], [2.0], [6.0], [5.0]])
        found = measures.effectivity(loglik_SxP, np.arange(5), [0, 2], 2)
        np.testing.assert_array_equal(found, [[3.0], [4.0]])

    def test_effectivity_is_at_least_the_next_row_and_scales_with_the_target(self):
        rng = np.random.default_rng(0)
        loglik_SxP = rng.standard_normal((300, 7))
        steps_S = np.arange(300)
        mean_UxP = measures.effectivity(loglik_SxP, steps_S, [0, 100], 50)
        next_UxP = loglik_SxP[[1, 101]] - loglik_SxP[[0, 100]]
        self.assertTrue((mean_UxP >= next_UxP).all())
        sum_UxP = measures.effectivity(3 * loglik_SxP, steps_S, [0, 100], 50)
        np.testing.assert_allclose(sum_UxP, 3 * mean_UxP)
        offsets_T = np.arange(100)
        gains = [
            measures.after_last_maximum(x, steps_S, [0, 100], 50, offsets_T)
            for x in (loglik_SxP, 3 * loglik_SxP)
        ]
        ratios = [measures.retainability(gain).ratio_TxP for gain in gains]
        np.testing.assert_allclose(ratios[0], ratios[1])

    def test_noise_alone_has_positive_effectivity(self):
        noise_SxP = np.random.default_rng(1).standard_normal((200, 50))
        found = measures.effectivity(noise_SxP, np.arange(200), [10, 80], 50)
        self.assertGreater(found.mean(), 1.5)

    def test_a_missing_row_within_the_window_is_an_error(self):
        steps_S = np.array([0, 1, 2, 4, 5])
        with self.assertRaisesRegex(UserError, r"none at 1 steps \(3\).*probe.every"):
            measures.local_acquisition_maximum(np.zeros((5, 1)), steps_S, [0], 5)
        with self.assertRaisesRegex(UserError, r"\(3\)"):
            measures.change(np.zeros((5, 1)), steps_S, 3)


class RetainabilityTest(parameterized.TestCase):
    def test_one_at_the_maximum_and_zero_when_the_gain_is_gone(self):
        loglik_SxP = np.array([[-4.0, -4.0], [-1.0, -2.0], [-2.5, -3.0], [-4.0, -5.0]])
        offsets_T = measures.common_offsets(np.arange(4), [0], 1)
        np.testing.assert_array_equal(offsets_T, [0, 1, 2])
        gain = measures.after_last_maximum(loglik_SxP, np.arange(4), [0], 1, offsets_T)
        found = measures.retainability(gain)
        np.testing.assert_array_equal(found.ratio_TxP, [[1, 1], [0.5, 0.5], [0, -0.5]])

    def test_base_is_the_first_encounter_and_each_probe_counts_from_its_own_maximum(self):
        loglik_SxP = np.array([[0.0, 0], [4, 4], [2, 2], [8, 4], [6, 8], [4, 6], [2, 4]])
        offsets_T = measures.common_offsets(np.arange(7), [0, 2], 2)
        gain = measures.after_last_maximum(loglik_SxP, np.arange(7), [0, 2], 2, offsets_T)
        np.testing.assert_array_equal(gain, [[8, 8], [6, 6], [4, 4]])

    def test_denominators_that_are_not_positive(self):
        gain_TxP = np.array([[2.0, 0.0, -1.0], [1.0, 1.0, -2.0]])
        published = measures.retainability(gain_TxP)
        np.testing.assert_array_equal(published.kept_P, [True, False, True])
        np.testing.assert_array_equal(published.ratio_TxP, [[1, 1], [0.5, 2]])
        self.assertTrue(np.isfinite(published.ratio_TxP).all())

    def test_published_length_of_the_curve(self):
        steps_S = np.arange(2501)  # ten encounters from 0 every 100, window 50
        offsets_T = measures.common_offsets(steps_S, range(0, 1000, 100), 50)
        self.assertEqual(offsets_T[-1], 2500 - 950)

    def test_sparse_rows_are_interpolated_in_time(self):
        dense_S = np.arange(31)
        line_SxP = np.where(dense_S < 3, dense_S, 6 - dense_S)[:, None].astype(float)
        kept_S = np.array([0, 1, 2, 3, 5, 10, 30])
        offsets_T = measures.common_offsets(dense_S, [0], 3)
        want = measures.after_last_maximum(line_SxP, dense_S, [0], 3, offsets_T)
        got = measures.after_last_maximum(line_SxP[kept_S], kept_S, [0], 3, offsets_T)
        np.testing.assert_allclose(got, want, atol=1e-12)
        self.assertTrue(measures.between_rows(kept_S, [0]))
        self.assertFalse(measures.between_rows(dense_S, [0]))

    def test_run_that_ends_within_the_window(self):
        with self.assertRaisesRegex(UserError, "at or after step 150.*got 149"):
            measures.common_offsets(np.arange(150), [0, 100], 50)


class OutlierTest(parameterized.TestCase):
    # Quartiles 2 and 4 by linear interpolation: reach 3 at factor 1.5, 4 at 2.0.
    values = np.array([2.0, 2, 3, 4, 4, 7.5, 2, 3, 4, 9])

    @parameterized.parameters((1.5, 8), (2.0, 9), (None, 10))
    def test_factor(self, factor, kept):
        self.assertEqual(measures.interquartile_keep(self.values, factor).sum(), kept)

    def test_filter_is_that_of_each_time(self):
        ratio_TxP = np.stack([self.values, self.values[::-1], np.ones(10)])
        mean_T, kept_TxP = measures.mean_of_ratios(ratio_TxP)
        np.testing.assert_array_equal(kept_TxP.sum(1), [8, 8, 10])
        self.assertFalse((kept_TxP[0] == kept_TxP[1]).all())
        np.testing.assert_allclose(mean_T, [3.0, 3.0, 1.0])
