"""The runs of a growth study: small models, what grows out of them, and large ones from scratch."""

import dataclasses
import re
from pathlib import Path
from typing import NamedTuple

from llm_dynamics import spec as specs
from llm_dynamics.data.config import DataConfig
from llm_dynamics.errors import UserError
from llm_dynamics.facts.arms import FactsConfig
from llm_dynamics.growth import stage as growth_stage
from llm_dynamics.growth.learn import LearnConfig
from llm_dynamics.growth.stage import GrowthConfig
from llm_dynamics.model import presets, size
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.optim.optimizer import OptimConfig
from llm_dynamics.optim.schedules import ScheduleConfig
from llm_dynamics.probe.cadence import ProbeConfig
from llm_dynamics.train.config import CheckpointConfig, RunSpec, StartConfig, TrainConfig

SMALL = "small"  # the source
BRIEF = "brief"  # the source, trained for a part of its steps
SCRATCH = "scratch"
DROPS = ("layer_drop", "token_drop")  # of a run's training
_BOTH = "both:width=96/num_layers=8/num_heads=6/mlp_width=384"  # twice as wide and as deep


@dataclasses.dataclass(frozen=True)
class Spec:
    """All runs of the study follow from one.

    Every learning rate is constant behind its warm-up, so that no loss is read amid a schedule.
    """

    base: RunSpec  # the small model's run
    facts: FactsConfig  # injected into it
    pairs: tuple[str, ...]  # NAME:key=value/key=value of the large model, over the small one
    operators: tuple[str, ...]  # OPERATOR, OPERATOR~layer_drop=0.1, OPERATOR@PAIR; see `Arm`
    steps: int  # of a grown model
    moments: str = "reset"  # of the optimizer, see growth.moments.POLICIES
    learn: LearnConfig = dataclasses.field(default_factory=LearnConfig)
    brief: float = 0.0  # part of the small model's steps at which the first operator grows it, too
    warmup: int = 10  # updates of every run
    seeds: int = 3  # of the initial parameters; the order of the data stays
    around: int = 10  # steps between probes
    lag: int = 0  # steps of the probe that ranks operators; 0 = a tenth of `steps`

    def __post_init__(self):
        if self.steps < 1 or self.seeds < 1 or self.around < 1:
            raise UserError(
                f"expected steps, seeds and around of at least 1, got {self.steps}, {self.seeds} "
                f"and {self.around}"
            )
        if not (self.pairs and self.operators):
            raise UserError("expected at least one each of pairs and operators")
        if not 0 <= self.brief < 1:
            raise UserError(f"expected 0 <= brief < 1, a part of the source, got {self.brief}")
        if len(set(self.operators)) < len(self.operators):
            raise UserError(f"expected every operator once, got {', '.join(self.operators)}")
        targets = self.targets()
        for entry in self.operators:
            arm = Arm.read(entry)
            growth_stage.named(arm.operator, moments=self.moments)
            specs.override(self.base.train, arm.train)
            if arm.pair and arm.pair not in targets:
                raise UserError(
                    f"operator {entry!r} names no pair; {specs.nearest(arm.pair, tuple(targets))}"
                )

    @property
    def asked(self) -> bool:
        """Whether runs hold facts and are asked for them."""
        return self.base.model.causal

    def targets(self) -> dict[str, ModelConfig]:
        """Pair -> its large model.

        Raises:
          UserError: an entry of another form, an unknown key, or a name given twice.
        """
        found: dict[str, ModelConfig] = {}
        for entry in self.pairs:
            name, colon, sizes = entry.partition(":")
            if not colon or not re.fullmatch(r"[A-Za-z0-9_]+", name):
                raise UserError(
                    "expected pairs as NAME:key=value/key=value, e.g. wide:width=96/num_heads=6, "
                    f"got {entry!r}"
                )
            if name in found:
                raise UserError(f"expected every pair under a name of its own, got {name!r} twice")
            changes = dict(part.partition("=")[::2] for part in sizes.split("/"))
            found[name] = specs.override(self.base.model, changes)
        return found

    def arms_of(self, pair: str) -> list["Arm"]:
        """The operators that grow a pair, each once.

        Where the width stays, operators of one depth pattern are the same map, and where the
        layers stay those of one width pattern are: the first of them stands for all. Masks fade
        layers in, too, so masked growth is its own even where the width stays.
        """
        small, large = self.base.model, self.targets()[pair]
        deeper = large.num_layers != small.num_layers
        wider = dataclasses.replace(large, num_layers=small.num_layers) != small
        own = (growth_stage.LEARNED, growth_stage.MASKED)
        found: dict[tuple, Arm] = {}
        for arm in map(Arm.read, self.operators):
            if arm.pair not in ("", pair):
                continue
            growth = growth_stage.named(arm.operator, moments=self.moments)
            width = growth.width if wider or growth.width in own else "zero_pad"
            depth = growth.depth if deeper else "identity"
            same = dataclasses.replace(growth, width=width, depth=depth)
            found.setdefault((same, *arm.train.items()), arm)
        return list(found.values())


