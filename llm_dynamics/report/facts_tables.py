"""The tables of a facts page: doses, fitted decays, example facts."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, get_args

from llm_dynamics.facts.decay_models import LINE
from llm_dynamics.facts.facts import DEPTHS, Fact
from llm_dynamics.facts.rows import NO_CONTROL
from llm_dynamics.facts.threshold import Status
from llm_dynamics.report import facts_words
from llm_dynamics.report.numbers import estimate, number
from llm_dynamics.report.page import Cell, Fold, Quote, Section, Table, Text
from llm_dynamics.results import verdict

_DOSES = (
    ("encounters", "texts"),
    ("tokens", "tokens"),
    ("token_share", "% of tokens"),
    ("rows", "rows"),
    ("row_share", "% of rows"),
)
_FORMS = {"published": ("as measured", "raw"), "subtracted": ("minus control", "difference")}


def doses(study: Any, given: Mapping[str, Mapping[str, Any]]) -> Table:
    """What every arm was given over the whole run.

    Args:
      study: a FactsStudy.
      given: arm -> its dose, as in `Plan.describe`.
    """
    columns = ("arm", "treatment", "facts", "encounters", *(c for _, c in _DOSES), "updates")
    rows = []
    for arm in _arms(study):
        facts = sum(a == arm for a in study.arms.values())
        dose = given.get(arm, {})
        times = [i.step for i in study.injections if i.labels["arm"] == arm]
        each = len(times) / facts if facts else 0
        rows.append(
            (
                arm,
                study.treatments.get(arm, ""),
                Cell(number(facts), facts),
                Cell(number(each), each),
                *(_dose_cell(dose, key) for key, _ in _DOSES),
                _span(times),
            )
        )
    caption = "Dose of every arm over the whole run (encounters: of each fact, on average)"
    return Table(caption, columns, tuple(rows), columns[2:])


def decays(
    results: Sequence[Mapping[str, Any]],
    arms: Sequence[str],
    unclear: Collection[tuple[str, str, str]] = (),
) -> Table:
    """The fitted lines in one table, raw and control-subtracted."""
    by_name = {row["name"]: row for row in results}
    columns = (
        "arm",
        "depth",
        "form",
        "a",
        "95 % interval",
        "R² of the line",
        "zero at",
        "which is",
    )
    rows = []
    for row in results:
        parts = row["name"].split("/")
        if parts[2:3] != ["decay"] or parts[-1] != "a":
            continue
        arm, depth, _, form, _ = parts
        stem = "/".join(parts[:-1])
        name, kind = _FORMS.get(form, (form, ""))
        r2 = by_name.get(f"{stem}/r2", {}).get("value")
        value, interval = estimate(row["value"], row["low"], row["high"])
        if (arm, depth, kind) in unclear:
            value, interval, r2 = "–", "gain may be zero", None
        crossing = by_name.get(f"{stem}/x_intercept_tokens", {})
        reach = [crossing.get(key) for key in ("value", "low", "high")]
        rows.append(
            (
                arm,
                depth,
                name,
                Cell(value, row["value"]),
                Cell(interval or "–", row["low"]),
                Cell(number(r2, 2), r2),
                Cell("–" if value == "–" else " ".join(estimate(*reach)), reach[0]),
                "–" if value == "–" else _status(crossing.get("note", "")),
            )
        )
    rows.sort(key=lambda cells: arms.index(cells[0]) if cells[0] in arms else len(arms))
    caption = (
        "Fitted decay: a is the share of the gain lost as time grows tenfold; the line reaches "
        "zero at this log10 of tokens"
    )
    return Table(caption, columns, tuple(rows), columns[3:-1], sortable=True)


def forms(results: Sequence[Mapping[str, Any]], arms: Sequence[str]) -> tuple[Text | Table, ...]:
    """How well each form of forgetting predicts later times, or why that cannot be asked.

    Nothing for results without such rows.
    """
    cells: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    against: dict[tuple[str, str, str], Mapping[str, Any]] = {}
    for row in results:
        parts = row["name"].split("/")
        if parts[2:3] != ["forgetting"]:
            continue
        if parts[4] == "heldout_error":
            cells.setdefault((parts[0], parts[1]), {})[parts[3]] = row
        else:
            against[parts[0], parts[1], parts[3]] = row
    if not cells:
        return ()
    names = list(dict.fromkeys(form for found in cells.values() for form in found))
    rows = []
    for (arm, depth), found in cells.items():
        if all(row["value"] is None for row in found.values()):
            continue
        shown = []
        for form in names:
            value = found[form]["value"]
            seen = verdict(dict(against[arm, depth, form])) if form != LINE else ""
            said = {"below": " better", "above": " worse"}.get(seen, "")
            shown.append(Cell(f"{number(value, 2)}{said}", value))
        rows.append((arm, depth, *shown))
    if not rows:
        notes = " ".join(row["note"] for found in cells.values() for row in found.values())
        return (Text(f"{facts_words.NO_FORMS} {_why_no_forms(notes)}.", "note"),)
    rows.sort(key=lambda cells: arms.index(cells[0]) if cells[0] in arms else len(arms))
    columns = ("arm", "depth", *(facts_words.FORMS.get(form, form) for form in names))
    table = Table(facts_words.FORMS_CAPTION, columns, tuple(rows), columns[2:], sortable=True)
    return Text(facts_words.HELD_OUT), table


def _why_no_forms(notes: str) -> str:
    if NO_CONTROL in notes:
        return NO_CONTROL
    if "steps" in notes.replace("between recorded steps", ""):
        return "too few steps were recorded after the last encounter"
    return "no gain beyond the control is shown to be positive"


def _status(note: str) -> str:
    """The status of a threshold, from its note, in words."""
    first = {part.partition(":")[0].partition(" ")[0] for part in note.split("; ")}
    # What may never be reached is also extrapolated.
    found = [status for status in reversed(get_args(Status)) if status in first]
    return facts_words.STATUS[found[0]] if found else "–"


def examples(study: Any) -> Section:
    """Facts of every arm with the wordings that were shown and the probes that ask for them."""
    said = f"Quoted from: {study.source}." if study.source else facts_words.GENERATED
    folds = [
        _example(fact, arm, study)
        for arm in _arms(study)
        for fact in [f for f in study.facts if study.arms.get(f.name) == arm][: study.examples]
    ]
    return Section("Example facts", (Text(said), *folds))


def _example(fact: Fact, arm: str, study: Any) -> Fold:
    times: dict[str, list[int]] = {}
    for injection in study.injections:
        if injection.labels["fact"] == fact.name:
            times.setdefault(injection.text, []).append(injection.step)
    source = f" · {study.source}" if study.source else ""
    quotes = tuple(Quote(text, _when(steps) + source) for text, steps in times.items())
    quotes = quotes or (Quote(fact.passage, "never shown to the model" + source),)
    order = {depth: i for i, depth in enumerate(DEPTHS)}
    probes = sorted(fact.probes, key=lambda p: order.get(p.labels.get("depth", ""), len(order)))
    table = Table(
        "Probes: the model scores the target after the context",
        ("depth", "context", "target"),
        tuple((p.labels.get("depth", ""), f"{p.context} …", p.target) for p in probes),
        row_header=False,
    )
    return Fold(f"{arm}: {fact.name}", (*quotes, table))


def _when(times: Sequence[int]) -> str:
    listed = ", ".join(map(number, times))
    return f"the same words at updates {listed}" if len(times) > 1 else f"update {listed}"


def _span(times: Sequence[int]) -> str:
    if not times:
        return "never"
    first, last = min(times), max(times)
    return f"{number(first)} to {number(last)}" if last > first else number(first)


def _dose_cell(dose: Mapping[str, Any], key: str) -> Cell:
    value = dose.get(key, 0)
    return Cell(f"{100 * value:.3g}" if key.endswith("share") else number(value), value)


def _arms(study: Any) -> list[str]:
    return list(dict.fromkeys([*study.schedule, *study.arms.values()]))
