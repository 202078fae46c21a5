"""The weakest skills of a model against what the theory lets them be.

Whatever texts a model fails, the failures cannot gather on too many skills: the error of the worst
skills of measure alpha is at most beta_exact(alpha; theta, k) theta, and that is at most what the
theorem allows.
The weakest skills are named on one half of the texts and measured on the other, since the worst of
many noisy errors would look worse than they are.
"""

import dataclasses
import math

import numpy as np

from llm_dynamics.errors import UserError
from llm_dynamics.skills import bounds, resampling
from llm_dynamics.skills.outcomes import NO_SKILL, Outcomes

_LEVEL = 0.999  # two-sided: a study looks at hundreds of these
_Z = 3.29  # of that
_Z_95 = 1.96
_ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True)
class Weakest:
    """The weakest skills of a measure, and their bounds.

    Attributes:
      asked: the alpha that was asked for.
      alpha: the measure that they have.
      theta: share of failed texts.
      error: share of their edges to failed texts, and
      low: the lower end of its 99.9 % interval over texts, or groups of them.
      ends: of its 95 % interval.
      exact: the largest error that any set of failed texts can give them.
      exact_high: the same at the upper end of theta's 99.9 % interval.
      theorem: Theorem 8's bound on it, 1 where it says nothing.
      random: expected where failures have nothing to do with skills: theta itself.
      k: skills of a text.
    """

    asked: float
    alpha: float
    theta: float
    error: float
    low: float
    ends: tuple[float, float]
    exact: float
    exact_high: float
    theorem: float
    random: float
    k: int

    @property
    def violated(self) -> bool:
        """Whether the error is above the exact bound beyond the intervals of both."""
        return self.low > self.exact_high + _ROUNDING

    @property
    def adversariality(self) -> float:
        """(error - theta) / (exact - theta): 0 as if at random, 1 as if by the worst adversary."""
        room = self.exact - self.theta
        return (self.error - self.theta) / room if room > 0 else math.nan


def weakest(
    outcomes: Outcomes, alpha: float, measure_S: np.ndarray, groups_T: np.ndarray | None = None
) -> Weakest:
    """Measures the weakest skills of measure at least `alpha`.

    Args:
      outcomes: of texts of one number of skills, drawn i.i.d.; held-out pairs would break that.
      alpha: between 0 and 1.
      measure_S: of every skill.
      groups_T: of the texts; those of one group fail together, and intervals rest on groups. None =
        texts are independent of each other.

    Raises:
      UserError: alpha outside (0, 1), or texts of several sizes.
    """
    if not 0 < alpha < 1:
        raise UserError(f"expected alpha between 0 and 1, got {alpha}")
    if (outcomes.skills_TxK == NO_SKILL).any():
        raise UserError("expected texts of one number of skills; ask of each size by itself")
    name, look = outcomes.halves()
    order_S = np.argsort(-np.nan_to_num(name.error_S, nan=-1.0), kind="stable")
    reach = np.searchsorted(np.cumsum(measure_S[order_S]), alpha * (1 - 1e-12))
    chosen = order_S[: reach + 1]
    mass, k = float(measure_S[chosen].sum()), outcomes.skills_TxK.shape[1]
    in_T = np.isin(look.skills_TxK, chosen).sum(axis=1)
    theta = outcomes.theta
    if groups_T is None:
        error, spread = _ratio(in_T * look.failed_T, in_T)
        low = error - _Z * spread
        ends = (max(error - _Z_95 * spread, 0.0), min(error + _Z_95 * spread, 1.0))
        half = _Z * math.sqrt(max(theta * (1 - theta), 1 / len(outcomes)) / len(outcomes))
        theta_high = min(theta + half, 1.0)
    else:
        error, *known = _ratio_of_groups(in_T * look.failed_T, in_T, groups_T[1::2])
        low, _ = resampling.ends_of(error, *known, level=_LEVEL)
        ends = resampling.ends_of(error, *known)
        spread, groups = resampling.spread(outcomes.failed_T - theta, groups_T)
        _, theta_high = resampling.ends_of(theta, spread, groups, len(outcomes), _LEVEL)
    return Weakest(
        asked=alpha,
        alpha=mass,
        theta=theta,
        error=error,
        low=low,
        ends=ends,
        exact=exact_error(mass, theta, k),
        exact_high=exact_error(mass, theta_high, k),
        theorem=theorem_error(mass, theta, k),
        random=theta,
        k=k,
    )


def exact_error(alpha: float, theta: float, k: int) -> float:
    """The largest error that skills of measure alpha can have; 0 and 1 at the ends of theta."""
    if theta <= 0 or theta >= 1 or alpha >= 1:
        return float(min(max(theta, 0.0), 1.0))
    return min(1.0, float(bounds.beta_exact(alpha, theta, k)) * theta)


def theorem_error(alpha: float, theta: float, k: int) -> float:
    """The error that Theorem 8 allows them; 1 where it has no solution or says nothing."""
    if theta <= 0 or theta >= 1 or alpha >= 1:
        return float(min(max(theta, 0.0), 1.0)) if theta <= 0 else 1.0
    beta = float(bounds.beta_theorem(alpha, theta, k))
    return 1.0 if math.isnan(beta) else min(1.0, beta * theta)


def _ratio(above_T: np.ndarray, below_T: np.ndarray) -> tuple[float, float]:
    """A ratio of means over texts and its standard error (linearised)."""
    mean = below_T.mean()
    if not mean:
        return math.nan, math.nan
    value = above_T.mean() / mean
    rest_T = (above_T - value * below_T) / mean
    return float(value), float(rest_T.std(ddof=1) / math.sqrt(len(rest_T)))


def _ratio_of_groups(
    above_T: np.ndarray, below_T: np.ndarray, groups_T: np.ndarray
) -> tuple[float, float, int, int]:
    """The ratio, its standard error over groups, and how many groups and texts it rests on."""
    there_T = below_T > 0
    if not there_T.any():
        return math.nan, math.nan, 0, 0
    above_T, below_T = above_T[there_T], below_T[there_T]
    value = above_T.sum() / below_T.sum()
    rest_T = (above_T - value * below_T) / below_T.mean()
    return float(value), *resampling.spread(rest_T, groups_T[there_T]), len(rest_T)
