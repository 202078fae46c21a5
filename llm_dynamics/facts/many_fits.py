"""Bounded nonlinear least squares of one small model on many replicates of the data at once.

`scipy.optimize.least_squares` fits one at a time and spends most of its time in bookkeeping; this
is Levenberg and Marquardt's method with the same replicates advanced together.

Axes: R replicates, Q parameters, B residuals.
"""

from collections.abc import Callable

import numpy as np

_STEPS = 60
_TOLERANCE = 1e-7  # relative fall of the sum of squares below which a replicate has converged
_NUDGE = 1e-6
_STUCK = 1e10


def fit_many(
    residuals: Callable[[np.ndarray, np.ndarray], np.ndarray],
    start_RxQ: np.ndarray,
    low_Q: np.ndarray,
    high_Q: np.ndarray,
) -> np.ndarray:
    """The parameters of least squares in every replicate, R x Q.

    Args:
      residuals: of (parameters_NxQ, replicate_N) -> N x B, for any rows of parameters, each with
        the replicate whose data it is to be compared with.
      start_RxQ: within the bounds.
      low_Q, high_Q: bounds; may be infinite.
    """
    x_RxQ = np.clip(start_RxQ, low_Q, high_Q).astype(float)
    damping_R = np.full(len(x_RxQ), 1e-3)
    residual_RxB = residuals(x_RxQ, np.arange(len(x_RxQ)))
    cost_R = np.square(residual_RxB).sum(1)
    active = np.arange(len(x_RxQ))
    for _ in range(_STEPS):
        x_AxQ = x_RxQ[active]
        slope_AxBxQ = _jacobian(residuals, x_AxQ, active, residual_RxB[active], high_Q)
        pull_AxQ = -np.einsum("abq,ab->aq", slope_AxBxQ, residual_RxB[active])
        # A parameter on a bound that would be pushed across it stays there in this step.
        held_AxQ = ((x_AxQ <= low_Q) & (pull_AxQ < 0)) | ((x_AxQ >= high_Q) & (pull_AxQ > 0))
        slope_AxBxQ = np.where(held_AxQ[:, None], 0, slope_AxBxQ)
        normal_AxQxQ = np.einsum("abq,abp->aqp", slope_AxBxQ, slope_AxBxQ)
        diagonal_AxQ = np.einsum("aqq->aq", normal_AxQxQ)
        scale_AxQ = damping_R[active, None] * diagonal_AxQ + 1e-12 + held_AxQ
        normal_AxQxQ = normal_AxQxQ + scale_AxQ[:, :, None] * np.eye(x_RxQ.shape[1])
        step_AxQ = np.linalg.solve(normal_AxQxQ, np.where(held_AxQ, 0, pull_AxQ)[..., None])[..., 0]
        tried_AxQ = np.clip(x_AxQ + step_AxQ, low_Q, high_Q)
        residual_AxB = residuals(tried_AxQ, active)
        cost_A = np.square(residual_AxB).sum(1)
        better_A = cost_A < cost_R[active]
        done_A = better_A & (cost_R[active] - cost_A <= _TOLERANCE * cost_R[active])
        damping_R[active] *= np.where(better_A, 0.2, 5.0)
        done_A |= damping_R[active] > _STUCK
        won = active[better_A]
        x_RxQ[won], cost_R[won] = tried_AxQ[better_A], cost_A[better_A]
        residual_RxB[won] = residual_AxB[better_A]
        active = active[~done_A]
        if not active.size:
            break
    return x_RxQ


def _jacobian(residuals, x_AxQ, replicate_A, residual_AxB, high_Q) -> np.ndarray:
    """Forward differences, backward at an upper bound; A x B x Q."""
    count, size = x_AxQ.shape
    step_AxQ = _NUDGE * np.maximum(np.abs(x_AxQ), 0.1)
    step_AxQ = np.where(x_AxQ + step_AxQ > high_Q, -step_AxQ, step_AxQ)
    moved_QxAxQ = x_AxQ + np.eye(size)[:, None] * step_AxQ
    moved_QxAxB = residuals(
        moved_QxAxQ.reshape(size * count, size), np.tile(replicate_A, size)
    ).reshape(size, count, -1)
    return (moved_QxAxB - residual_AxB).transpose(1, 2, 0) / step_AxQ[:, None]
