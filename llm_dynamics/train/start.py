"""Starting a run from a checkpoint of another one, checked first and written down for ever."""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp

from llm_dynamics import spec as specs
from llm_dynamics.data.config import DataConfig
from llm_dynamics.data.plan import Plan
from llm_dynamics.errors import UserError
from llm_dynamics.files import expanded
from llm_dynamics.train import joint
from llm_dynamics.train.checkpoint import differences, first_line, leaves
from llm_dynamics.train.config import RunSpec
from llm_dynamics.train.run_folder import RunFolder, read_spec
from llm_dynamics.train.state import State, shardings

_log = logging.getLogger(__name__)

# What decides how a model is computed, not which function of its parameters it is.
_COMPUTATION = ("compute_dtype", "attention", "remat", "scan_unroll", "loss_chunk", "max_length")
# What decides the rows of every step.
_ROWS = (
    "sources",
    "tokenizer",
    "length",
    "batch_size",
    "validation_fraction",
    "dedup_threshold",
    "near_duplicates",
    "copies",
    "copied_share",
    "replay",
    "tokenizer_sources",
    "seed",
)


@dataclasses.dataclass(frozen=True)
class Origin:
    """The checkpoint of another run, as it is written into spec.json under `parent`."""

    run: str  # its run folder
    step: int  # updates that run had done
    spec: str  # fingerprint of its spec
    data: str  # fingerprint of its plan
    tokenizer: str  # fingerprint; "" = not recorded
    schedule_step: int  # of its schedule, after these updates
    schedule_end: int
    data_step: int  # of its data


def record(spec: RunSpec, origin: Origin | None, plan: Plan) -> dict[str, Any]:
    """What a checkpoint says of its run, for runs that start from it."""
    first, end = schedule_span(spec, origin)
    return {
        "spec": specs.to_json(spec),
        "data": plan.fingerprint,
        "tokenizer": plan.tokenizer_fingerprint,
        "schedule": [first, spec.optim.schedule.horizon or end or first + spec.train.steps],
        "first_data_step": plan.first_step,
    }


def find(spec: RunSpec, folder: RunFolder | None) -> Origin | None:
    """The origin that the run folder recorded, else the one that the spec asks for.

    Raises:
      UserError: no such run or checkpoint.
    """
    asked = spec.train.start
    if not asked.run:
        return None
    if folder and folder.spec.exists() and (known := read_spec(folder.spec)["parent"]):
        return specs.from_json(Origin, known)
    run = expanded(asked.run).absolute()
    if folder and run.resolve() == folder.path.resolve():
        raise UserError(f"expected train.start.run to be another run, got the workdir {run} itself")
    steps = _steps(run)
    if not steps:
        raise UserError(
            f"expected a run folder with checkpoints at train.start.run={asked.run}, found none "
            f"below {run / 'checkpoints'}"
        )
    step = steps[-1] if asked.step == -1 else asked.step
    if step not in steps:
        raise UserError(
            f"expected train.start.step to be a checkpoint of {run}, got {step}; it has steps "
            f"{', '.join(map(str, steps))}"
        )
    return origin_at(run, step, _meta(run, step))


def origin_at(run: Path, step: int, meta: dict[str, Any]) -> Origin:
    """The checkpoint of a step as an origin.

    Args:
      run: the run folder.
      step: of the checkpoint.
      meta: what it says of its run, see `record`.
    """
    first, end = meta.get("schedule", [0, meta["spec"]["train"]["steps"]])
    return Origin(
        run=str(run),
        step=step,
        spec=specs.fingerprint(meta["spec"]),
        data=meta["data"],
        tokenizer=meta.get("tokenizer", ""),
        schedule_step=first + step,
        schedule_end=end,
        data_step=meta.get("first_data_step", 0) + step,
    )


def has_checkpoints(folder: RunFolder | None) -> bool:
    """Whether the run can go on from a checkpoint of its own: its origin is not read again."""
    return folder is not None and bool(_steps(folder.path))


