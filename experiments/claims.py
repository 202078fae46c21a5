"""The claims about facts, tested side by side: sizes, stages, intervals, doses, batches, rates.

    launch/local claims                   preset desk: some fifteen runs, about an hour on two cores
    launch/local claims --preset=smoke    the same questions on tiny runs, to see that it works

Each run is a facts run in WORKDIR/runs/NAME and can be opened as one. A run that is cut short is
resumed by the same command; a complete one is not repeated.
"""

import dataclasses
import itertools
import logging
from collections.abc import Mapping
from pathlib import Path

from experiments import cli, facts, facts_presets
from llm_dynamics import files
from llm_dynamics import spec as specs
from llm_dynamics.data.config import DataConfig
from llm_dynamics.errors import UserError
from llm_dynamics.facts import claims, timetable
from llm_dynamics.facts.arms import FactsConfig
from llm_dynamics.facts.cells import CONTROL
from llm_dynamics.facts.estimates import Study, open_study
from llm_dynamics.model import presets, size
from llm_dynamics.optim.optimizer import OptimConfig
from llm_dynamics.optim.schedules import ScheduleConfig
from llm_dynamics.probe.cadence import ProbeConfig
from llm_dynamics.probe.log import open_log
from llm_dynamics.report.claims_report import ClaimsStudy, markdown, write_report
from llm_dynamics.spec import nearest
from llm_dynamics.train.config import CheckpointConfig, TrainConfig
from llm_dynamics.train.run_folder import RunFolder

_log = logging.getLogger("llm_dynamics.claims")

SAME = "duplication"


FACTORS = (  # runs of the smallest size that change one thing
    "constant-rate",
    "rate-third",
    "rate-triple",
    "decay-none",
    "decay-tenfold",
    "batch-quarter",
    "batch-quarter-rate-half",
    "batch-quarter-facts-quarter",
    "corpus-duplicated",
    "corpus-deduplicated",
    "optimizer-keep",
    "optimizer-reset",
)


@dataclasses.dataclass(frozen=True)
class Spec:
    """All runs of the study follow from one."""

    base: facts_presets.Spec  # the run at the smallest size
    sizes: tuple[str, ...]  # named models, smallest first
    factors: tuple[str, ...] = FACTORS  # which of them to run
    seeds: int = 3  # runs of the smallest size; in each, facts take other arms
    share_after: int = 100  # steps after the last maximum at which the share left is compared
    resamples: int = 1000  # of the facts

    def __post_init__(self):
        if not self.sizes or self.seeds < 1:
            raise UserError(
                f"expected at least one size and one seed, got sizes {self.sizes} and seeds "
                f"{self.seeds}"
            )
        if not {SAME, CONTROL} <= set(self.base.facts.names):
            raise UserError(
                f"expected arms {SAME} and {CONTROL} in base.facts.arms, got "
                f"{', '.join(self.base.facts.names)}"
            )
        for name in self.factors:
            if name not in FACTORS:
                raise UserError(f"unknown run {name!r} in factors; {nearest(name, FACTORS)}")


def smoke() -> Spec:
    """A minute or two on two cores: every question asked, nothing shown."""
    base = _base(steps=110, num_facts=24, rows=16, start=10, apart=(4, 8, 12))
    return Spec(base, ("pocket-0.1m",), seeds=2)


def desk() -> Spec:
    """Within an hour on two cores: three sizes of up to 3M parameters, fifteen runs."""
    base = _base(steps=330, num_facts=96, rows=32, start=60, apart=(10, 20, 40))
    return Spec(base, ("pocket-0.3m", "pocket-1m", "pocket-3m"))


