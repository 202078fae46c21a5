"""Rows of what is kept after the last maximum: retainability, and the line fitted to it."""

import math

import numpy as np

from llm_dynamics.facts import estimates, measures
from llm_dynamics.facts.cells import Cell
from llm_dynamics.facts.estimates import OUTLIERS, Study
from llm_dynamics.facts.fits import fit_log_decay
from llm_dynamics.facts.rows import NO_CONTROL, Row, doubt, exact, interval_row, make_row
from llm_dynamics.facts.statistics import Estimate

TIMES = (1, 3, 10, 30, 100, 300, 1000, 3000)  # steps after the last maximum that are reported
CURVES = {
    "published": "mean over probes of the gain t steps after the last maximum over that at it "
    f"(Eq. 3), outliers beyond {OUTLIERS} interquartile ranges removed at each t, no control",
    "subtracted": "control-subtracted mean gain t steps after the last maximum over that at it",
}


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
    constant = "the curve is constant"
    for key, value, unit, what in (
        ("r2", fit.r2, "1", "share of variance explained by the"),
        (
            "ols_stderr",
            fit.stderr,
            "1/decade",
            "standard error of a, too small as it takes steps for independent, of the",
        ),
    ):
        words, why = f"{what} {definition}", "of this curve; has no interval"
        found = exact(math.nan if value is None else value)
        rows.append(interval_row(f"{path}/{key}", found, unit, decay.n, words, why, constant))
    reach = estimates.crossing(line)
    outside = f"extrapolated: the data end at log10 t = {fit.last:.2f} steps"
    for unit, shift in (("steps", 0.0), ("tokens", math.log10(per_step))):
        rows.append(
            make_row(
                f"{path}/x_intercept_{unit}",
                reach.then(lambda x, shift=shift: x + shift),
                f"log10 {unit}",
                f"log10 of the time at which retainability reaches 0 by the {definition}",
                "; ".join(filter(None, (note, outside if fit.extrapolated else ""))),
            )
        )
    return decay, rows
