"""A run as a list of stages on one model: what each reads, keeps, and where it branches off.

    launch/local stages                        a trunk of two stages, an anneal beside its last part
    launch/local stages --preset=smoke         the same in a minute, to see that it works
    launch/local stages --dry_run              tokens, rates at the joints, what is kept
    launch/local stages --config.stages=a:steps=900,b:sources=new.jsonl/replay=a@0.05/kind=cosine

A stage is NAME:KEY=VALUE/KEY=VALUE, its keys those of `stages_list.KEYS`; see docs/stages.md. Each
is a run in WORKDIR/runs/NAME and can be opened as one.
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import cli
from experiments.stages_list import OUTSIDE, Spec, Stage, stages
from llm_dynamics import files
from llm_dynamics import spec as specs
from llm_dynamics.data.build import build_plan, build_tokenizer, open_data
from llm_dynamics.data.config import DataConfig
from llm_dynamics.data.explain import format_explanation
from llm_dynamics.data.plan import Plan
from llm_dynamics.data.replay import parse_replays
from llm_dynamics.data.tokenizers import check_vocabulary
from llm_dynamics.errors import UserError
from llm_dynamics.growth.stage import RECORD, Growth
from llm_dynamics.model import presets
from llm_dynamics.optim.optimizer import OptimConfig
from llm_dynamics.optim.schedules import ScheduleConfig
from llm_dynamics.probe.cadence import ProbeConfig
from llm_dynamics.report import run_section, style
from llm_dynamics.report.figures import Figure, canvas, stack, thin
from llm_dynamics.report.numbers import number
from llm_dynamics.report.page import Cell, Code, Page, Section, Table, Text, write_page
from llm_dynamics.results import Row, exact, interval_row
from llm_dynamics.train import metrics, plan_lines
from llm_dynamics.train import parts as parts_lib
from llm_dynamics.train.checkpoint_reader import NOTHING, Planned, PlannedRuns
from llm_dynamics.train.config import CheckpointConfig, RunSpec, TrainConfig
from llm_dynamics.train.loop import train
from llm_dynamics.train.parts import Parts
from llm_dynamics.train.processes import on_first
from llm_dynamics.train.run_folder import RunFolder, read_spec

_log = logging.getLogger("llm_dynamics.stages")

_LOSS = "validation_loss/"
_WORKDIR = Path("WORKDIR")


@dataclasses.dataclass(frozen=True)
class Ready:
    """A stage that can be trained."""

    stage: Stage
    parts: Parts
    plan: Plan
    tokenizer: str


def prepare(stage: Stage, folder: RunFolder | None = None, planned: PlannedRuns = NOTHING) -> Ready:
    """Opens a stage's data and refuses what does not fit before any training."""
    spec = stage.spec
    growth = None
    if stage.growth:
        record = folder.path / RECORD if folder else None
        growth = Growth(stage.growth, stage.before.spec.model, record)
    try:
        parts = parts_lib.build(spec, folder, growth, planned)
        data = open_data(spec.data)
        tokenizer = build_tokenizer(spec.data, data)
        check_vocabulary(tokenizer, spec.model.vocab_size)
        plan = build_plan(
            spec.data,
            tokenizer,
            steps=spec.train.steps,
            first_step=parts.first_data_step,
            lineage=parts.lineage,
            data=data,
        )
        parts_lib.start.check_plan(spec, parts.origin, plan)
    except UserError as error:
        raise UserError(f"stage {stage.name}: {error}") from error
    if growth:
        # Rows behind those that the stage trains on: what fits an operator is not seen twice.
        growth.batches = lambda t: plan.batch(spec.train.steps + t)
    return Ready(stage, parts, plan, tokenizer.name)


def prepare_all(spec: Spec, workdir: Path) -> list[Ready]:
    """All stages, before any of them is trained."""
    planned: dict[str, Planned] = {}
    found = []
    for stage in stages(spec, workdir):
        ready = prepare(stage, planned=planned)
        planned[str(stage.path)] = ready.parts.planned_as(ready.plan)
        found.append(ready)
    return found


def run(spec: Spec, workdir: Path, command: str) -> Path:
    """Does the stages that are not done, in order, and writes the report."""
    folder = RunFolder(workdir)
    planned = prepare_all(spec, folder.path)
    names = [ready.stage.name for ready in planned]
    about = {"fingerprint": specs.fingerprint(names), "command": command}
    on_first(lambda: folder.claim(spec, about))
    for i, ready in enumerate(planned):
        _log.info("stage %d of %d: %s", i + 1, len(names), names[i])
        learn(ready.stage, command)
    on_first(lambda: report([ready.stage for ready in planned], folder, command))
    return folder.report


