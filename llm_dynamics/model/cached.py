"""A decoder that goes on token by token, and remembers keys and values of the tokens before.

The memory of a row has a fixed number of columns. Those that are not reached yet hold what no mask
shows, and are written when they are.

Axes: B rows, M columns of the memory, N layers, K key/value heads, E head dimension, V vocabulary.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from llm_dynamics.model import windows
from llm_dynamics.model.attention import MEMORY
from llm_dynamics.model.decoder import Decoder, Layer


class Memory(NamedTuple):
    """What is kept of some rows, each one text from its first column on.

    Attributes:
      layers: keys and values, N x B x M x K x E each.
      mask: of all columns, see `windows.views`.
      angles: the same.
    """

    layers: Any
    mask: jax.Array
    angles: Any


def read(decoder: Decoder, params: Any, tokens_BxM: jax.Array) -> Memory:
    """The memory of rows of tokens, at all columns at once."""
    config = decoder.config
    h_BxMxD, mask, angles = decoder.apply({"params": params}, tokens_BxM, method="embedded")

    def layer(h, inputs):
        weights, kind = inputs
        (h, _), made = Layer(config).apply(
            {"params": weights}, h, mask, angles, None, kind, mutable=[MEMORY]
        )
        return h, made[MEMORY]

    each = params["layers"], windows.kinds(config)
    _, layers = jax.lax.scan(layer, h_BxMxD, each, unroll=config.unroll)
    return Memory(layers, mask, angles)


def next_logits(
    decoder: Decoder, params: Any, memory: Memory, tokens_BxM: jax.Array, column_B: jax.Array
) -> tuple[jax.Array, Memory]:
    """Logits, B x V, of the token after the given column of each row, and the memory with it.

    Args:
      decoder: the model.
      params: its parameters.
      memory: of the tokens before the column; the column itself is read anew.
      tokens_BxM: of the rows.
      column_B: int32.
    """
    config, variables = decoder.config, {"params": params}
    column_Bx1 = column_B[:, None]
    token_Bx1 = jnp.take_along_axis(tokens_BxM, column_Bx1, axis=1)
    h_Bx1xD, *_ = decoder.apply(variables, token_Bx1, None, column_Bx1, method="embedded")
    # Before the layers, which would else each take all columns of their kind first.
    mask, angles = jax.tree.map(
        lambda x: jnp.take(x[..., 0, :, :], column_Bx1, axis=-2), (memory.mask, memory.angles)
    )

    def layer(h, inputs):
        weights, kept, kind = inputs
        (h, _), made = Layer(config).apply(
            {"params": weights, MEMORY: kept}, h, mask, angles, None, kind, mutable=[MEMORY]
        )
        return h, made[MEMORY]

    each = params["layers"], memory.layers, windows.kinds(config)
    h_Bx1xD, layers = jax.lax.scan(layer, h_Bx1xD, each, unroll=config.unroll)
    h_BxD = decoder.apply(variables, h_Bx1xD, method="normed")[:, 0]
    return decoder.apply(variables, h_BxD, method="unembed"), memory._replace(layers=layers)
