"""What a run will do, in lines of text, before any of it is done."""

import jax
import jax.numpy as jnp

from llm_dynamics.data.plan import Plan
from llm_dynamics.model import sharding, size
from llm_dynamics.model.decoder import Decoder
from llm_dynamics.optim.optimizer import make_optimizer
from llm_dynamics.optim.schedules import make_schedule
from llm_dynamics.train.config import RunSpec
from llm_dynamics.train.loop import abstract_batch
from llm_dynamics.train.state import abstract_state
from llm_dynamics.train.step import make_train_step


def describe(spec: RunSpec, plan: Plan) -> list[str]:
    """Parameters, tokens by source, FLOPs, memory and learning rates of a run.

    The training step is compiled for the devices at hand, on shapes alone; nothing is allocated.

    Raises:
      UserError: a mesh or schedule that does not fit.
    """
    total, tokens = spec.train.steps, spec.train.steps * plan.tokens_per_step
    flops = size.flops_per_token(spec.model, spec.data.length) * tokens
    about = plan.describe(total)
    lines = [
        f"model: {size.num_params(spec.model):,} parameters "
        f"({size.num_params_non_embedding(spec.model):,} without embeddings)",
        f"training: {total:,} steps x {plan.tokens_per_step:,} tokens = {tokens:,} tokens, "
        f"{flops:.3g} FLOPs",
        "sources:",
    ]
    for source in about["sources"]:
        lines.append(
            f"  {source['name']:<20} {source['share']:7.2%} of rows, {source['rows_read']:,} rows, "
            f"{source['epochs']:.2f} epochs; licence {source['licence'] or 'not stated'}"
        )
    lines += _memory(spec)
    schedule = make_schedule(spec.optim.schedule, total)
    warmup = spec.optim.schedule.warmup
    marks = sorted({0, warmup, total // 4, total // 2, 3 * total // 4, total - 1} - {total})
    rates = ", ".join(f"{t}: {float(schedule(jnp.asarray(t))):.3g}" for t in marks)
    return [*lines, f"learning rate by step: {rates}"]


def _memory(spec: RunSpec) -> list[str]:
    mesh = sharding.make_mesh(spec.train.mesh.data, spec.train.mesh.fsdp, spec.train.mesh.tensor)
    sharding.check_mesh(spec.model, mesh, spec.data.batch_size // spec.train.accumulate)
    decoder, schedule = Decoder(spec.model), make_schedule(spec.optim.schedule, spec.train.steps)
    optimizer = make_optimizer(spec.optim, schedule)
    abstract = abstract_state(decoder, optimizer, mesh)
    step = make_train_step(
        decoder, optimizer, schedule, mesh, abstract, accumulate=spec.train.accumulate
    )
    batch = abstract_batch((spec.data.batch_size, spec.data.length), sharding.batch_sharding(mesh))
    with sharding.activate(mesh):
        used = step.lower(abstract, batch).compile().memory_analysis()
    sizes = " x ".join(f"{name} {count}" for name, count in mesh.shape.items())
    if used is None:
        return [f"mesh: {sizes} on {jax.devices()[0].platform}; memory: not known here"]
    return [
        f"mesh: {sizes} on {jax.devices()[0].platform}",
        f"memory of a step on one device: {used.argument_size_in_bytes / 2**20:,.0f} MiB of state "
        f"and batch, {used.temp_size_in_bytes / 2**20:,.0f} MiB of temporaries",
    ]
