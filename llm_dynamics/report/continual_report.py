"""The page of a continual study: what an update learned, lost and cost, arm by arm."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_dynamics.continual.measures import DEFINITIONS
from llm_dynamics.report import continual_figures, run_section
from llm_dynamics.report import continual_tables as tables
from llm_dynamics.report.continual_study import ContinualStudy
from llm_dynamics.report.numbers import estimate, number
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
from llm_dynamics.report.rows import as_markdown

QUESTION = (
    "A model that was trained on old data is trained on new data. How much of the old is lost, "
    "how much of the new is learned, and what does it cost, when the learning rate is warmed up "
    "again, kept low or never decayed, and when a share of the old data is read again? Every "
    "number is a mean over seeds of the initial parameters with Student's interval; differences "
    "are taken seed by seed, so what runs of one seed share cancels."
)
_TRUNKS = (
    "Runs that go on from a trunk (infinite, invsqrt, wsd) have a first stage of their own, which "
    "has not decayed: they begin at another loss than the others, see the matrix, and what they "
    "forget and learn is counted from there."
)
_LAWS = (
    "The law of Wang et al. 2025 gives the loss from the learning rates of both stages and the "
    "share of replay. It is asked for the whole second stage of arms that it has not seen: of "
    "another schedule or peak, fitted to no arm of their rates, or of another share of replay, "
    "fitted to no arm of their share. Beside it stands what needs no law: the nearest arm as it "
    "was measured."
)
_PUBLISHED = (
    "One run each, printed to 0.01 and transcribed at second hand. A small model on little text "
    "can be compared in shape alone: whether a little replay removes half of the forgetting or "
    "more, and whether a higher peak adapts more and forgets more."
)
_SPLITS = (
    "All runs read the same rows of the old data in the same order, in parts or at a stretch. "
    "After a part that has not decayed the loss is that of an undecayed model."
)


def write_report(run_dir: Path, study: ContinualStudy) -> Path:
    """Writes RUN/report.html and RUN/figures/."""
    return write_page(compose(study), run_dir)


def compose(study: ContinualStudy) -> Page:
    """The page as blocks."""
    return Page(
        title="New data without losing the old",
        subtitle=(
            f"{number(study.num_runs)} runs of {_seeds(study)}: "
            f"{number(study.steps[0])} steps on the old data, {number(study.steps[1])} on the new."
        ),
        sections=(
            Section("The question", (Text(QUESTION, "lead"), _sources(study))),
            *(_shift(shift, study) for shift in study.arms),
            *_splits(study),
            Section("Beside the published", _published(study)),
            Section("What was read", _read(study)),
            Section(
                "All numbers",
                (Fold(f"{len(study.rows)} numbers", (_all(study.rows),)),),
            ),
            Section("Definitions", (Terms(_definitions(study)),)),
            Section("How to run it again", (Code(study.command),)),
        ),
    )


def _seeds(study: ContinualStudy) -> str:
    counts = {len(arm.runs) for arms in study.arms.values() for arm in arms.values()}
    least = min(counts)
    fewer = f", side arms of {number(least)}" if least < study.seeds else ""
    return f"{number(study.seeds)} seed{'s' * (study.seeds > 1)}{fewer}"


def _shift(shift: str, study: ContinualStudy) -> Section:
    blocks = [tables.main_table(shift, study)]
    if any(arm.before and _trunk(arm) for arm in study.arms[shift].values()):
        blocks.append(Text(_TRUNKS, "note"))
    blocks += [
        tables.matrix_table(shift, study),
        continual_figures.trade(shift, study),
        continual_figures.curves(shift, study),
    ]
    if study.facts.get(shift):
        blocks.append(continual_figures.both(shift, study))
    blocks += [Text(_LAWS), tables.foretold_table(shift, study), tables.laws_table(shift, study)]
    return Section(f"The shift {shift}: {study.sources[shift]}", tuple(blocks))


def _trunk(arm) -> bool:
    return next(iter(arm.before.values())).path.name.startswith("trunk")


def _splits(study: ContinualStudy) -> tuple[Section, ...]:
    if not study.splits:
        return ()
    blocks = (
        Text(_SPLITS),
        splits_table(study),
        continual_figures.splits(study),
        tables.splits_ledger_table(study),
    )
    return (Section(f"No shift: {study.sources['old']} in parts", blocks),)


def splits_table(study: ContinualStudy) -> Table:
    """Losses after every part, by schedule."""
    lines = []
    for variant in study.splits:
        found = {
            row["name"].partition("/")[2].partition("/")[2]: row
            for row in study.rows
            if row["name"].startswith(f"splits/{variant}/")
        }
        lines.append((variant, found))
    names = dict.fromkeys(name for _, found in lines for name in found)
    order = sorted(names, key=lambda name: (not name.startswith("after"), name != "loss", name))
    rows = []
    for variant, found in lines:
        cells = []
        for name in order:
            row = found.get(name)
            shown = " ".join(estimate(row["value"], row["low"], row["high"])) if row else "–"
            cells.append(Cell(shown.strip(), row and row["value"]))
        n = next(iter(found.values()))["n"]
        rows.append((variant, study.split_words[variant], Cell(str(n), n), *cells))
    titles = (
        name.replace("/loss", "").replace("_", " ").replace("loss", "at the end") for name in order
    )
    columns = ("schedule", "what it does", "n", *titles)
    caption = (
        "Loss on held-out old text in nats per token after the parts, means over n seeds with 95 % "
        "intervals"
    )
    return Table(caption, columns, tuple(rows), columns[2:])


def _published(study: ContinualStudy) -> tuple:
    return (tables.expected_table(study), Text(_PUBLISHED, "note"), tables.published_table())


def _read(study: ContinualStudy) -> tuple:
    same = next((arms["same"] for arms in study.arms.values() if "same" in arms), None)
    words = (Text(tables.repeated_words("same", same)),) if same else ()
    return (*words, *(tables.ledger_table(shift, study) for shift in study.arms))


def markdown(study: ContinualStudy) -> str:
    """The tables as Markdown, to be kept."""
    lines = [f"`{study.command}`", ""]
    lines.append(
        f"{number(study.num_runs)} runs of {_seeds(study)}; intervals: Student's t over n seeds, "
        f"95 %. {number(study.steps[0])} steps on the old data, {number(study.steps[1])} on the "
        "new."
    )
    for shift in study.arms:
        lines += ["", f"## {shift}: {study.sources['old']} -> {study.sources[shift]}"]
        for make in (
            tables.main_table,
            tables.matrix_table,
            tables.foretold_table,
            tables.laws_table,
        ):
            lines += ["", *as_markdown(make(shift, study))]
    if study.splits:
        lines += ["", f"## No shift: {study.sources['old']} in parts", "", _SPLITS]
        for table in (splits_table(study), tables.splits_ledger_table(study)):
            lines += ["", *as_markdown(table)]
    lines += ["", "## Beside the published", "", *as_markdown(tables.expected_table(study))]
    lines += ["", "## What was read"]
    for block in _read(study):
        lines += ["", *([block.text] if isinstance(block, Text) else as_markdown(block))]
    return "\n".join(lines) + "\n"


def _sources(study: ContinualStudy) -> Table:
    rows = tuple((name, f"`{source}`") for name, source in study.sources.items())
    return Table("The data", ("name", "source"), rows)


def _all(rows: Sequence[Mapping[str, Any]]) -> Table:
    return run_section.results_table("Every number with its definition", rows)


def _definitions(study: ContinualStudy) -> tuple[tuple[str, str], ...]:
    return (
        *((name.replace("_", " "), words) for name, words in DEFINITIONS.items()),
        *study.words.items(),
    )
