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
from llm_dynamics.probe.log import ProbeLog
from llm_dynamics.probe.packing import PackedProbes
from llm_dynamics.probe.scoring import make_scorer
from llm_dynamics.train import plan_lines
from llm_dynamics.train import start as lineage
from llm_dynamics.train.checkpoint import Checkpoints
from llm_dynamics.train.metrics import MetricsLog
from llm_dynamics.train.parts import Parts
from llm_dynamics.train.processes import on_first
from llm_dynamics.train.run_folder import RunFolder
from llm_dynamics.train.state import shardings
from llm_dynamics.train.step import make_validation

_log = logging.getLogger(__name__)


def train(
    parts: Parts,
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
      parts: of the run, from `parts.build`.
      plan: its data; `plan.batch(t)` is pure.
      folder: the claimed run folder.
      packed: the probes, all scored in one call; None for none.
      probe_steps: sorted steps at which they are scored, in 0 .. steps.
      open_probe_log: opens the probe log; called on process 0 only.

    Raises:
      UserError: a checkpoint or log cannot be used, or a loss is not finite.
    """
    # ---- what will run -------------------------------------------------------------------
    spec = parts.spec
    total, mesh, abstract = spec.train.steps, parts.mesh, parts.abstract
    lineage.check_plan(spec, parts.origin, plan)

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
        if open_probe_log and packed is not None:
            on_first(lambda: _open_probes(folder, open_probe_log, total, total + 1).close())
        return
    if checkpoints.latest() is not None:
        _log.info("resuming at step %d of %d", start, total)
        state = checkpoints.restore(start, abstract)
    else:
        state = parts.first_state()

    for line in plan_lines.ledger(plan.describe(total)):
        _log.info("%s", line)

    # ---- compile once ---------------------------------------------------------------------
    _log.info("compiling the training step")
    shape = (spec.data.batch_size, spec.data.length)
    where = sharding.batch_sharding(mesh)
    step_fn, shown = parts.compile_step(), parts.shown()
    validate = make_validation(parts.decoder, mesh, abstract)
    score = None
    if packed is not None:
        score = make_scorer(parts.decoder, packed, mesh, shardings(abstract).params)
    most = spec.train.validation_batches
    held_out = {"validation_loss": plan.validation_batches(most)}
    for name, batches in plan.also_validated(most).items():
        held_out[f"validation_loss/{name}"] = batches
    held_out = jax.tree.map(lambda x: _place(x, x.shape, where, 0), held_out)

    # ---- logs, on the first process only --------------------------------------------------
    open_log = open_probe_log if score else None
    writer = on_first(lambda: _Writer(spec, plan, folder, start, open_log)) or _Silent()
    due_probes = set(probe_steps) if score else set()
    bar = tqdm(
        total=total,
        initial=start,
        unit="step",
        disable=isinstance(writer, _Silent) or not sys.stderr.isatty(),
    )
    meta = lineage.record(spec, parts.origin, plan)

    def fetch(pending) -> None:
        """Waits for one dispatched step, checks it and writes it down."""
        step, metrics, values_PxM, validation = pending
        row = {k: float(v) for k, v in metrics.items()}
        row |= validation
        _check_finite(step, row, checkpoints.latest())
        writer.write(step, row, values_PxM)
        bar.set_postfix_str(writer.summary(row), refresh=False)
        bar.update()

    def validation_losses(params) -> dict[str, float]:
        losses = {}
        for name, batches in held_out.items():
            sums = [validate(params, batch) for batch in batches]
            if count := sum(float(n) for _, n in sums):
                losses[name] = sum(float(s) for s, _ in sums) / count
        return losses

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
                values_PxM = score(shown(state.params, step)) if step in due_probes else None
                validation = {}
                if every and step % every == 0:
                    validation = validation_losses(shown(state.params, step))
                batch = ahead.result()
                if step + 1 < total:
                    ahead = pool.submit(_global_batch, plan, step + 1, shape, where)
                state, metrics = step_fn(state, batch)
                if pending:
                    fetch(pending)
                pending = (step, metrics, values_PxM, validation)
            fetch(pending)
            final = validation_losses(shown(state.params, total))
            _check_finite(total, final, checkpoints.latest())
            last_PxM = score(shown(state.params, total)) if total in due_probes else None
            writer.finish(total, final, last_PxM)
            checkpoints.save(state, total, meta)
            checkpoints.wait()
        finally:
            bar.close()
            writer.close()
            checkpoints.close()


class _Silent:
    """Stands for the logs on every process but the first."""

    def write(self, *_) -> None: ...

    finish = summary = flush = close = write


class _Writer:
    """The logs of a run, on the first process."""

    def __init__(self, spec, plan, folder, start, open_probe_log):
        self._tokens, self._then = plan.tokens_per_step, time.perf_counter()
        self._probes = None
        if open_probe_log:
            self._probes = _open_probes(folder, open_probe_log, start, start)
        # Opened last, as opening drops the lines that are about to be written again.
        self._metrics = MetricsLog(
            folder.path,
            start=start,
            tensorboard=spec.train.tensorboard,
            wandb_project=spec.train.wandb,
            config=specs.to_json(spec),
        )

    def write(self, step: int, row: dict[str, float], values_PxM: Any) -> None:
        now = time.perf_counter()
        seconds, self._then = now - self._then, now
        row |= {"seconds": seconds, "tokens_per_second": self._tokens / seconds}
        self._metrics.write(step, row)
        self._probe(step, values_PxM)

    def finish(self, step: int, validation: dict[str, float], values_PxM: Any) -> None:
        if validation:
            self._metrics.write(step, validation)
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


def _open_probes(
    folder: RunFolder, open_probe_log: Callable[[], ProbeLog], start: int, stop: int
) -> ProbeLog:
    """The probe log of a run that is at step `start`, with every row below step `stop`."""
    if start and not folder.probes.exists():
        raise UserError(
            f"the run stands at step {start}, but {folder.probes} is gone; restore it or start a "
            "new workdir"
        )
    log = open_probe_log()
    lost = log.missing(stop)
    if lost:
        raise UserError(
            f"the run stands at step {start}, but {folder.probes} lacks {len(lost)} earlier rows "
            f"(steps {lost[0]} to {lost[-1]}); restore it, delete the folders in "
            f"{folder.checkpoints} of the steps after {lost[0]} and run again, or start a new "
            "workdir"
        )
    return log


def _check_finite(step: int, row: dict[str, float], saved: int | None) -> None:
    bad = ", ".join(f"{k} = {v}" for k, v in row.items() if not math.isfinite(v))
    if bad:
        kept = f"the checkpoint of step {saved} is kept" if saved is not None else "none was saved"
        raise UserError(
            f"{bad} at step {step}: the run stopped before anything later was saved ({kept}); "
            "lower optim.schedule.peak, lengthen the warm-up or clip harder, in a new workdir"
        )


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
