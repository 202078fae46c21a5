"""The law of retention fitted to the control-subtracted gains of a short log.

Axes: S recorded steps, K facts of an arm, C facts of the control, G groups of facts that share a
schedule, B fitted points, R replicates, Q parameters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from scipy import optimize

from llm_dynamics.errors import UserError
from llm_dynamics.facts import cells
from llm_dynamics.facts.cells import CONTROL, Table
from llm_dynamics.facts.kernel import FORMS, Kernel, Superposition, check_form, momentum_steps
from llm_dynamics.facts.many_fits import fit_many
from llm_dynamics.facts.statistics import replicate_weights
from llm_dynamics.spec import nearest

_RATIO = 1.4  # between lags of neighbouring points
_LARGEST = 4_000_000  # numbers of the largest array of a fit
_STARTS = {  # of exponent, floor and slope; the best of the starts is kept
    "power": ((0.3,), (1.0,)),
    "power_floor": ((0.3, 0.1), (1.0, 0.5)),
    "logarithm": ((0.3,), (0.05,)),
}


@dataclass(frozen=True)
class Observed:
    """Facts of one arm along a log.

    Attributes:
      arm: its name.
      steps_S: recorded steps, ascending.
      score_SxK: mean log-probability per target token of each fact, nats, or its gain: the value
        before the first encounter is subtracted.
      encounters: K sequences of updates, one a fact.
    """

    arm: str
    steps_S: np.ndarray
    score_SxK: np.ndarray
    encounters: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class _Group:
    """Facts of one arm with one schedule and the points at which they are fitted."""

    observed: Observed
    facts: np.ndarray
    encounters: tuple[int, ...]
    base: int  # row before the first encounter
    rows_B: np.ndarray

    @property
    def steps_B(self) -> np.ndarray:
        return self.observed.steps_S[self.rows_B]


def observe(
    log: xr.Dataset,
    schedule: Mapping[str, Sequence[int]],
    depth: str,
    arms: Sequence[str] | None = None,
) -> tuple[list[Observed], np.ndarray | None]:
    """Takes the arms at one depth out of a log; probes of a fact are averaged.

    Args:
      log: from `llm_dynamics.probe.log.open_log`.
      schedule: updates of the encounters of each fact by its name, or of each arm by its name.
      depth: of the probes.
      arms: which; None = all injected ones. One law is fitted to all of them.

    Returns:
      The arms, and the scores of the never-injected facts, S x C, None without any: what `fit`
      takes.

    Raises:
      UserError: an unknown arm or depth, or a fact without a schedule.
    """
    return observe_table(cells.read_table(log), schedule, depth, arms)


def observe_table(
    table: Table,
    schedule: Mapping[str, Sequence[int]],
    depth: str,
    arms: Sequence[str] | None = None,
) -> tuple[list[Observed], np.ndarray | None]:
    """As `observe`, of a log that is read already."""
    present, depths = cells.arms_and_depths(table)
    if depth not in depths:
        raise UserError(f"expected a depth of {', '.join(depths)}, got {depth!r}")
    wanted = [arm for arm in present if arm != CONTROL] if arms is None else list(arms)
    found = []
    for arm in wanted:
        facts, score_SxK = _by_fact(table, arm, depth)
        if not facts:
            raise UserError(f"expected an arm of {', '.join(present)}, got {arm!r}")
        times = [tuple(schedule.get(fact, schedule.get(arm, ()))) for fact in facts]
        found.append(Observed(arm, table.steps_S, score_SxK, tuple(times)))
    _, control_SxC = _by_fact(table, CONTROL, depth)
    return found, control_SxC if control_SxC.size else None


def _by_fact(table: Table, arm: str, depth: str) -> tuple[list[str], np.ndarray]:
    probes = cells.select(table, arm, depth)
    facts, index_P = np.unique(table.labels["fact"][probes], return_inverse=True)
    member_PxK = np.eye(len(facts))[index_P]
    total_SxK = table.loglik_SxP[:, probes] @ member_PxK
    return facts.tolist(), total_SxK / np.maximum(member_PxK.sum(0), 1)


def fit(
    observed: Sequence[Observed],
    control_SxC: np.ndarray | None = None,
    form: str = "power",
    beta1: float = 0.9,
    onset: float | None = None,
    fixed: Mapping[str, float] | None = None,
    until: int | None = None,
    seed: int = 0,
    resamples: int = 200,
    weights: Mapping[str, np.ndarray] | None = None,
) -> Kernel:
    """One law for all given facts, by least squares over points at log-spaced lags.

    The points are the recorded steps at lags 1, 2, 3, 4, 6, 8, ... after each encounter and the
    step of the next one. Facts of one schedule are averaged. Replicates resample the facts of
    every arm and of the control and are fitted anew.

    Args:
      observed: arms on the same steps; facts without an encounter before `until` are left out.
      control_SxC: scores of never-injected facts at the same steps, whose mean is subtracted; None
        where the gains are control-subtracted already (the control's spread is then missing from
        the intervals).
      form: of `kernel.FORMS`.
      beta1: of Adam's first moment.
      onset: steps; None = 1 / (1 - beta1).
      fixed: parameters that are given, not fitted, such as {"saturation": 0.0}.
      until: the last step used; None = all.
      seed, resamples: of the bootstrap over facts.
      weights: arm -> R x K, replicates drawn before, so that what is fitted can be subtracted from
        what was measured in the same ones; None = drawn here.

    Raises:
      UserError: an unknown form or parameter, no encounters within the log, a step before an
        encounter or scores that are missing, or too few points.
    """
    check_form(form, beta1)
    onset = momentum_steps(beta1) if onset is None else float(onset)
    if not onset > 0:
        raise UserError(f"expected an onset of more than 0 steps, got {onset}")
    bounds = _bounds(form, fixed or {})
    groups = [group for one in observed for group in _groups(one, until)]
    if not groups:
        raise UserError(
            "expected at least one fact with an encounter before the last step used, got none; "
            "give the updates of the injections, or a later last step"
        )
    names = list(FORMS[form])
    num_points = sum(len(group.rows_B) for group in groups)
    if num_points <= len(names):
        raise UserError(
            f"expected more points after encounters than the {len(names)} parameters, got "
            f"{num_points}; probe more often or use more of the run"
        )
    facts = {one.arm: one.score_SxK.shape[1] for one in observed}
    if control_SxC is not None:
        facts[CONTROL] = control_SxC.shape[1]
    if weights is None:
        weights = replicate_weights(facts, seed, resamples)
    resamples = len(next(iter(weights.values()))) - 1
    target_RxGxB, root_RxGxB = _targets(groups, control_SxC, weights)
    most = max(len(group.rows_B) for group in groups)
    at_GxB = np.stack([np.pad(group.steps_B, (0, most - len(group.rows_B))) for group in groups])
    sums = Superposition([group.encounters for group in groups], at_GxB)
    most_met = max(len(group.encounters) for group in groups)
    batch = max(1, _LARGEST // (at_GxB.size * most_met))

    def residuals(x_NxQ, replicate_N):
        parts = []
        for i in range(0, len(x_NxQ), batch):
            chosen = replicate_N[i : i + batch]
            model_NxGxB = sums.gains(form, x_NxQ[i : i + batch], beta1, onset)
            parts.append((model_NxGxB - target_RxGxB[chosen]) * root_RxGxB[chosen])
        return np.concatenate(parts).reshape(len(x_NxQ), -1)

    best_Q = _first_fit(residuals, form, target_RxGxB[0], bounds)
    draws_RxQ = np.tile(best_Q, (resamples + 1, 1))
    if resamples:
        draws_RxQ[1:] = _refit(lambda x, r: residuals(x, r + 1), form, best_Q, resamples, bounds)
    model_GxB = sums.gains(form, best_Q[None], beta1, onset)[0]
    used_GxB = root_RxGxB[0] > 0
    kernel = Kernel(
        form=form,
        beta1=beta1,
        onset=onset,
        draws_RxQ=draws_RxQ,
        facts=facts,
        longest=max(int(group.steps_B[-1] - group.encounters[0]) for group in groups),
        encounters=most_met,
        residual=float(np.sqrt(np.mean((model_GxB - target_RxGxB[0])[used_GxB] ** 2))),
        fact_sd=_fact_sd(groups, control_SxC, model_GxB),
        doubts={},
    )
    fitted = [name for name in names if name not in (fixed or {})]
    doubts = {name: why for name in fitted if (why := _doubt(kernel, name))}
    return Kernel(**{**vars(kernel), "doubts": doubts})


def _bounds(form: str, fixed: Mapping[str, float]) -> np.ndarray:
    """Lower and upper bounds, 2 x Q; equal for what is fixed."""
    ranges = dict(FORMS[form])
    for name, value in fixed.items():
        if name not in ranges:
            raise UserError(f"unknown parameter {name!r} in fixed; {nearest(name, ranges)}")
        if not ranges[name][0] <= value <= ranges[name][1]:
            least, most = ranges[name]
            raise UserError(f"expected {name} from {least:g} to {most:g} in fixed, got {value}")
        ranges[name] = (float(value), float(value))
    return np.array(list(ranges.values())).T


def _groups(observed: Observed, until: int | None) -> list[_Group]:
    """Facts of equal schedules, cut at the last step used, with their points."""
    steps_S = np.asarray(observed.steps_S)
    end = int(steps_S[-1]) if until is None else min(int(until), int(steps_S[-1]))
    if observed.score_SxK.shape != (len(steps_S), len(observed.encounters)):
        raise ValueError(
            f"expected scores of {len(steps_S)} steps x {len(observed.encounters)} facts, got "
            f"{observed.score_SxK.shape}"
        )
    members: dict[tuple[int, ...], list[int]] = {}
    for k, times in enumerate(observed.encounters):
        within = tuple(sorted(int(t) for t in times if t < end))
        if within:
            members.setdefault(within, []).append(k)
    groups = []
    for times, facts in members.items():
        base = int(np.searchsorted(steps_S, times[0]))
        if steps_S[base] != times[0]:
            raise UserError(
                f"expected the scores of arm {observed.arm!r} just before its first encounter at "
                f"update {times[0]}, got none at that step; record it"
            )
        rows_B = _rows(steps_S, times, end)
        values = observed.score_SxK[np.concatenate([[base], rows_B])][:, facts]
        if not np.isfinite(values).all():
            raise UserError(
                f"expected finite scores of arm {observed.arm!r}, got "
                f"{int((~np.isfinite(values)).sum())} of {values.size} that are not; leave those "
                "facts or steps out"
            )
        groups.append(_Group(observed, np.array(facts), times, base, rows_B))
    return groups


def _rows(steps_S: np.ndarray, times: Sequence[int], end: int) -> np.ndarray:
    """Rows at log-spaced lags after each encounter, up to and including the next one's."""
    wanted = []
    for start, stop in zip(times, [*times[1:], end], strict=True):
        count = max(int(np.log(max(stop - start, 1)) / np.log(_RATIO)) + 2, 2)
        lags = np.unique(np.round(_RATIO ** np.arange(count)).astype(int))
        wanted += [start + lag for lag in lags if start + lag < stop] + [stop]
    rows = np.unique(np.searchsorted(steps_S, np.unique(wanted)))
    rows = rows[rows < len(steps_S)]
    return rows[(steps_S[rows] > times[0]) & (steps_S[rows] <= end)]


