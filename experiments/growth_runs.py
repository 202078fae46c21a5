"""The runs of a growth study, done one by one, and what is read of their folders."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments import followed, probed
from experiments.growth_stages import SCRATCH, SMALL, Spec, Stage, small_steps
from llm_dynamics.growth.crossings import Curve
from llm_dynamics.growth.savings import Trial, step_costs
from llm_dynamics.growth.stage import RECORD, Growth
from llm_dynamics.model import dropping
from llm_dynamics.probe.cadence import ProbeConfig, probe_steps
from llm_dynamics.report.growth_study import Grown
from llm_dynamics.train import metrics
from llm_dynamics.train.run_folder import RunFolder

SKIPPED = "FLOPs as if skipped"  # were dropped layers and tokens not computed
# Of costs -> their names in rows.
UNITS = {
    "FLOPs": "flops",
    SKIPPED: "skipped_flops",
    "FLOPs as published": "published_flops",
    "tokens": "tokens",
    "s": "seconds",
}


def prepare(spec: Spec, stage: Stage, folder: RunFolder | None = None) -> probed.Prepared:
    """Opens a run's data; the source's holds the facts, the others are only asked for them.

    An encoder has no next token to ask for, so its runs have neither.
    """
    growth = None
    if stage.growth:
        record = folder.path / RECORD if folder else None
        growth = Growth(stage.growth, spec.base.model, record)
    if spec.asked:
        steps = probe_steps(ProbeConfig(every=spec.around), stage.spec.train.steps)
        injected = stage.variant == SMALL
        ready = followed.prepare(
            stage.spec, spec.facts, steps, inject=injected, folder=folder, transform=growth
        )
    else:
        ready = probed.prepare(stage.spec, folder, (), np.array([], int), transform=growth)
    if growth:
        # Rows behind those that the run trains on: what fits an operator is not seen twice.
        growth.batches = lambda t: ready.plan.batch(stage.spec.train.steps + t)
    return ready


def learn(spec: Spec, stage: Stage, path: Path, command: str) -> None:
    """Trains a run to its end; resumes what is there."""
    folder = RunFolder(path)
    if not probed.is_complete(stage.spec, folder, spec.asked):
        probed.learn(prepare(spec, stage, folder), folder, command)


def read(spec: Spec, planned: Sequence[Stage], workdir: Path) -> dict[str, dict[str, Grown]]:
    """Pair -> variant -> what its runs measured, in the order of the plan; scratch last."""
    found: dict[str, dict[str, Grown]] = {}
    sources = {s.seed: workdir / "runs" / s.name for s in planned if s.variant == SMALL}
    for stage in planned:
        if not stage.pair:
            continue
        of_pair = found.setdefault(stage.pair, {})
        grown = of_pair.setdefault(stage.variant, Grown({}, {}, {}, {}, {}, {}))
        path = workdir / "runs" / stage.name
        grown.costs[stage.seed], grown.losses[stage.seed] = _curve(stage, path)
        if spec.asked:
            grown.facts[stage.seed] = followed.net(path)
        if stage.growth:
            source = sources[stage.seed]
            grown.records[stage.seed] = json.loads((path / RECORD).read_text())
            grown.sources[stage.seed] = _source_cost(spec, stage, source)
            if spec.asked:
                steps, values = followed.net(source)
                until = steps <= small_steps(spec, stage.variant)
                grown.facts_before[stage.seed] = (steps[until], values[until])
    return {
        pair: {v: g for v, g in arms.items() if v != SCRATCH} | {SCRATCH: arms[SCRATCH]}
        for pair, arms in found.items()
    }


def trials(arms: dict[str, Grown], variant: str, unit: str) -> dict[int, Trial]:
    """The runs from scratch beside those of a variant, by seed, with all costs in a unit.

    Fitting an operator is charged by its FLOPs: in other units, by as many updates of the large
    model as cost the same. What is dropped is fitted and charged in full there.
    """
    scratch, grown = arms[SCRATCH], arms[variant]
    found = {}
    for seed, record in grown.records.items():
        updates = record["flops"] / grown.costs[seed]["FLOPs"][1]
        found[seed] = Trial(
            Curve(scratch.costs[seed][unit], scratch.losses[seed]),
            Curve(grown.costs[seed][unit], grown.losses[seed]),
            source=grown.sources[seed][unit],
            operator=record["flops"]
            if unit in ("FLOPs", SKIPPED)
            else updates * grown.costs[seed][unit][1],
        )
    return found


def drops(grown: Grown) -> bool:
    """Whether its runs drop layers or tokens."""
    costs = next(iter(grown.costs.values()))
    return not np.array_equal(costs["FLOPs"], costs[SKIPPED])


def _curve(stage: Stage, path: Path) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Costs of the updates before every validation by unit, and the losses there.

    Entry 1 of a cost is that of one update, so curves begin with the losses at steps 0 and 1: the
    loss at step 1 is the straight line to the next validation's.
    """
    rows = metrics.read(path / "metrics.jsonl")
    steps_S = np.array([row["step"] for row in rows if "validation_loss" in row])
    losses_S = np.array([row["validation_loss"] for row in rows if "validation_loss" in row])
    if steps_S[1] != 1:
        between = losses_S[0] + (losses_S[1] - losses_S[0]) / (steps_S[1] - steps_S[0])
        steps_S, losses_S = np.insert(steps_S, 1, 1), np.insert(losses_S, 1, between)
    data = stage.spec.data
    each = step_costs(stage.spec.model, data.batch_size, data.length)
    train = stage.spec.train
    saved = dropping.skippable_flops_per_token(
        stage.spec.model, data.length, train.layer_drop, train.token_drop
    )
    each[SKIPPED] = each["FLOPs"] - saved * data.batch_size * data.length
    costs = {unit: steps_S * cost for unit, cost in each.items()}
    # Medians, as the first updates wait for the compiler and others for a busy machine.
    seconds = np.median([row["seconds"] for row in rows if "seconds" in row])
    return {**costs, "s": steps_S * float(seconds)}, losses_S


def _source_cost(spec: Spec, stage: Stage, source: Path) -> dict[str, float]:
    data, updates = spec.base.data, small_steps(spec, stage.variant)
    each = step_costs(spec.base.model, data.batch_size, data.length)
    rows = metrics.read(source / "metrics.jsonl")
    seconds = float(np.median([row["seconds"] for row in rows if "seconds" in row]))
    each |= {SKIPPED: each["FLOPs"], "s": seconds}
    return {unit: updates * cost for unit, cost in each.items()}
