"""The state of a run: step, parameters, optimizer state, laid out on a mesh."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from llm_dynamics.model import sharding
from llm_dynamics.model.build import Model


class State(flax.struct.PyTreeNode):
    """Everything a checkpoint holds. Random keys are folded from (seed, step), never stored."""

    step: jax.Array  # int32, the number of updates done
    params: Any
    opt_state: optax.OptState


def abstract_state(decoder: Model, optimizer: optax.GradientTransformation, mesh: Mesh) -> State:
    """The state as `jax.ShapeDtypeStruct` leaves that carry their shardings."""
    params = sharding.abstract_params(decoder)
    specs = sharding.param_shardings(decoder, mesh)
    replicated = sharding.replicated(mesh)
    opt_state = jax.eval_shape(optimizer.init, params)
    opt_specs = optax.tree_utils.tree_map_params(
        optimizer, lambda _, s: s, opt_state, specs, transform_non_params=lambda _: replicated
    )

    def place(leaf, spec):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=spec)

    return State(
        step=jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated),
        params=jax.tree.map(place, params, specs),
        opt_state=jax.tree.map(place, opt_state, opt_specs),
    )


def shardings(state: State) -> State:
    """The sharding of every leaf of an abstract or concrete state."""
    return jax.tree.map(lambda leaf: leaf.sharding, state)


def init_state(
    decoder: Model, optimizer: optax.GradientTransformation, mesh: Mesh, seed: int
) -> State:
    """A fresh state, initialised shard by shard: no device ever holds a full copy."""
    target = shardings(abstract_state(decoder, optimizer, mesh))
    params = sharding.init_params(decoder, seed, mesh)
    opt_state = jax.jit(optimizer.init, out_shardings=target.opt_state)(params)
    step = jax.device_put(jnp.zeros((), jnp.int32), target.step)
    return State(step, params, opt_state)
