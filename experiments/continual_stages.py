"""The stages of a continual study: what each run reads, starts from, and how it is scheduled."""

import dataclasses
import re
from pathlib import Path

from llm_dynamics.data.config import DataConfig
from llm_dynamics.data.sources import parse_source
from llm_dynamics.errors import UserError
from llm_dynamics.facts.arms import FactsConfig
from llm_dynamics.model import presets
from llm_dynamics.optim.optimizer import OptimConfig
from llm_dynamics.optim.schedules import ScheduleConfig
from llm_dynamics.probe.cadence import ProbeConfig
from llm_dynamics.spec import nearest
from llm_dynamics.train.config import CheckpointConfig, RunSpec, StartConfig, TrainConfig

OLD = "old"  # the first stage, and the data it reads
SCHEDULES = {
    "rewarm": "re-warmed to the peak and re-decayed by a cosine",
    "hold": "re-warmed to the peak and held there",
    "floor": "constant at the floor of the first stage",
    "infinite": "from the constant phase of an infinite schedule, annealed at the end",
}
BASELINES = {
    "floor": "constant at the floor of the first stage, no replay",
    "hold": "re-warmed and not decayed, no replay",
    "new": "the new data alone, from fresh parameters",
    "union": "old and new data mixed, from fresh parameters, as many steps as both stages",
    "same": "the old data again, re-warmed: what the schedule alone does",
}


@dataclasses.dataclass(frozen=True)
class Spec:
    """All stages of the study follow from one."""

    base: RunSpec  # the first stage
    facts: FactsConfig  # injected into it
    shifts: tuple[str, ...]  # NAME=SOURCE of new data
    steps: int  # of the second stage
    replay: tuple[float, ...] = (0.0, 0.05, 0.25)  # shares of old rows
    peaks: tuple[float, ...] = (1.0,)  # of the second stage, of that of the first
    schedules: tuple[str, ...] = ("rewarm",)
    optimizers: tuple[str, ...] = ("reset",)  # see train.config.StartConfig
    baselines: tuple[str, ...] = ("floor", "union")
    warmup: float = 0.02  # of the steps of a stage
    seeds: int = 3  # of the initial parameters; the order of the data stays
    around: int = 10  # steps between probes

    def __post_init__(self):
        known = (
            ("schedules", SCHEDULES, self.schedules),
            ("baselines", BASELINES, self.baselines),
        )
        for key, names, asked in known:
            for name in asked:
                if name not in names:
                    raise UserError(f"unknown {name!r} in {key}; {nearest(name, names)}")
        if not (self.shifts and self.schedules and self.optimizers and self.peaks and self.replay):
            raise UserError(
                "expected at least one each of shifts, schedules, optimizers, peaks and replay"
            )
        if self.steps < 1 or self.seeds < 1 or self.around < 1:
            raise UserError(
                f"expected steps, seeds and around of at least 1, got {self.steps}, {self.seeds} "
                f"and {self.around}"
            )
        for share in self.replay:
            if not 0 <= share < 1:
                raise UserError(f"expected shares of replay from 0 to below 1, got {share}")
        if min(self.peaks) <= 0 or not 0 <= self.warmup < 1:
            raise UserError(
                f"expected peaks above 0 and 0 <= warmup < 1, got {self.peaks} and {self.warmup}"
            )
        self.new_sources()

    def new_sources(self) -> dict[str, str]:
        """Shift -> the source of its new data.

        Raises:
          UserError: an entry of another form, or a name given twice.
        """
        found: dict[str, str] = {}
        for entry in self.shifts:
            name, equals, source = entry.partition("=")
            if not equals or not source or not re.fullmatch(r"[A-Za-z0-9_]+", name):
                raise UserError(
                    "expected shifts as NAME=SOURCE, the name of letters, digits and _, e.g. "
                    f"strong=wiktionary_de, got {entry!r}"
                )
            if name in found or name == OLD:
                raise UserError(f"expected every shift under a name of its own, got {name!r}")
            found[name] = source
        return found


