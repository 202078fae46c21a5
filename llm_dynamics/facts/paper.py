"""The procedure of Chang et al. 2024 to the letter, on any probe log that holds every step.

Nothing is subtracted and nothing is resampled: facts that were never injected have a positive
effectivity too, and the standard errors take the steps of one curve for independent. `results`
has the measures with a control and intervals.

Axes: S recorded steps, P probes, U encounters, T steps after the last local acquisition maximum.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from llm_dynamics.errors import UserError
from llm_dynamics.facts import cells, measures
from llm_dynamics.facts.fits import LogDecay, fit_log_decay

WINDOW = 50  # steps, Eq. 1
OUTLIERS = (1.5, 2.0, None)  # interquartile factor of the paper, of its released code, no filter


@dataclass(frozen=True)
class EncounterGain:
    """Effectivity of one encounter, as in the curves of App. H.

    Attributes:
      step: update of the encounter.
      mean: nats per token over the values kept; None when every probe failed.
      kept: values in the mean.
      outliers: values removed by the interquartile rule.
      failures: probes left out before, because their maximum lies below the score before the
        first encounter.
    """

    step: int
    mean: float | None
    kept: int
    outliers: int
    failures: int


@dataclass(frozen=True, eq=False)
class PaperCell:
    """What the paper reports of one arm at one depth.

    Attributes:
      arm, depth: labels of the probes.
      facts, probes: how many.
      encounters: updates.
      effectivity: mean of E (Eq. 2) over probes and encounters without outliers, nats per token.
      effectivity_kept, effectivity_total: values in that mean, and before the filter.
      per_encounter: one for each encounter.
      offsets_T: 0, 1, 2, ... steps, as far as every probe of every arm has a score.
      curve_T: mean of the ratios of Eq. 3 without the outliers of each t; None without ratios.
      kept_T: probes in the mean at each t.
      without_ratio: probes whose denominator is exactly 0; they have no ratio and are left out.
      negative: probes with a negative denominator (never learned); they stay in, as published.
      decay: line of the curve on log10 t over t = 1, 2, ..., its end (Eq. 4); None when there
        are fewer than two such steps or no curve.
      tokens_per_step: tokens of one update.
      note: why something does not exist.
    """

    arm: str
    depth: str
    facts: int
    probes: int
    encounters: tuple[int, ...]
    effectivity: float
    effectivity_kept: int
    effectivity_total: int
    per_encounter: tuple[EncounterGain, ...]
    offsets_T: np.ndarray
    curve_T: np.ndarray | None
    kept_T: np.ndarray | None
    without_ratio: int
    negative: int
    decay: LogDecay | None
    tokens_per_step: float
    note: str = ""

    @property
    def x_intercept_steps(self) -> float | None:
        """log10 of the steps at which the line reaches 0."""
        return self.decay.x_intercept if self.decay else None

    @property
    def x_intercept_tokens(self) -> float | None:
        """log10 of the tokens at which the line reaches 0: a change of unit only shifts it."""
        steps = self.x_intercept_steps
        return None if steps is None else steps + math.log10(self.tokens_per_step)


def analyse(
    log: xr.Dataset,
    schedule: Mapping[str, Sequence[int]],
    window: int = WINDOW,
    outliers: float | None = 1.5,
    tokens_per_step: float | None = None,
) -> list[PaperCell]:
    """Effectivity, retainability and its fitted line of every arm and depth.

    The curve ends where the published code ends it: at the last t that every probe of every arm
    has whatever its maximum, i.e. `last step - (latest encounter + window)`, also for an arm
    whose own encounters ended long before. Two of that code's ways are not the paper's and are
    not followed: it leaves probes without a ratio out of the effectivity too, and its
    per-encounter means keep the failure cases that App. H excludes.

    Args:
      log: from `probe.log.open_log` or `published_log.read_published_log`; labelled fact, arm,
        depth and attribute.
      schedule: arm -> updates of its encounters; arms without any are skipped. A control given
        the schedule of another arm shows what the procedure makes of facts nobody taught.
      window: steps after an encounter in which its maximum is sought, (t, t + window].
      outliers: 1.5 as in the paper, 2.0 as in its released code, None for no filter.
      tokens_per_step: for x-intercepts in tokens; None = from the log's `tokens`.

    Returns:
      One cell per arm and depth that has probes, in the order of the log's arms.

    Raises:
      UserError: a setting the procedure does not have, an arm without a schedule, an unusable
        log, or a step that the procedure needs and the log lacks.
    """
    if outliers not in OUTLIERS:
        raise UserError(
            f"expected outliers 1.5 (the paper), 2.0 (its released code) or none, got {outliers}"
        )
    table = cells.read_table(log)
    arms, depths = cells.arms_and_depths(table)
    times = _checked(schedule, arms, window)
    per_step = tokens_per_step or cells.tokens_per_step(table)
    latest = max(times.values(), key=lambda steps: steps[-1])
    offsets_T = measures.common_offsets(table.steps_S, latest, window)
    found = []
    for arm, encounters in times.items():
        after = np.arange(encounters[-1] + 1, encounters[-1] + window + len(offsets_T))
        measures.rows_at(table.steps_S, after, "the curve of the paper")
        for depth in depths:
            probes = cells.select(table, arm, depth)
            if probes.size:
                loglik_SxP = table.loglik_SxP[:, probes]
                found.append(
                    PaperCell(
                        arm=arm,
                        depth=depth,
                        facts=len(set(table.labels["fact"][probes].tolist())),
                        probes=len(probes),
                        encounters=encounters,
                        offsets_T=offsets_T,
                        tokens_per_step=per_step,
                        **_gains(loglik_SxP, table.steps_S, encounters, window, outliers),
                        **_forgetting(
                            loglik_SxP, table.steps_S, encounters, window, outliers, offsets_T
                        ),
                    )
                )
    return found


def as_record(cell: PaperCell) -> dict[str, Any]:
    """The cell as JSON values, its curve included."""
    record = {
        f.name: getattr(cell, f.name)
        for f in dataclasses.fields(cell)
        if f.name not in ("offsets_T", "curve_T", "kept_T", "per_encounter", "decay")
    }
    return record | {
        "encounters": list(cell.encounters),
        "per_encounter": [dataclasses.asdict(gain) for gain in cell.per_encounter],
        "decay": dataclasses.asdict(cell.decay) if cell.decay else None,
        "x_intercept_steps": cell.x_intercept_steps,
        "x_intercept_tokens": cell.x_intercept_tokens,
        "curve": None if cell.curve_T is None else cell.curve_T.tolist(),
        "curve_probes_kept": None if cell.kept_T is None else cell.kept_T.tolist(),
    }


def _checked(
    schedule: Mapping[str, Sequence[int]], arms: Sequence[str], window: int
) -> dict[str, tuple[int, ...]]:
    """The encounters of the arms that have some."""
    if window < 1:
        raise UserError(f"expected a window of at least 1 step, got {window}")
    unknown = [arm for arm in arms if arm not in schedule and arm != cells.CONTROL]
    unknown += [arm for arm in schedule if arm not in arms and len(schedule[arm])]
    if unknown:
        raise UserError(
            f"expected a schedule for the arms of the log ({', '.join(arms)}), got one for "
            f"{', '.join(schedule) or 'none'}: arm {unknown[0]!r} is in one of them only"
        )
    times = {arm: tuple(int(t) for t in schedule.get(arm, ())) for arm in arms}
    times = {arm: steps for arm, steps in times.items() if steps}
    if not times:
        raise UserError("expected at least one arm with encounters in the schedule, got none")
    for arm, steps in times.items():
        gap = min(np.diff(steps), default=window)
        if steps[0] < 0 or gap < 1:
            raise UserError(
                f"expected ascending updates from 0 on as encounters of arm {arm!r}, got {steps}"
            )
        if window > gap:
            raise UserError(
                f"expected a window of at most {gap} steps, the shortest interval between "
                f"encounters of arm {arm!r}, got {window}: a maximum would be credited to the "
                "wrong encounter"
            )
    return times


def _gains(loglik_SxP, steps_S, encounters, window, outliers) -> dict[str, Any]:
    """Effectivity over all encounters, with one filter for all of them, and of each."""
    gain_UxP = measures.effectivity(loglik_SxP, steps_S, encounters, window)
    keep_UxP = measures.interquartile_keep(gain_UxP.ravel(), outliers).reshape(gain_UxP.shape)
    top_UxP = measures.local_acquisition_maximum(loglik_SxP, steps_S, encounters, window).value_UxP
    first = measures.rows_at(steps_S, np.asarray(encounters[:1]), "the score before training")
    learned_UxP = top_UxP >= loglik_SxP[first]
    each = []
    for step, gain_P, learned_P in zip(encounters, gain_UxP, learned_UxP, strict=True):
        values = gain_P[learned_P]
        kept = values[measures.interquartile_keep(values, outliers)]
        each.append(
            EncounterGain(
                step=step,
                mean=float(kept.mean()) if kept.size else None,
                kept=kept.size,
                outliers=values.size - kept.size,
                failures=int((~learned_P).sum()),
            )
        )
    return {
        "effectivity": float(gain_UxP[keep_UxP].mean()),
        "effectivity_kept": int(keep_UxP.sum()),
        "effectivity_total": keep_UxP.size,
        "per_encounter": tuple(each),
    }


def _forgetting(loglik_SxP, steps_S, encounters, window, outliers, offsets_T) -> dict[str, Any]:
    """The mean-of-ratios curve and its line."""
    gain_TxP = measures.after_last_maximum(loglik_SxP, steps_S, encounters, window, offsets_T)
    ratios = measures.retainability(gain_TxP)
    counts = {
        "without_ratio": int((~ratios.kept_P).sum()),
        "negative": int((gain_TxP[0] < 0).sum()),
    }
    if not ratios.kept_P.any():
        note = "every gain at the last maximum is exactly 0"
        return {"curve_T": None, "kept_T": None, "decay": None, "note": note, **counts}
    curve_T, kept_TxP = measures.mean_of_ratios(ratios.ratio_TxP, outliers)
    enough = len(offsets_T) > 2  # t = 0 is no point of the line
    return {
        "curve_T": curve_T,
        "kept_T": kept_TxP.sum(axis=1),
        "decay": fit_log_decay(offsets_T[1:], curve_T[1:]) if enough else None,
        "note": "" if enough else "fewer than two steps after the last maximum",
        **counts,
    }
