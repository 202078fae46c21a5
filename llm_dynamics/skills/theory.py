"""The theory in numbers: rows for a report, computed, without intervals."""

from collections.abc import Sequence

import numpy as np

from llm_dynamics.results import Row, exact, interval_row
from llm_dynamics.skills import bounds, coverage, scaling, thresholds

ALPHAS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6)
SIZES = (2, 4, 8, 16)
THETAS = (0.05, 0.1, 0.2, 0.4)
_BETA = "error / theta"
_NO_SOLUTION = "no solution: alpha lies above alpha_max, where the theorem says nothing"


def all_rows() -> list[Row]:
    """Everything below, at the sizes of the tables in the documentation."""
    rows = end_rows(THETAS, SIZES)
    for k in SIZES:
        rows += curve_rows((0.05,), k, ALPHAS)
    rows += curve_rows(THETAS[1:], 8, ALPHAS)
    for skills, k in ((1000, 8), (101, 5)):
        rows += coverage_rows(skills, k, (1, 2, 3, 4, 5))
    return rows + scaling_rows() + threshold_rows()


def end_rows(thetas: Sequence[float], sizes: Sequence[int]) -> list[Row]:
    """alpha_max: up to which share of left-out skills the theorem says anything.

    Raises:
      UserError: numbers outside of their range.
    """
    return [
        _row(
            f"alpha_max/theta={theta:g}/k={k}",
            bounds.alpha_max(theta, k),
            "share of skills",
            "largest alpha at which the theorem has a solution",
        )
        for theta in thetas
        for k in sizes
    ]


def curve_rows(thetas: Sequence[float], k: int, alphas: Sequence[float]) -> list[Row]:
    """beta by the theorem and in the exact worst case, and what it says of an error.

    Raises:
      UserError: numbers outside of their range.
    """
    rows = []
    for theta in thetas:
        for alpha in alphas:
            where = f"beta/theta={theta:g}/k={k}/alpha={alpha:g}"
            for name, curve, about in (
                ("theorem", bounds.beta_theorem, "smallest beta that the theorem grants"),
                ("exact", bounds.beta_exact, "mean beta of the worst skills in the worst case"),
            ):
                beta = curve(alpha, theta, k)
                said = str(bounds.standing(beta, theta))
                note = "" if np.isnan(beta) else f"error {float(beta * theta):.3g}: {said}"
                rows.append(_row(f"{where}/{name}", beta, _BETA, about, note, _NO_SOLUTION))
    return rows


def coverage_rows(skills: int, k: int, sizes: Sequence[int]) -> list[Row]:
    """How many k'-tuples there are, and pieces until half of them or all were seen.

    Raises:
      UserError: sizes that do not fit.
    """
    rows = []
    for size in sizes:
        where = f"coverage/N2={skills}/k={k}/tuple={size}"
        rows += [
            _row(
                f"{where}/tuples",
                coverage.tuples(skills, size),
                "tuples",
                "sets of that many skills",
            ),
            _row(
                f"{where}/half",
                coverage.half_coverage(skills, k, size),
                "pieces",
                "least number of pieces that show half of the tuples on average",
            ),
            _row(
                f"{where}/full",
                coverage.full_coverage(skills, k, size),
                "pieces",
                "least number of pieces that miss at most one tuple on average",
            ),
        ]
    return rows


def scaling_rows() -> list[Row]:
    """By how much the excess loss falls at ten times the scale, and the scale that divides it."""
    laws = {"hoffmann": scaling.HOFFMANN, "besiroglu": scaling.BESIROGLU}
    rows = [
        _row(
            f"fall/{name}/N={n:g}/D={d:g}",
            scaling.fall(n, d, law=law),
            "ratio",
            "excess loss over that at ten times the parameters and tokens",
        )
        for name, law in laws.items()
        for n, d in ((1e9, 2e10), (7e10, 1.4e12), (1e12, 2e13))
    ]
    for divide_by in (2, 3, 4, 5, 8):
        for what, factor in zip(
            ("parameters", "tokens"), scaling.scale_for(divide_by), strict=True
        ):
            rows.append(
                _row(
                    f"scale/hoffmann/divide_by={divide_by}/{what}",
                    factor,
                    "ratio",
                    f"how many times the {what} divide that part of the excess loss by {divide_by}",
                )
            )
    return rows


def threshold_rows() -> list[Row]:
    """Where random graphs of skills change at once."""
    rows = []
    for k in (2, 4, 8):
        at = thresholds.giant_skill_threshold(k)
        rows += [
            _row(
                f"giant/k={k}/threshold",
                at,
                "pieces per skill",
                "from which pieces join skills to a giant component",
            ),
            _row(
                f"giant/k={k}/share_at_twice",
                thresholds.giant_skill_share(2 * at, k),
                "share of skills",
                "in the giant component at twice the threshold",
            ),
        ]
    for c in (3, 4, 5, 6):
        at, before, after = thresholds.peeling_jump(c)
        rows.append(
            _row(
                f"peeling/c={c}/threshold",
                at,
                "pieces per skill",
                "at which peeling suddenly learns most skills",
                f"the unlearned share falls from {before:.3g} to {after:.3g}",
            )
        )
    return rows


def _row(
    name: str, value, unit: str, definition: str, note: str = "", missing: str | None = None
) -> Row:
    notes = "; ".join(filter(None, ("computed", note)))
    return interval_row(name, exact(float(value)), unit, 0, definition, notes, missing)
