"""The page of a growth study: what each operator keeps, saves and forgets."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_dynamics.growth import published_cost
from llm_dynamics.growth.savings import CHARGES
from llm_dynamics.model import size
from llm_dynamics.report import growth_figures, run_section
from llm_dynamics.report.growth_study import GrowthStudy
from llm_dynamics.report.numbers import number
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

QUESTION = (
    "A small model that was trained is made into a larger one by an operator, and trained on. How "
    "much of the function survives, how much compute is saved against training the large model "
    "from scratch, with and without the small model's own, and how much of what the small model "
    "had learned of injected facts is forgotten at the growth and after it? All learning rates are "
    "constant behind their warm-up, so that no loss is read amid a schedule. Every number is a "
    "mean over seeds of the initial parameters with Student's interval, ratios with Fieller's; one "
    "seed has none."
)
_PUBLISHED = (
    "Savings as printed, in FLOPs until the final score from scratch; the source's training is not "
    "charged. A small model can be compared in signs and orders alone."
)
_CHOSEN, _SHOWN = "/probe/chosen/", ("100%/alone/saved", "100%/operator/saved", "100%/all/saved")
# Title of a column, the last words of its row's name, whether it is a share.
_AT_GROWTH = (
    ("loss at growth", "loss_at_growth", False),
    ("KL", "kl", False),
    ("same token", "top1_agreement", True),
    ("copies", "duplicate_units", True),
    ("rate counts", "effective_rate", False),
    ("facts at growth", "facts/at_growth", False),
)
_AFTER = (
    ("loss at the end", "loss", False),
    ("saved", "flops/at_100%/alone/saved", True),
    ("saved, all charged", "flops/at_100%/all/saved", True),
    ("loss at equal compute", "flops/at_100%/all/loss_difference", False),
    ("facts after", "facts/after", False),
)
_TERMS = (
    ("saved", "1 - C_grown / C_scratch in FLOPs until the final loss from scratch, the grown run's "
     "training alone charged"),
    ("saved, all charged", "the same with the source's training and fitting the operator charged"),
    ("loss at equal compute", "loss of the grown run less that from scratch where both, source and "
     "operator charged, have cost as much as the whole run from scratch; below 0, growth is ahead"),
    ("KL", "mean divergence of the next token from the source's on one batch, nats"),
    ("same token", "share of positions whose most likely token stays"),
    ("rate counts", "root mean square change of the logits by a first, small update of Adam, over "
     "the same of the source: so many times a held learning rate counts for the function"),
    ("copies", "share of feed-forward units that are written and read like another: as one unit "
     "they would learn, were it not for noise"),
    ("facts at growth, after", "log-probability of injected facts less that of never-injected ones "
     "with the same templates and answers, less the same in the source before the growth; below 0 "
     "is forgotten; nats per token"),
)  # fmt: skip


def write_report(run_dir: Path, study: GrowthStudy) -> Path:
    """Writes RUN/report.html and RUN/figures/."""
    return write_page(compose(study), run_dir)


def compose(study: GrowthStudy) -> Page:
    """The page as blocks."""
    seeds = f"{number(study.seeds)} seed{'s' * (study.seeds > 1)}"
    return Page(
        title="A small model grown into a large one",
        subtitle=f"{number(study.num_runs)} runs of {seeds}.",
        sections=(
            Section("The question", (Text(QUESTION, "lead"), models_table(study))),
            *(_pair(pair, study) for pair in study.arms),
            Section("Beside the published", (Text(_PUBLISHED, "note"), published_table())),
            Section(
                "All numbers",
                (Fold(f"{len(study.rows)} numbers", (run_section.results_table(
                    "Every number with its definition", study.rows),)),),
            ),
            Section("Definitions", (Terms((*_TERMS, *CHARGES.items())),)),
            Section("How to run it again", (Code(study.command),)),
        ),
    )  # fmt: skip


def markdown(study: GrowthStudy) -> str:
    """The tables as Markdown, to be kept."""
    lines = [f"`{study.command}`", "", *as_markdown(models_table(study))]
    for pair in study.arms:
        lines += ["", f"## {pair}"]
        for table in (saved_table(pair, study), growth_table(pair, study)):
            lines += ["", *as_markdown(table)]
        for table in (probe_table(pair, study), dropped_table(pair, study)):
            lines += ["", *as_markdown(table)] if table.rows else []
    return "\n".join(lines) + "\n"


def models_table(study: GrowthStudy) -> Table:
    """Sizes and steps of all models."""
    rows = []
    for name, model in study.models.items():
        steps = study.steps[name]
        grown, scratch = (steps, None) if name == "small" else steps
        rows.append(
            (
                name,
                Cell(number(size.num_params(model)), size.num_params(model)),
                f"{model.num_layers} layers of width {model.width}, {model.num_heads} heads, "
                f"{model.mlp_width} units",
                Cell(number(grown), grown),
                Cell(number(scratch), scratch),
            )
        )
    columns = ("model", "parameters", "shape", "updates", "updates from scratch")
    caption = (
        "The small model and the large ones; from scratch they are trained for as much compute as "
        "source and grown run together"
    )
    return Table(caption, columns, tuple(rows), ("parameters", *columns[3:]))


def growth_table(pair: str, study: GrowthStudy) -> Table:
    """What every operator does to the model, before any training."""
    return _operators(f"Pair {pair}, at the growth", _AT_GROWTH, pair, study)


def saved_table(pair: str, study: GrowthStudy) -> Table:
    """What the runs of every operator come to."""
    return _operators(f"Pair {pair}, after training on", _AFTER, pair, study)


def _operators(what: str, shown: Sequence, pair: str, study: GrowthStudy) -> Table:
    rows = []
    for variant in study.arms[pair]:
        cells = []
        for _, key, share in shown:
            row = study.by_name.get(f"{pair}/{variant}/{key}")
            cells.append(row_cell(row, 100 if share else 1))
        rows.append((variant, *cells))
    columns = ("operator", *(f"{t}, %" if share else t for t, _, share in shown))
    seeds = f"{study.seeds} seed{'s' * (study.seeds > 1)}"
    caption = f"{what}: means over {seeds} with 95 % intervals"
    return Table(caption, columns, tuple(rows), columns[1:], sortable=True)


def probe_table(pair: str, study: GrowthStudy) -> Table:
    """How well early losses rank the operators."""
    rows = tuple(
        (_what(name, row), row_cell(row))
        for name, row in study.by_name.items()
        if name.startswith(f"{pair}/probe/") and (_CHOSEN not in name or name.endswith(_SHOWN))
    )
    return Table("Whether early losses tell which operator ends best", ("what", "value"), rows)


def _what(name: str, row: Mapping[str, Any]) -> str:
    by_probe = "saved by the operator that the second probe picks: "
    return (by_probe if _CHOSEN in name else "") + row["definition"]


def dropped_table(pair: str, study: GrowthStudy) -> Table:
    """What runs that drop layers or tokens save, spent and as if a kernel skipped them."""
    keys = ("flops/at_100%/alone", "skipped_flops/at_100%/alone", "skipped_flops/at_100%/all")
    rows = []
    for variant in study.arms[pair]:
        if f"{pair}/{variant}/{keys[1]}/saved" in study.by_name:
            found = (study.by_name.get(f"{pair}/{variant}/{key}/saved") for key in keys)
            rows.append((variant, *(row_cell(row, 100) for row in found)))
    columns = ("run", "saved, spent, %", "saved, as if skipped, %", "all charged, as if skipped, %")
    caption = (
        "Runs that drop layers or tokens: what is dropped is computed here, so the second column "
        "is what a kernel that skips would save"
    )
    return Table(caption, columns, tuple(rows), columns[1:])


def published_table() -> Table:
    """What papers print."""
    rows = []
    for figure in published_cost.published().figures:
        rows.append(
            (
                str(figure.method),
                str(figure.target),
                Cell(f"{100 * figure.saved:.1f}", figure.saved),
                str(figure.place),
            )
        )
    columns = ("method", "target", "saved, %", "where")
    return Table("Published savings", columns, tuple(rows), ("saved, %",))


def _pair(pair: str, study: GrowthStudy) -> Section:
    blocks: list[Any] = [
        saved_table(pair, study),
        growth_table(pair, study),
        growth_figures.losses(pair, study),
    ]
    if any(grown.facts for grown in study.arms[pair].values()):
        blocks.append(growth_figures.facts(pair, study))
    for table in (probe_table(pair, study), dropped_table(pair, study)):
        blocks += [table] if table.rows else []
    return Section(f"The pair {pair}", tuple(blocks))