@dataclasses.dataclass(frozen=True)
class Stage:
    """A planned run.

    Attributes:
      name: of its folder in WORKDIR/runs.
      shift: the shift it belongs to; "" for the first stage.
      variant: what is done, the same name for every seed.
      seed: 0 .. seeds - 1.
      spec: the run.
      share: of old rows that it replays.
    """

    name: str
    shift: str
    variant: str
    seed: int
    spec: RunSpec
    share: float = 0.0


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
    """About an hour on two cores: all shifts, shares, peaks, schedules and policies."""
    base = _base("pocket-0.3m", 500, 32, peak=3e-3, vocabulary=2048, every=10)
    return Spec(
        base,
        _facts(500, 24),
        ("weak=gcide", "strong=wiktionary_de", "code=stdlib_code"),
        250,
        replay=(0.0, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5),
        peaks=(1.0, 0.5, 2.0),
        schedules=("rewarm", "infinite"),
        optimizers=("reset", "keep"),
        baselines=tuple(BASELINES),
    )


def _base(
    model: str, steps: int, rows: int, *, peak: float, vocabulary: int, every: int
) -> RunSpec:
    return RunSpec(
        model=presets.named(model, vocab_size=vocabulary),
        data=DataConfig(("wordnet_glosses",), f"bpe:{vocabulary}", length=128, batch_size=rows),
        optim=OptimConfig(ScheduleConfig("cosine", peak)),
        train=TrainConfig(
            steps,
            validate_every=every,
            validation_batches=4,
            checkpoint=CheckpointConfig(),
            tensorboard=False,
        ),
        probe=ProbeConfig(),
    )


def _facts(steps: int, count: int) -> FactsConfig:
    """Facts met from a third of the stage to its end, so that the stage ends knowing them."""
    start = steps // 3
    return FactsConfig(
        num_facts=count,
        arms=("duplication", "control"),
        matched=True,
        start=start,
        interval=6,
        encounters=(steps - start) // 6,
        window=6,
        probes_per_depth=1,
    )


# ---- stages --------------------------------------------------------------------------------------


def stages(spec: Spec, workdir: Path) -> list[Stage]:
    """Every run of the study, each after the one that it starts from."""
    return [
        stage
        for seed in range(spec.seeds)
        for stage in (*_first_stages(spec, seed), *_second_stages(spec, seed, workdir))
    ]


def _seeded(spec: Spec, seed: int) -> RunSpec:
    """The first stage: validated on all data, tokenised alike in all stages."""
    new = tuple(spec.new_sources().values())
    old = spec.base.data.sources
    data = dataclasses.replace(
        spec.base.data,
        tokenizer_sources=(*old, *new),
        also_validate=tuple(dict.fromkeys((*map(bare, old), *map(bare, new)))),
    )
    schedule = spec.base.optim.schedule
    warmup = schedule.warmup or _warmup(spec, spec.base.train.steps)
    optim = dataclasses.replace(
        spec.base.optim, schedule=dataclasses.replace(schedule, warmup=warmup)
    )
    return dataclasses.replace(spec.base, data=data, optim=optim, seed=spec.base.seed + seed)


def bare(source: str) -> str:
    """The source without its weight."""
    return source.rpartition("@")[0] or source


def _warmup(spec: Spec, steps: int) -> int:
    return max(1, round(spec.warmup * steps)) if spec.warmup else 0


def _first_stages(spec: Spec, seed: int) -> list[Stage]:
    base = _seeded(spec, seed)
    found = [Stage(f"{OLD}-seed{seed}", "", OLD, seed, base)]
    if "infinite" in spec.schedules:
        steps = base.train.steps
        schedule = dataclasses.replace(
            base.optim.schedule, kind="cosine_infinite", cooldown=round(0.6 * steps)
        )
        trunk = _with(base, schedule=schedule)
        found.append(Stage(f"trunk-seed{seed}", "", "trunk", seed, trunk))
    return found


def _with(run: RunSpec, *, schedule=None, data=None, train=None) -> RunSpec:
    """The run with parts of some settings replaced."""
    replace = dataclasses.replace
    if schedule:
        run = replace(run, optim=replace(run.optim, schedule=schedule))
    if data:
        run = replace(run, data=replace(run.data, **data))
    if train:
        run = replace(run, train=replace(run.train, **train))
    return run


