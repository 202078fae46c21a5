"""The page of a facts study: what was asked, what was run, what was learned and what was kept."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llm_dynamics.data.injection import Injection
from llm_dynamics.facts.cells import CONTROL
from llm_dynamics.facts.curves import Curves, Gain, compute_curves
from llm_dynamics.facts.facts import DEPTHS, Fact
from llm_dynamics.probe.log import open_log
from llm_dynamics.report import facts_figures, facts_tables, facts_words, run_section
from llm_dynamics.report.numbers import missing, number
from llm_dynamics.report.page import (
    Card,
    Cards,
    Fold,
    Items,
    Page,
    Section,
    Terms,
    Text,
    write_page,
)
from llm_dynamics.report.run import Run, read_run
from llm_dynamics.report.training_figures import training
from llm_dynamics.spec import flatten

GAIN = "gain_at_last_maximum"
_KINDS = {"raw": "raw", "control": CONTROL, "subtracted": "difference"}
_UNITS = {"nats/token": "nats per token", "1/decade": "per factor of ten", "1": ""}


@dataclass(frozen=True)
class FactsStudy:
    """What the page says beyond the run folder; all of it follows from the spec alone.

    Attributes:
      schedule: arm -> updates of its encounters, in the order of the page; empty for the control
        and where facts have times of their own.
      window: steps after an encounter in which its maximum is sought.
      facts, arms: the facts, and the arm of each by its name.
      injections: every text the model is given, in order.
      treatments: arm -> what is done to its facts, in words.
      model: (what, value) rows: name, parameters, shape.
      question: one or two sentences.
      cautions: what makes the arms unequal besides their treatment, a clause each.
      source: where the facts come from, with licence and attribution; "" = our own generator.
      examples: facts quoted per arm.
      seed: of the bootstrap.
    """

    schedule: Mapping[str, Sequence[int]]
    window: int
    facts: Sequence[Fact]
    arms: Mapping[str, str]
    injections: Sequence[Injection] = ()
    treatments: Mapping[str, str] = field(default_factory=dict)
    model: Sequence[tuple[str, Any]] = ()
    question: str = facts_words.QUESTION
    cautions: Sequence[str] = field(default_factory=tuple)
    source: str = ""
    examples: int = 1
    seed: int = 0


def write_report(run_dir: Path, *, study: FactsStudy) -> Path:
    """Draws RUN/report.html and RUN/figures/ from spec, metrics, probe log and results.

    Returns:
      The path of the page.

    Raises:
      UserError: the run folder is missing, incomplete or damaged, or cannot be written.
    """
    run = read_run(run_dir)
    log = open_log(run.path / "probes")
    drawn = compute_curves(log, study.schedule, study.window, seed=study.seed)
    return write_page(compose(run, drawn, study), run.path)


def compose(run: Run, drawn: Curves, study: FactsStudy) -> Page:
    """The page as blocks, from what was read."""
    gains = gains_of(run.results, list(study.schedule))
    drawn = _in_order(drawn, list(study.schedule))
    return Page(
        title="What a language model learned of facts it met, and what it kept",
        subtitle=(
            f"{number(len(study.facts))} facts in {len(set(study.arms.values()))} arms, put into "
            f"{number(run.data.get('steps'))} training steps "
            f"({number(run.data.get('tokens'))} tokens) and asked for on the way."
        ),
        sections=(
            _headline(run, gains, study),
            _what_was_run(run, study),
            _trajectories(run, drawn, study),
            _forgetting(run, drawn, gains, study),
            _training(run),
            _all_results(run, study),
            facts_tables.examples(study),
            Section("Definitions", (Terms(facts_words.definitions(study.window)),)),
            run_section.again_section(run),
        ),
        footer=(
            "Drawn from the run folder alone by llm_dynamics "
            f"{run.versions.get('llm_dynamics', '')}; this page fetches nothing. Intervals are "
            "95 % bootstrap intervals over facts."
        ),
    )


def gains_of(results: Sequence[Mapping[str, Any]], arms: Sequence[str] = ()) -> list[Gain]:
    """The gains at the last maximum out of results.json, in the order of depths, then of `arms`."""
    found = []
    for row in results:
        parts = row["name"].split("/")
        if len(parts) == 4 and parts[2] == GAIN and parts[3] in _KINDS:
            value, low, high = (
                float("nan") if row[key] is None else row[key] for key in ("value", "low", "high")
            )
            found.append(Gain(parts[0], parts[1], _KINDS[parts[3]], value, low, high, row["n"]))
    return sorted(found, key=lambda g: (_place(g.depth, DEPTHS), _place(g.arm, arms)))


def _headline(run: Run, gains: Sequence[Gain], study: FactsStudy) -> Section:
    question = Text(study.question, "lead")
    if not gains:
        return Section("The answer", (question, Text(facts_words.NO_GAINS, "note")))
    depth = gains[0].depth
    here = [gain for gain in gains if gain.depth == depth]
    by_name = {row["name"]: row for row in run.results}
    lead, items = facts_words.answer(here, by_name, depth)
    blocks = [
        question,
        Text(lead),
        *([Items(items)] if items else []),
        Cards(_cards(here, by_name, depth, study)),
        Text(facts_words.reading(depth), "note"),
        facts_figures.gains(gains),
    ]
    return Section("The answer", tuple(blocks))


def _cards(gains, by_name, depth: str, study: FactsStudy) -> tuple[Card, ...]:
    """The gain beyond the control of each arm, the control's own, and how fast it fades."""
    arms = list(dict.fromkeys(gain.arm for gain in gains))
    palette = facts_figures.roles(arms)
    cards = []
    for arm in arms:
        row = by_name.get(f"{arm}/{depth}/{GAIN}/subtracted", {})
        label, note = f"{arm}: gain beyond the control", study.treatments.get(arm, "")
        if missing(row.get("value")):
            row = by_name[f"{arm}/{depth}/{GAIN}/raw"]
            label, note = f"{arm}: raw gain, no control", "how much of it is the fact is not known"
        cards.append(_card(label, row, f"{note}; {number(row['n'])} facts", palette[arm]))
    met = Counter(injection.labels["arm"] for injection in study.injections)
    busiest = max(arms, key=lambda arm: met[arm])
    more = (
        (
            f"{busiest}/{depth}/{GAIN}/control",
            "control: gain without injection",
            "never-injected facts gain this much as the model learns their form",
            "control",
        ),
        (
            f"{busiest}/{depth}/decay/subtracted/a",
            f"{busiest}: share lost as time grows tenfold",
            "decay a of the gain beyond the control, on log10 of time",
            palette[busiest],
        ),
    )
    if not any(g.arm == busiest and g.kind == "difference" and g.low > 0 for g in gains):
        more = more[:1]  # a share of a gain that may be zero means nothing
    for name, label, note, role in more:
        if not missing(by_name.get(name, {}).get("value")):
            cards.append(_card(label, by_name[name], note, role))
    return tuple(cards)


