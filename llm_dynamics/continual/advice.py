"""Which schedule, peak and replay share to take from a short sweep, and whether the sweep shows it.

The candidate with the best mean is named; it is called shown only where every other candidate is
worse by a paired difference whose interval over seeds leaves out 0. Intervals of these differences
are widened for their number (Bonferroni), so that all hold together. Among many candidates the
best mean is flattered by chance, and a sweep on few tokens says how candidates order, not what
losses a longer run will have.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from llm_dynamics.continual.curve_fit import CurveFit
from llm_dynamics.continual.measures import NATS
from llm_dynamics.continual.replay_law import fit_replay
from llm_dynamics.continual.robust_fit import check_losses, check_share
from llm_dynamics.errors import UserError
from llm_dynamics.results import Row, verdict
from llm_dynamics.seeds import PerSeed, seed_row

AVERAGE = "average"  # of the losses on the old and the new data, as low as can be
ADAPTATION = "adaptation"  # loss on the new data as low as can be, forgetting within a limit
OBJECTIVES = (AVERAGE, ADAPTATION)
_LEVEL = 0.95


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
    """

    schedule: str
    peak: float
    share: float
    old: PerSeed
    new: PerSeed
    source: str = "measured"

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
      shown: whether every other candidate that keeps to the limit is shown to be worse, and the
        choice to keep to it.
      rivals: candidates not shown to be worse.
      words: the advice in a sentence or two.
      rows: losses of the choice, and the difference of every other candidate to it.
    """

    choice: Candidate | None
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


def from_curves(
    fits: Mapping[int, tuple[CurveFit, CurveFit]],
    rates: Mapping[tuple[str, float], np.ndarray],
    start: int,
    shares: Sequence[float],
) -> list[Candidate]:
    """Candidates of schedules that were not run, by the law of the curve fitted to each seed.

    Args:
      fits: seed -> fits of the old and of the new set to curves of that seed alone.
      rates: schedule and peak -> learning rates of every step of both stages.
      start: steps of the first stage.
      shares: of replay; the fitted one where all fitted curves had one.
    """
    found = []
    for (schedule, peak), rates_T in rates.items():
        for share in shares:
            old, new = (
                PerSeed(
                    {
                        seed: float(
                            pair[index].predict(rates_T, start, [len(rates_T)], share)[0][0]
                        )
                        for seed, pair in fits.items()
                    }
                )
                for index in (0, 1)
            )
            found.append(Candidate(schedule, peak, share, old, new, "law of the curve"))
    return found


def advise(
    candidates: Sequence[Candidate],
    objective: str = AVERAGE,
    base: PerSeed | None = None,
    forgetting: float | None = None,
) -> Advice:
    """Names the best candidate, and says what the seeds do not tell apart.

    Args:
      candidates: measured or predicted, all with common seeds.
      objective: AVERAGE or ADAPTATION.
      base: loss of the base model on the old data, per seed; with a limit on forgetting.
      forgetting: largest mean rise of the loss on the old data that is allowed, in nats per token;
        needed for ADAPTATION.

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
    allowed = list(candidates)
    if forgetting is not None:
        allowed = [c for c in candidates if (c.old - base).mean <= forgetting]
        if not allowed:
            least = min(candidates, key=lambda c: (c.old - base).mean)
            words = (
                f"No candidate keeps forgetting within {forgetting:g}; {least.name} forgets least, "
                f"{(least.old - base).mean:.3g}. Replay more or lower the peak."
            )
            return Advice(None, False, (), words, ())

    def value(candidate: Candidate) -> PerSeed:
        return candidate.average if objective == AVERAGE else candidate.new

    choice = min(allowed, key=lambda c: value(c).mean)
    others = [candidate for candidate in allowed if candidate is not choice]
    rows = _rows_of(choice, base)
    level = 1 - (1 - _LEVEL) / max(len(others), 1)
    rivals = []
    for other in others:
        excess = seed_row(
            f"{other.name}/excess",
            value(other) - value(choice),
            NATS,
            f"{'average' if objective == AVERAGE else 'new-set'} loss less that of {choice.name}",
            f"{other.source}; interval widened for {len(others)} comparisons",
            level=level,
        )
        rows.append(excess)
        if verdict(excess) != "above":
            rivals.append(other)
    within = forgetting is None or _within(choice.old - base, forgetting)
    words = _words(choice, others, rivals, value(choice), objective)
    if not within:
        words += f" It is not shown that it keeps forgetting within {forgetting:g}."
    return Advice(choice, not rivals and within, tuple(rivals), words, tuple(rows))


def _rows_of(choice: Candidate, base: PerSeed | None) -> list[Row]:
    parts = {
        "old": (choice.old, "loss on the old data after the stage"),
        "new": (choice.new, "loss on the new data after the stage"),
        "average": (choice.average, "mean of the losses on the old and the new data"),
    }
    rows = [
        seed_row(f"{choice.name}/{key}", found, NATS, words, choice.source, contrast=False)
        for key, (found, words) in parts.items()
    ]
    if base is not None:
        words = "loss on the old data after the stage less that of the base model"
        found = choice.old - base
        rows.append(seed_row(f"{choice.name}/forgetting", found, NATS, words, choice.source))
    return rows


def _within(forgot: PerSeed, limit: float) -> bool:
    """Whether the upper end of the interval keeps to the limit; NaN of one seed does not."""
    return bool(forgot.interval().high[0] <= limit)


def _words(
    choice: Candidate,
    others: Sequence[Candidate],
    rivals: Sequence[Candidate],
    found: PerSeed,
    objective: str,
) -> str:
    kind = "average loss" if objective == AVERAGE else "loss on the new data"
    seeds = f"{found.n} seed" + ("s" if found.n > 1 else "")
    start = (
        f"{choice.schedule} with peak {choice.peak:g} and {100 * choice.share:g} % replay: lowest "
        f"{kind}, {found.mean:.4g} ({choice.source}, {seeds})."
    )
    if not others:
        return start + " No other candidate keeps to the limit."
    if not rivals:
        return start + f" All {len(others)} others are shown to be worse."
    names = ", ".join(rival.name for rival in rivals[:5]) + (" ..." if len(rivals) > 5 else "")
    return start + (
        f" Not shown to be better than {len(rivals)} of {len(others)} others: {names}. Add seeds, "
        "or take the cheapest of these."
    )
