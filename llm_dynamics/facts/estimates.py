"""From cells of the log to estimates: gains, effectivity, forgetting curves, their fitted lines.

Axes as in `cells`; R replicates of the facts.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from llm_dynamics.errors import UserError
from llm_dynamics.facts import cells, measures
from llm_dynamics.facts.cells import CONTROL, Cell, Table
from llm_dynamics.facts.common_lag import common_lag
from llm_dynamics.facts.fits import line_coefficients
from llm_dynamics.facts.statistics import (
    Estimate,
    facts_alone,
    mean_over_probes,
    replicate_weights,
)

OUTLIERS = 1.5  # interquartile factor of the paper (Sec. 3)


@dataclass(frozen=True)
class Study:
    """A log, its schedule and the replicates of its facts.

    Attributes:
      table: the log as arrays.
      arms, depths: in the order of report, the control last.
      schedule: injected arm -> updates of its encounters; of facts with times of their own the
        log says them.
      window: steps after an encounter in which its maximum is sought.
      lag: steps after an encounter at which gains less control are taken; see `common_lag`.
      weights: arm -> R x K.
      runs: how many the table is of.
      seeds: independent units of runs that were resampled with the facts; 1 = facts alone.
      centred: the table less what each fact has on average over all runs, where every fact takes
        every arm: differences between arms are the same, and what facts differ in, said or not,
        is gone from the replicates that draw runs as well; None = the table itself.
    """

    table: Table
    arms: tuple[str, ...]
    depths: tuple[str, ...]
    schedule: Mapping[str, tuple[int, ...]]
    window: int
    lag: int
    weights: Mapping[str, np.ndarray]
    runs: int = 1
    seeds: int = 1
    centred: Table | None = None

    def for_contrasts(self) -> "Study":
        """The study for measures that are linear in the scores, to be subtracted between arms."""
        if self.centred is None:
            return self
        return dataclasses.replace(self, table=self.centred, centred=None)

    def over_facts_alone(self) -> "Study":
        """The study with those replicates alone that keep all runs."""
        if self.seeds == 1:
            return self
        alone = facts_alone(len(next(iter(self.weights.values()))) - 1)
        kept = {
            arm: np.concatenate([drawn_RxK[:1], drawn_RxK[len(drawn_RxK) - alone :]])
            for arm, drawn_RxK in self.weights.items()
        }
        return dataclasses.replace(self, weights=kept, seeds=1)

    def facts_of(self, arm: str) -> frozenset[str]:
        """The names of an arm's facts."""
        labels = self.table.labels
        return frozenset(labels["fact"][labels["arm"] == arm].tolist())

    def cell(self, arm: str, depth: str, schedule_of: str | None = None) -> Cell | None:
        """The cell of an arm, seen on its own encounters or those of another arm's facts.

        The control, which has none, is seen on those of the arm with most encounters.
        """
        times = self.times(arm)
        if arm == CONTROL or schedule_of is not None:
            other = list(self.times(schedule_of or self._busiest()).values())
            times = {fact: other[i % len(other)] for i, fact in enumerate(times)}
        return cells.cut(self.table, arm, depth, times, self.window, self.lag)

    def times(self, arm: str) -> dict[str, tuple[int, ...]]:
        """Updates of the encounters of each fact of an arm."""
        return cells.times_of(self.table, arm, self.schedule.get(arm, ()))

    def _busiest(self) -> str:
        injected = [arm for arm in self.arms if arm != CONTROL]
        return max(injected, key=lambda arm: max(map(len, self.times(arm).values())))

    def mean(self, cell: Cell, values_TxP: np.ndarray, kept_TxP=None) -> Estimate:
        """Mean over the probes of a cell, facts resampled."""
        weights_RxK = self.weights[cell.arm]
        return mean_over_probes(
            values_TxP, cell.fact_P, cell.arm, weights_RxK, kept_TxP, self.seeds
        )


def open_study(log, schedule, window: int, seed: int, resamples: int) -> Study:
    """Checks a log against a schedule.

    Raises:
      UserError: an arm of the log without encounters, or an unusable log.
    """
    table = cells.read_table(log)
    arms, depths = cells.arms_and_depths(table)
    times = {arm: tuple(schedule.get(arm, ())) for arm in arms if arm != CONTROL}
    for arm, steps in times.items():
        if not all(cells.times_of(table, arm, steps).values()):
            raise UserError(
                f"expected the encounter steps of arm {arm!r} of the probe log, got a schedule of "
                f"{', '.join(schedule) or 'no arm'}"
            )
    if not times:
        raise UserError(f"expected an injected arm in the probe log, got {', '.join(arms)}")
    weights = _weights(table, seed, resamples)
    lag = choose_lag(table, times, window)
    return Study(table, tuple(arms), tuple(depths), times, window, lag, weights)


