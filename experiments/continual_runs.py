"""The runs of a continual study, done one by one, and what is read of their folders."""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments import probed
from experiments.continual_spec import OLD, Spec, Stage, bare
from llm_dynamics.continual.stage_log import Arm, read_arm
from llm_dynamics.data.sources import parse_source
from llm_dynamics.facts import arms as arms_lib
from llm_dynamics.facts import timetable
from llm_dynamics.facts.cells import CONTROL
from llm_dynamics.facts.facts import label_arms
from llm_dynamics.facts.injections import injections as plan_injections
from llm_dynamics.probe.cadence import ProbeConfig, probe_steps
from llm_dynamics.probe.log import open_log
from llm_dynamics.report.continual_study import Kept
from llm_dynamics.train.run_folder import RunFolder


def prepare(spec: Spec, stage: Stage, folder: RunFolder | None = None) -> probed.Prepared:
    """Opens a stage's data; the first one's holds the facts, later ones are only asked for them."""
    facts = arms_lib.load_facts(spec.facts)
    arms = arms_lib.assign_arms(facts, spec.facts)
    injections = plan_injections(facts, arms, spec.facts) if not stage.shift else ()
    times = timetable.timetable(facts, arms, spec.facts)
    probes = label_arms(facts, arms, times, arms_lib.block_of(facts, spec.facts))
    steps = probe_steps(ProbeConfig(every=spec.around), stage.spec.train.steps)
    return probed.prepare(stage.spec, folder, probes, steps, injections=injections)


def learn(spec: Spec, stage: Stage, path: Path, command: str) -> None:
    """Trains a stage to its end; resumes what is there."""
    folder = RunFolder(path)
    probed.learn(prepare(spec, stage, folder), folder, command)


def read_arms(
    spec: Spec, planned: Sequence[Stage], workdir: Path, first: bool = False
) -> dict[str, dict[str, Arm]]:
    """Shift -> variant -> what its runs measured, in the order of the plan.

    Args:
      spec: of the study.
      planned: its runs.
      workdir: in which they lie.
      first: whether the first stage alone is among the variants, as OLD and before the others.
    """
    old = tuple((bare(s), parse_source(s)[2]) for s in spec.base.data.sources)
    found: dict[str, dict[str, Arm]] = {}
    for shift, source in spec.new_sources().items():
        datasets = {OLD: old, shift: ((bare(source), 1.0),)}
        theirs = [s for s in planned if (first and s.variant == OLD) or _belongs(s, shift)]
        for variant in dict.fromkeys(s.variant for s in theirs):
            runs = {s.seed: workdir / "runs" / s.name for s in theirs if s.variant == variant}
            found.setdefault(shift, {})[variant] = read_arm(runs, datasets)
    return found


def _belongs(stage: Stage, shift: str) -> bool:
    return stage.shift == shift or stage.everywhere


def read_facts(spec: Spec, planned: Sequence[Stage], workdir: Path) -> dict[str, dict[str, Kept]]:
    """Shift -> variant -> what is kept of the facts through both stages."""
    found: dict[str, dict[str, Kept]] = {}
    read = functools.cache(_net)
    for shift in spec.new_sources():
        for stage in planned:
            parent = stage.spec.train.start.run
            if parent and _belongs(stage, shift):
                kept = found.setdefault(shift, {}).setdefault(stage.variant, Kept({}, {}))
                kept.before[stage.seed] = read(workdir / "runs" / Path(parent).name)
                kept.after[stage.seed] = read(workdir / "runs" / stage.name)
    return found


def _net(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Steps, and the mean log-probability of injected facts less that of the others, nats/token.

    Of memorization probes; the facts of a set share everything but the name and what was said.
    """
    log = open_log(path / "probes").sel(measure="logprob_mean")
    log = log.isel(probe=log["depth"].values == "memorization")
    said = log["arm"].values != CONTROL
    scores_SxP = log["score"].values
    return log["step"].values, scores_SxP[:, said].mean(axis=1) - scores_SxP[:, ~said].mean(axis=1)
