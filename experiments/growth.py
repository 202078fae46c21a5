"""Can a trained small model be grown into a large one? (Wang et al. 2023, and what came after.)

    launch/local growth                     one pair of sizes, five operators and scratch
    launch/local growth --preset=smoke      the same on tiny runs, to see that it works
    launch/local growth --preset=desk       three pairs, all operators, three seeds
    launch/local growth --preset=encoder    an encoder with hidden tokens, six operators

A small model is trained, made larger by every operator, and trained on; beside it, the large model
is trained from scratch for as much compute as source and grown run together. Facts that were
injected into the small model are asked for before, at and after the growth. Each run lies in
WORKDIR/runs/NAME and can be opened as one; what a growth did is in its growth.json.
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy import stats

from experiments import cli
from experiments.growth_runs import SKIPPED, UNITS, drops, learn, prepare, read, trials
from experiments.growth_stages import (
    BRIEF,
    SCRATCH,
    Spec,
    Stage,
    desk,
    encoder,
    laptop,
    scratch_steps,
    smoke,
    stages,
)
from llm_dynamics import files
from llm_dynamics import spec as specs
from llm_dynamics.data.explain import format_explanation
from llm_dynamics.errors import UserError
from llm_dynamics.growth.savings import equal_cost_rows, savings_rows, targets_at
from llm_dynamics.growth.stage import Growth
from llm_dynamics.model import size
from llm_dynamics.report.growth_report import markdown, write_report
from llm_dynamics.report.growth_study import Grown, GrowthStudy
from llm_dynamics.results import Row
from llm_dynamics.seeds import PerSeed, seed_row
from llm_dynamics.train import plan_lines
from llm_dynamics.train.run_folder import RunFolder

_log = logging.getLogger("llm_dynamics.growth")

NATS = "nats per token"


def run(spec: Spec, workdir: Path, command: str) -> Path:
    """Does the runs that are not done, asks the questions and writes the report."""
    folder = RunFolder(workdir)
    planned = stages(spec, folder.path)
    check(spec, planned)
    names = [stage.name for stage in planned]
    folder.claim(spec, {"fingerprint": specs.fingerprint(names), "command": command})
    for i, stage in enumerate(planned):
        _log.info("run %d of %d: %s", i + 1, len(names), stage.name)
        learn(spec, stage, folder.path / "runs" / stage.name, command)
    found = read(spec, planned, folder.path)
    rows = ask(spec, found)
    files.write_json(folder.results, rows)
    study = page(spec, planned, found, rows, command)
    files.write_text(folder.path / "results.md", markdown(study))
    return write_report(folder.path, study)


def ask(spec: Spec, found: Mapping[str, Mapping[str, Grown]]) -> list[Row]:
    """Every question of the study; rows PAIR/VARIANT/..., n = seeds."""
    rows: list[Row] = []
    for pair, arms in found.items():
        for variant, grown in arms.items():
            name = f"{pair}/{variant}"
            end = PerSeed({seed: float(losses[-1]) for seed, losses in grown.losses.items()})
            words = "loss on held-out text at the end of the run"
            rows.append(seed_row(f"{name}/loss", end, NATS, words, contrast=False))
            if variant != SCRATCH:
                rows += _at_growth(name, grown) + (_facts(name, grown) if grown.facts else [])
                rows += _saved(name, dict(arms), variant)
        lag = spec.lag or max(1, spec.steps // 10)
        rows += _ranked(pair, arms, lag) + _chosen(pair, dict(arms), lag)
    return rows


def _at_growth(name: str, grown: Grown) -> list[Row]:
    """What the growth did to the function and to the loss, before any training."""
    preserved = {seed: record["preserved"] for seed, record in grown.records.items()}

    def row(key: str, unit: str, words: str, value) -> Row:
        found = PerSeed({seed: float(value(seed)) for seed in preserved})
        return seed_row(f"{name}/{key}", found, unit, words, contrast=False)

    return [
        row(
            "loss_at_growth", NATS,
            "loss on held-out text of the grown model before its first update",
            lambda s: grown.losses[s][0],
        ),
        row(
            "loss_change", NATS,
            "loss of the grown model less that of the source, on one batch",
            lambda s: preserved[s]["target_loss"] - preserved[s]["source_loss"],
        ),
        row(
            "kl", "nats", "mean divergence KL(source || grown) of the next token on one batch",
            lambda s: preserved[s]["kl"],
        ),
        row(
            "top1_agreement", "1",
            "share of positions where source and grown model hold the same token most likely",
            lambda s: preserved[s]["top1_agreement"],
        ),
        row(
            "max_logit_difference", "1", "largest difference of a logit on one batch",
            lambda s: preserved[s]["max_logit_difference"],
        ),
        row(
            "duplicate_units", "1",
            "share of units of the feed-forward part that are written and read like another",
            lambda s: grown.records[s]["duplicates"].get("mlp", 0.0),
        ),
        row(
            "effective_rate", "1",
            "change of the logits by one small update of Adam, over that of the source's",
            lambda s: grown.records[s]["effective_rate"],
        ),
    ]  # fmt: skip


def _facts(name: str, grown: Grown) -> list[Row]:
    """What is kept of the source's facts."""

    def row(key: str, words: str, value, contrast: bool = True) -> Row:
        found = PerSeed({seed: float(value(seed)) for seed in grown.records})
        more = (
            "log-probability of injected facts less that of never-injected ones (memorization "
            "probes)"
        )
        return seed_row(
            f"{name}/facts/{key}", found, "nats/token", f"{more} {words}", contrast=contrast
        )

    before, after = grown.facts_before, grown.facts
    return [
        row("before", "in the source before the growth", lambda s: before[s][1][-1]),
        row(
            "at_growth", "after the growth less the same before it; below 0 is forgotten",
            lambda s: after[s][1][0] - before[s][1][-1],
        ),
        row(
            "after", "at the end of the run less the same before the growth; below 0 is forgotten",
            lambda s: after[s][1][-1] - before[s][1][-1],
        ),
    ]  # fmt: skip


