"""Exact proportions: which source the g-th row of a run comes from, in closed form."""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from llm_dynamics.errors import UserError

_LARGEST = 1 << 30  # keeps every product below 2^63


class Mixture:
    """Deals the rows g = 0, 1, 2, ... to Z sources, evenly spread, without any state.

    The sources are the leaves of a balanced binary tree. At every node with left share p/q, the
    left side has received round(n p / q) of the node's first n rows: error diffusion with the
    running error written in closed form. All arithmetic is on whole numbers, so it is exact at
    any g (below 2^62). The count of a source differs from g times its share by at most half a
    row a level of the tree, and is exact whenever g is a multiple of the sum of `weights`.

    Attributes:
      weights: whole numbers in the proportion of the weights given, without a common factor.
    """

    def __init__(self, weights: Sequence[float | Fraction]):
        """Takes decimals at their face value: 0.1 is 1/10, up to six decimals, and 1/3 is 1/3.

        Raises:
          UserError: a weight that is not positive, or proportions that need too large numbers.
        """
        exact = [Fraction(str(w)).limit_denominator(10**6) for w in weights]
        if not exact or min(exact) <= 0:
            raise UserError(f"weights of sources expect numbers >= 0.000001, got {list(weights)}")
        scale = math.lcm(*(w.denominator for w in exact))
        whole = [int(w * scale) for w in exact]
        common = math.gcd(*whole)
        self.weights = tuple(w // common for w in whole)
        if sum(self.weights) > _LARGEST:
            raise UserError(
                f"the proportions of the weights {list(weights)} need numbers up to "
                f"{sum(self.weights)}; write them with fewer digits"
            )
        self._below = np.cumsum([0, *self.weights])  # weight of the sources before each

    @property
    def shares(self) -> tuple[Fraction, ...]:
        """The share of every source; they sum to 1."""
        return tuple(Fraction(w, sum(self.weights)) for w in self.weights)

    def locate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(source, index within the source) of every row index g.

        Args:
          rows: int64 [...], each >= 0, in any order.

        Returns:
          source int64 [...] and index int64 [...]: row g is the index-th row of its source.
        """
        rows = np.asarray(rows, np.int64)
        index = rows.ravel().copy()
        low, high = np.zeros_like(index), np.full_like(index, len(self.weights))
        # All rows go down the tree together, a level at a time; a leaf is its own right side.
        while np.any(high - low > 1):
            middle = (low + high) // 2
            p, q = self._below[middle] - self._below[low], self._below[high] - self._below[low]
            before = _left(index, p, q)
            is_left = _left(index + 1, p, q) > before
            index = np.where(is_left, before, index - before)
            low, high = np.where(is_left, low, middle), np.where(is_left, middle, high)
        return low.reshape(rows.shape), index.reshape(rows.shape)

    def counts(self, rows: np.ndarray | int) -> np.ndarray:
        """How many of the rows before g come from each source.

        Args:
          rows: int64 [...], each >= 0.

        Returns:
          int64 [..., Z], summing to g over the last axis.
        """
        rows = np.asarray(rows, np.int64)
        counts = np.empty((*rows.shape, len(self.weights)), np.int64)
        nodes = [(0, len(self.weights), rows)]
        while nodes:
            low, high, n = nodes.pop()
            if high - low == 1:
                counts[..., low] = n
                continue
            middle = (low + high) // 2
            p, q = self._below[middle] - self._below[low], self._below[high] - self._below[low]
            left = _left(n, p, q)
            nodes += [(low, middle, left), (middle, high, n - left)]
        return counts


def _left(n: np.ndarray, p: np.ndarray | int, q: np.ndarray | int) -> np.ndarray:
    """round(n p / q): of the first n rows of a node of weight q those of its left side, p."""
    whole, rest = np.divmod(n, q)
    return whole * p + (2 * rest * p + q) // (2 * q)
