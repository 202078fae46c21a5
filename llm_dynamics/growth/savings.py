"""What growth saves: the cost of a grown run until losses of a run from scratch, over seeds.

Two measures are in use and never mixed here: savings 1 - C_grown / C_scratch (Wang et al. 2023) and
speedup C_scratch / C_grown - 1 (Du et al. 2024). Papers also differ in what they charge to C_grown,
so each is given with every charge: the grown run's training alone, with the operator (fitted and
chosen), with the source's training, and with all.

The cost until a loss is where the smoothed curve first crosses it (`crossings`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from llm_dynamics.errors import UserError
from llm_dynamics.growth import published_cost
from llm_dynamics.growth.crossings import ISOTONIC, RULES, Curve, crossing, loss_at, scatter_at_end
from llm_dynamics.model import size
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.results import Interval, Row, exact, interval_row, note_not_shown
from llm_dynamics.seeds import ONE_SEED, PerSeed, ratio_interval, ratio_row, seed_row

NATS = "nats per token"
FRACTIONS = (0.6, 0.8, 1.0)  # of the cost from scratch, at which its losses are targets
FEWEST_TARGETS = 3
NOISY = 0.25  # scatter over the fall of the last fifth; from there a last loss is too lucky
FINISHED = 0.95  # of a schedule, from which it counts as finished
CHARGES = {
    "alone": "the grown run's own training is charged, neither operator nor source",
    "operator": "training, choosing and fitting the operator are charged, the source is not",
    "source": "training and the source's training are charged, the operator is not",
    "all": "training, source, choosing and fitting the operator are charged",
}
_MEASURES = {"saved": "1 - C_grown / C_scratch", "speedup": "C_scratch / C_grown - 1"}

Targets = Mapping[str, Mapping[int, float]]  # name -> seed -> loss


@dataclass(frozen=True, eq=False)
class Trial:
    """A run from scratch and a grown one of the same seed, with all costs in one unit.

    Attributes:
      scratch, grown: their curves; that of the grown run begins at its growth.
      source: cost of training the source.
      operator: cost of fitting the operator.
      probe: cost of choosing it.

    Raises:
      UserError: a charge that is negative or not finite.
    """

    scratch: Curve
    grown: Curve
    source: float = 0.0
    operator: float = 0.0
    probe: float = 0.0

    def __post_init__(self):
        for name in ("source", "operator", "probe"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise UserError(
                    f"expected a cost of 0 or more for {name}, got {value}; give it in the unit "
                    "of the curves"
                )

    def charge(self, name: str) -> float:
        """What is added to the grown run's training; `name` is one of `CHARGES`."""
        fitted = self.operator + self.probe
        return {
            "alone": 0.0,
            "operator": fitted,
            "source": self.source,
            "all": self.source + fitted,
        }[name]


def targets_at(
    trials: Mapping[int, Trial],
    fractions: Sequence[float] = FRACTIONS,
    smoother: str = ISOTONIC,
) -> Targets:
    """The losses that each seed's run from scratch has at fractions of its cost.

    Every seed has its own target, so that the run from scratch reaches it by definition, and the
    noise of seeds does not decide which ones can be compared. The last one is the published
    target: the final loss from scratch. It is a lucky one where losses scatter, which rows note.

    Args:
      trials: by seed.
      fractions: of the cost of each run from scratch.
      smoother: of curves.

    Raises:
      UserError: a fraction outside (0, 1].
    """
    _check_fractions(fractions)
    return {
        f"at_{100 * f:g}%": {
            seed: loss_at(trial.scratch, f * trial.scratch.end, smoother)
            for seed, trial in trials.items()
        }
        for f in fractions
    }


def targets_of(losses: Sequence[float], trials: Mapping[int, Trial]) -> Targets:
    """The same losses for every seed."""
    return {f"loss_{loss:g}": dict.fromkeys(trials, float(loss)) for loss in losses}


