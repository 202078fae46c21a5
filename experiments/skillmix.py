"""Are random combinations of skills shown together in one short text? (Yu et al. 2023)

    launch/local skillmix                      a small decoder of ours in a small language
    launch/local skillmix --preset=smoke       the same within a minute, to see that it works
    EXTRAS=skillmix launch/local skillmix --preset=endpoint \\
        --config.writer.endpoint.base_url=URL --config.writer.endpoint.model=NAME \\
        --config.grader.endpoint.base_url=URL --config.grader.endpoint.model=NAME
    EXTRAS=hf launch/local skillmix --preset=local --config.writer.hf.path=FOLDER \\
        --config.grader.hf.path=FOLDER

docs/skillmix.md says more. Every reply is kept in a ledger: the same command never pays twice.
"""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from experiments import cli, probed
from llm_dynamics import files
from llm_dynamics.data import cache, split
from llm_dynamics.data.build import OpenData
from llm_dynamics.data.config import DataConfig
from llm_dynamics.errors import UserError
from llm_dynamics.model import presets
from llm_dynamics.optim.optimizer import OptimConfig
from llm_dynamics.optim.schedules import ScheduleConfig
from llm_dynamics.probe.cadence import ProbeConfig
from llm_dynamics.report.skillmix_report import SkillmixStudy, write_report
from llm_dynamics.results import Row
from llm_dynamics.skillmix import evaluate as lib
from llm_dynamics.skillmix import lists, own, parrot, rates, result_rows, synth, synth_texts
from llm_dynamics.skillmix.chat import Settings
from llm_dynamics.skillmix.evaluate import EvalConfig, Prices, Result
from llm_dynamics.skillmix.items import Item, items
from llm_dynamics.skillmix.ledger import Ledger
from llm_dynamics.skillmix.lists import ListsConfig
from llm_dynamics.skillmix.models import ModelSpec, open_model
from llm_dynamics.skillmix.scores import Corrections
from llm_dynamics.skillmix.skills import Skill
from llm_dynamics.skillmix.synth_texts import SynthConfig
from llm_dynamics.spec import fingerprint, to_json
from llm_dynamics.train import plan_lines
from llm_dynamics.train.config import CheckpointConfig, RunSpec, TrainConfig
from llm_dynamics.train.finished import finished_run
from llm_dynamics.train.run_folder import RunFolder

_log = logging.getLogger("llm_dynamics.skillmix")


@dataclasses.dataclass(frozen=True)
class SynthSpec(RunSpec):
    """A decoder of ours is trained in the small language and graded exactly."""

    texts: SynthConfig = dataclasses.field(default_factory=SynthConfig)
    evaluation: EvalConfig = dataclasses.field(default_factory=EvalConfig)
    batch: int = 64  # texts that are written together

    def __post_init__(self):
        super().__post_init__()
        if self.data.sources != (synth_texts.SOURCE,) or self.data.validation_fraction:
            raise UserError(
                f"expected data.sources={synth_texts.SOURCE} and data.validation_fraction=0, so "
                "that what the model read is known exactly"
            )
        if self.evaluation.corrections.names != "off" or self.evaluation.gradings != 1:
            raise UserError(
                "an exact grader needs one grading and no check for names: expected "
                "evaluation.gradings=1 and evaluation.corrections.names=off"
            )
        if self.evaluation.second_turn != "none":
            raise UserError(
                "the small language has no second turn: expected evaluation.second_turn=none, got "
                f"{self.evaluation.second_turn}"
            )
        if self.evaluation.corrections.sentences:
            raise UserError(
                "an exact grader counts the sentences of the small language, a counter for prose "
                "would overwrite it: expected evaluation.corrections.sentences=false, got true"
            )
        _check_ks(self.evaluation, synth.SKILLS)


@dataclasses.dataclass(frozen=True)
class TextSpec:
    """Any model writes and any model grades."""

    evaluation: EvalConfig = dataclasses.field(default_factory=EvalConfig)
    lists: ListsConfig = dataclasses.field(default_factory=ListsConfig)
    writer: ModelSpec = dataclasses.field(default_factory=ModelSpec)
    grader: ModelSpec = dataclasses.field(default_factory=ModelSpec)
    ledger: str = ""  # file of replies; "" = ledger.jsonl in the run folder
    corpus: parrot.Corpus = dataclasses.field(default_factory=parrot.Corpus)
    larger: tuple[float, ...] = (0.1, 10.0, 100.0)  # other corpora, as factors of its sentences


Spec = SynthSpec | TextSpec


# ---- sizes ---------------------------------------------------------------------------------------


