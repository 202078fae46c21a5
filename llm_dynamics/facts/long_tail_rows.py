"""Facts met at Zipf frequencies beside what the law of retention foretells, of one run.

The law is fitted to other arms and never sees these facts. It foretells the gain of each at the
end of the run from the times at which that fact was met. What never-injected facts gain over the
same steps is subtracted fact by fact: rare facts are met first at another time than frequent ones,
and what all probes gain in between would pass for an effect of frequency. Measured and foretold
share the replicates of the control.

Axes: R replicates, K facts of the arm, C facts of the control.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from llm_dynamics.errors import UserError
from llm_dynamics.facts import measures
from llm_dynamics.facts.cells import CONTROL
from llm_dynamics.facts.estimates import Study
from llm_dynamics.facts.kernel import FORMS, Kernel
from llm_dynamics.facts.kernel_fit import Observed, fit, observe_table
from llm_dynamics.facts.long_tail import calibrate
from llm_dynamics.facts.rows import make_row
from llm_dynamics.facts.statistics import Estimate
from llm_dynamics.results import Interval, Row, exact, interval_row, note_not_shown

LEVEL = 0.95  # nominal share of facts within the interval of one fact
NULLS = {
    "calibration-slope": 1.0,
    "covered": LEVEL,
}  # of rows whose value is not 0 when all is well
_NOISES = 20  # single facts drawn for each replicate
_SLOPE = "nats/token/doubling"


def long_tail_rows(
    study: Study,
    arm: str,
    depth: str,
    others: Sequence[str],
    prefix: str,
    beta1: float = 0.9,
    seed: int = 0,
    resamples: int = 200,
) -> list[Row]:
    """Slopes on frequency, measured and foretold, and how well single facts are foretold.

    Args:
      study: of a log with a never-injected control.
      arm: whose facts differ in their number of encounters.
      depth: of the probes.
      others: arms the law is fitted to, met in the same kind of words; the form of `kernel.FORMS`
        with the smallest residual is taken.
      prefix: of the names: PREFIX/measured, predicted, measured-minus-predicted,
        calibration-slope, covered.
      beta1: of Adam's first moment.
      seed: of the spread of single facts.
      resamples: replicates used, of those of the study in which facts alone are resampled.

    Returns:
      Rows whose values are None where they do not exist; `note` says why.

    Raises:
      UserError: arms that a law cannot be fitted to; see `kernel_fit.fit`.
    """
    study = study.over_facts_alone()
    weights = {name: drawn_RxK[: resamples + 1] for name, drawn_RxK in study.weights.items()}
    kernel = _law(study, depth, others, beta1, weights)
    (tail,), control_SxC = observe_table(study.table, study.times(arm), depth, [arm])
    measured_RxK = _measured(tail, control_SxC, weights[CONTROL])
    end_Kx1 = np.full((len(tail.encounters), 1), study.table.steps_S[-1])
    predicted_RxK = kernel.gains(tail.encounters, end_Kx1)[:, :, 0]
    facts = {**kernel.facts, arm: len(tail.encounters)}
    log2_K = np.log2([len(met) for met in tail.encounters])
    slopes = [
        Estimate(_slope(weights[arm], log2_K, gain_RxK)[:, None], facts)
        for gain_RxK in (measured_RxK, predicted_RxK)
    ]
    doubt = kernel.doubts.get("effect", "")
    note = f"what an encounter adds is {doubt}" if doubt else ""
    what = f"gain at the end, control-subtracted, of facts of arm {arm}"
    law = (
        f"the law of retention ({kernel.form.replace('_', ' ')}) fitted to {', '.join(others)}, "
        "at the times each fact was met"
    )
    on = "on log2 of a fact's number of encounters"
    return [
        note_not_shown(
            make_row(f"{prefix}/measured", slopes[0], _SLOPE, f"slope of the {what} {on}")
        ),
        make_row(
            f"{prefix}/predicted", slopes[1], _SLOPE, f"slope {on} of the {what}, by {law}", note
        ),
        note_not_shown(
            make_row(
                f"{prefix}/measured-minus-predicted",
                slopes[0] - slopes[1],
                _SLOPE,
                f"slope {on} of the {what}, measured less foretold by {law}",
                note,
            )
        ),
        _calibration(
            f"{prefix}/calibration-slope",
            predicted_RxK[0],
            measured_RxK[0],
            f"least-squares slope of the {what}, measured, on that foretold by {law}; 1: as "
            "foretold; interval over these facts alone",
            note,
        ),
        _covered(
            f"{prefix}/covered",
            kernel,
            predicted_RxK,
            measured_RxK[0],
            f"share of facts whose {what} lies within the 95 % interval of one fact by {law}; "
            "interval: Clopper and Pearson's",
            note,
            seed,
        ),
    ]


def _law(study: Study, depth: str, others: Sequence[str], beta1: float, weights) -> Kernel:
    """The form that fits the other arms best, in the replicates of the study."""
    observed = []
    for arm in others:
        found, control_SxC = observe_table(study.table, study.times(arm), depth, [arm])
        observed += found
    kernels = [fit(observed, control_SxC, form, beta1, weights=weights) for form in FORMS]
    return min(kernels, key=lambda kernel: kernel.residual)


def _measured(tail: Observed, control_SxC: np.ndarray, weights_RxC: np.ndarray) -> np.ndarray:
    """Gain of each fact from just before its first encounter to the end, less the control's."""
    first_K = np.array([met[0] for met in tail.encounters])
    rows_K = measures.rows_at(tail.steps_S, first_K, "the score before the first encounter")
    gain_K = tail.score_SxK[-1] - tail.score_SxK[rows_K, np.arange(len(rows_K))]
    null_CxK = (control_SxC[-1] - control_SxC[rows_K]).T
    return gain_K - weights_RxC @ null_CxK / weights_RxC.sum(axis=1, keepdims=True)