def step_costs(config: ModelConfig, batch: int, length: int) -> dict[str, float]:
    """What an update costs, by unit: FLOPs by our counter and by the published one, and tokens.

    Args:
      config: of the model.
      batch: rows.
      length: tokens of a row.
    """
    tokens = batch * length
    shape = published_cost.shape_of(config)
    return {
        "FLOPs": tokens * size.flops_per_token(config, length),
        "FLOPs as published": published_cost.step_flops(shape, batch, length),
        "tokens": float(tokens),
    }


def savings_rows(
    prefix: str,
    trials: Mapping[int, Trial],
    unit: str,
    targets: Targets | None = None,
    smoother: str = ISOTONIC,
    loss_unit: str = NATS,
) -> list[Row]:
    """Savings and speedups at several losses, with every charge.

    For each target: PREFIX/TARGET/loss, /scratch and /grown (cost until then, the latter of
    training alone), /share/CHARGED (of what was charged, over the cost from scratch) and
    PREFIX/TARGET/CHARGE/saved and /speedup for all `CHARGES`. Ratios are of means over seeds,
    paired by seed, with Fieller's intervals; both measures are one ratio in other words. Where a
    run of any seed does not reach the target there is no number, for a mean over the seeds that
    did would be of the lucky ones: the note says in how many, and what is saved there at most.

    Args:
      prefix: of names.
      trials: by seed.
      unit: of all costs, as "FLOPs", "FLOPs as published", "tokens" or "s".
      targets: at least three, from `targets_at` (the default) or `targets_of`; to compare units
        take them once.
      smoother: of curves, "isotonic" or "minimum".
      loss_unit: of their losses.

    Raises:
      UserError: no trials, fewer than three targets, or targets that lack a seed.
    """
    if not trials:
        raise UserError("expected trials of at least one seed, got none; give runs by seed")
    targets = targets_at(trials, smoother=smoother) if targets is None else targets
    if len(targets) < FEWEST_TARGETS:
        raise UserError(
            f"expected at least {FEWEST_TARGETS} targets, got {len(targets)}; add some, for "
            "what is saved depends on the loss that is asked for"
        )
    rows = []
    for target, losses in targets.items():
        if lacking := sorted(set(trials) - set(losses)):
            raise UserError(
                f"expected a loss of every seed for target {target}, got none of {lacking}; give "
                "each seed one"
            )
        found = _Reached(trials, losses, smoother)
        rows += _target_rows(f"{prefix}/{target}", found, unit, loss_unit)
    return rows


def equal_cost_rows(
    prefix: str,
    trials: Mapping[int, Trial],
    unit: str,
    fractions: Sequence[float] = FRACTIONS,
    smoother: str = ISOTONIC,
    loss_unit: str = NATS,
) -> list[Row]:
    """Loss of the grown run less that from scratch where both have cost as much.

    Rows PREFIX/at_PERCENT%/CHARGE/loss_difference; below 0, growth is ahead. They exist where
    no target is reached, too.

    Args:
      prefix, trials, unit, smoother: as of `savings_rows`.
      fractions: of the cost of each run from scratch.
      loss_unit: of the curves.

    Raises:
      UserError: no trials, or a fraction outside (0, 1].
    """
    if not trials:
        raise UserError("expected trials of at least one seed, got none; give runs by seed")
    _check_fractions(fractions)
    rows = []
    for fraction in fractions:
        whole = {s: fraction * t.scratch.end for s, t in trials.items()}
        for charge, words in CHARGES.items():
            name = f"{prefix}/at_{100 * fraction:g}%/{charge}/loss_difference"
            definition = (
                f"loss of the grown run less that from scratch at equal cost in {unit}, "
                f"{100 * fraction:g} % of that from scratch; {words}"
            )
            left = {s: whole[s] - t.charge(charge) for s, t in trials.items()}
            early = [s for s, t in trials.items() if left[s] < t.grown.cost_S[0]]
            late = [s for s, t in trials.items() if left[s] > t.grown.end * (1 + 1e-9)]
            if out := late or early:
                reason = (
                    "the grown run ends before it has cost as much"
                    if late
                    else "all is spent before the grown run's first record"
                )
                reason = f"{reason} in {_seeds(out, trials)}"
                n = len(trials) - len({*early, *late})
                rows.append(_none(name, loss_unit, n, definition, reason))
                continue
            found = {
                s: loss_at(t.grown, left[s], smoother) - loss_at(t.scratch, whole[s], smoother)
                for s, t in trials.items()
            }
            notes = _schedule_notes(trials, whole, left, "losses")
            rows.append(seed_row(name, PerSeed(found), loss_unit, definition, "; ".join(notes)))
    return rows


