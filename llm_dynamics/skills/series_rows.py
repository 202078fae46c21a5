"""Competence against loss along a series of checkpoints: rows with intervals over questions.

Rows are named RUN/step=N/... for one checkpoint; `line_rows` has those of several. Nothing here
knows the entropy of the text: losses stand where the theory has excesses, and are upper bounds.

Axes: T questions.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from llm_dynamics.errors import UserError
from llm_dynamics.results import Interval, Row, exact, interval_row, note_not_shown
from llm_dynamics.skills import resampling
from llm_dynamics.skills.asked import SHARE, Asked, Settings, drawn_row
from llm_dynamics.skills.labelled import Labelled
from llm_dynamics.skills.line_rows import line_rows, lines
from llm_dynamics.skills.product_law import ProductLaw
from llm_dynamics.skills.series import Point
from llm_dynamics.skills.weakest import Weakest, weakest

_FEWEST = 4  # groups of a half
_FEW = 10  # right or wrong answers, below which the bootstrap is not used for their share
FEW_WORDS = "few answers are right, or wrong: Wilson's intervals of both shares are combined"


def rows(points: Sequence[Point], labelled: Labelled, settings: Settings) -> list[Row]:
    """All rows of a series.

    Raises:
      UserError: no point, or frequencies that lack a skill.
    """
    if not points:
        raise UserError("expected at least one checkpoint, got none")
    asked = Asked(labelled, settings)
    found = _questions(asked)
    weak: list[Weakest] = []
    for point in points:
        found += _point(point, asked, weak)
    for line in lines(points):
        found += line_rows(line, asked)
    if weak:
        violated = sum(w.violated for w in weak)
        words = "measured errors of weakest skills that are above the exact bound beyond 99.9 %"
        note = (
            f"of {len(weak)}; the bound takes the skills of a question as independent draws and "
            "questions as independent, which labels of real questions need not be: one that is "
            "broken says that they are not"
        )
        found.append(interval_row("weakest/above", exact(violated), "1", len(weak), words, note))
    return found


# ---- one checkpoint ------------------------------------------------------------------------------


def _questions(asked: Asked) -> list[Row]:
    found = []
    for k in asked.sizes:
        here = asked.sizes_T == k
        choices_T = asked.labelled.choices_T[here]
        chance = np.where(choices_T > 1, 1 / choices_T, 0.0).mean()
        n, words = int(here.sum()), f"questions of {k} skill{'s' * (k > 1)}"
        found.append(interval_row(f"k={k}/questions", exact(n), "1", n, words))
        found.append(
            interval_row(
                f"k={k}/chance", exact(chance), SHARE, n,
                f"{words} that guessing gets right: one over the choices, 0 for a target",
            )
        )  # fmt: skip
    return found


def _point(point: Point, asked: Asked, weak: list[Weakest]) -> list[Row]:
    outcomes, at = point.outcomes, point.name
    right_T, every = ~outcomes.failed_T, np.arange(len(outcomes))
    limit = min(outcomes.delta / math.log(2), 1.0)
    found = [
        asked.mean_row(f"{at}/loss", outcomes.excess_T, every,
            "loss of all questions: -ln p of a target, or of the right choice among the choices"),
        asked.share_row(f"{at}/theta", outcomes.failed_T, every, "wrong answers of all questions",
            f"at most loss / ln 2 = {limit:.4f}, which holds for any model"),
    ]  # fmt: skip
    for k in asked.sizes:
        here, words = np.flatnonzero(asked.sizes_T == k), f"questions of {k} skill{'s' * (k > 1)}"
        found.append(asked.mean_row(f"{at}/k={k}/loss", outcomes.excess_T, here,
            f"loss of {words}"))  # fmt: skip
        found.append(asked.share_row(f"{at}/k={k}/success", right_T, here,
            f"right answers of {words}"))  # fmt: skip
        if k > 1 and 1 in asked.sizes:
            found += _law_rows(f"{at}/k={k}", asked.law(outcomes, k), right_T, asked)
        found += _weakest_rows(f"{at}/k={k}", point, here, k, asked, weak)
    for skill, of in zip(asked.labelled.skills, asked.of_S, strict=True):
        found.append(asked.share_row(f"{at}/skill/{skill}/competence", right_T, of,
            f"right answers of all questions that need {skill}, a wrong one charged to all of its "
            "skills"))  # fmt: skip
        alone = of[asked.sizes_T[of] == 1]
        if 0 < len(alone) < len(of):
            found.append(asked.share_row(f"{at}/skill/{skill}/alone", right_T, alone,
                f"right answers of questions that need {skill} alone"))  # fmt: skip
    return found


def _law_rows(at: str, law: ProductLaw, right_T: np.ndarray, asked: Asked) -> list[Row]:
    k, n, compared = law.size, asked.groups(asked.sizes_T == law.size), asked.groups(law.questions)
    gone = f"{law.left_out} questions left out: a skill of theirs has no question by itself"
    gone = gone * (law.left_out > 0)
    asks = f"success on questions of {k} skills"
    product = "mean product of the success of their skills on single-skill questions"
    one, many = np.flatnonzero(asked.sizes_T == 1), np.flatnonzero(asked.sizes_T == k)
    few = min(min(right_T[i].sum(), (~right_T[i]).sum()) for i in (one, many)) < _FEW

    def less(key: str, draws_R, less_R, index, n: int, words: str, note: str = "") -> Row:
        if not few or not len(index):
            return note_not_shown(drawn_row(f"{at}/{key}", draws_R, SHARE, n, words, note))
        # The bootstrap knows too little of a handful of right or wrong answers.
        found, _ = resampling.share(right_T[index], asked.group_T[index])
        single, _ = resampling.share(right_T[one], asked.group_T[one])
        ends = resampling.difference(found, resampling.power(single, k, float(less_R[0])))
        note = "; ".join(filter(None, (note, FEW_WORDS)))
        return note_not_shown(interval_row(f"{at}/{key}", ends, SHARE, n, words, note))

    exponent_R = law.exponent_R.copy()
    exponent_R[1:] = np.nan if few else exponent_R[1:]
    return [
        drawn_row(f"{at}/product", law.product_R, SHARE, compared,
            f"questions of {k} skills: {product}", gone),
        less("residual", law.residual_R, law.product_R, law.questions, compared,
            f"{asks} less the {product}", gone),
        less("power_residual", law.power_residual_R, law.single_R**k, many, n,
            f"{asks} less success on single-skill ones to the power {k}"),
        note_not_shown(drawn_row(f"{at}/exponent", exponent_R, "1", n,
            f"ln Y / ln X, Y {asks}, X on single-skill ones; {k} by the power law",
            missing="success is 0 or 1 somewhere"), k),
    ]  # fmt: skip


def _weakest_rows(
    at: str, point: Point, here: np.ndarray, k: int, asked: Asked, weak: list[Weakest]
) -> list[Row]:
    order = _halved(here, asked.group_T)
    n = asked.groups(order[1::2])
    if n < _FEWEST:
        return []
    outcomes = point.outcomes.take(order)
    outcomes = dataclasses.replace(outcomes, skills_TxK=outcomes.skills_TxK[:, :k])
    measure_S = outcomes.edges_S / outcomes.edges_S.sum()
    found = []
    for alpha in asked.settings.alphas:
        one = weakest(outcomes, alpha, measure_S, asked.group_T[order])
        name = f"{at}/weakest/alpha={alpha:g}"
        words = f"weakest skills of measure {one.alpha:.3f} (at least {alpha:g})"
        note = (
            "above the exact bound beyond the intervals of both: skills or questions are not "
            "independent"
        )
        found.append(
            interval_row(
                f"{name}/error", Interval(*map(np.atleast_1d, (one.error, *one.ends))), SHARE, n,
                f"error of the {words}, named on one half of the questions of {k} "
                f"skill{'s' * (k > 1)}, measured on the other",
                note * one.violated, "the other half has none of them",
            )
        )  # fmt: skip
        if math.isnan(one.error):
            continue
        weak.append(one)
        for key, value, bound in (
            ("exact", one.exact, "largest error that any failing of so many questions can give"),
            ("theorem", one.theorem, "error that Theorem 8 of Arora & Goyal 2023 allows"),
        ):
            found.append(
                interval_row(
                    f"{name}/{key}", exact(value), SHARE, n, f"{bound} the {words}",
                    "for skills drawn independently",
                )
            )  # fmt: skip
    return found


def _halved(here: np.ndarray, group_T: np.ndarray) -> np.ndarray:
    """Questions in an order whose even and odd places have no group in common."""
    groups, group_T = np.unique(group_T[here], return_inverse=True)
    side_G = np.random.default_rng(0).permutation(len(groups)) % 2
    first, second = here[side_G[group_T] == 0], here[side_G[group_T] == 1]
    n = min(len(first), len(second))
    return np.stack([first[:n], second[:n]], axis=1).ravel()
