"""Runs in which the same facts take turns in the arms, put together: every fact its own control.

What a fact gains over what the same fact gains in a run that never says it is what saying it did:
counterfactual memorization (Zhang et al. 2023, arXiv:2112.12938), with the template learning of
both runs alike. Between different facts the gain varies by more than its mean, mostly with the
words of the answer, and that cancels here. Runs that are turned by `facts.rotation` give each arm
the same facts when they make up a Latin square. Of two runs half a turn apart that is true of arms
that stand half a square apart alone; arms that do not share their facts are compared as in one run.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from llm_dynamics.errors import UserError
from llm_dynamics.facts import estimates
from llm_dynamics.facts.cells import Table
from llm_dynamics.facts.estimates import Study
from llm_dynamics.facts.statistics import facts_alone

LEAST_UNITS = 3  # that are resampled; how two differ says next to nothing of how all do


def cross(studies: Sequence[Study], seed: int = 0, units: Sequence[int] | None = None) -> Study:
    """One study of all runs' probes; what it subtracts is subtracted fact by fact.

    Facts are resampled with all their runs, within groups that take the same turns, so that what
    the runs differ in cancels in every replicate as it does in the data. Groups of K facts draw
    K - 1 and weigh them K / (K - 1) (Rao & Wu 1988, J. Am. Stat. Assoc. 83:231, Sec. 2), which
    leaves variances unbiased.

    With three units of runs or more, replicates draw units as well, and facts anew within each
    drawn one; the last `statistics.facts_alone` keep all units, for `Estimate.interval`. Where
    every fact takes every arm, contrasts are then taken of scores less the fact's mean over runs
    (`Study.centred`), which changes no difference between arms.

    Args:
      studies: of runs with the same facts, probes, schedule, window and recorded steps.
      seed: of the resampling.
      units: the independent unit of each run, such as its pair; None = facts alone are resampled.

    Raises:
      UserError: runs that differ in those, a group of a single fact, or a fact that is in one arm
        in several units.
    """
    first = studies[0]
    for other in studies[1:]:
        same = (
            np.array_equal(first.table.steps_S, other.table.steps_S)
            and set(first.table.labels["fact"]) == set(other.table.labels["fact"])
            and (set(first.arms), first.depths) == (set(other.arms), other.depths)
            and (first.schedule, first.window) == (other.schedule, other.window)
        )
        if not same:
            raise UserError(
                "expected runs of the same facts, arms, schedule and recorded steps to be crossed, "
                "got others; rotate the arms with facts.rotation and change nothing else of facts"
            )
    table = _concatenate([study.table for study in studies])
    resamples = len(next(iter(first.weights.values()))) - 1
    units = [0] * len(studies) if units is None else list(units)
    seeds = len(set(units)) if len(set(units)) >= LEAST_UNITS else 1
    if seeds == 1:
        units = [0] * len(studies)
    placed = _placed(studies, units)
    return Study(
        table,
        first.arms,
        first.depths,
        first.schedule,
        first.window,
        estimates.choose_lag(table, first.schedule, first.window),
        _weights(placed, len(studies), seed, resamples),
        runs=len(studies),
        seeds=seeds,
        centred=_centred(table) if seeds > 1 and _is_square(placed, first.arms) else None,
    )


def _concatenate(tables: Sequence[Table]) -> Table:
    names = set.intersection(*(set(table.labels) for table in tables))
    return Table(
        tables[0].steps_S,
        tables[0].tokens_S,
        np.concatenate([table.loglik_SxP for table in tables], axis=1),
        np.concatenate([table.greedy_P for table in tables]),
        np.concatenate([table.rank_P for table in tables]),
        {name: np.concatenate([table.labels[name] for table in tables]) for name in names},
    )


def _placed(studies: Sequence[Study], units: Sequence[int]) -> dict[str, list[tuple[str, int]]]:
    """fact -> its arm and unit in every run, facts in the order of their names."""
    placed: dict[str, list[tuple[str, int]]] = {}
    for study, unit in zip(studies, units, strict=True):
        labels = study.table.labels
        pairs = dict(zip(labels["fact"].tolist(), labels["arm"].tolist(), strict=True))
        for fact, arm in pairs.items():
            placed.setdefault(fact, []).append((arm, unit))
    return dict(sorted(placed.items()))


def _is_square(placed: Mapping[str, Sequence[tuple[str, int]]], arms: Sequence[str]) -> bool:
    """Whether every fact is in every arm once."""
    return all(sorted(arm for arm, _ in met) == sorted(arms) for met in placed.values())


def _centred(table: Table) -> Table:
    """Scores less their mean over all runs of the fact at that depth and step."""
    names = np.char.add(np.char.add(table.labels["fact"], "/"), table.labels["depth"])
    _, index_P = np.unique(names, return_inverse=True)
    member_PxK = np.eye(index_P.max() + 1)[index_P]
    mean_SxK = table.loglik_SxP @ member_PxK / member_PxK.sum(axis=0)
    return table._replace(loglik_SxP=table.loglik_SxP - mean_SxK[:, index_P])


def _weights(
    placed: Mapping[str, Sequence[tuple[str, int]]], runs: int, seed: int, resamples: int
) -> dict[str, np.ndarray]:
    """Replicates of the facts of every arm, R x K; a fact counts alike in all arms of a unit."""
    facts = list(placed)
    turns = [tuple(arm for arm, _ in placed[fact]) for fact in facts]
    units = sorted({unit for met in placed.values() for _, unit in met})
    generator = np.random.default_rng([seed, len(facts), runs])
    drawn_RxF = np.ones((resamples + 1, len(facts)))
    groups = []
    for turn in sorted(set(turns)):
        members = [i for i, found in enumerate(turns) if found == turn]
        count = len(members)
        if count < 2:
            raise UserError(
                f"expected two facts or more that take the turns {', '.join(turn)}, got 1; raise "
                "facts.num_facts"
            )
        draws = generator.multinomial(count - 1, np.full(count, 1 / count), size=resamples)
        drawn_RxF[1:, members] = draws * count / (count - 1)
        groups.append(members)
    drawn_of = dict.fromkeys(units, drawn_RxF)
    if len(units) > 1:
        both = resamples - facts_alone(resamples)
        times_RxS = generator.multinomial(
            len(units), np.full(len(units), 1 / len(units)), size=both
        )
        for s, unit in enumerate(units):
            drawn_of[unit] = drawn_RxF.copy()
            for members in groups:
                count = len(members)
                # Several draws of one unit are one of as many more facts.
                draws = generator.multinomial(
                    times_RxS[:, s] * (count - 1), np.full(count, 1 / count)
                )
                drawn_of[unit][1 : both + 1, members] = draws * count / (count - 1)
    found: dict[str, dict[int, int]] = {}
    for i, fact in enumerate(facts):
        for arm, unit in placed[fact]:
            if found.setdefault(arm, {}).setdefault(i, unit) != unit:
                raise UserError(
                    f"expected every fact in an arm in one unit of runs, got {fact} in {arm} in "
                    "several; rotate the arms with facts.rotation"
                )
    return {
        arm: np.stack([drawn_of[unit][:, i] for i, unit in sorted(where.items())], axis=1)
        for arm, where in found.items()
    }
