"""The stages that a run's parameters went through, read from run folders, and what is replayed."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llm_dynamics import spec as specs
from llm_dynamics.data.config import DataConfig
from llm_dynamics.data.lineage import (
    Lineage,
    ReadSource,
    Replay,
    Stage,
    first_of,
    rows_replayed,
)
from llm_dynamics.data.replay import parse_replays
from llm_dynamics.data.sources import parse_source
from llm_dynamics.errors import UserError
from llm_dynamics.files import expanded
from llm_dynamics.train.checkpoint_reader import NOTHING, PlannedRuns
from llm_dynamics.train.config import RunSpec
from llm_dynamics.train.run_folder import RunFolder, read_spec
from llm_dynamics.train.start import Origin

_log = logging.getLogger(__name__)


def find(
    spec: RunSpec,
    origin: Origin | None,
    folder: RunFolder | None = None,
    planned: PlannedRuns = NOTHING,
) -> Lineage:
    """The stages before a run, and those of them that `spec.data.replay` names.

    Only what the run's parameters were trained on can be replayed: stages of the chain of
    `train.start`, each up to the checkpoint from which the chain goes on, and of them the rows of
    the text. Passages that were injected are what a study did to the run, not data: they do not
    come again, and the rows they stood in come whole.

    Args:
      spec: the run.
      origin: from `start.find`.
      folder: its run folder; what it replays is read there once that was written down.
      planned: runs that will be trained before it.

    Raises:
      UserError: a run outside the chain, one that has read nothing or rows of another length, or
        a run folder that cannot be read.
    """
    if folder and folder.spec.exists():
        record = read_spec(folder.spec)
        same = tuple(record["spec"]["data"].get("replay", ())) == spec.data.replay
        if same and "lineage" in record["data"]:
            return specs.from_json(Lineage, record["data"]["lineage"])
    asked = parse_replays(spec.data.replay)
    if origin is None:
        if asked:
            raise UserError(
                f"replay names {asked[0][0]}, but this run starts from fresh parameters, which "
                "were never trained on it; name its checkpoint in train.start.run, or its text in "
                "data.sources"
            )
        return Lineage()
    try:
        stages = stages_of(origin, planned)
    except UserError as error:
        if asked:
            raise
        _log.warning("the token ledger begins with this run, earlier stages are unknown: %s", error)
        return Lineage()
    if spec.train.start.data == "continue":
        return Lineage(stages, stages[-1].replays if asked else ())
    return Lineage(stages, _resolve(asked, stages, spec.data.length))


def stages_of(origin: Origin, planned: PlannedRuns = NOTHING) -> tuple[Stage, ...]:
    """The stages up to a checkpoint, that of the checkpoint last; see `find`.

    Raises:
      UserError: the spec.json of a stage is missing or damaged.
    """
    known = planned.get(origin.run)
    record = known.record if known else read_spec(RunFolder(Path(origin.run)).spec)
    earlier = Lineage()
    if "lineage" in record["data"]:
        earlier = specs.from_json(Lineage, record["data"]["lineage"])
    elif record["parent"]:  # a run of an earlier version
        earlier = Lineage(stages_of(specs.from_json(Origin, record["parent"])))
    data = specs.from_json(DataConfig, record["spec"]["data"])
    start = record["spec"]["train"].get("start", {})
    stage = Stage(
        run=origin.run,
        data=data,
        tokenizer=origin.tokenizer,
        sources=_sources(origin.run, data, record["data"]),
        first=(origin.data_step - origin.step) * data.batch_size,
        seen=origin.data_step * data.batch_size,
        continues=bool(earlier.stages) and start.get("data") == "continue",
        replays=earlier.replays,
    )
    return (*earlier.stages, stage)


def _sources(run: str, data: DataConfig, about: dict[str, Any]) -> tuple[ReadSource, ...]:
    """The sources as a run recorded them; earlier versions recorded no weight and no digest."""
    try:
        recorded = about["sources"]
        if any("weight" not in source for source in recorded):
            weights = [parse_source(source)[2] for source in data.sources]
            recorded = [s | {"weight": w} for s, w in zip(recorded, weights, strict=True)]
        return tuple(
            ReadSource(s["name"], s["rows"], s["weight"], s.get("text", "")) for s in recorded
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"the spec.json of {run} does not say what the run read ({type(error).__name__}: "
            f"{error}); restore it"
        ) from None


def _resolve(
    asked: Sequence[tuple[str, float]], stages: Sequence[Stage], length: int
) -> tuple[Replay, ...]:
    """The stages that are asked for, with the rows of them that were replayed before."""
    runs = [Path(stage.run).resolve() for stage in stages]
    replays: list[Replay] = []
    for run, share in asked:
        path = expanded(run).absolute().resolve()
        if path not in runs:
            missing = "" if RunFolder(path).spec.exists() else " (there is no run in that folder)"
            raise UserError(
                f"replay names {run}{missing}, but this run's parameters were never trained on it; "
                f"its checkpoint comes from {' and '.join(stage.run for stage in stages)}"
            )
        number = len(runs) - 1 - runs[::-1].index(path)
        stage = stages[number]
        if not stage.seen:
            raise UserError(
                f"replay names {run}, which had read nothing at step 0, where this "
                "run's chain of starts goes on; start from a later checkpoint"
            )
        if stage.data.length != length:
            raise UserError(
                f"replay names {run}, whose rows have {stage.data.length} tokens, and this run's "
                f"have {length}; give this run data.length={stage.data.length}"
            )
        replays.append(Replay(number, share, rows_replayed(stages, number)))
    first = first_of(stages)
    begun = [first[replay.stage] for replay in replays]
    for (run, _), place in zip(asked, begun, strict=True):
        if begun.count(place) > 1:
            raise UserError(
                f"replay names {run} and another run that reads on in the same data; name the "
                "later one alone, it has the rows of both"
            )
    return tuple(replays)
