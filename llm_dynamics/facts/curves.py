"""What the figures of a facts study draw: curves, fitted lines and gains, with intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from llm_dynamics.facts import estimates
from llm_dynamics.facts.cells import CONTROL
from llm_dynamics.facts.fits import fit_log_decay
from llm_dynamics.facts.statistics import Estimate


@dataclass(frozen=True)
class Curve:
    """A mean over the probes of one arm and depth with its 95 % interval, along steps.

    Attributes:
      kind: "raw", or "difference" for the arm less the never-injected control.
      steps_S: absolute steps of a trajectory; steps after the last maximum for retainability.
      mean_S, low_S, high_S: the ends are NaN where there is no interval (a single fact).
      n: facts, the resampled unit.
    """

    arm: str
    depth: str
    kind: str
    steps_S: np.ndarray
    mean_S: np.ndarray
    low_S: np.ndarray
    high_S: np.ndarray
    n: int


@dataclass(frozen=True)
class Fit:
    """The line R = intercept + slope * log10(steps), fitted for steps in [first, last]."""

    arm: str
    depth: str
    kind: str
    slope: float
    intercept: float
    r_squared: float  # NaN for a constant curve
    first: float
    last: float


@dataclass(frozen=True)
class Gain:
    """Gain at the last maximum, nats per target token, with its 95 % interval over n facts."""

    arm: str
    depth: str
    kind: str
    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Curves:
    """Everything the figures need.

    Attributes:
      trajectories: mean change since the first encounter at every recorded step, of every arm and
        depth, raw and less control; the control raw only.
      retainability: "raw" is the published mean of ratios, "difference" the control-subtracted
        ratio of means; from t = 0.
      fits: of the retainability curves with at least two offsets t >= 1.
      gains: of the same arms, depths and kinds as the trajectories.
    """

    trajectories: tuple[Curve, ...]
    retainability: tuple[Curve, ...]
    fits: tuple[Fit, ...]
    gains: tuple[Gain, ...]


def compute_curves(
    log: xr.Dataset,
    schedule: Mapping[str, Sequence[int]],
    window: int,
    seed: int = 0,
    resamples: int = 400,
) -> Curves:
    """Curves of every arm and depth; the raw control is seen on the longest schedule.

    Args:
      log: from `llm_dynamics.probe.log.open_log`.
      schedule: updates of each arm's encounters; the control's is ignored.
      window: steps after an encounter in which its maximum is sought.
      seed: of the bootstrap.
      resamples: of the bootstrap over facts.

    Raises:
      UserError: as `llm_dynamics.facts.results.compute`.
    """
    study = estimates.open_study(log, schedule, window, seed, resamples)
    trajectories, retained, fits, gains = [], [], [], []
    for arm in study.arms:
        for depth in study.depths:
            cell = study.cell(arm, depth)
            if cell is None:
                continue
            change = study.mean(cell, cell.change_SxP)
            gain = estimates.gain_at_last_maximum(study, cell)
            forms = {"raw": (change, gain, None)}
            if arm != CONTROL:
                forms["raw"] = (change, gain, estimates.published_curve(study, cell))
                control = study.cell(CONTROL, depth, arm) if CONTROL in study.arms else None
                if control is not None:
                    forms["difference"] = (
                        change - study.mean(control, control.change_SxP),
                        gain - estimates.gain_at_last_maximum(study, control),
                        estimates.subtracted_curve(study, cell, control),
                    )
            for kind, (change, gain, curve) in forms.items():
                labels = {"arm": arm, "depth": depth, "kind": kind}
                trajectories.append(_curve(labels, study.table.steps_S, change))
                value, low, high = (float(v[0]) for v in gain.interval())
                gains.append(Gain(**labels, value=value, low=low, high=high, n=gain.n))
                if curve is not None:
                    retained.append(_curve(labels, cell.offsets_T, curve))
                    fits += _fits(labels, retained[-1])
    return Curves(tuple(trajectories), tuple(retained), tuple(fits), tuple(gains))


def _curve(labels, steps_S: np.ndarray, estimate: Estimate) -> Curve:
    mean_S, low_S, high_S = estimate.interval()
    return Curve(**labels, steps_S=steps_S, mean_S=mean_S, low_S=low_S, high_S=high_S, n=estimate.n)


def _fits(labels, curve: Curve) -> list[Fit]:
    usable_S = (curve.steps_S >= 1) & np.isfinite(curve.mean_S)
    if usable_S.sum() < 2:
        return []
    steps_S = curve.steps_S[usable_S]
    line = fit_log_decay(steps_S, curve.mean_S[usable_S])
    return [
        Fit(
            **labels,
            slope=-line.a,
            intercept=line.intercept,
            r_squared=float("nan") if line.r2 is None else line.r2,
            first=float(steps_S[0]),
            last=float(steps_S[-1]),
        )
    ]