def _base(steps: int, num_facts: int, rows: int, start: int, apart) -> facts_presets.Spec:
    short, middle, long = apart

    def same(after: int, interval: int, more: str = "encounters=6") -> str:
        return f"same/start={start + after}/interval={interval}/{more}"

    return facts_presets.Spec(
        model=presets.named("pocket-0.1m", vocab_size=2048),
        data=DataConfig(
            ("wiki_leads@0.7", "wordnet_glosses@0.3"), "bpe:2048", length=128, batch_size=rows
        ),
        optim=OptimConfig(ScheduleConfig("cosine", 3e-3, warmup=start // 2)),
        train=TrainConfig(steps, validate_every=0, checkpoint=CheckpointConfig(steps=(start - 2,))),
        probe=ProbeConfig(),
        facts=FactsConfig(
            num_facts=num_facts,
            # A step or two apart, so that few rows hold the facts of several arms.
            arms=(
                SAME,
                f"paraphrase6:paraphrase/start={start + 1}",
                f"single:{same(2, middle, 'encounters=1')}",
                f"every{short}:{same(4, short)}",
                f"every{long}:{same(3, long)}",
                f"late:{same(6 * middle + 2, middle)}",
                f"zipf:{same(0, middle, 'encounters=12/spacing=zipf')}",
                "control",
            ),
            matched=True,
            blocks=num_facts // 24 if num_facts >= 96 else 1,
            start=start,
            interval=middle,
            encounters=6,
            window=min(apart),
            probes_per_depth=1,
        ),
    )


def runs(spec: Spec, workdir: Path) -> dict[str, facts_presets.Spec]:
    """The runs by name, those that others start from first."""
    replace = dataclasses.replace

    def of_size(name: str) -> facts_presets.Spec:
        return replace(spec.base, model=presets.named(name, vocab_size=spec.base.model.vocab_size))

    found = {f"size-{name}": of_size(name) for name in spec.sizes}
    first, small = next(iter(found.items()))
    for seed in range(1, spec.seeds):
        data = replace(small.data, seed=small.data.seed + seed)
        turned = replace(small.facts, rotation=seed)
        found[f"seed-{seed}"] = replace(small, seed=small.seed + seed, data=data, facts=turned)

    def optim(**changes) -> facts_presets.Spec:
        return replace(small, optim=replace(small.optim, **changes))

    def rate(factor: float, run: facts_presets.Spec = small) -> facts_presets.Spec:
        schedule = replace(run.optim.schedule, peak=run.optim.schedule.peak * factor)
        return replace(run, optim=replace(run.optim, schedule=schedule))

    constant = replace(small.optim.schedule, kind="constant")
    found["constant-rate"] = optim(schedule=constant)
    found["rate-third"] = rate(1 / 3)
    found["rate-triple"] = rate(3.0)
    found["decay-none"] = optim(weight_decay=0.0)
    found["decay-tenfold"] = optim(weight_decay=10 * small.optim.weight_decay)
    # Half of the text comes from one document in a hundred, often enough to meet it in one epoch.
    copied = replace(small.data, copies=100, copied_share=0.01)
    found["corpus-duplicated"] = replace(small, data=copied)
    found["corpus-deduplicated"] = replace(small, data=replace(small.data, near_duplicates=0.8))
    quarter = replace(small, data=replace(small.data, batch_size=small.data.batch_size // 4))
    found["batch-quarter"] = quarter
    found["batch-quarter-rate-half"] = rate(0.5, quarter)
    quarter_of = small.facts.num_facts // 4
    if quarter_of >= len(small.facts.names):
        fewer = replace(small.facts, num_facts=quarter_of, blocks=1)
        found["batch-quarter-facts-quarter"] = replace(quarter, facts=fewer)
    trunk, start = str(workdir / "runs" / first), small.train.checkpoint.steps[0]
    for policy in ("keep", "reset"):
        train = replace(
            small.train,
            steps=small.train.steps - start,
            checkpoint=CheckpointConfig(),
            start=replace(small.train.start, run=trunk, step=start, optimizer=policy),
        )
        shifted = replace(small.facts, start=small.facts.start - start, arms=_shift(small, start))
        found[f"optimizer-{policy}"] = replace(small, train=train, facts=shifted)
    unasked = set(FACTORS) - set(spec.factors)
    return {name: run for name, run in found.items() if name not in unasked}


def _shift(run: facts_presets.Spec, steps: int) -> tuple[str, ...]:
    """The arms with every start of their own so many steps earlier."""
    arms = []
    for entry in run.facts.arms:
        parts = entry.split("/")
        moved = [
            f"start={int(part[6:]) - steps}" if part.startswith("start=") else part
            for part in parts
        ]
        arms.append("/".join(moved))
    return tuple(arms)


def roles(facts_config: FactsConfig) -> dict[str, tuple[str, ...]]:
    """Which arms answer which question, of the arms that a run has."""
    every = sorted(
        (
            arm
            for arm in facts_config.treatments
            if arm.name.startswith("every") or arm.name == SAME
        ),
        key=lambda arm: arm.interval,
    )
    found = {"intervals": tuple(arm.name for arm in every)}
    for role, arm in ((SAME, SAME), ("paraphrase", "paraphrase6"), ("late", "late"), ("zipf",) * 2):
        found[role] = (arm,) if arm in facts_config.names else ()
    return found


def run(spec: Spec, workdir: Path, command: str) -> Path:
    """Does the runs that are not done, asks the questions and writes the report."""
    folder = RunFolder(workdir)
    planned = runs(spec, folder.path)
    folder.claim(spec, {"fingerprint": specs.fingerprint(sorted(planned)), "command": command})
    studies: dict[str, Study] = {}
    for i, (name, run_spec) in enumerate(planned.items()):
        _log.info("run %d of %d: %s", i + 1, len(planned), name)
        done, _ = facts.learn(run_spec, folder.path / "runs" / name, command)
        studies[name] = open_study(
            open_log(done.probes),
            timetable.schedule(run_spec.facts),
            timetable.resolve_window(run_spec.facts, run_spec.optim.b1),
            run_spec.facts.seed,
            spec.resamples,
        )
    rows = ask(spec, studies)
    files.write_json(folder.results, rows)
    study = page(spec, planned, studies, rows, command)
    files.write_text(folder.path / "results.md", markdown(study))
    return write_report(folder.path, study)


def ask(spec: Spec, studies: Mapping[str, Study]) -> list[claims.Row]:
    """Every question of the study, in the order of its claims."""
    rows, asked = [], roles(spec.base.facts)
    sizes = [f"size-{name}" for name in spec.sizes]
    for name in [name for name in studies if name in sizes or name == "constant-rate"]:
        rows += claims.within_run(studies[name], name, asked)
    for small, large in itertools.pairwise(sizes):
        what = f"in {large} less in {small}"
        rows += claims.between_runs(
            studies[large], studies[small], f"{large}-minus-{small}", SAME, what, spec.share_after
        )
    reference = {"optimizer-reset": "optimizer-keep"}
    for name in studies:
        if name in sizes or name.startswith("seed-") or name == "optimizer-keep":
            continue
        other = reference.get(name, sizes[0])
        if other not in studies:
            continue
        if studies[name].weights[SAME].shape != studies[other].weights[SAME].shape:
            continue  # other facts: the report sets the two side by side instead
        rows += claims.between_runs(
            studies[name],
            studies[other],
            f"{name}-minus-{other}",
            SAME,
            f"in {name} less in {other}",
            spec.share_after,
        )
    if "batch-quarter-facts-quarter" in studies:
        name = "batch-quarter-facts-quarter"
        rows += claims.within_run(studies[name], name, asked)
    again = [studies[sizes[0]], *(s for name, s in studies.items() if name.startswith("seed-"))]
    for depth in studies[sizes[0]].depths:
        rows += claims.seeds(again, SAME, depth)
    return rows


def page(spec: Spec, planned, studies: Mapping[str, Study], rows, command: str) -> ClaimsStudy:
    """What the report says."""
    names = [f"size-{name}" for name in spec.sizes]
    asked = roles(spec.base.facts)
    return ClaimsStudy(
        rows=rows,
        changes=changes(planned),
        studies={name: studies[name] for name in names},
        sizes={
            f"size-{name}": size.num_params(planned[f"size-{name}"].model) for name in spec.sizes
        },
        intervals=asked["intervals"],
        same=SAME,
        horizons={
            name: 1 / (run.optim.schedule.peak * run.optim.weight_decay)
            for name, run in planned.items()
            if run.optim.weight_decay
        },
        command=command,
    )


def changes(planned: Mapping[str, facts_presets.Spec]) -> dict[str, str]:
    """How every run differs from the first."""
    head = specs.to_json(next(iter(planned.values())))
    return {
        name: "; ".join(specs.difference(head, specs.to_json(run))) for name, run in planned.items()
    }


def describe(spec: Spec) -> list[str]:
    """The runs in a line each, and the first one's plan in full."""
    planned = runs(spec, Path("WORKDIR"))
    first, head = next(iter(planned.items()))
    lines = [f"{len(planned)} runs:"]
    lines += [f"  {name}" + (f": {how}" if how else "") for name, how in changes(planned).items()]
    return [*lines, "", f"{first}:", *facts.describe(head)]


def explain(spec: Spec, step: int) -> str:
    """What every row of a step of the first run holds."""
    return facts.explain(next(iter(runs(spec, Path("WORKDIR")).values())), step)


if __name__ == "__main__":
    cli.start(cli.Study("claims", {"smoke": smoke, "desk": desk}, run, describe, explain, "desk"))
