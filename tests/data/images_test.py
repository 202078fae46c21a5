"""The images that scikit-learn ships: what they are, how they are dealt, and what lacks without."""

import sys
from unittest import mock

import numpy as np
from absl.testing import parameterized

from llm_dynamics.data import images
from llm_dynamics.errors import UserError


class DigitsTest(parameterized.TestCase):
    def test_two_sides_of_all_images(self):
        found = images.digits(0.25, seed=1)
        self.assertEqual(found.train_images.shape, (1348, 8, 8, 1))
        self.assertEqual(found.test_images.shape, (449, 8, 8, 1))
        whole = np.concatenate([found.train_images, found.test_images])
        self.assertEqual((whole.dtype, whole.min(), whole.max()), (np.float32, -1, 1))
        labels = np.concatenate([found.train_labels, found.test_labels])
        self.assertEqual(np.bincount(labels).tolist(), [178, 182, 177, 183, 181, 182, 181, 179,
                                                        174, 180])  # fmt: skip
        again, other = images.digits(0.25, seed=1), images.digits(0.25, seed=2)
        np.testing.assert_array_equal(found.test_images, again.test_images)
        self.assertFalse(np.array_equal(found.test_labels, other.test_labels))

    def test_an_epoch_is_every_image_once(self):
        found = images.digits(0.2)
        count = len(found.train_labels)
        rows = np.concatenate([found.rows(step, 100, seed=3) for step in range(30)])
        for epoch in range(2):
            part = rows[epoch * count : (epoch + 1) * count]
            np.testing.assert_array_equal(np.sort(part), np.arange(count))
        self.assertFalse(np.array_equal(rows[:count], rows[count : 2 * count]))
        pixels, labels = found.batch(7, 100, seed=3)
        np.testing.assert_array_equal(labels, found.train_labels[rows[700:800]])
        np.testing.assert_array_equal(pixels, found.train_images[rows[700:800]])

    @parameterized.parameters(0, 1, 1e-5)
    def test_a_side_without_images_is_refused(self, share):
        with self.assertRaisesRegex(UserError, "share"):
            images.digits(share)

    def test_without_the_package(self):
        with (
            mock.patch.dict(sys.modules, {"sklearn": None, "sklearn.datasets": None}),
            self.assertRaisesRegex(UserError, r"scikit-learn, which is not .*\.\[images\]"),
        ):
            images.digits()
