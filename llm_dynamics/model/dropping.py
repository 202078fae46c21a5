"""Layers that rows skip, and tokens that the middle layers skip, at a step of training.

Pure in (seed, step), as `masking` is: nothing is stored, and a run that resumes drops the same.
Only training drops. A layer that is kept with probability p has its update, what it makes of the
stream less the stream, divided by p, so that the plain layer is the mean over draws. Hence what is
evaluated, probed, saved and grown is a plain model: the expected mixture, layer by layer. (Released
code leaves training as it is and multiplies by p when it evaluates, which asks every reader of a
checkpoint to know the rate; the two differ by how large an update is written in the parameters.)

What is dropped is computed and thrown away, so nothing is saved here: these masks show what
dropping does to the loss, and `skippable_flops_per_token` what it would save.

Axes: B rows, L query positions, M key positions, D width, N layers.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from llm_dynamics.batch import Batch
from llm_dynamics.errors import UserError
from llm_dynamics.model import size
from llm_dynamics.model.config import ModelConfig

_TRAINING = 0x64726F70  # sets apart the keys of a seed


class Kept(NamedTuple):
    """What of the layers counts for the rows of a batch; None = all of it.

    Attributes:
      weight_BxN: float32, times which a layer's update is added: 0 = the row skips the layer.
      token_BxL: bool, tokens that the middle layers compute and attend to. The others pass them
        unchanged; the first layer and the last one compute all.
    """

    weight_BxN: jax.Array | None
    token_BxL: jax.Array | None


class LayerKept(NamedTuple):
    """The same for one layer, with the tokens that it computes; `by_layer` adds an axis of N."""

    weight_B: jax.Array | None
    token_BxL: jax.Array | None


Draw = Callable[[Batch, jax.Array | int], Kept | None]


def check(num_layers: int, layer_drop: float, token_drop: float) -> None:
    """Refuses shares outside [0, 1), and models in which no layer would be dropped or skipped.

    Raises:
      UserError: says what to set.
    """
    for name, value, layers, why in (
        ("layer_drop", layer_drop, 2, "the first layer is never dropped"),
        ("token_drop", token_drop, 3, "tokens skip neither the first layer nor the last one"),
    ):
        if not 0 <= value < 1:
            raise UserError(f"expected train.{name} of at least 0 and below 1, got {value}")
        if value and num_layers < layers:
            raise UserError(
                f"train.{name} {value} expects a model of at least {layers} layers, got "
                f"{num_layers}: {why}; set train.{name} to 0 or model.num_layers to {layers}"
            )


def layer_rates(num_layers: int, layer_drop: float) -> np.ndarray:
    """How often a row skips each layer, N: `layer_drop` * i / N, so never the first one.

    Zhang & He (2020) over depth, with the rates of Wang et al. (2023), who hold them in time.
    """
    return layer_drop * np.arange(num_layers) / num_layers


def middle_layers(num_layers: int) -> np.ndarray:
    """Which layers dropped tokens skip, N, bool: all but the first and the last (Hou et al. 2022).

    Tokens are dropped at random, where Hou et al. weigh which ones matter.
    """
    index = np.arange(num_layers)
    return (index > 0) & (index < num_layers - 1)


def draws(config: ModelConfig, seed: int, layer_drop: float, token_drop: float) -> Draw:
    """What update t of a run keeps of its batch: (batch, t) -> `Kept`, None where nothing drops.

    Args:
      config: of the model.
      seed: of the run.
      layer_drop: the rate that `layer_rates` approaches with depth.
      token_drop: share of the tokens that the middle layers skip, drawn token by token.

    Raises:
      UserError: `check` refuses them.
    """
    check(config.num_layers, layer_drop, token_drop)
    if not (layer_drop or token_drop):
        return lambda batch, step: None
    key = jax.random.fold_in(jax.random.key(seed), _TRAINING)
    rate_1xN = layer_rates(config.num_layers, layer_drop).astype(np.float32)[None]

    def draw(batch: Batch, step: jax.Array | int) -> Kept:
        layer_key, token_key = jax.random.split(jax.random.fold_in(key, step))
        shape, weight_BxN, token_BxL = batch.tokens_BxL.shape, None, None
        if layer_drop:
            drawn_BxN = jax.random.uniform(layer_key, (shape[0], config.num_layers))
            weight_BxN = jnp.where(drawn_BxN < rate_1xN, 0.0, 1 / (1 - rate_1xN))
        if token_drop:
            token_BxL = jax.random.uniform(token_key, shape) >= token_drop
        return Kept(weight_BxN, token_BxL)

    return draw


def by_layer(kept: Kept | None, num_layers: int) -> LayerKept | None:
    """What each layer keeps, with a leading axis of N layers to scan over."""
    if kept is None:
        return None
    weight_NxB = token_NxBxL = None
    if kept.weight_BxN is not None:
        weight_NxB = jnp.swapaxes(kept.weight_BxN, 0, 1)
    if kept.token_BxL is not None:
        whole_Nx1x1 = ~middle_layers(num_layers)[:, None, None]
        token_NxBxL = jnp.asarray(kept.token_BxL)[None] | whole_Nx1x1
    return LayerKept(weight_NxB, token_NxBxL)


def visible(mask_BxLxM: jax.Array, kept: LayerKept | None) -> jax.Array:
    """The attention mask without dropped keys, which see themselves: every query has a key."""
    if kept is None or kept.token_BxL is None:
        return mask_BxLxM
    itself_LxM = jnp.eye(mask_BxLxM.shape[-1], dtype=bool)
    return mask_BxLxM & (kept.token_BxL[:, None, :] | itself_LxM[None])


def mixed(before_BxLxD: jax.Array, after_BxLxD: jax.Array, kept: LayerKept | None) -> jax.Array:
    """The stream behind a layer that made `after` of `before`; exactly `before` if skipped."""
    if kept is None:
        return after_BxLxD
    if kept.weight_B is not None:
        # In float32, and so that a weight of 1 gives `after` to the bit.
        weight_Bx1x1 = kept.weight_B[:, None, None]
        mix_BxLxD = weight_Bx1x1 * after_BxLxD + (1 - weight_Bx1x1) * before_BxLxD
        mix_BxLxD = mix_BxLxD.astype(after_BxLxD.dtype)
        after_BxLxD = jnp.where(weight_Bx1x1 > 0, mix_BxLxD, before_BxLxD)
    if kept.token_BxL is not None:
        after_BxLxD = jnp.where(kept.token_BxL[:, :, None], after_BxLxD, before_BxLxD)
    return after_BxLxD


def skippable_flops_per_token(
    config: ModelConfig, length: int, layer_drop: float, token_drop: float
) -> float:
    """Training FLOPs a token that a kernel that skips would save on average.

    Of those of `size.flops_per_token`, all of which our masks spend (and more in local layers). A
    layer saves its rate of what it costs; a middle one also the share s of tokens in its products
    with weights, and 1 - (1 - s)^2 of its attention, which loses queries and keys.

    Args:
      config: of the model.
      length: of a row, tokens.
      layer_drop: see `draws`, like `token_drop`.
      token_drop: the share s.

    Raises:
      UserError: `check` refuses them.
    """
    check(config.num_layers, layer_drop, token_drop)
    weights = 6.0 * size.matrix_params_per_layer(config)
    scores_N = 12.0 * config.num_heads * config.head_size * size.keys_per_layer(config, length)
    stay_N = 1 - layer_rates(config.num_layers, layer_drop)
    tokens_N = 1 - token_drop * middle_layers(config.num_layers)
    spent_N = stay_N * (tokens_N * weights + tokens_N**2 * scores_N)
    return float(np.sum(weights + scores_N - spent_N))
