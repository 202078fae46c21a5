"""Figures of Skill-Mix: scores against the number of skills, by novelty, and the parrot bound."""

from collections.abc import Mapping, Sequence

import numpy as np

from llm_dynamics.report import style
from llm_dynamics.report.figures import Figure, canvas, stack
from llm_dynamics.results import Row
from llm_dynamics.skillmix import parrot
from llm_dynamics.skillmix.published import leaderboard
from llm_dynamics.skillmix.result_rows import DEFINITIONS, KIND_WORDS, KINDS

TITLES = {
    "full_marks": "full marks",
    "all_skills": "all skills",
    "skill_fraction": "skill fraction",
}
_SHOWN = ("GPT-4", "GPT-3.5-turbo", "LLaMA-2-70B-Chat", "LLaMA-2-7B-Chat")


def metrics(rows: Mapping[str, Row], ks: Sequence[int], published: bool) -> Figure:
    """The three metrics against k, with published models beside them if asked for."""
    tables = []
    for metric in DEFINITIONS:
        tables.append({"metric": metric, "model": "this run", **_line(rows, ks, metric)})
        for model in leaderboard().scores if published else ():
            by_k = leaderboard().scores[model]
            values = [by_k[k][metric] for k in sorted(by_k)]
            tables.append({"metric": metric, "model": model, "k": sorted(by_k), "value": values})
    shown = [model for model in _SHOWN if published]

    def draw():
        drawing, axes = canvas(1, 3, 3.2, sharey=True)
        for axis, metric in zip(axes[0], DEFINITIONS, strict=True):
            for table in tables:
                if table["metric"] != metric:
                    continue
                if table["model"] == "this run":
                    _points(axis, table, style.series(0), "this run")
                elif table["model"] in shown:
                    tint = style.series(1 + shown.index(table["model"]))
                    axis.plot(table["k"], table["value"], "--", color=tint, label=table["model"])
            axis.set_title(TITLES[metric])
            axis.set_xlabel("skills, k")
            axis.set_ylim(-0.03, 1.03)
            axis.set_xticks(sorted({*ks, *(k for t in tables for k in t["k"] if published)}))
        axes[0][0].set_ylabel("score")
        if published:
            axes[0][2].legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
        return drawing

    beside = (
        " Dashed: published models, under other prompts, skills and graders, so levels do not "
        "compare; the CSV has all of them."
        if published
        else ""
    )
    return Figure(
        "metrics",
        "Scores against the number of skills",
        "Points: the best generation of an item, mean over items; bars: 95 % intervals over items "
        f"(Wilson's for shares, else the bootstrap).{beside}",
        "Three panels with the three metrics against the number of skills.",
        draw,
        stack(tables),
    )


def novelty(rows: Mapping[str, Row], ks: Sequence[int]) -> Figure:
    """Full marks by what training texts show of a combination."""
    tables = []
    for kind in KINDS:
        there = [k for k in ks if f"k={k}/full_marks/{kind}" in rows]
        if there:
            found = _line(rows, there, f"full_marks/{kind}")
            tables.append({"combination": kind, **found})

    def draw():
        drawing, axes = canvas(1, 1, 3.2)
        axis = axes[0][0]
        for i, table in enumerate(tables):
            _points(axis, table, style.series(i), table["combination"], 0.06 * (i - 1.5))
        axis.set_xlabel("skills, k")
        axis.set_ylabel("full marks")
        axis.set_ylim(-0.03, 1.03)
        axis.set_xticks(list(ks))
        axis.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
        return drawing

    words = "; ".join(f"{kind}: {words}" for kind, words in KIND_WORDS.items())
    return Figure(
        "novelty",
        "Combinations that training showed, and others",
        f"Full marks, best of an item's generations, with Wilson's 95 % intervals. {words}.",
        "Full marks against the number of skills, by what training texts show.",
        draw,
        stack(tables),
    )


def bound(
    rows: Mapping[str, Row], ks: Sequence[int], corpus: parrot.Corpus, published: bool
) -> Figure:
    """Combinations that a corpus can hold against its length, and success rates."""
    sentences_S = np.geomspace(corpus.sentences / 100, corpus.sentences * 1000, 101)
    every = sorted({*ks, *((4, 5, 6) if published else ())})
    tables = [
        {
            "k": k,
            "sentences": sentences_S,
            "seen_at_most": parrot.seen(k, corpus) * sentences_S / corpus.sentences,
        }
        for k in every
    ]
    scores = leaderboard().scores["GPT-4"]

    def draw():
        drawing, axes = canvas(1, 1, 3.4)
        axis = axes[0][0]
        for i, table in enumerate(tables):
            k, (tint, dash) = table["k"], style.line(i)
            axis.plot(table["sentences"], table["seen_at_most"], dash, color=tint, label=f"k = {k}")
            row = rows.get(f"k={k}/full_marks")
            ours = row["value"] if row else None
            marks = [("o", ours), ("x", scores.get(k, {}).get("full_marks") if published else None)]
            for mark, alpha in marks:
                if alpha:
                    axis.plot([corpus.sentences], [alpha], mark, color=tint, ms=6)
        axis.axvline(corpus.sentences, color=style.color("event"), lw=1)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_ylim(1e-5, 10)
        axis.set_xlabel("sentences of the training corpus, L")
        axis.set_ylabel("share of all combinations")
        axis.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
        return drawing

    cross = " Crosses: GPT-4, as published." if published else ""
    return Figure(
        "parrot_bound",
        "What a corpus can have shown",
        "Lines: combinations of k skills and a topic that a corpus of L sentences can hold, as a "
        f"share of all, for skills in {corpus.skill_rate:g} and topics in {corpus.topic_rate:g} of "
        f"sentences, correlation {corpus.correlation:g}. Circles: full marks of this run, at the "
        f"assumed corpus.{cross} Only a score above its line shows that some successes are new.",
        "Share of combinations in a corpus against its length for several numbers of skills.",
        draw,
        stack(tables),
    )


def _line(rows: Mapping[str, Row], ks: Sequence[int], name: str) -> dict[str, list]:
    found = [rows[f"k={k}/{name}"] for k in ks]
    ends = {key: [_number(row[key]) for row in found] for key in ("value", "low", "high")}
    return {"k": list(ks), **ends}


def _points(axis, table: Mapping[str, Sequence], tint: str, label: str, shift: float = 0) -> None:
    x, value, low, high = (np.array(table[key], float) for key in ("k", "value", "low", "high"))
    low, high = (np.where(np.isnan(end), value, end) for end in (low, high))
    bars = np.maximum([value - low, high - value], 0)
    axis.errorbar(x + shift, value, bars, fmt="o-", color=tint, capsize=2, ms=4, label=label)


def _number(value: float | None) -> float:
    return np.nan if value is None else float(value)
