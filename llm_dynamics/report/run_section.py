"""What was run, and how to run it again: the sections that every study's page shares."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from llm_dynamics.report.numbers import estimate, missing, number
from llm_dynamics.report.page import Cell, Code, Fold, Section, Table, Text
from llm_dynamics.report.run import Run
from llm_dynamics.spec import flatten

_IDENTITY = ("fingerprint", "tokenizer")


def spec_fold(run: Run) -> Fold:
    """Every key of the resolved spec with its value."""
    rows = tuple((f"`{key}`", _shown(value)) for key, value in flatten(run.spec))
    return Fold(
        f"The whole spec: {len(rows)} settings",
        (Table("Every setting of the run, resolved", ("setting", "value"), rows),),
    )


def settings_table(caption: str, rows: Sequence[tuple[str, Any]]) -> Table:
    """Two columns: what, and its value; rows without a value are left out."""
    kept = tuple((what, _shown(value)) for what, value in rows if not missing(value))
    return Table(caption, ("what", "value"), kept)


def sources_table(sources: Sequence[Mapping[str, Any]], length: int | None = None) -> Table:
    """Every data source of `Plan.describe`: its size, what was read of it, licence, attribution."""
    columns = (
        "source",
        "share",
        "documents",
        "tokens",
        "tokens read",
        "passes",
        "held out",
        "licence and attribution",
    )
    rows = []
    for source in sources:
        share, passes = source.get("share"), source.get("epochs")
        read = source.get("rows_read")
        read = None if read is None or length is None else read * length
        rights = (source.get("licence") or "licence not stated", source.get("attribution"))
        rows.append(
            (
                str(source.get("name", "")),
                Cell("–" if missing(share) else f"{100 * share:.3g} %", share),
                *(Cell(number(source.get(k)), source.get(k)) for k in ("documents", "tokens")),
                Cell(number(read), read),
                Cell(number(passes), passes),
                Cell(f"{number(source.get('validation_documents'))} documents"),
                ". ".join(str(part).rstrip(".") for part in rights if part),
            )
        )
    return Table("Training text", columns, tuple(rows), columns[1:7])


def versions_table(run: Run) -> Table:
    rows = tuple((name, str(version)) for name, version in run.versions.items())
    return Table("Versions", ("package", "version"), rows)


def results_table(caption: str, results: Sequence[Mapping[str, Any]]) -> Table:
    """All results: exact values for sorting, rounded ones for reading."""
    columns = ("name", "value", "95 % interval", "unit", "n", "definition")
    rows = []
    for row in results:
        value, interval = estimate(row["value"], row["low"], row["high"])
        rows.append(
            (
                Cell(f"`{row['name']}`", row["name"]),
                Cell(value, row["value"]),
                Cell(interval or "–", row["low"]),
                str(row["unit"]),
                Cell(number(row["n"]), row["n"]),
                f"{row['definition']}. {row.get('note') or ''}".strip(". ") + ".",
            )
        )
    return Table(
        caption, columns, tuple(rows), numeric=("value", "95 % interval", "n"), sortable=True
    )


def in_new_folder(command: str) -> str:
    """The command with `--workdir=NEW_FOLDER` in place of its own run folder, if it names one."""
    words = iter(shlex.split(command))
    kept = []
    for word in words:
        if word in ("--workdir", "-workdir"):
            next(words, None)  # its value is a word of its own
        elif not word.startswith(("--workdir=", "-workdir=")):
            kept.append(word)
    return shlex.join([*kept, "--workdir=NEW_FOLDER"])


def again_section(run: Run) -> Section:
    """The command that repeats the run, and what identifies it."""
    command = run.data.get("command")
    if command:
        how = (
            Text(
                "The command below repeats the run in a new folder. On the CPU of the same machine "
                "with the same versions the numbers come out the same, bit for bit; on a GPU only "
                "with deterministic operations (`XLA_FLAGS=--xla_gpu_deterministic_ops=true`). "
                "Given this run's own folder it resumes, or does nothing when the run is complete."
            ),
            Code(in_new_folder(command)),
        )
    else:
        how = (Text("The run did not record its command; its settings are below.", "note"),)
    return Section(
        "How to run it again",
        (
            *how,
            spec_fold(run),
            Fold("Versions and data fingerprints", (versions_table(run), _fingerprints(run))),
        ),
    )


def _fingerprints(run: Run) -> Table:
    rows = [(f"`{key}`", str(run.data[key])) for key in _IDENTITY if run.data.get(key)]
    for source in run.data.get("sources", ()):
        for key, value in flatten(source.get("origin", {}), source["name"]):
            rows.append((f"`{key}`", _shown(value)))
    if run.parent:
        rows.append(("starts from", f"step {run.parent['step']} of {run.parent['run']}"))
    return Table("What identifies the data", ("what", "value"), tuple(rows))


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, int):
        return number(value)
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return str(value) if str(value) else "(empty)"