def _gain(group: _Group, control_SxC) -> tuple[np.ndarray, np.ndarray]:
    """Gains of the group's facts and of the control's over the group's baseline."""
    score_SxK = group.observed.score_SxK[:, group.facts]
    gain_BxK = score_SxK[group.rows_B] - score_SxK[group.base]
    if control_SxC is None:
        return gain_BxK, np.zeros((len(group.rows_B), 1))
    null_BxC = control_SxC[group.rows_B] - control_SxC[group.base]
    if not np.isfinite(null_BxC).all():
        raise UserError("expected finite scores of the control at every fitted step")
    return gain_BxK, null_BxC


def _targets(groups, control_SxC, weights) -> tuple[np.ndarray, np.ndarray]:
    """Mean control-subtracted gain of each group in each replicate, and the root of its weight."""
    resampled = len(next(iter(weights.values())))
    most = max(len(group.rows_B) for group in groups)
    target_RxGxB = np.zeros((resampled, len(groups), most))
    root_RxGxB = np.zeros_like(target_RxGxB)
    for g, group in enumerate(groups):
        gain_BxK, null_BxC = _gain(group, control_SxC)
        weight_RxK = weights[group.observed.arm][:, group.facts]
        count_Rx1 = weight_RxK.sum(1, keepdims=True)
        mean_RxB = weight_RxK @ gain_BxK.T / np.maximum(count_Rx1, 1)
        if control_SxC is not None:
            mean_RxB = mean_RxB - weights[CONTROL] @ null_BxC.T / null_BxC.shape[1]
        target_RxGxB[:, g, : len(group.rows_B)] = mean_RxB
        root_RxGxB[:, g, : len(group.rows_B)] = np.sqrt(count_Rx1)
    return target_RxGxB, root_RxGxB