def _saved(name: str, arms: dict[str, Grown], variant: str) -> list[Row]:
    """Savings in every unit at the same losses, and losses at equal cost in FLOPs."""
    targets = targets_at(trials(arms, variant, "FLOPs"))
    rows = []
    for unit, key in UNITS.items():
        if unit != SKIPPED or drops(arms[variant]):
            rows += savings_rows(f"{name}/{key}", trials(arms, variant, unit), unit, targets)
    return rows + equal_cost_rows(f"{name}/flops", trials(arms, variant, "FLOPs"), "FLOPs")


def _ranked(pair: str, arms: Mapping[str, Grown], lag: int) -> list[Row]:
    """How well a short probe ranks operators (LAG: Mallik et al. 2024), and loss at growth."""
    names = _candidates(arms)
    if len(names) < 3:
        return []
    seeds = arms[names[0]].losses
    rows = []
    for key, after, words in (
        ("at_growth", 0, "before the first update"),
        ("after_lag", lag, f"after {lag} updates"),
    ):
        found, regret = {}, {}
        for seed in seeds:
            early = [_loss_at(arms[v], seed, after) for v in names]
            end = [float(arms[v].losses[seed][-1]) for v in names]
            if np.ptp(early) and np.ptp(end):
                found[seed] = float(stats.spearmanr(early, end).statistic)
            regret[seed] = end[int(np.argmin(early))] - min(end)
        if found:
            definition = (
                f"Spearman's correlation over {len(names)} operators of the loss {words} with that "
                "at the end"
            )
            name = f"{pair}/probe/{key}/rank_correlation"
            rows.append(seed_row(name, PerSeed(found), "1", definition))
        definition = f"loss at the end of the operator with the least loss {words}, less the least"
        name = f"{pair}/probe/{key}/regret"
        rows.append(seed_row(name, PerSeed(regret), NATS, definition, contrast=False))
    return rows


