"""Intervals by resampling facts: the probes of one passage are not independent of each other.

Axes: K facts of an arm, T points of a curve, R replicates; replicate 0 is the data as they are,
the others are bootstrap resamples. How often each fact of an arm occurs in each replicate is drawn
once, so all numbers of a study can be subtracted and divided replicate by replicate: depths of one
arm stay paired, arms are independent. Means over probes are weighted sums, so a thousand resamples
of a whole curve are one matrix product (`scipy.stats.bootstrap` would gather gigabytes).
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats


class Interval(NamedTuple):
    """A value and its interval: arrays over T points, NaN where there is none."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Estimate:
    """A number, or a curve, in every replicate.

    Attributes:
      draws_RxT: values; NaN where a replicate has none (a ratio of 0 by 0).
      facts: arm -> number of its facts, for every arm it depends on.
    """

    draws_RxT: np.ndarray
    facts: Mapping[str, int]

    def __sub__(self, other: "Estimate") -> "Estimate":
        return Estimate(self.draws_RxT - other.draws_RxT, {**self.facts, **other.facts})

    def __truediv__(self, other: "Estimate") -> "Estimate":
        with np.errstate(invalid="ignore", divide="ignore"):
            draws_RxT = self.draws_RxT / other.draws_RxT
        return Estimate(draws_RxT, {**self.facts, **other.facts})

    def then(self, function: Callable[[np.ndarray], np.ndarray]) -> "Estimate":
        """The estimate after a function of R x T."""
        return Estimate(function(self.draws_RxT), self.facts)

    @property
    def n(self) -> int:
        """Facts of the smallest arm it depends on."""
        return min(self.facts.values())

    def interval(self, level: float = 0.95) -> Interval:
        """The value of the data and the interval of the resamples.

        Percentiles, widened for few facts so that the interval of a mean of K facts gets the width
        of Student's t (Hesterberg 2015, The American Statistician 69:371, Sec. 5.3).

        Args:
          level: nominal coverage.
        """
        value_T, resampled_RxT = self.draws_RxT[0], self.draws_RxT[1:]
        if self.n < 2 or not len(resampled_RxT):
            return Interval(value_T, *np.full((2, *value_T.shape), np.nan))
        factor = np.sqrt(self.n / (self.n - 1))
        tail = stats.norm.cdf(factor * stats.t.ppf((1 - level) / 2, self.n - 1))
        # "nearest" keeps infinite ends, which are answers; what does not exist sorts last.
        exists_T = (~np.isnan(resampled_RxT)).sum(axis=0)
        ordered_TxR = np.sort(np.ascontiguousarray(resampled_RxT.T), axis=1)
        ends = [np.rint(q * np.maximum(exists_T - 1, 0)).astype(int) for q in (tail, 1 - tail)]
        low_T, high_T = (np.take_along_axis(ordered_TxR, e[:, None], axis=1)[:, 0] for e in ends)
        return Interval(value_T, low_T, high_T)


def replicate_weights(facts: Mapping[str, int], seed: int, resamples: int) -> dict[str, np.ndarray]:
    """How often each fact counts in each replicate, R x K by arm.

    A function of the arm's name and size, the seed and R alone, not of the other arms.
    """
    weights = {}
    for arm, count in facts.items():
        generator = np.random.default_rng([seed, count, zlib.crc32(arm.encode())])
        drawn = generator.multinomial(count, np.full(count, 1 / count), size=resamples)
        weights[arm] = np.concatenate([np.ones((1, count)), drawn])
    return weights


def mean_over_probes(
    values_TxP: np.ndarray,
    fact_P: Sequence[str],
    arm: str,
    weights_RxK: np.ndarray,
    kept_TxP: np.ndarray | None = None,
) -> Estimate:
    """Mean over the kept probes of one arm in every replicate.

    Args:
      values_TxP: or P values.
      fact_P: facts take the columns of the weights in the order of their names.
      arm: whose facts they are.
      weights_RxK: of that arm, from `replicate_weights`.
      kept_TxP: 1 where a value counts; None = everywhere. Kept as in the data in all replicates.
    """
    values_TxP = np.atleast_2d(values_TxP)
    facts, index_P = np.unique(np.asarray(fact_P), return_inverse=True)
    if len(facts) != weights_RxK.shape[1]:
        raise ValueError(f"expected {weights_RxK.shape[1]} facts of {arm}, got {len(facts)}")
    member_PxK = np.eye(len(facts))[index_P]
    if kept_TxP is None:
        total_KxT = (values_TxP @ member_PxK).T
        count_KxT = member_PxK.sum(0)[:, None]
    else:
        kept_TxP = np.atleast_2d(kept_TxP)
        total_KxT = ((values_TxP * kept_TxP) @ member_PxK).T
        count_KxT = (kept_TxP @ member_PxK).T
    with np.errstate(invalid="ignore", divide="ignore"):
        draws_RxT = (weights_RxK @ total_KxT) / (weights_RxK @ count_KxT)
    return Estimate(draws_RxT, {arm: len(facts)})
