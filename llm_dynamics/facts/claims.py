"""The claims of the literature as contrasts between arms, depths, encounters and runs.

Numbers are control-subtracted unless they say raw. A study may be of one run or of runs crossed
(`crossed`). Studies share facts, so a contrast between two resamples the same facts on both sides
(the same replicate weights); only `seeds` tells how much runs vary beyond their facts.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy import stats

from llm_dynamics.facts import estimates
from llm_dynamics.facts.cells import CONTROL, Cell
from llm_dynamics.facts.estimates import Study
from llm_dynamics.facts.long_tail_rows import NULLS as TAIL_NULLS
from llm_dynamics.facts.long_tail_rows import long_tail_rows
from llm_dynamics.facts.rows import make_row
from llm_dynamics.facts.statistics import Estimate
from llm_dynamics.results import Interval, Row, interval_row, note_not_shown

Measure = Callable[[Study, Cell], Estimate]

# What a row says without an effect, by the last word of its name; 0 otherwise.
NULLS = {"inflation": 1.0, **TAIL_NULLS}

NATS = "nats/token"
NET = "control-subtracted "


def subtracted(study: Study, arm: str, depth: str, measure: Measure) -> Estimate:
    """A measure of an arm less that of the never-injected control on the same schedule."""
    return measure(study, study.cell(arm, depth)) - measure(study, study.cell(CONTROL, depth, arm))


def gain_after(steps: int) -> Measure:
    """Mean gain so many steps after the last maximum, in nats; the last recorded step at most.

    The maximum is at the study's lag after the last encounter.
    """

    def measure(study: Study, cell: Cell) -> Estimate:
        return study.mean(cell, cell.gain_at_lag_TxP[min(steps, len(cell.offsets_T) - 1)])

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


def by_frequency(study: Study, arm: str, depth: str) -> Estimate:
    """Slope of a fact's gain at the end on log2 of its number of encounters, nats per doubling."""
    cell = study.cell(arm, depth)
    facts, index_P = np.unique(np.asarray(cell.fact_P), return_inverse=True)
    gain_K = np.bincount(index_P, cell.change_SxP[-1]) / np.bincount(index_P)
    times = study.times(arm)
    x_K = np.log2([len(times[fact]) for fact in facts])
    weights_RxK = study.weights[arm] / study.weights[arm].sum(axis=1, keepdims=True)
    x_RxK = x_K - (weights_RxK @ x_K)[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        slope_R = (weights_RxK * x_RxK) @ gain_K / (weights_RxK * x_RxK**2).sum(axis=1)
    return Estimate(slope_R[:, None], {arm: len(facts)})


def inflation(study: Study, arm: str, depth: str) -> Estimate:
    """The raw gain at the last maximum over the control-subtracted one; 1 = not inflated."""
    raw = estimates.published_gain(study, study.cell(arm, depth))
    return raw / subtracted(study, arm, depth, gain_after(0))


def within_run(
    study: Study, name: str, arms: Mapping[str, Sequence[str]], beta1: float = 0.9
) -> list[Row]:
    """The contrasts that one run answers.

    Args:
      study: the log of the run.
      name: of the run.
      arms: role -> arms of the run: duplication, paraphrase and late, zipf with one arm each
        where there is one; intervals with those that differ in the interval alone.
      beta1: of Adam's first moment, for the law of retention.
    """
    (same,) = arms["duplication"]
    depths = study.depths
    aside = {CONTROL, *arms.get("zipf", ()), *arms.get("paraphrase", ())}
    repeated = [arm for arm in study.arms if arm not in aside]
    rows = []
    for depth in depths:
        add = _adder(rows, f"{name}/{depth}")
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
            for key, measure, when in (
                ("gain", gain_after(0), "at the last maximum"),
                ("gain-after-30", gain_after(30), "30 steps after the last maximum"),
            ):
                add(
                    f"{same}-minus-{other}/{key}",
                    subtracted(study, same, depth, measure)
                    - subtracted(study, other, depth, measure),
                    NATS,
                    f"{NET}gain of {same} {when} less that of {other}, at as many encounters",
                )
        for other in arms.get("late", ()):
            add(
                f"late-minus-early/{other}",
                subtracted(study, other, depth, estimates.effectivity) - effect,
                NATS,
                f"{NET}effectivity of {other} (later in pretraining) less that of {same}",
            )
        for other in arms.get("zipf", ()):
            add(
                "long-tail",
                by_frequency(study, other, depth),
                "nats/token/doubling",
                "slope of a fact's raw gain at the end on log2 of its number of encounters, "
                f"facts of arm {other}; what all facts gain alike cancels in a slope",
            )
            path = f"{name}/{depth}/long-tail"
            rows += long_tail_rows(study, other, depth, repeated, path, beta1)
        for arm in arms.get("intervals", ()):
            times = study.schedule[arm]
            add(
                f"accumulation/{arm}",
                accumulation(study, arm, depth),
                "nats/token/encounter",
                f"slope of the {NET}level just before an encounter on its number, {len(times)} "
                f"encounters {times[1] - times[0]} steps apart",
            )
    for one, other in itertools.pairwise(depths):
        _adder(rows, name)(
            f"{one}-minus-{other}",
            subtracted(study, same, one, estimates.effectivity)
            - subtracted(study, same, other, estimates.effectivity),
            NATS,
            f"{NET}effectivity of {same} at depth {one} less that at depth {other}",
        )
    return rows


def between_runs(
    one: Study, other: Study, name: str, arm: str, what: str, after: int = 100
) -> list[Row]:
    """Contrasts of the same arm in two runs: what one shows less what the other shows."""
    rows = []
    for depth in one.depths:
        add = _adder(rows, f"{name}/{depth}")
        for key, measure, unit in (
            ("effectivity", lambda s, d: subtracted(s, arm, d, estimates.effectivity), NATS),
            ("gain", lambda s, d: subtracted(s, arm, d, gain_after(0)), NATS),
            (f"share-after-{after}", lambda s, d: share_left(s, arm, d, after), "1"),
        ):
            add(
                key,
                measure(one, depth) - measure(other, depth),
                unit,
                f"{NET}{key} of {arm}: {what}",
            )
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
    add = _adder(rows, f"seeds/{depth}")
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


def _adder(rows: list[Row], prefix: str):
    def add(name, estimate, unit, definition):
        row = make_row(f"{prefix}/{name}", estimate, unit, f"{definition}; facts resampled")
        rows.append(note_not_shown(row, null_of(row["name"])))

    return add
