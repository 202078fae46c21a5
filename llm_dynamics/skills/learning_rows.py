"""Rows of questions along checkpoints: how probable and how often right, learned and forgotten.

Rows are named all/... or LABEL=VALUE/...; every interval is over groups of questions.

Axes: S checkpoints, I questions.
"""

import math

import numpy as np
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from llm_dynamics.errors import UserError
from llm_dynamics.results import Interval, Row, exact, interval_row, note_not_shown
from llm_dynamics.skills import resampling
from llm_dynamics.skills.trajectories import Learning, Trajectories, learning

NATS, SHARE, UPDATES = "nats per token", "share", "updates"
_MOST = 40  # values of a label
_RESAMPLES = 400
_NEVER = "no question is ever right"
_UNSEEN = "what lies between two checkpoints is not seen"
_FEWEST = 10  # groups that an interval of a share needs to be as long as it says
_FEW_GROUPS = "few groups: the interval is too short"
_ONE_GROUP = "one group of questions"
_CHOSEN = "named by one half of the questions, measured on the other, and the other way round"


def rows(found: Trajectories, by: str = "") -> list[Row]:
    """All rows of a series, for all questions and for each value of a label.

    Raises:
      UserError: an unknown label, or one of too many values.
    """
    parts = found.parts(by)
    refuse_many(by, len(parts) - 1)
    return [row for name, index in parts.items() for row in _part(name, index, found)]


def refuse_many(by: str, values: int) -> None:
    """Refuses a label that nothing can be grouped by.

    Raises:
      UserError: it has too many values.
    """
    if values > _MOST:
        raise UserError(
            f"expected a label of at most {_MOST} values, got {by!r} of {values}; choose another, "
            "or leave it out"
        )


def _part(name: str, index: np.ndarray, found: Trajectories) -> list[Row]:
    group_I = np.unique(found.group_I[index], return_inverse=True)[1]
    right_SxI, logprob_SxI = found.right_SxI[:, index], found.logprob_SxI[:, index]
    choices_I, n = found.choices_I[index], int(group_I.max()) + 1
    made = [
        interval_row(f"{name}/questions", exact(len(index)), "1", n, "questions asked"),
        interval_row(f"{name}/chance", exact(np.where(choices_I > 1, 1 / choices_I, 0.0).mean()),
            SHARE, n, "right answers of guessing: one over the choices, 0 for a target"),
    ]  # fmt: skip
    for step, right_I, logprob_I in zip(
        found.steps_S.tolist(), right_SxI, logprob_SxI, strict=True
    ):
        made.append(
            mean_row(f"{name}/step={step}/logprob", logprob_I, group_I,
                "mean ln p of the tokens of the target or right choice, over questions")
        )  # fmt: skip
        made.append(
            _share_row(f"{name}/step={step}/right", right_I, group_I,
                "questions answered rightly: the most probable text token by token, or the most "
                "probable choice")
        )  # fmt: skip
    if len(found.steps_S) > 1:
        made += _changes(name, found.steps_S, right_SxI, logprob_SxI, group_I)
        made += _learning(name, found.steps_S, right_SxI, group_I)
    return made


def mean_row(
    name: str, value_I: np.ndarray, group_I: np.ndarray, words: str, note: str = ""
) -> Row:
    """A mean over questions with Student's interval over groups."""
    value = float(value_I.mean())
    error, n = resampling.spread(value_I - value, group_I)
    half = float(stats.t.ppf(0.975, n - 1)) * error if n > 1 else math.nan
    why = ""
    if not half > 0:
        half = math.nan
        why = "no interval: " + ("all questions agree" if n > 1 else _ONE_GROUP)
    ends = Interval(*(np.array([x]) for x in (value, value - half, value + half)))
    how = f"{words}; Student's interval over groups"
    return interval_row(name, ends, NATS, n, how, "; ".join(filter(None, (note, why))))