def _chosen(pair: str, arms: dict[str, Grown], lag: int) -> list[Row]:
    """What is saved by the operator that a probe of a few updates picks, with the probe charged.

    The probe makes every candidate, fits those that are learned, and trains each for `lag` updates;
    the one with the least loss then goes on from there.
    """
    names = _candidates(arms)
    if len(names) < 2:
        return []
    found = {}
    for name in names:
        for seed, trial in trials(arms, name, "FLOPs").items():
            found.setdefault(seed, {})[name] = trial
    picked = {}
    for seed, by_name in found.items():
        best = min(names, key=lambda v: _loss_at(arms[v], seed, lag))
        others = (
            trial.operator + lag * arms[name].costs[seed]["FLOPs"][1]
            for name, trial in by_name.items()
            if name != best
        )
        picked[seed] = dataclasses.replace(by_name[best], probe=sum(others))
    targets = targets_at(picked)
    return savings_rows(f"{pair}/probe/chosen/flops", picked, "FLOPs", targets)


def _candidates(arms: Mapping[str, Grown]) -> list[str]:
    """Operators of a whole source, all trained alike."""
    whole = [v for v in arms if v != SCRATCH and not v.startswith(BRIEF)]
    return [v for v in whole if not drops(arms[v])]


def _loss_at(grown: Grown, seed: int, step: int) -> float:
    costs, losses = grown.costs[seed]["tokens"], grown.losses[seed]
    return float(np.interp(step * costs[1], costs, losses))


def page(
    spec: Spec,
    planned: Sequence[Stage],
    found: Mapping[str, Mapping[str, Grown]],
    rows: Sequence[Row],
    command: str,
) -> GrowthStudy:
    """What the report says."""
    return GrowthStudy(
        rows=rows,
        arms=found,
        models={"small": spec.base.model} | spec.targets(),
        steps={
            "small": spec.base.train.steps,
            **{
                pair: (spec.steps, scratch_steps(spec, target))
                for pair, target in spec.targets().items()
            },
        },
        seeds=spec.seeds,
        num_runs=len(planned),
        command=command,
    )


def describe(spec: Spec) -> list[str]:
    """The runs in a line each, and the first one's plan in full."""
    planned = stages(spec, Path("WORKDIR"))
    tokens = spec.base.data.batch_size * spec.base.data.length
    total = sum(stage.spec.train.steps for stage in planned)
    length = spec.base.data.length
    flops = sum(
        stage.spec.train.steps * tokens * size.flops_per_token(stage.spec.model, length)
        for stage in planned
    )
    lines = [f"{len(planned)} runs, {total:,} steps, {total * tokens:,} tokens, {flops:.3g} FLOPs:"]
    for stage in planned:
        if stage.seed:
            continue
        lines.append(
            f"  {stage.name}: {stage.spec.train.steps:,} steps of "
            f"{size.num_params(stage.spec.model):,} parameters"
            + (f", grown by {stage.growth.name}" if stage.growth else "")
        )
    check(spec, planned)
    ready = prepare(spec, planned[0])
    return [*lines, "", f"{planned[0].name}:", *plan_lines.describe(ready.parts, ready.plan)]


def check(spec: Spec, planned: Sequence[Stage]) -> None:
    """Refuses pairs that an operator does not fit, before anything is trained.

    Raises:
      UserError: names run and rule.
    """
    for stage in planned:
        if stage.growth and not stage.seed:
            try:
                Growth(stage.growth, spec.base.model).check(spec.base.model, stage.spec)
            except UserError as error:
                raise UserError(f"run {stage.name}: {error}") from None


def explain(spec: Spec, step: int) -> str:
    """What every row of a step of the first run holds."""
    first = stages(spec, Path("WORKDIR"))[0]
    if not 0 <= step < first.spec.train.steps:
        raise UserError(f"expected --explain=0 to {first.spec.train.steps - 1}, got {step}")
    return format_explanation(prepare(spec, first).plan.explain(step))


PRESETS = {"smoke": smoke, "laptop": laptop, "desk": desk, "encoder": encoder}


if __name__ == "__main__":
    cli.start(cli.Study("growth", PRESETS, run, describe, explain))
