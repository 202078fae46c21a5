"""What a run is made of; building it refuses a spec that does not fit, before any computation."""

import dataclasses
import importlib.util

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from llm_dynamics.batch import Batch
from llm_dynamics.data.lineage import Lineage
from llm_dynamics.data.plan import Plan
from llm_dynamics.errors import UserError
from llm_dynamics.model import sharding
from llm_dynamics.model.attention import resolve
from llm_dynamics.model.build import Model, build_model
from llm_dynamics.optim.optimizer import make_optimizer
from llm_dynamics.optim.schedules import make_schedule
from llm_dynamics.spec import to_json
from llm_dynamics.train import replayed, start
from llm_dynamics.train.checkpoint import leaves
from llm_dynamics.train.checkpoint_reader import NOTHING, Planned, PlannedRuns
from llm_dynamics.train.config import RunSpec
from llm_dynamics.train.run_folder import RunFolder
from llm_dynamics.train.start import Origin
from llm_dynamics.train.state import State, abstract_state, init_state, shardings
from llm_dynamics.train.step import make_train_step
from llm_dynamics.train.transform import Transform, View


@dataclasses.dataclass(frozen=True)
class Parts:
    """Mesh, model, optimizer and schedule of a run, and the shapes of its state."""

    spec: RunSpec
    mesh: Mesh
    decoder: Model
    schedule: optax.Schedule
    optimizer: optax.GradientTransformation
    abstract: State
    origin: Origin | None = None  # the checkpoint of another run that it starts from
    # The stages up to there, with what the run replays of them.
    lineage: Lineage = dataclasses.field(default_factory=Lineage)
    transform: Transform | None = None  # makes the model out of the origin's
    # Runs that will be trained before it.
    planned: PlannedRuns = dataclasses.field(default_factory=dict)
    view: View | None = None  # of the parameters, where the model is given something else

    @property
    def first_data_step(self) -> int:
        """The data's step that update 0 reads; `build_plan` wants to know, and the lineage."""
        return start.data_step(self.spec, self.origin)

    def first_state(self) -> State:
        """The state before update 0: fresh, or that of the origin."""
        if self.origin is None:
            return init_state(self.decoder, self.optimizer, self.mesh, self.spec.seed)
        return start.load(self.origin, self.spec, self.abstract, self.optimizer, self.transform)

    def planned_as(self, plan: Plan) -> Planned:
        """What the run's folder will say, for runs that are planned to start from it."""
        spec, saves = self.spec, self.spec.train.checkpoint
        total = spec.train.steps
        always = {*saves.kept(), total}
        regular = range(saves.every, total, saves.every) if saves.every else ()
        latest = sorted({*always, *regular} - {0})[-saves.keep :]
        record = {"spec": spec, "data": plan.describe(), "parent": self.origin, "versions": {}}
        state = {"params": self.abstract.params, "opt_state": self.abstract.opt_state}
        return Planned(
            steps=tuple(step for step in sorted({*always, *latest}) if step <= total),
            meta=start.record(spec, self.origin, plan),
            stored=leaves(state),
            record=to_json(record),
        )

    @property
    def row_devices(self) -> int:
        """Devices that share out the rows of a batch."""
        return self.mesh.shape["data"] * self.mesh.shape["fsdp"]

    def shown(self) -> View:
        """What validation and probes read before an update, jitted; the parameters if no view."""
        if self.view is None:
            return lambda params, step: params
        return jax.jit(self.view, out_shardings=shardings(self.abstract).params)

    def compile_step(self) -> jax.stages.Compiled:
        """The training step, compiled on shapes alone; call it with (state, batch)."""
        spec, where = self.spec, sharding.batch_sharding(self.mesh)
        shape = (spec.data.batch_size, spec.data.length)

        def leaf(dtype):
            return jax.ShapeDtypeStruct(shape, dtype, sharding=where)

        step = make_train_step(
            self.decoder,
            self.optimizer,
            self.schedule,
            self.mesh,
            self.abstract,
            accumulate=spec.train.accumulate,
            seed=spec.seed,
            layer_drop=spec.train.layer_drop,
            token_drop=spec.train.token_drop,
            view=self.view,
        )
        batch = Batch(*[leaf(np.int32)] * 4, leaf(np.float32))
        with sharding.activate(self.mesh):
            return step.lower(self.abstract, batch).compile()


def build(
    spec: RunSpec,
    folder: RunFolder | None = None,
    transform: Transform | None = None,
    planned: PlannedRuns = NOTHING,
) -> Parts:
    """Builds the parts of a run over all devices.

    Args:
      spec: the run.
      folder: its run folder; what it started from is read there once that was written down.
      transform: makes the run's model out of that of the checkpoint it starts from, where the two
        differ.
      planned: runs that will be trained before it, for plans of several stages.

    Raises:
      UserError: a mesh that does not divide the devices, model or batch, a schedule that does not
        fit the run, an attention that cannot run here, a checkpoint to start from that does not
        fit, a replay of what was never trained on, or a tracker that is not installed.
    """
    if spec.train.wandb and importlib.util.find_spec("wandb") is None:
        raise UserError(
            "Weights & Biases was asked for (train.wandb) but is not installed; "
            "run `pip install -e .[wandb]` or leave train.wandb empty"
        )
    sizes = spec.train.mesh
    mesh = sharding.make_mesh(sizes.data, sizes.fsdp, sizes.tensor)
    sharding.check_mesh(spec.model, mesh, spec.data.batch_size // spec.train.accumulate)
    resolve(spec.model)
    decoder = build_model(spec.model)
    origin = start.find(spec, folder, planned)
    schedule = make_schedule(
        spec.optim.schedule, spec.train.steps, *start.schedule_span(spec, origin)
    )
    if transform:
        optimizer = transform.optimizer(spec, schedule)
    else:
        optimizer = make_optimizer(spec.optim, schedule)
    abstract = abstract_state(decoder, optimizer, mesh)
    if origin and not start.has_checkpoints(folder):
        start.check(origin, spec, abstract, optimizer, transform, planned)
    lineage = replayed.find(spec, origin, folder, planned)
    view = transform.view(spec) if transform else None
    return Parts(
        spec, mesh, decoder, schedule, optimizer, abstract, origin, lineage, transform, planned,
        view,
    )  # fmt: skip