# ---- parts ---------------------------------------------------------------------------------------


class _Reached:
    """Where the runs of all seeds reach a target."""

    def __init__(self, trials: Mapping[int, Trial], losses: Mapping[int, float], smoother: str):
        self.trials, self.rule = trials, RULES[smoother]
        self.losses = {seed: losses[seed] for seed in trials}
        self.scratch = {s: crossing(t.scratch, losses[s], smoother) for s, t in trials.items()}
        self.grown = {s: crossing(t.grown, losses[s], smoother) for s, t in trials.items()}

    def costs(self, kind: str) -> dict[int, float]:
        """Of the seeds whose run of a kind, "scratch" or "grown", reaches it."""
        found = getattr(self, kind)
        return {seed: at.cost for seed, at in found.items() if at.cost is not None}

    def no_scratch(self) -> str:
        """Why nothing can be compared with the run from scratch; "" where it can."""
        if out := [s for s, at in self.scratch.items() if at.cost is None]:
            return f"the run from scratch does not reach it in {_seeds(out, self.trials)}"
        if out := [s for s, at in self.scratch.items() if at.at_start]:
            return (
                f"the run from scratch is there at its first record in {_seeds(out, self.trials)}, "
                "so its cost is not known"
            )
        return ""

    def no_ratio(self, charge: str) -> str:
        """Why there is no ratio under a charge; "" where there is one."""
        out = [s for s, at in self.grown.items() if at.cost is None]
        if self.no_scratch() or not out:
            return self.no_scratch()
        most = max(
            1 - (self.trials[s].grown.end + self.trials[s].charge(charge)) / self.scratch[s].cost
            for s in out
        )
        return (
            f"the grown run does not reach it in {_seeds(out, self.trials)}: at most "
            f"{round(most, 3) + 0:g} is saved there"
        )

    def notes(self) -> list[str]:
        """What to keep in mind of ratios."""
        notes = []
        late = {s: self.trials[s].grown.cost_S[0] > 0 for s in self.trials}
        if started := [s for s, at in self.grown.items() if at.at_start and late[s]]:
            notes.append(
                f"the grown run is there at its first record in {_seeds(started, self.trials)}, "
                "whose cost is taken: at least this is saved"
            )
        scratch, grown = self.costs("scratch"), self.costs("grown")
        ended = [t.scratch for s, t in self.trials.items() if scratch[s] > 0.9 * t.scratch.end]
        if (scatter := max(map(scatter_at_end, ended), default=0.0)) > NOISY:
            notes.append(
                f"losses from scratch scatter by {scatter:.2g} of what the last fifth of the run "
                "lowers them, so its last one is a lucky one: savings are biased against growth"
            )
        return notes + _schedule_notes(self.trials, scratch, grown, "savings")


def _schedule_notes(
    trials: Mapping[int, Trial],
    scratch: Mapping[int, float],
    grown: Mapping[int, float],
    what: str,
) -> list[str]:
    """Warnings of runs that are amid their schedules at the costs where they are read."""
    notes = []
    runs = (("run from scratch", scratch, "for"), ("grown run", grown, "against"))
    for kind, costs, way in runs:
        curves = {s: t.grown if costs is grown else t.scratch for s, t in trials.items()}
        ends = {s: curve.schedule_end for s, curve in curves.items()}
        share = min((costs[s] / end for s, end in ends.items() if end is not None), default=1.0)
        if share < FINISHED:
            notes.append(
                f"warning: the {kind} is at {100 * share:.0f} % of its schedule there, and "
                f"would be further on had that ended there: {what} are biased {way} growth"
            )
    return notes


