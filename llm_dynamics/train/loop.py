"""One run, from the first update or the last checkpoint to the end."""

import logging
import math
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from llm_dynamics import spec as specs
from llm_dynamics.batch import Batch
from llm_dynamics.data.plan import Plan
from llm_dynamics.errors import UserError
from llm_dynamics.model import sharding
from llm_dynamics.model.decoder import Decoder
from llm_dynamics.optim.optimizer import make_optimizer
from llm_dynamics.optim.schedules import make_schedule
from llm_dynamics.probe.log import ProbeLog
from llm_dynamics.probe.packing import PackedProbes
from llm_dynamics.probe.scoring import make_scorer
from llm_dynamics.train.checkpoint import Checkpoints
from llm_dynamics.train.config import RunSpec
from llm_dynamics.train.metrics import MetricsLog
from llm_dynamics.train.run_folder import RunFolder
from llm_dynamics.train.state import abstract_state, init_state, shardings
from llm_dynamics.train.step import make_train_step, make_validation

_log = logging.getLogger(__name__)


def train(
    spec: RunSpec,
    plan: Plan,
    folder: RunFolder,
    *,
    packed: PackedProbes | None = None,
    probe_steps: Sequence[int] = (),
    open_probe_log: Callable[[], ProbeLog] | None = None,
) -> None:
    """Trains the run to its end in `folder`, resuming after the last checkpoint.

    At step t: the probes are scored with the parameters before update t, then update t reads
    `plan.batch(t)`. Line t of metrics.jsonl is the loss of that batch before the update. A final
    row and a final validation use the parameters after the last update. Logs are made durable
    before a checkpoint is written, so whatever a checkpoint has seen is on disk.

    Args:
      spec: the run.
      plan: its data; `plan.batch(t)` is pure.
      folder: the claimed run folder.
      packed: the probes, all scored in one call; None for none.
      probe_steps: sorted steps at which they are scored, in 0 .. steps.
      open_probe_log: opens the probe log; called on process 0 only.

    Raises:
      UserError: the mesh does not fit, a checkpoint cannot be used, or the loss is not finite.
    """
    # ---- what will run -------------------------------------------------------------------
    total = spec.train.steps
    mesh = sharding.make_mesh(spec.train.mesh.data, spec.train.mesh.fsdp, spec.train.mesh.tensor)
    sharding.check_mesh(spec.model, mesh, spec.data.batch_size // spec.train.accumulate)
    decoder = Decoder(spec.model)
    schedule = make_schedule(spec.optim.schedule, total)
    optimizer = make_optimizer(spec.optim, schedule)
    abstract = abstract_state(decoder, optimizer, mesh)

    # ---- where it starts: the last checkpoint, or step 0 ----------------------------------
    checkpoints = Checkpoints(folder.checkpoints, spec.train.checkpoint, total)
    start = checkpoints.latest() or 0
    if start > total:
        raise UserError(
            f"{folder.checkpoints} holds step {start}, beyond the run's {total} steps; "
            "use a new --workdir"
        )
    if start == total:
        _log.info("training is complete (%d steps)", total)
        checkpoints.close()
        return
    if checkpoints.latest() is not None:
        _log.info("resuming at step %d of %d", start, total)
        state = checkpoints.restore(start, abstract)
    else:
        state = init_state(decoder, optimizer, mesh, spec.seed)

    # ---- compile once ---------------------------------------------------------------------
    _log.info("compiling the training step")
    shape = (spec.data.batch_size, spec.data.length)
    where = sharding.batch_sharding(mesh)
    step_fn = make_train_step(
        decoder, optimizer, schedule, mesh, abstract, accumulate=spec.train.accumulate
    )
    with sharding.activate(mesh):
        step_fn = step_fn.lower(abstract, abstract_batch(shape, where)).compile()
    where_params = shardings(abstract).params
    validate = make_validation(decoder, mesh, abstract)
    score = make_scorer(decoder, packed, mesh, where_params) if packed is not None else None
    held_out = [
        jax.tree.map(lambda x: _place(x, x.shape, where, 0), b)
        for b in plan.validation_batches(spec.train.validation_batches)
    ]

    # ---- logs, on the first process only --------------------------------------------------
    writer = _Writer(spec, plan, folder, start, open_probe_log if score else None)
    due_probes = set(probe_steps) if score else set()
    bar = tqdm(
        total=total, initial=start, unit="step", disable=not sys.stderr.isatty() or not writer.main
    )
    meta = {"spec": specs.to_json(spec), "data": plan.fingerprint}

    def fetch(pending) -> None:
        """Waits for one dispatched step, checks it and writes it down."""
        step, metrics, values_PxM, validation = pending
        row = {k: float(v) for k, v in metrics.items()}
        if not all(map(math.isfinite, row.values())):
            raise UserError(_not_finite(step, row, checkpoints.latest()))
        if validation is not None:
            row["validation_loss"] = validation
        writer.write(step, row, values_PxM)
        bar.set_postfix_str(writer.summary(row), refresh=False)
        bar.update()

    def validation_loss(params) -> float | None:
        sums = [validate(params, batch) for batch in held_out]
        count = sum(float(n) for _, n in sums)
        return sum(float(s) for s, _ in sums) / count if count else None

    # ---- the loop: dispatch step t, then read step t - 1 ------------------------------------
    pending = None
    every = spec.train.validate_every
    with ThreadPoolExecutor(1, "plan") as pool, sharding.activate(mesh):
        try:
            ahead = pool.submit(_global_batch, plan, start, shape, where)
            for step in range(start, total):
                if checkpoints.due(step) and step > start:
                    fetch(pending)
                    pending = None
                    writer.flush()
                    checkpoints.save(state, step, meta)
                elif step == start == 0 and checkpoints.due(0):
                    checkpoints.save(state, 0, meta)
                values_PxM = score(state.params) if step in due_probes else None
                validation = validation_loss(state.params) if every and step % every == 0 else None
                batch = ahead.result()
                if step + 1 < total:
                    ahead = pool.submit(_global_batch, plan, step + 1, shape, where)
                state, metrics = step_fn(state, batch)
                if pending:
                    fetch(pending)
                pending = (step, metrics, values_PxM, validation)
            fetch(pending)
            final = validation_loss(state.params)
            last_PxM = score(state.params) if total in due_probes else None
            writer.finish(total, final, last_PxM)
            checkpoints.save(state, total, meta)
            checkpoints.wait()
        finally:
            bar.close()
            writer.close()
            checkpoints.close()


class _Writer:
    """The logs of a run; on every process but the first it does nothing."""

    def __init__(self, spec, plan, folder, start, open_probe_log):
        self.main = jax.process_index() == 0
        self._tokens, self._then = plan.tokens_per_step, time.perf_counter()
        self._metrics = self._probes = None
        if not self.main:
            return
        self._metrics = MetricsLog(
            folder.path,
            start=start,
            tensorboard=spec.train.tensorboard,
            wandb_project=spec.train.wandb,
            config=specs.to_json(spec),
        )
        self._probes = open_probe_log() if open_probe_log else None
        lacking = self._probes.missing(start) if self._probes else ()
        if lacking:
            raise UserError(
                f"the run resumes at step {start}, but {folder.probes} lacks {len(lacking)} "
                f"earlier rows (the first is step {lacking[0]}); restore it or start a new workdir"
            )

    def write(self, step: int, row: dict[str, float], values_PxM: Any) -> None:
        now = time.perf_counter()
        seconds, self._then = now - self._then, now
        row |= {"seconds": seconds, "tokens_per_second": self._tokens / seconds}
        if self.main:
            self._metrics.write(step, row)
            self._probe(step, values_PxM)

    def finish(self, step: int, validation: float | None, values_PxM: Any) -> None:
        if self.main:
            if validation is not None:
                self._metrics.write(step, {"validation_loss": validation})
            self._probe(step, values_PxM)
        self.flush()

    def _probe(self, step: int, values_PxM: Any) -> None:
        if values_PxM is not None:
            self._probes.write(step, np.asarray(values_PxM))

    def summary(self, row: dict[str, float]) -> str:
        return f"loss {row['loss']:.3f}, {row['tokens_per_second']:,.0f} tokens/s"

    def flush(self) -> None:
        for log in (self._metrics, self._probes):
            if log:
                log.flush()

    def close(self) -> None:
        for log in (self._metrics, self._probes):
            if log:
                log.close()


def _not_finite(step: int, row: dict[str, float], saved: int | None) -> str:
    bad = ", ".join(f"{k} = {v}" for k, v in row.items() if not math.isfinite(v))
    kept = f"the checkpoint of step {saved} is kept" if saved is not None else "none was saved"
    return (
        f"{bad} at step {step}: the run stopped before anything later was saved ({kept}); "
        "lower optim.schedule.peak, lengthen the warm-up or clip harder, in a new workdir"
    )


def abstract_batch(shape: tuple[int, int], where: Any) -> Batch:
    """Shapes of a batch of B x L tokens, laid out as `where`."""

    def leaf(dtype):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=where)

    return Batch(*[leaf(np.int32)] * 4, leaf(np.float32))


def _global_batch(plan: Plan, step: int, shape: tuple[int, int], where: Any) -> Batch:
    """The batch of a step as global arrays; each process builds only the rows it holds."""
    slices = [index[0] for index in where.addressable_devices_indices_map(shape).values()]
    first = min(s.start or 0 for s in slices)
    stop = max(shape[0] if s.stop is None else s.stop for s in slices)
    local = plan.rows(step, first, stop)
    return jax.tree.map(lambda x: _place(x, shape, where, first), local)


def _place(rows: np.ndarray, shape: tuple[int, int], where: Any, first: int) -> jax.Array:
    """A global array of `shape` from host rows that begin at global row `first`."""

    def part(index):
        start = (index[0].start or 0) - first
        stop = (shape[0] if index[0].stop is None else index[0].stop) - first
        return rows[start:stop, index[1]]

    return jax.make_array_from_callback(shape, where, part)
