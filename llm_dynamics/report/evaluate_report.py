"""The page of checkpoints that lm-evaluation-harness asked: shares, parts, and answers read out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llm_dynamics.report import run_section, style
from llm_dynamics.report.figures import Figure, canvas, stack
from llm_dynamics.report.page import (
    Code,
    Fold,
    Items,
    Page,
    Section,
    Table,
    Terms,
    Text,
    write_page,
)
from llm_dynamics.report.rows import row_cell
from llm_dynamics.results import Row
from llm_dynamics.suites import Suite

QUESTION = (
    "How many questions does each checkpoint answer, as the field's harness grades them, and is "
    "that more than a blind guess gets right?"
)
_DOUBTS = (
    "Intervals are 95 % intervals over questions (Wilson's; over groups of questions where they "
    "are not independent). They hold for other questions of the same kind asked of the same "
    "checkpoint, not for other runs.",
    "`acc` and `acc_norm` are two ways to choose from the same probabilities; naming the better "
    "one afterwards favours it.",
    "Public benchmarks may be part of what an imported model was trained on. The suites here are "
    "never trained on by this package.",
    "A cloze answer counts only in the words of the table: a synonym is wrong.",
)
_TERMS = (
    ("acc", "with choices: the right one is the most probable; cloze: every token of the answer "
     "is the most probable one"),
    ("acc_norm", "the right choice has the highest ln p divided by its number of characters"),
    ("chance", "what a blind guess among the choices gets right"),
)  # fmt: skip
_ENDS = ("value", "low", "high")


@dataclass(frozen=True)
class Point:
    """A checkpoint: its name in rows, its run, and its step, 0 where nothing says it."""

    name: str
    run: str
    step: int


@dataclass(frozen=True)
class Example:
    """A question that was asked of a checkpoint, what it said, and what is right."""

    checkpoint: str
    task: str
    question: str
    said: str
    right: str


@dataclass(frozen=True)
class EvaluateStudy:
    """All that the page shows."""

    points: Sequence[Point]
    tasks: Sequence[tuple[str, Sequence[str]]]  # name, metrics
    suites: Sequence[Suite]
    examples: Sequence[Example]
    rows: Sequence[Row]
    harness: str
    limit: int
    command: str

    @property
    def numbers(self) -> list[tuple[str, str]]:
        """(task, metric) of every number."""
        return [(task, metric) for task, metrics in self.tasks for metric in metrics]


def write_report(workdir: Path, study: EvaluateStudy) -> Path:
    """Writes WORKDIR/report.html and WORKDIR/figures/; returns the path of the page."""
    return write_page(compose(study), workdir)


def compose(study: EvaluateStudy) -> Page:
    """The page as blocks."""
    rows = {row["name"]: row for row in study.rows}
    limits = [f"Only the first {study.limit} questions of each task were asked."]
    sections = [
        _answer(rows, study),
        _numbers(rows, study),
        _parts(study),
        _examples(study),
        Section(
            "All numbers",
            (
                Fold(
                    f"{len(study.rows)} numbers",
                    (run_section.results_table("Every number with its definition", study.rows),),
                ),
            ),
        ),
        Section("What to keep in mind", (Items((*_DOUBTS, *(limits if study.limit else ()))),)),
        _sources(study),
        Section("Definitions", (Terms(_TERMS),)),
        Section("How to run it again", (Code(study.command),)),
    ]
    count = len(study.points)
    return Page(
        title="What the harness finds",
        subtitle=f"{count} checkpoint{'s' * (count > 1)}, {len(study.tasks)} tasks, "
        f"lm-evaluation-harness {study.harness}.",
        sections=tuple(section for section in sections if section.blocks),
        footer="This page fetches nothing. Intervals are 95 % intervals over questions.",
    )


def _answer(rows: Mapping[str, Row], study: EvaluateStudy) -> Section:
    said = []
    for run in dict.fromkeys(point.run for point in study.points):
        last = max((p for p in study.points if p.run == run), key=lambda p: p.step).name
        for task, metric in study.numbers:
            row, chance = rows[f"{last}/{task}/{metric}"], rows.get(f"{task}/chance")
            words = f"{last}, {task}: {metric} {_words(row)}"
            if chance and row["low"] is not None:
                shown = "no difference from a guess is shown"
                if row["low"] > chance["value"]:
                    shown = "more than a guess"
                elif row["high"] < chance["value"]:
                    shown = "less than a guess"
                words += f", chance {chance['value']:.3g}: {shown}"
            said.append(words + ".")
    return Section("The answer", (Text(QUESTION, "lead"), Items(tuple(said))))


def _numbers(rows: Mapping[str, Row], study: EvaluateStudy) -> Section:
    columns = ("checkpoint", *(f"{task}, {metric}" for task, metric in study.numbers))
    body = [
        (p.name, *(row_cell(rows[f"{p.name}/{task}/{metric}"]) for task, metric in study.numbers))
        for p in study.points
    ]
    chance = [rows.get(f"{task}/chance") for task, _ in study.numbers]
    if any(chance):
        body.append(("a blind guess", *map(row_cell, chance)))
    table = Table("Checkpoints", columns, tuple(body), columns[1:], sortable=True)
    steps = {}
    for point in study.points:
        steps.setdefault(point.run, set()).add(point.step)
    drawn = [(t, m) for t, m in study.numbers if rows[f"{study.points[0].name}/{t}/{m}"]["low"]
             is not None]  # fmt: skip
    if not drawn:
        return Section("Numbers", (table,))
    along = any(len(found) > 1 for found in steps.values())
    figure = _curves(rows, study, drawn) if along else _dots(rows, study, drawn)
    return Section("Numbers", (figure, table))


def _dots(rows: Mapping[str, Row], study: EvaluateStudy, drawn: Sequence) -> Figure:
    """Shares of every task, one mark a checkpoint."""
    names = [f"{task}, {metric}" for task, metric in drawn]
    tables = [
        {"checkpoint": p.name, "number": names, **_columns(rows, p, drawn), **_chance(rows, drawn)}
        for p in study.points
    ]

    def draw():
        drawing, axes = canvas(1, 1, 1.2 + 0.42 * len(drawn))
        axis, y = axes[0][0], np.arange(len(drawn))[::-1]
        for i, table in enumerate(tables):
            value, low, high = (np.array(table[end], float) for end in _ENDS)
            shift = 0.5 * ((i + 0.5) / len(tables) - 0.5)
            ends = np.maximum([value - low, high - value], 0)
            axis.errorbar(value, y - shift, xerr=ends, fmt="osD^v"[i % 5], capsize=2, ms=4,
                color=style.series(i), label=table["checkpoint"])  # fmt: skip
        axis.plot(tables[0]["chance"], y, "|", ms=16, color=style.color("control"), label="chance")
        axis.set_yticks(y, names)
        axis.set_xlim(-0.02, 1.02)
        axis.set_xlabel("share of questions")
        axis.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
        return drawing

    return Figure(
        "shares",
        "Shares of right answers",
        "One mark a checkpoint; bars: 95 % intervals over questions; strokes: a blind guess.",
        "Shares of right answers of each task with intervals, beside a blind guess.",
        draw,
        stack(tables),
    )


def _curves(rows: Mapping[str, Row], study: EvaluateStudy, drawn: Sequence) -> Figure:
    """Shares over the steps of runs, a panel a task and metric."""
    runs: dict[str, list[Point]] = {}
    for point in sorted(study.points, key=lambda p: p.step):
        runs.setdefault(point.run, []).append(point)
    tables = [
        {
            "run": run,
            "number": f"{task}, {metric}",
            "step": [p.step for p in points],
            **{end: [_columns(rows, p, [(task, metric)])[end][0] for p in points] for end in _ENDS},
            "chance": _chance(rows, [(task, metric)])["chance"][0],
        }
        for task, metric in drawn
        for run, points in runs.items()
    ]

    def draw():
        wide = min(3, len(drawn))
        drawing, axes = canvas(-(-len(drawn) // wide), wide, 2.9 * -(-len(drawn) // wide))
        for axis in axes.flat[len(drawn) :]:
            axis.set_visible(False)
        for axis, (task, metric) in zip(axes.flat, drawn, strict=False):
            here = [table for table in tables if table["number"] == f"{task}, {metric}"]
            for i, table in enumerate(here):
                tint, dash = style.line(i)
                axis.plot(table["step"], table["value"], dash, color=tint, marker=".",
                    label=table["run"])  # fmt: skip
                axis.fill_between(table["step"], np.array(table["low"], float),
                    np.array(table["high"], float), color=tint, alpha=0.12, lw=0)  # fmt: skip
            if not math.isnan(here[0]["chance"]):
                axis.axhline(here[0]["chance"], color=style.color("control"), lw=1)
            axis.set_title(f"{task}, {metric}")
            axis.set_xlabel("step")
        axes[0][0].set_ylabel("share of questions")
        axes[0][0].legend(loc="best")
        return drawing

    return Figure(
        "curves",
        "Shares of right answers along runs",
        "Bands: 95 % intervals over questions, the same ones at every step; level lines: a blind "
        "guess.",
        "Shares of right answers over training steps, a panel a task.",
        draw,
        stack(tables),
    )


def _parts(study: EvaluateStudy) -> Section:
    tasks = {task for task, _ in study.tasks}
    found = []
    for row in study.rows:
        for point in study.points:
            if row["name"].startswith(f"{point.name}/"):
                parts = row["name"].removeprefix(f"{point.name}/").split("/")
                if len(parts) == 3 and parts[0] in tasks:
                    task, part, metric = parts
                    words = f"{task}, {metric}"
                    found.append((point.name, words, part, row_cell(row), str(row["n"])))
    if not found:
        return Section("Parts of the questions", ())
    columns = ("checkpoint", "task, metric", "part", "share", "n")
    table = Table("Parts of the questions", columns, tuple(found), columns[3:], sortable=True)
    return Section("Parts of the questions", (Fold(f"{len(found)} numbers", (table,)),))


def _examples(study: EvaluateStudy) -> Section:
    if not study.examples:
        return Section("Answers read out", ())
    columns = ("task", "question", "said", "right", "checkpoint")
    body = tuple((e.task, e.question, e.said, e.right, e.checkpoint) for e in study.examples)
    table = Table("First questions of each task", columns, body, row_header=False)
    return Section("Answers read out", (Fold(f"{len(body)} questions", (table,)),))


def _sources(study: EvaluateStudy) -> Section:
    if not study.suites:
        return Section("Questions and their owners", ())
    columns = ("suite", "questions", "source", "licence", "attribution")
    body = tuple(
        (s.name, str(len(s.items)), f"`{s.source}`", s.licence, s.attribution) for s in study.suites
    )
    return Section("Questions and their owners", (Table("Suites", columns, body, columns[1:2]),))


def _columns(rows: Mapping[str, Row], point: Point, drawn: Sequence) -> dict[str, list[float]]:
    found = [rows[f"{point.name}/{task}/{metric}"] for task, metric in drawn]
    return {end: [math.nan if r[end] is None else float(r[end]) for r in found] for end in _ENDS}


def _chance(rows: Mapping[str, Row], drawn: Sequence) -> dict[str, list[float]]:
    found = [rows.get(f"{task}/chance") for task, _ in drawn]
    return {"chance": [math.nan if row is None else row["value"] for row in found]}


def _words(row: Row) -> str:
    found = row_cell(row)
    return found if isinstance(found, str) else found.text