def _weights(table: Table, seed: int, resamples: int) -> dict[str, np.ndarray]:
    """Replicates of the facts of every arm; matched sets are resampled as wholes."""
    facts, sets = cells.facts_of_arms(table), table.labels.get("set")
    names = np.unique(sets) if sets is not None else []
    if not all(count == len(names) for count in facts.values()):
        return replicate_weights(facts, seed, resamples)
    drawn_RxK = replicate_weights({"set": len(names)}, seed, resamples)["set"]
    set_of = dict(zip(table.labels["fact"].tolist(), sets.tolist(), strict=True))
    weights = {}
    for arm in facts:
        members = np.unique(table.labels["fact"][table.labels["arm"] == arm])
        columns = np.searchsorted(names, [set_of[fact] for fact in members.tolist()])
        weights[arm] = drawn_RxK[:, columns]
    return weights


def choose_lag(table: Table, schedule: Mapping[str, Sequence[int]], window: int) -> int:
    """One lag for the whole study, chosen from all its injected facts; see `common_lag`."""
    is_control = table.labels["arm"] == CONTROL
    control_S = table.loglik_SxP[:, is_control].mean(axis=1) if is_control.any() else 0.0
    times = {
        (arm, fact): found
        for arm, steps in schedule.items()
        for fact, found in cells.times_of(table, arm, steps).items()
    }
    last = max(found[-1] for found in times.values())
    measures.common_offsets(table.steps_S, [last], window)  # refuses a run that ends before
    labels = table.labels
    groups = (
        (table.loglik_SxP[:, (labels["arm"] == arm) & (labels["fact"] == fact)], found)
        for (arm, fact), found in times.items()
    )
    return common_lag(groups, control_S, table.steps_S, window)


def gain_at_last_maximum(study: Study, cell: Cell) -> Estimate:
    """Mean gain at the study's lag after the last encounter."""
    return study.mean(cell, cell.gain_at_lag_TxP[0])


def published_gain(study: Study, cell: Cell) -> Estimate:
    """Mean gain at the last local acquisition maximum of each probe, no control."""
    return study.mean(cell, cell.gain_TxP[0])


def gain_at_end(study: Study, cell: Cell) -> Estimate:
    """Mean gain at the last recorded step."""
    return study.mean(cell, cell.change_SxP[-1])


def effectivity(study: Study, cell: Cell) -> Estimate:
    """Mean over probes and encounters, at the study's lag."""
    return study.mean(cell, np.nanmean(cell.effectivity_at_lag_UxP, axis=0))


def published_effectivity(study: Study, cell: Cell) -> tuple[Estimate, int, int]:
    """At each probe's own maximum and without outliers, one filter over probes and encounters.

    Returns the estimate, the number of values kept, and of all.
    """
    met_UxP = np.isfinite(cell.effectivity_UxP)
    keep_UxP = met_UxP.copy()
    keep_UxP[met_UxP] = measures.interquartile_keep(cell.effectivity_UxP[met_UxP], OUTLIERS)
    # Averaged within each probe first, its kept encounters as the weight.
    count_P = keep_UxP.sum(axis=0)
    mean_P = np.where(keep_UxP, cell.effectivity_UxP, 0.0).sum(axis=0) / np.maximum(count_P, 1)
    return study.mean(cell, mean_P, count_P), int(keep_UxP.sum()), int(met_UxP.sum())


def published_curve(study: Study, cell: Cell) -> Estimate | None:
    """Retainability as a mean of ratios with the outlier filter of each t, R x T.

    None when no probe has a ratio. The filter is that of the data in every replicate.
    """
    ratio_TxP, kept_P = measures.retainability(cell.gain_TxP)
    if not kept_P.any():
        return None
    _, kept_TxP = measures.mean_of_ratios(ratio_TxP, OUTLIERS)
    all_TxP, mask_TxP = np.zeros(cell.gain_TxP.shape), np.zeros(cell.gain_TxP.shape)
    all_TxP[:, kept_P], mask_TxP[:, kept_P] = ratio_TxP, kept_TxP
    return study.mean(cell, all_TxP, mask_TxP)


def subtracted_curve(study: Study, cell: Cell, control: Cell | None) -> Estimate | None:
    """Control-subtracted mean gain at each t over that at t = 0, R x T; None without control."""
    if control is None:
        return None
    gain = study.mean(cell, cell.gain_at_lag_TxP) - study.mean(control, control.gain_at_lag_TxP)
    return gain / gain.then(lambda gain_RxT: gain_RxT[:, :1])


def line_of(curve: Estimate, offsets_T: np.ndarray) -> Estimate | None:
    """Slope and intercept of the curve on log10 t over t >= 1, R x 2; None with too few points."""
    later_T = offsets_T >= 1
    if later_T.sum() < 2:
        return None
    return curve.then(
        lambda r: np.stack(line_coefficients(offsets_T[later_T], r[:, later_T]), axis=1)
    )


def crossing(line: Estimate) -> Estimate:
    """log10 of the time at which the line reaches 0; infinite where it does not fall."""

    def reach(line_Rx2):
        slope, intercept = line_Rx2.T
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(slope < 0, -intercept / slope, np.inf)[:, None]

    return line.then(reach)
