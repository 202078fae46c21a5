"""The stages of a continual study: what each run reads, starts from, and how it is scheduled."""

import dataclasses
from pathlib import Path

from experiments.continual_rates import second_schedule, trunk_schedule
from experiments.continual_spec import (
    BASELINES,
    OLD,
    TRUNKS,
    Spec,
    Stage,
    Variant,
    bare,
    changed,
    seeded,
    warmup_steps,
)
from experiments.continual_splits import split_stages
from llm_dynamics.data.config import DataConfig
from llm_dynamics.data.replay import additive_steps
from llm_dynamics.data.sources import parse_source
from llm_dynamics.facts.arms import FactsConfig
from llm_dynamics.model import presets
from llm_dynamics.optim.optimizer import OptimConfig
from llm_dynamics.optim.schedules import ScheduleConfig
from llm_dynamics.probe.cadence import ProbeConfig
from llm_dynamics.train.config import CheckpointConfig, RunSpec, StartConfig, TrainConfig

# ---- sizes ---------------------------------------------------------------------------------------


def smoke() -> Spec:
    """A minute or two on two cores: shows that everything works, proves nothing."""
    base = _base("pocket-0.1m", 40, 8, peak=4e-3, vocabulary=768, every=10)
    facts = FactsConfig(
        num_facts=8, arms=("duplication", "control"), start=8, interval=4, encounters=6, window=4,
        probes_per_depth=1,
    )  # fmt: skip
    return Spec(base, facts, ("strong=wiktionary_de",), 20, (0.0, 0.25), seeds=1, around=5)


def laptop() -> Spec:
    """Ends within ten minutes on two cores: a weak and a strong shift, three seeds."""
    base = _base("pocket-0.3m", 240, 16, peak=3e-3, vocabulary=2048, every=10)
    return Spec(base, _facts(240, 24), ("weak=gcide", "strong=wiktionary_de"), 120)


def desk() -> Spec:
    """About an hour on two cores: all shifts, shares, peaks, schedules and policies, and none."""
    base = _base("pocket-0.3m", 240, 16, peak=4e-3, vocabulary=2048, every=10, batches=2)
    return Spec(
        base,
        _facts(240, 24),
        ("weak=gcide", "strong=wiktionary_de", "code=stdlib_code"),
        100,
        replay=(0.0, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5),
        peaks=(1.0, 0.5, 2.0),
        schedules=("rewarm", "infinite", "invsqrt", "wsd"),
        optimizers=("reset", "keep"),
        baselines=tuple(BASELINES),
        splits=3,
        side_seeds=1,
        side_shifts=("code",),
    )


def _base(
    model: str,
    steps: int,
    rows: int,
    *,
    peak: float,
    vocabulary: int,
    every: int,
    batches: int = 4,
) -> RunSpec:
    return RunSpec(
        model=presets.named(model, vocab_size=vocabulary),
        data=DataConfig(("wordnet_glosses",), f"bpe:{vocabulary}", length=128, batch_size=rows),
        optim=OptimConfig(ScheduleConfig("cosine", peak)),
        train=TrainConfig(
            steps,
            validate_every=every,
            validation_batches=batches,
            checkpoint=CheckpointConfig(),
            tensorboard=False,
        ),
        probe=ProbeConfig(),
    )


def _facts(steps: int, count: int) -> FactsConfig:
    """Facts met from a third of the stage to its end, so that the stage ends knowing them.

    Half of them at every step: met every sixth, the smallest model ties nothing to a name.
    """
    start = steps // 3
    return FactsConfig(
        num_facts=count,
        arms=("duplication", "control"),
        matched=True,
        start=start,
        interval=2,
        encounters=(steps - start) // 2,
        window=2,
        probes_per_depth=1,
    )


# ---- stages --------------------------------------------------------------------------------------


def stages(spec: Spec, workdir: Path) -> list[Stage]:
    """Every run of the study, each after the one that it starts from."""
    found = []
    for seed in range(spec.seeds):
        found += _first_stages(spec, seed)
        found += _second_stages(spec, seed, workdir)
        found += split_stages(spec, seed, workdir)
    return found


def _first_stages(spec: Spec, seed: int) -> list[Stage]:
    base = seeded(spec, seed, *spec.new_sources().values())
    found = [Stage(f"{OLD}-seed{seed}", "", OLD, seed, base)]
    for kind in spec.schedules:
        if kind in TRUNKS and seed < spec.seeds_from_trunk(kind):
            trunk = changed(base, schedule=trunk_schedule(spec, kind, base.train.steps))
            found.append(Stage(_trunk(kind, seed), "", f"trunk-{kind}", seed, trunk))
    return found


