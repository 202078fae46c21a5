"""Scores over items with intervals, and the number of skills at which a model is at its end."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import stats

from llm_dynamics.errors import UserError
from llm_dynamics.results import Interval, Row, exact, interval_row

KINDS = ("auto", "wilson", "student", "bootstrap")
SATURATED = 0.05  # a score below it, at which the published leaderboard goes to no larger k
_RESAMPLES = 4000


def standard_error(values_M: np.ndarray) -> float:
    """sd / sqrt(n) over items that are not missing, sd with n in its denominator as published."""
    values_M = _present(values_M)
    return float(values_M.std() / np.sqrt(len(values_M))) if len(values_M) else float("nan")


def interval(
    values_M: np.ndarray, kind: str = "auto", level: float = 0.95, seed: int = 0
) -> Interval:
    """The mean over items that are not missing, and its interval for other items.

    Args:
      values_M: a number of 0 to 1 an item; NaN = missing.
      kind: "wilson" for shares (values of 0 and 1; Wilson 1927), "student", "bootstrap"
        (percentiles over resampled items), or "auto": Wilson for shares, else the bootstrap. Where
        all values are the same, the bootstrap and Student have no width, and there is no interval.
      level: nominal coverage.
      seed: of the bootstrap.

    Raises:
      UserError: an unknown kind, or Wilson's for what is no share.
    """
    if kind not in KINDS:
        raise UserError(f"unknown interval {kind!r}; known: {', '.join(KINDS)}")
    values_M = _present(values_M)
    if not len(values_M):
        return exact(float("nan"))
    is_share = bool(np.isin(values_M, (0, 1)).all())
    if kind == "auto":
        kind = "wilson" if is_share else "bootstrap"
    if kind == "wilson":
        if not is_share:
            raise UserError("Wilson's interval is for shares of items, got other values than 0, 1")
        return share(int(values_M.sum()), len(values_M), level)
    mean = float(values_M.mean())
    if len(values_M) < 2 or values_M.min() == values_M.max():
        return exact(mean)
    if kind == "student":
        error = values_M.std(ddof=1) / np.sqrt(len(values_M))
        half = stats.t.ppf((1 + level) / 2, len(values_M) - 1) * error
        return _interval(mean, mean - half, mean + half)
    drawn = stats.bootstrap(
        (values_M,),
        np.mean,
        n_resamples=_RESAMPLES,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return _interval(mean, drawn.low, drawn.high)


def share(successes: int, trials: int, level: float = 0.95) -> Interval:
    """A share and Wilson's interval; NaN for no trials."""
    if not trials:
        return exact(float("nan"))
    found = stats.binomtest(successes, trials).proportion_ci(level, method="wilson")
    return _interval(successes / trials, found.low, found.high)


def score_rows(
    name: str, values_M: np.ndarray, definition: str, kind: str = "auto", seed: int = 0
) -> list[Row]:
    """A score's rows: over items that are not missing, its SE, and with missing items as 0."""
    there = len(_present(values_M))
    missing = len(values_M) - there
    note = f"{missing} items missing" if missing else ""
    found = interval(values_M, kind, seed=seed)
    as_zero = interval(np.nan_to_num(np.asarray(values_M, float)), kind, seed=seed)
    none = "no item has a readable grading"
    error = exact(standard_error(values_M))
    return [
        interval_row(name, found, "1", there, definition, note, missing=none),
        interval_row(
            f"{name}/se", error, "1", there, f"sd / sqrt(n) of: {definition}", missing=none
        ),
        interval_row(
            f"{name}/missing_as_0",
            as_zero,
            "1",
            len(values_M),
            f"{definition}; items without a readable grading count as 0",
        ),
    ]


def saturation(
    scores: Mapping[int, Interval], threshold: float = SATURATED
) -> dict[str, int | None]:
    """The smallest k at which a score is below the threshold, and what its intervals allow.

    The paper speaks of the k at which the score drops off, and its leaderboard goes to no larger k
    below .05 (Yu et al. 2023, Sec. 5; the threshold as a definition is ours). By the full marks of
    its Table 7 LLaMA-2-7B, 13B and 70B then saturate at 2, 3 and 3, as the paper says.

    Args:
      scores: k -> the score; values that are not finite are passed over.
      threshold: of the score.

    Returns:
      "k": the smallest with a score below; "earliest": the smallest whose interval begins below;
      "latest": the smallest whose interval ends below. None = not among these k.
    """
    found: dict[str, int | None] = {"k": None, "earliest": None, "latest": None}
    for k in sorted(scores):
        value, low, high = (float(np.ravel(end)[0]) for end in scores[k])
        low, high = (value if np.isnan(end) else end for end in (low, high))
        for key, end in (("k", value), ("earliest", low), ("latest", high)):
            if found[key] is None and end < threshold:
                found[key] = k
    return found


def saturation_row(
    name: str, scores: Mapping[int, Interval], threshold: float = SATURATED
) -> dict[str, Any]:
    """A row of the saturation point; its ends are the k that the intervals allow."""
    found = saturation(scores, threshold)
    known = [k for k in sorted(scores) if np.isfinite(np.ravel(scores[k].value)[0])]
    none = f"no k of {', '.join(map(str, known))} has a score below {threshold:g}"
    ends = [np.nan if found[key] is None else found[key] for key in ("k", "earliest", "latest")]
    if not np.isnan(ends[1]) and np.isnan(ends[2]):
        ends[2] = np.inf
    return interval_row(
        name,
        _interval(*ends),
        "skills",
        len(known),
        f"smallest k whose score is below {threshold:g}; ends: smallest k whose interval begins, "
        "and ends, below it",
        missing=none if known else "no k has a score",
    )


def _present(values_M: np.ndarray) -> np.ndarray:
    values_M = np.asarray(values_M, float)
    return values_M[~np.isnan(values_M)]


def _interval(value: float, low: float, high: float) -> Interval:
    return Interval(*(np.array([float(x)]) for x in (value, low, high)))
