"""When does a model recall what it read about a person? (Zucchet et al. 2025; Allen-Zhu & Li.)

    launch/local biographies                     biographies of invented people, in ten minutes
    launch/local biographies --preset=smoke      the same in a minute, to see that everything works
    launch/local biographies --config.biographies.exposure=zipf   some people are met more often

A model reads nothing but biographies. It is asked for every attribute of every person in a wording
it has read about that person and in one it has not, and for people it never reads about. What
somebody who cannot tell people apart loses on the answers is known exactly: the baseline.
"""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import jax

from experiments import cli, probed
from llm_dynamics import files
from llm_dynamics.data import cache, split
from llm_dynamics.data.build import OpenData
from llm_dynamics.data.config import DataConfig
from llm_dynamics.data.plan import Plan
from llm_dynamics.data.sources import open_source, parse_source
from llm_dynamics.errors import UserError
from llm_dynamics.facts import biographies as lib
from llm_dynamics.facts import biography_results as results
from llm_dynamics.facts.biographies import BiographyConfig, Person
from llm_dynamics.model import presets, size
from llm_dynamics.optim.optimizer import OptimConfig
from llm_dynamics.optim.schedules import ScheduleConfig
from llm_dynamics.probe.cadence import ProbeConfig, probe_steps
from llm_dynamics.probe.log import open_log
from llm_dynamics.probe.probes import EncodedProbe, Probe
from llm_dynamics.report.biographies_report import BiographiesStudy, write_report
from llm_dynamics.train import plan_lines
from llm_dynamics.train.config import CheckpointConfig, RunSpec, TrainConfig
from llm_dynamics.train.run_folder import RunFolder

_log = logging.getLogger("llm_dynamics.biographies")


@dataclasses.dataclass(frozen=True)
class Spec(RunSpec):
    """A run and the population it reads about."""

    biographies: BiographyConfig = dataclasses.field(default_factory=BiographyConfig)

    def __post_init__(self):
        super().__post_init__()
        sources = [parse_source(source)[0] for source in self.data.sources]
        if lib.SOURCE not in sources:
            raise UserError(
                f"expected {lib.SOURCE!r} among data.sources, got {', '.join(sources)}; name it, "
                f"e.g. data.sources={lib.SOURCE}@1"
            )
        if self.data.validation_fraction:
            raise UserError(
                "expected data.validation_fraction=0, since a biography held out would change how "
                f"often its person is met, got {self.data.validation_fraction}; the held-out "
                "wordings and the unseen people are the validation"
            )


# ---- sizes ---------------------------------------------------------------------------------------


def smoke() -> Spec:
    """Ends within a minute or so on two cores: shows that everything works, proves nothing."""
    return Spec(
        model=presets.named("pocket-0.1m", vocab_size=768),
        data=DataConfig(
            (lib.SOURCE,), "bpe:768", length=96, batch_size=16, validation_fraction=0.0
        ),
        optim=OptimConfig(ScheduleConfig("cosine", 1e-2, warmup=20)),
        train=TrainConfig(200, validate_every=0, checkpoint=CheckpointConfig(every=100)),
        probe=ProbeConfig(every=10),
        biographies=BiographyConfig(people=40, unseen=20, name_words=16, answers=8),
    )


def laptop() -> Spec:
    """Ends within ten minutes on two cores: few people, and so many meetings of each.

    The plateau grows with the number of people: of 100, the loss falls through the baseline
    without a rest. Scoring 160 of the people costs about a fifth of the training.
    """
    return Spec(
        model=presets.named("pocket-0.3m", vocab_size=1024),
        data=DataConfig(
            (lib.SOURCE,), "bpe:1024", length=96, batch_size=16, validation_fraction=0.0
        ),
        optim=OptimConfig(ScheduleConfig("cosine", 6e-3, warmup=50)),
        train=TrainConfig(1600, validate_every=0, checkpoint=CheckpointConfig(every=50)),
        probe=ProbeConfig(every=20),
        biographies=BiographyConfig(people=400, unseen=60, name_words=45, probed=160),
    )


# ---- the run -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Prepared(probed.Prepared):
    """A prepared run with the people that it reads about."""

    people: tuple[Person, ...]


