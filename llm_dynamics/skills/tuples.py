"""From single skills to k'-tuples of skills: several pieces together, or within one piece.

Joining k' pieces to one that fails when any of them does makes k independent k'-tuples of skills
(the j-th skill of each), so the bounds for skills hold with another theta (Arora & Goyal 2023,
Sec. 5; the exact mass is derived). Tuples within one piece share skills, and k of them would be
too many to call independent: an average over ways to cut the piece into floor(k/k') blocks has
the tails of one such cut at most (Hoeffding 1963, Sec. 5), so the bounds hold with k replaced by
floor(k/k').
"""

import numpy as np
from numpy.typing import ArrayLike

from llm_dynamics.errors import UserError
from llm_dynamics.skills import bounds


def failure_mass(theta: ArrayLike, size: ArrayLike) -> np.ndarray:
    """Mass of failed texts of `size` independent pieces, 1 - (1 - theta)^size.

    Raises:
      UserError: theta outside of (0, 1), or a size that is not a whole number of at least 1.
    """
    _, theta, size = bounds.checked(0.5, theta, size)
    return -np.expm1(size * np.log1p(-theta))


def beta_joined(
    alpha: ArrayLike, theta: ArrayLike, k: ArrayLike, size: ArrayLike, exact: bool = False
) -> np.ndarray:
    """beta of k'-tuples of skills over texts of k' pieces, relative to `failure_mass`.

    Args:
      alpha: share of tuples left out.
      theta: share of single pieces that fail.
      k: skills a piece.
      size: k'.
      exact: the exact worst case instead of the theorem's.

    Raises:
      UserError: a number outside of its range.
    """
    curve = bounds.beta_exact if exact else bounds.beta_theorem
    return curve(alpha, failure_mass(theta, size), k)


def blocks(k: ArrayLike, size: ArrayLike) -> np.ndarray:
    """floor(k / k'): how many independent k'-tuples of skills a piece is worth.

    Raises:
      UserError: no whole numbers, or more skills in the tuple than in the piece.
    """
    _, _, k = bounds.checked(0.5, 0.5, k)
    _, _, size = bounds.checked(0.5, 0.5, size)
    if np.any(size > k):
        raise UserError(f"expected tuples of at most the {k} skills of a piece, got {size}")
    return k // size


def beta_within(
    alpha: ArrayLike, theta: ArrayLike, k: ArrayLike, size: ArrayLike, exact: bool = False
) -> np.ndarray:
    """beta of k'-tuples of skills within pieces of k, by the block rule.

    The exact form is a bound, too, but need not be attained: expected shortfall of an average is
    at most that of one of its terms.

    Args:
      alpha: share of tuples left out.
      theta: share of pieces that fail.
      k: skills a piece.
      size: k', at most k.
      exact: the exact worst case of the blocks instead of the theorem's.

    Raises:
      UserError: a number outside of its range.
    """
    curve = bounds.beta_exact if exact else bounds.beta_theorem
    return curve(alpha, theta, blocks(k, size))