def _second_stages(spec: Spec, seed: int, workdir: Path) -> list[Stage]:
    found = []
    for shift, source in spec.new_sources().items():
        for schedule, share, peak, optimizer in _variants(spec):
            variant = f"{schedule}-replay-{share:g}"
            variant += f"-peak-{peak:g}" if peak != spec.peaks[0] else ""
            variant += f"-{optimizer}" if optimizer != spec.optimizers[0] else ""
            run = _second(spec, seed, workdir, source, schedule, share, peak, optimizer)
            found.append(_stage(shift, variant, seed, run, share))
        for name in spec.baselines:
            run = _baseline(spec, seed, workdir, source, name)
            found.append(_stage(shift, name, seed, run))
    return found


def _stage(shift, variant, seed, run, share=0.0) -> Stage:
    return Stage(f"{shift}-{variant}-seed{seed}", shift, variant, seed, run, share)


def _variants(spec: Spec) -> list[tuple[str, float, float, str]]:
    """Every share under the first schedule, peak and policy; the others without and with replay."""
    first, peak, optimizer = spec.schedules[0], spec.peaks[0], spec.optimizers[0]
    found = [(first, share, peak, optimizer) for share in spec.replay]
    for share in dict.fromkeys((spec.replay[0], spec.replay[len(spec.replay) // 2])):
        found += [(first, share, other, optimizer) for other in spec.peaks[1:]]
        found += [(other, share, peak, optimizer) for other in spec.schedules[1:]]
        found += [(first, share, peak, other) for other in spec.optimizers[1:]]
    return found


def _second(spec, seed, workdir, source, schedule, share, peak, optimizer) -> RunSpec:
    base = _seeded(spec, seed)
    trunk = schedule == "infinite"
    parent = workdir / "runs" / f"{'trunk' if trunk else OLD}-seed{seed}"
    start = StartConfig(
        run=str(parent),
        optimizer="keep" if trunk else optimizer,
        continue_schedule=False,
        data="fresh",
    )
    return _with(
        base,
        schedule=_schedule(spec, schedule, peak),
        data={"sources": (source,), "replay": (f"{parent}@{share}",) if share else ()},
        train={"steps": spec.steps, "start": start},
    )


def _schedule(spec: Spec, kind: str, peak: float) -> ScheduleConfig:
    """The learning rate of a second stage of `spec.steps`."""
    first, steps = spec.base.optim.schedule, spec.steps
    if kind == "floor":
        return ScheduleConfig("constant", first.peak * first.floor)
    if kind == "infinite":
        anneal = max(1, round(0.15 * steps))
        return ScheduleConfig(
            "piecewise",
            first.peak * peak,
            phases=(
                f"constant:{steps - anneal}:{first.constant}",
                f"exponential:{anneal}:{first.floor}",
            ),
        )
    kind = "cosine" if kind == "rewarm" else "constant"
    return ScheduleConfig(kind, first.peak * peak, _warmup(spec, steps), floor=first.floor)


def _baseline(spec: Spec, seed: int, workdir: Path, source: str, name: str) -> RunSpec:
    peak, optimizer = spec.peaks[0], spec.optimizers[0]
    if name in ("floor", "hold"):
        return _second(spec, seed, workdir, source, name, 0.0, peak, optimizer)
    if name == "same":
        # Its own data goes on, so nothing is met twice.
        run = _second(spec, seed, workdir, source, "rewarm", 0.0, peak, optimizer)
        start = dataclasses.replace(run.train.start, data="continue")
        return _with(run, data={"sources": spec.base.data.sources}, train={"start": start})
    base, steps = _seeded(spec, seed), spec.steps
    sources = (source,)
    if name == "union":
        old = spec.base.train.steps
        steps += old
        total = sum(parse_source(s)[2] for s in spec.base.data.sources)
        shares = [(bare(s), parse_source(s)[2] * old / total) for s in spec.base.data.sources]
        sources = (*(f"{s}@{weight:g}" for s, weight in shares), f"{bare(source)}@{spec.steps}")
    schedule = dataclasses.replace(base.optim.schedule, warmup=_warmup(spec, steps))
    return _with(base, schedule=schedule, data={"sources": sources}, train={"steps": steps})