def _first_fit(residuals, form: str, target_GxB: np.ndarray, bounds) -> np.ndarray:
    """The fit of the data, the best of several starts."""
    effect = float(np.abs(target_GxB).max()) / 4 + 1e-3
    zero = np.zeros(1, int)
    free_Q = bounds[0] < bounds[1]
    found = []
    for shape in _STARTS[form]:
        x_Q = np.clip([effect, 0.3, *shape], *bounds)

        def of_free(values, x_Q=x_Q):
            moved_Q = x_Q.copy()
            moved_Q[free_Q] = values
            return residuals(moved_Q[None], zero)[0]

        one = optimize.least_squares(
            of_free,
            x_Q[free_Q],
            bounds=bounds[:, free_Q],
            x_scale=np.array([effect, *[0.3] * (len(x_Q) - 1)])[free_Q],
            ftol=1e-9,
            xtol=1e-9,
        )
        x_Q[free_Q] = one.x
        found.append((one.cost, x_Q))
    best_Q = min(found, key=lambda one: one[0])[1]
    # The solver keeps off the bounds; this reaches them.
    return fit_many(lambda x, _: residuals(x, zero), best_Q[None], *bounds)[0]


def _refit(residuals, form: str, best_Q, resamples: int, bounds) -> np.ndarray:
    """The fit of every replicate, R x Q, from where the data's own fit ended.

    On a bound that may be a corner that no replicate leaves, as both gradients of exponent and
    floor vanish where all is kept; then the first starts are tried, too, and the best one is kept.
    """
    low_Q, high_Q = bounds
    free_Q = low_Q < high_Q
    starts = [best_Q]
    if ((best_Q <= low_Q) | (best_Q >= high_Q))[free_Q].any():
        starts += [np.clip([*best_Q[:2], *shape], *bounds) for shape in _STARTS[form]]
    replicates = np.arange(resamples)
    best_RxQ, cost_R = None, np.full(resamples, np.inf)
    for start_Q in starts:
        found_RxQ = fit_many(residuals, np.tile(start_Q, (resamples, 1)), *bounds)
        found_R = np.square(residuals(found_RxQ, replicates)).sum(axis=1)
        better_R = found_R < cost_R
        best_RxQ = (
            found_RxQ if best_RxQ is None else np.where(better_R[:, None], found_RxQ, best_RxQ)
        )
        cost_R = np.minimum(cost_R, found_R)
    return best_RxQ


