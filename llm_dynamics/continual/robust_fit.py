"""Fits of laws of the loss: Huber's loss of log residuals, bounded, from several fixed starts.

Residuals on the log weigh a loss of 2 and one of 9 alike, and Huber's loss keeps a spike at the
beginning of a stage from deciding the fit (as in Hoffmann et al. 2022, arXiv:2203.15556).
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy import optimize

from llm_dynamics.errors import UserError

DELTA = 1e-3  # of Huber's loss, in log loss
_TINY = 1e-9  # keeps the log of a predicted loss defined while parameters are searched


def fit(
    law: Callable[[np.ndarray], np.ndarray],
    losses_S: np.ndarray,
    starts: Sequence[Sequence[float]],
    low: Sequence[float],
    high: Sequence[float],
    weight_S: np.ndarray | None = None,
    gradient: Callable[[np.ndarray], np.ndarray] | None = None,
    evaluations: int = 150,
) -> tuple[np.ndarray, float]:
    """The best parameters of all starts, and their cost.

    Args:
      law: parameters to S predicted losses.
      losses_S: measured, above 0.
      starts: parameters to search from; moved inside of the bounds.
      low, high: bounds.
      weight_S: how often each point counts; None = once.
      gradient: parameters to the derivatives of the law, of S points by parameters; None = by
        differences.
      evaluations: of the law at most, from each start.

    Raises:
      UserError: losses that are not above 0.
    """
    losses_S = np.asarray(losses_S, float)
    check_losses(losses_S)
    root_S = np.ones(len(losses_S)) if weight_S is None else np.sqrt(weight_S)
    target_S = np.log(losses_S)
    low, high = np.asarray(low, float), np.asarray(high, float)

    def residual(theta):
        return root_S * (np.log(np.maximum(law(theta), _TINY)) - target_S)

    def slope(theta):
        predicted_S = np.maximum(law(theta), _TINY)
        return gradient(theta) * (root_S / predicted_S)[:, None]

    best, cost = None, np.inf
    for start in starts:
        inside = np.clip(start, low + 1e-9, high - 1e-9)
        found = optimize.least_squares(
            residual,
            inside,
            jac="2-point" if gradient is None else slope,
            bounds=(low, high),
            loss="huber",
            f_scale=DELTA,
            x_scale="jac",
            max_nfev=evaluations,
        )
        if found.cost < cost:
            best, cost = found.x, float(found.cost)
    return best, cost


def check_losses(losses: np.ndarray) -> None:
    """Refuses losses that no law of this room describes.

    Raises:
      UserError: one that is not finite or not above 0.
    """
    losses = np.asarray(losses, float)
    if not losses.size or not (np.isfinite(losses).all() and (losses > 0).all()):
        raise UserError(
            "expected losses that are finite and above 0, got "
            f"{losses[~(np.isfinite(losses) & (losses > 0))].ravel()[:3]}; leave out runs that "
            "did not end or diverged"
        )


def check_share(share: float, name: str = "share") -> None:
    """Refuses what is no share.

    Raises:
      UserError: outside of [0, 1].
    """
    if not 0 <= share <= 1:
        raise UserError(
            f"expected {name} as a fraction between 0 and 1, got {share}; 5 % is written 0.05"
        )