def learn(stage: Stage, command: str) -> None:
    """Trains a stage to its end; resumes what is there."""
    folder = RunFolder(stage.path)
    ready = prepare(stage, folder)
    device = jax.devices()[0]
    data = ready.plan.describe() | {
        "tokenizer": ready.tokenizer,
        "command": command,
        "device": f"{jax.device_count()} x {device.device_kind} ({device.platform})",
    }
    on_first(lambda: folder.claim(stage.spec, data, ready.parts.origin))
    train(ready.parts, ready.plan, folder)


def describe(spec: Spec) -> list[str]:
    """Every stage's plan: tokens by source, learning rates at the joint, what is kept."""
    planned = prepare_all(spec, _WORKDIR)
    steps = sum(ready.stage.spec.train.steps for ready in planned)
    tokens = sum(r.stage.spec.train.steps * r.plan.tokens_per_step for r in planned)
    lines = [f"{len(planned)} stages, {steps:,} steps, {tokens:,} tokens"]
    for i, ready in enumerate(planned):
        lines += ["", f"{ready.stage.name}: {_origin(ready.stage)}"]
        described = plan_lines.describe(ready.parts, ready.plan, memory=i == 0)
        lines += [
            f"  {line}".replace(str(_WORKDIR.absolute()), str(_WORKDIR)) for line in described
        ]
    return lines


def explain(spec: Spec, step: int) -> str:
    """What every row of a step holds; steps are counted through all stages."""
    planned = prepare_all(spec, _WORKDIR)
    left = step
    for ready in planned:
        if 0 <= left < ready.stage.spec.train.steps:
            return format_explanation(ready.plan.explain(left))
        left -= ready.stage.spec.train.steps
    raise UserError(f"expected --explain=0 to {step - left - 1}, got {step}")


# ---- the report ----------------------------------------------------------------------------------


def report(done: Sequence[Stage], folder: RunFolder, command: str) -> Path:
    """Writes results.json and the page from the folders of the stages."""
    logs = [(stage, metrics.read(RunFolder(stage.path).metrics)) for stage in done]
    keys = dict.fromkeys(k for _, rows in logs for row in rows for k in row if k.startswith(_LOSS))
    sets = {key.removeprefix(_LOSS): key for key in keys}
    found = [
        interval_row(
            f"{stage.name}/{text}/{name}",
            exact([row[key] for row in rows if key in row][at]),
            "nats/token",
            1,
            f"loss on held-out {text} {when} stage {stage.name}",
            "one run",
        )
        for stage, rows in logs
        for text, key in sets.items()
        for name, at, when in (("before", 0, "before"), ("after", -1, "after"))
    ]
    files.write_json(folder.results, found)
    lead = (
        "One model, trained in stages. Each is a run folder of its own below `runs/` and says in "
        "its `spec.json` where it came from; a branch leaves the stage that it starts from as it "
        "is. One seed, so no intervals."
    )
    along = "by the tokens that the parameters have seen, a line a stage. A branch begins where it "
    along += "leaves the stage that it starts from."
    words = f"Loss on held-out text, {along}"
    drawn = _figure("stages_losses", "Loss on every text", words, "nats per token", logs, sets)
    words = f"Learning rate of every update, {along}"
    rates = {"learning rate": "learning_rate"}
    sections = (
        Section("The stages", (Text(lead, "lead"), _stages_table(done))),
        Section("Losses", (drawn, _losses_table(done, found, tuple(sets)))),
        Section(
            "Learning rates", (_figure("stages_rates", "Rates", words, "per update", logs, rates),)
        ),
        Section("What was read", (_ledger_table(done),)),
        Section(
            "All numbers",
            (run_section.results_table("Every number with its definition", found),),
        ),
        Section("How to run it again", (Code(run_section.in_new_folder(command)),)),
    )
    steps = sum(stage.spec.train.steps for stage in done)
    subtitle = f"{len(done)} stages, {number(steps)} steps: {', '.join(s.name for s in done)}."
    return write_page(Page("A run in stages", subtitle, sections), folder.path)


def _origin(stage: Stage) -> str:
    if stage.before is None:
        return "fresh parameters"
    before, grown = stage.before, f", grown by {stage.growth.name}" if stage.growth else ""
    if before.name == OUTSIDE:
        return f"from step {stage.at} of {before.path}{grown}"
    ends = stage.at == before.spec.train.steps
    return f"from {'the end' if ends else f'step {stage.at}'} of {before.name}{grown}"


def _stages_table(done: Sequence[Stage]) -> Table:
    rows = []
    for stage in done:
        spec, start = stage.spec, stage.spec.train.start
        on = f"from its step {stage.first}" if stage.first else "from its beginning"
        read = ", ".join(spec.data.sources)
        read += ", read on" if start.run and start.data == "continue" else ""
        replays = [
            f"{share:.3g} of {Path(run).name}" for run, share in parse_replays(spec.data.replay)
        ]
        rows.append(
            (
                stage.name,
                _origin(stage),
                Cell(number(spec.train.steps), spec.train.steps),
                read,
                ", ".join(replays) or "–",
                f"{spec.optim.schedule.kind}, {on}",
                start.optimizer if start.run else "–",
            )
        )
    columns = ("stage", "starts", "steps", "reads", "replays", "schedule", "optimizer")
    return Table("What every stage is", columns, tuple(rows), ("steps",))


