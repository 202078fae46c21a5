"""Runs in which the same facts take turns in the arms, put together: every fact its own control.

What a fact gains over what the same fact gains in a run that never says it is what saying it did:
counterfactual memorization (Zhang et al. 2023, arXiv:2112.12938), with the template learning of
both runs alike. Between different facts the gain varies by more than its mean, mostly with the
words of the answer, and that cancels here. Runs that are turned by `facts.rotation` give each arm
the same facts when they make up a Latin square, or for two arms half a square apart when they are
half a turn apart; arms that do not share their facts are compared as in one run.
"""

from collections.abc import Sequence

import numpy as np

from llm_dynamics.errors import UserError
from llm_dynamics.facts import cells, estimates
from llm_dynamics.facts.cells import Table
from llm_dynamics.facts.estimates import Study


def cross(studies: Sequence[Study], seed: int = 0) -> Study:
    """One study of all runs' probes; what it subtracts is subtracted fact by fact.

    Facts are resampled with all their runs, within groups that take the same turns, so that what
    the runs differ in cancels in every replicate as it does in the data. Groups of K facts draw
    K - 1 and weigh them K / (K - 1) (Rao & Wu 1988, J. Am. Stat. Assoc. 83:231, Sec. 2), which
    leaves variances unbiased.

    Args:
      studies: of runs with the same facts, probes, schedule, window and recorded steps.
      seed: of the resampling.

    Raises:
      UserError: runs that differ in those, or a group of a single fact.
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
    return Study(
        table,
        first.arms,
        first.depths,
        first.schedule,
        first.window,
        estimates.choose_lag(table, first.schedule, first.window),
        _weights(studies, table, seed, resamples),
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


def _weights(
    studies: Sequence[Study], table: Table, seed: int, resamples: int
) -> dict[str, np.ndarray]:
    """Replicates of the facts of every arm, R x K; a fact counts alike in all its arms."""
    arms_of: dict[str, list[str]] = {}
    for study in studies:
        labels = study.table.labels
        pairs = dict(zip(labels["fact"].tolist(), labels["arm"].tolist(), strict=True))
        for fact, arm in pairs.items():
            arms_of.setdefault(fact, []).append(arm)
    facts = sorted(arms_of)
    turns = [tuple(arms_of[fact]) for fact in facts]
    generator = np.random.default_rng([seed, len(facts), len(studies)])
    drawn_RxF = np.ones((resamples + 1, len(facts)))
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
    labels = table.labels
    return {
        arm: drawn_RxF[:, np.searchsorted(facts, np.unique(labels["fact"][labels["arm"] == arm]))]
        for arm in cells.arms_and_depths(table)[0]
    }
