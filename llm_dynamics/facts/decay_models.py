"""Which form forgetting has, judged by how well it predicts times that it was not fitted to.

The published form, a straight line on log10 t, was compared with no other on held-out data. Points
of one curve depend on each other, so likelihood criteria that count them are of no use here; a
form is fitted to early times instead, its prediction of later ones is scored, and all of that is
repeated in every replicate of the facts.

Axes: B averages of the curve over bins of log10 t, R replicates.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from llm_dynamics.errors import UserError
from llm_dynamics.facts.log_bins import log_bins
from llm_dynamics.facts.many_fits import fit_many
from llm_dynamics.facts.statistics import Estimate
from llm_dynamics.results import Interval

LINE = "log_linear"  # the published form
_SMALLEST_SD = 0.25  # of the median over bins: early bins have next to no variance between facts


@dataclass(frozen=True)
class Form:
    """R(t) with its parameters, their bounds, and where searches start.

    Attributes:
      names: of the parameters.
      low, high: bounds.
      starts: deterministic starting points of the search.
      value: t_B and the parameters to R_B.
    """

    names: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    starts: tuple[tuple[float, ...], ...]
    value: Callable[..., np.ndarray]


# Times are searched on log10, from a tenth of a step to far beyond any run. The scale c is R at
# t = 1 or, for exponentials, at 0; it may differ from 1 as R(0) = 1 alone is given.
FORMS: Mapping[str, Form] = {
    LINE: Form(
        ("a", "intercept"),
        (-2, -5),
        (5, 5),
        ((0.25, 1),),
        lambda t_B, a, intercept: intercept - a * np.log10(t_B),
    ),
    "power": Form(
        ("c", "b"),
        (0, 0),
        (5, 5),
        ((1, 0.1), (1, 0.5), (0.5, 1.5)),
        lambda t_B, c, b: c * t_B**-b,
    ),
    "exponential": Form(
        ("c", "log10_tau"),
        (0, -1),
        (5, 8),
        ((1, 1), (1, 2), (1, 3), (0.5, 4)),
        lambda t_B, c, log10_tau: c * np.exp(-t_B / 10**log10_tau),
    ),
    "power_floor": Form(
        ("c", "b", "floor"),
        (0, 0, 0),
        (5, 5, 1),
        ((1, 0.2, 0.01), (0.8, 0.5, 0.2), (0.6, 1.5, 0.4)),
        lambda t_B, c, b, floor: c * t_B**-b + floor,
    ),
    "stretched_exponential": Form(
        ("c", "log10_tau", "beta"),
        (0, -1, 0.02),
        (5, 8, 1),
        ((1, 2, 0.3), (1, 3, 0.5), (1, 4, 0.2), (1, 1, 0.9)),
        lambda t_B, c, log10_tau, beta: c * np.exp(-((t_B / 10**log10_tau) ** beta)),
    ),
}


@dataclass(frozen=True)
class Score:
    """How one form, fitted to early times, predicts later ones.

    Attributes:
      form: a key of FORMS.
      parameters: of the fit to the early times of the data.
      rmse: root of the mean squared error over bins of the held-out times, with its interval.
      excess: rmse less that of the line on log10 t, the published form; below 0 where this form
        predicts better. Compared with the one form that was not chosen by the data.
    """

    form: str
    parameters: dict[str, float]
    rmse: Interval
    excess: Interval


def fit_form(
    name: str,
    t_B: np.ndarray,
    curve_B: np.ndarray,
    sd_B: np.ndarray | None = None,
) -> np.ndarray:
    """Parameters of a form by bounded, weighted least squares, the best of its starts.

    Args:
      name: a key of FORMS.
      t_B: times of at least 1.
      curve_B: values, finite.
      sd_B: their standard deviations; None = equal.
    """
    found_NxQ, cost_N = _fits(name, t_B, curve_B[None], sd_B, np.array(FORMS[name].starts, float))
    return found_NxQ[np.argmin(cost_N)]


def compare(
    curve: Estimate, offsets_T: np.ndarray, until: float = 0.25, resamples: int = 200
) -> tuple[Score, ...]:
    """Fits every form to 1 <= t <= until * T and scores its prediction of until * T < t <= T.

    Fits weigh each bin by its variance between replicates.

    Args:
      curve: retainability, R x T.
      offsets_T: its times in steps.
      until: share of the time that is fitted; a quarter and a half are usual.
      resamples: replicates used; all forms are fitted again in each.

    Returns:
      A score for each form, the best prediction first.

    Raises:
      UserError: too short a curve: fewer than six bins to fit or two to predict.
      ValueError: a curve that is not finite.
    """
    offsets_T = np.asarray(offsets_T)
    last = offsets_T.max(initial=0)
    early_T, late_T = (offsets_T >= 1) & (offsets_T <= until * last), offsets_T > until * last
    bins = [log_bins(offsets_T[part]) if part.any() else None for part in (early_T, late_T)]
    counts = [0 if b is None else len(b.log_t_B) for b in bins]
    if counts[0] < 6 or counts[1] < 2:
        raise UserError(
            f"expected at least 6 bins of log10 t up to {until:g} of the time after the last "
            f"maximum and 2 after it, got {counts[0]} and {counts[1]}; lengthen the run"
        )
    if not np.isfinite(curve.draws_RxT[0]).all():
        raise ValueError("expected a finite curve to fit forms to")
    thin = curve.thinned(resamples)
    early_RxB = thin.draws_RxT[:, early_T] @ bins[0].average_BxT.T
    late_RxB = thin.draws_RxT[:, late_T] @ bins[1].average_BxT.T
    sd_B = _deviations(early_RxB)
    fitted, errors = {}, {}
    for name in FORMS:
        first = fit_form(name, bins[0].t_B, early_RxB[0], sd_B)
        fitted[name] = dict(zip(FORMS[name].names, map(float, first), strict=True))
        errors[name] = Estimate(
            _errors(name, bins, early_RxB, late_RxB, sd_B, first)[:, None], thin.facts, thin.seeds
        )
    return tuple(
        Score(
            form=name,
            parameters=fitted[name],
            rmse=errors[name].interval(),
            excess=(errors[name] - errors[LINE]).interval(),
        )
        for name in sorted(errors, key=lambda name: errors[name].draws_RxT[0, 0])
    )


def _deviations(early_RxB: np.ndarray) -> np.ndarray | None:
    """Standard deviation of each bin between resamples, floored; None without resamples."""
    if len(early_RxB) < 3:
        return None
    sd_B = np.nanstd(np.where(np.isfinite(early_RxB[1:]), early_RxB[1:], np.nan), axis=0)
    floor = _SMALLEST_SD * float(np.median(sd_B))
    return np.maximum(sd_B, floor) if floor > 0 else None


def _fits(name, t_B, curve_NxB, sd_B, start_NxQ) -> tuple[np.ndarray, np.ndarray]:
    """The fit from each start to its curve, or to the one given, and its cost."""
    form, weight_B = FORMS[name], 1 if sd_B is None else 1 / sd_B
    curve_NxB = np.broadcast_to(curve_NxB, (len(start_NxQ), len(t_B)))

    def residuals(x_NxQ, n):
        return (form.value(t_B, *x_NxQ.T[..., None]) - curve_NxB[n]) * weight_B

    low_Q, high_Q = np.array(form.low, float), np.array(form.high, float)
    found_NxQ = fit_many(residuals, start_NxQ, low_Q, high_Q)
    return found_NxQ, np.square(residuals(found_NxQ, np.arange(len(found_NxQ)))).sum(1)


def _errors(name, bins, early_RxB, late_RxB, sd_B, first_Q) -> np.ndarray:
    """Of the held-out bins of every replicate, R; NaN where its curve is not finite.

    All replicates are fitted at once, from the fit of the data on.
    """
    usable_R = np.isfinite(early_RxB).all(axis=1) & np.isfinite(late_RxB).all(axis=1)
    start_NxQ = np.tile(first_Q, (usable_R.sum(), 1))
    x_NxQ, _ = _fits(name, bins[0].t_B, early_RxB[usable_R], sd_B, start_NxQ)
    error_R = np.full(len(early_RxB), math.nan)
    off_NxB = FORMS[name].value(bins[1].t_B, *x_NxQ.T[..., None]) - late_RxB[usable_R]
    error_R[usable_R] = np.sqrt(np.mean(off_NxB**2, axis=1))
    return error_R