def _losses_table(done: Sequence[Stage], found: Sequence[Row], sets: Sequence[str]) -> Table:
    values = {row["name"]: row["value"] for row in found}
    rows = [
        (s.name, *(Cell(number(v), v) for v in (values[f"{s.name}/{name}/after"] for name in sets)))
        for s in done
    ]
    caption = "Loss after every stage, nats per token of held-out text"
    return Table(caption, ("stage", *sets), tuple(rows), tuple(sets), sortable=True)


def _ledger_table(done: Sequence[Stage]) -> Table:
    kinds = ("new", "replayed", "repeated")
    rows = [
        (stage.name, source, *(Cell(number(counts[kind]), counts[kind]) for kind in kinds))
        for stage in done
        for source, counts in read_spec(RunFolder(stage.path).spec)["data"]["ledger"].items()
    ]
    caption = "Tokens by stage and source; what is replayed was read by an earlier stage"
    return Table(caption, ("stage", "source", *kinds), tuple(rows), kinds)


def _tokens_before(stage: Stage) -> int:
    """Tokens that its parameters have seen before its first update."""
    if stage.before is None:
        return 0
    data = stage.before.spec.data
    return _tokens_before(stage.before) + stage.at * data.batch_size * data.length


def _figure(
    name: str,
    title: str,
    caption: str,
    unit: str,
    logs: Sequence[tuple[Stage, Sequence[Mapping[str, Any]]]],
    panels: Mapping[str, str],
) -> Figure:
    """A panel for every metric (title -> key), a line for every stage."""
    tables = []
    for panel, key in panels.items():
        for stage, rows in logs:
            per_step = stage.spec.data.batch_size * stage.spec.data.length
            kept = [(row["step"] * per_step, row[key]) for row in rows if key in row]
            tokens, values = (np.array(column) for column in zip(*kept, strict=True))
            tokens += _tokens_before(stage)
            tables.append({"stage": stage.name, "what": panel, "tokens": tokens, "value": values})

    def draw():
        columns = min(len(panels), 2)
        height = -(-len(panels) // columns)
        drawing, axes = canvas(height, columns, 2.8 * height)
        for axis, panel in zip(axes.ravel(), [*panels, *[None] * columns], strict=False):
            axis.set_visible(panel is not None)
            axis.set(title=panel, ylabel=unit, xlabel="thousand tokens")
            for i, table in enumerate(t for t in tables if t["what"] == panel):
                kept = thin(table["tokens"])
                x, y, tint = table["tokens"][kept] / 1e3, table["value"][kept], style.series(i)
                axis.plot(x, y, "-" if i < 5 else "--", color=tint, lw=1.4, label=table["stage"])
        axes[0][0].legend(loc="best")
        return drawing

    alt = f"{title} through the stages {', '.join(stage.name for stage, _ in logs)}."
    return Figure(name, title, caption, alt, draw, stack(tables))


# ---- sizes ---------------------------------------------------------------------------------------


def smoke() -> Spec:
    """Within a minute on two cores: shows that everything works, proves nothing."""
    return Spec(
        _base("pocket-0.1m", 8, 4e-3, 768, every=5),
        (
            "pretrain:steps=40/kind=cosine_infinite/warmup=2/cooldown=24",
            "more:steps=20/sources=wiki_leads/replay=pretrain@0.05",
            "anneal:start=more@10/steps=10/decay=10",
        ),
    )


def laptop() -> Spec:
    """A few minutes on two cores: a trunk of two stages, and an anneal beside its last part."""
    return Spec(
        _base("pocket-0.3m", 16, 3e-3, 2048, every=25),
        (
            "pretrain:steps=600/kind=cosine_infinite/warmup=6/cooldown=360",
            "more:steps=400/sources=gcide/replay=pretrain@0.05",
            "anneal:start=more@300/steps=100/decay=100",
        ),
    )


def _base(model: str, rows: int, peak: float, vocabulary: int, every: int) -> RunSpec:
    return RunSpec(
        model=presets.named(model, vocab_size=vocabulary),
        data=DataConfig(("wordnet_glosses",), f"bpe:{vocabulary}", length=128, batch_size=rows),
        optim=OptimConfig(ScheduleConfig("cosine", peak)),
        train=TrainConfig(
            validate_every=every,
            validation_batches=8,
            checkpoint=CheckpointConfig(every=100),
            tensorboard=False,
        ),
        probe=ProbeConfig(),
    )


PRESETS = {"smoke": smoke, "laptop": laptop}


if __name__ == "__main__":
    cli.start(cli.Study("stages", PRESETS, run, describe, explain))