def _trunk(kind: str, seed: int) -> str:
    return f"trunk-{kind}-seed{seed}"


def _second_stages(spec: Spec, seed: int, workdir: Path) -> list[Stage]:
    found = []
    for i, (shift, source) in enumerate(spec.new_sources().items()):
        for variant in _variants(spec):
            if seed < spec.seeds_of(variant, shift):
                run = _second(spec, seed, workdir, source, *variant)
                found.append(_stage(shift, _name(spec, *variant), seed, run, variant[1]))
        for name in spec.baselines:
            if seed >= spec.seeds_of_baseline(name, shift):
                continue
            if name != "same":
                run = _baseline(spec, seed, workdir, source, name)
                found.append(_stage(shift, name, seed, run))
            elif not i:
                run = _same(spec, seed, workdir)
                found.append(Stage(f"{name}-seed{seed}", shift, name, seed, run, everywhere=True))
    return found


def _stage(shift, variant, seed, run, share=0.0) -> Stage:
    return Stage(f"{shift}-{variant}-seed{seed}", shift, variant, seed, run, share)


def _name(spec: Spec, schedule: str, share: float, peak: float, optimizer: str) -> str:
    name = f"{schedule}-replay-{share:g}"
    name += f"-peak-{peak:g}" if peak != spec.peaks[0] else ""
    return name + (f"-{optimizer}" if optimizer != spec.optimizers[0] else "")


def _variants(spec: Spec) -> list[Variant]:
    """Every share under the first schedule, peak and policy; the others without and with replay."""
    first, peak, optimizer = spec.schedules[0], spec.peaks[0], spec.optimizers[0]
    found = [(first, share, peak, optimizer) for share in spec.replay]
    for share in dict.fromkeys((spec.replay[0], spec.replay[len(spec.replay) // 2])):
        found += [(first, share, other, optimizer) for other in spec.peaks[1:]]
        found += [(other, share, peak, optimizer) for other in spec.schedules[1:]]
        found += [(first, share, peak, other) for other in spec.optimizers[1:]]
    return found


def _second(spec, seed, workdir, source, schedule, share, peak, optimizer) -> RunSpec:
    trunk = schedule in TRUNKS
    parent = workdir / "runs" / (_trunk(schedule, seed) if trunk else f"{OLD}-seed{seed}")
    start = StartConfig(
        run=str(parent),
        optimizer="keep" if trunk else optimizer,
        continue_schedule=False,
        data="fresh",
    )
    steps = spec.steps
    if spec.replay_accounting == "additive":
        steps = additive_steps(steps, (share,))
    return changed(
        seeded(spec, seed, source),
        schedule=second_schedule(spec, schedule, steps, peak),
        data={"sources": (source,), "replay": (f"{parent}@{share}",) if share else ()},
        train={"steps": steps, "start": start},
    )


def _same(spec: Spec, seed: int, workdir: Path) -> RunSpec:
    """The old data read on, so that nothing is met twice before it ends."""
    first = spec.peaks[0], spec.optimizers[0]
    run = _second(spec, seed, workdir, spec.base.data.sources[0], "rewarm", 0.0, *first)
    start = dataclasses.replace(run.train.start, data="continue")
    data = seeded(spec, seed, *spec.new_sources().values()).data
    return dataclasses.replace(changed(run, train={"start": start}), data=data)


def _baseline(spec: Spec, seed: int, workdir: Path, source: str, name: str) -> RunSpec:
    if name in ("floor", "hold"):
        first = spec.peaks[0], spec.optimizers[0]
        return _second(spec, seed, workdir, source, name, 0.0, *first)
    steps = spec.steps + (spec.base.train.steps if name == "union" else 0)
    sources = (source,) if name == "new" else union_sources(spec, source)
    base = seeded(spec, seed, source)
    schedule = dataclasses.replace(base.optim.schedule, warmup=warmup_steps(spec, steps))
    return changed(base, schedule=schedule, data={"sources": sources}, train={"steps": steps})


def union_sources(spec: Spec, source: str) -> tuple[str, ...]:
    """Old and new data, weighted by the steps of their stages."""
    old = [(bare(s), parse_source(s)[2]) for s in spec.base.data.sources]
    total = sum(weight for _, weight in old)
    steps = spec.base.train.steps
    weighted = (f"{name}@{weight * steps / total:g}" for name, weight in old)
    return (*weighted, f"{bare(source)}@{spec.steps}")
