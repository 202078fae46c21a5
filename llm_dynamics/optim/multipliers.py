"""AdamW whose rates, decay and epsilon differ from parameter to parameter, as grown models need.

The chain and its state are those of `optimizer.make_optimizer`, so a checkpoint of one is a
checkpoint of the other. Trees of multipliers have the structure of the parameters; their leaves are
numbers, or arrays of as many axes as the parameter with a size of 1 where nothing differs.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from llm_dynamics.errors import UserError
from llm_dynamics.optim import carried
from llm_dynamics.optim.optimizer import OptimConfig, decay_mask

REWARM_RATIO = 1.3  # rho of SPARKLING: peak of the new entries' rate over the rate at growth
REWARM_STEPS = 250  # updates in which they get there


class Multipliers(flax.struct.PyTreeNode):
    """What AdamW's numbers are multiplied by, a tree each; None = 1 everywhere.

    Attributes:
      rate: of the learning rate, the decay's part too.
      decay: of the decoupled weight decay, which is still multiplied by the rate.
      eps: of Adam's epsilon.
      norm: of gradients inside the global norm that is clipped; nothing else sees it.
    """

    rate: Any = None
    decay: Any = None
    eps: Any = None
    norm: Any = None


class Rewarm(flax.struct.PyTreeNode):
    """A learning rate of their own for new entries.

    Attributes:
      new: tree of bool, True = a new entry; leaves as those of multipliers.
      schedule: their rate as a function of the count of updates, see `rewarmed`.
    """

    new: Any
    schedule: optax.Schedule = flax.struct.field(pytree_node=False)


def make_grown_optimizer(
    config: OptimConfig,
    schedule: optax.Schedule,
    multipliers: Multipliers | None = None,
    rewarm: Rewarm | None = None,
    frozen: Any = None,
) -> optax.GradientTransformation:
    """`optimizer.make_optimizer` with multipliers; without any it is the same to the bit.

    An update is -rate * lr * (m / (sqrt(v) + eps_multiplier * eps) + decay * weight_decay * p).

    Args:
      config: betas, epsilon, weight decay and clipping.
      schedule: learning rate as a function of the count of updates.
      multipliers: of single parameters or entries.
      rewarm: another schedule for new entries; multipliers apply to it as well.
      frozen: tree of bool of entries that stay as they are, see `freeze`.
    """
    found = multipliers or Multipliers()
    clip = [_clip(config.clip_norm, found.norm)] if config.clip_norm else []
    chain = optax.chain(
        *clip,
        _adam(config, found.eps),
        _decayed(config.weight_decay, found.decay),
        _rate(schedule, found.rate, rewarm),
    )
    return chain if frozen is None else freeze(chain, frozen)


def rewarmed(
    schedule: optax.Schedule,
    end: int,
    begin: int = 0,
    ratio: float = REWARM_RATIO,
    steps: int = REWARM_STEPS,
) -> optax.Schedule:
    """The rate of new entries after growth (SPARKLING, arXiv:2602.02472).

    It rises in a straight line from the schedule's rate at `begin` to `ratio` times that, and falls
    in a cosine to the schedule's rate at `end`. Old entries keep the schedule.

    Args:
      schedule: of the old entries, by the count of updates.
      end: count at which the cosine ends.
      begin: count at which the model grew; 0 where the counts of a stage begin at 0.
      ratio: the peak over the rate at `begin`.
      steps: updates from `begin` to the peak; published: 250 of a run of 100 billion tokens.

    Raises:
      UserError: a ratio that is not above 0, or no update left after the peak.
    """
    if not (0 < ratio < math.inf):
        raise UserError(f"expected a ratio of re-warming above 0, got {ratio}")
    if steps < 0 or end <= begin + steps:
        raise UserError(
            f"re-warming new entries takes {steps} updates from update {begin} on and a cosine "
            f"after them, but the schedule ends at update {end}; re-warm in fewer steps"
        )

    def rate(count):
        start, last = schedule(begin), schedule(end)
        peak = ratio * start
        up = jnp.clip((count - begin) / max(steps, 1), 0.0, 1.0) if steps else 1.0
        down = jnp.clip((count - begin - steps) / (end - begin - steps), 0.0, 1.0)
        fallen = last + (peak - last) / 2 * (1 + jnp.cos(jnp.pi * down))
        return jnp.where(count < begin + steps, start + (peak - start) * up, fallen)

    return rate


def freeze(
    inner: optax.GradientTransformation, frozen: Any, until: int | None = None
) -> optax.GradientTransformation:
    """`inner` with entries that it neither changes nor remembers.

    Their gradients count as 0 (in the clipped norm, too), their updates are 0, weight decay
    included, and their moments stay as they are. Counts go on. The state is that of `inner`, so
    that a stage with other frozen layers takes it over as it is. Gradients of frozen layers are
    still computed.

    Args:
      inner: any optimizer; with `until`, one that ends in a schedule, like `make_optimizer`'s.
      frozen: tree of bool like the parameters, leaves as those of multipliers.
      until: updates, by the schedule's count, after which nothing is frozen any more; None = it
        stays so. A moment of 0 beside a count that went on makes the first update of a thawed entry
        (1 - b1) / sqrt(1 - b2) learning rates long.
    """

    def now(state):
        if until is None:
            return frozen
        # Not Adam's count, which may have been taken over from another run.
        count = optax.tree_utils.tree_get(
            state, "count", filtering=carried.of("ScaleByScheduleState")
        )
        return jax.tree.map(lambda m: jnp.logical_and(m, count < until), frozen)

    def update(updates, state, params=None):
        mask = now(state)

        def zero_frozen(tree):
            return jax.tree.map(lambda m, u: jnp.where(m, jnp.zeros((), u.dtype), u), mask, tree)

        moved, new_state = inner.update(zero_frozen(updates), state, params)
        keep = optax.tree_utils.tree_map_params(
            inner, lambda _, m: m, state, mask, transform_non_params=lambda _: False
        )
        kept = jax.tree.map(
            lambda m, old, new: new if m is False else jnp.where(m, old, new),
            keep,
            state,
            new_state,
        )
        return zero_frozen(moved), kept

    return optax.GradientTransformation(inner.init, update)


def frozen_layers(
    params: Any,
    layers: Sequence[int],
    frozen_elsewhere: Sequence[str] = (),
    scanned: str = "layers",
) -> Any:
    """The mask of `freeze` for some layers of scanned parameters.

    MSLT (Yang et al. 2020) trains the layers that were put on top and the head: `layers` are the
    old ones and `frozen_elsewhere` is ("^embed/", "^positions/"). LLaMA-Pro (Wu et al. 2024) trains
    the inserted blocks alone: ("",), which freezes everything outside of layers.

    Args:
      params: arrays or shapes.
      layers: which are frozen; those of scanned parameters are their first axis.
      frozen_elsewhere: patterns searched for in the paths of all other parameters.
      scanned: first key of the scanned parameters.

    Raises:
      UserError: a layer that is not there, or a pattern that matches nothing.
    """
    unused = set(frozen_elsewhere)

    def decide(keys, leaf):
        path = "/".join(str(getattr(key, "key", key)) for key in keys)
        if not path.startswith(f"{scanned}/"):
            matches = [p for p in frozen_elsewhere if re.search(p, path)]
            unused.difference_update(matches)
            return np.bool_(bool(matches))
        if wrong := [i for i in layers if not 0 <= i < leaf.shape[0]]:
            raise UserError(
                f"cannot freeze layer {wrong[0]}: expected layers 0 to {leaf.shape[0] - 1} ({path})"
            )
        mask_N = np.isin(np.arange(leaf.shape[0]), list(layers))
        return mask_N.reshape(-1, *(1,) * (len(leaf.shape) - 1))

    mask = jax.tree_util.tree_map_with_path(decide, params)
    if unused:
        raise UserError(f"no parameter outside of {scanned} matches {sorted(unused)[0]!r}")
    return mask


# ---- the links of the chain ----------------------------------------------------------------------


def _times(factors: Any, tree: Any) -> Any:
    """Leaf by leaf in the types of `tree`."""
    return jax.tree.map(lambda f, x: jnp.asarray(f, x.dtype) * x, factors, tree)


def _clip(limit: float, weights: Any) -> optax.GradientTransformation:
    plain = optax.clip_by_global_norm(limit)
    if weights is None:
        return plain

    def update(updates, state, params=None):
        del params
        norm = optax.tree.norm(_times(weights, updates))

        def shrink(u):
            return jnp.where(norm < limit, u, u / norm.astype(u.dtype) * limit)

        return jax.tree.map(shrink, updates), state

    return optax.GradientTransformation(plain.init, update)


def _adam(config: OptimConfig, eps: Any) -> optax.GradientTransformation:
    plain = optax.scale_by_adam(config.b1, config.b2, config.eps)
    if eps is None:
        return plain

    def update(updates, state, params=None):
        _, state = plain.update(updates, state, params)
        mu = optax.tree.bias_correction(state.mu, config.b1, state.count)
        nu = optax.tree.bias_correction(state.nu, config.b2, state.count)

        def direction(e, m, v):
            return m / (jnp.sqrt(v) + jnp.asarray(e, v.dtype) * config.eps)

        return jax.tree.map(direction, eps, mu, nu), state

    return optax.GradientTransformation(plain.init, update)


def _decayed(weight_decay: float, factors: Any) -> optax.GradientTransformation:
    plain = optax.add_decayed_weights(weight_decay, decay_mask)
    if factors is None:
        return plain

    def update(updates, state, params=None):
        return plain.update(updates, state, _times(factors, params))

    return optax.GradientTransformation(plain.init, update)


def _rate(
    schedule: optax.Schedule, factors: Any, rewarm: Rewarm | None
) -> optax.GradientTransformation:
    plain = optax.scale_by_learning_rate(schedule)
    if factors is None and rewarm is None:
        return plain

    def update(updates, state, params=None):
        moved, after = plain.update(updates, state, params)
        if rewarm is not None:
            rate = rewarm.schedule(state.count)
            moved = jax.tree.map(
                lambda new, u, old: jnp.where(new, -jnp.asarray(rate, u.dtype) * u, old),
                rewarm.new,
                updates,
                moved,
            )
        return moved if factors is None else _times(factors, moved), after

    return optax.GradientTransformation(plain.init, update)
