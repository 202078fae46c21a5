"""The numbers of a facts study, each with its interval, from the probe log alone.

Names read ARM/DEPTH/MEASURE/FORM. "subtracted" is the arm less the never-injected control, whose
facts share templates and name space and go through the same measures on the same schedule. What is
compared with a control is measured at one lag after encounters for all probes, since the bias of a
maximum over noisy scores does not cancel (docs/statistics.md); "published" is at each probe's own
maximum, without a control.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from llm_dynamics.facts import cells, estimates, measures
from llm_dynamics.facts.cells import CONTROL, Cell
from llm_dynamics.facts.estimates import OUTLIERS, Study
from llm_dynamics.facts.fits import fit_log_decay
from llm_dynamics.facts.statistics import Estimate, mean_over_probes

Row = dict[str, Any]

TIMES = (1, 3, 10, 30, 100, 300, 1000, 3000)  # steps after the last maximum that are reported
_NATS = "nats/token"
_NO_CONTROL = "no never-injected control in this log"
_FORMS = {
    "raw": "as measured",
    "control": "of never-injected facts on the same schedule",
    "subtracted": "arm less never-injected control",
}
_MEASURES = {
    "gain_at_last_maximum": (
        estimates.gain_at_last_maximum,
        "mean log-probability of the target's tokens {lag} steps after the last encounter (where "
        "injected facts less control stand highest) less that just before the first encounter",
    ),
    "gain_at_end": (
        estimates.gain_at_end,
        "mean log-probability of the target's tokens at the end of the run less that just before "
        "the first encounter",
    ),
    "effectivity": (
        estimates.effectivity,
        "mean over probes and encounters of the log-probability {lag} steps after an encounter "
        "(where injected facts less control stand highest) less that just before it",
    ),
}
_CURVES = {
    "published": "mean over probes of the gain t steps after the last maximum over that at it "
    f"(Eq. 3), outliers beyond {OUTLIERS} interquartile ranges removed at each t, no control",
    "subtracted": "control-subtracted mean gain t steps after the last maximum over that at it",
}


def compute(
    log: xr.Dataset,
    schedule: Mapping[str, Sequence[int]],
    window: int,
    tokens_per_step: float | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> list[Row]:
    """All numbers of the study.

    Args:
      log: from `llm_dynamics.probe.log.open_log`; probes labelled fact, arm, depth, attribute.
      schedule: updates of each arm's encounters; the control's is ignored.
      window: steps after an encounter in which its maximum is sought.
      tokens_per_step: for thresholds in tokens; None = from the log's `tokens`.
      seed: of the bootstrap.
      resamples: of the bootstrap over facts.

    Returns:
      Rows {name, value, low, high, unit, n, definition, note}: 95 % intervals over n facts (those
      of the smallest arm involved). What does not exist is None, with the reason in `note`.

    Raises:
      UserError: an arm without a schedule, an unusable log, or steps that the measures need and
        the log lacks.
    """
    study = estimates.open_study(log, schedule, window, seed, resamples)
    per_step = tokens_per_step or cells.tokens_per_step(study.table)
    rows: list[Row] = []
    headline: dict[tuple[str, str], dict[str, Estimate]] = {}
    for arm in study.arms:
        for depth in study.depths:
            cell = study.cell(arm, depth)
            if cell is None:
                continue
            if arm != CONTROL:
                control = study.cell(CONTROL, depth, arm) if CONTROL in study.arms else None
                kept, found = _gains(study, cell, control)
                rows += found
                for form in _CURVES:
                    decay, found = _forgetting(study, cell, control, form, kept, per_step)
                    rows += found
                    if decay is not None:
                        kept[f"decay_{form}"] = decay
                headline[arm, depth] = kept
                rows += _by_block(study, cell, control)
            rows += _final(study, arm, depth)
    return rows + _orderings(study, headline)


def make_row(name, estimate: Estimate | None, unit: str, definition: str, note: str = "") -> Row:
    """A result from an estimate of one point; what does not exist is None, `note` says why."""
    notes = [note] if note else []
    value = low = high = None
    n = 0
    if estimate is not None:
        n = estimate.n
        value, low, high = (float(v[0]) for v in estimate.interval())
        if math.isinf(value):
            notes.append("the line does not fall and never reaches 0")
        elif math.isnan(value):
            notes.append("0 divided by 0")
        elif n < 2:
            notes.append("one fact: no interval")
        elif not (math.isfinite(low) and math.isfinite(high)):
            notes.append("no interval: some resamples have no finite value")
        value = value if math.isfinite(value) else None
        if value is None or not (math.isfinite(low) and math.isfinite(high)):
            low = high = None
    return {
        "name": name,
        "value": value,
        "low": low,
        "high": high,
        "unit": unit,
        "n": n,
        "definition": definition,
        "note": "; ".join(notes),
    }


def _gains(study: Study, cell: Cell, control: Cell | None) -> tuple[dict[str, Estimate], list[Row]]:
    """Rows of gains and effectivity, and the estimates that arms and depths are compared by."""
    kept, rows = {}, []
    for measure, (estimate, words) in _MEASURES.items():
        definition = words.format(lag=study.lag)
        raw = estimate(study, cell)
        null = None if control is None else estimate(study, control)
        subtracted = None if null is None else raw - null
        kept[measure] = raw if subtracted is None else subtracted
        for form, found in zip(_FORMS, (raw, null, subtracted), strict=True):
            rows.append(
                make_row(
                    f"{cell.arm}/{cell.depth}/{measure}/{form}",
                    found,
                    _NATS,
                    f"{definition}; {_FORMS[form]}",
                    _NO_CONTROL if found is None else "",
                )
            )
        rows.append(
            make_row(
                f"{cell.arm}/{cell.depth}/{measure}/control_share",
                None if null is None else null / raw,
                "1",
                f"share that never-injected facts show as well of: {definition}",
                _NO_CONTROL if null is None else _doubt(raw),
            )
        )
    published = estimates.published_gain(study, cell)
    path, at = f"{cell.arm}/{cell.depth}/gain_at_last_maximum", "each probe's own last maximum"
    rows.append(
        make_row(f"{path}/published", published, _NATS, f"gain at {at}, no control, as published")
    )
    rows.append(
        make_row(
            f"{path}/inflation",
            None if control is None else published / kept["gain_at_last_maximum"],
            "1",
            f"gain at {at} without control, as published, over the control-subtracted gain",
            _NO_CONTROL if control is None else _doubt(kept["gain_at_last_maximum"]),
        )
    )
    filtered, count, total = estimates.published_effectivity(study, cell)
    rows.append(
        make_row(
            f"{cell.arm}/{cell.depth}/effectivity/published",
            filtered,
            _NATS,
            "mean over probes and encounters of the largest log-probability within the window "
            "after an encounter less that just before it (Chang et al. 2024, Eq. 2); outliers "
            f"beyond {OUTLIERS} interquartile ranges removed, no control",
            f"{count} of {total} values kept",
        )
    )
    return kept, rows


def _by_block(study: Study, cell: Cell, control: Cell | None) -> list[Row]:
    """The gain in each block of facts, whose assignment to arms was drawn by itself."""
    labels = study.table.labels
    if control is None or len(set(labels.get("block", ()))) < 2:
        return []
    block_of = dict(zip(labels["fact"].tolist(), labels["block"].tolist(), strict=True))
    rows = []
    for block in sorted(set(block_of.values()), key=int):
        means = []
        for one in (cell, control):
            kept_P = np.array([block_of[fact] == block for fact in one.fact_P], float)
            mean = study.mean(one, one.gain_at_lag_TxP[:1], kept_P)
            inside = {fact for fact in one.fact_P if block_of[fact] == block}
            means.append(Estimate(mean.draws_RxT, {one.arm: len(inside)}))
        rows.append(
            make_row(
                f"{cell.arm}/{cell.depth}/gain_at_last_maximum/subtracted/block_{block}",
                means[0] - means[1],
                _NATS,
                f"{_MEASURES['gain_at_last_maximum'][1].format(lag=study.lag)}; "
                f"{_FORMS['subtracted']}; facts of block {block} alone",
            )
        )
    return rows


def _forgetting(
    study: Study, cell: Cell, control: Cell | None, form: str, kept, per_step: float
) -> tuple[Estimate | None, list[Row]]:
    """Rows of retainability and its fitted line in one form, and the decay constant."""
    name, offsets_T = f"{cell.arm}/{cell.depth}", cell.offsets_T
    if form == "published":
        curve = estimates.published_curve(study, cell)
        note = "every gain at the last maximum is exactly 0" if curve is None else ""
    else:
        curve = estimates.subtracted_curve(study, cell, control)
        note = _NO_CONTROL if curve is None else _doubt(kept["gain_at_last_maximum"])
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
                f"retainability at t = {t} steps: {_CURVES[form]}",
                note,
            )
        )
    line = None if curve is None else estimates.line_of(curve, offsets_T)
    definition = f"least-squares line of retainability on log10 t; retainability: {_CURVES[form]}"
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
    one = {"n": decay.n, "low": None, "high": None, "note": "of this curve; has no interval"}
    for key, value, unit, what in (
        ("r2", fit.r2, "1", "share of variance explained by the"),
        (
            "ols_stderr",
            fit.stderr,
            "1/decade",
            "standard error of a, too small as it takes steps for independent, of the",
        ),
    ):
        rows.append(
            {**make_row(f"{path}/{key}", None, unit, f"{what} {definition}"), **one, "value": value}
        )
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


def _final(study: Study, arm: str, depth: str) -> list[Row]:
    """What the final model answers, whatever it was before."""
    probes = cells.select(study.table, arm, depth)
    facts, weights = study.table.labels["fact"][probes].tolist(), study.weights[arm]
    greedy = mean_over_probes(study.table.greedy_P[probes], facts, arm, weights)
    logs = mean_over_probes(np.log(study.table.rank_P[probes]), facts, arm, weights)
    sizes = study.table.labels.get("candidates", np.array([""]))
    chance = ""
    if len(sizes) > 1 and all(size.isdigit() for size in sizes[probes]):
        share = float(np.mean(1 / sizes[probes].astype(float)))
        chance = f"guessing within the closed answer sets: {share:.4f}"
    return [
        make_row(
            f"{arm}/{depth}/final_accuracy",
            greedy,
            "1",
            "share of probes whose target is the greedy continuation at the end of the run",
            chance,
        ),
        make_row(
            f"{arm}/{depth}/final_rank",
            logs.then(np.exp),
            "rank",
            "geometric mean of the rank of the target's first token at the end of the run",
        ),
    ]


def _orderings(study: Study, headline) -> list[Row]:
    """Differences between arms at each depth, and between neighbouring depths in each arm."""
    injected = [arm for arm in study.arms if arm != CONTROL]
    pairs = [
        (f"{a}-minus-{b}/{depth}", (a, depth), (b, depth))
        for i, a in enumerate(injected)
        for b in injected[i + 1 :]
        for depth in study.depths
    ]
    pairs += [
        (f"{arm}/{a}-minus-{b}", (arm, a), (arm, b))
        for arm in injected
        for a, b in zip(study.depths[:-1], study.depths[1:], strict=True)
    ]
    corrected = "less control" if CONTROL in study.arms else "without a control"
    rows = []
    for label, one, other in pairs:
        for key in headline.get(one, {}).keys() & headline.get(other, {}).keys():
            decays = key.startswith("decay")
            row = make_row(
                f"ordering/{label}/{key}",
                headline[one][key] - headline[other][key],
                "1/decade" if decays else _NATS,
                f"difference of {key.replace('_', ' ')}" + ("" if decays else f", {corrected}"),
            )
            if row["low"] is not None and row["low"] <= 0 <= row["high"]:
                row["note"] = "not shown: the interval includes 0"
            rows.append(row)
    return sorted(rows, key=lambda row: row["name"])


def _doubt(denominator: Estimate) -> str:
    """Says when a ratio has a denominator that may be 0."""
    if denominator.n >= 2 and denominator.interval().low[0] > 0:
        return ""
    return "the gain it is a share of is not shown to be positive, so it means little"