def prepare(spec: Spec, folder: RunFolder | None = None) -> Prepared:
    """Invents the people and opens the data; refuses whatever does not fit before any training.

    Args:
      spec: the run.
      folder: its run folder, where a run that exists recorded what it started from.
    """
    people = lib.invent(spec.biographies)
    ready = probed.prepare(
        spec,
        folder,
        lib.probes(people, spec.biographies),
        probe_steps(spec.probe, spec.train.steps),
        open_with=lambda data: open_with_biographies(data, people, spec.biographies.seed),
    )
    check_answers(ready.probes, ready.encoded)
    return Prepared(**vars(ready), people=people)


def open_with_biographies(config: DataConfig, people: Sequence[Person], seed: int) -> OpenData:
    """The sources of a configuration, `biographies` among them, nothing held out."""
    folder = cache.cache_folder(config.cache_dir)
    sources = []
    for name in config.sources:
        target, _, weight = parse_source(name)
        if target == lib.SOURCE:
            sources.append(lib.source(people, seed, weight))
        else:
            sources.append(open_source(name, folder))
    parts = split.cached_split(sources, 0.0, config.dedup_threshold, config.seed, folder / "splits")
    return OpenData(config, folder, tuple(sources), parts)


def check_answers(probes: Sequence[Probe], encoded: Sequence[EncodedProbe]) -> None:
    """Refuses a tokenizer under which the baseline would not be exact."""
    targets: dict[str, dict[str, tuple[int, ...]]] = {}
    for probe, code in zip(probes, encoded, strict=True):
        answers = targets.setdefault(probe.labels["attribute"], {})
        answers[probe.target] = code.ids[-code.num_target :]
    lib.check_answers(targets)


def run(spec: Spec, workdir: Path, command: str) -> Path:
    """Trains, probes, computes and reports; resumes what is there. Returns the report's path."""
    folder = RunFolder(workdir)
    ready = prepare(spec, folder)
    probed.learn(ready, folder, command)
    if jax.process_index() == 0:
        _log.info("computing the results")
        found = results.analyse(open_log(folder.probes), **about(spec, ready.plan))
        files.write_json(folder.results, found.rows)
        _log.info("drawing the report")
        write_report(folder.path, study=page(spec, ready, found))
    return folder.report


def about(spec: Spec, plan: Plan) -> dict:
    """What the measures need beyond the log."""
    total = plan.describe(spec.train.steps)
    own = next(source for source in total["sources"] if source["name"] == lib.SOURCE)
    return {
        "parameters": size.num_params(spec.model),
        "people": spec.biographies.people,
        "exposures_per_step": own["epochs"] * spec.biographies.texts / spec.train.steps,
        "seed": spec.biographies.seed,
    }


def page(spec: Spec, ready: Prepared, found: results.Analysis) -> BiographiesStudy:
    """What the report says beyond the run folder."""
    return BiographiesStudy(
        config=spec.biographies,
        people=ready.people,
        found=found,
        parameters=size.num_params(spec.model),
        model=probed.model_rows(ready),
    )


def describe(spec: Spec) -> list[str]:
    """The whole plan in lines, for --dry_run."""
    ready = prepare(spec)
    config, met = spec.biographies, [p.documents for p in ready.people if p.documents]
    per_pass = about(spec, ready.plan)["exposures_per_step"] * spec.train.steps / config.texts
    return [
        *plan_lines.describe(ready.parts, ready.plan),
        "",
        f"people: {config.people} met {min(met) * per_pass:.0f} to {max(met) * per_pass:.0f} times "
        f"each, {config.unseen} never; {sum(p.is_fixed for p in ready.people)} with one fixed text",
        f"baseline: {lib.baselines(ready.people)[: config.people].mean():.4f} nats an answer "
        f"({len(lib.ATTRIBUTES)} attributes of {config.answers} answers)",
        f"probes: {len(ready.probes)}, scored at {len(ready.steps)} steps",
    ]


def explain(spec: Spec, step: int) -> str:
    """What every row of a step holds: documents, offsets, sources."""
    return probed.explain(spec, step, prepare)


if __name__ == "__main__":
    sizes = {"smoke": smoke, "laptop": laptop}
    cli.start(cli.Study("biographies", sizes, run, describe, explain))
