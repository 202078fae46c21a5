"""Whole curves of a study foretold by laws that have not seen them, and how far off they were.

Of the arms of a study some are of no use to the law of the curve, which knows rates and shares
alone: those from fresh parameters, those whose second stage is on the old data, and those that
treat the optimizer's moments otherwise than the first arm from the same model. What is left is
held out by kind. The sweep of shares are the arms whose rates come with the most shares.

  shares      an arm of the sweep; foretold without any arm of its share. The least and the
              largest share are foretold without arms of their rates and share alone, for beyond
              all shares nothing is foretold; they are not in the mean.
  schedules   any other arm: another schedule, another peak; foretold without any arm of its rates.

First stages are fitted in any case: before a second stage is planned the first one is known. On
data that a first stage does not read its loss need not fall, which no coefficients of the law
follow; of that loss the last third of the stage is fitted, which says where the second one begins.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llm_dynamics.continual.curve_fit import CurveFit, fit_curves
from llm_dynamics.continual.curve_law import Curve, mean_relative_error
from llm_dynamics.continual.mixture_laws import Points, dcpt_rows
from llm_dynamics.continual.replay_law import critical_row, fit_replay
from llm_dynamics.continual.stage_log import Arm
from llm_dynamics.errors import UserError
from llm_dynamics.results import Row, exact, interval_row
from llm_dynamics.seeds import PerSeed, seed_row

DECAYS = (0.5, 0.9, 0.97, 0.99, 0.999)  # of S2, see `decays_for`
SCHEDULES, SHARES = "schedules", "shares"
_KINDS = {
    SCHEDULES: "arms of another schedule or peak than the sweep of shares, each without any arm of "
    "its rates",
    SHARES: "arms of the sweep of shares but those at its ends, each without any arm of its share",
}
_ERROR = "mean of |predicted - measured| / measured along the second stage on the {} data"
_POINTS = 60  # of a curve that are fitted; errors are of all
# Row -> by what an arm is foretold.
_HOW = {
    "law_error": "the law of the curve fitted to other arms",
    "nearest_error": "the arm nearest in share, then in peak, taken for the one left out",
    "anchored_error": "the arm nearest in share, then in peak, as measured, times what the law "
    "fitted to other arms has for the one left out, by what it has for that arm",
}


@dataclass(frozen=True)
class _HeldOut:
    """What is foretold of an arm, and from what.

    Attributes:
      kind: SCHEDULES, SHARES, or "" where it is in no mean.
      others: arms that are fitted.
    """

    kind: str
    others: tuple[str, ...]


def decays_for(steps: int) -> tuple[float, ...]:
    """Decays of S2 to choose from for second stages of so many steps.

    The published 0.999 remembers about a thousand steps of runs of many thousands. A memory of more
    than a tenth of a stage is hardly told apart from the shift, and what it is then fitted to does
    not hold for other schedules; at 0.5 it is all but the rate itself.
    """
    found = tuple(decay for decay in DECAYS if 1 / (1 - decay) <= steps / 10 * (1 + 1e-9))
    return found or DECAYS[:1]


def held_out_rows(prefix: str, arms: Mapping[str, Arm], shares: Mapping[str, float]) -> list[Row]:
    """Mean relative errors of second stages, by laws fitted to arms of another kind.

    Rows PREFIX/VARIANT/DATASET/law_error of every arm that the law is for, their means
    PREFIX/law_error/DATASET/KIND and, to see what the law is worth,
    PREFIX/nearest_error/DATASET/KIND of the nearest arm as it was measured. The law and that arm
    together, PREFIX/anchored_error/DATASET/KIND: what the law makes of the difference between both
    arms, on top of what was measured of one. Where the form of replay was chosen,
    PREFIX/law_form/DATASET/FORM.

    Args:
      prefix: of the names.
      arms: variant -> arm.
      shares: variant -> replay share of the arm; 0 where it has none.
    """
    fitted, note = _lawful(arms)
    if not fitted:
        return []
    datasets = next(iter(fitted.values())).datasets
    found = [
        _foretold(dataset, which, fitted, shares)
        for dataset, which in zip(datasets, ("old", "new"), strict=True)
    ]
    rows = [one.row(prefix, variant, note) for variant in fitted for one in found]
    return rows + [row for one in found for row in one.mean_rows(prefix)]


@dataclass(frozen=True)
class _Foretold:
    """All arms on one data set.

    Attributes:
      dataset: its name.
      plan: arm -> what it is foretold from.
      laws: arm -> the law fitted to that, or why there is none.
      errors: key of _HOW -> arm -> relative errors.
      whole: the fit to all arms, if there is one.
    """

    dataset: str
    plan: Mapping[str, _HeldOut]
    laws: Mapping[str, CurveFit | str]
    errors: Mapping[str, Mapping[str, PerSeed]]
    whole: CurveFit | None

    def row(self, prefix: str, variant: str, note: str) -> Row:
        """The error on one arm."""
        name, words = f"{prefix}/{variant}/{self.dataset}/law_error", _ERROR.format(self.dataset)
        law = self.laws[variant]
        if isinstance(law, str):
            return interval_row(name, exact(np.nan), "1", 0, words, missing=law)
        words += f", by {law.law_name}, fitted to {', '.join(self.plan[variant].others)}"
        return seed_row(name, self.errors["law_error"][variant], "1", words, note, contrast=False)

    def mean_rows(self, prefix: str) -> list[Row]:
        """Mean errors by kind, and what the form of replay was chosen by."""
        rows = []
        for kind, words in _KINDS.items():
            for key, how in _HOW.items():
                errors = self.errors[key].items()
                some = {v: found for v, found in errors if self.plan[v].kind == kind}
                if some:
                    name = f"{prefix}/{key}/{self.dataset}/{kind}"
                    rows.append(_mean_row(name, some, self.dataset, how, words))
        name = f"{prefix}/law_form/{self.dataset}"
        return rows + (_form_rows(name, self.whole, self.dataset) if self.whole else [])


def _foretold(dataset, which, arms: Mapping[str, Arm], shares) -> _Foretold:
    curves = {v: arm.law_curves(dataset, shares[v], first=False, arm=v) for v, arm in arms.items()}
    firsts = {
        (curve.seed, arm.before[curve.seed].path): _thinned(curve, late=which == "new")
        for arm in arms.values()
        for curve in arm.first_curves(dataset)
    }
    some = next(iter(curves.values()))[0]
    decays = decays_for(len(some.rates_T) - some.start)
    fits: dict[tuple[str, ...], CurveFit] = {}

    def fit(names: tuple[str, ...], near: CurveFit | None) -> CurveFit:
        if len(names) < 2:
            raise UserError("fewer than two other arms to fit the law to")
        if names not in fits:
            second = [_thinned(curve) for name in names for curve in curves[name]]
            fitted = [*firsts.values(), *second]
            fits[names] = fit_curves(fitted, which, decays, resamples=0, near=near)
        return fits[names]

    try:
        whole = fit(tuple(curves), None)
    except UserError:
        whole = None
    plan = held_out(curves)
    laws: dict[str, CurveFit | str] = {}
    errors: dict[str, dict[str, PerSeed]] = {key: {} for key in _HOW}
    for variant, left in plan.items():
        own = curves[variant]
        try:
            laws[variant] = law = fit(left.others, whole)
            found = PerSeed({c.seed: law.relative_error(c) for c in own})
        except UserError as error:
            laws[variant] = str(error)
            continue
        close = _nearest(own[0], [curves[other] for other in left.others])
        errors["law_error"][variant] = found
        for key, by in (("nearest_error", None), ("anchored_error", law)):
            errors[key][variant] = PerSeed({c.seed: _distance(close, c, by) for c in own})
    return _Foretold(dataset, plan, laws, errors, whole)


def held_out(curves: Mapping[str, list[Curve]]) -> dict[str, _HeldOut]:
    """Arm -> its kind, and the arms it is foretold from."""
    schedules: list[Curve] = []  # one of each
    key = {}
    for variant, (curve, *_) in curves.items():
        known = [i for i, other in enumerate(schedules) if _same_rates(curve, other)]
        key[variant] = (known[0] if known else len(schedules), curve.replay)
        schedules += [] if known else [curve]
    by_rates = [
        sorted({share for at, share in key.values() if at == i}) for i in range(len(schedules))
    ]
    sweep = max(range(len(schedules)), key=lambda i: len(by_rates[i]))
    swept = by_rates[sweep]
    found = {}
    for variant, own in key.items():
        if own[0] != sweep or len(swept) < 2:
            kind, others = SCHEDULES, [v for v, other in key.items() if other[0] != own[0]]
        elif own[1] in (swept[0], swept[-1]):
            kind, others = "", [v for v, other in key.items() if other != own]
        else:
            kind, others = SHARES, [v for v, other in key.items() if other[1] != own[1]]
        found[variant] = _HeldOut(kind, tuple(others))
    return found


def _lawful(arms: Mapping[str, Arm]) -> tuple[dict[str, Arm], str]:
    """Arms that differ in rates and share alone, and a note of those that do not."""
    found, old, other = {}, [], []
    policies: dict[Path, str] = {}  # of a first stage, as of the first arm from it
    for variant, arm in arms.items():
        if not arm.before:
            continue
        policy = next(iter(arm.runs.values())).optimizer
        if arm.on_old_data:
            old.append(variant)
        elif {policies.setdefault(log.path, policy) for log in arm.before.values()} != {policy}:
            other.append(variant)
        else:
            found[variant] = arm
    notes = [
        f"{words}: {', '.join(names)}"
        for words, names in (("on the old data", old), ("with another optimizer policy", other))
        if names
    ]
    return found, "left out of all fits " + "; ".join(notes) if notes else ""


def _same_rates(a: Curve, b: Curve) -> bool:
    """Whether rates are the same but for the length of the second stage, to which replay may add.

    Rates of the second stage are compared at twenty times, within 2 % of their highest.
    """
    if a.start != b.start or not np.array_equal(a.rates_T[: a.start], b.rates_T[: b.start]):
        return False
    at = np.linspace(0, 1, 21)[1:]
    early, late = (
        np.interp(at, np.arange(1, len(one) + 1) / len(one), one)
        for one in (c.rates_T[c.start :] for c in (a, b))
    )
    return bool(np.abs(early - late).max() <= 0.02 * early.max())


def _peak(curve: Curve) -> float:
    """Highest rate of the second stage."""
    return max(float(np.max(curve.rates_T[curve.start :])), 1e-12)


def _nearest(curve: Curve, others: Iterable[list[Curve]]) -> list[Curve]:
    """The arm that is nearest in share, then in peak, then the first one."""

    def distance(found: list[Curve]) -> tuple[float, float]:
        one = found[0]
        peaks = abs(math.log(_peak(one) / _peak(curve)))
        return round(abs(one.replay - curve.replay), 9), round(peaks, 9)

    return min(others, key=distance)


def _distance(arm: list[Curve], curve: Curve, law: CurveFit | None = None) -> float:
    """Mean relative error of an arm's mean curve as a prediction of another's.

    With a law that has both, the prediction is times the ratio of what it has for them.
    """
    steps_S = np.asarray(curve.steps_S) - curve.start

    def here(some: Curve, losses_S: np.ndarray) -> np.ndarray:
        return np.interp(steps_S, np.asarray(some.steps_S) - some.start, np.log(losses_S))

    found_S = np.mean([here(one, one.losses_S) for one in arm], axis=0)
    if law is not None:
        own, other = (  # a law far from what it was fitted to may fall below 0
            np.maximum(law.predict(c.rates_T, c.start, c.steps_S, c.replay).value, 1e-9)
            for c in (curve, arm[0])
        )
        found_S = found_S + np.log(own) - here(arm[0], other)
    return mean_relative_error(np.exp(found_S), curve.losses_S)


def _thinned(curve: Curve, late: bool = False) -> Curve:
    """A curve with few enough points; `late`: of its last third alone."""
    steps_S, losses_S = np.asarray(curve.steps_S), np.asarray(curve.losses_S)
    if late:
        kept = steps_S > 2 / 3 * steps_S[-1]
        steps_S, losses_S = steps_S[kept], losses_S[kept]
    kept = _even(len(steps_S), _POINTS)
    return dataclasses.replace(curve, steps_S=steps_S[kept], losses_S=losses_S[kept])


def _even(total: int, most: int) -> np.ndarray:
    """Indices of at most so many of `total`, the first and the last among them."""
    return np.unique(np.linspace(0, total - 1, min(total, most)).round().astype(int))


def _mean_row(name: str, found: Mapping[str, PerSeed], dataset: str, how: str, words: str) -> Row:
    """The mean over arms, which may have other seeds each: arms are what the interval is over."""
    arms = {variant: one.mean for variant, one in found.items()}
    worst = max(arms, key=arms.get)
    note = f"n: arms, each a mean over its seeds; largest {arms[worst]:.2g} ({worst}); " + (
        "interval over arms" if len(arms) > 1 else "one arm: no interval"
    )
    words = f"{_ERROR.format(dataset)}, by {how}; mean over {words}"
    mean = PerSeed(dict(enumerate(arms.values())))
    return interval_row(name, mean.interval(), "1", mean.n, words, note)


def _form_rows(name: str, whole: CurveFit, dataset: str) -> list[Row]:
    """Both forms of replay, as they were chosen between for the fit to all arms."""
    words = (
        f"{_ERROR.format(dataset)}, by the law with this form of replay fitted to all arms of "
        "other shares; mean over shares but the least and the largest"
    )
    return [
        seed_row(
            f"{name}/{form.lower().replace('. ', '_')}",
            PerSeed(errors),
            "1",
            words,
            "chosen where all arms are fitted" if form == whole.form else "",
            contrast=False,
        )
        for form, errors in whole.form_errors.items()
    ]


def replay_rows(prefix: str, arms: Mapping[str, Arm], shares: Mapping[str, float]) -> list[Row]:
    """Laws of the share of replay over arms that differ in it alone; none with fewer than five.

    Rows PREFIX/replay_law/SET/... of the losses at the end with their left-out errors,
    PREFIX/critical_share, and PREFIX/dcpt_law/new/... of the losses along the stage.

    Args:
      prefix: of the names.
      arms: variant -> arm; the old data first.
      shares: variant -> replay share of the arms of the sweep.
    """
    if len(set(shares.values())) < 5:
        return []
    rows = []
    for z, which in enumerate(("old", "new")):
        sweep = {share: _last(arms[variant], z) for variant, share in shares.items()}
        rows += fit_replay(which, sweep).rows(f"{prefix}/replay_law/{which}")
    swept = {share: arms[variant] for variant, share in shares.items()}
    return [*rows, critical_row(f"{prefix}/critical_share", *_old(swept)), *_dcpt(prefix, swept)]


def _old(sweep: Mapping[float, Arm]) -> tuple[PerSeed, dict[float, PerSeed]]:
    """Losses on the old data before the stage and, by share, at its end."""
    some = next(iter(sweep.values()))
    before = {seed: float(log.losses_SxZ[-1, 0]) for seed, log in some.before.items()}
    return PerSeed(before), {share: _last(arm, 0) for share, arm in sweep.items()}


def _dcpt(prefix: str, sweep: Mapping[float, Arm]) -> list[Row]:
    """The D-CPT law along the stages of a sweep, on means over seeds of the loss on new data.

    The loss on the old data rises in such a stage, which no coefficients of this law do.
    """
    parts = []
    for share, arm in sweep.items():
        logs = list(arm.runs.values())
        later_S = logs[0].steps_S > 0
        mean_S = np.exp(np.mean([np.log(log.losses_SxZ[later_S, 1]) for log in logs], axis=0))
        kept = _even(len(mean_S), _POINTS // 2)
        tokens_S = logs[0].steps_S[later_S] * float(logs[0].tokens_per_step)
        parts.append((tokens_S[kept], np.full(len(kept), 1 - share), mean_S[kept]))
    tokens_P, shares_P, losses_P = (np.concatenate(column) for column in zip(*parts, strict=True))
    points = Points(np.ones_like(tokens_P), tokens_P, shares_P, losses_P)
    seeds = min(len(arm.runs) for arm in sweep.values())
    return dcpt_rows(f"{prefix}/dcpt_law/new", points, seeds)


def _last(arm: Arm, z: int) -> PerSeed:
    """Loss at the end."""
    return PerSeed({seed: float(log.losses_SxZ[-1, z]) for seed, log in arm.runs.items()})
