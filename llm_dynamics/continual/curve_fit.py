"""Fits of the law of a continual run to logged curves, with intervals, and its predictions.

Given alpha, E and beta the law is linear in the rest, so starts come from a grid over those three
with least squares for the others; the best few are then searched with Huber's loss of log
residuals. Curves of one arm are averaged over seeds, on the log, before that: the law is of the
mean run, and Huber's loss would otherwise take the seeds that differ most for outliers. Arms that
share their first stage should bring its points once, or they count once per arm.

The form of replay is chosen by held-out shares, among the curves given: each share but the least
and the largest is predicted by fits to the others. What is foretold later has no part in it. With
fewer than four shares nothing can be held out between others, and it is the power: sweeps that we
know, published and our own, are steep at small shares, which Eq. 8 cannot be.

Intervals: with three seeds or more, a jackknife that leaves out one seed at a time with all its
curves; it holds for other seeds. With fewer, resampled blocks of the residuals of each curve; that
holds for other noise along the same runs, says nothing of other seeds, and is narrower. Neither
knows that the form might have been another.

Axes: S recorded steps of all arms, R replicates, Q parameters.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import optimize

from llm_dynamics.continual import robust_fit
from llm_dynamics.continual.areas import DECAY, Areas
from llm_dynamics.continual.curve_law import (
    EQ8,
    NAMES,
    POWER,
    REPLAY_NAMES,
    SETS,
    Curve,
    at_steps,
    evaluate,
    gradient,
    mean_relative_error,
)
from llm_dynamics.errors import UserError
from llm_dynamics.results import Interval, Row, interval_row
from llm_dynamics.seeds import jackknife_interval

JACKKNIFE = "leaves out one seed at a time; holds for other seeds"
BLOCKS = "resampled blocks of residuals; holds for these seeds alone"
ALONE = "fitted without an interval"
_GRID = tuple(itertools.product((0.2, 0.5, 0.9), (0.3, 3.0, 30.0, 1000.0), (0.15, 0.5)))
_REPLAY_STARTS = {  # form and set -> values of REPLAY_NAMES
    (EQ8, "old"): ((0.0, 1.0),),
    (EQ8, "new"): ((0.0, 1.0),),
    (POWER, "old"): ((0.0, 20.0, 0.5), (0.0, 300.0, 0.5)),
    (POWER, "new"): ((0.0, 1.0),),
}
_SEARCHED_ON_LOG = ("E", "b")
_KEPT = 3  # starts of the grid that are searched further
_MANY, _FEW = 150, 50  # evaluations of a search; few where it begins near its end
_CHOOSABLE = 4  # shares from which on the form of replay is chosen
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
      form: of replay, a key of REPLAY_NAMES; "" where all curves had one share.
      form_errors: form -> seed -> mean relative error on second stages of held-out shares; empty
        where there was nothing to choose.
      tried: (form, decay) -> the best parameters there, for later searches to begin from.
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
    form: str = ""
    form_errors: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    tried: Mapping[tuple[str, float], Mapping[str, float]] = field(default_factory=dict)

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

    @property
    def law_name(self) -> str:
        """The law in words."""
        replay = {EQ8: " with replay as in Eq. 8", POWER: " with replay as a power of its share"}
        return "Wang et al. 2025, Eq. 4" + replay.get(self.form, "")

    def rows(self, name: str) -> list[Row]:
        """A row of every parameter, and of the relative error."""
        rows = []
        for key, value in self.parameters.items():
            draws_Rx1 = [[one[key]] for one in self.replicates]
            found = self._interval(np.array([value]), draws_Rx1)
            definition = f"{key} of {self.law_name}, for the {self.which} set"
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
    form: str | None = None,
    near: CurveFit | None = None,
) -> CurveFit:
    """Fits the law to curves of one data set.

    Args:
      curves: of one or more runs; at least one with a second stage. Two schedules or more tell
        the rate from the time.
      which: "old" or "new" set.
      decays: of S2, to choose from by cost; a run much shorter than 1,000 steps wants less.
      resamples: of residuals; 0 = no interval.
      seed: of resamples.
      form: of replay, a key of REPLAY_NAMES; None = chosen by held-out shares of these curves.
      near: a fit to much the same curves, from which to search; saves most of the time.

    Raises:
      UserError: too few points, no second stage, two curves of one arm and seed, or losses that
        no law describes.
    """
    if which not in SETS:
        raise UserError(f"expected the old or the new set, got {which!r}")
    if form is not None and form not in REPLAY_NAMES:
        raise UserError(f"expected a form of {', '.join(REPLAY_NAMES)} or None, got {form!r}")
    shares = _shares(curves)
    if not shares:
        raise UserError("expected a curve that reaches into a second stage; add one")
    tried, errors = {}, {}
    if len(shares) == 1:
        best = _best(curves, which, "", decays, near, tried)
    elif form or len(shares) < _CHOOSABLE:
        best = _best(curves, which, form or POWER, decays, near, tried)
    else:
        found = {one: _best(curves, which, one, decays, near, tried) for one in REPLAY_NAMES}
        errors = {one: _held_out_shares(curves, problem) for one, problem in found.items()}
        best = found[min(errors, key=lambda one: np.mean(list(errors[one].values())))]
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
        replay=None if len(shares) > 1 else shares[0],
        method=method,
        decay=best.decay,
        cost=best.cost,
        error=mean_relative_error(best.law(best.theta), best.losses_S),
        points=len(best.losses_S),
        curves=len(curves),
        seeds=len(seeds),
        form=best.form,
        form_errors=errors,
        tried=tried,
    )


def _shares(curves: Sequence[Curve]) -> list[float]:
    """Of replay, in second stages."""
    return sorted({curve.replay for curve in curves if curve.start < curve.steps_S[-1]})


def _best(curves, which, form, decays, near, tried) -> "_Problem":
    """The best fit of one form; adds to `tried`."""
    problems = []
    for decay in decays:
        known = near.tried.get((form, decay)) if near else None
        problems.append(_Problem(curves, which, form, decay, known, _KEPT if known is None else 0))
    best = min(problems, key=lambda one: one.cost)
    if near:  # what is near in other curves need not be the best here
        start = best.named(best.theta)
        again = _Problem(curves, which, form, best.decay, start, grid=1, evaluations=_MANY)
        best = min(best, again, key=lambda one: one.cost)
    tried |= {(form, one.decay): one.named(one.theta) for one in (*problems, best)}
    return best


def _held_out_shares(curves: Sequence[Curve], fitted: "_Problem") -> dict[int, float]:
    """Seed -> mean relative error on second stages of inner shares, by fits to the other shares."""
    errors: dict[int, list[float]] = {}
    for share in _shares(curves)[1:-1]:
        kept = [c for c in curves if c.replay != share or c.start >= c.steps_S[-1]]
        start = fitted.named(fitted.theta)
        law = _Problem(kept, fitted.which, fitted.form, fitted.decay, start, grid=0)
        for curve in curves:
            late_S = np.asarray(curve.steps_S) > curve.start
            if curve.replay != share or not late_S.any():
                continue
            steps_S, losses_S = (np.asarray(x)[late_S] for x in (curve.steps_S, curve.losses_S))
            at = at_steps(curve.rates_T, curve.start, steps_S, law.decay)
            predicted_S = evaluate(law.named(law.theta), at, share, law.which)
            errors.setdefault(curve.seed, []).append(mean_relative_error(predicted_S, losses_S))
    return {seed: float(np.mean(found)) for seed, found in errors.items()}


class _Problem:
    """All arms laid end to end, and the best fit to them with one form at one decay.

    It is searched from `near`, where given, and from the best `grid` points of the grid.
    """

    def __init__(
        self,
        curves: Sequence[Curve],
        which: str,
        form: str,
        decay: float,
        near: Mapping[str, float] | None = None,
        grid: int = _KEPT,
        evaluations: int | None = None,
    ):
        self.which, self.form, self.decay = which, form, decay
        self.names = NAMES + (REPLAY_NAMES[form][which] if form else ())
        self.arms: dict[tuple, dict[int, Curve]] = {}
        for curve in curves:
            arm = self.arms.setdefault(_arm(curve), {})
            if curve.seed in arm:
                raise UserError(
                    f"expected one curve of each arm and seed, got two of the arm {curve.arm!r} "
                    f"and seed {curve.seed}; give arms that differ names of their own"
                )
            arm[curve.seed] = curve
        self.losses_S, _ = self.without(None)
        if len(self.losses_S) < 3 * len(self.names):
            raise UserError(
                f"expected at least {3 * len(self.names)} recorded losses for {len(self.names)} "
                f"parameters, got {len(self.losses_S)}; record more often or add runs"
            )
        first = [next(iter(arm.values())) for arm in self.arms.values()]
        self.lengths = [len(curve.losses_S) for curve in first]
        parts = [at_steps(c.rates_T, c.start, c.steps_S, decay) for c in first]
        self.at = Areas(*(np.concatenate(part) for part in zip(*parts, strict=True)))
        self.replay_S = np.concatenate([np.full(len(c.steps_S), c.replay) for c in first])
        sign = 1.0 if which == "old" else -1.0
        self.low, self.high = zip(*(_bounds(name, sign) for name in self.names), strict=True)
        starts = [] if near is None else [self._theta(near)]
        starts += self._starts(grid) if grid else []
        self.evaluations = evaluations or (_MANY if near is None else _FEW)
        self.theta, self.cost = self._search(self.losses_S, starts)

    def named(self, theta: np.ndarray) -> dict[str, float]:
        """Parameters by name; some are searched on their logs."""
        found = dict(zip(self.names, map(float, theta), strict=True))
        return found | {name: math.exp(found[name]) for name in _SEARCHED_ON_LOG if name in found}

    def _theta(self, named: Mapping[str, float]) -> np.ndarray:
        logged = {name: math.log(named[name]) for name in _SEARCHED_ON_LOG if name in named}
        found = {**named, **logged}
        return np.array([found[name] for name in self.names])

    def without(self, left_out: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Losses averaged over the other seeds, and weights: 0 where an arm has no other."""
        losses, weights = [], []
        for arm in self.arms.values():
            kept = [np.log(c.losses_S) for seed, c in arm.items() if seed != left_out]
            some = next(iter(arm.values()))
            losses.append(np.exp(np.mean(kept or [np.log(some.losses_S)], axis=0)))
            weights.append(np.full(len(losses[-1]), float(bool(kept))))
        return np.concatenate(losses), np.concatenate(weights)

    def law(self, theta: np.ndarray) -> np.ndarray:
        """Losses of all arms."""
        return evaluate(self.named(theta), self.at, self.replay_S, self.which)

    def slope(self, theta: np.ndarray) -> np.ndarray:
        """Derivatives of the law, S x Q."""
        named = self.named(theta)
        found = gradient(named, self.at, self.replay_S, self.which)
        scale = {name: named[name] for name in _SEARCHED_ON_LOG if name in named}
        return np.stack([found[name] * scale.get(name, 1.0) for name in self.names], axis=1)

    def refit(self, losses_S: np.ndarray, weight_S: np.ndarray | None = None) -> np.ndarray:
        """Parameters for other losses, searched from those found."""
        return self._search(losses_S, [self.theta], weight_S)[0]

    def _search(self, losses_S, starts, weight_S=None) -> tuple[np.ndarray, float]:
        return robust_fit.fit(self.law, losses_S, starts, self.low, self.high, weight_S, self.slope)

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

    def _starts(self, keep: int) -> list[np.ndarray]:
        """The best points of the grid, with least squares given alpha, E, beta and replay."""
        names = self.names[len(NAMES) :]
        replays = _REPLAY_STARTS[self.form, self.which] if self.form else ((),)
        reach = max(float(self.at.second_T.max()), 1e-12)
        found = []
        for (alpha, scale, beta), replay in itertools.product(_GRID, replays):
            given = {"alpha": alpha, "E": scale / reach, "beta": beta}
            found.append(self._start(given | dict(zip(names, replay, strict=True))))
        return [start for _, start in sorted(found, key=lambda one: one[0])[:keep]]

    def _start(self, given: Mapping[str, float]) -> tuple[float, np.ndarray]:
        """Cost and parameters of least squares of relative residuals given some of them."""
        linear = [name for name in self.names if name not in given]
        zero = given | dict.fromkeys(linear, 0.0) | {"B": 1.0}
        slopes = gradient(zero, self.at, self.replay_S, self.which)
        columns_SxQ = np.stack([slopes[name] for name in linear], axis=1) / self.losses_S[:, None]
        bounds = dict(zip(self.names, zip(self.low, self.high, strict=True), strict=True))
        low, high = zip(*(bounds[name] for name in linear), strict=True)
        ones_S = np.ones_like(self.losses_S)
        x = np.linalg.lstsq(columns_SxQ, ones_S)[0]
        if not ((x >= low) & (x <= high)).all():
            x = optimize.lsq_linear(columns_SxQ, ones_S, bounds=(low, high), method="bvls").x
        cost = float(((columns_SxQ @ x - ones_S) ** 2).sum())
        return cost, self._theta(given | dict(zip(linear, x, strict=True)))


def _arm(curve: Curve) -> tuple:
    """What curves of several seeds have in common."""
    rates, steps = (np.asarray(x, float).tobytes() for x in (curve.rates_T, curve.steps_S))
    return curve.arm, rates, steps, curve.start, curve.replay


def _bounds(name: str, sign: float) -> tuple[float, float]:
    """Where a parameter is searched; some on their logs."""
    return {
        "L0": (0.0, _BIG),
        "A": (0.0, _BIG),
        "alpha": (1e-3, 5.0),
        "B": (0.0, _BIG) if sign > 0 else (-_BIG, 0.0),
        "E": (math.log(1e-6), math.log(1e9)),
        "beta": (1e-3, 5.0),
        "a1": (-20.0, 20.0),
        "a2": (1e-3, 50.0) if sign > 0 else (1e-3, 20.0),
        "b": (math.log(0.1), math.log(1e6)),
        "a": (1e-3, 5.0),
    }.get(name, (-_BIG, _BIG))
