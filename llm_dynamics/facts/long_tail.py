"""Facts met at random: what the law of retention expects of each frequency, beside measurements.

Axes: R replicates, F frequencies, K facts, C facts of the control, T moments of the run.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llm_dynamics.errors import UserError
from llm_dynamics.facts.kernel import Kernel
from llm_dynamics.facts.statistics import Estimate, replicate_weights
from llm_dynamics.results import Interval

_MOMENTS = 120  # into which a run is divided
_INNER = 16  # lags averaged within each of them
_MOST = 200  # encounters of one fact under regular exposure


@dataclass(frozen=True)
class Tail:
    """Expected gains at the end of a run.

    Attributes:
      frequency_F: encounters per step.
      gain: nats/token at each frequency, with the interval of the law.
      exposure_sd_F: standard deviation of one fact's gain that random times alone give it.
      n: facts of the smallest arm the law was fitted to.
      note: what to keep in mind.
    """

    frequency_F: np.ndarray
    gain: Interval
    exposure_sd_F: np.ndarray
    n: int
    note: str


@dataclass(frozen=True)
class Calibration:
    """The line measured = intercept + slope * predicted over facts; 0 and 1 when calibrated.

    Attributes:
      slope, intercept: with intervals over facts; the intercept in nats/token.
      correlation: of predicted and measured.
      residual_sd: standard deviation of measured about the line, nats/token.
      n: facts.
    """

    slope: Interval
    intercept: Interval
    correlation: float
    residual_sd: float
    n: int


def long_tail(
    kernel: Kernel, frequencies: Sequence[float], steps: int, exposure: str = "poisson"
) -> Tail:
    """Expected control-subtracted gain of facts met with given frequencies for `steps` steps.

    "poisson" meets a fact at random times; the mean over times is exact without saturation, and
    with it to first order in the frequency, since the level at an encounter is then averaged over
    as if what earlier encounters added were independent of each other. "regular" meets it at equal
    intervals, the first after half of one. Zipf exposure is frequencies proportional to 1 / rank.

    Raises:
      UserError: no frequencies or negative ones, fewer than 1 step, an unknown exposure, or more
        than 200 encounters under regular exposure.
    """
    frequency_F = np.asarray(frequencies, float)
    if frequency_F.ndim != 1 or not frequency_F.size or not (frequency_F >= 0).all():
        raise UserError("expected a list of frequencies per step of at least 0; got another")
    if not np.isfinite(frequency_F).all() or steps < 1:
        raise UserError(f"expected finite frequencies and at least 1 step, got {steps} steps")
    if exposure == "poisson":
        mean_RxF, sd_F = _poisson(kernel, frequency_F, float(steps))
    elif exposure == "regular":
        mean_RxF, sd_F = _regular(kernel, frequency_F, int(steps)), np.zeros(len(frequency_F))
    else:
        raise UserError(f"expected exposure poisson or regular, got {exposure!r}")
    notes = [f"{name} {why}" for name, why in kernel.doubts.items() if why.startswith("not")]
    if steps > kernel.longest:
        notes.append(
            f"extrapolated by {np.log10(steps / kernel.longest):.2f} decades: the data have lags "
            f"up to {kernel.longest} steps"
        )
    estimate = kernel.estimate(mean_RxF)
    return Tail(frequency_F, estimate.interval(), sd_F, estimate.n, "; ".join(notes))


def calibrate(
    predicted_K: np.ndarray,
    measured_K: np.ndarray,
    control_C: np.ndarray | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> Calibration:
    """Measured gains of single facts against those a law predicts, by least squares.

    Args:
      predicted_K: from `long_tail`, or from `Kernel.gains` at the times each fact was met.
      measured_K: gains of the same facts, nats/token.
      control_C: gains of never-injected facts over the same steps, whose mean is subtracted and
        which are resampled too; None where `measured_K` is control-subtracted already.
      seed, resamples: of the bootstrap over facts.

    Raises:
      UserError: fewer than three facts, values that are not finite, or equal predictions.
    """
    predicted_K, measured_K = np.asarray(predicted_K, float), np.asarray(measured_K, float)
    control_C = np.zeros(1) if control_C is None else np.asarray(control_C, float)
    if predicted_K.shape != measured_K.shape or predicted_K.ndim != 1 or len(predicted_K) < 3:
        raise UserError(
            "expected one predicted and one measured gain of at least 3 facts, got "
            f"{predicted_K.shape} and {measured_K.shape}"
        )
    if not all(np.isfinite(v).all() for v in (predicted_K, measured_K, control_C)):
        raise UserError("expected finite gains to compare; leave the facts without one out")
    if np.ptp(predicted_K) == 0:
        raise UserError(
            f"expected predictions that differ between facts, got {predicted_K[0]:g} for all"
        )
    facts = {"facts": len(predicted_K), "control": len(control_C)}
    weights = replicate_weights(facts, seed, resamples)
    share_RxK = weights["facts"] / len(predicted_K)
    null_R = weights["control"] @ control_C / len(control_C)
    x_R, y_R = share_RxK @ predicted_K, share_RxK @ measured_K
    spread_R = share_RxK @ predicted_K**2 - x_R**2
    common_R = share_RxK @ (predicted_K * measured_K) - x_R * y_R
    with np.errstate(divide="ignore", invalid="ignore"):
        slope_R = np.where(spread_R > 1e-12 * spread_R[0], common_R / spread_R, np.nan)
    line_Rx2 = np.stack([slope_R, y_R - null_R - slope_R * x_R], axis=1)
    counted = {name: n for name, n in facts.items() if n > 1}
    value, low, high = Estimate(line_Rx2, counted).interval()
    off_K = measured_K - null_R[0] - line_Rx2[0, 1] - line_Rx2[0, 0] * predicted_K
    flat = np.ptp(measured_K) == 0
    return Calibration(
        slope=Interval(value[0], low[0], high[0]),
        intercept=Interval(value[1], low[1], high[1]),
        correlation=float("nan") if flat else float(np.corrcoef(predicted_K, measured_K)[0, 1]),
        residual_sd=float(np.sqrt((off_K**2).sum() / (len(off_K) - 2))),
        n=len(predicted_K),
    )


def _poisson(kernel: Kernel, frequency_F, steps: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean over random times, R x F, and the spread over them under the data's own parameters."""
    count = int(min(_MOMENTS, max(steps, 1)))
    width = steps / count
    inner = (np.arange(_INNER) + 0.5) / _INNER

    def averaged(start_T, length):
        """Retention averaged over lags from `start_T`, R x T."""
        lags_TxI = (start_T[:, None] + length * inner) * width
        return kernel.retention(lags_TxI.ravel()).reshape(-1, *lags_TxI.shape).mean(-1)

    between_RxT = averaged(np.arange(1, count) - 0.5, 1.0)  # between the middles of moments
    within_Rx1 = averaged(np.zeros(1), 0.5)
    end_RxT = averaged(np.arange(count - 1.0, -1, -1), 1.0)
    rate_F = frequency_F * width
    effect_Rx1 = kernel.draws_RxQ[:, 0, None]
    # What is below 0 does not saturate.
    saturation_Rx1 = np.where(effect_Rx1 > 0, kernel.draws_RxQ[:, 1, None], 0)
    added_RxFxT = np.empty((len(effect_Rx1), len(rate_F), count))
    for t in range(count):
        since_RxT = between_RxT[:, :t][:, ::-1]
        met_RxFxT = saturation_Rx1[..., None] * added_RxFxT[:, :, :t] * since_RxT[:, None]
        lost_RxF = rate_F * -np.expm1(-met_RxFxT).sum(-1)
        latest_RxF = added_RxFxT[:, :, t - 1] if t else effect_Rx1
        lost_RxF = lost_RxF - rate_F / 2 * np.expm1(-saturation_Rx1 * latest_RxF * within_Rx1)
        added_RxFxT[:, :, t] = effect_Rx1 * np.exp(-lost_RxF)
    left_RxFxT = added_RxFxT * end_RxT[:, None]
    mean_RxF = left_RxFxT.sum(-1) * rate_F
    return mean_RxF, np.sqrt((left_RxFxT[0] ** 2).sum(-1) * rate_F)


def _regular(kernel: Kernel, frequency_F, steps: int) -> np.ndarray:
    mean_RxF = np.zeros((len(kernel.draws_RxQ), len(frequency_F)))
    for f, frequency in enumerate(frequency_F):
        count = int(np.floor(frequency * steps + 0.5))
        if count > _MOST:
            raise UserError(
                f"expected at most {_MOST} encounters of a fact under regular exposure, got "
                f"{count}; take exposure poisson"
            )
        if count:
            times = np.floor((np.arange(count) + 0.5) / frequency).astype(int)
            mean_RxF[:, f] = kernel.gains([times[times < steps]], np.array([[steps]]))[:, 0, 0]
    return mean_RxF
