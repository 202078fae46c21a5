"""Tables of a continual study; every one is on the page and in the Markdown that is kept."""

from collections.abc import Mapping

from llm_dynamics.continual.expected import verdict_of
from llm_dynamics.continual.published import published
from llm_dynamics.continual.stage_log import Arm, StageLog
from llm_dynamics.report.continual_study import ContinualStudy
from llm_dynamics.report.numbers import number
from llm_dynamics.report.page import Cell, Table
from llm_dynamics.report.rows import row_cell

# Title of a column, the last words of its row's name.
_COLUMNS = (
    ("old", "{old}/loss"),
    ("new", "{new}/loss"),
    ("average", "average"),
    ("forgetting", "{old}/forgetting"),
    ("removed by replay", "{old}/replay_removes"),
    ("transient", "{old}/transient_peak"),
    ("adaptation", "adaptation"),
    ("less union, update's cost", "gap_update"),
    ("less union, total cost", "gap_total"),
    ("facts", "facts/change"),
)
_MATRIX = (
    ("after old: old", "after_{old}/{old}/loss"),
    ("after old: new", "after_{old}/{new}/loss"),
    ("after new: old", "{old}/loss"),
    ("after new: new", "{new}/loss"),
)
_KINDS = ("new", "replayed", "repeated")


def main_table(shift: str, study: ContinualStudy) -> Table:
    """One line an arm, in the layout of Ibrahim et al. 2024, Table 2, with intervals."""
    caption = (
        f"Shift {shift}: losses in nats per token of held-out text after the second stage, means "
        "over n seeds with 95 % intervals; old: the first stage alone"
    )
    return _arms_table(caption, shift, study, _COLUMNS)


def matrix_table(shift: str, study: ContinualStudy) -> Table:
    """The loss on both data sets after both stages."""
    caption = (
        f"Shift {shift}: the loss matrix, stage by data set. Runs from fresh parameters have no "
        "earlier stage"
    )
    return _arms_table(caption, shift, study, _MATRIX)


def _arms_table(caption, shift, study, wanted) -> Table:
    by_name, lines = study.by_name, []
    for variant, arm in study.arms[shift].items():
        old, new = arm.datasets
        found = [
            by_name.get(f"{shift}/{variant}/{path.format(old=old, new=new)}") for _, path in wanted
        ]
        if any(found):
            n = max(row["n"] for row in found if row)
            lines.append((variant, Cell(str(n), n), *map(row_cell, found)))
    kept = [i for i in range(len(wanted)) if any(line[i + 2] != "–" for line in lines)]
    columns = ("run", "n", *(wanted[i][0] for i in kept))
    rows = tuple((*line[:2], *(line[i + 2] for i in kept)) for line in lines)
    return Table(caption, columns, rows, columns[1:], sortable=True)


def expected_table(study: ContinualStudy) -> Table:
    """What the published shape says, what was measured, and whether it is shown."""
    rows = []
    for row in study.rows:
        path = row["name"].split("/")
        if path[1:2] == ["expected"]:
            shown = row["definition"].partition("; expected: ")
            rows.append(
                (
                    path[0],
                    path[2].replace("_", " "),
                    shown[2],
                    row_cell(row),
                    Cell(str(row["n"]), row["n"]),
                    verdict_of(row),
                )
            )
    columns = ("shift", "expectation", "range", "measured", "n", "verdict")
    caption = (
        "What the paper leads one to expect, each by itself: shown where the whole 95 % interval "
        "over seeds lies in the range, the contrary where none of it does"
    )
    return Table(caption, columns, tuple(rows), columns[3:5])


# Of the rows KEY_error -> a column.
_FORETOLD = {
    "law": "the law",
    "nearest": "the nearest arm as it was",
    "anchored": "that arm, changed by the law",
}


