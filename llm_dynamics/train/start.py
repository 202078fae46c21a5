"""Starting a run from a checkpoint of another one, checked first and written down for ever."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from llm_dynamics import spec as specs
from llm_dynamics.data.config import DataConfig
from llm_dynamics.data.plan import Plan
from llm_dynamics.errors import UserError
from llm_dynamics.files import expanded
from llm_dynamics.model import sharding
from llm_dynamics.model.build import build_model
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.optim import carried
from llm_dynamics.train import checkpoint_reader as reader
from llm_dynamics.train import joint
from llm_dynamics.train.checkpoint import differences, leaves
from llm_dynamics.train.checkpoint_reader import NOTHING, PlannedRuns
from llm_dynamics.train.config import RunSpec
from llm_dynamics.train.run_folder import RunFolder, read_spec
from llm_dynamics.train.state import State, abstract_state, shardings
from llm_dynamics.train.transform import Transform

_log = logging.getLogger(__name__)

# What decides how a model is computed, not which function of its parameters it is.
COMPUTATION = ("compute_dtype", "attention", "remat", "scan_unroll", "loss_chunk", "max_length")
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


def find(spec: RunSpec, folder: RunFolder | None, planned: PlannedRuns = NOTHING) -> Origin | None:
    """The origin that the run folder recorded, else the one that the spec asks for.

    Args:
      spec: the run.
      folder: its run folder, if it has one.
      planned: runs that will be trained before it.

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
    steps = reader.steps(run, planned)
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
    return origin_at(run, step, reader.meta(run, step, planned))


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
    return folder is not None and bool(reader.steps(folder.path, NOTHING))


def check(
    origin: Origin,
    spec: RunSpec,
    abstract: State,
    optimizer: optax.GradientTransformation,
    transform: Transform | None = None,
    planned: PlannedRuns = NOTHING,
) -> None:
    """Refuses an origin that does not fit the run, reading its metadata alone.

    Arguments are those of `load` and `find`.

    Raises:
      UserError: another model, shape, dtype or, where data or schedule go on, other ones; or the
        origin is no longer what it was when the run began.
    """
    run = Path(origin.run)
    meta = reader.meta(run, origin.step, planned)
    if origin_at(run, origin.step, meta) != origin:
        raise UserError(
            f"the checkpoint of step {origin.step} in {run} is another one than this run began "
            "with; restore it, or start in a new workdir"
        )
    compare(origin, meta, spec, transform)
    if transform:
        model = _model(meta, spec)
        mesh = abstract.step.sharding.mesh
        sharding.check_mesh(model, mesh, spec.data.batch_size // spec.train.accumulate)
        abstract = _abstract_source(model, abstract, optimizer)
    wanted = _wanted(spec, abstract)
    stored = reader.stored(run, origin.step, planned)
    stored = {k: v for k, v in stored.items() if k.split("/")[0] in wanted}
    if "opt_state" in wanted and not any(k.startswith("opt_state/") for k in stored):
        raise UserError(
            f"{_where(origin)} holds no moments of an optimizer, as an imported model has none, so "
            f"train.start.optimizer={spec.train.start.optimizer} has nothing to take; start with "
            "train.start.optimizer=reset"
        )
    if wrong := differences(stored, leaves(wanted)):
        raise UserError(f"{_where(origin)} does not fit this run: {wrong}")


def compare(
    origin: Origin, meta: dict[str, Any], spec: RunSpec, transform: Transform | None = None
) -> None:
    """Refuses an origin whose run does not fit, from what its checkpoint says of it.

    Args:
      origin: the checkpoint.
      meta: what it says of its run, see `record`.
      spec: the run that starts from it.
      transform: makes its model out of the origin's, and says itself which ones it can.

    Raises:
      UserError: another model, or, where data or schedule go on, other data or another schedule.
    """
    where = _where(origin)
    if transform:
        transform.check(_model(meta, spec), spec)
    else:
        # Read as a model, so that fields which a run of an earlier version lacks are at defaults.
        theirs, ours = (
            {k: v for k, v in specs.to_json(model).items() if k not in COMPUTATION}
            for model in (specs.from_json(ModelConfig, meta["spec"]["model"]), spec.model)
        )
        if changes := specs.difference({"model": theirs}, {"model": ours}):
            raise UserError(
                f"{where} holds another model than this run's (there -> here): "
                f"{'; '.join(changes)}; give this run the settings of that one"
            )
    if spec.train.start.data == "continue":
        # Runs of earlier versions have not the newest fields; they ran at the defaults.
        theirs = {key: meta["spec"]["data"].get(key, getattr(DataConfig, key)) for key in _ROWS}
        data = specs.to_json(spec.data)
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
    origin: Origin,
    spec: RunSpec,
    abstract: State,
    optimizer: optax.GradientTransformation,
    transform: Transform | None = None,
) -> State:
    """The state before update 0: parameters of the origin, its moments or fresh ones, step 0.

    The schedule's own count begins at 0 like the run's; what the policy of `train.start.optimizer`
    keeps of moments and of Adam's count says `optim.carried.carry`. A transform comes before that.

    Args:
      origin: the checkpoint.
      spec: the run.
      abstract: its state.
      optimizer: its optimizer.
      transform: makes the run's model out of the origin's.

    Raises:
      UserError: the files are damaged.
    """
    _log.info("starting from step %d of %s", origin.step, origin.run)
    run, where = Path(origin.run), shardings(abstract)
    if transform is None:
        restored = reader.restore(run, origin.step, _wanted(spec, abstract))
        params, opt_state = restored["params"], restored.get("opt_state")
    else:
        model = _model(reader.meta(run, origin.step, NOTHING), spec)
        restored = reader.restore(
            run, origin.step, _wanted(spec, _abstract_source(model, abstract, optimizer))
        )
        made = transform.apply(restored["params"], restored.get("opt_state"), model, spec)
        params, opt_state = _placed(made, _wanted(spec, abstract))

    def zero() -> jax.Array:
        # A new array each time: the training step donates its state, and no buffer twice.
        return jax.device_put(jnp.zeros((), jnp.int32), where.step)

    policy = spec.train.start.optimizer
    if policy != "keep":
        fresh = jax.jit(optimizer.init, out_shardings=where.opt_state)(params)
        opt_state = carried.carry(policy, opt_state, fresh, spec.optim.b1)
    if policy != "reset":
        schedule = carried.of("ScaleByScheduleState")
        opt_state = optax.tree_utils.tree_set(opt_state, schedule, count=zero())
    return State(zero(), params, opt_state)