def _fact_sd(groups, control_SxC, model_GxB) -> float:
    """Spread of single facts about the fit after their last encounter."""
    squares, count = 0.0, 0
    for group, model_B in zip(groups, model_GxB, strict=True):
        gain_BxK, null_BxC = _gain(group, control_SxC)
        gain_BxK = gain_BxK - null_BxC.mean(1, keepdims=True)
        later_B = group.steps_B > group.encounters[-1]
        off_BxK = (gain_BxK - model_B[: len(group.rows_B), None])[later_B]
        # Means of facts follow the fit, so a group of one has no spread of its own to show.
        if off_BxK.shape[1] > 1 and len(off_BxK):
            squares += off_BxK.var(axis=1).mean() * off_BxK.shape[1]
            count += off_BxK.shape[1] - 1
    return float(np.sqrt(squares / count)) if count else float("nan")


def _doubt(kernel: Kernel, name: str) -> str:
    """Why a parameter is not identified, "" when it is."""
    value, low, high = (float(v[0]) for v in kernel.parameter(name).interval())
    if name == "effect":
        if value <= 0:
            return "not identified: the gain is not positive"
        return "" if low > 0 else "not identified: the gain is not shown to be positive"
    least, most = FORMS[kernel.form][name]
    if not kernel.parameter("effect").interval().low[0] > 0:
        return "not identified: the gain is not shown to be positive"
    if not high - low < (most - least) / 2:
        return f"not identified: the interval covers half of its range of {least:g} to {most:g}"
    if low <= least + 0.01 * (most - least):
        return f"bounded from above alone: {least:g} is not excluded"
    return ""
