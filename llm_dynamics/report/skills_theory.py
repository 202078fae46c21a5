"""Figures of the theory of skills, and of simulations held against it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llm_dynamics.report import style
from llm_dynamics.report.figures import Figure, canvas, stack
from llm_dynamics.skills import bounds, coverage, thresholds

_ALPHA = np.linspace(0.005, 0.95, 190)
_BETA = "error / theta"
_MARKS = {"chance": "o", "fixed": "s", "clique": "v", "star": "^", "greedy": "D"}
_LINES = {"theorem": "-", "exact": "--", "chance": ":"}  # predictions


def performance_curves(
    theta: float = 0.05,
    sizes: Sequence[int] = (2, 4, 8, 16),
    k: int = 8,
    thetas: Sequence[float] = (0.05, 0.1, 0.2, 0.4),
) -> Figure:
    """beta over alpha: some k at one theta (left), some theta at one k (right).

    Raises:
      UserError: numbers outside of their range.
    """
    panels = (
        [(f"k = {size}", theta, size) for size in sizes],
        [(f"theta = {value:g}", value, k) for value in thetas],
    )
    tables = [
        [
            {"curve": name, "theta": value, "k": size, **_curves(value, size)}
            for name, value, size in p
        ]
        for p in panels
    ]

    def draw():
        drawing, axes = canvas(1, 2, 3.6, sharey=True)
        for axis, lines in zip(axes[0], tables, strict=True):
            for i, table in enumerate(lines):
                axis.plot(
                    table["alpha"], table["theorem"], color=style.series(i), label=table["curve"]
                )
                axis.plot(table["alpha"], table["exact"], color=style.series(i), ls="--", lw=1)
            axis.set_xlabel("alpha, share of skills left out")
            axis.set_yscale("log")
            axis.set_ylim(1, 30)
            axis.set_yticks([1, 2, 5, 10, 20], labels=["1", "2", "5", "10", "20"])
            axis.legend(loc="upper right")
        axes[0][0].set_ylabel(f"beta, {_BETA}")
        axes[0][0].set_title(f"theta = {theta:g}")
        axes[0][1].set_title(f"k = {k}")
        return drawing

    return Figure(
        "performance_curves",
        "How unevenly skills can fail",
        "All skills but a share alpha have at most a share beta theta of their pieces among the "
        "failed ones. Solid: Theorem 8 of Arora & Goyal 2023, up to where it has a solution; "
        "dashed: the exact worst case for many pieces, which no bound can undercut. Pieces need k "
        "skills, a share theta of them fails.",
        "beta falls with alpha, k and theta; the exact worst case lies below the theorem.",
        draw,
        stack(table for lines in tables for table in lines),
    )


def error_bounds(k: int = 8, alphas: Sequence[float] = (0.05, 0.1, 0.2, 0.5)) -> Figure:
    """The bound on a skill's error over the share of failed pieces.

    Raises:
      UserError: numbers outside of their range.
    """
    theta = np.geomspace(1e-3, 0.9, 160)
    tables = [
        {
            "alpha": alpha,
            "k": k,
            "theta": theta,
            "theorem": bounds.error_bound(bounds.beta_theorem(alpha, theta, k), theta),
            "exact": bounds.error_bound(bounds.beta_exact(alpha, theta, k), theta),
        }
        for alpha in alphas
    ]

    def draw():
        drawing, axes = canvas(1, 1, 3.6)
        axis = axes[0][0]
        for i, table in enumerate(tables):
            tint = style.series(i)
            axis.plot(theta, table["theorem"], color=tint, label=f"alpha = {table['alpha']:g}")
            axis.plot(theta, table["exact"], color=tint, ls="--", lw=1)
        axis.plot(theta, theta, color=style.color("muted"), ls=":", label="theta itself")
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlabel("theta, share of failed pieces")
        axis.set_ylabel("bound on the error of a skill")
        axis.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
        return drawing

    return Figure(
        "error_bounds",
        "What a share of failed pieces says of skills",
        f"Bound beta theta on the error of all skills but a share alpha, k = {k}, at most 1. "
        "Solid: the theorem, where it has a solution; dashed: the exact worst case; dotted: every "
        "skill fails alike.",
        "The bound on the error of skills grows with the share of failed pieces up to 1.",
        draw,
        stack(tables),
    )


def simulated(rows: Sequence[Mapping[str, Any]], about: str) -> Figure | None:
    """Measured beta of adversaries against the predictions; None without rows of a simulation.

    Args:
      rows: of `skills.simulation.simulate`, with `adversary`, `theta`, `alpha` and `measure`.
      about: the sizes of the graphs, in words.
    """
    rows = [row for row in rows if "adversary" in row]
    if not rows:
        return None
    columns = ("adversary", "theta", "alpha", "measure", "value", "low", "high", "n")
    data = {column: [row[column] for row in rows] for column in columns}
    thetas = sorted({row["theta"] for row in rows})
    adversaries = [name for name in _MARKS if any(row["adversary"] == name for row in rows)]

    def draw():
        drawing, axes = canvas(1, len(thetas), 3.6, sharey=True)
        for axis, theta in zip(axes[0], thetas, strict=True):
            here = [row for row in rows if row["theta"] == theta]
            for name, dash in _LINES.items():
                # All adversaries have the same predictions where skills weigh the same.
                line = [
                    row
                    for row in _of(here, name)
                    if row["adversary"] == ("chance" if name == "chance" else "greedy")
                ]
                axis.plot(
                    [row["alpha"] for row in line],
                    [row["value"] for row in line],
                    color=style.color("muted"),
                    ls=dash,
                    lw=1.1,
                    label=f"{name}, predicted",
                )
            for i, adversary in enumerate(adversaries):
                _points(axis, i, adversary, len(adversaries), here)
            axis.set_title(f"theta = {theta:g}")
            axis.set_xlabel("alpha, share of worst skills")
        axes[0][0].set_ylabel(f"beta, {_BETA}")
        axes[0][-1].legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
        return drawing

    return Figure(
        "simulated_failures",
        "Adversaries against the theory",
        "Mean error of the worst skills over theta when pieces fail by chance, by a set of skills "
        "that is aimed at, and by a search; bars: Student's 95 % intervals over graphs. Lines: the "
        f"theorem, the exact worst case, and chance, as predicted. {about}",
        "Aimed failures reach the exact worst case, random ones the prediction for chance, and "
        "none the theorem's bound.",
        draw,
        data,
    )


def tuples_seen(skills: int = 1000, k: int = 8, sizes: Sequence[int] = (1, 2, 3, 4, 5)) -> Figure:
    """The share of tuples of skills that a corpus has shown, over its size.

    Raises:
      UserError: sizes that do not fit.
    """
    most = 10 * coverage.half_coverage(skills, k, max(sizes))
    pieces = np.geomspace(1, most, 200)
    tables = [
        {
            "tuple": size,
            "pieces": pieces,
            "seen": coverage.seen_share(pieces, skills, k, size),
        }
        for size in sizes
    ]

    def draw():
        drawing, axes = canvas(1, 1, 3.4)
        axis = axes[0][0]
        for i, table in enumerate(tables):
            count = coverage.tuples(skills, table["tuple"])
            plural = "" if table["tuple"] == 1 else "s"
            name = f"{table['tuple']} skill{plural}: {count:,} tuples"
            axis.plot(pieces, table["seen"], color=style.series(i), label=name)
        axis.axhline(0.5, color=style.color("muted"), lw=0.8, ls=":")
        axis.set_xscale("log")
        axis.set_xlabel("pieces seen")
        axis.set_ylabel("share of tuples seen")
        axis.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
        return drawing

    return Figure(
        "tuples_seen",
        "How many combinations a corpus shows",
        f"Expected share of tuples of skills that occur in so many pieces of {k} distinct skills "
        f"of {skills:,}. A model that is right on more tuples than this went beyond what it saw.",
        "Each further skill in a tuple takes over a hundred times as many pieces.",
        draw,
        stack(tables),
    )


def transitions(
    measured: Sequence[Mapping[str, Any]] = (),
    sizes: Sequence[int] = (2, 4, 8),
    means: Sequence[float] = (2, 3, 4),
) -> Figure:
    """Where a graph of skills changes at once: giant component (left), peeling (right).

    Args:
      measured: rows of `skills.simulation.transition_rows`.
      sizes: k, skills a piece.
      means: c, mean skills a piece.

    Raises:
      UserError: numbers outside of their range.
    """
    near = np.linspace(0, 1, 300)
    peeled = np.linspace(0.01, 2.0, 400)
    tables = [
        {
            "panel": "giant",
            "parameter": k,
            "source": "limit",
            "pieces_per_skill": near,
            "share": thresholds.giant_skill_share(near, k),
        }
        for k in sizes
    ]
    tables += [
        {
            "panel": "peeling",
            "parameter": c,
            "source": "limit",
            "pieces_per_skill": peeled,
            "share": thresholds.unlearned_share(peeled, c),
        }
        for c in means
    ]
    keys = ("panel", "parameter", "pieces_per_skill")
    drawn = [
        {**{key: row[key] for key in keys}, "share": row["value"], "source": "drawn"}
        for row in measured
    ]

    def draw():
        drawing, axes = canvas(1, 2, 3.4)
        for axis, panel, letter in zip(axes[0], ("giant", "peeling"), "kc", strict=True):
            lines = [table for table in tables if table["panel"] == panel]
            for i, table in enumerate(lines):
                value = table["parameter"]
                axis.plot(
                    table["pieces_per_skill"],
                    table["share"],
                    color=style.series(i),
                    label=f"{letter} = {value:g}",
                )
                points = [p for p in drawn if p["panel"] == panel and p["parameter"] == value]
                axis.plot(
                    [p["pieces_per_skill"] for p in points],
                    [p["share"] for p in points],
                    color=style.series(i),
                    marker="o",
                    ms=3.5,
                    ls="",
                )
            axis.set_xlabel("pieces per skill")
            axis.legend(loc="center right")
        axes[0][0].set_title("giant component")
        axes[0][0].set_ylabel("share of skills in it")
        axes[0][1].set_title("peeling")
        axes[0][1].set_ylabel("share of skills left unlearned")
        return drawing

    points = " Points: graphs drawn." if drawn else ""
    return Figure(
        "transitions",
        "Transitions that emergence is likened to",
        "Left: share of skills in the largest component when every piece joins its k skills. "
        "Right: share of skills left when pieces of Poisson(c) skills teach their last unknown "
        f"one; it jumps for c above e. Limits of many skills.{points} The theorem on skills uses "
        "neither.",
        "Both shares change within a narrow range of pieces per skill.",
        draw,
        stack([*tables, *drawn]),
    )


def _curves(theta: float, k: int) -> dict[str, np.ndarray]:
    return {
        "alpha": _ALPHA,
        "theorem": bounds.beta_theorem(_ALPHA, theta, k),
        "exact": bounds.beta_exact(_ALPHA, theta, k),
    }


def _of(rows: Sequence[Mapping[str, Any]], measure: str) -> list[Mapping[str, Any]]:
    """The rows of one measure that have a value, by alpha."""
    kept = [row for row in rows if row["measure"] == measure and row["value"] is not None]
    return sorted(kept, key=lambda row: row["alpha"])


def _points(axis, index: int, adversary: str, count: int, rows) -> None:
    """Measured betas with their intervals, beside each other at each alpha."""
    found = [row for row in _of(rows, "beta") if row["adversary"] == adversary]
    shift = 0.008 * (index - (count - 1) / 2)
    bars = [
        [0 if row["low"] is None else row["value"] - row["low"] for row in found],
        [0 if row["high"] is None else row["high"] - row["value"] for row in found],
    ]
    axis.errorbar(
        [shift + row["alpha"] for row in found],
        [row["value"] for row in found],
        bars,
        color=style.series(index),
        marker=_MARKS[adversary],
        ms=4,
        ls="",
        lw=1,
        label=f"{adversary}, measured",
    )
