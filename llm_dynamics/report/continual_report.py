"""The page of a continual study: what an update learned, lost and cost, arm by arm."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm_dynamics.continual.measures import DEFINITIONS
from llm_dynamics.continual.published import published
from llm_dynamics.continual.stage_log import Arm
from llm_dynamics.report import continual_figures, run_section
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

QUESTION = (
    "A model that was trained on old data is trained on new data. How much of the old is lost, "
    "how much of the new is learned, and what does it cost, when the learning rate is warmed up "
    "again, kept low or never decayed, and when a share of the old data is read again? Every "
    "number is a mean over seeds of the initial parameters with Student's interval; differences "
    "are taken seed by seed, so what runs of one seed share cancels."
)
_LAWS = (
    "The law of Wang et al. 2025 gives the loss from the learning rates of both stages and the "
    "share of replay. It was fitted to all runs but one, and then asked for the whole second stage "
    "of that one."
)
_PUBLISHED = (
    "One run each, printed to 0.01 and transcribed at second hand. A small model on little text "
    "can be compared in shape alone: whether a little replay removes half of the forgetting or "
    "more, and whether a higher peak adapts more and forgets more."
)
# Title of a column, the last words of its row's name.
_COLUMNS = (
    ("old", "{old}/loss"),
    ("new", "{new}/loss"),
    ("average", "average"),
    ("forgetting", "{old}/forgetting"),
    ("removed by replay", "{old}/replay_removes"),
    ("transient", "{old}/transient_peak"),
    ("adaptation", "adaptation"),
    ("average less union's", "gap_total"),
    ("facts", "facts/change"),
)


@dataclass(frozen=True)
class Kept:
    """Injected facts less never-injected ones, nats/token: seed -> (steps, values)."""

    before: dict[int, tuple[np.ndarray, np.ndarray]]  # in the first stage
    after: dict[int, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class ContinualStudy:
    """What the page is drawn from.

    Attributes:
      rows: all results, named SHIFT/VARIANT/QUANTITY.
      arms: shift -> variant -> what its runs measured; the data sets of an arm are old and new.
      facts: shift -> variant -> what is kept of the facts.
      words: of schedules and baselines.
      seeds: how many.
      steps: of the first and of the second stage.
      sources: of the old data and of every shift.
      num_runs: of the whole study.
      command: that made it.
    """

    rows: Sequence[Mapping[str, Any]]
    arms: Mapping[str, Mapping[str, Arm]]
    facts: Mapping[str, Mapping[str, Kept]]
    words: Mapping[str, str]
    seeds: int
    steps: tuple[int, int]
    sources: Mapping[str, str]
    num_runs: int
    command: str


def write_report(run_dir: Path, study: ContinualStudy) -> Path:
    """Writes RUN/report.html and RUN/figures/."""
    return write_page(compose(study), run_dir)


def compose(study: ContinualStudy) -> Page:
    """The page as blocks."""
    shifts = tuple(_shift(shift, study) for shift in study.arms)
    return Page(
        title="New data without losing the old",
        subtitle=(
            f"{number(study.num_runs)} runs of {number(study.seeds)} seeds: "
            f"{number(study.steps[0])} steps on the old data, {number(study.steps[1])} on the new."
        ),
        sections=(
            Section("The question", (Text(QUESTION, "lead"), _sources(study))),
            *shifts,
            Section("Beside the published", (Text(_PUBLISHED, "note"), _published())),
            Section("What was read", tuple(_ledger(shift, study) for shift in study.arms)),
            Section(
                "All numbers",
                (Fold(f"{len(study.rows)} numbers", (_all(study.rows),)),),
            ),
            Section("Definitions", (Terms(_definitions(study)),)),
            Section("How to run it again", (Code(study.command),)),
        ),
    )


def _shift(shift: str, study: ContinualStudy) -> Section:
    blocks = [
        table(shift, study),
        continual_figures.trade(shift, study),
        continual_figures.curves(shift, study),
    ]
    if study.facts.get(shift):
        blocks.append(continual_figures.facts(shift, study))
    blocks += [Text(_LAWS), _laws(shift, study)]
    return Section(f"The shift {shift}: {study.sources[shift]}", tuple(blocks))


def table(shift: str, study: ContinualStudy) -> Table:
    """One line an arm, in the layout of Ibrahim et al. 2024, Table 2, with intervals."""
    lines = []
    for variant in study.arms[shift]:
        cells = []
        for _, row in cells_of(shift, variant, study):
            if row is None:
                cells.append("–")
                continue
            value, interval = estimate(row["value"], row["low"], row["high"])
            cells.append(Cell(f"{value} {interval}".strip(), row["value"]))
        lines.append((variant, *cells))
    kept = [i for i in range(len(_COLUMNS)) if any(line[i + 1] != "–" for line in lines)]
    columns = ("run", *(_COLUMNS[i][0] for i in kept))
    rows = tuple((line[0], *(line[i + 1] for i in kept)) for line in lines)
    caption = (
        "Losses in nats per token of held-out text after the second stage, means over "
        f"{number(study.seeds)} seeds with 95 % intervals"
    )
    return Table(caption, columns, rows, columns[1:], sortable=True)


def _laws(shift: str, study: ContinualStudy) -> Table:
    """Errors of the law on curves that it has not seen."""
    rows = []
    for row in study.rows:
        path = row["name"].split("/")
        if path[0] == shift and path[-1] == "law_error":
            value, interval = estimate(row["value"], row["low"], row["high"])
            shown = f"{value} {interval}".strip() if row["value"] is not None else row["note"]
            rows.append((path[1], path[2], Cell(shown, row["value"])))
    columns = ("run left out", "data", "mean relative error")
    return Table("The law of the curve on unseen second stages", columns, tuple(rows), columns[2:])


def _published() -> Table:
    """Forgetting by share of replay in Ibrahim et al. 2024, Table 2."""
    known, rows = published(), []
    base = known.base("405M")
    for new_set in ("SlimPajama", "German"):
        sweep = [
            row
            for row in known.losses
            if (row.table, row.new_set, row.run) == ("2", new_set, "re-warmed")
        ]
        without = next(row for row in sweep if row.share == 0).old - base.old
        for row in sorted(sweep, key=lambda row: row.share):
            forgot = row.old - base.old
            rows.append(
                (
                    f"{new_set}, {row.share:.3g} replayed",
                    *(Cell(f"{x:.2f}", x) for x in (row.old, row.new, forgot)),
                    Cell("–" if row.share == 0 else f"{1 - forgot / without:.2f}", row.share),
                )
            )
    columns = ("run", "old", "new", "forgetting", "removed by replay")
    return Table(f"{known.source}, Table 2: 405M parameters", columns, tuple(rows), columns[1:])


def cells_of(shift: str, variant: str, study: ContinualStudy):
    """(column, row of the results or None) of one arm."""
    by_name = {row["name"]: row for row in study.rows}
    old, new = study.arms[shift][variant].datasets
    return [
        (title, by_name.get(f"{shift}/{variant}/{path.format(old=old, new=new)}"))
        for title, path in _COLUMNS
    ]


def markdown(study: ContinualStudy) -> str:
    """The tables as Markdown, to be kept."""
    lines = [f"`{study.command}`"]
    for shift, arms in study.arms.items():
        lines += ["", f"## {shift}: {study.sources['old']} -> {study.sources[shift]}", ""]
        lines.append("| run | " + " | ".join(title for title, _ in _COLUMNS) + " |")
        lines.append("|---|" + "---:|" * len(_COLUMNS))
        for variant in arms:
            cells = []
            for _, row in cells_of(shift, variant, study):
                shown = row and " ".join(estimate(row["value"], row["low"], row["high"])).strip()
                cells.append(shown or "–")
            lines.append(f"| {variant} | {' | '.join(cells)} |")
    lines += ["", f"n = {study.seeds} seeds; intervals: Student's t over seeds, 95 %."]
    return "\n".join(lines) + "\n"


def _sources(study: ContinualStudy) -> Table:
    rows = tuple((name, f"`{source}`") for name, source in study.sources.items())
    return Table("The data", ("name", "source"), rows)


def _ledger(shift: str, study: ContinualStudy) -> Table:
    """Tokens of the second stage by source: new, replayed, repeated."""
    rows = []
    for variant, arm in study.arms[shift].items():
        for source, counts in next(iter(arm.runs.values())).ledger.items():
            tokens = [counts[key] for key in ("new", "replayed", "repeated")]
            rows.append((variant, source, *(Cell(number(count), count) for count in tokens)))
    columns = ("run", "source", "new", "replayed", "repeated")
    caption = f"Tokens read after the first stage, shift {shift}; repeated: met before in its stage"
    return Table(caption, columns, tuple(rows), columns[2:])


def _all(rows: Sequence[Mapping[str, Any]]) -> Table:
    return run_section.results_table("Every number with its definition", rows)


def _definitions(study: ContinualStudy) -> tuple[tuple[str, str], ...]:
    return (
        *((name.replace("_", " "), words) for name, words in DEFINITIONS.items()),
        *study.words.items(),
    )
