"""The probe log cut into cells: what one arm did at one depth, on one schedule of encounters.

Axes: S recorded steps, P probes of the cell, U encounters, T offsets after the last maximum.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import xarray as xr

from llm_dynamics.errors import UserError
from llm_dynamics.facts import measures
from llm_dynamics.facts.common_lag import after_lag, gains_at_lag
from llm_dynamics.facts.facts import DEPTHS

CONTROL = "control"
_LABELS = ("fact", "arm", "depth", "attribute")
_OPTIONAL = ("candidates", "encounters", "block", "set")
_DIMS = ("step", "probe", "measure")
_MEASURES = ("logprob_mean", "greedy_match", "rank_first")


class Table(NamedTuple):
    """The log as arrays; loglik is the mean log-probability per target token, in nats."""

    steps_S: np.ndarray
    tokens_S: np.ndarray
    loglik_SxP: np.ndarray
    greedy_P: np.ndarray  # at the last step
    rank_P: np.ndarray  # at the last step, of the first token; 1 is best
    labels: dict[str, np.ndarray]  # fact, arm, depth, attribute, and those of _OPTIONAL it has


@dataclass(frozen=True)
class Cell:
    """One arm at one depth; a control is analysed on the schedule of the arm it is compared with.

    Attributes:
      arm, depth: labels of the probes.
      fact_P: each probe's fact.
      last: the earliest last encounter of any of its facts.
      change_SxP: scores less those before the first encounter, at every recorded step.
      effectivity_UxP: gain of each encounter at its probe's own maximum (Eq. 2); NaN beyond a
        fact's last one.
      gain_TxP: scores t steps after each probe's last maximum less those before the first
        encounter, as published.
      effectivity_at_lag_UxP, gain_at_lag_TxP: the same at one lag after the encounters for all
        probes instead of at maxima; see `common_lag`.
      offsets_T: the steps t.
    """

    arm: str
    depth: str
    fact_P: tuple[str, ...]
    last: int
    change_SxP: np.ndarray
    effectivity_UxP: np.ndarray
    gain_TxP: np.ndarray
    effectivity_at_lag_UxP: np.ndarray
    gain_at_lag_TxP: np.ndarray
    offsets_T: np.ndarray


def read_table(log: xr.Dataset) -> Table:
    """Takes the needed arrays out of a log and checks them.

    Rows at the end that were never written, those of an unfinished run, are left out; the
    measures that need them say so.

    Raises:
      UserError: something that is missing; steps that repeat or do not ascend; a fact in two arms;
        encounters that cannot be read; no rows, rows lost before the last one, or a probe without
        a score in a written row.
    """
    _check_parts(log)
    _check_steps(log["step"].values)
    _check_labels({name: log[name].values.astype(str) for name in _present(log)})
    scores = log["score"].transpose(*_DIMS)
    values_SxP = scores.sel(measure="logprob_mean").values.astype(np.float64)
    written_S = ~np.isnan(values_SxP).all(axis=1)
    if not written_S.any():
        raise UserError("expected at least one step in the probe log, got an empty one")
    last = int(np.flatnonzero(written_S)[-1])
    lost = log["step"].values[:last][~written_S[:last]]
    if lost.size:
        raise UserError(
            f"expected every row of the probe log up to its last one, step "
            f"{log['step'].values[last]}, got {lost.size} that are empty (the first is step "
            f"{lost[0]}); restore the log, or run the study again in a new folder"
        )
    values_SxP = values_SxP[written_S]
    steps_S = log["step"].values[written_S].astype(int)
    bad = np.argwhere(~np.isfinite(values_SxP))
    if bad.size:
        s, p = bad[0]
        raise UserError(
            f"expected a finite score for every probe, got {values_SxP[s, p]} for "
            f"{log['probe'].values[p]!r} at step {steps_S[s]} and {len(bad) - 1} more; the run "
            "diverged or the log is damaged"
        )
    final = scores.isel(step=last)
    return Table(
        steps_S,
        log["tokens"].values[written_S].astype(np.int64),
        values_SxP,
        final.sel(measure="greedy_match").values.astype(float),
        final.sel(measure="rank_first").values.astype(float),
        {name: log[name].values.astype(str) for name in _present(log)},
    )


def _present(log: xr.Dataset) -> list[str]:
    return [*_LABELS, *(name for name in _OPTIONAL if name in log.coords)]


def _check_parts(log: xr.Dataset) -> None:
    """Refuses a log without the scores, measures, coordinates or labels that are read."""
    if not isinstance(log, xr.Dataset):
        raise UserError(
            f"expected a probe log as an xarray Dataset, got a {type(log).__name__}; read one with "
            "probe.log.open_log"
        )
    if "score" not in log.data_vars:
        raise UserError(
            "expected the variable 'score' in the probe log, got "
            f"{', '.join(map(str, log.data_vars)) or 'none'}; give the scores this name"
        )
    dims = log["score"].dims
    if set(dims) != set(_DIMS):
        raise UserError(
            f"expected 'score' of the probe log over {', '.join(_DIMS)}, got "
            f"{', '.join(map(str, dims)) or 'no dimension'}; name its dimensions so"
        )
    for name, dim in (*((dim, dim) for dim in _DIMS), ("tokens", "step")):
        if name not in log.coords or log[name].dims != (dim,):
            raise UserError(
                f"expected the coordinate {name!r} along {dim!r} in the probe log, got "
                f"{', '.join(sorted(map(str, log.coords))) or 'none'}; add it"
            )
    for name in _LABELS:
        if name not in log.coords:
            raise UserError(
                f"expected the label {name!r} on every probe of the log, got "
                f"{', '.join(sorted(map(str, log.coords)))}; label the probes with their arms"
            )
    for name in _present(log):
        if log[name].dims != ("probe",):
            raise UserError(
                f"expected the label {name!r} along 'probe' in the log, got it along "
                f"{', '.join(map(str, log[name].dims)) or 'nothing'}; give every probe one"
            )
    measures_M = log["measure"].values.tolist()
    for name in _MEASURES:
        if measures_M.count(name) != 1:
            raise UserError(
                f"expected the measure {name!r} once in the probe log, got "
                f"{', '.join(map(str, measures_M)) or 'none'}; score the probes with "
                "probe.scoring, or add the measure under this name"
            )


def _check_steps(steps_S: np.ndarray) -> None:
    """Refuses steps that are no counts, repeat or do not ascend."""
    if not np.issubdtype(steps_S.dtype, np.number) or not np.array_equal(steps_S, np.rint(steps_S)):
        raise UserError(
            "expected whole numbers of updates as the steps of the probe log, got "
            f"{', '.join(map(str, steps_S[:3]))}, ...; count updates"
        )
    values, counts = np.unique(steps_S, return_counts=True)
    if (counts > 1).any():
        raise UserError(
            f"expected every step once in the probe log, got step {values[counts > 1][0]:g} "
            f"{counts[counts > 1][0]} times; keep one row of each step"
        )
    falls = np.flatnonzero(np.diff(steps_S) < 0)
    if falls.size:
        before, after = steps_S[falls[0]], steps_S[falls[0] + 1]
        raise UserError(
            f"expected the steps of the probe log in ascending order, got {after:g} after "
            f"{before:g}; sort it with log.sortby('step')"
        )


def _check_labels(labels: dict[str, np.ndarray]) -> None:
    """Refuses a fact in two arms, and encounters that differ within a fact or cannot be read."""
    seen: dict[str, tuple[str, str]] = {}
    met = labels.get("encounters", np.full(len(labels["fact"]), ""))
    for fact, arm, times in zip(
        *(column.tolist() for column in (labels["fact"], labels["arm"], met)), strict=True
    ):
        arm_before, times_before = seen.setdefault(fact, (arm, times))
        if arm != arm_before:
            raise UserError(
                f"expected each fact in one arm of a run, got {fact!r} in {arm_before!r} and "
                f"{arm!r}; give facts of different arms different names"
            )
        if times != times_before:
            raise UserError(
                f"expected the same encounters at all probes of fact {fact!r}, got "
                f"{times_before!r} and {times!r}; label its probes alike"
            )
    for fact, (_, times) in seen.items():
        parts = times.split()
        counts = [int(part) for part in parts if part.isdecimal()]
        if len(counts) < len(parts) or counts != sorted(set(counts)):
            raise UserError(
                "expected the label 'encounters' as ascending updates with spaces between, such "
                f"as '10 60 110', got {times!r} of fact {fact!r}; write it so"
            )


def arms_and_depths(table: Table) -> tuple[list[str], list[str]]:
    """Arms in the order of their first probe, control last; depths in the order of the paper."""
    arms = list(dict.fromkeys(table.labels["arm"].tolist()))
    arms.sort(key=lambda arm: arm == CONTROL)
    present = set(table.labels["depth"].tolist())
    known = [depth for depth in DEPTHS if depth in present]
    return arms, known + sorted(present - set(known))


def select(table: Table, arm: str, depth: str) -> np.ndarray:
    """Positions of the probes of an arm at a depth."""
    return np.flatnonzero((table.labels["arm"] == arm) & (table.labels["depth"] == depth))


def times_of(table: Table, arm: str, schedule: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Updates of the encounters of each fact of an arm, in the order of their first probe.

    From the log's label `encounters` where it has one, else the arm's schedule.
    """
    probes = np.flatnonzero(table.labels["arm"] == arm)
    own = table.labels.get("encounters", np.full(len(table.labels["arm"]), ""))
    return {
        str(table.labels["fact"][p]): tuple(map(int, own[p].split())) or tuple(schedule)
        for p in probes
    }


