"""Intervals by resampling facts, and the runs they were measured in.

The probes of one passage are not independent of each other, nor are the steps of one curve; facts
are. A resampled fact brings its whole curve, so autocorrelation in time needs no model.

Axes: K facts of an arm, T points of a curve, R replicates; replicate 0 is the data as they are,
the others are bootstrap resamples. How often each fact of an arm occurs in each replicate is drawn
once, so all numbers of a study can be subtracted and divided replicate by replicate: depths of one
arm stay paired, arms are independent. Means over probes are weighted sums, so a thousand resamples
of a whole curve are one matrix product (`scipy.stats.bootstrap` would gather gigabytes).

One run says nothing of how runs differ: its intervals hold for other facts in that same run. What
all probes of the run share cancels in a difference to the control when the measure is linear in
the scores. With several independent runs ("seeds") their intervals hold for other runs as well. A
replicate then draws runs with replacement, the same for all arms, and facts within each drawn run.
That alone counts the variation of facts twice, and a percentile of few runs is too narrow; both
are mended in `Estimate.interval` with the last fifth of the replicates, which keep the runs and
resample facts alone. Facts are taken to be nested in runs: one passage measured in several runs
counts as several facts. Coverage by simulation is in docs/statistics.md: below five runs the
variation between runs is poorly determined, and intervals are too narrow where it is large.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from llm_dynamics.errors import UserError
from llm_dynamics.results import Interval


@dataclass(frozen=True)
class Estimate:
    """A number, or a curve, in every replicate.

    Attributes:
      draws_RxT: values; NaN where a replicate has none (a ratio of 0 by 0).
      facts: arm -> number of its facts, for every arm it depends on, all seeds together.
      seeds: independent runs that the facts were measured in.
    """

    draws_RxT: np.ndarray
    facts: Mapping[str, int]
    seeds: int = 1

    def __sub__(self, other: "Estimate") -> "Estimate":
        return self._with(other, self.draws_RxT - other.draws_RxT)

    def __truediv__(self, other: "Estimate") -> "Estimate":
        with np.errstate(invalid="ignore", divide="ignore"):
            draws_RxT = self.draws_RxT / other.draws_RxT
        return self._with(other, draws_RxT)

    def then(self, function: Callable[[np.ndarray], np.ndarray]) -> "Estimate":
        """The estimate after a function of R x T."""
        return Estimate(function(self.draws_RxT), self.facts, self.seeds)

    def thinned(self, resamples: int) -> "Estimate":
        """Fewer resamples, for what is slow to compute in each; the data stay the first."""
        count = len(self.draws_RxT) - 1
        if resamples >= count:
            return self
        alone = facts_alone(resamples) if self.seeds > 1 else 0
        rows = np.r_[0 : resamples - alone + 1, count - alone + 1 : count + 1]
        return Estimate(self.draws_RxT[rows], self.facts, self.seeds)

    @property
    def n(self) -> int:
        """Facts of the smallest arm it depends on."""
        return min(self.facts.values())

    @property
    def sample(self) -> str:
        """What was resampled, for the note of a result; empty for one run."""
        if self.seeds == 1:
            return ""
        few = "; fewer than 5: how runs differ is poorly determined" if self.seeds < 5 else ""
        return f"{self.n} facts in {self.seeds} independent runs{few}"

    def interval(self, level: float = 0.95) -> Interval:
        """The value of the data and the interval of the resamples.

        Percentiles, widened for few facts so that the interval of a mean of K facts gets the width
        of Student's t (Hesterberg 2015, The American Statistician 69:371, Sec. 5.3). With several
        seeds the width is that of the two variances added, at the degrees of freedom of
        Satterthwaite 1946; it cannot exceed the range of the resamples.

        Args:
          level: nominal coverage.
        """
        value_T, resampled_RxT = self.draws_RxT[0], self.draws_RxT[1:]
        if self.n < 2 or not len(resampled_RxT):
            return Interval(value_T, *np.full((2, *value_T.shape), np.nan))
        if self.seeds == 1:
            factor = np.sqrt(self.n / (self.n - 1))
            z_T = np.full(value_T.shape, factor * stats.t.ppf((1 - level) / 2, self.n - 1))
        else:
            split = len(resampled_RxT) - facts_alone(len(resampled_RxT))
            resampled_RxT, within_RxT = resampled_RxT[:split], resampled_RxT[split:]
            z_T = self._two_level_z(resampled_RxT, within_RxT, (1 - level) / 2)
        # "nearest" keeps infinite ends, which are answers; what does not exist sorts last.
        exists_T = (~np.isnan(resampled_RxT)).sum(axis=0)
        ordered_TxR = np.sort(np.ascontiguousarray(resampled_RxT.T), axis=1)
        tail_T = stats.norm.cdf(z_T)
        ends = [np.rint(q * np.maximum(exists_T - 1, 0)).astype(int) for q in (tail_T, 1 - tail_T)]
        low_T, high_T = (np.take_along_axis(ordered_TxR, e[:, None], axis=1)[:, 0] for e in ends)
        return Interval(value_T, low_T, high_T)

    def _with(self, other: "Estimate", draws_RxT: np.ndarray) -> "Estimate":
        if self.seeds != other.seeds:
            raise ValueError(f"expected estimates of {self.seeds} seeds, got {other.seeds}")
        return Estimate(draws_RxT, {**self.facts, **other.facts}, self.seeds)

    def _two_level_z(self, both_RxT, within_RxT, tail: float) -> np.ndarray:
        """The tail's normal quantile, in standard deviations of the two-level resamples.

        With B and W the variances of the mean from runs and from facts, those resamples have
        (B + W)(1 - 1/S) + W and the facts alone W, less the share of a mean within its own sample.
        """
        both_T, within_T = _half_range(both_RxT) ** 2, _half_range(within_RxT) ** 2
        seeds, facts = self.seeds, self.n
        with np.errstate(invalid="ignore", divide="ignore"):
            among_T = np.maximum((both_T - within_T) * seeds / (seeds - 1), 0)
            within_T = within_T * facts / max(facts - seeds, 1)
            excess_T = np.maximum(among_T - within_T, 0)
            total_T = excess_T + within_T
            freedom_T = total_T**2 / (
                np.where(excess_T > 0, among_T**2 / (seeds - 1), 0)
                + within_T**2 / max(facts - seeds, 1)
            )
            z_T = stats.t.ppf(tail, freedom_T) * np.sqrt(total_T / both_T)
        # Without a finite spread: as if runs alone mattered.
        alone = stats.t.ppf(tail, seeds - 1) * np.sqrt(seeds / (seeds - 1))
        return np.where(np.isfinite(z_T), z_T, alone)


def _half_range(draws_RxT: np.ndarray) -> np.ndarray:
    """Half of the central 68 %: a standard deviation that single wild ratios do not move."""
    draws_RxT = np.where(np.isnan(draws_RxT).all(axis=0), 0, draws_RxT)
    low_T, high_T = np.nanquantile(draws_RxT, (0.1587, 0.8413), axis=0, method="nearest")
    with np.errstate(invalid="ignore"):
        return (high_T - low_T) / 2


def facts_alone(resamples: int) -> int:
    """How many replicates, the last ones, keep the seeds where there are several."""
    return resamples // 5


def replicate_weights(
    facts: Mapping[str, int],
    seed: int,
    resamples: int,
    run_of: Mapping[str, Sequence] | None = None,
) -> dict[str, np.ndarray]:
    """How often each fact counts in each replicate, R x K by arm.

    With one run, a function of the arm's name and size, the seed and R alone, not of the other
    arms. With several, of the names of the runs and the arm's facts in each as well.

    Args:
      facts: arm -> K.
      seed: of the resampling.
      resamples: replicates after the first.
      run_of: arm -> the run of each of its K facts, in the order of `mean_over_probes`
        (`runs_of_facts` makes it); None = one run. A drawn run brings as many draws of its facts
        as it has, each time it is drawn.

    Raises:
      UserError: an arm that has no facts in some run of the others, so that a difference to it
        could not be resampled by run.
    """
    runs = sorted({run for labels in (run_of or {}).values() for run in labels})
    if len(runs) < 2:
        run_of, times_RxS = None, None
    else:
        generator = np.random.default_rng([seed, len(runs)])
        drawn = generator.multinomial(len(runs), np.full(len(runs), 1 / len(runs)), size=resamples)
        times_RxS = np.where(
            np.arange(resamples)[:, None] < resamples - facts_alone(resamples), drawn, 1
        )
    weights = {}
    for arm, count in facts.items():
        generator = np.random.default_rng([seed, count, zlib.crc32(arm.encode())])
        if run_of is None:
            drawn = generator.multinomial(count, np.full(count, 1 / count), size=resamples)
        else:
            label_K = np.asarray(run_of[arm])
            if len(label_K) != count:
                raise ValueError(f"expected the run of {count} facts of {arm}, got {len(label_K)}")
            drawn = np.zeros((resamples, count), int)
            for s, run in enumerate(runs):
                here = np.flatnonzero(label_K == run)
                if not here.size:
                    raise UserError(
                        f"expected facts of every arm in every run, got none of arm {arm!r} in run "
                        f"{run}; leave that run out or measure the arm in it"
                    )
                # Several multinomial draws of one run are one of as many more facts.
                drawn[:, here] = generator.multinomial(
                    times_RxS[:, s] * here.size, np.full(here.size, 1 / here.size)
                )
        weights[arm] = np.concatenate([np.ones((1, count)), drawn])
    return weights


def runs_of_facts(fact_P: Sequence[str], run_P: Sequence) -> np.ndarray:
    """The run of each fact, K, facts in the order of their names.

    Raises:
      ValueError: a fact name in two runs; facts of different runs need different names.
    """
    facts, first_K, index_P = np.unique(np.asarray(fact_P), return_index=True, return_inverse=True)
    run_P = np.asarray(run_P)
    shared = run_P != run_P[first_K][index_P]
    if shared.any():
        name = str(facts[index_P[shared][0]])
        raise ValueError(f"expected each fact in one run, got {name!r} in several; prefix the run")
    return run_P[first_K]


def mean_over_probes(
    values_TxP: np.ndarray,
    fact_P: Sequence[str],
    arm: str,
    weights_RxK: np.ndarray,
    kept_TxP: np.ndarray | None = None,
    seeds: int = 1,
) -> Estimate:
    """Mean over the kept probes of one arm in every replicate.

    Args:
      values_TxP: or P values.
      fact_P: facts take the columns of the weights in the order of their names.
      arm: whose facts they are.
      weights_RxK: of that arm, from `replicate_weights`.
      kept_TxP: 1 where a value counts; None = everywhere. Kept as in the data in all replicates.
      seeds: number of runs that the weights were drawn over.
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
    return Estimate(draws_RxT, {arm: len(facts)}, seeds)
