"""The page of a series of checkpoints that were asked the same probes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llm_dynamics.report import run_section
from llm_dynamics.report import series_figures as figures
from llm_dynamics.report.numbers import number
from llm_dynamics.report.page import (
    Cell,
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
from llm_dynamics.results import Row, verdict
from llm_dynamics.skills.trajectories import Trajectories

QUESTION = (
    "The same questions were asked of every checkpoint of one model. When does it learn their "
    "answers, and which of them does it lose again?"
)
_DRAWN = 9  # parts with a curve of their own
_DOUBTS = (
    "Nothing is known of what lies between two checkpoints: a question may be learned and "
    "forgotten there unseen, so first steps are late by up to one gap and forgetting events are "
    "too few.",
    "Answers near the border flicker: a question that is right by chance at one checkpoint counts "
    "as forgotten at the next. Where there are choices, guessing alone makes most questions right "
    "at some checkpoint; the share that guessing would get right is in the table.",
    "Intervals are over questions, or their groups: they hold for other questions of the same kind "
    "asked of these checkpoints, not for other runs. Every interval is by itself; of many, one in "
    "twenty misses.",
    "The share right counts the most probable text, token by token; longer targets are harder.",
)
_TERMS = (
    ("log-probability", "mean over the tokens of the target, or of the right choice, of ln p; nats "
     "per token; then the mean over questions"),
    ("right", "a target that is the most probable text token by token; a choice that is more "
     "probable than every other one (sums of log-probabilities, not divided by length)"),
    ("forgetting event", "right at one checkpoint, wrong at the next: Toneva et al. 2019 "
     "(arXiv:1812.05159) for checkpoints in place of showings of an example"),
    ("forgotten", "right at some checkpoint, wrong at the last one; a share of those ever right"),
    ("unforgotten", "without a forgetting event since it was first right"),
    ("first right", "the first checkpoint that answers rightly; the median over questions"),
    ("from then on", "the checkpoint from which on all answer rightly; the median over "
     "questions"),
    ("last less best", "the best checkpoint is named by one half of the questions and measured on "
     "the other, and the other way round: one that is picked on the questions it is measured on "
     "looks better than it is"),
)  # fmt: skip


@dataclass(frozen=True)
class SeriesStudy:
    """All that the page shows."""

    name: str
    source: str
    found: Trajectories
    rows: Sequence[Row]
    by: str
    model: Mapping[str, int | str]
    command: str


def write_report(workdir: Path, study: SeriesStudy) -> Path:
    """Writes WORKDIR/report.html and WORKDIR/figures/; returns the path of the page."""
    return write_page(compose(study), workdir)


def compose(study: SeriesStudy) -> Page:
    """The page as blocks."""
    rows, found = {row["name"]: row for row in study.rows}, study.found
    parts = list(found.parts(study.by))
    several = len(found.steps_S) > 1
    drawn = parts[:_DRAWN]
    curves: tuple = (figures.curves(rows, found, drawn),)
    if len(drawn) < len(parts):
        curves += (
            Text(f"Drawn: {len(drawn)} of {len(parts)}; all are among the numbers.", "note"),
        )
    sections = [
        Section("The answer", (Text(QUESTION, "lead"), Items(tuple(_answer(rows, study, parts))))),
        Section("Along training", (*curves, _by_checkpoint(rows, study))),
    ]
    if several:
        each = filter(None, [figures.questions(found)])
        sections += [
            Section(
                "First, best and last",
                (
                    _changes(rows, parts, "logprob", "Log-probability, nats per token"),
                    _changes(rows, parts, "right", "Share right"),
                ),
            ),
            Section(
                "Learned and forgotten",
                (figures.remembered(found), *_learning(rows, parts), *each),
            ),
        ]
    table = run_section.results_table("Every number with its definition", study.rows)
    model = Table("The model", ("what", "value"), tuple(
        (key, number(value) if isinstance(value, int) else value)
        for key, value in study.model.items()
    ))  # fmt: skip
    sections += [
        Section("All numbers", (Fold(f"{len(study.rows)} numbers", (table,)),)),
        Section("What to keep in mind", (Items(_DOUBTS),)),
        Section("Definitions", (Terms(_TERMS),)),
        Section("How to run it again", (Code(study.command), Fold("The model", (model,)))),
    ]
    count = len(found.steps_S)
    return Page(
        title=f"{study.name} over training time",
        subtitle=f"{count} checkpoint{'s' * (count > 1)} from step {number(int(found.steps_S[0]))} "
        f"to {number(int(found.steps_S[-1]))}, {number(len(found.names))} questions "
        f"({study.source}).",
        sections=tuple(sections),
        footer="This page fetches nothing. Intervals are 95 % intervals over groups of questions.",
    )


def _answer(rows: Mapping[str, Row], study: SeriesStudy, parts: Sequence[str]) -> list[str]:
    steps = study.found.steps_S
    first, last = (f"all/step={int(steps[i])}" for i in (0, -1))
    said = [
        f"Right at the last checkpoint: {_words(rows[f'{last}/right'])} of the questions, at a "
        f"mean log-probability of {_words(rows[f'{last}/logprob'])} nats per token."
    ]
    if len(steps) == 1:
        return said
    moved = {
        "above": "the model has learned", "below": "the model has lost",
        "not shown": "no change is shown",
    }  # fmt: skip
    row = rows["all/last-first/right"]
    said.append(
        f"From the first checkpoint ({_words(rows[f'{first}/right'])}) to the last: "
        f"{_words(row)}; {moved[verdict(row)]}."
    )
    row = rows["all/last-best/logprob"]
    fell = {
        "above": "above it", "below": "the end is worse", "not shown": "no fall is shown",
    }[verdict(row)] if row["value"] is not None else row["note"]  # fmt: skip
    said.append(
        f"Log-probability is highest at step {_words(rows['all/best/logprob'])}; the last "
        f"checkpoint less the best: {_words(row)}; {fell}."
    )
    lost, ever = rows["all/forgotten_of_ever"], rows["all/ever"]
    then = f"; of those wrong at the last one: {_words(lost)}" if ever["value"] else ""
    said.append(f"Right at some checkpoint: {_words(ever)}{then}.")
    for key, words in (("first_right", "first right"), ("kept_right", "right from then on")):
        row = rows[f"all/{key}"]
        when = f"step {_words(row)}" if row["value"] is not None else row["note"]
        said.append(f"Median over questions of when they are {words}: {when}.")
    if len(parts) > 2:
        ends = [(rows[f"{p}/{last.split('/')[1]}/right"]["value"], p) for p in parts[1:]]
        (low, worst), (high, best) = min(ends), max(ends)
        if low < high:
            said.append(f"At the end most right: {best} ({high:.2f}), least: {worst} ({low:.2f}).")
    return said


def _by_checkpoint(rows: Mapping[str, Row], study: SeriesStudy) -> Fold:
    found = study.found
    columns = ("step", "tokens", "log-probability", "share right")
    body = tuple(
        (
            Cell(number(int(step)), int(step)),
            Cell(number(int(tokens) or None), int(tokens)),
            row_cell(rows[f"all/step={step}/logprob"]),
            row_cell(rows[f"all/step={step}/right"]),
        )
        for step, tokens in zip(found.steps_S, found.tokens_S, strict=True)
    )
    table = Table("All questions at every checkpoint", columns, body, columns, sortable=True)
    return Fold(f"{len(body)} checkpoint{'s' * (len(body) > 1)}", (table,))


def _changes(rows: Mapping[str, Row], parts: Sequence[str], of: str, caption: str) -> Table:
    columns = ("questions", "first", "last", "last less first", "best step", "last less best")
    first, last = (_end(rows, of, i) for i in (0, -1))
    keys = (first, last, f"last-first/{of}", f"best/{of}", f"last-best/{of}")
    body = tuple((p, *(row_cell(rows[f"{p}/{key}"]) for key in keys)) for p in parts)
    return Table(f"{caption}, of the same questions", columns, body, columns[1:], sortable=True)


def _end(rows: Mapping[str, Row], of: str, index: int) -> str:
    """The name of a number at the first or last checkpoint, in any part."""
    steps = [n for n in rows if n.startswith("all/step=") and n.endswith(f"/{of}")]
    return steps[index].removeprefix("all/")


def _learning(rows: Mapping[str, Row], parts: Sequence[str]) -> tuple[Table, Table]:
    heads = (
        ("asked", "questions"), ("guessing", "chance"), ("ever right", "ever"),
        ("forgotten", "forgotten_of_ever"), ("unforgotten", "unforgotten"), ("events", "events"),
    )  # fmt: skip
    times = (("first right", "first_right"), ("from then on", "kept_right"))

    def table(caption: str, heads: Sequence[tuple[str, str]]) -> Table:
        columns = ("questions", *(head for head, _ in heads))
        body = tuple((p, *(row_cell(rows[f"{p}/{key}"]) for _, key in heads)) for p in parts)
        return Table(caption, columns, body, columns[1:], sortable=True)

    return (
        table("Learned and forgotten: shares and events of the questions ever right", heads),
        table("When: median steps over all questions", times),
    )


def _words(row: Row) -> str:
    found = row_cell(row)
    return found if isinstance(found, str) else found.text
