"""Rows of results.json: the three metrics against k, what went wrong, saturation, novelty."""

import collections
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from llm_dynamics.results import Interval, Row, exact, interval_row
from llm_dynamics.skillmix import rates, scores
from llm_dynamics.skillmix.evaluate import EvalConfig, Result

DEFINITIONS = {
    "full_marks": "share of items with all k + 3 points",
    "all_skills": "share of items with all k skill points and at least 2 of the other 3",
    "skill_fraction": "skill points / k where the other 3 points are given, else 0",
}
# Combinations by what training texts show of them.
KINDS = ("seen", "seen_skills", "unseen", "held_out")
KIND_WORDS = {
    "seen": "a training text shows these skills about this topic",
    "seen_skills": "training texts show these skills together, but not about this topic",
    "unseen": "no training text shows these skills together",
    "held_out": "they include a pair that was kept out of all training texts",
}


def by_k(results: Sequence[Result]) -> dict[int, list[Result]]:
    """Results by number of skills, rising."""
    found: dict[int, list[Result]] = {}
    for result in sorted(results, key=lambda r: r.item.k):
        found.setdefault(result.item.k, []).append(result)
    return found


def values(results: Sequence[Result], metric: str, how: str = "best") -> np.ndarray:
    """A metric of each item, NaN where it is missing."""
    scored = [[one.scored for one in result.generations] for result in results]
    return scores.item_values(scored, metric, how)


def score_rows(config: EvalConfig, results: Sequence[Result]) -> list[Row]:
    """k=K/METRIC: best of the readable generations; .../mean: their mean; with SE, missing as 0."""
    rows = []
    for k, some in by_k(results).items():
        for metric, words in DEFINITIONS.items():
            best = f"{words}; best of the readable ones of {config.generations} generations"
            rows += rates.score_rows(
                f"k={k}/{metric}", values(some, metric), best, config.interval, config.seed
            )
            mean = f"{words}; mean over the readable ones of {config.generations} generations"
            found = values(some, metric, "mean")
            kind = "bootstrap" if config.interval == "auto" else config.interval
            rows.append(
                interval_row(
                    f"k={k}/{metric}/mean",
                    rates.interval(found, kind, seed=config.seed),
                    "1",
                    int(np.isfinite(found).sum()),
                    mean,
                    missing="no item has a readable grading",
                )
            )
    for metric in DEFINITIONS:
        rows.append(
            rates.saturation_row(f"saturation/{metric}", intervals(config, results, metric))
        )
    return rows


def intervals(config: EvalConfig, results: Sequence[Result], metric: str) -> Mapping[int, Interval]:
    """k -> best-of score with its interval."""
    return {
        k: rates.interval(values(some, metric), config.interval, seed=config.seed)
        for k, some in by_k(results).items()
    }


def trouble_rows(results: Sequence[Result]) -> list[Row]:
    """k=K/trouble/...: what could not be read, and what corrections changed; counts."""
    rows = []
    for k, some in by_k(results).items():
        texts = [one for result in some for one in result.generations]
        gradings = [grading for one in texts for grading in one.gradings]
        unreadable = sum(grading.points is None for grading in gradings)
        disagree, points = _disagreement(texts)
        gone = [[one.scored.points is None for one in result.generations] for result in some]
        missing, short = sum(map(all, gone)), sum(any(g) and not all(g) for g in gone)
        counts = (
            ("missing_items", missing, len(some), "items without any readable grading"),
            ("short_items", short, len(some),
             "items some of whose generations have no readable grading: scores are of fewer"),
            ("unreadable", unreadable, len(gradings), "gradings that could not be read"),
            ("unmarked", sum(not one.answer.marked for one in texts), len(texts),
             "replies without a marked answer; all of the reply was graded"),
            ("empty", sum(not one.answer.text for one in texts), len(texts),
             "replies with an empty answer, which were not graded"),
            ("cut", sum(one.finish == "length" for one in texts), len(texts),
             "replies that reached the longest length"),
            ("ties", sum(one.scored.ties for one in texts), points,
             "points that half of an even number of gradings give"),
            ("named", sum(len(one.scored.named) for one in texts), len(texts) * k,
             "skills that lost a given point because the text names them"),
            ("recounted", sum(one.scored.recounted for one in texts), len(texts),
             "texts whose point for length changed by counting sentences"),
            ("disagreement", disagree, points,
             "points on which readable gradings of one text differ"),
        )  # fmt: skip
        for name, count, n, words in counts:
            rows.append(interval_row(f"k={k}/trouble/{name}", exact(count), "count", n, words))
    return rows


def reasons(results: Sequence[Result]) -> dict[int, collections.Counter]:
    """k -> why gradings could not be read -> how many."""
    found = {}
    for k, some in by_k(results).items():
        whys = (g.why for r in some for one in r.generations for g in one.gradings)
        found[k] = collections.Counter(why for why in whys if why)
    return found


def novelty_rows(
    config: EvalConfig, results: Sequence[Result], kind_of: Callable[[Result], str]
) -> list[Row]:
    """Full marks by what training texts show of a combination, looked up exactly.

    Args:
      config: of the evaluation.
      results: all items.
      kind_of: one of KINDS for each.
    """
    rows = []
    for k, some in by_k(results).items():
        found = values(some, "full_marks")
        kinds = np.array([kind_of(result) for result in some])
        for kind in KINDS:
            chosen = found[kinds == kind]
            if len(chosen):
                rows.append(
                    interval_row(
                        f"k={k}/full_marks/{kind}",
                        rates.interval(chosen),
                        "1",
                        int(np.isfinite(chosen).sum()),
                        f"{DEFINITIONS['full_marks']}, of combinations where {KIND_WORDS[kind]}",
                    )
                )
        wins = found == 1
        new = int((wins & (kinds != "seen")).sum())
        rows.append(
            interval_row(
                f"k={k}/successes_unseen",
                rates.share(new, int(wins.sum())),
                "1",
                int(wins.sum()),
                "share of the items with full marks whose skills and topic no training text shows "
                "together",
                missing="no item has full marks",
            )
        )
    return rows


def _disagreement(texts) -> tuple[int, int]:
    """Points on which gradings of a text differ, and how many points there are."""
    differ = total = 0
    for one in texts:
        readable = [g.points for g in one.gradings if g.points is not None]
        if readable:
            differ += int((np.ptp(np.array(readable), axis=0) > 0).sum())
            total += len(readable[0])
    return differ, total