def describe(spec: RunSpec, origin: Origin | None) -> list[str]:
    """Where the run starts, in a line, for dry runs."""
    if origin is None:
        return ["start: fresh parameters"]
    first, _ = schedule_span(spec, origin)
    return [
        f"start: step {origin.step} of {origin.run}; optimizer {spec.train.start.optimizer}, "
        f"schedule from step {first}, data from step {data_step(spec, origin)}"
    ]


def joint_lines(spec: RunSpec, origin: Origin | None, planned: PlannedRuns = NOTHING) -> list[str]:
    """The learning rates around the start, for dry runs."""
    if origin is None:
        return []
    try:
        meta = reader.meta(Path(origin.run), origin.step, planned)
        return joint.lines(meta, origin.schedule_step, spec)
    except UserError:  # a run that goes on from its own checkpoints does not need its origin
        return [f"learning rate before the start: not known any more, {origin.run} is gone"]


def _where(origin: Origin) -> str:
    return f"the checkpoint of step {origin.step} in {origin.run}"


def _model(meta: dict[str, Any], spec: RunSpec) -> ModelConfig:
    """The model of a checkpoint, computed as the run computes its own."""
    model = specs.from_json(ModelConfig, meta["spec"]["model"])
    same = set(COMPUTATION) - {"max_length"}  # which is a shape with learned positions
    return dataclasses.replace(model, **{key: getattr(spec.model, key) for key in same})


def _abstract_source(
    model: ModelConfig, abstract: State, optimizer: optax.GradientTransformation
) -> State:
    """The state of another model on the devices of `abstract`."""
    return abstract_state(build_model(model), optimizer, abstract.step.sharding.mesh)


def _placed(made: tuple[Any, Any], wanted: dict[str, Any]) -> tuple[Any, Any]:
    """What a transform made, on the devices of the run, every buffer its own."""
    found = dict(zip(("params", "opt_state"), made, strict=True))
    found = {key: found[key] for key in wanted}
    if wrong := differences(leaves(found), leaves(wanted)):
        raise ValueError(f"a transform made another state than the run's: {wrong}")
    put = jax.tree.map(lambda x, w: jax.device_put(x, w.sharding, may_alias=False), found, wanted)
    return put["params"], put.get("opt_state")


def _wanted(spec: RunSpec, abstract: State) -> dict[str, Any]:
    """The parts of a state that are read from the origin."""
    parts = {"params": abstract.params}
    if spec.train.start.optimizer == "reset":
        return parts
    return parts | {"opt_state": abstract.opt_state}
