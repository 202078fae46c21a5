"""Rows of what is kept after the last maximum: retainability, its line, and other forms.

Names read ARM/DEPTH/retainability/FORM/T, ARM/DEPTH/decay/FORM/NUMBER and, for the
control-subtracted curve alone, ARM/DEPTH/forgetting/LAW/NUMBER.
"""

import math

import numpy as np

from llm_dynamics.errors import UserError
from llm_dynamics.facts import decay_models, estimates, gls, measures
from llm_dynamics.facts.cells import Cell
from llm_dynamics.facts.estimates import OUTLIERS, Study
from llm_dynamics.facts.fits import fit_log_decay
from llm_dynamics.facts.rows import NO_CONTROL, UNCLEAR, doubt, make_row
from llm_dynamics.facts.statistics import Estimate
from llm_dynamics.facts.threshold import threshold
from llm_dynamics.results import Row, exact, interval_row, note_not_shown

TIMES = (1, 3, 10, 30, 100, 300, 1000, 3000)  # steps after the last maximum that are reported
CURVES = {
    "published": "mean over probes of the gain t steps after the last maximum over that at it "
    f"(Eq. 3), outliers beyond {OUTLIERS} interquartile ranges removed at each t, no control",
    "subtracted": "control-subtracted mean gain t steps after the last maximum over that at it",
}
_UNTIL = 0.25  # share of the time after the last maximum that forms are fitted to
_LINES = {
    "binned": "least-squares line through averages over equal steps of log10 t",
    "gls": "line by generalised least squares with AR(1) errors",
}
_LEAST = 5  # steps that those need
_LEANS = (
    "leans on the first steps: with a lag chosen from the same scores, as here, its interval is "
    "too narrow"
)
_EARLY = f"1 <= t <= {_UNTIL:g} of the last t"
_LATE = f"t > {_UNTIL:g} of the last t"


def forgetting_rows(
    study: Study, cell: Cell, control: Cell | None, form: str, kept, per_step: float
) -> tuple[Estimate | None, list[Row]]:
    """Rows of retainability and its fitted line in one form, and the decay constant."""
    name, offsets_T = f"{cell.arm}/{cell.depth}", cell.offsets_T
    if form == "published":
        curve = estimates.published_curve(study, cell)
        note = "every gain at the last maximum is exactly 0" if curve is None else ""
    else:
        curve = estimates.subtracted_curve(study, cell, control)
        note = NO_CONTROL if curve is None else doubt(kept["gain_at_last_maximum"])
    if measures.between_rows(study.table.steps_S, [cell.last]):
        note = "; ".join(filter(None, (note, "between recorded steps: interpolated linearly")))
    rows = []
    if form == "subtracted":
        doubtful = bool(doubt(kept["gain_at_last_maximum"]))
        rows += _other_laws(cell, curve, doubtful, note)
    chosen = {t for t in (*TIMES, int(offsets_T[-1])) if t in offsets_T and t > 0}
    for t in sorted(chosen):
        at = int(np.searchsorted(offsets_T, t))
        point = None if curve is None else curve.then(lambda r, at=at: r[:, at : at + 1])
        rows.append(
            make_row(
                f"{name}/retainability/{form}/{t}",
                point,
                "1",
                f"retainability at t = {t} steps: {CURVES[form]}",
                note,
            )
        )
    line = None if curve is None else estimates.line_of(curve, offsets_T)
    definition = f"least-squares line of retainability on log10 t; retainability: {CURVES[form]}"
    path = f"{name}/decay/{form}"
    if line is None or not np.isfinite(line.draws_RxT[0]).all():
        why = note or "fewer than two recorded steps after the last maximum"
        return None, [*rows, make_row(f"{path}/a", None, "1/decade", definition, why)]
    later_T = offsets_T >= 1
    fit = fit_log_decay(offsets_T[later_T], curve.draws_RxT[0, later_T])
    decay = line.then(lambda c: -c[:, :1])
    rows.append(
        make_row(
            f"{path}/a", decay, "1/decade", f"share lost per factor of ten: {definition}", note
        )
    )
    for key, value, unit, what, lost in (
        ("r2", fit.r2, "1", "share of variance explained by the", "the curve is constant"),
        (
            "ols_stderr",
            fit.stderr,
            "1/decade",
            "standard error of a, too small as it takes steps for independent, of the",
            "two points leave no residual",
        ),
    ):
        words, why = f"{what} {definition}", "of this curve; has no interval"
        found = exact(math.nan if value is None else value)
        rows.append(interval_row(f"{path}/{key}", found, unit, decay.n, words, why, lost))
    reach, at = threshold(line, fit.last), estimates.crossing(line)
    for unit, shift in (("steps", 0.0), ("tokens", math.log10(per_step))):
        rows.append(
            make_row(
                f"{path}/x_intercept_{unit}",
                at.then(lambda x, shift=shift: x + shift),
                f"log10 {unit}",
                f"log10 of the time at which retainability reaches 0 by the {definition}",
                "; ".join(filter(None, (note, reach.shifted(shift).note))),
                missing="",
            )
        )
    return decay, rows


def _other_laws(cell: Cell, curve: Estimate | None, doubtful: bool, note: str) -> list[Row]:
    """Rows of the line fitted in other ways, and of other forms judged by held-out times."""
    path, offsets_T = f"{cell.arm}/{cell.depth}", cell.offsets_T
    if curve is None:
        lost = note
    elif doubtful:
        curve, lost = None, UNCLEAR
    elif (offsets_T >= 1).sum() < _LEAST:
        curve, lost = None, f"fewer than {_LEAST} steps after the last maximum"
    else:
        lost = ""
    rows = []
    for method, words in _LINES.items():
        decay, said = None, lost
        if curve is not None:
            decay = gls.line_estimate(curve, offsets_T, method).then(lambda c: -c[:, :1])
            said = "; ".join(filter(None, (note, _LEANS)))
        definition = f"share lost per factor of ten: {words}; retainability: {CURVES['subtracted']}"
        rows.append(
            make_row(f"{path}/decay/subtracted/a_{method}", decay, "1/decade", definition, said)
        )
    return rows + _forms(path, curve, offsets_T, lost or note)


def _forms(path: str, curve: Estimate | None, offsets_T: np.ndarray, note: str) -> list[Row]:
    """Rows of how each form, fitted to early times, predicts the later ones."""
    scores, n = {}, 0
    if curve is not None:
        try:
            found = decay_models.compare(curve, offsets_T, _UNTIL)
            scores, n = {score.form: score for score in found}, curve.n
        except UserError as error:
            note = f"too few steps after the last maximum: {error}"
    rows = []
    nothing = exact(math.nan)
    for form in decay_models.FORMS:
        score, fitted = scores.get(form), note
        if score is not None:
            values = ", ".join(f"{name} = {x:.3g}" for name, x in score.parameters.items())
            fitted = "; ".join(filter(None, (note, f"fitted {values}")))
        what = f"root of the mean squared error of R over bins of log10 t at {_LATE} of"
        words = f"{form.replace('_', ' ')}, fitted to {_EARLY}; R: {CURVES['subtracted']}"
        at = f"{path}/forgetting/{form}"
        error = nothing if score is None else score.rmse
        rows.append(
            interval_row(f"{at}/heldout_error", error, "1", n, f"{what} {words}", fitted, "")
        )
        if form == decay_models.LINE:
            continue
        excess = nothing if score is None else score.excess
        words = f"{what} {words}; less that of the line on log10 t, below 0: predicts better"
        row = interval_row(f"{at}/less_log_linear", excess, "1", n, words, note, "")
        rows.append(note_not_shown(row))
    return rows
