"""The page of a study of skills: theory, simulation, trained models, parities."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm_dynamics.report import run_section, skills_figures, skills_parity, skills_theory
from llm_dynamics.report.numbers import number, verdict
from llm_dynamics.report.page import (
    Cell,
    Code,
    Fold,
    Page,
    Section,
    Table,
    Terms,
    Text,
    write_page,
)
from llm_dynamics.report.rows import as_markdown, row_cell
from llm_dynamics.report.skills_study import SkillsStudy

QUESTION = (
    "A text needs several skills at once. If a model fails a share theta of the texts, how badly "
    "can it do on its weakest skills, and on tuples of skills, seen together or not? The theory of "
    "Arora & Goyal (2023) answers for the worst case. Here its bounds are drawn, adversaries try "
    "to reach them on simulated skill graphs, and small decoders are trained on languages whose "
    "skills and whose best possible loss are known exactly, to see where trained models lie."
)
_HYPOTHESES = {
    "h1": "No measured point lies above its bound beyond a 99.9 % interval.",
    "h2": "Slingshot: tuples of k' come at an excess of 1/k', within 0.9 to 1.25, at every size.",
    "h3": "Half the excess, reached by a wider model, doubles the size of the tuples that are had.",
    "h4": "Skills in a row do not follow the excess over their number: they come later.",
    "h5": "The more pairs training shows, the smaller the gap on pairs it never shows.",
    "h6": "Skills emerge in the order of their frequency, after updates that go as 1 / frequency.",
}
_TERMS = (
    ("theta", "share of failed texts: any answer of the text is wrong"),
    ("excess", "divergence of the model's answers from the best possible prediction, summed over "
     "the answers of a text, nats; without noise the loss itself"),
    ("competence c_j", "share of j-tuples of answers of a text that are all right"),
    ("weakest skills of measure alpha", "those whose texts fail most often, together met as often "
     "as alpha of all skills; named on one half of the texts, measured on the other"),
    ("exact", "the largest error that any way of failing theta of the texts can give skills of "
     "measure alpha, for many texts"),
    ("adversariality", "(error - theta) / (exact - theta): 0 if failures have nothing to do with "
     "skills, 1 if they are the worst possible"),
    ("slingshot", "k' times the excess at which competence on k'-tuples reaches a level, over that "
     "at which single skills do; 1 by the theory"),
    ("residual", "competence on tuples less the product of the single skills' accuracies"),
    ("matched gap", "success on seen less on held-out pairs, each less what the accuracies of its "
     "skills predict: held-out texts have other frequencies of skills"),
)  # fmt: skip
_LANGUAGES = (
    ("parallel", "skills and inputs are named, all answers follow: y_i = pi_i(x_i)"),
    ("serial, pairs", "skills are named and applied one after another, nothing written between"),
    ("latent", "skills are not named but shown by pairs of input and answer, with noise"),
    ("sum", "as parallel, and the one answer is the sum of all modulo the symbols"),
)


def write_report(run_dir: Path, study: SkillsStudy) -> Path:
    """Writes RUN/report.html and RUN/figures/."""
    return write_page(compose(study), run_dir)


def compose(study: SkillsStudy) -> Page:
    """The page as blocks."""
    runs = sum(len(arm) for arm in study.arms.values())
    sections = [Section("The question", (Text(QUESTION, "lead"),))]
    if study.arms:
        sections.append(Section("What was asked, what was found", (hypotheses_table(study),)))
    if study.theory:
        figures = (
            skills_theory.performance_curves(),
            skills_theory.error_bounds(),
            skills_theory.tuples_seen(),
            skills_theory.transitions([row for row in study.rows if "panel" in row]),
        )
        sections.append(Section("The theory", figures))
    if study.simulation:
        config = study.simulation
        about = (
            f"{number(config.pieces)} pieces of {config.k} skills out of {number(config.skills)}."
        )
        drawn = skills_theory.simulated(study.rows, about)
        sections.append(Section("Simulated skill graphs", (drawn,) if drawn else ()))
    if study.arms:
        blocks: list[Any] = [Terms(_LANGUAGES), arms_table(study)]
        blocks += skills_figures.trained_figures(study)
        table = residual_table(study)
        blocks.append(Fold(f"How failures fall on skills: {len(table.rows)} numbers", (table,)))
        sections.append(Section("Trained models", tuple(b for b in blocks if b)))
    if study.parity:
        figures = tuple(skills_parity.parity_figures(study.parity))
        sections.append(Section("Sparse parities", figures))
    table = run_section.results_table("Every number with its definition", study.rows)
    sections += [
        Section("All numbers", (Fold(f"{len(study.rows)} numbers", (table,)),)),
        Section("Definitions", (Terms(_TERMS),)),
        Section("How to run it again", (Code(study.command),)),
    ]
    trained = f"{number(runs)} trained runs. " if runs else ""
    return Page(
        title="When skills, and combinations of skills, emerge",
        subtitle=f"{trained}Intervals are Student's over seeds, which for shares near 0 or 1 may "
        "reach beyond them.",
        sections=tuple(sections),
    )


def markdown(study: SkillsStudy) -> str:
    """The tables as Markdown, to be kept."""
    lines = [f"`{study.command}`"]
    if study.arms:
        for table in (hypotheses_table(study), arms_table(study), residual_table(study)):
            lines += ["", *as_markdown(table)]
    for prefix in ("simulation/", "parity/"):
        rows = [row for row in study.rows if row["name"].startswith(prefix)]
        if rows:
            table = run_section.results_table(prefix.strip("/").capitalize(), rows)
            lines += ["", *as_markdown(table)]
    return "\n".join(lines) + "\n"


def hypotheses_table(study: SkillsStudy) -> Table:
    """Every number of a hypothesis with what it shows."""
    rows = []
    for key, words in _HYPOTHESES.items():
        found = [row for row in study.rows if row["name"].startswith(f"{key}/")]
        if not found:
            rows.append((key.upper(), words, "–", Cell("–"), "not run here"))
        for i, row in enumerate(found):
            rows.append(
                (
                    key.upper() if not i else "",
                    words if not i else "",
                    row["name"].partition("/")[2],
                    row_cell(row),
                    str(row["note"] or _verdict(row)),
                )
            )
    columns = ("", "hypothesis", "number", "value", "what it shows")
    caption = "Hypotheses of trained models: values with 95 % intervals over seeds"
    return Table(caption, columns, tuple(rows), ("value",))


def arms_table(study: SkillsStudy) -> Table:
    """How good every arm is in the end."""
    keys = ("parameters", "excess", "theta", "c_1", "c_2", "c_4", "gap", "matched_gap")
    rows = []
    for name, arm in study.arms.items():
        config = next(iter(arm.values())).config
        for which in config.sets():
            size = next(iter(arm.values())).num_params
            cells = [Cell(number(size), size)]
            for key in keys[1:]:
                cells.append(row_cell(study.by_name.get(f"trained/{name}/{which}/{key}")))
            rows.append((name, which.replace("/held_out", ", held out"), *cells))
    columns = ("arm", "texts", "parameters", "excess", "theta", *keys[3:6], "gap", "matched gap")
    caption = (
        "Trained models at the end: excess in nats per text, shares of failed texts and of right "
        "tuples, and gaps on texts with held-out pairs"
    )
    return Table(caption, columns, tuple(rows), columns[2:], sortable=True)


def residual_table(study: SkillsStudy) -> Table:
    """How far from worst, and from independent, failures are."""
    shown = ("/adversariality/", "/control/", "/residual_", "/jump_")
    names = [row["name"] for row in study.rows if row["name"].startswith("trained/")]
    names = [name for name in names if any(key in name for key in shown)]
    rows = tuple(
        (
            name.removeprefix("trained/"),
            row_cell(study.by_name[name]),
            Cell(number(study.by_name[name]["n"]), study.by_name[name]["n"]),
            f"{study.by_name[name]['definition']}. {study.by_name[name]['note']}".strip(". "),
        )
        for name in names
    )
    caption = "How trained failures fall on skills, and on tuples of them"
    columns = ("number", "value", "seeds", "definition")
    return Table(caption, columns, rows, ("value", "seeds"), sortable=True)


def _verdict(row: Mapping[str, Any]) -> str:
    # A success is no difference, so 0 means nothing.
    return "" if row["name"].endswith("/success") else verdict(row["low"], row["high"])