def _slope(weights_RxK: np.ndarray, x_K: np.ndarray, y_RxK: np.ndarray) -> np.ndarray:
    """Weighted least squares in every replicate; NaN where all drawn facts are as frequent."""
    share_RxK = weights_RxK / weights_RxK.sum(axis=1, keepdims=True)
    lever_RxK = share_RxK * (x_K - (share_RxK @ x_K)[:, None])
    spread_R = lever_RxK @ x_K
    with np.errstate(invalid="ignore", divide="ignore"):
        slope_R = (lever_RxK * y_RxK).sum(axis=1) / spread_R
    return np.where(spread_R > 1e-12 * np.square(x_K).max(), slope_R, np.nan)


def _calibration(name: str, predicted_K, measured_K, words: str, note: str) -> Row:
    try:
        found = calibrate(predicted_K, measured_K)
    except UserError as error:
        return make_row(name, None, "1", words, str(error))
    return note_not_shown(interval_row(name, found.slope, "1", found.n, words, note), 1.0)


def _covered(name: str, kernel: Kernel, predicted_RxK, measured_K, words, note, seed) -> Row:
    if math.isnan(kernel.fact_sd):
        why = "the spread of single facts is unknown"
        return interval_row(name, exact(math.nan), "1", 0, words, why, missing="")
    shape = (len(predicted_RxK) - 1, _NOISES, len(measured_K))
    noise = kernel.fact_sd * np.random.default_rng(seed).standard_normal(shape)
    single = (predicted_RxK[1:, None] + noise).reshape(-1, shape[-1])
    _, low_K, high_K = kernel.estimate(np.concatenate([predicted_RxK[:1], single])).interval(LEVEL)
    inside = int(((low_K <= measured_K) & (measured_K <= high_K)).sum())
    # Resampling facts of which all are inside would give an interval of no width.
    ends = stats.binomtest(inside, len(measured_K)).proportion_ci()
    share = Interval(*(np.array([x]) for x in (inside / len(measured_K), ends.low, ends.high)))
    return note_not_shown(interval_row(name, share, "1", len(measured_K), words, note), LEVEL)
