"""Asynchronous Orbax checkpoints that refuse what does not fit the run."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy, save_decision_policy

from llm_dynamics.errors import UserError
from llm_dynamics.train.config import CheckpointConfig
from llm_dynamics.train.state import State


class Checkpoints:
    """The checkpoints of one run folder. Saving returns at once; closing waits."""

    def __init__(self, folder: Path, config: CheckpointConfig, last_step: int):
        """Opens or creates `folder`; saves at the config's steps and at `last_step`."""
        always = (*config.kept(), last_step)
        self._first = 0 in always
        save = [save_decision_policy.SpecificStepsPolicy(always)]
        if config.every:
            save.append(save_decision_policy.FixedIntervalPolicy(config.every))
        keep = [preservation_policy.LatestN(config.keep), preservation_policy.CustomSteps(always)]
        self._folder = Path(folder).absolute()
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                save_decision_policy=save_decision_policy.AnySavePolicy(save),
                preservation_policy=preservation_policy.AnyPreservationPolicy(keep),
                enable_async_checkpointing=True,
            ),
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "meta": ocp.JsonCheckpointHandler(),
            },
        )

    def due(self, step: int) -> bool:
        """True when the state after `step` updates is to be saved.

        Step 0 only where it is listed: the seed makes the same state again.
        """
        if step == 0 and not self._first:
            return False
        return step not in self._manager.all_steps() and self._manager.should_save(step)

    def save(self, state: State, step: int, meta: dict[str, Any]) -> None:
        """Starts saving; the values are copied first, so the state may be donated afterwards."""
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
        self._manager.save(step, args=items, force=True)

    def latest(self) -> int | None:
        """The last completed step, or None."""
        return self._manager.latest_step()

    def restore(self, step: int, abstract: State) -> State:
        """Reads the state saved at `step` onto the shapes, types and shardings of `abstract`.

        Raises:
          UserError: the files are damaged, or hold another structure, shape or dtype. Orbax
            itself casts a wrong dtype silently, so types are compared here first.
        """
        where = self._folder / str(step)
        advice = (
            f"the checkpoint {where} cannot be used; move it away to resume from an older one "
            "(or from the start if it is the only one), or start in a new workdir"
        )
        try:
            stored = self._manager.item_metadata(step)["state"]
            found = leaves(getattr(stored, "tree", stored))
        except Exception as error:
            raise UserError(f"{advice}: its metadata is damaged ({first_line(error)})") from error
        if wrong := differences(found, leaves(abstract)):
            raise UserError(f"{advice}: {wrong}")
        try:
            items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
            return self._manager.restore(step, args=items)["state"]
        except Exception as error:
            raise UserError(f"{advice}: its data is damaged ({first_line(error)})") from error

    def wait(self) -> None:
        """Blocks until every save that was started is complete, and raises what went wrong."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for the saves under way and releases the folder."""
        self._manager.close()


def differences(found: dict[str, str], expected: dict[str, str]) -> str:
    """What differs between two results of `leaves`, in words; "" when nothing does."""
    wrong = [
        f"{name}: expected {expected.get(name, 'nothing')}, found {found.get(name, 'nothing')}"
        for name in dict.fromkeys([*expected, *found])
        if expected.get(name) != found.get(name)
    ]
    more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    return "; ".join(wrong[:3]) + more


def leaves(tree: Any) -> dict[str, str]:
    """{path: "dtype[shape]"} of every array leaf, with keys written the same for any container."""
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]

    def word(key):
        for name in ("key", "name", "idx"):
            if hasattr(key, name):
                return str(getattr(key, name))
        return str(key)

    return {
        "/".join(map(word, path)): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in flat
        if hasattr(leaf, "shape")
    }


def first_line(error: Exception) -> str:
    """The kind of an error and the first line of what it says."""
    return (
        f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error) else ''}"
    )