def _synth(model: str, steps: int, texts: SynthConfig, evaluation: EvalConfig) -> SynthSpec:
    return SynthSpec(
        model=presets.named(model, vocab_size=512),
        data=DataConfig(
            (synth_texts.SOURCE,), "bpe:512", length=96, batch_size=16, validation_fraction=0.0
        ),
        optim=OptimConfig(ScheduleConfig("cosine", 6e-3, warmup=30)),
        train=TrainConfig(steps, validate_every=0, checkpoint=CheckpointConfig(every=200)),
        probe=ProbeConfig(),
        texts=texts,
        evaluation=evaluation,
    )


def _exactly(ks: tuple[int, ...], count: int) -> EvalConfig:
    return EvalConfig(
        ks=ks,
        items=count,
        gradings=1,
        second_turn="none",
        writer=Settings(max_tokens=64),
        corrections=Corrections(names="off", sentences=False),
    )


def smoke() -> SynthSpec:
    """Ends within a minute on two cores: shows that everything works, proves nothing."""
    return _synth("pocket-0.1m", 120, SynthConfig(texts=1000, held_out=3), _exactly((1, 2), 16))


def synth_preset() -> SynthSpec:
    """Ends within four minutes on two cores."""
    return _synth("pocket-0.3m", 1000, SynthConfig(texts=12000), _exactly((1, 2, 3, 4, 5, 6), 60))


def endpoint() -> TextSpec:
    """Published numbers of items, generations and gradings, behind endpoints."""
    return TextSpec()


def local() -> TextSpec:
    """A small evaluation with a model of Hugging Face on this machine."""
    local_model = ModelSpec(kind="hf")
    return TextSpec(
        evaluation=EvalConfig(ks=(1, 2), items=10, generations=1, gradings=1),
        writer=local_model,
        grader=local_model,
    )


# ---- the small language --------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Prepared(probed.Prepared):
    """A prepared run with the texts that it reads."""

    corpus: synth_texts.Corpus


def prepare(spec: SynthSpec, folder: RunFolder | None = None) -> Prepared:
    """Writes the training texts and opens the data."""
    corpus = synth_texts.corpus(spec.texts)
    ready = probed.prepare(
        spec, folder, (), np.array([], int), open_with=lambda data: _open(data, corpus, spec)
    )
    return Prepared(**vars(ready), corpus=corpus)


def _open(config: DataConfig, corpus: synth_texts.Corpus, spec: SynthSpec) -> OpenData:
    folder = cache.cache_folder(config.cache_dir)
    sources = (synth_texts.source(corpus, spec.texts.seed),)
    # Texts of this language are alike by nature: none is removed as a near-duplicate.
    parts = split.cached_split(sources, 0.0, config.dedup_threshold, config.seed, folder / "splits")
    return OpenData(config, folder, sources, parts)


def _run_synth(spec: SynthSpec, folder: RunFolder, command: str) -> Path:
    ready = prepare(spec, folder)
    probed.learn(ready, folder, command)
    trained, step = finished_run(folder.path), spec.train.steps
    name = f"{folder.path.name} step {step} {fingerprint(to_json(spec))}"
    writer = own.OwnModel(name, trained.config, trained.params(step), ready.tokenizer, spec.batch)
    asked = _items(spec.evaluation, synth.SKILLS, tuple(synth.TOPICS))
    grader = lib.ExactGrader()
    with Ledger(folder.path / "ledger.jsonl") as ledger:
        results = lib.evaluate(spec.evaluation, asked, lib.Synth(), writer, grader, ledger)
    kinds = {id(result): _kind(ready.corpus, result) for result in results}
    rows = [
        *result_rows.score_rows(spec.evaluation, results),
        *result_rows.novelty_rows(spec.evaluation, results, lambda r: kinds[id(r)]),
        *result_rows.trouble_rows(results),
    ]
    words = f"a decoder of ours after {step} steps on {len(ready.corpus.texts):,} texts"
    study = SkillmixStudy(
        spec.evaluation, results, f"{words} with up to {spec.texts.k_train} skills", "exact rules",
        kinds=[kinds[id(r)] for r in results],
    )  # fmt: skip
    return _finish(folder, rows, study)


def _kind(corpus: synth_texts.Corpus, result: Result) -> str:
    names, novelty = frozenset(result.item.names), corpus.novelty
    if novelty.is_seen(names, result.item.topic):
        return "seen"
    if any(pair <= names for pair in corpus.held_out):
        return "held_out"
    return "seen_skills" if novelty.is_seen(names) else "unseen"


# ---- any text ------------------------------------------------------------------------------------


