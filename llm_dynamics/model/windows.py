"""Layers that read a window of the text, beside those that read all of it.

Layers are scanned, so both kinds are one program: masks and angles of both are made once and
stacked, global first, and every layer picks its own by the number of its kind. A model whose layers
are all of one kind has no such numbers, and computes nothing more.

Axes: B rows, L query positions, M key positions, N layers.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llm_dynamics.model.attention import attention_mask, branch_mask
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.model.layers import rotary_angles
from llm_dynamics.model.rotary import RotaryScaling


def local_layers(config: ModelConfig) -> np.ndarray:
    """Which layers read a window, N, bool: with one, all but every `global_every`-th."""
    count_N = np.arange(1, config.num_layers + 1)
    if not config.window:
        return np.zeros(config.num_layers, bool)
    return count_N % (config.global_every or config.num_layers + 1) != 0


def kinds(config: ModelConfig) -> np.ndarray | None:
    """What each layer picks of `views`, int32, N: 0 = global, 1 = local; None = nothing to pick."""
    local_N = local_layers(config)
    return None if local_N.all() or not local_N.any() else local_N.astype(np.int32)


def views(
    config: ModelConfig,
    segment_ids_BxL: jax.Array,
    positions_BxL: jax.Array,
    until_BxL: jax.Array | None = None,
) -> tuple[Any, Any]:
    """Mask and rotary angles (None = no rotary positions) of a layer, or of both kinds stacked.

    A window is counted in columns of the row, the token itself included; where texts branch
    (`until_BxL`, see `attention.branch_mask`), in positions.
    """
    angles = near = None
    local_N = local_layers(config)
    if config.position == "rotary":
        angles = rotary_angles(config, positions_BxL)
        near = rotary_angles(_local(config), positions_BxL) if local_N.any() else None
    if until_BxL is None:
        mask_BxLxM = attention_mask(segment_ids_BxL)
        place_BxM = jnp.arange(mask_BxLxM.shape[-1])[None]
    else:
        mask_BxLxM, place_BxM = branch_mask(until_BxL), positions_BxL
    if not local_N.any():
        return mask_BxLxM, angles
    near_BxLxM = mask_BxLxM & (place_BxM[:, :, None] - place_BxM[:, None] < config.window)
    if local_N.all():
        return near_BxLxM, near
    return jax.tree.map(lambda *both: jnp.stack(both), (mask_BxLxM, angles), (near_BxLxM, near))


def seen(mask: jax.Array, angles: Any, kind: jax.Array | int | None) -> tuple[jax.Array, Any]:
    """Mask and angles of a layer of a kind."""
    if kind is None:
        return mask, angles
    return jax.tree.map(lambda x: x[kind], (mask, angles))


def _local(config: ModelConfig) -> ModelConfig:
    """The rotary encoding of local layers as a config's own."""
    if not config.local_rotary_base:
        return config
    return dataclasses.replace(
        config, rotary_base=config.local_rotary_base, rotary_scaling=RotaryScaling()
    )
