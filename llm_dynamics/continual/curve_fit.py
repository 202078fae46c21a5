"""Fits of the law of a continual run to logged curves, with intervals, and its predictions.

Given alpha, E and beta the law is linear in the rest, so starts come from a grid over those three
with least squares for the others; the best few are then searched with Huber's loss of log
residuals. Curves of one arm are averaged over seeds, on the log, before that: the law is of the
mean run, and Huber's loss would otherwise take the seeds that differ most for outliers. Arms that
share their first stage should bring its points once, or they count once per arm.

Intervals: with three seeds or more, a jackknife that leaves out one seed at a time with all its
curves; it holds for other seeds. With fewer, resampled blocks of the residuals of each curve; that
holds for other noise along the same runs, says nothing of other seeds, and is narrower.

Axes: S recorded steps of all arms, R replicates.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize

from llm_dynamics.continual import robust_fit
from llm_dynamics.continual.areas import DECAY, Areas
from llm_dynamics.continual.curve_law import (
    NAMES,
    REPLAY_NAMES,
    SETS,
    Curve,
    at_steps,
    evaluate,
    mean_relative_error,
)
from llm_dynamics.errors import UserError
from llm_dynamics.results import Interval, Row, interval_row
from llm_dynamics.seeds import jackknife_interval

JACKKNIFE = "leaves out one seed at a time; holds for other seeds"
BLOCKS = "resampled blocks of residuals; holds for these seeds alone"
ALONE = "fitted without an interval"
_GRID = tuple(itertools.product((0.2, 0.5, 0.9), (0.3, 3.0, 30.0, 1000.0), (0.15, 0.5)))
_KEPT = 3  # starts of the grid that are searched further
_BIG = 1e5  # bound of coefficients of a loss of a few nats


@dataclass(frozen=True)
class CurveFit:
    """Fitted parameters, in replicates too.

    Attributes:
      which: "old" or "new" set.
      parameters: of the fit to all curves.
      replicates: parameters of each replicate.
      replay: share of all curves fitted; None where they had several.
      method: JACKKNIFE, BLOCKS or ALONE: how replicates came about.
      decay: of S2.
      cost: of Huber's loss, to compare fits with the same curves.
      error: mean relative error on the fitted points.
      points, curves, seeds: how many; points are of curves averaged over seeds.
    """

    which: str
    parameters: Mapping[str, float]
    replicates: tuple[Mapping[str, float], ...]
    replay: float | None
    method: str
    decay: float
    cost: float
    error: float
    points: int
    curves: int
    seeds: int

    def predict(
        self, rates_T: np.ndarray, start: int, steps_S: Sequence[int], replay: float = 0.0
    ) -> Interval:
        """Losses of a run of these rates after some steps, with the interval of the law's curve.

        The interval is of the fitted curve, not of one run about it, and takes the law for right.

        Args:
          rates_T, start, steps_S, replay: as of a `Curve`.

        Raises:
          UserError: a replay share other than that of all curves fitted, where those had one.
        """
        if self.replay not in (None, replay):
            raise UserError(
                f"expected the replay share of the fitted curves, {self.replay:g}, "
                f"got {replay:g}; fit curves of several shares to predict others"
            )
        at = at_steps(rates_T, start, steps_S, self.decay)
        draws_RxS = [evaluate(one, at, replay, self.which) for one in self.replicates]
        return self._interval(evaluate(self.parameters, at, replay, self.which), draws_RxS)

    def relative_error(self, curve: Curve) -> float:
        """Mean relative error of the prediction of a curve, one that was not fitted to say much."""
        found = self.predict(curve.rates_T, curve.start, curve.steps_S, curve.replay)
        return mean_relative_error(found.value, curve.losses_S)

    def rows(self, name: str) -> list[Row]:
        """A row of every parameter, and of the relative error."""
        rows = []
        for key, value in self.parameters.items():
            draws_Rx1 = [[one[key]] for one in self.replicates]
            found = self._interval(np.array([value]), draws_Rx1)
            definition = f"{key} of Wang et al. 2025, Eq. 4, for the {self.which} set"
            rows.append(
                interval_row(f"{name}/{key}", found, "1", self.seeds, definition, self.method)
            )
        definition = "mean of |predicted - measured| / measured over the fitted points"
        error = Interval(self.error, math.nan, math.nan)
        rows.append(
            interval_row(f"{name}/relative_error", error, "1", self.seeds, definition, "in sample")
        )
        return rows

    def _interval(self, value_S: np.ndarray, draws_RxS: Sequence[np.ndarray]) -> Interval:
        if not len(draws_RxS):
            return Interval(value_S, *np.full((2, len(value_S)), np.nan))
        draws_RxS = np.asarray(draws_RxS)
        if self.method == BLOCKS:
            # Reflected about the value, for the shift between a fit and fits of its own curve.
            low_S, high_S = np.quantile(draws_RxS, (0.025, 0.975), axis=0)
            return Interval(value_S, 2 * value_S - high_S, 2 * value_S - low_S)
        return jackknife_interval(value_S, draws_RxS)


def fit_curves(
    curves: Sequence[Curve],
    which: str,
    decays: Sequence[float] = (DECAY,),
    resamples: int = 100,
    seed: int = 0,
) -> CurveFit:
    """Fits the law to curves of one data set.

    Args:
      curves: of one or more runs; at least one with a second stage. Two schedules or more tell
        the rate from the time.
      which: "old" or "new" set.
      decays: of S2, to choose from by cost; a run much shorter than 1,000 steps wants less.
      resamples: of residuals; 0 = no interval.
      seed: of resamples.

    Raises:
      UserError: too few points or no second stage, or losses that no law describes.
    """
    if which not in SETS:
        raise UserError(f"expected the old or the new set, got {which!r}")
    shares = {curve.replay for curve in curves if curve.start < curve.steps_S[-1]}
    if not shares:
        raise UserError("expected a curve that reaches into a second stage; add one")
    names = NAMES + (REPLAY_NAMES if len(shares) > 1 else ())
    points = sum(len(curve.steps_S) for curve in {_arm(curve): curve for curve in curves}.values())
    if points < 3 * len(names):
        raise UserError(
            f"expected at least {3 * len(names)} recorded losses for {len(names)} parameters, "
            f"got {points}; record more often or add runs"
        )
    best = min((_Problem(curves, which, names, decay) for decay in decays), key=lambda p: p.cost)
    seeds = sorted({curve.seed for curve in curves})
    method, replicates = ALONE, []
    if resamples and len(seeds) >= 3:
        method = JACKKNIFE
        replicates = [best.refit(*best.without(left_out)) for left_out in seeds]
    elif resamples:
        method = BLOCKS
        rng = np.random.default_rng(seed)
        replicates = [best.refit(best.resampled(rng)) for _ in range(resamples)]
    return CurveFit(
        which=which,
        parameters=best.named(best.theta),
        replicates=tuple(best.named(theta) for theta in replicates),
        replay=None if len(shares) > 1 else shares.pop(),
        method=method,
        decay=best.decay,
        cost=best.cost,
        error=mean_relative_error(best.law(best.theta), best.losses_S),
        points=len(best.losses_S),
        curves=len(curves),
        seeds=len(seeds),
    )


class _Problem:
    """All arms laid end to end, and the best fit to them at one decay."""

    def __init__(self, curves: Sequence[Curve], which: str, names: Sequence[str], decay: float):
        self.which, self.names, self.decay = which, names, decay
        self.arms: dict[tuple, list[Curve]] = {}
        for curve in curves:
            self.arms.setdefault(_arm(curve), []).append(curve)
        self.losses_S, _ = self.without(None)
        first = [arm[0] for arm in self.arms.values()]
        self.lengths = [len(curve.losses_S) for curve in first]
        parts = [at_steps(c.rates_T, c.start, c.steps_S, decay) for c in first]
        self.at = Areas(*(np.concatenate(part) for part in zip(*parts, strict=True)))
        self.replay_S = np.concatenate([np.full(len(c.steps_S), c.replay) for c in first])
        sign = 1.0 if which == "old" else -1.0
        self.low, self.high = zip(*(_bounds(name, sign) for name in names), strict=True)
        starts = sorted((self._start(*point) for point in _GRID), key=lambda found: found[0])
        self.theta, self.cost = robust_fit.fit(
            self.law, self.losses_S, [start for _, start in starts[:_KEPT]], self.low, self.high
        )

    def named(self, theta: np.ndarray) -> dict[str, float]:
        """Parameters by name; E is searched on its log."""
        found = dict(zip(self.names, map(float, theta), strict=True))
        return found | {"E": math.exp(found["E"])}

    def without(self, left_out: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Losses averaged over the other seeds, and weights: 0 where an arm has no other."""
        losses, weights = [], []
        for arm in self.arms.values():
            kept = [np.log(c.losses_S) for c in arm if c.seed != left_out]
            losses.append(np.exp(np.mean(kept or [np.log(arm[0].losses_S)], axis=0)))
            weights.append(np.full(len(losses[-1]), float(bool(kept))))
        return np.concatenate(losses), np.concatenate(weights)

    def law(self, theta: np.ndarray) -> np.ndarray:
        """Losses of all arms."""
        return _mixed(self.named(theta), self.at, self.replay_S, self.which)

    def refit(self, losses_S: np.ndarray, weight_S: np.ndarray | None = None) -> np.ndarray:
        """Parameters for other losses, searched from those found."""
        return robust_fit.fit(self.law, losses_S, [self.theta], self.low, self.high, weight_S)[0]

    def resampled(self, rng: np.random.Generator) -> np.ndarray:
        """Fitted curves with blocks of their residuals put elsewhere along the same curve."""
        fitted_S = self.law(self.theta)
        residual_S = np.log(self.losses_S / fitted_S)
        drawn, at = [], 0
        for length in self.lengths:
            block = max(1, round(length ** (1 / 3)))
            first = rng.integers(0, length, size=-(-length // block))
            index = (first[:, None] + np.arange(block)).ravel()[:length] % length
            drawn.append(residual_S[at : at + length][index])
            at += length
        return fitted_S * np.exp(np.concatenate(drawn))

    def _start(self, alpha: float, scale: float, beta: float) -> tuple[float, np.ndarray]:
        """Cost and parameters of least squares given alpha, E and beta; a1 = 0, a2 = 1."""
        reach = max(float(self.at.second_T.max()), 1e-12)
        given = {"alpha": alpha, "E": math.log(scale / reach), "beta": beta, "a1": 0.0, "a2": 1.0}
        linear = [name for name in self.names if name not in given]
        columns = []
        for name in linear:
            unit = {**dict.fromkeys(linear, 0.0), **given, name: 1.0}
            named = {key: unit[key] for key in self.names} | {"E": math.exp(unit["E"])}
            columns.append(_mixed(named, self.at, self.replay_S, self.which))
        bounds = dict(zip(self.names, zip(self.low, self.high, strict=True), strict=True))
        ends = zip(*(bounds[name] for name in linear), strict=True)
        found = optimize.lsq_linear(
            np.stack(columns, axis=1) / self.losses_S[:, None],
            np.ones_like(self.losses_S),
            bounds=tuple(ends),
        )
        all_of_them = given | dict(zip(linear, found.x, strict=True))
        return float(found.cost), np.array([all_of_them[name] for name in self.names])


def _arm(curve: Curve) -> tuple:
    """What curves of several seeds have in common."""
    rates, steps = (np.asarray(x, float).tobytes() for x in (curve.rates_T, curve.steps_S))
    return rates, steps, curve.start, curve.replay


def _mixed(
    parameters: Mapping[str, float], at: Areas, replay_S: np.ndarray, which: str
) -> np.ndarray:
    """The law at points of several replay shares."""
    out_S = np.empty(len(replay_S))
    for share in np.unique(replay_S):
        here = replay_S == share
        out_S[here] = evaluate(parameters, Areas(*(part[here] for part in at)), share, which)
    return out_S


def _bounds(name: str, sign: float) -> tuple[float, float]:
    """Where a parameter is searched; E on its log."""
    return {
        "L0": (0.0, _BIG),
        "A": (0.0, _BIG),
        "alpha": (1e-3, 5.0),
        "B": (0.0, _BIG) if sign > 0 else (-_BIG, 0.0),
        "E": (math.log(1e-6), math.log(1e9)),
        "beta": (1e-3, 5.0),
        "a1": (-20.0, 20.0),
        "a2": (1e-3, 50.0) if sign > 0 else (1e-3, 20.0),
    }.get(name, (-_BIG, _BIG))
