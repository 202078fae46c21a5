"""Skills in several clusters, each piece from one of them or from all (derived).

Cluster c has probability w_c, k_c skills a piece and failure mass theta_c within it; the overall
failure mass is theta = sum w_c theta_c. Axis: C clusters.
"""

import numpy as np
from numpy.typing import ArrayLike

from llm_dynamics.errors import UserError
from llm_dynamics.skills import bounds


def overall_failure(weight_C: ArrayLike, theta_C: ArrayLike) -> float:
    """theta = sum w_c theta_c.

    Raises:
      UserError: weights that do not sum to 1.
    """
    return float(_weights(weight_C) @ np.asarray(theta_C, float))


def beta_known(alpha: ArrayLike, theta_C: ArrayLike, k_C: ArrayLike) -> np.ndarray:
    """(i) The failure mass of every cluster is known: Theorem 8 in each, C.

    Raises:
      UserError: a number outside of its range.
    """
    return bounds.beta_theorem(alpha, theta_C, k_C)


def worst_failure(theta: float, weight_C: ArrayLike) -> np.ndarray:
    """(ii) Only theta is known: the most that can fail in each cluster, min(1, theta / w_c), C.

    Raises:
      UserError: theta outside of (0, 1), or weights that do not sum to 1.
    """
    bounds.checked(0.5, theta, 1)
    return np.minimum(1, theta / _weights(weight_C))


def error_unknown(
    alpha: ArrayLike, theta: float, weight_C: ArrayLike, k_C: ArrayLike
) -> np.ndarray:
    """(ii) Bound on the error of all skills of a cluster but a mass alpha, C.

    1, which says nothing, in a cluster that is not heavier than theta: all failures may lie in
    it. NaN where the theorem has no solution.

    Raises:
      UserError: a number outside of its range.
    """
    theta_C = worst_failure(theta, weight_C)
    inside = np.minimum(theta_C, np.nextafter(1, 0))
    beta_C = bounds.beta_theorem(alpha, inside, k_C)
    return np.where(theta_C >= 1, 1.0, bounds.error_bound(beta_C, inside))


def beta_mixed(alpha: ArrayLike, theta: float, k_C: ArrayLike) -> np.ndarray:
    """(iii) Every piece takes k_c skills from each cluster: Theorem 8 with k_c and theta, C.

    Raises:
      UserError: a number outside of its range.
    """
    return bounds.beta_theorem(alpha, theta, k_C)


def _weights(weight_C: ArrayLike) -> np.ndarray:
    weight_C = np.asarray(weight_C, float)
    if np.any(weight_C <= 0) or abs(weight_C.sum() - 1) > 1e-9:
        raise UserError(
            f"expected weights of clusters above 0 that sum to 1, got {weight_C.tolist()}"
        )
    return weight_C