class Arm(NamedTuple):
    """An operator, and how the grown model is trained where that is not as all are.

    Attributes:
      operator: WIDTH+DEPTH, WIDTH alone where layers stay, ligo-PRESET, or a recipe's name.
      train: settings of the run, of DROPS.
      pair: the only one that it grows; "" = all.
    """

    operator: str
    train: dict[str, str]
    pair: str

    @property
    def variant(self) -> str:
        """For names of runs and rows."""
        return "~".join([self.operator, *(f"{k}={v}" for k, v in self.train.items())])

    @classmethod
    def read(cls, entry: str) -> "Arm":
        """Of an entry OPERATOR[~KEY=VALUE...][@PAIR].

        Raises:
          UserError: an unknown setting.
        """
        named, _, pair = entry.partition("@")
        operator, *settings = named.split("~")
        train = dict(part.partition("=")[::2] for part in settings)
        for key in train:
            if key not in DROPS:
                raise UserError(
                    f"unknown setting in operator {entry!r}; {specs.nearest(key, DROPS)}"
                )
        return cls(operator, train, pair)


@dataclasses.dataclass(frozen=True)
class Stage:
    """A planned run.

    Attributes:
      name: of its folder in WORKDIR/runs.
      pair: it belongs to; "" for a source.
      variant: what is done: an operator, SCRATCH, SMALL; BRIEF-OPERATOR from a brief source.
      seed: 0 .. seeds - 1.
      spec: the run.
      growth: how it comes out of the run that it starts from; None where it does not.
    """

    name: str
    pair: str
    variant: str
    seed: int
    spec: RunSpec
    growth: GrowthConfig | None = None


def stages(spec: Spec, workdir: Path) -> list[Stage]:
    """Every run of the study, sources before what grows out of them.

    Raises:
      UserError: a pair that an operator does not fit.
    """
    found = []
    for seed in range(spec.seeds):
        found += _sources(spec, seed)
        for pair, target in spec.targets().items():
            found += _grown(spec, seed, workdir, pair, target)
            found.append(_scratch(spec, seed, pair, target))
    return found


def small_steps(spec: Spec, variant: str) -> int:
    """Updates of the source that a variant grows out of."""
    whole = spec.base.train.steps
    return max(1, round(spec.brief * whole)) if variant.startswith(f"{BRIEF}-") else whole


def scratch_steps(spec: Spec, target: ModelConfig) -> int:
    """Updates from scratch that cost as much as the source and a grown run together.

    The whole ones, so that the run from scratch is not the one that costs more.
    """
    length = spec.base.data.length
    ratio = size.flops_per_token(spec.base.model, length) / size.flops_per_token(target, length)
    return spec.steps + int(spec.base.train.steps * ratio)


def smoke() -> Spec:
    """A minute or two on two cores: shows that everything works, proves nothing."""
    base = _base("pocket-0.1m", 40, 8, peak=4e-3, vocabulary=768, every=5)
    facts = FactsConfig(
        num_facts=8, arms=("duplication", "control"), start=8, interval=4, encounters=6, window=4,
        probes_per_depth=1,
    )  # fmt: skip
    return Spec(
        base,
        facts,
        ("both:width=48/num_layers=4/num_heads=6/mlp_width=192",),
        ("tile+stack", "ligo-shared"),
        20,
        learn=LearnConfig(steps=5, warmup=1),
        warmup=4,
        seeds=1,
        around=5,
    )


def laptop() -> Spec:
    """Ends within ten minutes on two cores: one pair, five operators and scratch, two seeds."""
    base = _base("pocket-0.3m", 240, 8, peak=3e-3, vocabulary=2048, every=10)
    return Spec(
        base,
        _facts(240, 24),
        (_BOTH,),
        ("zero_pad+identity", "tile+stack", "net2net+stack", "copy+append", "ligo-shared"),
        120,
        learn=LearnConfig(steps=40, rates=(1e-2,)),
        seeds=2,
    )