def _card(label: str, row: Mapping[str, Any], note: str, role: str) -> Card:
    unit = _UNITS.get(row["unit"], row["unit"])
    return Card(label, row["value"], row["low"], row["high"], unit, note, role)


def _what_was_run(run: Run, study: FactsStudy) -> Section:
    data = run.data
    shape = None
    if data.get("batch_size") and data.get("length"):
        shape = (
            f"{data['batch_size']} rows of {data['length']} tokens = "
            f"{number(data['tokens_per_step'])} tokens"
        )
    rows = [
        *study.model,
        ("steps", data.get("steps")),
        ("batch of a step", shape),
        ("training tokens", data.get("tokens")),
        *((f"optim.{k}", v) for k, v in flatten(run.spec.get("optim", {}))),
        ("facts", len(study.facts)),
        ("probes", sum(len(fact.probes) for fact in study.facts)),
        ("window of a maximum", f"{number(study.window)} steps"),
        ("device", data.get("device")),
        ("versions", ", ".join(f"{k} {v}" for k, v in run.versions.items()) or None),
    ]
    blocks: list[Any] = [
        Text(facts_words.what_was_run(run.spec.get("train", {}).get("start", {}))),
        run_section.settings_table("The run in short", rows),
        run_section.sources_table(data.get("sources", ()), data.get("length")),
        facts_tables.doses(study, data.get("doses", {})),
    ]
    if study.cautions:
        listed = "; ".join(study.cautions)
        blocks.append(Text(f"Mind when comparing arms: {listed}.", "note"))
    return Section("What was run", tuple(blocks))


def _trajectories(run: Run, drawn: Curves, study: FactsStudy) -> Section:
    if not drawn.trajectories:
        return Section("Around the injections", (Text("No trajectory was recorded.", "note"),))
    per_step = run.data["tokens_per_step"]
    figure = facts_figures.trajectories(drawn.trajectories, study.schedule, per_step)
    return Section("Around the injections", (Text(facts_words.TRAJECTORIES), figure))


def _forgetting(run: Run, drawn: Curves, gains: Sequence[Gain], study: FactsStudy) -> Section:
    if not drawn.retainability:
        note = "No step after the last maximum was recorded, so nothing can be said of forgetting."
        return Section("Forgetting", (Text(note, "note"),))
    unclear = {(g.arm, g.depth, g.kind) for g in gains if not g.low > 0}
    figure = facts_figures.retainability(
        drawn.retainability, drawn.fits, run.data["tokens_per_step"], unclear
    )
    arms = list(study.schedule)
    blocks = [
        Text(facts_words.FORGETTING),
        figure,
        facts_tables.decays(run.results, arms, unclear),
        Text(facts_words.CROSSING, "note"),
        *facts_tables.forms(run.results, arms),
    ]
    return Section("Forgetting", tuple(blocks))


def _training(run: Run) -> Section:
    if not run.metrics:
        note = Text("The run folder holds no metrics.jsonl, so there are no curves.", "note")
        return Section("Training", (note,))
    return Section("Training", (training(run.metrics),))


def _all_results(run: Run, study: FactsStudy) -> Section:
    groups: dict[str, list[Mapping[str, Any]]] = {arm: [] for arm in study.schedule}
    for row in run.results:
        groups.setdefault(row["name"].split("/")[0], []).append(row)
    folds = tuple(
        Fold(
            f"{group}: {len(rows)} numbers",
            (run_section.results_table(f"Results of {group}", rows),),
        )
        for group, rows in groups.items()
        if rows
    )
    intro = f"The {len(run.results)} numbers of `results.json`, grouped by their first word."
    return Section("All results", (Text(intro), *folds))


def _in_order(drawn: Curves, arms: Sequence[str]) -> Curves:
    def ordered(items):
        return tuple(sorted(items, key=lambda i: (_place(i.depth, DEPTHS), _place(i.arm, arms))))

    return dataclasses.replace(
        drawn,
        trajectories=ordered(drawn.trajectories),
        retainability=ordered(drawn.retainability),
    )


def _place(name: str, order: Sequence[str]) -> int:
    return order.index(name) if name in order else len(order)
