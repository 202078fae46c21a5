"""From a data configuration to its plan."""

import dataclasses
from collections.abc import Sequence

from llm_dynamics.data import lineage as lineage_lib
from llm_dynamics.data.config import DataConfig
from llm_dynamics.data.corpus_rows import CorpusRows, PlanSource, Replayed
from llm_dynamics.data.held_out import HeldOut
from llm_dynamics.data.injection import Injection, place
from llm_dynamics.data.lineage import Lineage, ReadSource, Stage
from llm_dynamics.data.opened import OpenData, Progress, build_tokenizer, only, open_data
from llm_dynamics.data.plan import Plan
from llm_dynamics.data.plan_sources import held_out_source, plan_sources
from llm_dynamics.data.row_policies import POLICIES
from llm_dynamics.data.tokenizers import Tokenizer
from llm_dynamics.errors import UserError


def build_plan(
    config: DataConfig,
    tokenizer: Tokenizer | None = None,
    injections: Sequence[Injection] = (),
    *,
    steps: int | None = None,
    first_step: int = 0,
    lineage: Lineage | None = None,
    data: OpenData | None = None,
    progress: Progress | None = None,
) -> Plan:
    """The plan of a configuration; everything slow is done once and cached.

    Args:
      config: the data configuration.
      tokenizer: from `build_tokenizer`; built when not given.
      injections: passages to inject.
      steps: length of the run, checked against the injections.
      first_step: where in the data the run begins, for one that continues another.
      lineage: the stages before the run, with what `config.replay` names resolved among them.
      data: from `open_data`, to open it only once.
      progress: called with (what is being done, documents done, documents in total).

    Raises:
      UserError: data, tokenizer or schedule do not fit; before anything slow where possible.
    """
    lineage = lineage or Lineage()
    if len(lineage.replays) != len(config.replay):
        raise ValueError(f"expected a lineage that resolves {config.replay}, got {lineage.replays}")
    data = data or open_data(config, progress)
    tokenizer = tokenizer or build_tokenizer(config, data)
    placed = place(
        injections,
        tokenizer,
        config.batch_size,
        config.length + 1,
        steps=steps,
        policy=POLICIES[config.injection_rows],
        seed=config.seed,
    )
    sources = plan_sources(data, tokenizer, progress)
    first = first_step * config.batch_size
    stage = Stage(
        "", config, tokenizer.fingerprint, read_sources(sources, config.length), first, first
    )
    return Plan(
        sources,
        length=config.length,
        batch_size=config.batch_size,
        isolate_documents=config.isolate_documents,
        seed=config.seed,
        placed=placed,
        steps=steps,
        tokenizer_fingerprint=tokenizer.fingerprint,
        first_step=first_step,
        replayed=_replayed(config, lineage, lineage.replays, tokenizer, progress),
        also_validate=_also_validate(config, tokenizer, progress),
        lineage=lineage,
        rows_before=lineage_lib.rows_before(
            lineage.stages, lineage_lib.deals(lineage.stages), stage
        ),
    )


def read_sources(sources: Sequence[PlanSource], length: int) -> tuple[ReadSource, ...]:
    """The sources of a plan as a lineage knows them."""
    return tuple(ReadSource(s.name, s.train.num_rows(length), s.weight, s.text) for s in sources)


def _replayed(
    config: DataConfig,
    lineage: Lineage,
    replays: Sequence[lineage_lib.Replay],
    tokenizer: Tokenizer,
    progress: Progress | None,
) -> list[Replayed]:
    """The rows of earlier stages, each stage with what it replayed itself."""
    found = []
    for replay in replays:
        stage = lineage.stages[replay.stage]
        # Where the cache lies is a matter of this machine, not of the stage.
        theirs = dataclasses.replace(stage.data, cache_dir=config.cache_dir)
        if stage.tokenizer and stage.tokenizer != tokenizer.fingerprint:
            raise UserError(
                f"replay names {stage.run}, which was trained with another tokenizer (fingerprint "
                f"{stage.tokenizer}) than this run has ({tokenizer.fingerprint}): its rows would "
                "be other words; name its tokenizer in data.tokenizer, and its sources in "
                "data.tokenizer_sources where it was trained on them"
            )
        sources = plan_sources(open_data(theirs, progress), tokenizer, progress)
        _refuse_other_text(stage, read_sources(sources, theirs.length))
        inner = _replayed(config, lineage, stage.replays, tokenizer, progress)
        rows = CorpusRows(sources, theirs.length, theirs.seed, inner)
        found.append(Replayed(stage.run, rows, replay.share, stage.seen, replay.offset))
    return found


def _refuse_other_text(stage: Stage, found: Sequence[ReadSource]) -> None:
    if len(found) != len(stage.sources):
        raise UserError(
            f"replay names {stage.run}, which read {len(stage.sources)} sources, and its settings "
            f"name {len(found)}: what a study made for the run itself cannot be replayed"
        )
    for then, now in zip(stage.sources, found, strict=True):
        same_text = then.fingerprint in ("", now.fingerprint)
        if not same_text or (then.name, then.rows) != (now.name, now.rows):
            raise UserError(
                f"replay names {stage.run}, which read other text than there is now: source "
                f"{then.name!r} had {then.rows:,} rows and is {now.name!r} with {now.rows:,} "
                f"(fingerprints {then.fingerprint} and {now.fingerprint}); restore its data"
            )


def _also_validate(
    config: DataConfig, tokenizer: Tokenizer, progress: Progress | None
) -> list[HeldOut]:
    """Each source opened and split by itself, so that no run's other sources change its rows."""
    found = []
    for name in config.also_validate:
        held = held_out_source(open_data(only(config, [name]), progress), tokenizer, progress)
        if not held.validation.num_documents:
            raise UserError(
                f"also_validate names {name!r}, of which nothing is held out at "
                f"validation_fraction={config.validation_fraction}; raise the fraction"
            )
        found.append(held)
    return found
