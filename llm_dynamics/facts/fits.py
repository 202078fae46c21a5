"""The published law of forgetting, R = intercept - a log10 t (Chang et al. 2024, Eq. 4)."""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LogDecay:
    """A straight line of retainability on log10 of time.

    Attributes:
      a: share of the gain lost per factor of ten; positive when it is forgotten.
      intercept: R at t = 1.
      x_intercept: log10 of the time at which the line reaches 0; None for a line without slope.
      r2: 1 - residual over total sum of squares; None for a constant curve.
      stderr: standard error of a with n - 2 degrees of freedom, the published +/-. It takes the
        steps of one curve for independent, so it is several times too small; None for n = 2.
      n: points.
      last: log10 of the last t of the data, to tell whether x_intercept lies beyond it.
    """

    a: float
    intercept: float
    x_intercept: float | None
    r2: float | None
    stderr: float | None
    n: int
    last: float

    @property
    def extrapolated(self) -> bool:
        """Whether the zero crossing lies outside the data."""
        return self.x_intercept is None or not 0 <= self.x_intercept <= self.last


def fit_log_decay(t_T: np.ndarray, curve_T: np.ndarray) -> LogDecay:
    """Ordinary, unweighted least squares over every given t >= 1.

    Raises:
      ValueError: fewer than two different times, a time below 1, or a value that is not finite.
    """
    t_T, curve_T = np.asarray(t_T, float), np.asarray(curve_T, float)
    if not np.isfinite(curve_T).all():
        raise ValueError("expected finite values to fit a line to")
    slope, intercept = (float(v) for v in line_coefficients(t_T, curve_T))
    x_T = np.log10(t_T)
    residual = float(((curve_T - intercept - slope * x_T) ** 2).sum())
    total = float(((curve_T - curve_T.mean()) ** 2).sum())
    n = len(t_T)
    spread = float(((x_T - x_T.mean()) ** 2).sum())
    return LogDecay(
        a=-slope,
        intercept=intercept,
        x_intercept=-intercept / slope if slope else None,
        r2=1 - residual / total if total else None,
        stderr=math.sqrt(residual / (n - 2) / spread) if n > 2 else None,
        n=n,
        last=float(x_T.max()),
    )


def line_coefficients(t_T: np.ndarray, curves_RxT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slope and intercept on log10 t of many curves at once; leading axes are kept."""
    t_T = np.asarray(t_T, float)
    if t_T.min(initial=1) < 1 or len(np.unique(t_T)) < 2:
        raise ValueError("expected at least two different times, all of at least 1")
    x_T = np.log10(t_T)
    centred_T = x_T - x_T.mean()
    slope = curves_RxT @ (centred_T / (centred_T @ centred_T))
    return slope, curves_RxT.mean(axis=-1) - slope * x_T.mean()