def _share_row(
    name: str, is_I: np.ndarray, group_I: np.ndarray, words: str, missing: str | None = None
) -> Row:
    found, n = resampling.share(is_I, group_I)
    how = f"{words}; Wilson's interval"
    return interval_row(name, found, SHARE, n, how, _few(found, n), missing)


def _few(found: Interval, n: int) -> str:
    """What an interval of a share is worth over so many groups."""
    return _FEW_GROUPS if n < _FEWEST and np.isfinite(found.low[0]) else ""


def paired_share(change_I: np.ndarray, group_I: np.ndarray) -> Interval:
    """The mean of changes of -1, 0 and 1 of the same questions, with its interval.

    The shares of gains and of losses with Wilson's intervals, combined by MOVER (Zou & Donner
    2008) with the correlation that two cells of one multinomial have. Of one that never happens
    groups are taken to matter as they do for the other.
    """
    effective = [_effective(change_I == sign, group_I) for sign in (1, -1)]
    known = [n for n in effective if n] or [float(len(np.unique(group_I)))]
    gain, loss = (
        _wilson(float((change_I == sign).mean()), n or known[0])
        for sign, n in zip((1, -1), effective, strict=True)
    )
    up, down = float(gain.value[0]), float(loss.value[0])
    below = (1 - up) * (1 - down)
    r = -math.sqrt(up * down / below) if below > 0 else 0.0
    value = gain.value - loss.value

    def reach(a, b):
        return np.sqrt(a**2 + b**2 - 2 * r * a * b)

    low = value - reach(gain.value - gain.low, loss.high - loss.value)
    high = value + reach(gain.high - gain.value, loss.value - loss.low)
    return Interval(value, np.maximum(low, -1), np.minimum(high, 1))


def _effective(is_I: np.ndarray, group_I: np.ndarray) -> float:
    """Questions that a share is worth, as in `resampling.share`; 0 where that is not known."""
    p = float(is_I.mean())
    error, n = resampling.spread(is_I - p, group_I)
    if n < 2 or not 0 < p < 1:
        return 0.0
    return min(p * (1 - p) / error**2, len(is_I)) if error else float(len(is_I))


def _wilson(p: float, effective: float) -> Interval:
    ends = proportion_confint(p * effective, effective, method="wilson")
    return Interval(*(np.array([float(x)]) for x in (p, *ends)))


def _changes(
    name: str,
    steps_S: np.ndarray,
    right_SxI: np.ndarray,
    logprob_SxI: np.ndarray,
    group_I: np.ndarray,
) -> list[Row]:
    """First, best and last checkpoint on the same questions."""
    made, first, last = [], int(steps_S[0]), int(steps_S[-1])
    groups = int(group_I.max()) + 1
    half_I = np.random.default_rng(0).permutation(groups)[group_I] % 2
    for key, value_SxI in (("logprob", logprob_SxI), ("right", right_SxI.astype(float))):
        mean_S = value_SxI.mean(axis=1)
        best = math.nan if key == "right" and not mean_S.any() else steps_S[mean_S.argmax()]
        made.append(
            interval_row(f"{name}/best/{key}", exact(best), UPDATES, groups,
                f"checkpoint of the highest mean of {key}, the first of several such",
                missing=_NEVER)
        )  # fmt: skip
        change_I = value_SxI[-1] - value_SxI[0]
        words = f"step {last} less step {first} on the same questions"
        made.append(_change_row(f"{name}/last-first/{key}", change_I, group_I, words, key))
        change_I = value_SxI[-1] - _best(value_SxI, half_I)
        words = f"step {last} less the best checkpoint, {_CHOSEN}"
        made.append(_change_row(f"{name}/last-best/{key}", change_I, group_I, words, key))
    return made


def _best(value_SxI: np.ndarray, half_I: np.ndarray) -> np.ndarray:
    """Values at the checkpoint that the other half of the questions names; NaN if it is empty."""
    best_I = np.full(len(half_I), math.nan)
    for half in (0, 1):
        others = half_I != half
        if others.any() and not others.all():
            best = value_SxI[:, others].mean(axis=1).argmax()
            best_I[~others] = value_SxI[best, ~others]
    return best_I


