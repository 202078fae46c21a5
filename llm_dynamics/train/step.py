"""The jitted training step and the validation loss."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from llm_dynamics.batch import Batch
from llm_dynamics.model import dropping, masking, sharding
from llm_dynamics.model.build import Model
from llm_dynamics.model.loss import token_losses, training_loss
from llm_dynamics.train.state import State, shardings
from llm_dynamics.train.transform import View

Metrics = dict[str, jax.Array]
TrainStep = Callable[[State, Batch], tuple[State, Metrics]]


def make_train_step(
    decoder: Model,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    mesh: Mesh,
    abstract: State,
    *,
    accumulate: int = 1,
    seed: int = 0,
    layer_drop: float = 0.0,
    token_drop: float = 0.0,
    view: View | None = None,
) -> TrainStep:
    """Builds `step(state, batch) -> (state, metrics)`, jitted with explicit shardings.

    Trace it under `sharding.activate(mesh)`. The state is donated. Tokens are hidden from an
    encoder, by keys folded from (seed, step). The loss is the mean over the tokens whose mask is
    1, over the whole batch, whatever the number of micro-batches. Metrics are float32 scalars:
    `loss` (nats per token), `grad_norm` (before clipping), `learning_rate`, `tokens` (labels
    counted).

    Args:
      decoder: the model.
      optimizer: the gradient transformation.
      schedule: learning rate by absolute step, for the metrics.
      mesh: the device mesh.
      abstract: the state's shapes and shardings (`state.abstract_state`).
      accumulate: micro-batches a step is split into along the rows.
      seed: of the run, for the tokens that are hidden and what is dropped.
      layer_drop: rate at which rows skip layers, and
      token_drop: share of the tokens that skip the middle layers, see `dropping.draws`. Drawn for
        the whole batch, so that micro-batches drop the same. Validation drops nothing.
      view: what the model is given in place of the parameters, see `transform.Transform.view`;
        gradients are those of the parameters themselves.

    Raises:
      UserError: `dropping.check` refuses what is dropped.
    """
    objective = masking.objective(decoder.config, seed)
    draw = dropping.draws(decoder.config, seed, layer_drop, token_drop)

    def share_of_loss(params, batch: Batch, kept: dropping.Kept | None, total):
        return training_loss(decoder, params, batch, total, kept)[0]

    value_and_grad = jax.value_and_grad(share_of_loss)

    def gradient(params, batch: Batch, kept: dropping.Kept | None, total):
        if accumulate == 1:
            return value_and_grad(params, batch, kept, total)
        # Rows are dealt out in turn, so every micro-batch stays spread over all devices.
        parts = jax.tree.map(
            lambda x: x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1), (batch, kept)
        )

        def add(carry, part):
            return jax.tree.map(jnp.add, carry, value_and_grad(params, *part, total)), None

        zeros = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
        return jax.lax.scan(add, zeros, parts)[0]

    def step(state: State, batch: Batch) -> tuple[State, Metrics]:
        batch = objective(batch, state.step)
        tokens = jnp.sum(batch.mask_BxL)
        params, pull = state.params, None
        if view is not None:
            # Once an update, not once a micro-batch.
            params, pull = jax.vjp(lambda p: view(p, state.step), state.params)
        loss, grads = gradient(params, batch, draw(batch, state.step), tokens)
        if pull is not None:
            (grads,) = pull(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        metrics = {
            "loss": loss,
            "grad_norm": optax.tree.norm(grads),
            "learning_rate": jnp.asarray(schedule(state.step), jnp.float32),
            "tokens": tokens,
        }
        params = optax.apply_updates(state.params, updates)
        return State(state.step + 1, params, opt_state), metrics

    where = shardings(abstract)
    return jax.jit(
        step,
        in_shardings=(where, sharding.batch_sharding(mesh)),
        out_shardings=(where, where.step),
        donate_argnums=0,
    )


def make_validation(decoder: Model, mesh: Mesh, abstract: State) -> Callable[[Any, Batch], Any]:
    """Builds `(params, batch) -> (sum of losses, number of labels)`; params are not donated.

    Trace it under `sharding.activate(mesh)`. The same tokens are hidden from an encoder each time.
    """
    hide = masking.validation(decoder.config)

    def sums(params, batch: Batch):
        batch = hide(batch)
        losses_BxL = token_losses(decoder, params, batch)
        return jnp.sum(losses_BxL * batch.mask_BxL), jnp.sum(batch.mask_BxL)

    where = shardings(abstract)
    return jax.jit(
        sums,
        in_shardings=(where.params, sharding.batch_sharding(mesh)),
        out_shardings=(where.step, where.step),
    )