def desk() -> Spec:
    """About an hour and a half on two cores: three pairs, all operators, three seeds."""
    base = _base("pocket-0.3m", 300, 8, peak=3e-3, vocabulary=2048, every=10)
    return Spec(
        base,
        _facts(300, 24),
        ("depth:num_layers=8", "width:width=96/num_heads=6/mlp_width=384", _BOTH),
        (
            "zero_pad+identity", "lemon+identity", "tile+identity", "tile+stack",
            "tile+interpolate", "zero_pad+middle", "net2net+stack", "aki+stack",
            "block_diagonal+stack", "rms+stack", "copy+append",
            "ligo-shared", "ligo-paper", "ligo-released", "ligo-untied",
            "llama_pro@depth", "mslt@depth", "msg@depth",
            "ligo-shared~layer_drop=0.1@both", "ligo-shared~token_drop=0.15@both",
        ),
        150,
        learn=LearnConfig(steps=50, rates=(1e-3, 1e-2)),
        brief=0.25,
    )  # fmt: skip


def encoder() -> Spec:
    """Twenty minutes: an encoder that fills in hidden tokens, three seeds, asked no facts.

    No operator that adds layers is exact where norms follow branches, so `identity` has no part.
    """
    base = _base("pocket-encoder-0.3m", 300, 8, peak=3e-3, vocabulary=2048, every=10)
    model = dataclasses.replace(base.model, vocab_size=2049)  # the last id hides tokens
    return Spec(
        dataclasses.replace(base, model=model),
        _facts(300, 24),
        (_BOTH,),
        ("tile+stack", "net2net+stack", "aki+stack", "copy+append", "ligo-shared", "ligo-released"),
        150,
        learn=LearnConfig(steps=50, rates=(1e-3, 1e-2)),
    )


# ---- parts ---------------------------------------------------------------------------------------


def _base(
    model: str, steps: int, rows: int, *, peak: float, vocabulary: int, every: int
) -> RunSpec:
    return RunSpec(
        model=presets.named(model, vocab_size=vocabulary),
        data=DataConfig(("wordnet_glosses",), f"bpe:{vocabulary}", length=128, batch_size=rows),
        optim=OptimConfig(ScheduleConfig("constant", peak)),
        train=TrainConfig(
            steps, validate_every=every, validation_batches=4, checkpoint=CheckpointConfig(),
            tensorboard=False,
        ),
        probe=ProbeConfig(),
    )  # fmt: skip


def _facts(steps: int, count: int) -> FactsConfig:
    """Facts met from a third of the source's run to its end, so that it ends knowing them."""
    start = steps // 3
    return FactsConfig(
        num_facts=count, arms=("duplication", "control"), matched=True, start=start, interval=6,
        encounters=(steps - start) // 6, window=6, probes_per_depth=1,
    )  # fmt: skip


def _seeded(spec: Spec, seed: int, model: ModelConfig, steps: int) -> RunSpec:
    replace, run = dataclasses.replace, spec.base
    schedule = replace(run.optim.schedule, kind="constant", warmup=min(spec.warmup, steps - 1))
    return replace(
        run,
        model=model,
        optim=replace(run.optim, schedule=schedule),
        train=replace(run.train, steps=steps),
        seed=run.seed + seed,
    )


def _sources(spec: Spec, seed: int) -> list[Stage]:
    run = _seeded(spec, seed, spec.base.model, spec.base.train.steps)
    if spec.brief:
        kept = CheckpointConfig(steps=(small_steps(spec, f"{BRIEF}-"),))
        run = dataclasses.replace(run, train=dataclasses.replace(run.train, checkpoint=kept))
    return [Stage(f"{SMALL}-seed{seed}", "", SMALL, seed, run)]


def _grown(spec: Spec, seed: int, workdir: Path, pair: str, target: ModelConfig) -> list[Stage]:
    found = []
    for i, arm in enumerate(spec.arms_of(pair)):
        operator = arm.operator
        growth = growth_stage.named(operator, learn=spec.learn, moments=spec.moments, seed=seed)
        try:
            model = growth_stage.fitting(spec.base.model, target, growth)
        except UserError as error:
            raise UserError(f"run {pair}-{operator}: {error}") from None
        run = _seeded(spec, seed, model, spec.steps)
        run = dataclasses.replace(run, train=specs.override(run.train, arm.train))
        for brief in (False, True) if spec.brief and not i else (False,):
            variant = f"{BRIEF}-{arm.variant}" if brief else arm.variant
            start = StartConfig(
                run=str(workdir / "runs" / f"{SMALL}-seed{seed}"),
                step=small_steps(spec, variant) if brief else -1,
                optimizer="reset" if spec.moments == "reset" else "keep",
                continue_schedule=False,
            )
            grown = dataclasses.replace(run, train=dataclasses.replace(run.train, start=start))
            found.append(Stage(f"{pair}-{variant}-seed{seed}", pair, variant, seed, grown, growth))
    return found


def _scratch(spec: Spec, seed: int, pair: str, target: ModelConfig) -> Stage:
    run = _seeded(spec, seed, target, scratch_steps(spec, target))
    return Stage(f"{pair}-{SCRATCH}-seed{seed}", pair, SCRATCH, seed, run)
