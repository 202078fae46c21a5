"""New data without losing the old: what schedule, peak and replay share? (Ibrahim et al. 2024.)

    launch/local continual                     two shifts, replay 0, 5 and 25 %, and the baselines
    launch/local continual --preset=smoke      the same on tiny runs, to see that it works
    launch/local continual --preset=desk       the whole table with three seeds, in about an hour
    launch/local continual --advise --config.base.data.sources=old/ --config.shifts=mine=new.jsonl
                                               a short sweep on your data, and what to do

A model is trained on old data and then on new data, in stages that differ in the schedule, in the
peak of the learning rate and in the share of old rows that are replayed. Facts that were injected
into the first stage are asked for through the second, so that forgetting shows in loss and in
facts. Each stage is a run in WORKDIR/runs/NAME and can be opened as one.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

from experiments import cli, continual_advice
from experiments.continual_runs import learn, prepare, read_arms, read_facts
from experiments.continual_stages import (
    BASELINES,
    OLD,
    SCHEDULES,
    Spec,
    desk,
    laptop,
    smoke,
    stages,
)
from llm_dynamics import files
from llm_dynamics import spec as specs
from llm_dynamics.continual import measures
from llm_dynamics.continual.law_rows import held_out_rows, replay_rows
from llm_dynamics.continual.stage_log import Arm
from llm_dynamics.data.explain import format_explanation
from llm_dynamics.errors import UserError
from llm_dynamics.report.continual_report import ContinualStudy, Kept, markdown, write_report
from llm_dynamics.results import Row
from llm_dynamics.seeds import PerSeed, seed_row
from llm_dynamics.train import plan_lines
from llm_dynamics.train.run_folder import RunFolder

_log = logging.getLogger("llm_dynamics.continual")


def run(spec: Spec, workdir: Path, command: str) -> Path:
    """Does the stages that are not done, asks the questions and writes the report."""
    folder = RunFolder(workdir)
    planned = stages(spec, folder.path)
    names = [stage.name for stage in planned]
    folder.claim(spec, {"fingerprint": specs.fingerprint(names), "command": command})
    for i, stage in enumerate(planned):
        _log.info("run %d of %d: %s", i + 1, len(names), stage.name)
        learn(spec, stage, folder.path / "runs" / stage.name, command)
    arms = read_arms(spec, planned, folder.path)
    facts = read_facts(spec, planned, folder.path)
    shares = {(stage.shift, stage.variant): stage.share for stage in planned}
    _log.info("fitting the laws")
    rows = ask(spec, arms, shares, facts)
    files.write_json(folder.results, rows)
    study = page(spec, planned, arms, facts, rows, command)
    files.write_text(folder.path / "results.md", markdown(study))
    return write_report(folder.path, study)


def ask(
    spec: Spec,
    arms: Mapping[str, Mapping[str, Arm]],
    shares: Mapping[tuple[str, str], float],
    facts: Mapping[str, Mapping[str, Kept]],
) -> list[Row]:
    """Every question of the study; rows SHIFT/VARIANT/..., n = seeds.

    Args:
      spec: of the study.
      arms: shift -> variant -> what its runs measured.
      shares: (shift, variant) -> share of old rows that it replays.
      facts: shift -> variant -> what is kept of the facts.
    """
    rows = []
    replayed = {f"{spec.schedules[0]}-replay-{share:g}": share for share in spec.replay}
    for shift, found in arms.items():
        union = found["union"].curves if "union" in found else None
        plain = found[f"{spec.schedules[0]}-replay-0"].matrix if 0.0 in spec.replay else None
        for variant, arm in found.items():
            name, matrix = f"{shift}/{variant}", arm.matrix
            for dataset in arm.datasets:
                last = PerSeed(
                    {
                        seed: float(log.losses_SxZ[-1, arm.datasets.index(dataset)])
                        for seed, log in arm.runs.items()
                    }
                )
                words = f"loss on the {dataset} data at the end, nats per token of held-out text"
                rows.append(
                    seed_row(f"{name}/{dataset}/loss", last, measures.NATS, words, contrast=False)
                )
            if matrix is None:
                continue
            without = plain if replayed.get(variant) else None
            rows += measures.arm_rows(name, matrix, arm.curves, without)
            if union is not None:
                rows += measures.union_rows(name, matrix, union, arm.tokens)
            rows.append(_kept_row(name, facts[shift][variant]))
        rows += held_out_rows(shift, found, {v: shares[shift, v] for v in found})
        rows += replay_rows(shift, found, replayed)
    first = next(iter(next(iter(arms.values())).values()))
    if first.before:
        rows += measures.saving_rows(dict(zip(("old", "new"), first.tokens, strict=True)))
    return rows


def _kept_row(name: str, kept: Kept) -> Row:
    lost = PerSeed(
        {seed: float(kept.after[seed][1][-1] - kept.before[seed][1][-1]) for seed in kept.after}
    )
    return seed_row(
        f"{name}/facts/change",
        lost,
        "nats/token",
        "log-probability of injected facts less that of never-injected ones (memorization "
        "probes) at the end of the stage less the same before it; below 0 is forgotten",
    )


def page(spec, planned, arms, facts, rows, command) -> ContinualStudy:
    """What the report says."""
    return ContinualStudy(
        rows=rows,
        arms=arms,
        facts=facts,
        words=SCHEDULES | BASELINES,
        seeds=spec.seeds,
        steps=(spec.base.train.steps, spec.steps),
        sources={OLD: ", ".join(spec.base.data.sources)} | spec.new_sources(),
        num_runs=len(planned),
        command=command,
    )


def describe(spec: Spec) -> list[str]:
    """The stages in a line each, and the first one's plan in full."""
    planned = stages(spec, Path("WORKDIR"))
    steps = sum(stage.spec.train.steps for stage in planned)
    tokens = spec.base.data.batch_size * spec.base.data.length
    lines = [f"{len(planned)} runs, {steps:,} steps, {steps * tokens:,} tokens:"]
    for stage in planned:
        if stage.seed:
            continue
        schedule, data = stage.spec.optim.schedule, stage.spec.data
        lines.append(
            f"  {stage.name}: {stage.spec.train.steps:,} steps of {', '.join(data.sources)}"
            + (f" with {stage.share:.1%} replayed" if stage.share else "")
            + f"; {schedule.kind} to {schedule.peak:g}"
        )
    first = planned[0]
    ready = prepare(spec, first)
    return [*lines, "", f"{first.name}:", *plan_lines.describe(ready.parts, ready.plan)]


def explain(spec: Spec, step: int) -> str:
    """What every row of a step of the first run holds."""
    first = stages(spec, Path("WORKDIR"))[0]
    if not 0 <= step < first.spec.train.steps:
        raise UserError(f"expected --explain=0 to {first.spec.train.steps - 1}, got {step}")
    return format_explanation(prepare(spec, first).plan.explain(step))


PRESETS = {"smoke": smoke, "laptop": laptop, "desk": desk}


if __name__ == "__main__":
    cli.start(cli.Study("continual", PRESETS, run, describe, explain, advise=continual_advice.run))
