"""What a line of checkpoints shows: slingshot ratios, exponents, and the order of emergence.

Rows are named RUN/..., or sizes/... for the last checkpoints of several runs.

Axes: S skills, N checkpoints of a line, R resamples.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from llm_dynamics.results import Interval, Row, exact, interval_row, note_not_shown
from llm_dynamics.skills.asked import SHARE, Asked, drawn_row
from llm_dynamics.skills.measures import excess_at
from llm_dynamics.skills.product_law import EXPONENTS, ProductLaw, fitted_exponent
from llm_dynamics.skills.resampling import mean
from llm_dynamics.skills.series import Point

SIZES = "sizes"  # the line of the last checkpoints of several runs
_FEWEST = 4  # skills of a correlation
_MOST_PAIRS = 200  # skills of which all pairs are compared
_SHOWN = 0.975  # share of the resamples in which an order that is shown holds


@dataclasses.dataclass(frozen=True)
class Line:
    """Checkpoints in an order that means something: of one run, or the last ones of several."""

    name: str
    unit: str
    x_N: np.ndarray
    points: tuple[Point, ...]


def lines(points: Sequence[Point]) -> list[Line]:
    """The lines that a series has; sizes are in the order of parameters."""
    runs: dict[str, list[Point]] = {}
    for point in points:
        runs.setdefault(point.run, []).append(point)
    found = []
    for run, some in runs.items():
        some = sorted(some, key=lambda p: p.step)
        if len(some) > 1:
            found.append(Line(run, "updates", np.array([p.step for p in some], float), tuple(some)))
    last = sorted((max(some, key=lambda p: p.step) for some in runs.values()), key=_params)
    params_N = np.array([_params(p) for p in last], float)
    if len(last) > 1 and params_N[0] > 0 and np.all(np.diff(params_N) > 0):
        found.append(Line(SIZES, "parameters", params_N, tuple(last)))
    return found


def line_rows(line: Line, asked: Asked) -> list[Row]:
    """All rows of a line."""
    loss_RxN = np.stack([mean(asked.weights_RxT, p.outcomes.excess_T) for p in line.points], axis=1)
    found = []
    if 1 in asked.sizes:
        for k in asked.sizes[1:]:
            laws = [asked.law(point.outcomes, k) for point in line.points]
            found += _slingshot(line, k, loss_RxN, laws, asked)
            single_RxN = np.stack([law.single_R for law in laws], axis=1)
            success_RxN = np.stack([law.success_R for law in laws], axis=1)
            found.append(
                note_not_shown(
                    drawn_row(f"{line.name}/exponent_{k}", fitted_exponent(single_RxN, success_RxN),
                        "1", asked.groups(asked.sizes_T == k),
                        f"a of Y = X^a over {len(laws)} checkpoints, Y success on questions of {k} "
                        f"skills, X on single-skill ones; {k} by the power law",
                        missing="single skills are had always or never, or no exponent of "
                        f"{EXPONENTS[0]:g} to {EXPONENTS[1]:g} is best"),
                    k,
                )
            )  # fmt: skip
    return found + _emergence(line, asked)


def _slingshot(
    line: Line, k: int, loss_RxN: np.ndarray, laws: Sequence[ProductLaw], asked: Asked
) -> list[Row]:
    single_RxN = np.stack([law.single_R for law in laws], axis=1)
    success_RxN = np.stack([law.success_R for law in laws], axis=1)
    found = []
    for tau in asked.settings.taus:
        draws_R = np.array(
            [
                k * excess_at(loss, many, tau) / excess_at(loss, one, tau)
                for loss, many, one in zip(loss_RxN, success_RxN, single_RxN, strict=True)
            ]
        )
        found.append(
            note_not_shown(
                drawn_row(f"{line.name}/slingshot_{k}/tau={tau:g}", draws_R, "1",
                    asked.groups(asked.sizes_T == k),
                    f"{k} times the loss of all questions at which those of {k} skills reach "
                    f"{tau:g}, over that at which single-skill ones do; 1 by Corollary 13 of Arora "
                    "& Goyal 2023 for excesses, of which losses are upper bounds",
                    missing=f"{tau:g} is not reached within the series by one of them"), 1,
            )
        )  # fmt: skip
    return found


def _emergence(line: Line, asked: Asked) -> list[Row]:
    weights_RxT, skills, level = asked.weights_RxT, asked.labelled.skills, asked.settings.level
    competence_RxNxS = np.stack(
        [
            np.stack(
                [mean(weights_RxT[:, of], ~p.outcomes.failed_T[of]) for of in asked.of_S], axis=1
            )
            for p in line.points
        ],
        axis=1,
    )
    emerged_RxS = crossing(line.x_N, competence_RxNxS, level)
    found = []
    for s, skill in enumerate(skills):
        value = emerged_RxS[0, s]
        gone = "already at the first checkpoint" if value == -math.inf else "not within the series"
        found.append(
            drawn_row(f"{line.name}/emergence/{skill}", emerged_RxS[:, s], line.unit,
                asked.groups(asked.of_S[s]),
                f"where the competence in {skill} first reaches {level:g}, linear between "
                "checkpoints", missing=gone)
        )  # fmt: skip
    order = np.argsort(emerged_RxS[0], kind="stable")
    there = [int(s) for s in order if math.isfinite(emerged_RxS[0, s])]
    for a, b in itertools.pairwise(there):
        later_R = _later(emerged_RxS[:, b], emerged_RxS[:, a])
        found.append(
            drawn_row(f"{line.name}/order/{skills[a]}<{skills[b]}", later_R, line.unit,
                min(asked.groups(asked.of_S[a]), asked.groups(asked.of_S[b])),
                f"by how much {skills[b]} emerges after {skills[a]}, its neighbour in the order "
                "found", "" if _is_shown(later_R) else "order not shown")
        )  # fmt: skip
    return found + _orders(line, emerged_RxS, asked)


def _orders(line: Line, emerged_RxS: np.ndarray, asked: Asked) -> list[Row]:
    """How many orders of two skills are shown, and whether they go by frequency."""
    count, found = len(asked.labelled.skills), []
    if 2 <= count <= _MOST_PAIRS:
        pairs = [(a, b) for a in range(count) for b in range(a + 1, count)]
        shown = 0
        for a, b in pairs:
            shown += _is_shown(_later(emerged_RxS[:, b], emerged_RxS[:, a]))
        found.append(
            interval_row(
                f"{line.name}/emergence/orders_shown", exact(shown / len(pairs)), SHARE,
                len(pairs), "pairs of skills whose order of emergence is shown, each at 95 %",
                f"{len(pairs) - shown} of {len(pairs)} orders are not shown",
            )
        )  # fmt: skip
    constant = len(set(asked.frequency_S)) == 1 or len(set(emerged_RxS[0])) == 1
    if count >= _FEWEST and not constant and not np.isnan(emerged_RxS[0]).any():
        order_S = stats.rankdata(emerged_RxS[0])
        r = float(stats.spearmanr(order_S, asked.frequency_S).statistic)
        # Bonett & Wright 2000: Fisher's z of a rank correlation.
        half = 1.96 * math.sqrt((1 + r**2 / 2) / (count - 3))
        z = math.atanh(min(max(r, -1 + 1e-12), 1 - 1e-12))
        ends = (r, math.tanh(z - half), math.tanh(z + half))
        found.append(
            note_not_shown(
                interval_row(
                    f"{line.name}/emergence/frequency",
                    Interval(*(np.array([x]) for x in ends)), "1", count,
                    f"rank correlation over skills of where they emerge with their frequency; "
                    f"below 0: frequent ones first ({asked.frequency_words})",
                )
            )
        )  # fmt: skip
    return found


def crossing(x_N: np.ndarray, y_RxNxS: np.ndarray, level: float) -> np.ndarray:
    """Where y first reaches a level, R x S, linear in x; inf: never, -inf: from the first on."""
    reached_RxNxS = y_RxNxS >= level
    at_RxS = reached_RxNxS.argmax(axis=1)
    before_RxS = np.maximum(at_RxS - 1, 0)
    low, high = (
        np.take_along_axis(y_RxNxS, i[:, None], axis=1)[:, 0] for i in (before_RxS, at_RxS)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (level - low) / (high - low)
        between = x_N[before_RxS] + share * (x_N[at_RxS] - x_N[before_RxS])
    found = np.where(at_RxS > 0, between, -math.inf)
    found = np.where(reached_RxNxS.any(axis=1), found, math.inf)
    return np.where(np.isnan(y_RxNxS).any(axis=1), math.nan, found)


def _later(b_R: np.ndarray, a_R: np.ndarray) -> np.ndarray:
    """b - a, 0 where both are beyond the same end."""
    same = np.isinf(b_R) & (a_R == b_R)
    return np.where(same, 0.0, np.where(same, 0.0, b_R) - np.where(same, 0.0, a_R))


def _is_shown(later_R: np.ndarray) -> bool:
    return bool(max((later_R[1:] > 0).mean(), (later_R[1:] < 0).mean()) >= _SHOWN)


def _params(point: Point) -> int:
    return point.num_params