def check(origin: Origin, spec: RunSpec, abstract: State) -> None:
    """Refuses an origin that does not fit the run, reading its metadata alone.

    Raises:
      UserError: another model, shape, dtype or, where data or schedule go on, other ones; or the
        origin is no longer what it was when the run began.
    """
    run = Path(origin.run)
    meta = _meta(run, origin.step)
    if origin_at(run, origin.step, meta) != origin:
        raise UserError(
            f"the checkpoint of step {origin.step} in {run} is another one than this run began "
            "with; restore it, or start in a new workdir"
        )
    compare(origin, meta, spec)
    wanted = _wanted(spec, abstract)
    stored = {k: v for k, v in _stored(run, origin.step).items() if k.split("/")[0] in wanted}
    if wrong := differences(stored, leaves(wanted)):
        raise UserError(f"{_where(origin)} does not fit this run: {wrong}")


def compare(origin: Origin, meta: dict[str, Any], spec: RunSpec) -> None:
    """Refuses an origin whose run does not fit, from what its checkpoint says of it.

    Args:
      origin: the checkpoint.
      meta: what it says of its run, see `record`.
      spec: the run that starts from it.

    Raises:
      UserError: another model, or, where data or schedule go on, other data or another schedule.
    """
    where = _where(origin)
    model, data = (specs.to_json(part) for part in (spec.model, spec.data))
    theirs = {k: v for k, v in meta["spec"]["model"].items() if k not in _COMPUTATION}
    ours = {k: v for k, v in model.items() if k not in _COMPUTATION}
    if changes := specs.difference({"model": theirs}, {"model": ours}):
        raise UserError(
            f"{where} holds another model than this run's (there -> here): {'; '.join(changes)}; "
            "give this run the settings of that one"
        )
    if spec.train.start.data == "continue":
        # Runs of earlier versions have not the newest fields; they ran at the defaults.
        theirs = {key: meta["spec"]["data"].get(key, getattr(DataConfig, key)) for key in _ROWS}
        if changes := specs.difference({"data": theirs}, {"data": {k: data[k] for k in _ROWS}}):
            raise UserError(
                f"{where} read other data than this run's (there -> here): {'; '.join(changes)}; "
                "with train.start.data=fresh the data is read from its beginning"
            )
    if spec.train.start.continue_schedule:
        joint.check(where, meta, origin.schedule_step, spec)


def check_plan(spec: RunSpec, origin: Origin | None, plan: Plan) -> None:
    """Refuses data whose tokens mean something else than they did to the origin.

    Raises:
      UserError: another tokenizer.
    """
    if plan.first_step != data_step(spec, origin):
        raise ValueError(
            f"expected a plan from step {data_step(spec, origin)}, got {plan.first_step}"
        )
    if plan.num_replayed != len(spec.data.replay):
        raise ValueError(
            f"expected a plan that replays {spec.data.replay}, got {plan.num_replayed} runs; give "
            "build_plan the lineage of the parts"
        )
    if origin is None or origin.tokenizer == plan.tokenizer_fingerprint:
        return
    if not origin.tokenizer:
        _log.warning("%s does not say which tokenizer it had; taken to be the same", origin.run)
        return
    raise UserError(
        f"the run {origin.run} was trained with another tokenizer (fingerprint {origin.tokenizer}) "
        f"than this one has ({plan.tokenizer_fingerprint}): the same ids would be other words; "
        "name its tokenizer in data.tokenizer (a trained one depends on its sources, too)"
    )


def schedule_span(spec: RunSpec, origin: Origin | None) -> tuple[int, int]:
    """The schedule's step that update 0 reads, and the schedule's end (0 = the run's)."""
    if origin is None or not spec.train.start.continue_schedule:
        return 0, 0
    return origin.schedule_step, origin.schedule_end


def data_step(spec: RunSpec, origin: Origin | None) -> int:
    """The data's step that update 0 reads."""
    return origin.data_step if origin and spec.train.start.data == "continue" else 0