def cut(
    table: Table, arm: str, depth: str, times: Mapping[str, Sequence[int]], window: int, lag: int
) -> Cell | None:
    """The cell of an arm at a depth, or None when it has no probes.

    Args:
      times: fact -> updates of its encounters.
      window: of the maxima; that of an encounter ends at the next one at the latest.
      lag: steps after an encounter, at most the window; it ends at the next one as well.

    Raises:
      UserError: steps that the measures need and the log lacks, or a fact of the arm without a
        probe at the depth.
    """
    probes = select(table, arm, depth)
    if not probes.size:
        return None
    facts = table.labels["fact"][probes].tolist()
    without = sorted(set(table.labels["fact"][table.labels["arm"] == arm].tolist()) - set(facts))
    if without:
        raise UserError(
            f"expected a probe of depth {depth!r} for every fact of arm {arm!r}, got none for "
            f"{without[0]!r} and {len(without) - 1} more; add them, or leave those facts out"
        )
    groups: dict[tuple[int, ...], list[int]] = {}
    for p, fact in enumerate(facts):
        groups.setdefault(tuple(times[fact]), []).append(p)
    last = max(group[-1] for group in groups)
    offsets_T = measures.common_offsets(table.steps_S, [last], window)
    most = max(map(len, groups))
    change_SxP = np.empty((len(table.steps_S), len(probes)))
    effectivity_UxP = np.full((most, len(probes)), np.nan)
    at_lag_UxP = np.full((most, len(probes)), np.nan)
    gain_TxP = np.empty((len(offsets_T), len(probes)))
    gain_at_lag_TxP = np.empty((len(offsets_T), len(probes)))
    for group, members in groups.items():
        loglik_SxP = table.loglik_SxP[:, probes[members]]
        change_SxP[:, members] = measures.change(loglik_SxP, table.steps_S, group[0])
        for u, (start, end) in enumerate(zip(group, [*group[1:], None], strict=True)):
            reach = window if end is None else min(window, end - start)
            found_1xP = measures.effectivity(loglik_SxP, table.steps_S, [start], reach)
            effectivity_UxP[u, members] = found_1xP[0]
            at_lag_UxP[u, members] = gains_at_lag(
                loglik_SxP, table.steps_S, [start], min(lag, reach)
            )[0]
        gain_TxP[:, members] = measures.after_last_maximum(
            loglik_SxP, table.steps_S, group, window, offsets_T
        )
        gain_at_lag_TxP[:, members] = after_lag(loglik_SxP, table.steps_S, group, lag, offsets_T)
    return Cell(
        arm=arm,
        depth=depth,
        fact_P=tuple(facts),
        last=min(group[-1] for group in groups),
        change_SxP=change_SxP,
        effectivity_UxP=effectivity_UxP,
        gain_TxP=gain_TxP,
        effectivity_at_lag_UxP=at_lag_UxP,
        gain_at_lag_TxP=gain_at_lag_TxP,
        offsets_T=offsets_T,
    )


def facts_of_arms(table: Table) -> dict[str, int]:
    """arm -> number of its facts."""
    pairs = set(zip(table.labels["arm"].tolist(), table.labels["fact"].tolist(), strict=True))
    arms, _ = arms_and_depths(table)
    return {arm: sum(a == arm for a, _ in pairs) for arm in arms}


def tokens_per_step(table: Table) -> float:
    """Tokens of one update, from the first and last recorded step."""
    steps = int(table.steps_S[-1] - table.steps_S[0])
    tokens = int(table.tokens_S[-1] - table.tokens_S[0])
    if steps < 1 or tokens < 1:
        raise UserError("expected a probe log of several steps with rising token counts")
    return tokens / steps
