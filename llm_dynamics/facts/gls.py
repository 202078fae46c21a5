"""The line of forgetting, R = intercept + slope log10 t, fitted so that its steps may depend on
each other: log-binned averages, or generalised least squares with AR(1) errors.

Every fit is linear in the curve once its autocorrelation is chosen, so it is one matrix that maps
all replicates of a curve at once. The interval to use is the bootstrap's over facts. It covers as
it says for every line here when the lag at which t begins is known beforehand. Log bins and GLS
are then the more precise, but they lean on the first steps, and with a lag chosen from the same
scores their intervals no longer hold the truth; those of the unweighted line still do, so it is
the default (docs/statistics.md). The standard errors of `LineFit` know the noise along one curve
alone and not that other facts would have had another curve: with AR(1) errors they are several
times the published ones and still too small.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from llm_dynamics.facts.log_bins import log_bins
from llm_dynamics.facts.statistics import Estimate

Method = Literal["binned", "gls", "ols"]
METHODS: tuple[Method, ...] = ("binned", "gls", "ols")
DEFAULT: Method = "ols"

_LARGEST_RHO = 0.9999


@dataclass(frozen=True)
class LineFit:
    """A line and the covariance of its coefficients given the autocorrelation of one curve.

    Attributes:
      slope, intercept: change of R per decade, and R at t = 1; a = -slope.
      covariance_2x2: of (slope, intercept).
      rho: autocorrelation of neighbouring points; 0 for least squares.
      freedom: degrees of freedom of the residual.
    """

    slope: float
    intercept: float
    covariance_2x2: np.ndarray
    rho: float
    freedom: int

    @property
    def a(self) -> float:
        return -self.slope

    @property
    def stderr(self) -> float:
        """Of the slope."""
        return math.sqrt(self.covariance_2x2[0, 0])

    @property
    def x_intercept(self) -> float:
        """log10 of the time at which the line reaches 0; infinite where it does not fall."""
        return -self.intercept / self.slope if self.slope < 0 else math.inf

    @property
    def x_stderr(self) -> float:
        """Of the x-intercept, by the delta method; infinite where it does not exist."""
        if not self.slope < 0:
            return math.inf
        gradient = np.array([self.x_intercept, 1.0]) / -self.slope
        return math.sqrt(gradient @ self.covariance_2x2 @ gradient)

    def half_width(self, stderr: float, level: float = 0.95) -> float:
        """Half of the interval that a standard error stands for."""
        return float(stats.t.ppf((1 + level) / 2, self.freedom)) * stderr


def autocorrelation(t_T: np.ndarray, curve_T: np.ndarray) -> float:
    """AR(1) coefficient of the errors around the line, by iterated feasible GLS (statsmodels).

    Args:
      t_T: evenly spaced times of at least 1.
      curve_T: finite values.

    Returns:
      Between 0 and 0.9999; biased downwards for short curves, as every such estimate is. 0 for a
      curve that is a line.

    Raises:
      ValueError: fewer than five times, or uneven ones.
    """
    from statsmodels.regression.linear_model import GLSAR  # takes seconds and brings pandas

    t_T, curve_T = np.asarray(t_T, float), np.asarray(curve_T, float)
    if t_T.size < 5 or t_T[0] < 1 or not np.allclose(np.diff(t_T), t_T[1] - t_T[0]):
        raise ValueError("expected at least five evenly spaced times of at least 1")
    design_Tx2 = _design(np.log10(t_T))
    residual_T = curve_T - design_Tx2 @ np.linalg.lstsq(design_Tx2, curve_T, rcond=None)[0]
    if np.abs(residual_T).max() <= 1e-12 * np.abs(curve_T).max():
        return 0.0
    model = GLSAR(curve_T, design_Tx2, rho=1)
    model.iterative_fit(maxiter=20)
    rho = float(np.squeeze(model.rho))
    return min(max(rho, 0.0), _LARGEST_RHO) if math.isfinite(rho) else 0.0


def coefficients_of_curve(t_T: np.ndarray, method: Method = DEFAULT, rho: float = 0.0):
    """The matrix that maps a curve to (slope, intercept), 2 x T.

    Args:
      t_T: at least two different times of at least 1; evenly spaced for "gls".
      method: "binned" averages within steps of log10 t, then ordinary least squares over bins;
        "gls" whitens AR(1) errors, first point kept (Prais and Winsten 1954); "ols" takes every
        point for independent, as published.
      rho: for "gls", from `autocorrelation`.

    Raises:
      ValueError: times that determine no line, or an unknown method.
    """
    t_T = np.asarray(t_T, float)
    if t_T.min(initial=1) < 1 or len(np.unique(t_T)) < 2:
        raise ValueError("expected at least two different times, all of at least 1")
    if method == "binned":
        bins = log_bins(t_T)
        if len(bins.log_t_B) < 2:
            raise ValueError("expected times in at least two bins of log10 t")
        return np.linalg.pinv(_design(bins.log_t_B)) @ bins.average_BxT
    if method not in METHODS:
        raise ValueError(f"expected one of {', '.join(METHODS)}, got {method!r}")
    rho = rho if method == "gls" else 0.0
    solve_2xT = np.linalg.pinv(_whitened(_design(np.log10(t_T)), rho))
    map_2xT = solve_2xT.copy()
    map_2xT[:, 0] *= math.sqrt(1 - rho**2)
    map_2xT[:, :-1] -= rho * solve_2xT[:, 1:]
    return map_2xT


def fit_line(t_T: np.ndarray, curve_T: np.ndarray, method: Method = DEFAULT) -> LineFit:
    """The line through one curve with the standard errors of that method.

    Raises:
      ValueError: values that are not finite, or as `coefficients_of_curve`, `autocorrelation`.
    """
    t_T, curve_T = np.asarray(t_T, float), np.asarray(curve_T, float)
    if not np.isfinite(curve_T).all():
        raise ValueError("expected finite values to fit a line to")
    rho = autocorrelation(t_T, curve_T) if method == "gls" else 0.0
    slope, intercept = coefficients_of_curve(t_T, method, rho) @ curve_T
    if method == "binned":
        bins = log_bins(t_T)
        design, target = _design(bins.log_t_B), bins.average_BxT @ curve_T
    else:
        design, target = (_whitened(x, rho) for x in (_design(np.log10(t_T)), curve_T))
    residual = target - design @ np.array([slope, intercept])
    freedom = max(len(target) - 2, 1)
    covariance_2x2 = residual @ residual / freedom * np.linalg.inv(design.T @ design)
    return LineFit(float(slope), float(intercept), covariance_2x2, rho, freedom)


def line_estimate(curve: Estimate, offsets_T: np.ndarray, method: Method = DEFAULT) -> Estimate:
    """Slope and intercept in every replicate, R x 2, over offsets of at least 1.

    The autocorrelation of "gls" is that of the data in all replicates.

    Raises:
      ValueError: as `coefficients_of_curve`.
    """
    later_T = np.asarray(offsets_T) >= 1
    t_T = np.asarray(offsets_T)[later_T]
    rho = autocorrelation(t_T, curve.draws_RxT[0, later_T]) if method == "gls" else 0.0
    map_2xT = coefficients_of_curve(t_T, method, rho)
    return curve.then(lambda draws_RxT: draws_RxT[:, later_T] @ map_2xT.T)


def _design(x_T: np.ndarray) -> np.ndarray:
    return np.stack([x_T, np.ones_like(x_T)], axis=1)


def _whitened(values_Txn: np.ndarray, rho: float) -> np.ndarray:
    """Evenly spaced points whose stationary AR(1) errors are made independent, first one kept."""
    white_Txn = values_Txn.copy()
    white_Txn[1:] -= rho * values_Txn[:-1]
    white_Txn[0] *= math.sqrt(1 - rho**2)
    return white_Txn