def load(
    origin: Origin, spec: RunSpec, abstract: State, optimizer: optax.GradientTransformation
) -> State:
    """The state before update 0: parameters of the origin, its moments or fresh ones, step 0.

    The schedule's own count begins at 0 like the run's. Adam's count, which corrects for moments
    that began at zero, stays with the second moments, as updates with fresh ones would be up to
    1 / sqrt(1 - b2) times too long without the correction. So:

    - "keep": both moments and the count.
    - "reset": both moments and the count begin at zero.
    - "keep_second": first moments begin at zero, the count stays: the first updates are shorter,
      by 1 - b1^t after t of them.
    - "keep_first": second moments and the count begin at zero. The correction divides the first
      moments by 1 - b1^t, which is for moments that began at zero too; so the kept ones are
      multiplied by 1 - b1, and enter update 1 with the weight b1 that they have in any update.

    Raises:
      UserError: the files are damaged.
    """
    _log.info("starting from step %d of %s", origin.step, origin.run)
    wanted = _wanted(spec, abstract)
    path = _checkpoints(Path(origin.run)) / str(origin.step) / "state"
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            restored = reader.restore(
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
    where = shardings(abstract)

    def zero() -> jax.Array:
        # A new array each time: the training step donates its state, and no buffer twice.
        return jax.device_put(jnp.zeros((), jnp.int32), where.step)

    policy = spec.train.start.optimizer
    opt_state = restored.get("opt_state")
    if policy != "keep":
        fresh = jax.jit(optimizer.init, out_shardings=where.opt_state)(restored["params"])
        opt_state = _mixed(opt_state, fresh, policy, spec.optim.b1)
    if policy != "reset":
        opt_state = optax.tree_utils.tree_set(opt_state, _of("ScaleByScheduleState"), count=zero())
    return State(zero(), restored["params"], opt_state)


def describe(spec: RunSpec, origin: Origin | None) -> list[str]:
    """Where the run starts, in a line, for dry runs."""
    if origin is None:
        return ["start: fresh parameters"]
    first, _ = schedule_span(spec, origin)
    return [
        f"start: step {origin.step} of {origin.run}; optimizer {spec.train.start.optimizer}, "
        f"schedule from step {first}, data from step {data_step(spec, origin)}"
    ]


def joint_lines(spec: RunSpec, origin: Origin | None) -> list[str]:
    """The learning rates around the start, for dry runs."""
    if origin is None:
        return []
    try:
        meta = _meta(Path(origin.run), origin.step)
        return joint.lines(meta, origin.schedule_step, spec)
    except UserError:  # a run that goes on from its own checkpoints does not need its origin
        return [f"learning rate before the start: not known any more, {origin.run} is gone"]


def _where(origin: Origin) -> str:
    return f"the checkpoint of step {origin.step} in {origin.run}"


def _mixed(kept: Any, fresh: Any, policy: str, b1: float) -> Any:
    """The optimizer's state with the moments that the policy keeps; see `load`."""
    if policy == "reset":
        return fresh
    get, adam = optax.tree_utils.tree_get, _of("ScaleByAdamState")
    if policy == "keep_second":
        return optax.tree_utils.tree_set(kept, mu=get(fresh, "mu"))
    scaled = jax.tree.map(lambda x: x * (1 - b1), get(kept, "mu"))
    fresh_count = get(fresh, "count", filtering=adam)
    kept = optax.tree_utils.tree_set(kept, mu=scaled, nu=get(fresh, "nu"))
    return optax.tree_utils.tree_set(kept, adam, count=fresh_count)


def _of(name: str) -> Callable[[Any, Any], bool]:
    """Picks the fields of the optimizer's state of this name."""
    return lambda path, _: getattr(path[-1], "tuple_name", "") == name


def _wanted(spec: RunSpec, abstract: State) -> dict[str, Any]:
    """The parts of a state that are read from the origin."""
    parts = {"params": abstract.params}
    return parts | ({"opt_state": abstract.opt_state} if _keeps(spec) else {})


def _keeps(spec: RunSpec) -> bool:
    return spec.train.start.optimizer != "reset"


def _checkpoints(run: Path) -> Path:
    return RunFolder(run).checkpoints


def _steps(run: Path) -> list[int]:
    """The completed checkpoints; what is being written has another name."""
    folder = _checkpoints(run)
    return (
        sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.is_dir() else []
    )


def _meta(run: Path, step: int) -> dict[str, Any]:
    """What a checkpoint says of its run."""
    path = _checkpoints(run) / str(step) / "meta"
    try:
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
            meta = reader.restore(path)
        return meta | {"spec": dict(meta["spec"]), "data": str(meta["data"])}
    except Exception as error:
        raise UserError(
            f"{path.parent} is not a checkpoint that this version can start from "
            f"({first_line(error)}); choose another train.start.run or train.start.step"
        ) from error


def _stored(run: Path, step: int) -> dict[str, str]:
    """Types and shapes of the leaves of a checkpoint."""
    path = _checkpoints(run) / str(step) / "state"
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            return leaves(reader.metadata(path).item_metadata.tree)
    except Exception as error:
        raise UserError(
            f"the checkpoint {path.parent} is damaged ({first_line(error)}); choose another "
            "train.start.step"
        ) from error
