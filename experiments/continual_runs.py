"""The runs of a continual study, done one by one, and what is read of their folders."""

import functools
from collections.abc import Sequence
from pathlib import Path

from experiments import followed, probed
from experiments.continual_spec import OLD, Spec, Stage, bare
from llm_dynamics.continual.stage_log import Arm, read_arm
from llm_dynamics.data.sources import parse_source
from llm_dynamics.probe.cadence import ProbeConfig, probe_steps
from llm_dynamics.report.continual_study import Kept
from llm_dynamics.train.run_folder import RunFolder


def prepare(spec: Spec, stage: Stage, folder: RunFolder | None = None) -> probed.Prepared:
    """Opens a stage's data; the first one's holds the facts, later ones are only asked for them."""
    steps = probe_steps(ProbeConfig(every=spec.around), stage.spec.train.steps)
    return followed.prepare(stage.spec, spec.facts, steps, inject=not stage.shift, folder=folder)


def learn(spec: Spec, stage: Stage, path: Path, command: str) -> None:
    """Trains a stage to its end; resumes what is there."""
    folder = RunFolder(path)
    if not probed.is_complete(stage.spec, folder):
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
    read = functools.cache(followed.net)
    for shift in spec.new_sources():
        for stage in planned:
            parent = stage.spec.train.start.run
            if parent and _belongs(stage, shift):
                kept = found.setdefault(shift, {}).setdefault(stage.variant, Kept({}, {}))
                kept.before[stage.seed] = read(workdir / "runs" / Path(parent).name)
                kept.after[stage.seed] = read(workdir / "runs" / stage.name)
    return found
