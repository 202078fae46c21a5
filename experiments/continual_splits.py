"""No shift: stages over successive parts of the old data, under schedules that re-warm or do not.

Every chain and the one long run read the same rows in the same order (Ibrahim et al. 2024, section
7.3 has three splits of SlimPajama), so what differs is the learning rate alone.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.continual_rates import branch_schedule, trunk_schedule
from experiments.continual_spec import (
    OLD,
    SPLITS,
    TRUNKS,
    Spec,
    Stage,
    bare,
    changed,
    seeded,
    warmup_steps,
)
from llm_dynamics.continual.stage_log import StageLog, read_stage
from llm_dynamics.data.sources import parse_source
from llm_dynamics.train.config import StartConfig

LONG = "long"  # one run over all parts
WORDS = {
    "rewarm": "every part re-warmed to the peak and decayed by a cosine",
    "infinite": "one cosine-infinite schedule through all parts, annealed at the end of the last",
    "invsqrt": "one inverse-square-root-infinite schedule through all parts, annealed at the end "
    "of the last",
    "wsd": "the peak through all parts, decayed by a straight line at the end of the last",
    LONG: "one run over all parts under one cosine",
}


def split_stages(spec: Spec, seed: int, workdir: Path) -> list[Stage]:
    """The chains and the long run of one seed, every stage after the one that it starts from."""
    if not spec.splits:
        return []
    found = []
    kinds = [k for k in spec.schedules if k in TRUNKS and seed < spec.seeds_from_trunk(k)]
    for variant in ("rewarm", *kinds):
        parent = None
        for part in range(1, spec.splits + 1):
            run = _part(spec, seed, variant, part, parent)
            stage = _stage(variant, part, seed, run)
            found.append(stage)
            parent = workdir / "runs" / stage.name
    steps = spec.splits * spec.steps
    run = changed(seeded(spec, seed), schedule=_cosine(spec, steps), train={"steps": steps})
    return [*found, _stage(LONG, spec.splits, seed, run)]


def _stage(variant: str, part: int, seed: int, run) -> Stage:
    name = f"{SPLITS}-{variant}-{part}-seed{seed}"
    return Stage(name, SPLITS, variant, seed, run, part=part)


def _part(spec: Spec, seed: int, variant: str, part: int, parent: Path | None):
    if variant == "rewarm":
        schedule = _cosine(spec, spec.steps)
    elif part == 1:
        schedule = trunk_schedule(spec, variant, spec.steps)
    else:
        schedule = branch_schedule(spec, variant, spec.steps, anneal=part == spec.splits)
    start = StartConfig()
    if parent:
        start = StartConfig(
            run=str(parent),
            optimizer=spec.optimizers[0] if variant == "rewarm" else "keep",
            continue_schedule=False,
            data="continue",
        )
    train = {"steps": spec.steps, "start": start}
    return changed(seeded(spec, seed), schedule=schedule, train=train)


def _cosine(spec: Spec, steps: int):
    first = spec.base.optim.schedule
    return dataclasses.replace(
        first, kind="cosine", warmup=warmup_steps(spec, steps), decay=0, cycles=(), phases=()
    )


def read_splits(
    planned: Sequence[Stage], sources: Sequence[str], workdir: Path
) -> dict[str, dict[int, list[StageLog]]]:
    """Variant -> seed -> its stages in order; empty without splits."""
    datasets = {OLD: tuple((bare(s), parse_source(s)[2]) for s in sources)}
    found: dict[str, dict[int, list[StageLog]]] = {}
    for stage in sorted((s for s in planned if s.shift == SPLITS), key=lambda s: s.part):
        log = read_stage(workdir / "runs" / stage.name, datasets)
        found.setdefault(stage.variant, {}).setdefault(stage.seed, []).append(log)
    return {name: found[name] for name in WORDS if name in found}


def words_of(found: Mapping[str, Mapping[int, list[StageLog]]]) -> dict[str, str]:
    """What each of them does."""
    return {name: WORDS[name] for name in found}
