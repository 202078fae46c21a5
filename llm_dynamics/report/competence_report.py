"""The page of a series of checkpoints asked questions of known skills."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_dynamics.report import competence_figures as figures
from llm_dynamics.report import run_section
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
from llm_dynamics.skills.asked import Settings
from llm_dynamics.skills.labelled import Labelled
from llm_dynamics.skills.line_rows import Line, lines
from llm_dynamics.skills.series import Point

QUESTION = (
    "Each question needs skills that are known. Which skills does a model have at which loss, are "
    "questions of several skills answered as often as their skills taken one by one would say, and "
    "in which order do skills come?"
)
_DOUBTS = (
    "Losses are cross-entropies. The theory speaks of the excess over the entropy of the answers, "
    "which nobody knows for real text: a loss is an upper bound of it, and equal to it only where "
    "a single answer is possible.",
    "Theta is at most loss / ln 2 for every model, since an answer that is not the most probable "
    "has at most probability 1/2; this is checked question by question.",
    "The bounds on the weakest skills take the skills of a question as independent draws, and "
    "questions as independent. Labels of real questions need not be so; a bound that is broken "
    "says that they are not.",
    "A label is somebody's view of what a question needs. Questions may be answered without the "
    "skill, and by guessing where there are choices.",
    "Intervals are over questions, or over their groups where the file names groups: they hold "
    "for other questions of the same kind asked of the same checkpoints, not for other runs.",
)
_TERMS = (
    ("theta", "share of questions that are answered wrongly"),
    ("competence of a skill", "right answers of all questions that need it; a wrong answer is "
     "charged to all skills of its question, so this is a lower bound"),
    ("loss", "-ln p of the target, summed over its tokens; of choices -ln of the right one's share "
     "of their probabilities; nats per question"),
    ("right", "a target that is the most probable text token by token; a choice that is more "
     "probable than every other"),
    ("product", "mean over questions of the product of their skills' success on single-skill "
     "questions"),
    ("weakest skills of measure alpha", "those with the most wrong answers that together have "
     "alpha of all labels"),
    ("slingshot", "k times the loss at which questions of k skills reach a level, over that at "
     "which single-skill ones do"),
)  # fmt: skip


@dataclass(frozen=True)
class CompetenceStudy:
    """All that the page shows."""

    labelled: Labelled
    points: Sequence[Point]
    rows: Sequence[Row]
    settings: Settings
    warnings: tuple[str, ...]
    command: str

    @property
    def sizes(self) -> list[int]:
        """Numbers of skills that questions have."""
        return sorted({int(k) for k in self.labelled.sizes_T})


def write_report(workdir: Path, study: CompetenceStudy) -> Path:
    """Writes WORKDIR/report.html and WORKDIR/figures/; returns the path of the page."""
    return write_page(compose(study), workdir)


def compose(study: CompetenceStudy) -> Page:
    """The page as blocks."""
    rows = {row["name"]: row for row in study.rows}
    along = lines(study.points)
    several = [k for k in study.sizes if k > 1 and 1 in study.sizes]
    sections = [_answer(rows, study, along, several), _checkpoints(rows, study)]
    if several:
        sections.append(_combinations(rows, study, along, several))
    sections.append(_weakest(rows, study))
    if along:
        sections.append(_emergence(rows, study, along))
    table = run_section.results_table("Every number with its definition", study.rows)
    sections += [
        Section("All numbers", (Fold(f"{len(study.rows)} numbers", (table,)),)),
        Section("What to keep in mind", (Items((*_DOUBTS, *study.warnings)),)),
        Section("Definitions", (Terms(_TERMS),)),
        Section("How to run it again", (Code(study.command),)),
    ]
    runs = len({point.run for point in study.points})
    return Page(
        title="Which skills, and which combinations of them, checkpoints have",
        subtitle=f"{len(study.points)} checkpoints of {runs} run{'s' * (runs > 1)}, "
        f"{number(len(study.labelled.questions))} questions about {len(study.labelled.skills)} "
        f"skills ({study.labelled.source}).",
        sections=tuple(s for s in sections if s.blocks),
        footer="This page fetches nothing. Intervals are 95 % intervals over questions.",
    )


def _answer(
    rows: Mapping[str, Row], study: CompetenceStudy, along: Sequence[Line], several: Sequence[int]
) -> Section:
    said = []
    for run in dict.fromkeys(point.run for point in study.points):
        last = max((p for p in study.points if p.run == run), key=lambda p: p.step).name
        said.append(
            f"{last}: wrong answers {_words(rows[f'{last}/theta'])} at a loss of "
            f"{_words(rows[f'{last}/loss'])} nats per question."
        )
        for k in several:
            row = rows[f"{last}/k={k}/residual"]
            shown = {
                "above": "above 0: they come together",
                "below": "below 0: skills that are had alone fail together",
                "not shown": "no difference is shown",
            }[verdict(row)]
            said.append(
                f"Questions of {k} skills: success {_words(rows[f'{last}/k={k}/success'])}, less "
                f"the product of single skills {_words(row)}; {shown}."
            )
    for line in along:
        row = rows.get(f"{line.name}/emergence/frequency")
        if row:
            says = {
                "above": "rare skills come first",
                "below": "frequent skills come first",
                "not shown": "no order by frequency is shown",
            }[verdict(row)]
            said.append(f"{line.name}: rank correlation with frequency {_words(row)}; {says}.")
        orders = rows.get(f"{line.name}/emergence/orders_shown")
        if orders:
            said.append(f"{line.name}: {orders['note']}.")
    if "weakest/above" in rows:
        row = rows["weakest/above"]
        said.append(
            f"{int(row['value'])} of {row['n']} errors of weakest skills are above the exact bound."
        )
    return Section("The answer", (Text(QUESTION, "lead"), Items(tuple(said))))


def _checkpoints(rows: Mapping[str, Row], study: CompetenceStudy) -> Section:
    heads = [f"success, k = {k}" for k in study.sizes]
    columns = ("checkpoint", "tokens", "parameters", "loss", "theta", *heads)
    body = tuple(
        (
            p.name,
            Cell(number(p.tokens or None), p.tokens),
            Cell(number(p.num_params), p.num_params),
            row_cell(rows[f"{p.name}/loss"]),
            row_cell(rows[f"{p.name}/theta"]),
            *(row_cell(rows[f"{p.name}/k={k}/success"]) for k in study.sizes),
        )
        for p in study.points
    )
    guess = ", ".join(f"{rows[f'k={k}/chance']['value']:.3f} for k = {k}" for k in study.sizes)
    return Section(
        "Loss and competence",
        (
            Text(f"Guessing gets right: {guess}. Tokens are those of the run itself, where known."),
            figures.loss(rows, study.points, study.sizes),
            Table("Checkpoints", columns, body, columns[1:], sortable=True),
        ),
    )


def _combinations(
    rows: Mapping[str, Row], study: CompetenceStudy, along: Sequence[Line], several: Sequence[int]
) -> Section:
    keys = ("success", "product", "residual", "power_residual", "exponent")
    columns = ("checkpoint", "k", "success", "product", "less product", "less X^k", "exponent")
    body = tuple(
        (p.name, str(k), *(row_cell(rows[f"{p.name}/k={k}/{key}"]) for key in keys))
        for p in study.points
        for k in several
    )
    names = [
        f"{line.name}/{key}"
        for line in along
        for k in several
        for key in (
            f"exponent_{k}",
            *(f"slingshot_{k}/tau={tau:g}" for tau in study.settings.taus),
        )
    ]
    blocks: list[Any] = [
        figures.combinations(rows, study.points, several),
        Table("Combinations against single skills", columns, body, columns[1:], sortable=True),
    ]
    if names:
        blocks.append(_noted("Along the series", names, rows))
    return Section("Combinations of skills", tuple(blocks))


def _weakest(rows: Mapping[str, Row], study: CompetenceStudy) -> Section:
    if "weakest/above" not in rows:
        return Section("The weakest skills", ())
    largest = max(k for k in study.sizes if any(f"/k={k}/weakest/" in name for name in rows))
    columns = ("checkpoint", "k", "alpha at least", "error", "exact", "theorem")
    body = tuple(
        (p.name, str(k), f"{alpha:g}", *(row_cell(rows[f"{at}/{key}"]) for key in columns[3:]))
        for p in study.points
        for k in study.sizes
        for alpha in study.settings.alphas
        if f"{(at := f'{p.name}/k={k}/weakest/alpha={alpha:g}')}/exact" in rows
    )
    return Section(
        "The weakest skills",
        (
            figures.weakest(rows, study.points, largest, study.settings.alphas),
            Fold("Numbers", (Table("Weakest skills", columns, body, columns[1:]),)),
        ),
    )


def _emergence(rows: Mapping[str, Row], study: CompetenceStudy, along: Sequence[Line]) -> Section:
    blocks: list[Any] = []
    for line in along:
        blocks.append(figures.emergence(rows, line, study.labelled.skills, study.settings.level))
        names = [f"{line.name}/emergence/{skill}" for skill in study.labelled.skills]
        names += [name for name in rows if name.startswith(f"{line.name}/order/")]
        blocks.append(Fold("Numbers", (_noted(f"Order along {line.name}", names, rows),)))
    return Section("In which order skills come", tuple(blocks))


def _noted(caption: str, names: Sequence[str], rows: Mapping[str, Row]) -> Table:
    body = tuple((name, row_cell(rows[name]), str(rows[name]["note"] or "")) for name in names)
    return Table(caption, ("number", "value", "note"), body, ("value",))


def _words(row: Row) -> str:
    found = row_cell(row)
    return found if isinstance(found, str) else found.text