def _target_rows(name: str, found: _Reached, unit: str, loss_unit: str) -> list[Row]:
    trials = found.trials
    definition = "loss that costs are taken until"
    rows = [seed_row(f"{name}/loss", PerSeed(found.losses), loss_unit, definition, contrast=False)]
    for kind in ("scratch", "grown"):
        definition = f"cost of the {kind} run's training until the target; {found.rule}"
        costs = found.costs(kind)
        if out := sorted(set(trials) - set(costs)):
            reason = f"not reached in {_seeds(out, trials)}"
            rows.append(_none(f"{name}/{kind}", unit, len(costs), definition, reason))
        else:
            costs = PerSeed(costs)
            rows.append(seed_row(f"{name}/{kind}", costs, unit, definition, contrast=False))
    for kind in ("source", "operator", "probe"):
        charged = PerSeed({s: getattr(t, kind) for s, t in trials.items()})
        if found.no_scratch() or not any(charged.values.values()):
            continue
        words = f"cost of the {kind} over that of the run from scratch until the target"
        scratch = PerSeed(found.costs("scratch"))
        rows.append(ratio_row(f"{name}/share/{kind}", charged, scratch, "1", words, _VARIES))
    for charge in CHARGES:
        rows += _ratio_rows(f"{name}/{charge}", found, charge, unit)
    return rows


def _ratio_rows(name: str, found: _Reached, charge: str, unit: str) -> list[Row]:
    """Both measures under a charge."""
    definitions = {
        measure: f"{words} in {unit} until the target; {CHARGES[charge]}; {found.rule}"
        for measure, words in _MEASURES.items()
    }
    if reason := found.no_ratio(charge):
        starts = {s for s, at in found.scratch.items() if at.at_start}
        n = len((set(found.costs("scratch")) & set(found.costs("grown"))) - starts)
        return [
            _none(f"{name}/{measure}", "1", n, words, reason)
            for measure, words in definitions.items()
        ]
    trials = found.trials
    grown = PerSeed({s: c + trials[s].charge(charge) for s, c in found.costs("grown").items()})
    ratio = ratio_interval(grown, PerSeed(found.costs("scratch")))
    value, low, high = (float(end[0]) for end in ratio)
    notes = found.notes()
    if math.isnan(low):
        notes.append(ONE_SEED if grown.n < 2 else _VARIES)
    ends = {
        "saved": (1 - value, 1 - high, 1 - low),
        "speedup": (_inverse(value) - 1, _inverse(high) - 1, _inverse(low) - 1),
    }
    rows = []
    for measure, numbers in ends.items():
        interval = Interval(*(np.array([x]) for x in numbers))
        label, words = f"{name}/{measure}", definitions[measure]
        row = interval_row(label, interval, "1", grown.n, words, "; ".join(notes), _FREE)
        rows.append(note_not_shown(row))
    return rows


_VARIES = "the cost from scratch varies too much over seeds for an interval"
_FREE = "the grown run costs nothing until then, so there is no cost to divide by"


def _none(name: str, unit: str, n: int, definition: str, reason: str) -> Row:
    return interval_row(name, exact(math.nan), unit, n, definition, missing=reason)


def _inverse(ratio: float) -> float:
    """1 / ratio of costs; infinite where an end of the interval has no cost, or less."""
    if math.isnan(ratio):
        return math.nan
    return 1 / ratio if ratio > 0 else math.inf


def _check_fractions(fractions: Sequence[float]) -> None:
    if wrong := [f for f in fractions if not 0 < f <= 1]:
        raise UserError(f"expected fractions above 0 and at most 1, got {wrong}; not in percent")


def _seeds(some: Sequence[int], trials: Mapping[int, Trial]) -> str:
    names = ", ".join(map(str, some))
    return f"{len(some)} of {len(trials)} seeds ({names})"
