"""When does a model learn a fact, and how fast does it forget it? (Chang et al. 2024.)

    launch/local                     pretrain on real text, inject fictional facts, probe every step
    launch/local --preset=smoke      the same in a minute, to see that everything works
    launch/local --preset=paper --config.facts.file=fictional_knowledge_paraphrased.json
                                     the published facts and protocol (a large accelerator)

Facts are assigned to arms at random: the same text at every encounter (duplication), another
wording each time (paraphrase), one encounter (once), none at all (control). The headline numbers
are control-subtracted: at small scale most of the raw gain is template and name statistics.
"""

import dataclasses
import hashlib
import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import cli, probed
from experiments.facts_presets import PRESETS, Spec
from llm_dynamics import files
from llm_dynamics.data.injection import Injection
from llm_dynamics.errors import UserError
from llm_dynamics.facts import arms as arms_lib
from llm_dynamics.facts import dose, results, timetable
from llm_dynamics.facts.audit import audit, faults
from llm_dynamics.facts.facts import Fact, label_arms
from llm_dynamics.facts.injections import injections as plan_injections
from llm_dynamics.probe.cadence import probe_steps
from llm_dynamics.probe.log import open_log
from llm_dynamics.report.facts_report import FactsStudy, write_report
from llm_dynamics.train import plan_lines
from llm_dynamics.train import start as lineage
from llm_dynamics.train.config import StartConfig
from llm_dynamics.train.parts import Parts
from llm_dynamics.train.run_folder import RunFolder

_log = logging.getLogger("llm_dynamics.facts")


@dataclasses.dataclass(frozen=True)
class Prepared(probed.Prepared):
    """A prepared run with the facts that it reads."""

    facts: tuple[Fact, ...]
    arms: dict[str, str]
    injections: tuple[Injection, ...]


def prepare(spec: Spec, folder: RunFolder | None = None) -> Prepared:
    """Makes the facts and opens the data; refuses whatever does not fit before any training.

    Args:
      spec: the run.
      folder: its run folder, where a run that exists recorded what it started from.
    """
    facts = arms_lib.load_facts(spec.facts)
    arms = arms_lib.assign_arms(facts, spec.facts)
    injections = plan_injections(facts, arms, spec.facts)
    steps = probe_steps(spec.probe, spec.train.steps, [i.step for i in injections])
    check_cadence(spec, {i.step for i in injections}, steps)
    times = timetable.timetable(facts, arms, spec.facts)
    probes = label_arms(facts, arms, times, arms_lib.block_of(facts, spec.facts))
    ready = probed.prepare(spec, folder, probes, steps, injections=injections)
    return Prepared(**vars(ready), facts=facts, arms=arms, injections=injections)


def check_cadence(spec: Spec, times: set[int], steps: np.ndarray) -> None:
    """Refuses a cadence that misses a step which the measures need.

    Raises:
      UserError: the baseline of an encounter or a step of its window is not probed.
    """
    window = timetable.resolve_window(spec.facts, spec.optim.b1)
    needed = {step for t in times for step in range(t, t + window + 1)}
    missing = sorted(needed - set(steps.tolist()))
    if missing:
        raise UserError(
            f"expected probes at every step from an encounter to the end of its window ({window} "
            f"steps), got none at step {missing[0]}; use probe.every=1 or "
            f"probe.around_events={window}"
        )


def run(spec: Spec, workdir: Path, command: str) -> Path:
    """Trains, probes, computes and reports; resumes what is there. Returns the report's path."""
    folder, ready = learn(spec, workdir, command)
    if jax.process_index() == 0:
        analyse(spec, folder, ready.plan.tokens_per_step)
        _log.info("drawing the report")
        write_report(folder.path, study=page(spec, ready))
    return folder.report


def learn(spec: Spec, workdir: Path, command: str) -> tuple[RunFolder, Prepared]:
    """Trains and probes to the end of the run; resumes what is there."""
    folder = RunFolder(workdir)
    ready = prepare(spec, folder)
    probed.learn(ready, folder, command, cautions(ready))
    return folder, ready