def foretold_table(shift: str, study: ContinualStudy) -> Table:
    """Mean errors on second stages that were held out, by the law and by what needs none."""
    known, rows = {row["name"]: row for row in study.rows}, []
    for data in ("old", shift):
        for kind in ("schedules", "shares"):
            found = [known.get(f"{shift}/{key}_error/{data}/{kind}") for key in _FORETOLD]
            if found[0]:
                n = Cell(str(found[0]["n"]), found[0]["n"])
                rows.append((data, f"other {kind}", n, *(row_cell(row, 100) for row in found)))
    if row := known.get(f"{shift}/critical_share"):
        words = "share of new data that keeps the old loss"
        rows.append(("old", words, Cell(str(row["n"]), row["n"]), row_cell(row, 100), "", ""))
    columns = ("data", "held out", "n", *(f"{words}, %" for words in _FORETOLD.values()))
    caption = (
        f"Shift {shift}: mean relative error along second stages that were held out, means over n "
        "arms with intervals over them; below, the largest share of new data after which the old "
        "loss is at most 3 % up, over n seeds"
    )
    return Table(caption, columns, tuple(rows), columns[2:])


def laws_table(shift: str, study: ContinualStudy) -> Table:
    """Errors of the law on every curve that it has not seen."""
    rows = []
    for row in study.rows:
        path = row["name"].split("/")
        if path[0] == shift and path[-1] == "law_error":
            cell = row_cell(row) if row["value"] is not None else Cell(row["note"], None)
            rows.append((path[1], path[2], cell))
    columns = ("run left out", "data", "mean relative error")
    caption = f"Shift {shift}: the law of the curve on unseen second stages"
    return Table(caption, columns, tuple(rows), columns[2:])


def published_table() -> Table:
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


# ---- tokens --------------------------------------------------------------------------------------


def ledger_table(shift: str, study: ContinualStudy) -> Table:
    """Tokens of every stage by source: new, replayed, repeated; first stages once."""
    stages: dict[str, Mapping[int, StageLog]] = {}
    for arm in study.arms[shift].values():
        if arm.before:
            first = next(iter(arm.before.values())).path.name.rpartition("-seed")[0]
            stages.setdefault(f"{first}, first stage", arm.before)
    for variant, arm in study.arms[shift].items():
        if f"{variant}, first stage" not in stages:
            stages[variant] = arm.runs
    return _ledger_table(f"Shift {shift}", stages)


def splits_ledger_table(study: ContinualStudy) -> Table:
    """Tokens of every part without a shift."""
    stages = {}
    for variant, found in study.splits.items():
        parts = len(next(iter(found.values())))
        for k in range(parts):
            name = variant if parts == 1 else f"{variant}, part {k + 1}"
            stages[name] = {seed: logs[k] for seed, logs in found.items()}
    return _ledger_table("No shift", stages)


def _ledger_table(what: str, stages: Mapping[str, Mapping[int, StageLog]]) -> Table:
    rows, alike = [], True
    for name, runs in stages.items():
        first = next(iter(runs.values()))
        alike = alike and all(log.ledger == first.ledger for log in runs.values())
        for source, counts in first.ledger.items():
            tokens = [counts[kind] for kind in _KINDS]
            cells = (Cell(number(count), count) for count in (*tokens, sum(tokens)))
            rows.append((name, source, *cells))
    columns = ("run", "source", *_KINDS, "all")
    seeds = "every seed reads the same" if alike else "of the first seed; others read otherwise"
    caption = (
        f"{what}: tokens read, {seeds}. New: for the first time by these parameters; replayed: on "
        "purpose, for the first time again; repeated: all else"
    )
    return Table(caption, columns, tuple(rows), columns[2:])


def repeated_words(variant: str, arm: Arm) -> str:
    """How much of what an arm read it had read before without its being replay."""
    ledger = next(iter(arm.runs.values())).ledger
    total = sum(counts[kind] for counts in ledger.values() for kind in _KINDS)
    again = sum(counts["repeated"] for counts in ledger.values())
    share = f"{again / total:.1%}" if total else "nothing"
    return (
        f"`{variant}` read {number(total)} tokens, of which {number(again)} ({share}) had been "
        "read before."
    )


# ---- as text -------------------------------------------------------------------------------------