def _change_row(name: str, change_I: np.ndarray, group_I: np.ndarray, words: str, key: str) -> Row:
    n = int(group_I.max()) + 1
    share = f"share right: {words}; Wilson's intervals of gains and losses, combined"
    if np.isnan(change_I).any():
        unit, how = (NATS, words) if key == "logprob" else (SHARE, share)
        return interval_row(name, exact(math.nan), unit, n, how, missing=_ONE_GROUP)
    if key == "logprob":
        return note_not_shown(mean_row(name, change_I, group_I, words))
    found = paired_share(change_I, group_I)
    return note_not_shown(interval_row(name, found, SHARE, n, share, _few(found, n)))


def _learning(
    name: str, steps_S: np.ndarray, right_SxI: np.ndarray, group_I: np.ndarray
) -> list[Row]:
    of, count = learning(right_SxI), len(steps_S)
    ever_I, last_I = of.first_I < count, right_SxI[-1]
    some = np.flatnonzero(ever_I)
    lost_I = ever_I & ~last_I
    return [
        _share_row(f"{name}/ever", ever_I, group_I, "questions right at some checkpoint"),
        _share_row(f"{name}/forgotten", lost_I, group_I,
            "questions right at some checkpoint and wrong at the last one"),
        _share_row(f"{name}/forgotten_of_ever", lost_I[some], group_I[some],
            "of the questions right at some checkpoint, those wrong at the last one", _NEVER),
        _share_row(f"{name}/unforgotten", (of.events_I == 0)[some], group_I[some],
            "of the questions right at some checkpoint, those without a forgetting event", _NEVER),
        _events_row(f"{name}/events", of, some, group_I),
        median_row(f"{name}/first_right", of.first_I, steps_S, group_I,
            f"median over questions of the first checkpoint that is right; {_UNSEEN}",
            "fewer than half of the questions are ever right"),
        median_row(f"{name}/kept_right", of.kept_I, steps_S, group_I,
            f"median over questions of the checkpoint from which on all are right; {_UNSEEN}",
            "fewer than half of the questions are right at the last checkpoint"),
    ]  # fmt: skip


def _events_row(name: str, of: Learning, some: np.ndarray, group_I: np.ndarray) -> Row:
    words = (
        "forgetting events (right at one checkpoint, wrong at the next; Toneva et al. 2019) of a "
        "question that is ever right"
    )
    if not len(some):
        return interval_row(name, exact(math.nan), "1", 0, words, "", _NEVER)
    return mean_row(name, of.events_I[some].astype(float), group_I[some], words) | {"unit": "1"}


def median_row(
    name: str, at_I: np.ndarray, steps_S: np.ndarray, group_I: np.ndarray, words: str, missing: str
) -> Row:
    """The median of a checkpoint, by its step, with a bootstrap interval over groups.

    Args:
      name: of the row.
      at_I: index of a checkpoint; S = none, which is later than all.
      steps_S: their steps.
      group_I: groups of questions.
      words: the definition.
      missing: what it means that there is no median.
    """
    count, n = len(steps_S), int(group_I.max()) + 1
    rng = np.random.default_rng(0)
    step_S = np.append(steps_S.astype(float), math.inf)
    draws = []
    for draw in range(_RESAMPLES + 1):
        drawn = np.arange(n) if draw == 0 else rng.integers(0, n, n)
        weight_G = np.bincount(drawn, minlength=n)
        below_S = np.cumsum(np.bincount(at_I, weight_G[group_I], minlength=count + 1))
        draws.append(step_S[np.searchsorted(below_S, below_S[-1] / 2)])
    found, why = resampling.interval(np.array(draws))
    how = f"{words}; bootstrap over groups"
    note = why if math.isfinite(found.value[0]) else ""
    return interval_row(name, found, UPDATES, n, how, note, missing)
