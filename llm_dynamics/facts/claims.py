"""The claims of the literature as contrasts between arms, depths, encounters and runs.

Numbers are control-subtracted unless they say raw. A study may be of one run or of runs crossed
(`crossed`). Studies share facts, so a contrast between two resamples the same facts on both sides
(the same replicate weights). How runs vary beyond their facts is in an interval where the study
resamples units of runs, and the note of every row says whether it does.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy import stats

from llm_dynamics.errors import UserError
from llm_dynamics.facts import estimates
from llm_dynamics.facts.cells import CONTROL, Cell
from llm_dynamics.facts.estimates import Study
from llm_dynamics.facts.long_tail_rows import NULLS as TAIL_NULLS
from llm_dynamics.facts.long_tail_rows import long_tail_rows
from llm_dynamics.facts.rows import doubt, make_row
from llm_dynamics.facts.statistics import Estimate
from llm_dynamics.facts.threshold import Threshold, threshold
from llm_dynamics.results import Interval, Row, interval_row, note_not_shown

Measure = Callable[[Study, Cell], Estimate]

# What a row says without an effect, by the last word of its name; 0 otherwise.
NULLS = {"inflation": 1.0, **TAIL_NULLS}

NATS = "nats/token"
NET = "control-subtracted "
SOON = 30  # steps after the last maximum at which duplication and paraphrase are compared early


def subtracted(study: Study, arm: str, depth: str, measure: Measure) -> Estimate:
    """A measure of an arm less that of the never-injected control on the same schedule.

    Args:
      measure: linear in the scores.
    """
    study = study.for_contrasts()
    return measure(study, study.cell(arm, depth)) - measure(study, study.cell(CONTROL, depth, arm))


def gain_after(steps: int) -> Measure:
    """Mean gain so many steps after the last maximum, in nats.

    The maximum is at the study's lag after the last encounter.

    Raises:
      UserError: by the measure, of a run that ends before.
    """

    def measure(study: Study, cell: Cell) -> Estimate:
        end = len(cell.offsets_T) - 1
        if steps > end:
            raise UserError(
                f"expected a run that goes on for {steps} steps after the last maximum of arm "
                f"{cell.arm}, got {end}; lengthen the run or ask for fewer steps"
            )
        return study.mean(cell, cell.gain_at_lag_TxP[steps])

    return measure


def share_left(study: Study, arm: str, depth: str, steps: int) -> Estimate:
    """The control-subtracted gain so many steps after the last maximum over that at it."""
    return subtracted(study, arm, depth, gain_after(steps)) / subtracted(
        study, arm, depth, gain_after(0)
    )


def first_minus_later(study: Study, cell: Cell) -> Estimate:
    """Effectivity of the first encounter less the mean of the later ones."""
    gains_UxP = cell.effectivity_at_lag_UxP
    return study.mean(cell, gains_UxP[0] - np.nanmean(gains_UxP[1:], axis=0))


def levels_before(study: Study, arm: str, depth: str) -> Estimate:
    """Control-subtracted level just before each encounter over that before the first; R x U."""
    rows_U = np.searchsorted(study.table.steps_S, study.schedule[arm])

    def level(study: Study, cell: Cell) -> Estimate:
        return study.mean(cell, cell.change_SxP[rows_U])

    return subtracted(study, arm, depth, level)


def accumulation(study: Study, arm: str, depth: str) -> Estimate:
    """Least-squares slope of the level just before an encounter on the encounter's number.

    Above 0, what encounters add outlasts the interval and builds up: the fact is met more often
    than the learnability threshold asks for, tested directly.
    """
    levels = levels_before(study, arm, depth)
    number_U = np.arange(levels.draws_RxT.shape[1])
    centred_U = number_U - number_U.mean()
    return levels.then(lambda r: (r @ centred_U / (centred_U @ centred_U))[:, None])


def forgetting_line(study: Study, arm: str, depth: str) -> tuple[Estimate, Threshold]:
    """An arm's control-subtracted gain on log10 of the steps after the last maximum, R x 2.

    Returns:
      Slope and intercept, and where the line reaches 0: the interval beyond which it foretells no
      building up. That is where the line of retainability, the ratio to the gain at the maximum,
      does; without the division it exists where that gain may be 0 as well.
    """
    offsets_T = study.cell(arm, depth).offsets_T
    curve = subtracted(study, arm, depth, lambda s, cell: s.mean(cell, cell.gain_at_lag_TxP))
    line = estimates.line_of(curve, offsets_T)
    return line, threshold(line, math.log10(offsets_T[-1]))


def side(found: Threshold, log_interval: float) -> str:
    """On which side of a threshold an interval lies, in words."""
    if math.isnan(found.low) or math.isnan(found.high):
        return "unknown: the threshold has no interval"
    if log_interval > found.high:
        return "rarer than the predicted threshold: foretold not to build up"
    if log_interval < found.low:
        beyond = ", which may lie at any longer one" if math.isinf(found.high) else ""
        return f"more often than the predicted threshold{beyond}: foretold to build up"
    if math.isinf(found.high):
        return "unbounded: the interval of the predicted threshold reaches from here to infinity"
    return "within the interval of the predicted threshold: nothing is foretold"


def inflation(study: Study, arm: str, depth: str) -> Estimate:
    """The raw gain at the last maximum over the control-subtracted one; 1 = not inflated."""
    raw = estimates.published_gain(study, study.cell(arm, depth))
    return raw / subtracted(study, arm, depth, gain_after(0))


def within_run(
    study: Study,
    name: str,
    arms: Mapping[str, Sequence[str]],
    beta1: float = 0.9,
    after: int = 100,
) -> list[Row]:
    """The contrasts that one run answers, or runs crossed.

    Args:
      study: the log of the run.
      name: of the run.
      arms: role -> arms of the run: duplication, paraphrase and late, zipf with one arm each
        where there is one; intervals with those that differ in the interval alone.
      beta1: of Adam's first moment, for the law of retention.
      after: steps after the last maximum at which the share left is taken.
    """
    (same,) = arms["duplication"]
    depths = study.depths
    aside = {CONTROL, *arms.get("zipf", ()), *arms.get("paraphrase", ())}
    repeated = [arm for arm in study.arms if arm not in aside]
    rows = []
    for depth in depths:
        add = _adder(rows, f"{name}/{depth}", study)
        effect = subtracted(study, same, depth, estimates.effectivity)
        gain = subtracted(study, same, depth, gain_after(0))
        add(
            "gain/raw",
            estimates.published_gain(study, study.cell(same, depth)),
            NATS,
            f"raw gain of {same} at each probe's own last maximum, without a control, as published",
        )
        add("gain", gain, NATS, f"{NET}gain of {same} at the last maximum")
        add("effectivity", effect, NATS, f"{NET}effectivity of {same}, mean over encounters")
        add(
            "inflation",
            inflation(study, same, depth),
            "1",
            f"raw gain of {same} at the last maximum over the control-subtracted one",
        )
        add(
            "first-minus-later",
            subtracted(study, same, depth, first_minus_later),
            NATS,
            f"{NET}effectivity of the first encounter of {same} less the mean of the later ones",
        )
        for other in arms.get("paraphrase", ()):
            _add_paraphrase(add, study, depth, same, other, after)
        for other in arms.get("late", ()):
            add(
                f"late-minus-early/{other}",
                subtracted(study, other, depth, estimates.effectivity) - effect,
                NATS,
                f"{NET}effectivity of {other} (later in pretraining) less that of {same}",
            )
        for other in arms.get("zipf", ()):
            path = f"{name}/{depth}/long-tail"
            found = long_tail_rows(study, other, depth, repeated, path, beta1)
            rows += [_noted(row, _of_runs(study.over_facts_alone())) for row in found]
        if arms.get("intervals"):
            _add_intervals(add, study, depth, same, arms["intervals"])
    for one, other in itertools.pairwise(depths):
        _adder(rows, name, study)(
            f"{one}-minus-{other}",
            subtracted(study, same, one, estimates.effectivity)
            - subtracted(study, same, other, estimates.effectivity),
            NATS,
            f"{NET}effectivity of {same} at depth {one} less that at depth {other}",
        )
    return rows


def _add_paraphrase(add, study: Study, depth: str, same: str, other: str, after: int) -> None:
    """Duplication less paraphrase: what they gain, and what they keep of it."""

    def apart(measure: Measure) -> Estimate:
        return subtracted(study, same, depth, measure) - subtracted(study, other, depth, measure)

    for key, steps, when in (
        ("gain", 0, "at the last maximum"),
        (f"gain-after-{SOON}", SOON, f"{SOON} steps after the last maximum"),
    ):
        add(
            f"{same}-minus-{other}/{key}",
            apart(gain_after(steps)),
            NATS,
            f"{NET}gain of {same} {when} less that of {other}, at as many encounters",
        )
    add(
        f"{same}-minus-{other}/lost-after-{after}",
        apart(gain_after(0)) - apart(gain_after(after)),
        NATS,
        f"what {same} loses of its {NET}gain in the {after} steps after the last maximum, less "
        f"what {other} loses of its own",
    )
    doubts = {}
    for arm in (same, other):
        why = doubt(subtracted(study, arm, depth, gain_after(0)))
        doubts[arm] = f"{arm}: {why}" if why else ""
        add(
            f"share-after-{after}/{arm}",
            share_left(study, arm, depth, after),
            "1",
            f"{NET}gain of {arm} {after} steps after the last maximum over that at it",
            doubts[arm],
        )
    add(
        f"{same}-minus-{other}/share-after-{after}",
        share_left(study, same, depth, after) - share_left(study, other, depth, after),
        "1",
        f"share of its {NET}gain that {same} keeps {after} steps after the last maximum, less the "
        f"share that {other} keeps",
        "; ".join(filter(None, doubts.values())),
    )


def _add_intervals(add, study: Study, depth: str, same: str, intervals: Sequence[str]) -> None:
    """Whether what encounters add builds up, and whether it is foretold to."""
    fitted, found = forgetting_line(study, same, depth)
    at = estimates.crossing(fitted)
    unclear = doubt(subtracted(study, same, depth, gain_after(0)))
    line = (
        f"at which the least-squares line of the {NET}gain of {same} on log10 of the steps after "
        "the last maximum reaches 0 (learnability threshold)"
    )
    add(
        "threshold/predicted",
        at,
        "log10 steps",
        f"log10 of the time {line}",
        "; ".join(filter(None, (found.note, unclear))),
        missing="",
        null=None,
    )
    for arm in intervals:
        times = study.schedule[arm]
        gap = times[1] - times[0]
        since = max(gap - study.lag, 1)
        log_interval = math.log10(since)
        met = f"{since} steps from the maximum after an encounter of {arm}"
        add(
            f"accumulation/{arm}",
            accumulation(study, arm, depth),
            "nats/token/encounter",
            f"slope of the {NET}level just before an encounter on its number, {len(times)} "
            f"encounters {gap} steps apart",
        )
        add(
            f"threshold/{arm}",
            at.then(lambda x, here=log_interval: here - x),
            "log10 steps",
            f"log10 of the {met}, {study.lag} steps after it, to the next encounter, less log10 of "
            f"the time {line}; above 0: met too rarely to build up, by the line",
            "; ".join(filter(None, (side(found, log_interval), found.note, unclear))),
            missing="the line does not fall: no interval is foretold to be too long",
        )
        add(
            f"foretold/{arm}",
            fitted.then(lambda x, here=log_interval: x[:, :1] * here + x[:, 1:]),
            NATS,
            f"what the least-squares line of the {NET}gain of {same} on log10 of the steps after "
            f"the last maximum leaves at the {met} to the next one; above 0: foretold to build up, "
            "the other side of the learnability threshold from below 0, whether or not the "
            "threshold itself has an upper end",
        )


def between_runs(
    one: Study,
    other: Study,
    name: str,
    arm: str,
    what: str,
    after: int = 100,
    other_after: int | None = None,
    paired: bool = True,
) -> list[Row]:
    """Contrasts of the same arm in two runs: what one shows less what the other shows.

    Args:
      one, other: studies of runs, or of runs crossed.
      name: of the rows.
      arm: the arm.
      what: is compared, in words.
      after: steps after the last maximum at which the share left is taken.
      other_after: the same in `other`, where its steps are of another size; None = as many.
      paired: whether both are of the same facts, resampled alike; else each has its own.
    """
    rows, sides = [], ((one, after), (other, after if other_after is None else other_after))
    if other_after not in (None, after):
        what = f"{what} ({after} steps in the first, {other_after} in the second)"
    if not paired:
        what = f"{what}; unpaired: other facts, each side resampled on its own"
    for depth in one.depths:
        add = _adder(rows, f"{name}/{depth}", one)
        gains = [subtracted(study, arm, depth, gain_after(0)) for study, _ in sides]
        for key, unit, values, note in (
            (
                "effectivity",
                NATS,
                [subtracted(study, arm, depth, estimates.effectivity) for study, _ in sides],
                "",
            ),
            ("gain", NATS, gains, ""),
            (
                f"share-after-{after}",
                "1",
                [share_left(study, arm, depth, steps) for study, steps in sides],
                max(map(doubt, gains)),
            ),
        ):
            first, second = values
            if not paired:
                # Arms of the same names have other facts, which count on their own.
                least = {found: min(n, second.facts[found]) for found, n in first.facts.items()}
                second = dataclasses.replace(second, facts=least)
            add(key, first - second, unit, f"{NET}{key} of {arm}: {what}", note)
    return rows


def seeds(studies: Sequence[Study], arm: str, depth: str) -> list[Row]:
    """The gain in each of several studies that differ in seeds and in which facts are said.

    The interval of the mean is Student's t over studies, which vary in everything at once.
    """
    found = [subtracted(study, arm, depth, gain_after(0)) for study in studies]
    values = np.array([estimate.draws_RxT[0, 0] for estimate in found])
    n = len(values)
    half = stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan
    rows: list[Row] = []
    add = _adder(rows, f"seeds/{depth}", studies[0])
    for i, estimate in enumerate(found):
        add(f"study-{i}", estimate, NATS, f"{NET}gain of {arm} at the last maximum in study {i}")
    mean = interval_row(
        f"seeds/{depth}/mean",
        Interval(*(np.array([values.mean() + end]) for end in (0.0, -half, half))),
        NATS,
        n,
        f"mean over {n} runs of the control-subtracted gain of {arm} at the last maximum; "
        "interval: Student's t over runs, n = runs",
        "" if n > 1 else "one run: no interval",
    )
    return [*rows, note_not_shown(mean)]


def null_of(name: str) -> float:
    """The value of a row that shows nothing."""
    return NULLS.get(name.split("/")[-1], 0.0)


def _adder(rows: list[Row], prefix: str, study: Study):
    """Appends rows with what was resampled, and whether the arms they compare share their facts."""

    def add(name, estimate, unit, definition, note="", missing=None, null=0.0):
        apart = len({study.facts_of(arm) for arm in estimate.facts}) > 1
        notes = (note, _of_runs(study), "arms of different facts" if apart else "")
        definition = f"{definition}; {_RESAMPLED[study.seeds > 1]}"
        row = make_row(
            f"{prefix}/{name}",
            estimate,
            unit,
            definition,
            "; ".join(filter(None, notes)),
            missing,
        )
        if null is not None:
            row = note_not_shown(row, NULLS.get(name.split("/")[-1], null))
        rows.append(row)

    return add


_RESAMPLED = {False: "facts resampled", True: "facts and the pairs of runs resampled"}


def _of_runs(study: Study) -> str:
    """What the interval says of how runs vary."""
    if study.seeds == 1:
        runs = {1: "one run", 2: "two runs"}.get(study.runs, f"{study.runs} runs")
        return f"{runs}: how runs vary is not in the interval"
    few = ", fewer than 5: how runs vary is poorly determined" if study.seeds < 5 else ""
    return f"{study.runs} runs in {study.seeds} pairs{few}"


def _noted(row: Row, note: str) -> Row:
    return {**row, "note": "; ".join(filter(None, (row["note"], note)))}
