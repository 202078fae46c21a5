"""New data without losing the old: what schedule, peak and replay share? (Ibrahim et al. 2024.)

    launch/local continual                     two shifts, replay 0, 5 and 25 %, and the baselines
    launch/local continual --preset=smoke      the same on tiny runs, to see that it works
    launch/local continual --preset=desk       the whole table, and the same text in parts; an hour
    launch/local continual --advise --base_run=RUN --config.shifts=mine=new.jsonl
                                               a short sweep from your model on your data, and what
                                               to do; more in continual_advice.py

A model is trained on old data and then on new data, in stages that differ in the schedule, in the
peak of the learning rate and in the share of old rows that are replayed. Facts that were injected
into the first stage are asked for through the second, so that forgetting shows in loss and in
facts. Each stage is a run in WORKDIR/runs/NAME and can be opened as one.
"""

import logging
from pathlib import Path

from experiments import cli, continual_advice
from experiments.continual_rates import check
from experiments.continual_rows import ask
from experiments.continual_runs import learn, prepare, read_arms, read_facts
from experiments.continual_spec import BASELINES, OLD, SCHEDULES, Spec, Stage
from experiments.continual_splits import read_splits, words_of
from experiments.continual_stages import desk, laptop, smoke, stages
from llm_dynamics import files
from llm_dynamics import spec as specs
from llm_dynamics.data.explain import format_explanation
from llm_dynamics.errors import UserError
from llm_dynamics.report.continual_report import markdown, write_report
from llm_dynamics.report.continual_study import ContinualStudy
from llm_dynamics.train import plan_lines
from llm_dynamics.train.run_folder import RunFolder

_DRAWN = (0.0, 0.05, 0.25)  # shares of replay, where all arms would be too many

_log = logging.getLogger("llm_dynamics.continual")


def run(spec: Spec, workdir: Path, command: str) -> Path:
    """Does the stages that are not done, asks the questions and writes the report."""
    folder = RunFolder(workdir)
    planned = plan(spec, folder.path)
    names = [stage.name for stage in planned]
    folder.claim(spec, {"fingerprint": specs.fingerprint(names), "command": command})
    for i, stage in enumerate(planned):
        _log.info("run %d of %d: %s", i + 1, len(names), stage.name)
        learn(spec, stage, folder.path / "runs" / stage.name, command)
    arms = read_arms(spec, planned, folder.path, first=True)
    facts = read_facts(spec, planned, folder.path)
    splits = read_splits(planned, spec.base.data.sources, folder.path)
    _log.info("fitting the laws")
    rows = ask(spec, planned, arms, facts, splits)
    files.write_json(folder.results, rows)
    first = spec.schedules[0]
    study = ContinualStudy(
        rows=rows,
        arms=arms,
        facts=facts,
        words={OLD: "the first stage alone"} | SCHEDULES | BASELINES,
        seeds=spec.seeds,
        steps=(spec.base.train.steps, spec.steps),
        sources={OLD: ", ".join(spec.base.data.sources)} | spec.new_sources(),
        num_runs=len(planned),
        command=command,
        sweep=tuple(f"{first}-replay-{share:g}" for share in spec.replay),
        drawn=(
            *(f"{first}-replay-{share:g}" for share in _DRAWN),
            "floor",
            f"infinite-replay-{spec.replay[0]:g}",
        ),
        splits=splits,
        split_words=words_of(splits),
    )
    files.write_text(folder.path / "results.md", markdown(study))
    return write_report(folder.path, study)


def plan(spec: Spec, workdir: Path) -> list[Stage]:
    """Every run of the study; refuses those that cannot work before any trains."""
    planned = stages(spec, workdir)
    check(planned)
    return planned


def describe(spec: Spec) -> list[str]:
    """The stages in a line each, and the first one's plan in full."""
    planned = plan(spec, Path("WORKDIR"))
    steps = sum(stage.spec.train.steps for stage in planned)
    tokens = spec.base.data.batch_size * spec.base.data.length
    lines = [f"{len(planned)} runs, {steps:,} steps, {steps * tokens:,} tokens:"]
    count: dict[tuple[str, str, int], int] = {}
    for stage in planned:
        key = stage.shift, stage.variant, stage.part
        count[key] = count.get(key, 0) + 1
    for stage in planned:
        if stage.seed:
            continue
        schedule, data = stage.spec.optim.schedule, stage.spec.data
        seeds = count[stage.shift, stage.variant, stage.part]
        lines.append(
            f"  {stage.name}: {stage.spec.train.steps:,} steps of {', '.join(data.sources)}"
            + (f" with {stage.share:.1%} replayed" if stage.share else "")
            + f"; {schedule.kind} to {schedule.peak:g}; {seeds} seed{'s' * (seeds > 1)}"
        )
    first = planned[0]
    ready = prepare(spec, first)
    return [*lines, "", f"{first.name}:", *plan_lines.describe(ready.parts, ready.plan)]


def explain(spec: Spec, step: int) -> str:
    """What every row of a step of the first run holds."""
    first = plan(spec, Path("WORKDIR"))[0]
    if not 0 <= step < first.spec.train.steps:
        raise UserError(f"expected --explain=0 to {first.spec.train.steps - 1}, got {step}")
    return format_explanation(prepare(spec, first).plan.explain(step))


PRESETS = {"smoke": smoke, "laptop": laptop, "desk": desk}


if __name__ == "__main__":
    continual_advice.start(cli.Study("continual", PRESETS, run, describe, explain))