def analyse(spec: Spec, folder: RunFolder, tokens_per_step: int) -> None:
    """Computes results.json from the probe log alone."""
    _log.info("computing the results")
    rows = results.compute(
        open_log(folder.probes),
        timetable.schedule(spec.facts),
        timetable.resolve_window(spec.facts, spec.optim.b1),
        tokens_per_step,
        seed=spec.facts.seed,
    )
    files.write_json(folder.results, rows)


def page(spec: Spec, ready: Prepared) -> FactsStudy:
    """What the report says beyond the run folder."""
    return FactsStudy(
        schedule=timetable.schedule(spec.facts),
        window=timetable.resolve_window(spec.facts, spec.optim.b1),
        facts=ready.facts,
        arms=ready.arms,
        injections=ready.injections,
        treatments={arm.name: arm.describe() for arm in spec.facts.treatments},
        model=probed.model_rows(ready),
        cautions=cautions(ready),
        source=source(spec.facts),
        seed=spec.facts.seed,
    )


def source(config: arms_lib.FactsConfig) -> str:
    """The facts file by name, start of its hash and licence, wherever it lies; "" without one."""
    if not config.file:
        return ""
    path = files.expanded(config.file)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    licence = config.licence or "no licence given (facts.licence)"
    return f"{path.name} (sha256 {digest}), {licence}"


def doses(ready: Prepared) -> dict[str, Any]:
    """What each arm is given, in tokens of the run's tokenizer."""
    return dose.dose_report(ready.injections, ready.facts, ready.arms, ready.tokenizer)


def cautions(ready: Prepared) -> list[str]:
    """What makes the arms unequal or the run another than meant, and faults of the facts."""
    first = min(i.step for i in ready.injections)
    found = cautions_at_start(ready.parts, first) + dose.warnings(doses(ready))
    return found + faults(audit(ready.facts))


def cautions_at_start(parts: Parts, first: int) -> list[str]:
    """What is odd about where a run starts that meets its first fact at update `first`."""
    schedule, start, found = parts.spec.optim.schedule, parts.spec.train.start, []
    done, _ = lineage.schedule_span(parts.spec, parts.origin)
    if done + first < schedule.warmup:
        share = float(parts.schedule(np.asarray(first))) / schedule.peak
        found.append(
            f"the first encounter, at update {first}, falls into the warm-up (it ends at update "
            f"{schedule.warmup - done}): the learning rate there is {share:.2%} of its peak; raise "
            "facts.start or lower optim.schedule.warmup"
        )
    meant = start != StartConfig() or schedule.horizon > parts.spec.train.steps
    if not start.run and meant:
        found.append(
            "the run starts from fresh parameters, as train.start.run is empty, while its other "
            "settings are those of a run that goes on from a checkpoint"
        )
    return found


def describe(spec: Spec) -> list[str]:
    """The whole plan in lines, for --dry_run."""
    ready = prepare(spec)
    lines = plan_lines.describe(ready.parts, ready.plan)
    lines += [
        "",
        f"facts: {len(ready.facts)}, {len(ready.probes):,} probes, scored at "
        f"{len(ready.steps):,} steps",
        f"injections: {len(ready.injections):,} at {len({i.step for i in ready.injections}):,} "
        f"steps, rows by {spec.data.injection_rows}, "
        f"{'with' if spec.data.isolate_documents else 'without'} document mask",
    ]
    for arm, given in doses(ready).items():
        coverage = "" if given.coverage is None else f", targets in {given.coverage:.0%} of texts"
        lines.append(
            f"  {arm:<12} {given.facts:>4} facts x {given.encounters:g} encounters, "
            f"{given.tokens:,} tokens{coverage}"
        )
    return lines + [f"  caution: {caution}" for caution in cautions(ready)]


def explain(spec: Spec, step: int) -> str:
    """What every row of a step holds: documents, offsets, sources, injected texts."""
    return probed.explain(spec, step, prepare)


if __name__ == "__main__":
    cli.start(cli.Study("facts", PRESETS, run, describe, explain))
