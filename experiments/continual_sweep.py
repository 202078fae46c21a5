"""The short sweep that advice rests on: its settings, its runs, what they cost and what they say.

With a run of the user's own (`base_run`) every second stage starts from that one checkpoint, and
the settings of the model, the data and the optimizer are that run's. Seeds then differ in the order
of the new data. Without one the first stage is trained too, under every seed, as in the full study.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments import probed
from experiments.continual_runs import prepare as prepare_studied
from experiments.continual_runs import read_arms
from experiments.continual_spec import OLD, TRUNKS, Spec, Stage, bare, changed
from experiments.continual_stages import stages
from llm_dynamics import spec as specs
from llm_dynamics.continual.curve_law import Curve
from llm_dynamics.continual.stage_log import Arm, StageLog, read_stage
from llm_dynamics.data.build import build_plan
from llm_dynamics.data.opened import OpenData, build_tokenizer, open_data
from llm_dynamics.data.sources import parse_source
from llm_dynamics.data.tokenizers import check_vocabulary
from llm_dynamics.errors import UserError
from llm_dynamics.model import size
from llm_dynamics.optim.schedules import make_schedule
from llm_dynamics.train import metrics, replayed
from llm_dynamics.train import parts as parts_lib
from llm_dynamics.train import start as lineage
from llm_dynamics.train.config import CheckpointConfig, RunSpec, StartConfig
from llm_dynamics.train.run_folder import RunFolder, read_spec
from llm_dynamics.train.start import Origin

# Other peaks and schedules run at the first of the shares and at the middle one.
SHARES = (0.05, 0.0, 0.25, 0.01, 0.5)
PEAKS = (1.0, 0.5, 2.0)
POINTS = 15  # validations of a short run, at least
_WAYS = {**{kind: way for way, kind in TRUNKS.items()}, "wsd": "wsd"}  # of a base run's schedule


@dataclasses.dataclass(frozen=True)
class Question(Spec):
    """What is asked: a study whose second stages are run for a part of their steps."""

    base_run: str = ""  # folder of the trained model; "" = the first stage is trained
    base_step: int = -1  # of its checkpoint; -1 = the last one
    tokens: int = 0  # of the second stage, as many whole steps as they make; 0 = `steps`
    part: float = 0.25  # of these steps that a run of the sweep has; 1 = full runs, for --check
    within: float = 0.01  # of the lowest average loss, given away for replaying less

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.part <= 1 or not 0 <= self.within < 1:
            raise UserError(
                f"expected 0 < part <= 1 and 0 <= within < 1, got {self.part} and {self.within}"
            )
        if self.tokens and self.tokens < 2 * self.tokens_per_step:
            raise UserError(
                f"expected a budget of at least two steps, {2 * self.tokens_per_step:,} tokens, "
                f"got tokens={self.tokens:,}; raise it, or lower base.data.batch_size"
            )
        if self.base_step != -1 and not self.base_run:
            raise UserError("base_step is a checkpoint of base_run, which is not given")

    @property
    def tokens_per_step(self) -> int:
        """Of an update."""
        return self.base.data.batch_size * self.base.data.length

    @property
    def whole_steps(self) -> int:
        """Of the second stage that is asked for."""
        return self.tokens // self.tokens_per_step if self.tokens else self.steps

    @property
    def short_steps(self) -> int:
        """Of a run of the sweep."""
        return min(self.whole_steps, max(2, round(self.part * self.whole_steps)))


def question(spec: Spec, base_run: str = "") -> Question:
    """The sweep that is run unless other settings are given.

    Args:
      spec: a preset of the study.
      base_run: folder of a trained model, whose settings take the place of the preset's.

    Raises:
      UserError: the folder holds no run.
    """
    asked = {field.name: getattr(spec, field.name) for field in dataclasses.fields(spec)}
    asked |= {
        "replay": SHARES,
        "peaks": PEAKS,
        "schedules": ("rewarm", "floor"),
        "optimizers": spec.optimizers[:1],
        "baselines": (),
        "splits": 0,
        "side_seeds": 0,
        "side_shifts": (),
    }
    if base_run:
        base = _read_run(base_run)
        schedule = base.optim.schedule
        way = _WAYS.get(schedule.kind)
        other = way if way and not schedule.decay else "floor" if schedule.floor else ""
        asked |= {"base": base, "schedules": ("rewarm", *filter(None, (other,)))}
    return Question(**asked, base_run=base_run)


def _read_run(folder: str) -> RunSpec:
    record = read_spec(RunFolder(Path(folder)).spec)["spec"]
    names = [field.name for field in dataclasses.fields(RunSpec)]
    if not {"model", "data", "optim", "train"} <= set(record):
        raise UserError(
            f"expected the folder of one run at base_run={folder}, got that of a study with keys "
            f"{', '.join(sorted(record)[:5])}; name a folder in its runs/"
        )
    # Studies add to the settings of their runs.
    return specs.from_json(RunSpec, {key: record[key] for key in names if key in record})


# ---- runs ----------------------------------------------------------------------------------------


def planned(asked: Question, workdir: Path, whole: bool = False) -> list[Stage]:
    """The runs of the sweep, each after the one that it starts from.

    Args:
      asked: what is asked.
      workdir: where the runs lie.
      whole: the same runs with all steps of the second stage.

    Raises:
      UserError: a way to go on that the base run does not offer.
    """
    steps = asked.whole_steps if whole else asked.short_steps
    study = dataclasses.replace(asked, steps=steps, tokens=0)
    if not asked.base_run:
        return [_often(stage) for stage in stages(study, workdir)]
    for way in asked.schedules:
        if way in TRUNKS:
            _check_constant(asked, way)
    data = asked.base.data
    # The study trains a tokenizer on all of its data; here it is that of the run.
    stand_in = dataclasses.replace(
        data,
        sources=tuple(map(bare, data.sources)),
        tokenizer=f"bpe:{asked.base.model.vocab_size}",
        tokenizer_sources=(),
        also_validate=(),
        replay=(),
    )
    start = StartConfig()
    train = {"start": start, "checkpoint": CheckpointConfig(), "tensorboard": False, "wandb": ""}
    base = changed(asked.base, train=train)
    study = dataclasses.replace(study, base=dataclasses.replace(base, data=stand_in))
    return [_often(_on_run(asked, stage)) for stage in stages(study, workdir) if stage.shift]


def _often(stage: Stage) -> Stage:
    """A second stage validated often enough for a law to be fitted to it."""
    if not stage.shift:
        return stage
    train = stage.spec.train
    every = max(1, train.steps // POINTS)
    every = min(train.validate_every or every, every)
    return dataclasses.replace(stage, spec=changed(stage.spec, train={"validate_every": every}))


def _on_run(asked: Question, stage: Stage) -> Stage:
    """A second stage of the study that starts from the base run in place of a first stage."""
    data = asked.base.data
    old, new = tuple(map(bare, data.sources)), tuple(asked.new_sources().values())
    texts = data.tokenizer_sources or (old if data.tokenizer.startswith("bpe:") else ())
    data = dataclasses.replace(
        data,
        sources=stage.spec.data.sources,
        replay=(f"{asked.base_run}@{stage.share}",) if stage.share else (),
        tokenizer_sources=texts,
        also_validate=tuple(dict.fromkeys((*old, *map(bare, new)))),
        copies=1,
    )
    start = stage.spec.train.start
    start = dataclasses.replace(start, run=asked.base_run, step=asked.base_step)
    spec = changed(dataclasses.replace(stage.spec, data=data), train={"start": start})
    return dataclasses.replace(stage, spec=spec)


def _check_constant(asked: Question, way: str) -> None:
    """Refuses to go on from a constant phase in which the base run is not."""
    schedule, at = asked.base.optim.schedule, origin(asked)
    level = schedule.peak * (1.0 if way == "wsd" else schedule.constant)
    rate = float(make_schedule(schedule, at.schedule_end)(np.int32(at.schedule_step)))
    if _WAYS.get(schedule.kind) != way or abs(rate / level - 1) > 1e-6:
        raise UserError(
            f"the schedule {way} goes on from a constant phase at the rate {level:g}, and the "
            f"{schedule.kind} schedule of {asked.base_run} is at {rate:g} after step {at.step}; "
            "name a checkpoint in such a phase by base_step, or leave the schedule out"
        )


def origin(asked: Question) -> Origin:
    """The checkpoint of the base run."""
    start = StartConfig(asked.base_run, asked.base_step)
    return lineage.find(changed(asked.base, train={"start": start}), None)


def prepare(asked: Question, stage: Stage, folder: RunFolder | None = None) -> probed.Prepared:
    """Opens a stage's data; without a run of the user's own, with the facts of the study."""
    if not asked.base_run:
        return prepare_studied(asked, stage, folder)
    spec, parts = stage.spec, parts_lib.build(stage.spec, folder)
    data = reordered(open_data(spec.data), stage.seed)
    tokenizer = build_tokenizer(spec.data, data)
    check_vocabulary(tokenizer, spec.model.vocab_size)
    plan = build_plan(
        spec.data, tokenizer, steps=spec.train.steps, lineage=parts.lineage, data=data
    )
    return probed.Prepared(parts, tokenizer, plan, (), (), None, np.zeros(0, int))


def learn(asked: Question, stage: Stage, folder: RunFolder, command: str) -> None:
    """Trains a stage to its end; resumes what is there, and opens nothing of what is complete."""
    if not probed.is_complete(stage.spec, folder, asked=False):
        probed.learn(prepare(asked, stage, folder), folder, command)


def reordered(data: OpenData, seed: int) -> OpenData:
    """The sources with their rows in another order for every seed but 0.

    The order of rows goes by the fingerprint of their source, and the split by the text alone. The
    name says so, too, so that nobody takes these rows for those of the source's own order.
    """
    if not seed:
        return data
    sources = tuple(
        dataclasses.replace(
            source,
            name=f"{source.name} (order {seed})",
            fingerprint=specs.fingerprint([source.fingerprint, "order", seed]),
        )
        for source in data.sources
    )
    return dataclasses.replace(data, sources=sources)


def read(asked: Question, runs: Sequence[Stage], workdir: Path) -> dict[str, dict[str, Arm]]:
    """Shift -> variant -> what its runs measured.

    Of the base run there is the last point alone, which is the first validation of the stages that
    start from it; for what it recorded on the way see `own_curve`.
    """
    if not asked.base_run:
        return read_arms(asked, runs, workdir)
    rates_T = _rates(asked)
    found: dict[str, dict[str, Arm]] = {}
    for stage in runs:
        named = datasets(asked, stage.shift)
        log = read_stage(workdir / "runs" / stage.name, named)
        before = StageLog(
            Path(asked.base_run),
            np.array([len(rates_T)]),
            log.losses_SxZ[:1],
            rates_T,
            asked.tokens_per_step,
            {},
        )
        variants = found.setdefault(stage.shift, {})
        arm = variants.setdefault(stage.variant, Arm(tuple(named), {}, {}))
        arm.runs[stage.seed], arm.before[stage.seed] = log, before
    return found


def datasets(asked: Question, shift: str) -> dict[str, tuple[tuple[str, float], ...]]:
    """The old and the new data of a shift, in sources and weights."""
    old = tuple((bare(s), parse_source(s)[2]) for s in asked.base.data.sources)
    return {OLD: old, shift: ((bare(asked.new_sources()[shift]), 1.0),)}


def own_curve(asked: Question, shift: str, dataset: str, seed: int) -> list[Curve]:
    """The losses that the base run itself recorded on some data; none where it did not."""
    parts = datasets(asked, shift)[dataset]
    keys = {f"validation_loss/{source}": weight for source, weight in parts}
    rates_T, rows = _rates(asked), metrics.read(RunFolder(Path(asked.base_run)).metrics)
    # The plain validation of a run on one source is that of this source.
    if dataset == OLD and len(parts) == 1 and not any(key in row for row in rows for key in keys):
        keys = {"validation_loss": 1.0}
    total = sum(keys.values())
    found = {
        row["step"]: sum(row[key] * weight for key, weight in keys.items()) / total
        for row in rows
        if 0 < row["step"] < len(rates_T) and set(keys) <= set(row)
    }
    if not found:
        return []
    return [Curve(seed, np.array([*found]), np.array([*found.values()]), rates_T, len(rates_T))]


def _rates(asked: Question) -> np.ndarray:
    """The learning rate of every update of the base run."""
    path, step = RunFolder(Path(asked.base_run)).metrics, origin(asked).step
    rows = [row for row in metrics.read(path) if row["step"] < step and "learning_rate" in row]
    if len(rows) != step:
        raise UserError(f"expected {step} learning rates in {path}, got {len(rows)}; restore it")
    return np.array([row["learning_rate"] for row in rows])


def rates(stage: Stage) -> np.ndarray:
    """The learning rate of every update of a stage."""
    steps = stage.spec.train.steps
    schedule = make_schedule(stage.spec.optim.schedule, steps)
    return np.array([float(schedule(np.int32(t))) for t in range(steps)])


def choice_of(stage: Stage) -> tuple[str, float, float]:
    """Schedule, highest rate and share of replay of a second stage."""
    kind = stage.variant.partition("-replay-")[0]
    return kind, stage.spec.optim.schedule.peak, stage.share


# ---- costs ---------------------------------------------------------------------------------------


class Costs(NamedTuple):
    """Training tokens, without validation and probes."""

    first: int  # of the first stages that are trained for the sweep
    sweep: int  # of its second stages
    stage: int  # of the stage that is asked for
    base: int  # of the model it starts from, spent already where it is a run of the user's own
    flops_per_token: float

    @property
    def union(self) -> int:
        """Of training again, on old and new data together."""
        return self.base + self.stage


def costs(asked: Question, runs: Sequence[Stage]) -> Costs:
    """What the sweep costs, and what it is about."""
    per_step = asked.tokens_per_step
    first, sweep = (
        sum(s.spec.train.steps for s in runs if bool(s.shift) == second) * per_step
        for second in (False, True)
    )
    base = asked.base.train.steps * per_step
    if asked.base_run:
        base = sum(
            (stage.seen - stage.first) * stage.data.length
            for stage in replayed.stages_of(origin(asked))
        )
    flops = size.flops_per_token(asked.base.model, asked.base.data.length)
    return Costs(first, sweep, asked.whole_steps * per_step, base, flops)
