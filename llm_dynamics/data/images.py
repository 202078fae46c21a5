"""Small real images that a package ships: the handwritten digits of scikit-learn.

1,797 images of 8 x 8 pixels in ten classes (Alpaydin & Kaynak 1998, UCI Machine Learning
Repository, CC BY 4.0). Nothing is downloaded.
"""

import dataclasses

import numpy as np

from llm_dynamics.errors import UserError


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
    """Images with labels, dealt into two sides.

    Attributes:
      train_images, test_images: float32, count x rows x columns x channels, from -1 to 1.
      train_labels, test_labels: int32, 0 .. classes - 1.
      classes: how many.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    classes: int

    def batch(self, step: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Images and labels of a step: all training images once an epoch, in an order of its own.

        A function of (step, size, seed) alone.
        """
        chosen = self.rows(step, size, seed)
        return self.train_images[chosen], self.train_labels[chosen]

    def rows(self, step: int, size: int, seed: int) -> np.ndarray:
        """Which training images these are."""
        count = len(self.train_labels)
        place = step * size + np.arange(size)
        orders = {
            epoch: np.random.default_rng([seed, epoch]).permutation(count)
            for epoch in np.unique(place // count)
        }
        return np.array([orders[p // count][p % count] for p in place])


def digits(test_share: float = 0.2, seed: int = 0) -> Images:
    """The digits of scikit-learn.

    Args:
      test_share: of the images that are held out.
      seed: of which ones these are.

    Raises:
      UserError: a share that leaves a side empty, or no scikit-learn.
    """
    if not 0 < test_share < 1:
        raise UserError(f"expected a share of test images between 0 and 1, got {test_share}")
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError(
            "the images of digits come with scikit-learn, which is not installed; run "
            "`pip install -e .[images]`, or EXTRAS=images launch/local"
        ) from None
    found = load_digits()
    count = len(found.target)
    order = np.random.default_rng(seed).permutation(count)
    held = round(test_share * count)
    if not 0 < held < count:
        raise UserError(
            f"a test share of {test_share} of {count} images leaves a side empty; change it"
        )
    images = (found.images / 8 - 1).astype(np.float32)[..., None]
    labels = found.target.astype(np.int32)
    test, train = order[:held], order[held:]
    return Images(images[train], labels[train], images[test], labels[test], 10)
