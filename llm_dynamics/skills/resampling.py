"""Intervals over questions that come in groups: resampled groups, and shares with Wilson's.

Questions about one person or passage are right or wrong together, so groups are drawn, not
questions. Where every question is a group of its own this is the ordinary bootstrap.

Axes: T questions, R resamples (the first is the sample itself).
"""

import math

import numpy as np
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from llm_dynamics.results import Interval

_ENDS = (0.025, 0.975)
_KNOWN = 0.9  # share of the resamples that must have a number


def weights(group_T: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """How often each question is in each resample, R x T; ones in the first row."""
    groups = int(group_T.max()) + 1
    rng = np.random.default_rng(seed)
    drawn_RxG = rng.multinomial(groups, np.full(groups, 1 / groups), size=resamples)
    return np.vstack([np.ones(groups), drawn_RxG])[:, group_T].astype(np.float32)


def mean(weights_RxT: np.ndarray, value_T: np.ndarray) -> np.ndarray:
    """The mean over questions in every resample; NaN where none of them is drawn."""
    above_R, below_R = weights_RxT @ value_T.astype(float), weights_RxT.sum(axis=1, dtype=float)
    return np.divide(above_R, below_R, out=np.full(len(below_R), np.nan), where=below_R > 0)


def interval(draws_R: np.ndarray) -> tuple[Interval, str]:
    """Value and percentile interval (95 %) of the resamples, and why it is none if it is.

    Infinite draws are in order with the others: an end may be infinite.
    """
    value, rest = float(draws_R[0]), np.sort(draws_R[1:][~np.isnan(draws_R[1:])])
    low = high = math.nan
    why = ""
    if math.isnan(value):
        pass
    elif len(rest) < max(_KNOWN * (len(draws_R) - 1), 2):
        why = f"no interval: only {len(rest)} of {len(draws_R) - 1} resamples have a number"
    elif rest[0] == rest[-1]:
        why = "no interval: all resamples agree"
    else:
        low = rest[math.floor(_ENDS[0] * (len(rest) - 1))]
        high = rest[math.ceil(_ENDS[1] * (len(rest) - 1))]
    return Interval(*(np.array([x]) for x in (value, low, high))), why


def share(right_T: np.ndarray, group_T: np.ndarray) -> tuple[Interval, int]:
    """A share and Wilson's interval (95 %) for as many questions as their groups are worth.

    The effective number is p (1 - p) over the variance between groups (Korn & Graubard 1998), at
    most T; where all are right, or all wrong, it is the number of groups.

    Returns:
      The share, NaN without questions, and the number of groups.
    """
    total = len(right_T)
    if not total:
        return Interval(*(np.array([math.nan]) for _ in range(3))), 0
    _, group_T = np.unique(group_T, return_inverse=True)
    groups, p = int(group_T.max()) + 1, float(right_T.mean())
    effective = float(groups)
    if groups < total and 0 < p < 1 and groups > 1:
        rest_G = np.bincount(group_T, right_T - p)
        variance = (rest_G**2).sum() / total**2 * groups / (groups - 1)
        effective = min(p * (1 - p) / variance, total) if variance else float(total)
    low, high = proportion_confint(p * effective, effective, method="wilson")
    return Interval(*(np.array([float(x)]) for x in (p, low, high))), groups


def spread(rest_T: np.ndarray, group_T: np.ndarray) -> tuple[float, int]:
    """The standard error of a mean over questions from its residuals, and the number of groups.

    Residuals are summed by group; they have mean 0. NaN for a single group.
    """
    _, group_T = np.unique(group_T, return_inverse=True)
    rest_G = np.bincount(group_T, rest_T)
    groups = len(rest_G)
    if groups < 2:
        return math.nan, groups
    variance = (rest_G**2).sum() * groups / (groups - 1)
    return math.sqrt(variance) / len(rest_T), groups


def ends_of(
    value: float, error: float, groups: int, most: int, level: float = 0.95
) -> tuple[float, float]:
    """Wilson's interval of a share, or a ratio like one, whose standard error over groups is known.

    The effective number is at most `most`, and less for few groups by Student's t (Korn & Graubard
    1998); without any spread it is the number of groups. NaN where the error is.
    """
    if math.isnan(error):
        return math.nan, math.nan
    effective = float(groups)
    if error and 0 < value < 1:
        tail = 0.5 + level / 2
        fewer = (stats.norm.ppf(tail) / stats.t.ppf(tail, groups - 1)) ** 2
        effective = min(value * (1 - value) / error**2, most) * fewer
    low, high = proportion_confint(value * effective, effective, 1 - level, method="wilson")
    return float(low), float(high)


def difference(above: Interval, below: Interval) -> Interval:
    """The difference of two numbers from their intervals, of independent samples.

    Each end is as far from the difference as the ends of both together (MOVER: Zou & Donner 2008).
    """
    value = above.value - below.value
    down = np.hypot(above.value - above.low, below.high - below.value)
    up = np.hypot(above.high - above.value, below.value - below.low)
    return Interval(value, value - down, value + up)


def power(x: Interval, k: int, value: float) -> Interval:
    """An interval about a product of k numbers like x, as if all were at the ends of x together."""
    if not x.value[0]:
        return Interval(np.array([value]), x.low**k, x.high**k)
    return Interval(np.array([value]), *(value * (end / x.value) ** k for end in x[1:]))
