"""The claims about facts, tested side by side: sizes, stages, intervals, doses, batches, rates.

    launch/local claims                   preset desk: thirty runs, an hour or more on two cores
    launch/local claims --preset=smoke    the same questions on tiny runs, to see that it works

Every setting is run several times, with other seeds and the arms turned, so that a fact is compared
with itself where it is never said (`facts.crossed`). Each run is a facts run in WORKDIR/runs/NAME
and can be opened as one. One that is cut short is resumed by the same command; a complete one is
not repeated.
"""

import dataclasses
import itertools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments import cli, facts, facts_presets
from llm_dynamics import files
from llm_dynamics import spec as specs
from llm_dynamics.data.config import DataConfig
from llm_dynamics.errors import UserError
from llm_dynamics.facts import claims, timetable
from llm_dynamics.facts.arms import FactsConfig
from llm_dynamics.facts.cells import CONTROL
from llm_dynamics.facts.crossed import cross
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
    "batch-half",
    "batch-half-rate-root-half",
    "batch-half-facts-half",
    "corpus-duplicated",
    "corpus-deduplicated",
    "optimizer-keep",
    "optimizer-reset",
)


APART = ("batch-half-facts-half",)  # has other facts, so it is set beside the others


@dataclasses.dataclass(frozen=True)
class Spec:
    """All runs of the study follow from one."""

    base: facts_presets.Spec  # the run at the smallest size
    sizes: tuple[str, ...]  # named models, smallest first
    factors: tuple[str, ...] = FACTORS  # which of them to run
    base_pairs: int = 4  # pairs of runs of the base, arms turned by half a turn within each
    other_pairs: int = 1  # the same of every other size and factor
    share_after: int = 100  # steps after the last maximum at which the share left is compared
    resamples: int = 1000  # of the facts

    def __post_init__(self):
        if not self.sizes:
            raise UserError("expected at least one size, got none; try sizes=pocket-0.3m")
        arms = self.base.facts.names
        if not {SAME, CONTROL} <= set(arms):
            raise UserError(
                f"expected arms {SAME} and {CONTROL} in base.facts.arms, got {', '.join(arms)}"
            )
        if 2 * abs(arms.index(SAME) - arms.index(CONTROL)) != len(arms):
            raise UserError(
                f"expected {CONTROL} half the arms after {SAME} in base.facts.arms, so that half a "
                f"turn exchanges their facts, got {', '.join(arms)}"
            )
        if not 1 <= self.other_pairs <= self.base_pairs <= len(arms) // 2:
            raise UserError(
                f"expected 1 <= other_pairs <= base_pairs <= {len(arms) // 2}, half the arms, got "
                f"{self.other_pairs} and {self.base_pairs}"
            )
        for name in self.factors:
            if name not in FACTORS:
                raise UserError(f"unknown run {name!r} in factors; {nearest(name, FACTORS)}")

    def turns(self, pairs: int) -> tuple[int, ...]:
        """The rotations of so many pairs of runs, the two of a pair next to each other."""
        half = len(self.base.facts.names) // 2
        return tuple(turn for i in range(pairs) for turn in (i, i + half))


def smoke() -> Spec:
    """A minute or two on two cores: most questions asked, nothing shown."""
    base = _base(steps=110, num_facts=24, rows=16, start=10, apart=(4, 8, 12))
    return Spec(base, ("pocket-0.1m",), ("constant-rate", *FACTORS[-2:]), base_pairs=1)


def desk() -> Spec:
    """An hour or more on two cores: three sizes of up to 3M parameters, thirty runs.

    Left out: a third of the rate, no weight decay, and a corpus without near-duplicates (the texts
    read here have hardly any).
    """
    base = _base(steps=330, num_facts=96, rows=32, start=60, apart=(10, 20, 40))
    left_out = {"rate-third", "decay-none", "corpus-deduplicated"}
    factors = tuple(name for name in FACTORS if name not in left_out)
    return Spec(base, ("pocket-0.3m", "pocket-1m", "pocket-3m"), factors)


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
                CONTROL,
                f"every{long}:{same(3, long)}",
                f"late:{same(6 * middle + 2, middle)}",
                f"zipf:{same(0, middle, 'encounters=12/spacing=zipf')}",
            ),
            start=start,
            interval=middle,
            encounters=6,
            window=min(apart),
            probes_per_depth=1,
        ),
    )


