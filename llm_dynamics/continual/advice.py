"""Which schedule, peak and replay share to take from a short sweep, and whether the sweep shows it.

The choice is the smallest share of replay whose mean loss lies within a given part of the lowest;
see `rule`. It is called shown only where every other candidate is worse by a paired difference
whose interval over seeds leaves out 0. Intervals of these differences are widened for their number
(Bonferroni), so that all hold together, and over three seeds they are so wide that little is shown;
hence the rule does not ask for it. Among many candidates the lowest mean is flattered by chance.

What a longer stage will lose and learn is foretold by laws (`lengthened`), and how far off they
were is told by longer runs alone (`compare`).
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from llm_dynamics.continual.curve_fit import CurveFit
from llm_dynamics.continual.curve_law import Curve
from llm_dynamics.continual.measures import DEFINITIONS, NATS
from llm_dynamics.continual.replay_law import fit_replay
from llm_dynamics.continual.robust_fit import check_losses, check_share
from llm_dynamics.errors import UserError
from llm_dynamics.results import Interval, Row, interval_row, verdict
from llm_dynamics.seeds import PerSeed, seed_row

AVERAGE = "average"  # of the losses on the old and the new data, as low as can be
ADAPTATION = "adaptation"  # loss on the new data as low as can be, forgetting within a limit
OBJECTIVES = (AVERAGE, ADAPTATION)
WITHIN = 0.01  # of the lowest loss, given away for replaying less
_LEVEL = 0.95
FORETOLD = "as measured in the short stage, and what laws of the curve add"
_ALIKE = 1.5  # times the least error is about as well
_PARTS = {
    "old": "loss on the old data after the stage",
    "new": "loss on the new data after the stage",
    "average": "mean of the losses on the old and the new data",
}
_KINDS = {AVERAGE: "average loss", ADAPTATION: "loss on the new data"}


@dataclass(frozen=True)
class Trial:
    """One short run of a sweep.

    Attributes:
      schedule: its name.
      peak: highest learning rate of the stage, above 0.
      share: of replay.
      seed: of the run.
      old, new: final losses in nats per token.
    """

    schedule: str
    peak: float
    share: float
    seed: int
    old: float
    new: float

    def __post_init__(self):
        check_share(self.share)
        check_losses([self.old, self.new])
        if not self.peak > 0:
            raise UserError(f"expected a peak learning rate above 0, got {self.peak}")


@dataclass(frozen=True)
class Candidate:
    """A choice, and its losses per seed, measured or predicted.

    Attributes:
      schedule, peak, share: the choice.
      old, new: losses per seed.
      source: "measured", or the law that they are from.
      spread: between laws that could be right, of the average loss; 0 = not from several.
    """

    schedule: str
    peak: float
    share: float
    old: PerSeed
    new: PerSeed
    source: str = "measured"
    spread: float = 0.0

    @property
    def name(self) -> str:
        """For names of rows, e.g. cosine/0.0003/0.05."""
        return f"{self.schedule}/{self.peak:g}/{self.share:g}"

    @property
    def average(self) -> PerSeed:
        """Mean of both losses."""
        return (self.old + self.new) * 0.5


@dataclass(frozen=True)
class Advice:
    """What to take, and how sure that is.

    Attributes:
      choice: None where no candidate keeps to the limit.
      best: the lowest mean among those that keep to it; None as well.
      candidates: those that keep to it.
      shown: whether every other candidate that keeps to the limit is shown to be worse, and the
        choice to keep to it.
      rivals: candidates not shown to be worse.
      words: the advice in a sentence or two.
      rows: losses of the choice, and the difference of every other candidate to it.
    """

    choice: Candidate | None
    best: Candidate | None
    candidates: tuple[Candidate, ...]
    shown: bool
    rivals: tuple[Candidate, ...]
    words: str
    rows: tuple[Row, ...]


def measured(trials: Iterable[Trial]) -> list[Candidate]:
    """One candidate of every schedule, peak and share of a sweep.

    Raises:
      UserError: two runs of one seed that claim to be the same.
    """
    cells: dict[tuple, dict[int, Trial]] = {}
    for trial in trials:
        cell = cells.setdefault((trial.schedule, trial.peak, trial.share), {})
        if trial.seed in cell:
            raise UserError(f"expected one run of each seed and choice, got two like {trial}")
        cell[trial.seed] = trial
    return [
        Candidate(
            *choice,
            PerSeed({seed: trial.old for seed, trial in cell.items()}),
            PerSeed({seed: trial.new for seed, trial in cell.items()}),
        )
        for choice, cell in sorted(cells.items())
    ]


def between_shares(trials: Iterable[Trial], shares: Sequence[float]) -> list[Candidate]:
    """Candidates at other shares, by the laws of replay fitted to each seed's sweep.

    Every schedule and peak is fitted by itself; shares outside of those it was run with are left
    out, as is what was run with too few shares for the laws (five).

    Raises:
      UserError: nothing can be predicted.
    """
    groups: dict[tuple, dict[int, dict[float, Trial]]] = {}
    for trial in trials:
        seeds = groups.setdefault((trial.schedule, trial.peak), {})
        seeds.setdefault(trial.seed, {})[trial.share] = trial
    found = []
    for (schedule, peak), seeds in sorted(groups.items()):
        sweeps = {seed: sweep for seed, sweep in seeds.items() if len(sweep) >= 5}
        if not sweeps:
            continue
        fits = {
            (seed, which): fit_replay(
                which, {share: PerSeed({seed: getattr(t, which)}) for share, t in sweep.items()}
            )
            for seed, sweep in sweeps.items()
            for which in ("old", "new")
        }
        low = max(min(sweep) for sweep in sweeps.values())
        high = min(max(sweep) for sweep in sweeps.values())
        for share in shares:
            check_share(share)
            if not low <= share <= high:
                continue
            old, new = (
                PerSeed({s: float(fits[s, which].predict([share]).value[0]) for s in sweeps})
                for which in ("old", "new")
            )
            found.append(Candidate(schedule, peak, share, old, new, "law of replay"))
    if not found:
        raise UserError(
            "expected a schedule and peak run with at least five shares about those asked for, "
            "got none; add shares to the sweep or take what was measured"
        )
    return found


def alike(fits: Sequence[CurveFit], curves: Sequence[Curve]) -> list[CurveFit]:
    """The laws that describe some curves about as well as the best of them does.

    Which of them describes a short stage best says little about which foretells a longer one.

    Args:
      fits: of one data set.
      curves: of second stages alone.
    """
    errors = [np.mean([fit.relative_error(curve) for curve in curves]) for fit in fits]
    return [f for f, error in zip(fits, errors, strict=True) if error <= _ALIKE * min(errors)]


def lengthened(
    trials: Iterable[Trial],
    fits: Mapping[int, tuple[Sequence[CurveFit], Sequence[CurveFit]]],
    short: Mapping[tuple[str, float, float], np.ndarray],
    whole: Mapping[tuple[str, float, float], np.ndarray],
    start: int,
) -> list[Candidate]:
    """What the choices of a sweep come to in longer stages: as measured, and what laws add.

    A law that misses a peak or a share misses it at the end of the short stage and of the long one
    alike, so only the difference between the two is taken from it. Of several laws the mean counts:
    a median would take one choice from one law and the next from another, and not order them.

    Args:
      trials: final losses of the short stages.
      fits: seed -> laws of the old and of the new set, fitted to curves of that seed alone.
      short: schedule, peak and share -> learning rates of every step of both stages, as run.
      whole: the same with the longer second stage.
      start: steps of the first stage.
    """

    def added(fit: CurveFit, one: Candidate) -> float:
        ends = []
        for rates in (whole, short):
            rates_T = rates[one.schedule, one.peak, one.share]
            ends.append(fit.predict(rates_T, start, [len(rates_T)], one.share).value[0])
        return float(ends[0] - ends[1])

    found = []
    for one in measured(trials):
        sets, spread = [], 0.0
        for z, losses in enumerate((one.old, one.new)):
            ways = {s: [added(fit, one) for fit in fits[s][z]] for s in losses.values}
            sets.append(PerSeed({s: v + float(np.mean(ways[s])) for s, v in losses.values.items()}))
            spread += float(np.mean([np.ptp(way) for way in ways.values()])) / 2
        found.append(Candidate(one.schedule, one.peak, one.share, *sets, FORETOLD, spread))
    return found


def advise(
    candidates: Sequence[Candidate],
    objective: str = AVERAGE,
    base: PerSeed | None = None,
    forgetting: float | None = None,
    within: float = 0.0,
    base_new: PerSeed | None = None,
) -> Advice:
    """Names the candidate to take, and says what the seeds do not tell apart.

    Args:
      candidates: measured or predicted, all with common seeds.
      objective: AVERAGE or ADAPTATION.
      base: loss of the base model on the old data, per seed; for forgetting.
      forgetting: largest mean rise of the loss on the old data that is allowed, in nats per token;
        needed for ADAPTATION.
      within: part of the lowest loss that is given away for replaying less; see `rule`.
      base_new: loss of the base model on the new data, per seed; for adaptation.

    Raises:
      UserError: fewer than two candidates, an unknown objective, a limit without a base.
    """
    if objective not in OBJECTIVES:
        raise UserError(f"expected an objective of {', '.join(OBJECTIVES)}, got {objective!r}")
    if len(candidates) < 2:
        raise UserError(f"expected at least two candidates to choose from, got {len(candidates)}")
    if objective == ADAPTATION and forgetting is None:
        raise UserError("expected a limit on forgetting, in nats per token, for adaptation")
    if forgetting is not None and base is None:
        raise UserError("expected the loss of the base model on the old data, got none")
    if not 0 <= within < 1:
        raise UserError(f"expected a part of the lowest loss from 0 to below 1, got {within}")
    allowed = list(candidates)
    if forgetting is not None:
        allowed = [c for c in candidates if (c.old - base).mean <= forgetting]
        if not allowed:
            least = min(candidates, key=lambda c: (c.old - base).mean)
            words = (
                f"No candidate keeps forgetting within {forgetting:g}; {least.name} forgets least, "
                f"{(least.old - base).mean:.3g}. Replay more or lower the peak."
            )
            return Advice(None, None, (), False, (), words, ())

    def value(candidate: Candidate) -> PerSeed:
        return candidate.average if objective == AVERAGE else candidate.new

    best = min(allowed, key=lambda c: value(c).mean)
    near = [c for c in allowed if value(c).mean <= (1 + within) * value(best).mean]
    choice = min(near, key=lambda c: (c.share, value(c).mean))
    others = [candidate for candidate in allowed if candidate is not choice]
    rows = [row for candidate in allowed for row in _rows_of(candidate, base, base_new)]
    level = 1 - (1 - _LEVEL) / max(len(others), 1)
    rivals = []
    for other in others:
        excess = seed_row(
            f"{other.name}/excess",
            value(other) - value(choice),
            NATS,
            f"{_KINDS[objective]} less that of {choice.name}",
            f"{other.source}; interval widened for {len(others)} comparisons",
            level=level,
        )
        rows.append(excess)
        if verdict(excess) != "above":
            rivals.append(other)
    kept = forgetting is None or _within(choice.old - base, forgetting)
    words = _words(choice, best, others, rivals, value, _KINDS[objective])
    if not kept:
        words += f" It is not shown that it keeps forgetting within {forgetting:g}."
    return Advice(
        choice, best, tuple(allowed), not rivals and kept, tuple(rivals), words, tuple(rows)
    )


def rule(within: float, candidates: int, seeds: int) -> list[str]:
    """How the choice is made, in lines, to be read before the numbers."""
    lines = [
        f"rule: of the candidates whose average loss is at most {within:.2%} above the lowest, "
        "that with the smallest share of replay; among equal shares, the lowest average"
    ]
    count = candidates - 1
    if seeds < 2:
        return [*lines, "one seed: no interval, so nothing here is shown"]
    quantile = stats.t.ppf(1 - (1 - _LEVEL) / count / 2, seeds - 1)
    return [
        *lines,
        f"with {seeds} seeds and {count} comparisons at once, a difference is shown from "
        f"{quantile:.1f} standard errors on (Student's t, Bonferroni); few will be, and the rule "
        "does not ask for it",
    ]


def compare(
    foretold: Sequence[Candidate], found: Sequence[Candidate], choice: Candidate, within: float
) -> list[Row]:
    """How far off predictions were, and what the choice that rests on them gave away.

    What it gave away (regret) is not known, and has no rows, where it was not measured itself. The
    lowest of several measured means is flattered by chance, so regret is overstated: two
    candidates that are in truth alike have one above 0.

    Args:
      foretold: predicted candidates.
      found: the same choices measured in stages of that length; others are left out.
      choice: what was recommended.
      within: of `advise`.

    Raises:
      UserError: fewer than two of the candidates were measured.
    """
    truth = {one.name: one for one in found}
    common = [one for one in foretold if one.name in truth]
    if len(common) < 2:
        raise UserError(
            f"expected full runs of {choice.name} and of another candidate, got "
            f"{', '.join(sorted(truth)) or 'none'}; run the same shares, peaks and schedules"
        )
    rows = []
    for one in common:
        for key in ("old", "new", "average"):
            right = getattr(truth[one.name], key)
            words = f"foretold loss less the measured one: {_PARTS[key]}"
            rows.append(seed_row(f"{one.name}/{key}/error", getattr(one, key) - right, NATS, words))
    for key in ("old", "new", "average"):
        errors = [
            getattr(one, key).paired(getattr(truth[one.name], key), lambda a, b: abs(a / b - 1))
            for one in common
        ]
        total = errors[0]
        for error in errors[1:]:
            total = total + error
        words = f"mean over {len(common)} candidates of |foretold / measured - 1|: {_PARTS[key]}"
        mean = total * (1 / len(errors))
        rows.append(seed_row(f"{key}/relative_error", mean, "1", words, contrast=False))
    if choice.name not in truth:
        return rows
    again = advise([truth[one.name] for one in common], within=within)
    average = truth[choice.name].average
    for name, other, words in (
        ("regret", again.best, "that of the lowest measured"),
        ("regret_rule", again.choice, "that of what the rule takes of the measured ones"),
    ):
        rows.append(
            seed_row(
                name,
                average - other.average,
                NATS,
                f"measured average loss of {choice.name} less {words}, {other.name}",
            )
        )
    return rows


def _rows_of(one: Candidate, base: PerSeed | None, base_new: PerSeed | None) -> list[Row]:
    rows = [
        seed_row(f"{one.name}/{key}", getattr(one, key), NATS, words, one.source, contrast=False)
        for key, words in _PARTS.items()
    ]
    for key, after, before in (
        ("forgetting", one.old, base),
        ("adaptation", one.new, base_new),
    ):
        if before is not None:
            found = after - before
            rows.append(seed_row(f"{one.name}/{key}", found, NATS, DEFINITIONS[key], one.source))
    if one.spread:
        words = "largest average loss foretold by laws that fit about as well, less the smallest"
        note = "mean over seeds; no interval of it"
        found = Interval(one.spread, math.nan, math.nan)
        rows.append(interval_row(f"{one.name}/spread", found, NATS, one.old.n, words, note))
    return rows


def _within(forgot: PerSeed, limit: float) -> bool:
    """Whether the upper end of the interval keeps to the limit; NaN of one seed does not."""
    return bool(forgot.interval().high[0] <= limit)


def _words(
    choice: Candidate,
    best: Candidate,
    others: Sequence[Candidate],
    rivals: Sequence[Candidate],
    value: Callable[[Candidate], PerSeed],
    kind: str,
) -> str:
    found = value(choice)
    seeds = f"{choice.source}, {found.n} seed" + ("s" if found.n > 1 else "")
    start = (
        f"{choice.schedule} with peak {choice.peak:g} and {100 * choice.share:g} % replay: "
        f"{'lowest ' if choice is best else ''}{kind}, {found.mean:.4g} ({seeds})"
    )
    if choice is not best:
        more = found.mean / value(best).mean - 1
        start += f", {more:.2%} above the lowest, {value(best).mean:.4g} of {best.name}"
    start += "."
    if not others:
        return start + " No other candidate keeps to the limit."
    if not rivals:
        return start + f" All {len(others)} others are shown to be worse."
    names = ", ".join(rival.name for rival in rivals[:5]) + (" ..." if len(rivals) > 5 else "")
    return start + (
        f" Not shown to be better than {len(rivals)} of {len(others)} others: {names}. Add seeds, "
        "or take the cheapest of these."
    )