def _run_text(spec: TextSpec, folder: RunFolder, command: str) -> Path:
    skills, topics = lists.load(spec.lists)
    asked = _items(spec.evaluation, skills, topics)
    writer, judge = open_model(spec.writer), open_model(spec.grader)
    found = fingerprint([[dataclasses.asdict(s) for s in skills], topics])
    device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    folder.claim(spec, {"fingerprint": found, "command": command, "device": device})
    for line in _cost_lines(spec, asked):
        _log.info("%s", line)
    grader = lib.ModelGrader(
        judge, spec.evaluation.grader, with_examples=spec.evaluation.grader_examples
    )
    with Ledger(spec.ledger or folder.path / "ledger.jsonl") as ledger:
        results = lib.evaluate(spec.evaluation, asked, lib.Prose(), writer, grader, ledger)
    rows = [
        *result_rows.score_rows(spec.evaluation, results),
        *_parrots(spec, results),
        *result_rows.trouble_rows(results),
    ]
    study = SkillmixStudy(
        spec.evaluation, results, writer.name, grader.name, corpus=spec.corpus,
        lists=(len(skills), len(topics)),
    )  # fmt: skip
    return _finish(folder, rows, study)


def _parrots(spec: TextSpec, results: Sequence[Result]) -> list[Row]:
    rows = []
    for k, some in result_rows.by_k(results).items():
        values = result_rows.values(some, "full_marks")
        n = int(np.isfinite(values).sum())
        alpha = rates.interval(values)
        rows += parrot.parrot_rows(f"k={k}", k, alpha, n, spec.corpus, spec.larger)
    return rows


def _cost_lines(spec: TextSpec, asked: Sequence[Item]) -> list[str]:
    found = lib.estimate(spec.evaluation, asked, lib.Prose(), model_grader=True)
    prices: dict[str, Prices] = {"writer": spec.writer.prices, "grader": spec.grader.prices}
    lines = [found[who].line(who, prices[who]) for who in found]
    return [*lines, "what the ledger holds is not asked for again"]


# ---- the study -----------------------------------------------------------------------------------


def run(spec: Spec, workdir: Path, command: str) -> Path:
    """Asks, grades and reports; goes on where it was stopped. Returns the report's path."""
    folder = RunFolder(workdir)
    if isinstance(spec, SynthSpec):
        return _run_synth(spec, folder, command)
    return _run_text(spec, folder, command)


def describe(spec: Spec) -> list[str]:
    """The plan in lines, with what it will cost."""
    if isinstance(spec, SynthSpec):
        ready = prepare(spec)
        held_out = ", ".join(" + ".join(sorted(pair)) for pair in ready.corpus.held_out)
        asked = _items(spec.evaluation, synth.SKILLS, tuple(synth.TOPICS))
        found = lib.estimate(spec.evaluation, asked, lib.Synth(), model_grader=False)
        return [
            *plan_lines.describe(ready.parts, ready.plan),
            "",
            f"texts: {len(ready.corpus.texts)}, up to {spec.texts.k_train} skills",
            f"pairs that no text shows: {held_out or 'none'}",
            found["writer"].line("writer", Prices()),
        ]
    skills, topics = lists.load(spec.lists)
    asked = _items(spec.evaluation, skills, topics)
    ks = ", ".join(map(str, spec.evaluation.ks))
    return [
        f"skills: {len(skills)} ({', '.join(s.name for s in skills[:6])}, ...)",
        f"topics: {len(topics)} ({', '.join(topics[:6])}, ...)",
        f"items: {spec.evaluation.items} for each k of {ks}",
        *_cost_lines(spec, asked),
    ]


def explain(spec: Spec, step: int) -> str:
    """What a step reads, for a run that trains."""
    if isinstance(spec, SynthSpec):
        return probed.explain(spec, step, prepare)
    raise UserError("nothing is trained here, so no step can be explained; try --dry_run")


def _check_ks(config: EvalConfig, skills: Sequence[Skill]) -> None:
    if max(config.ks) > len(skills):
        raise UserError(
            f"expected ks up to {len(skills)}, the number of skills, got {max(config.ks)}"
        )


def _items(config: EvalConfig, skills: Sequence[Skill], topics: Sequence[str]) -> list[Item]:
    _check_ks(config, skills)
    return [item for k in config.ks for item in items(skills, topics, k, config.items, config.seed)]


def _finish(folder: RunFolder, rows: list[Row], study: SkillmixStudy) -> Path:
    files.write_json(folder.results, rows)
    return write_report(folder, rows, study)


if __name__ == "__main__":
    sizes = {"smoke": smoke, "synth": synth_preset, "endpoint": endpoint, "local": local}
    cli.start(cli.Study("skillmix", sizes, run, describe, explain, default="synth"))