def settings(spec: Spec, workdir: Path) -> dict[str, dict[str, facts_presets.Spec]]:
    """The runs of every setting by their names, settings that others start from first."""
    replace = dataclasses.replace
    first = f"size-{spec.sizes[0]}"
    found = {}
    for name in spec.sizes:
        model = presets.named(name, vocab_size=spec.base.model.vocab_size)
        found[f"size-{name}"] = replace(spec.base, model=model)
    small = found[first]

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
    half = replace(small, data=replace(small.data, batch_size=small.data.batch_size // 2))
    found["batch-half"] = half
    found["batch-half-rate-root-half"] = rate(0.5**0.5, half)
    half_of = small.facts.num_facts // 2
    if half_of >= 2 * len(small.facts.names):
        fewer = replace(small.facts, num_facts=half_of)
        found["batch-half-facts-half"] = replace(half, facts=fewer)
    start = small.train.checkpoint.steps[0]
    for policy in ("keep", "reset"):
        train = replace(
            small.train,
            steps=small.train.steps - start,
            checkpoint=CheckpointConfig(),
            start=replace(small.train.start, run=first, step=start, optimizer=policy),
        )
        shifted = replace(small.facts, start=small.facts.start - start, arms=_shift(small, start))
        found[f"optimizer-{policy}"] = replace(small, train=train, facts=shifted)
    unasked = set(FACTORS) - set(spec.factors)
    return {
        name: {
            _turned_name(name, turn): _turned(run, turn, workdir)
            for turn in spec.turns(spec.base_pairs if name == first else spec.other_pairs)
        }
        for name, run in found.items()
        if name not in unasked
    }


def _turned_name(name: str, turn: int) -> str:
    return f"{name}-turn-{turn}"


def _turned(run: facts_presets.Spec, turn: int, workdir: Path) -> facts_presets.Spec:
    """The run with the arms turned, other seeds, and the parent of the same turn."""
    replace, train = dataclasses.replace, run.train
    if train.start.run:
        parent = str(workdir / "runs" / _turned_name(train.start.run, turn))
        train = replace(train, start=replace(train.start, run=parent))
    return replace(
        run,
        seed=run.seed + turn,
        data=replace(run.data, seed=run.data.seed + turn),
        facts=replace(run.facts, rotation=turn),
        train=train,
    )


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
    planned = settings(spec, folder.path)
    names = [name for runs in planned.values() for name in runs]
    folder.claim(spec, {"fingerprint": specs.fingerprint(sorted(names)), "command": command})
    _refuse_early(planned, folder.path)
    studies: dict[str, list[Study]] = {}
    for setting, runs in planned.items():
        for name, run_spec in runs.items():
            _log.info("run %d of %d: %s", names.index(name) + 1, len(names), name)
            done, _ = facts.learn(run_spec, folder.path / "runs" / name, command)
            study = open_study(
                open_log(done.probes),
                timetable.schedule(run_spec.facts),
                timetable.resolve_window(run_spec.facts, run_spec.optim.b1),
                run_spec.facts.seed,
                spec.resamples,
            )
            studies.setdefault(setting, []).append(study)
    rows = ask(spec, studies)
    files.write_json(folder.results, rows)
    study = page(spec, planned, studies, rows, command)
    files.write_text(folder.path / "results.md", markdown(study))
    return write_report(folder.path, study)


def _refuse_early(planned: Mapping[str, Mapping[str, facts_presets.Spec]], path: Path) -> None:
    """Prepares every run that is not begun, so that none is refused after hours of others.

    One that starts from another waits for it.
    """
    _log.info("checking the plans of all runs")
    for name, run_spec in (item for runs in planned.values() for item in runs.items()):
        begun = RunFolder(path / "runs" / name).spec.exists()
        if not begun and not run_spec.train.start.run:
            try:
                facts.prepare(run_spec)
            except UserError as error:
                raise UserError(f"run {name}: {error}") from None


def ask(spec: Spec, studies: Mapping[str, Sequence[Study]]) -> list[claims.Row]:
    """Every question of the study, in the order of its claims.

    Args:
      spec: of the study.
      studies: setting -> its runs, in the order of their turns.
    """
    rows, asked = [], roles(spec.base.facts)
    sizes = [f"size-{name}" for name in spec.sizes]
    crossed = {name: cross(runs) for name, runs in studies.items()}
    # What is compared between settings was measured in runs of the same turns and seeds.
    alike = {name: cross(runs[: 2 * spec.other_pairs]) for name, runs in studies.items()}
    for name in [name for name in studies if name in sizes or name == "constant-rate"]:
        rows += claims.within_run(crossed[name], name, asked, spec.base.optim.b1)
    pairs = [(large, small) for small, large in itertools.pairwise(sizes)]
    for name in studies:
        other = {"optimizer-reset": "optimizer-keep"}.get(name, sizes[0])
        if name in (*sizes, *APART, "optimizer-keep") or other not in studies:
            continue
        pairs.append((name, other))
    for name, other in pairs:
        rows += claims.between_runs(
            alike[name],
            alike[other],
            f"{name}-minus-{other}",
            SAME,
            f"in {name} less in {other}",
            spec.share_after,
        )
    for name in [name for name in studies if name in APART]:
        rows += claims.within_run(crossed[name], name, asked, spec.base.optim.b1)
    base = studies[sizes[0]]
    again = [cross(base[i : i + 2]) for i in range(0, len(base), 2)]
    for depth in crossed[sizes[0]].depths:
        rows += claims.seeds(again, SAME, depth)
    return rows


def page(
    spec: Spec,
    planned: Mapping[str, Mapping[str, facts_presets.Spec]],
    studies: Mapping[str, Sequence[Study]],
    rows: Sequence[claims.Row],
    command: str,
) -> ClaimsStudy:
    """What the report says."""
    models = {
        f"size-{name}": presets.named(name, vocab_size=spec.base.model.vocab_size)
        for name in spec.sizes
    }
    optims = {name: next(iter(runs.values())).optim for name, runs in planned.items()}
    return ClaimsStudy(
        rows=rows,
        changes=changes(planned),
        num_runs=sum(map(len, planned.values())),
        studies={name: cross(studies[name]) for name in models},
        sizes={name: size.num_params(model) for name, model in models.items()},
        intervals=roles(spec.base.facts)["intervals"],
        same=SAME,
        horizons={
            name: 1 / (optim.schedule.peak * optim.weight_decay)
            for name, optim in optims.items()
            if optim.weight_decay
        },
        command=command,
    )


def changes(planned: Mapping[str, Mapping[str, facts_presets.Spec]]) -> dict[str, str]:
    """How every setting differs from the first, in runs of the same turn, and its runs."""
    firsts = {name: next(iter(runs.values())) for name, runs in planned.items()}
    head = specs.to_json(next(iter(firsts.values())))
    return {
        name: "; ".join(
            [f"{len(planned[name])} runs", *specs.difference(head, specs.to_json(first))]
        )
        for name, first in firsts.items()
    }


def describe(spec: Spec) -> list[str]:
    """The settings in a line each, and the first run's plan in full."""
    planned = settings(spec, Path("WORKDIR"))
    lines = [f"{sum(map(len, planned.values()))} runs:"]
    lines += [f"  {name}: {how}" for name, how in changes(planned).items()]
    name, head = next(iter(next(iter(planned.values())).items()))
    return [*lines, "", f"{name}:", *facts.describe(head)]


def explain(spec: Spec, step: int) -> str:
    """What every row of a step of the first run holds."""
    first = next(iter(settings(spec, Path("WORKDIR")).values()))
    return facts.explain(next(iter(first.values())), step)


if __name__ == "__main__":
    cli.start(cli.Study("claims", {"smoke": smoke, "desk": desk}, run, describe, explain, "desk"))
