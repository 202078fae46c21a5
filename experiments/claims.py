"""The claims about facts, tested side by side: sizes, stages, intervals, doses, batches, rates.

    launch/local claims                   preset desk: about an hour on two cores
    launch/local claims --preset=smoke    the same questions on tiny runs, to see that it works

Every setting is run in pairs, with other seeds and the arms turned by half a turn. Duplication and
control stand half a turn apart, so they exchange their facts: a fact said in the same words is
compared with itself in a run that never says it (`facts.crossed`). Of other arms that is true where
all turns are run, as in the base; with one pair of runs they are compared with other facts, and
every row says which. The learning rate is constant after its warm-up, so that what is said later or
more rarely is not said at a lower rate.

Each run is a facts run in WORKDIR/runs/NAME
and can be opened as one. One that is cut short is resumed by the same command; a complete one is
not repeated.
"""

import dataclasses
import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
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
from llm_dynamics.report.claims_report import ArmDose, ClaimsStudy, markdown, write_report
from llm_dynamics.spec import nearest
from llm_dynamics.train.config import CheckpointConfig, TrainConfig
from llm_dynamics.train.run_folder import RunFolder

_log = logging.getLogger("llm_dynamics.claims")

SAME = "duplication"


FACTORS = (  # runs of the smallest size that change one thing
    "cosine-rate",
    "rate-third",
    "rate-triple",
    "decay-none",
    "decay-tenfold",
    "batch-half",
    "batch-half-rate-root-half",
    "batch-half-facts-half",
    "batch-half-tokens",
    "corpus-duplicated",
    "corpus-deduplicated",
    "optimizer-keep",
    "optimizer-reset",
)


UNPAIRED = ("batch-half-facts-half",)  # have other facts than the runs they are compared with
TWICE = ("batch-half-tokens",)  # as many tokens in twice the steps


@dataclasses.dataclass(frozen=True)
class Spec:
    """All runs of the study follow from one."""

    base: facts_presets.Spec  # the run at the smallest size
    sizes: tuple[str, ...]  # named models, smallest first
    factors: tuple[str, ...] = FACTORS  # which of them to run
    base_pairs: int = 4  # pairs of runs of the base, arms turned by half a turn within each
    other_pairs: int = 1  # the same of every other size and factor; three or more are resampled
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
        self._check_times()

    def _check_times(self):
        """Refuses encounters of which the questions cannot be asked."""
        config, asked = self.base.facts, roles(self.base.facts)
        times = timetable.schedule(config)
        for arm in asked["intervals"]:
            if len(times[arm]) < 2:
                raise UserError(
                    f"expected two encounters or more at equal intervals for arm {arm}, whose "
                    f"interval is a question, got {len(times[arm]) or 'times drawn fact by fact'}; "
                    "raise its encounters, or give it a name that does not begin with `every`"
                )
        last = max(times[arm][-1] for role in (SAME, "paraphrase") for arm in asked[role])
        end = last + timetable.resolve_window(config, self.base.optim.b1)
        most = self.base.train.steps - end
        if not 1 <= self.share_after <= most or most < claims.SOON:
            wanted = max(self.share_after, claims.SOON)
            raise UserError(
                f"expected share_after from 1 to {most}, the steps of base.train.steps after step "
                f"{end}, where the last window of {SAME} and paraphrases ends, and {claims.SOON} "
                f"of them at least, got {self.share_after}; set base.train.steps to {end + wanted} "
                "or more"
            )

    def turns(self, pairs: int) -> tuple[int, ...]:
        """The rotations of so many pairs of runs, the two of a pair next to each other."""
        half = len(self.base.facts.names) // 2
        return tuple(turn for i in range(pairs) for turn in (i, i + half))


def smoke() -> Spec:
    """A minute or two on two cores: most questions asked, nothing shown."""
    base = _base(steps=110, num_facts=24, rows=16, start=10, apart=(4, 8, 12))
    factors = ("cosine-rate", "optimizer-keep", "optimizer-reset")
    return Spec(base, ("pocket-0.1m",), factors, base_pairs=1, share_after=30)


