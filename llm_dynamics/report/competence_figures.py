"""Figures of a series of checkpoints: loss, combinations, weakest skills, order of emergence."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from llm_dynamics.report import style
from llm_dynamics.report.figures import Figure, canvas, stack
from llm_dynamics.results import Row
from llm_dynamics.skills.line_rows import Line
from llm_dynamics.skills.series import Point

_ENDS = ("value", "low", "high")
_NAMED = 10  # skills that get a line of their own
Rows = Mapping[str, Row]


def loss(rows: Rows, points: Sequence[Point], sizes: Sequence[int]) -> Figure:
    """Wrong answers, and right ones by the number of skills, over the loss."""
    runs = _runs(points)
    tables = []
    for run, names in runs.items():
        lost = _columns(rows, [f"{name}/loss" for name in names])["value"]
        wrong = _columns(rows, [f"{name}/theta" for name in names])
        tables.append({"run": run, "number": "theta", "checkpoint": names, "loss": lost, **wrong})
        for k in sizes:
            had = _columns(rows, [f"{name}/k={k}/success" for name in names])
            tables.append(
                {"run": run, "number": f"k={k}", "checkpoint": names, "loss": lost, **had}
            )

    def draw():
        drawing, axes = canvas(1, 2, 3.5)
        left, right = axes[0]
        most = max(max(table["loss"]) for table in tables)
        line = np.array([0, math.log(2), max(most, math.log(2))])
        left.plot(line, np.minimum(line / math.log(2), 1), "--", color=style.color("control"),
            label="loss / ln 2")  # fmt: skip
        for i, (run, _) in enumerate(runs.items()):
            for table in tables:
                if table["run"] != run:
                    continue
                if table["number"] == "theta":
                    _bars(left, table["loss"], table, style.series(i), "o", run)
                else:
                    k = int(table["number"][2:])
                    label = f"{k} skill{'s' * (k > 1)}" if not i else None
                    marker = "osD^v"[i % 5]
                    _bars(right, table["loss"], table, style.series(sizes.index(k)), marker, label)
        left.set_ylabel("wrong answers, theta")
        right.set_ylabel("right answers")
        for axis in axes[0]:
            axis.set_xlabel("loss, nats per question")
            axis.set_ylim(-0.03, 1.03)
            axis.legend(loc="best")
        return drawing

    return Figure(
        "loss",
        "Wrong answers and loss",
        "One mark a checkpoint, bars: 95 % intervals over questions (Wilson's). Left: all "
        "questions; no model can lie above the dashed line. Right: right answers by the number of "
        "skills, over the loss of all questions; another mark for each run.",
        "Share of wrong answers over the loss, below the line loss over ln 2, and right answers "
        "by number of skills.",
        draw,
        stack(tables),
    )


def combinations(rows: Rows, points: Sequence[Point], sizes: Sequence[int]) -> Figure:
    """Success on several skills against the product of single skills, and against X^k."""
    tables = []
    for k in sizes:
        names = [p.name for p in points if f"{p.name}/k={k}/product" in rows]
        single = _columns(rows, [f"{name}/k=1/success" for name in names])["value"]
        product = _columns(rows, [f"{name}/k={k}/product" for name in names])["value"]
        had = _columns(rows, [f"{name}/k={k}/success" for name in names])
        residual = _columns(rows, [f"{name}/k={k}/residual" for name in names])
        tables.append(
            {
                "k": k, "checkpoint": names, "single": single, "product": product, **had,
                **{f"residual_{end}": column for end, column in residual.items()},
            }
        )  # fmt: skip

    def draw():
        drawing, axes = canvas(1, 2, 3.5)
        left, right = axes[0]
        x = np.linspace(0, 1, 101)
        right.axhline(0, color=style.color("control"), lw=1)
        for i, table in enumerate(tables):
            tint = style.series(i)
            left.plot(x, x ** table["k"], "--", color=tint, lw=1, label=f"X^{table['k']}")
            _bars(left, table["single"], table, tint, "o", f"{table['k']} skills")
            bars = {end: table[f"residual_{end}"] for end in _ENDS}
            _bars(right, table["product"], bars, tint, "o", f"{table['k']} skills")
        left.set_xlabel("success on single-skill questions, X")
        left.set_ylabel("success on questions of k skills, Y")
        right.set_xlabel("product of the single skills' success")
        right.set_ylabel("success less product")
        for axis in axes[0]:
            axis.legend(loc="best")
        return drawing

    return Figure(
        "combinations",
        "Combinations of skills",
        "One mark a checkpoint. Left: success on questions of k skills over that on single-skill "
        "questions; dashed: its k-th power, which Shah et al. 2024 find about right for pairs. "
        "Right: success less the mean product of the single-skill success of a question's own "
        "skills: below 0 where skills that are had alone fail together. Bars: 95 % intervals, "
        "left Wilson's, right by resampling.",
        "Success on combinations against powers of single success, and the residual against zero.",
        draw,
        stack(tables),
    )


def weakest(rows: Rows, points: Sequence[Point], k: int, alphas: Sequence[float]) -> Figure:
    """Errors of the weakest skills over theta, with their bounds."""
    tables = []
    for alpha in alphas:
        at = f"k={k}/weakest/alpha={alpha:g}"
        names = [p.name for p in points if f"{p.name}/{at}/exact" in rows]
        found = {
            "alpha": alpha,
            "checkpoint": names,
            "theta": [1 - rows[f"{name}/k={k}/success"]["value"] for name in names],
            **_columns(rows, [f"{name}/{at}/error" for name in names]),
        }
        for bound in ("exact", "theorem"):
            found[bound] = [rows[f"{name}/{at}/{bound}"]["value"] for name in names]
        tables.append(found)

    def draw():
        drawing, axes = canvas(1, len(tables), 3.3, sharey=True)
        for axis, table in zip(axes[0], tables, strict=True):
            theta = np.array(table["theta"])
            _bars(axis, theta, table, style.series(1), "o", "measured")
            axis.plot(theta, table["exact"], "_", color=style.series(2), ms=9, label="exact")
            axis.plot(theta, table["theorem"], "_", color=style.series(0), ms=9, label="theorem")
            axis.plot([0, 1], [0, 1], ":", color=style.color("control"), label="by chance")
            axis.set_title(f"alpha at least {table['alpha']:g}")
            axis.set_xlabel("wrong answers, theta")
        axes[0][0].set_ylabel("error of the weakest skills")
        axes[0][0].legend(loc="best")
        return drawing

    return Figure(
        "weakest",
        "The weakest skills",
        f"Questions of {k} skill{'s' * (k > 1)}. Circles: error of the weakest skills of measure "
        "alpha, named on one half of the questions and measured on the other, 95 % intervals. "
        "Strokes: the most that any failing of so many questions can give them, and what Theorem 8 "
        "of Arora & Goyal 2023 allows, both for skills drawn independently: a circle above them "
        "says that these are not.",
        "Errors of the weakest skills over the share of wrong answers, with two bounds.",
        draw,
        stack(tables),
    )


def emergence(rows: Rows, line: Line, skills: Sequence[str], level: float) -> Figure:
    """Competence of every skill along a line of checkpoints."""
    tables = [
        {
            "skill": skill,
            line.unit: line.x_N,
            **_columns(rows, [f"{p.name}/skill/{skill}/competence" for p in line.points]),
        }
        for skill in skills
    ]

    def draw():
        drawing, axes = canvas(1, 1, 3.6)
        axis, few = axes[0][0], len(tables) <= _NAMED
        for i, table in enumerate(tables):
            tint, dash = style.line(i) if few else (style.color("axis"), "-")
            label = table["skill"] if few else None
            axis.plot(line.x_N, table["value"], dash, color=tint, marker=".", label=label,
                lw=1.5 if few else 0.6)  # fmt: skip
            if few:
                low, high = (np.array(table[end], float) for end in ("low", "high"))
                axis.fill_between(line.x_N, low, high, color=tint, alpha=0.12, lw=0)
        if not few:
            middle = np.median([table["value"] for table in tables], axis=0)
            axis.plot(line.x_N, middle, color=style.series(0), label="median of the skills")
        axis.axhline(level, color=style.color("event"), lw=1)
        axis.set_xlabel(line.unit)
        axis.set_ylabel("competence")
        axis.set_ylim(-0.03, 1.03)
        axis.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
        return drawing

    return Figure(
        "emergence_" + "".join(c if c.isascii() and c.isalnum() else "_" for c in line.name),
        f"Skills along {line.name}",
        "Right answers of all questions that need a skill; bands: Wilson's 95 % intervals over "
        f"questions. A skill emerges where its line first reaches {level:g}.",
        "Competence of each skill along the checkpoints.",
        draw,
        stack(tables),
    )


def _runs(points: Sequence[Point]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for point in points:
        found.setdefault(point.run, []).append(point.name)
    return found


def _columns(rows: Rows, names: Sequence[str]) -> dict[str, list[float]]:
    return {
        end: [math.nan if rows[n][end] is None else float(rows[n][end]) for n in names]
        for end in _ENDS
    }


def _bars(axis, x, table: Mapping[str, Sequence], tint: str, marker: str, label) -> None:
    value, low, high = (np.array(table[end], float) for end in _ENDS)
    low, high = (np.where(np.isnan(end), value, end) for end in (low, high))
    axis.errorbar(
        np.array(x, float), value, np.maximum([value - low, high - value], 0), fmt=marker,
        color=tint, capsize=2, ms=4, label=label,
    )  # fmt: skip
