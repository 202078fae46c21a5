"""Reading the checkpoints of another run, which stay as they are, or are only planned."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import orbax.checkpoint as ocp

from llm_dynamics.errors import UserError
from llm_dynamics.train.checkpoint import first_line, leaves
from llm_dynamics.train.run_folder import RunFolder


@dataclasses.dataclass(frozen=True)
class Planned:
    """A run that is not trained yet, by what its folder will say: see `Parts.planned_as`."""

    steps: tuple[int, ...]  # of its checkpoints
    meta: dict[str, Any]  # of every one
    stored: dict[str, str]  # types and shapes of its state
    record: dict[str, Any]  # its spec.json


PlannedRuns = Mapping[str, Planned]  # by run folder, an absolute path
NOTHING: PlannedRuns = MappingProxyType({})


def steps(run: Path, planned: PlannedRuns) -> list[int]:
    """The completed checkpoints; what is being written has another name."""
    if found := planned.get(str(run)):
        return list(found.steps)
    folder = RunFolder(run).checkpoints
    return (
        sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.is_dir() else []
    )


def meta(run: Path, step: int, planned: PlannedRuns) -> dict[str, Any]:
    """What a checkpoint says of its run, see `start.record`.

    Raises:
      UserError: it says nothing.
    """
    if found := planned.get(str(run)):
        return found.meta
    path = RunFolder(run).checkpoints / str(step) / "meta"
    try:
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
            found = reader.restore(path)
        return found | {"spec": dict(found["spec"]), "data": str(found["data"])}
    except Exception as error:
        raise UserError(
            f"{path.parent} is not a checkpoint that this version can start from "
            f"({first_line(error)}); choose another train.start.run or train.start.step"
        ) from error


def stored(run: Path, step: int, planned: PlannedRuns) -> dict[str, str]:
    """Types and shapes of the leaves of a checkpoint, see `checkpoint.leaves`.

    Raises:
      UserError: it is damaged.
    """
    if found := planned.get(str(run)):
        return found.stored
    path = RunFolder(run).checkpoints / str(step) / "state"
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            return leaves(reader.metadata(path).item_metadata.tree)
    except Exception as error:
        raise UserError(
            f"the checkpoint {path.parent} is damaged ({first_line(error)}); choose another "
            "train.start.step"
        ) from error


def restore(run: Path, step: int, wanted: dict[str, Any]) -> dict[str, Any]:
    """The parts of a saved state, onto shapes and devices of `wanted`.

    Raises:
      UserError: it is damaged.
    """
    path = RunFolder(run).checkpoints / str(step) / "state"
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            return reader.restore(
                path,
                args=ocp.args.PyTreeRestore(
                    wanted,
                    restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
                    partial_restore=True,
                ),
            )
    except Exception as error:
        raise UserError(
            f"the checkpoint {path} cannot be read ({first_line(error)}); choose another "
            "train.start.step"
        ) from error