def desk() -> Spec:
    """About an hour on two cores with nothing else to do: three sizes of up to 3M parameters.

    Left out: a corpus without near-duplicates (the texts read here have hardly any).
    """
    base = _base(steps=300, num_facts=96, rows=32, start=50, apart=(10, 20, 40))
    factors = tuple(name for name in FACTORS if name != "corpus-deduplicated")
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
        optim=OptimConfig(ScheduleConfig("constant", 3e-3, warmup=start // 2)),
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

    found["cosine-rate"] = optim(schedule=replace(small.optim.schedule, kind="cosine"))
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
    schedule = replace(small.optim.schedule, warmup=2 * small.optim.schedule.warmup)
    found["batch-half-tokens"] = replace(
        half,
        optim=replace(small.optim, schedule=schedule),
        train=replace(small.train, steps=2 * small.train.steps),
        facts=_retimed(small.facts, start=lambda step: 2 * step, interval=lambda gap: 2 * gap),
    )
    start = small.train.checkpoint.steps[0]
    for policy in ("keep", "reset"):
        train = replace(
            small.train,
            steps=small.train.steps - start,
            checkpoint=CheckpointConfig(),
            start=replace(small.train.start, run=first, step=start, optimizer=policy),
        )
        shifted = _retimed(small.facts, start=lambda step: step - start)
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


def _retimed(config: FactsConfig, **changes: Callable[[int], int]) -> FactsConfig:
    """The facts at other times.

    Args:
      config: of the facts.
      **changes: `start` and `interval`, what becomes of them in the config and its arms.
    """

    def changed(setting: str) -> str:
        key, _, value = setting.partition("=")
        return f"{key}={changes[key](int(value))}" if key in changes else setting

    arms = tuple("/".join(map(changed, entry.split("/"))) for entry in config.arms)
    own = {key: change(getattr(config, key)) for key, change in changes.items()}
    return dataclasses.replace(config, arms=arms, **own)


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
    doses: dict[str, list[dict[str, ArmDose]]] = {}
    for setting, runs in planned.items():
        for name, run_spec in runs.items():
            _log.info("run %d of %d: %s", names.index(name) + 1, len(names), name)
            done, ready = facts.learn(run_spec, folder.path / "runs" / name, command)
            study = open_study(
                open_log(done.probes),
                timetable.schedule(run_spec.facts),
                timetable.resolve_window(run_spec.facts, run_spec.optim.b1),
                run_spec.facts.seed,
                spec.resamples,
            )
            studies.setdefault(setting, []).append(study)
            doses.setdefault(setting, []).append(_doses(ready))
    rows = ask(spec, studies)
    files.write_json(folder.results, rows)
    study = page(spec, planned, studies, doses, rows, command)
    files.write_text(folder.path / "results.md", markdown(study))
    return write_report(folder.path, study)


def _doses(ready: facts.Prepared) -> dict[str, ArmDose]:
    """What each injected arm is given in a run."""
    read = ready.parts.spec.train.steps * ready.plan.tokens_per_step
    return {
        arm: ArmDose(given.facts, given.encounters, given.tokens, given.tokens / read)
        for arm, given in facts.doses(ready).items()
        if given.insertions
    }


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
    beta1, after = spec.base.optim.b1, spec.share_after
    for name in [name for name in studies if name in sizes or name == "cosine-rate"]:
        rows += claims.within_run(cross_pairs(studies[name]), name, asked, beta1, after)
    pairs = [(large, small) for small, large in itertools.pairwise(sizes)]
    for name in studies:
        other = {"optimizer-reset": "optimizer-keep"}.get(name, sizes[0])
        if name not in (*sizes, "optimizer-keep") and other in studies:
            pairs.append((name, other))
    for name, other in pairs:
        # What is compared was measured in runs of the same turns and seeds.
        runs = min(len(studies[name]), len(studies[other]))
        rows += claims.between_runs(
            cross_pairs(studies[name][:runs]),
            cross_pairs(studies[other][:runs]),
            f"{name}-minus-{other}",
            SAME,
            f"in {name} less in {other}",
            2 * after if name in TWICE else after,
            after,
            paired=name not in UNPAIRED,
        )
    base = studies[sizes[0]]
    again = [cross(base[i : i + 2]) for i in range(0, len(base), 2)]
    for depth in again[0].depths:
        rows += claims.seeds(again, SAME, depth)
    return rows


def cross_pairs(runs: Sequence[Study]) -> Study:
    """Runs crossed, the two of every pair a unit."""
    return cross(runs, units=[i // 2 for i in range(len(runs))])


def page(
    spec: Spec,
    planned: Mapping[str, Mapping[str, facts_presets.Spec]],
    studies: Mapping[str, Sequence[Study]],
    doses: Mapping[str, Sequence[Mapping[str, ArmDose]]],
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
        studies={name: cross_pairs(studies[name]) for name in models},
        sizes={name: size.num_params(model) for name, model in models.items()},
        intervals=roles(spec.base.facts)["intervals"],
        same=SAME,
        horizons={
            name: 1 / (optim.schedule.peak * optim.weight_decay)
            for name, optim in optims.items()
            if optim.weight_decay
        },
        doses={
            name: {arm: ArmDose.mean([run[arm] for run in runs]) for arm in runs[0]}
            for name, runs in doses.items()
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
