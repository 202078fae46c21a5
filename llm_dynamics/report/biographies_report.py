"""The page of a biographies study: phases, knowledge in bits, people never read about."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_dynamics.facts.biographies import BiographyConfig, Person, biography, probes
from llm_dynamics.facts.biography_measures import TOLERANCE
from llm_dynamics.facts.biography_results import Analysis
from llm_dynamics.report import biographies_figures, run_section
from llm_dynamics.report import biographies_words as words
from llm_dynamics.report.numbers import estimate, missing, number
from llm_dynamics.report.page import (
    Card,
    Cards,
    Fold,
    Items,
    Page,
    Quote,
    Section,
    Table,
    Terms,
    Text,
    write_page,
)
from llm_dynamics.report.run import Run, read_run
from llm_dynamics.report.training_figures import training
from llm_dynamics.spec import flatten


@dataclass(frozen=True)
class BiographiesStudy:
    """What the page says beyond the run folder; all of it follows from the spec and the log.

    Attributes:
      config: the population.
      people: seen ones, then unseen ones.
      found: all numbers and curves.
      parameters: of the model.
      model: (what, value) rows.
    """

    config: BiographyConfig
    people: Sequence[Person]
    found: Analysis
    parameters: int
    model: Sequence[tuple[str, Any]] = ()


def write_report(run_dir: Path, *, study: BiographiesStudy) -> Path:
    """Draws RUN/report.html and RUN/figures/.

    Returns:
      The path of the page.

    Raises:
      UserError: the run folder is missing, incomplete or damaged, or cannot be written.
    """
    run = read_run(run_dir)
    return write_page(compose(run, study), run.path)


def compose(run: Run, study: BiographiesStudy) -> Page:
    """The page as blocks, from what was read."""
    rows = {row["name"]: row for row in run.results}
    config = study.config
    return Page(
        title="What a language model learned about people, and about whom",
        subtitle=(
            f"{number(config.people)} invented people in {number(run.data.get('steps'))} training "
            f"steps ({number(run.data.get('tokens'))} tokens), and {number(config.unseen)} who "
            "were never written about."
        ),
        sections=(
            _answer(rows),
            _curves(rows, study),
            _what_was_run(run, study),
            _training(run),
            _all_results(run),
            _examples(study),
            Section("Definitions", (Terms(words.definitions(study.config.held_out)),)),
            run_section.again_section(run),
        ),
        footer=(
            "Drawn from the run folder alone by llm_dynamics "
            f"{run.versions.get('llm_dynamics', '')}; this page fetches nothing. Intervals are "
            "95 % bootstrap intervals over people."
        ),
    )


def _answer(rows: Mapping[str, Mapping[str, Any]]) -> Section:
    differences = (
        ("held-out less training wording", "seen/gap", "series-1"),
        ("unseen people above the baseline", "unseen/training/excess", "series-2"),
    )
    sizes = (
        ("recall begins", "seen/training/recall_begins", "series-1"),
        ("length of the plateau", "seen/training/plateau", "series-1"),
        ("known after the last step", "seen/training/bits_per_parameter", "series-3"),
    )
    return Section(
        "The answer",
        (
            Text(words.QUESTION, "lead"),
            Items(words.sentences(rows)),
            Cards(
                (
                    *(_card(label, rows[name], role) for label, name, role in sizes),
                    *(
                        _card(label, rows[name], role, is_difference=True)
                        for label, name, role in differences
                    ),
                )
            ),
        ),
    )


def _card(label: str, row: Mapping[str, Any], role: str, is_difference: bool = False) -> Card:
    """A headline number; a size has its interval in words, as a mark against zero says nothing."""
    people = f"{number(row['n'])} people"
    if is_difference:
        return Card(label, row["value"], row["low"], row["high"], row["unit"], people, role)
    interval = estimate(row["value"], row["low"], row["high"])[1]
    said = f"95 % interval {interval}" if interval else row.get("note", "")
    return Card(label, row["value"], unit=row["unit"], note=f"{said}; {people}", role=role)


def _curves(rows, study: BiographiesStudy) -> Section:
    found = study.found
    marks = {
        wording: [
            rows[f"seen/{wording}/{name}"]["value"]
            for name in ("statistics_learned", "recall_begins")
            if not missing(rows[f"seen/{wording}/{name}"]["value"])
        ]
        for wording in ("training", "held_out")
    }
    return Section(
        "Phases, knowledge and overconfidence",
        (
            Text(
                "At first the loss falls as the model learns the sentences and how common each "
                "answer is. Below the baseline only the person can tell more. Where the model has "
                "yet to find persons in its weights, the loss rests at the baseline: a plateau."
            ),
            biographies_figures.losses(
                found.losses, found.steps_S, found.baseline, TOLERANCE, marks
            ),
            biographies_figures.bits(found.bits, found.steps_S, found.most_bits, study.parameters),
            biographies_figures.overconfidence(found.excess, found.steps_S),
        ),
    )


def _what_was_run(run: Run, study: BiographiesStudy) -> Section:
    data, config = run.data, study.config
    met = [person.documents for person in study.people if person.documents]
    epochs = next((s.get("epochs") for s in data.get("sources", ())), None) or 0
    rows = [
        *study.model,
        ("steps", data.get("steps")),
        ("rows of a batch", data.get("batch_size")),
        ("tokens of a row", data.get("length")),
        ("training tokens", data.get("tokens")),
        *((f"biographies.{k}", v) for k, v in flatten(config)),
        ("documents about a person in one pass", f"{min(met)} to {max(met)}"),
        ("times a person is met", f"{min(met) * epochs:.1f} to {max(met) * epochs:.1f}"),
        *((f"optim.{k}", v) for k, v in flatten(run.spec.get("optim", {}))),
        ("device", data.get("device")),
    ]
    return Section(
        "What was run",
        (
            Text(
                "One model was trained from random parameters on biographies of invented people: "
                "documents of six sentences, each of which names the person and ends in one "
                "attribute. A person is met again in several documents of a pass and in every "
                "pass. No document is held out; the held-out wordings and the unseen people are "
                "the validation."
            ),
            run_section.settings_table("The run in short", rows),
            run_section.sources_table(data.get("sources", ()), data.get("length")),
        ),
    )


def _training(run: Run) -> Section:
    if not run.metrics:
        note = Text("The run folder holds no metrics.jsonl, so there are no curves.", "note")
        return Section("Training", (note,))
    return Section("Training", (training(run.metrics),))


def _all_results(run: Run) -> Section:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in run.results:
        groups.setdefault(row["name"].split("/")[0], []).append(row)
    return Section(
        "All results",
        tuple(
            Fold(
                f"{group} people: {len(rows)} numbers",
                (run_section.results_table(f"Results of {group} people", rows),),
                open=True,
            )
            for group, rows in groups.items()
        ),
    )


def _examples(study: BiographiesStudy) -> Section:
    config, blocks = study.config, []
    by_kind = {
        ("seen", True): "the same text each time",
        ("seen", False): "rewritten each time",
        ("unseen", False): "never written about",
    }
    asked = probes(study.people, config)
    for (group, is_fixed), said in by_kind.items():
        person = next((p for p in study.people if (p.group, p.is_fixed) == (group, is_fixed)), None)
        if person is None:
            continue
        copies = () if group == "unseen" else (0,) if is_fixed else (0, 1)
        quotes = [
            Quote(biography(person, copy, config.seed), f"document {copy + 1} of a pass")
            for copy in copies
        ]
        table = Table(
            "Probes: the model scores the answer after the words",
            ("wording", "words", "answer"),
            tuple(
                (p.labels["wording"], f"{p.context} …", p.target)
                for p in asked
                if p.labels["person"] == f"{person.number:05d}"
            ),
            row_header=False,
        )
        blocks.append(Fold(f"{person.name}, {said}", (*quotes, table)))
    return Section(
        "Example people",
        (Text("The people, their names and attributes were invented for this run."), *blocks),
    )
