"""The numbers of a facts study, each with its interval, from the probe log alone.

Names read ARM/DEPTH/MEASURE/FORM. "subtracted" is the arm less the never-injected control, whose
facts share templates and name space and go through the same measures on the same schedule. What is
compared with a control is measured at one lag after encounters for all probes, since the bias of a
maximum over noisy scores does not cancel (docs/statistics.md); "published" is at each probe's own
maximum, without a control, "published_control" the same of the control, and "published_subtracted"
the difference.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from llm_dynamics.facts import cells, estimates
from llm_dynamics.facts.cells import CONTROL, Cell
from llm_dynamics.facts.estimates import OUTLIERS, Study
from llm_dynamics.facts.forgetting_rows import CURVES, forgetting_rows
from llm_dynamics.facts.rows import NO_CONTROL, doubt, make_row
from llm_dynamics.facts.statistics import Estimate, mean_over_probes
from llm_dynamics.results import Row, note_not_shown

_NATS = "nats/token"
_FORMS = {
    "raw": "as measured",
    "control": "of never-injected facts on the same schedule",
    "subtracted": "arm less never-injected control",
}
_MAXIMUM = (
    "the interval is too narrow: each probe's maximum is sought in its own noise, which lifts arm "
    "and control unequally, and what the run shares moves all maxima together, so effectivity at "
    "one lag is what is compared (docs/statistics.md)"
)
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
                for form in CURVES:
                    decay, found = forgetting_rows(study, cell, control, form, kept, per_step)
                    rows += found
                    if decay is not None:
                        kept[f"decay_{form}"] = decay
                headline[arm, depth] = kept
                rows += _by_block(study, cell, control)
            rows += _final(study, arm, depth)
    return rows + _orderings(study, headline)


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
                    NO_CONTROL if found is None else "",
                )
            )
        rows.append(
            make_row(
                f"{cell.arm}/{cell.depth}/{measure}/control_share",
                None if null is None else null / raw,
                "1",
                f"share that never-injected facts show as well of: {definition}",
                NO_CONTROL if null is None else doubt(raw),
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
            NO_CONTROL if control is None else doubt(kept["gain_at_last_maximum"]),
        )
    )
    rows += _published_effectivity(study, cell, control)
    return kept, rows


def _published_effectivity(study: Study, cell: Cell, control: Cell | None) -> list[Row]:
    """Effectivity at each probe's own maximum: of the arm, of the control, and the difference."""
    path = f"{cell.arm}/{cell.depth}/effectivity/published"
    what = (
        "mean over probes and encounters of the largest log-probability within the window after an "
        "encounter less that just before it (Chang et al. 2024, Eq. 2); outliers beyond "
        f"{OUTLIERS} interquartile ranges removed"
    )
    raw, count, total = estimates.published_effectivity(study, cell)
    kept = f"{count} of {total} values kept"
    rows = [make_row(path, raw, _NATS, f"{what}, no control", kept)]
    forms = {
        "control": "of never-injected facts on the same schedule: what noise alone and what all "
        "texts teach make of a maximum",
        "subtracted": "arm less never-injected control, outliers removed from each by itself",
    }
    if control is None:
        return rows + [
            make_row(f"{path}_{form}", None, _NATS, f"{what}; {said}", NO_CONTROL)
            for form, said in forms.items()
        ]
    null, count, total = estimates.published_effectivity(study, control)
    notes = {
        "control": f"{count} of {total} values kept; {_MAXIMUM}",
        "subtracted": f"{kept}, {count} of {total} of the control; {_MAXIMUM}",
    }
    for form, found in (("control", null), ("subtracted", raw - null)):
        rows.append(make_row(f"{path}_{form}", found, _NATS, f"{what}; {forms[form]}", notes[form]))
    return rows


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
            rows.append(note_not_shown(row))
    return sorted(rows, key=lambda row: row["name"])
