"""Figures of probes along checkpoints: curves by group, what is remembered, question by question.

Axes: S checkpoints, I questions.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from llm_dynamics.report import style
from llm_dynamics.report.figures import Figure, canvas, stack
from llm_dynamics.report.numbers import number
from llm_dynamics.results import Row
from llm_dynamics.skills.trajectories import Trajectories, learning

_ENDS = ("value", "low", "high")
_SPREAD = 30  # of the last step over the first above 0, from which the axis is logarithmic
_TICKS = 7  # of a logarithmic axis
_LINES = 120  # questions that are drawn one by one
STATES = ("right at every checkpoint since first right", "right again after a fall",
    "wrong, was right before", "not right yet")  # fmt: skip
Rows = Mapping[str, Row]


def curves(rows: Rows, found: Trajectories, parts: Sequence[str]) -> Figure:
    """Log-probability and share right of every part along training."""
    tables = []
    for part in parts:
        for key in ("logprob", "right"):
            names = [f"{part}/step={step}/{key}" for step in found.steps_S]
            tables.append(
                {
                    "questions": part, "number": key, "step": found.steps_S.tolist(),
                    "tokens": found.tokens_S.tolist(),
                    **{e: [_or_nan(rows[n][e]) for n in names] for e in _ENDS},
                }
            )  # fmt: skip

    def draw():
        drawing, axes = canvas(1, 2, 3.7)
        left, right = axes[0]
        for i, part in enumerate(parts):
            tint, dash = style.line(i)
            for axis, table in zip((left, right), tables[2 * i : 2 * i + 2], strict=True):
                value, low, high = (np.array(table[end], float) for end in _ENDS)
                low, high = (np.where(np.isnan(end), value, end) for end in (low, high))
                if len(value) == 1:  # no curve: marks beside each other
                    aside = found.steps_S + 0.005 * max(1, found.steps_S[0]) * i
                    axis.plot(aside, value, dash, color=tint, marker=".", label=part)
                    axis.vlines(aside, low, high, color=tint, alpha=0.5)
                    continue
                axis.plot(found.steps_S, value, dash, color=tint, marker=".", label=part)
                axis.fill_between(found.steps_S, low, high, color=tint, alpha=0.15, lw=0)
        left.set_ylabel("mean log-probability, nats per token")
        right.set_ylabel("share right")
        right.set_ylim(-0.03, 1.03)
        for axis in (left, right):
            _steps(axis, found)
            if len(found.steps_S) == 1:
                axis.set_xticks([])
                axis.set_xlabel(f"at {found.steps_S[0]} updates")
        if len(parts) > 1:
            right.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
        return drawing

    return Figure(
        "curves",
        "How probable and how often right",
        "Mean log-probability of the target or right choice, and the share of questions answered "
        "rightly, at every checkpoint. Bands or bars: 95 % intervals over groups of questions, "
        "left Student's, right Wilson's.",
        "Log-probability and share right over training steps, a line for each group of questions.",
        draw,
        stack(tables),
    )


def remembered(found: Trajectories) -> Figure:
    """Shares of the questions that are right, were, or never have been, at every checkpoint."""
    shares_4xS = _states(found.right_SxI)
    table = {
        "step": found.steps_S.tolist(),
        **dict(zip(("kept", "again", "forgotten", "not_yet"), shares_4xS, strict=True)),
    }

    def draw():
        drawing, axes = canvas(1, 1, 3.2)
        axis, x_S = axes[0][0], np.arange(len(found.steps_S))
        tints = (style.series(2), style.series(0), style.series(1), style.color("event"))
        bottom_S = np.zeros(len(x_S))
        for share_S, tint, words in zip(shares_4xS, tints, STATES, strict=True):
            axis.bar(x_S, share_S, 0.8, bottom_S, color=tint, label=words)
            bottom_S = bottom_S + share_S
        _checkpoints(axis, found.steps_S)
        axis.set_ylabel("share of all questions")
        axis.set_ylim(0, 1)
        axis.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
        return drawing

    return Figure(
        "remembered",
        "Learned, kept and forgotten",
        "All questions at every checkpoint by what is right and what was at earlier ones. "
        "Checkpoints are evenly spaced here, whatever lies between them.",
        "Stacked shares of questions that are right, right again, forgotten and never right yet.",
        draw,
        table,
    )


def questions(found: Trajectories) -> Figure | None:
    """Questions at every checkpoint, a line where they are right; None where none ever is."""
    of = learning(found.right_SxI)
    order_I = np.lexsort((of.events_I, of.kept_I, of.first_I))
    order_I = order_I[found.right_SxI.any(axis=0)[order_I]]
    if not len(order_I):
        return None
    picked = np.linspace(0, len(order_I) - 1, min(_LINES, len(order_I))).round().astype(int)
    some = order_I[picked]
    table = {
        "question": np.repeat([found.names[i] for i in some], len(found.steps_S)).tolist(),
        "step": np.tile(found.steps_S, len(some)).tolist(),
        "right": found.right_SxI[:, some].T.ravel().astype(int).tolist(),
    }

    def draw():
        from matplotlib.collections import LineCollection

        drawing, axes = canvas(1, 1, min(1.2 + 0.09 * len(some), 6.0))
        axis, stretches, tints = axes[0][0], [], []
        for y, i in enumerate(some):
            for start, stop in _stretches(found.right_SxI[:, i]):
                stretches.append([(start - 0.4, y), (stop - 0.6, y)])
                kept = stop == len(found.steps_S)
                tints.append(style.series(2) if kept else style.series(1))
        axis.add_collection(LineCollection(stretches, colors=tints, linewidths=2.2))
        axis.set_xlim(-0.6, len(found.steps_S) - 0.4)
        axis.set_ylim(len(some) - 0.3, -0.7)
        _checkpoints(axis, found.steps_S)
        few = len(some) <= 30
        axis.set_yticks(range(len(some)) if few else [])
        if few:
            axis.set_yticklabels([found.names[i][:40] for i in some])
        axis.set_ylabel("" if few else "questions, first right first")
        axis.grid(axis="y", visible=False)
        return drawing

    all_of = "The" if len(some) == len(order_I) else f"{len(some)} evenly drawn of the"
    never = len(found.names) - len(order_I)
    return Figure(
        "questions",
        "Question by question",
        f"{all_of} {len(order_I):,} questions that are right somewhere, in the order in which they "
        f"are first right ({never:,} never are). A line where a question is right: green until the "
        "end, orange until it is wrong again.",
        "A line for every question over the checkpoints that answer it rightly.",
        draw,
        table,
    )


def _states(right_SxI: np.ndarray) -> np.ndarray:
    """Shares of `STATES` at every checkpoint, 4 x S."""
    ever_SxI = np.maximum.accumulate(right_SxI, axis=0)
    fallen_SxI = np.maximum.accumulate(ever_SxI & ~right_SxI, axis=0)
    states = (
        right_SxI & ~fallen_SxI, right_SxI & fallen_SxI, ever_SxI & ~right_SxI, ~ever_SxI,
    )  # fmt: skip
    return np.stack([state.mean(axis=1) for state in states])


def _stretches(right_S: np.ndarray) -> list[tuple[int, int]]:
    """Where a question is right: first checkpoint, and the one after the last."""
    edges = np.diff(np.concatenate([[0], right_S.astype(int), [0]]))
    return list(zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1), strict=True))


def _steps(axis, found: Trajectories) -> None:
    """The axis of training steps, logarithmic where they are spread so."""
    steps_S = found.steps_S
    positive = steps_S[steps_S > 0]
    if len(positive) > 1 and positive[-1] / positive[0] >= _SPREAD:
        if steps_S[0] == 0:
            axis.set_xscale("symlog", linthresh=float(positive[0]), linscale=0.4)
        else:
            axis.set_xscale("log")
        place_S = np.log(np.maximum(steps_S, positive[0] / 2))
        wanted = np.linspace(place_S[0], place_S[-1], _TICKS)
        shown = np.unique(np.abs(place_S[:, None] - wanted).argmin(axis=0))
        axis.set_xticks(steps_S[shown], [number(int(step)) for step in steps_S[shown]])
        axis.minorticks_off()
        start = steps_S[0] / 1.15 if steps_S[0] else -0.3 * positive[0]
        axis.set_xlim(float(start), 1.15 * float(positive[-1]))
    axis.set_xlabel("updates" + _tokens_words(found))


def _tokens_words(found: Trajectories) -> str:
    """How many tokens an update is, where that is known and the same throughout."""
    there = found.steps_S > 0
    if not there.any() or not (found.tokens_S[there] > 0).all():
        return ""
    each = found.tokens_S[there] / found.steps_S[there]
    return f" of {number(float(each[0]))} tokens" if np.ptp(each) <= 1e-9 * each[0] else ""


def _checkpoints(axis, steps_S: np.ndarray) -> None:
    """An axis of checkpoints one after another, by their steps."""
    shown = np.unique(np.linspace(0, len(steps_S) - 1, min(12, len(steps_S))).round().astype(int))
    axis.set_xticks(shown)
    axis.set_xticklabels([number(int(steps_S[s])) for s in shown])
    axis.set_xlabel("checkpoint, updates")
    axis.grid(axis="x", visible=False)


def _or_nan(value) -> float:
    return math.nan if value is None else float(value)
