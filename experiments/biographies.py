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
import numpy as np

from experiments import cli
from llm_dynamics import files
from llm_dynamics.data import cache, split
from llm_dynamics.data.build import OpenData, build_plan, build_tokenizer
from llm_dynamics.data.config import DataConfig
from llm_dynamics.data.explain import format_explanation
from llm_dynamics.data.plan import Plan
from llm_dynamics.data.sources import open_source, parse_source
from llm_dynamics.data.tokenizers import Tokenizer, check_vocabulary
from llm_dynamics.errors import UserError
from llm_dynamics.facts import biographies as lib
from llm_dynamics.facts import biography_results as results
from llm_dynamics.facts.biographies import BiographyConfig, Person
from llm_dynamics.model import presets, size
from llm_dynamics.optim.optimizer import OptimConfig
from llm_dynamics.optim.schedules import ScheduleConfig
from llm_dynamics.probe import packing
from llm_dynamics.probe.cadence import ProbeConfig, probe_steps
from llm_dynamics.probe.log import ProbeLog, open_log
from llm_dynamics.probe.probes import EncodedProbe, Probe, encode_all
from llm_dynamics.report.biographies_report import BiographiesStudy, write_report
from llm_dynamics.train import parts as parts_lib
from llm_dynamics.train import plan_lines
from llm_dynamics.train.config import CheckpointConfig, RunSpec, TrainConfig
from llm_dynamics.train.loop import train
from llm_dynamics.train.parts import Parts
from llm_dynamics.train.processes import on_first
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
class Prepared:
    """Everything a run reads, made from the spec alone."""

    parts: Parts
    tokenizer: Tokenizer
    people: tuple[Person, ...]
    plan: Plan
    probes: tuple[Probe, ...]
    encoded: Sequence[EncodedProbe]
    packed: packing.PackedProbes
    steps: np.ndarray  # at which the probes are scored


def prepare(spec: Spec, folder: RunFolder | None = None) -> Prepared:
    """Invents the people and opens the data; refuses whatever does not fit before any training.

    Args:
      spec: the run.
      folder: its run folder, where a run that exists recorded what it started from.
    """
    run_parts = parts_lib.build(spec, folder)
    steps = probe_steps(spec.probe, spec.train.steps)
    people = lib.invent(spec.biographies)
    _log.info("preparing the data: %s", ", ".join(spec.data.sources))
    data = open_with_biographies(spec.data, people, spec.biographies.seed)
    tokenizer = build_tokenizer(spec.data, data)
    check_vocabulary(tokenizer, spec.model.vocab_size)
    probes = lib.probes(people, spec.biographies)
    encoded = encode_all(probes, tokenizer)
    check_answers(probes, encoded)
    rows = run_parts.row_devices
    length = packing.best_length(encoded, spec.data.length, rows)
    return Prepared(
        parts=run_parts,
        tokenizer=tokenizer,
        people=people,
        plan=build_plan(
            spec.data,
            tokenizer,
            steps=spec.train.steps,
            first_step=run_parts.first_data_step,
            data=data,
        ),
        probes=probes,
        encoded=encoded,
        packed=packing.pack(encoded, length, rows),
        steps=steps,
    )


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
    device = jax.devices()[0]
    data = ready.plan.describe() | {
        "tokenizer": ready.tokenizer.name,
        "command": command,
        "device": f"{jax.device_count()} x {device.device_kind} ({device.platform})",
    }
    on_first(lambda: folder.claim(spec, data, ready.parts.origin))
    train(
        ready.parts,
        ready.plan,
        folder,
        packed=ready.packed,
        probe_steps=ready.steps,
        open_probe_log=lambda: ProbeLog(
            folder.probes,
            ready.probes,
            [probe.num_target for probe in ready.encoded],
            ready.steps,
            ready.steps * ready.plan.tokens_per_step,
        ),
    )
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
    model = spec.model
    return BiographiesStudy(
        config=spec.biographies,
        people=ready.people,
        found=found,
        parameters=size.num_params(model),
        model=(
            ("parameters", size.num_params(model)),
            ("layers", model.num_layers),
            ("width", model.width),
            ("heads", model.num_heads),
            ("vocabulary", model.vocab_size),
            ("tokenizer", ready.tokenizer.name),
        ),
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
    if not 0 <= step < spec.train.steps:
        raise UserError(f"expected --explain=0 to {spec.train.steps - 1}, got {step}")
    return format_explanation(prepare(spec).plan.explain(step))


if __name__ == "__main__":
    sizes = {"smoke": smoke, "laptop": laptop}
    cli.start(cli.Study("biographies", sizes, run, describe, explain))
