"""What one training or evaluation step reads."""

from typing import NamedTuple

import jax
import numpy as np

Array = np.ndarray | jax.Array


class Batch(NamedTuple):
    """A packed batch; B rows of L tokens. A pytree of numpy or jax arrays.

    Attributes:
      tokens_BxL: int32 inputs.
      targets_BxL: int32 labels, the next token at every position.
      segment_ids_BxL: int32; 0 is padding, equal positive ids may attend to each other.
      positions_BxL: int32 positions for the position encoding.
      mask_BxL: float32, 1 where the label counts in the loss.
    """

    tokens_BxL: Array
    targets_BxL: Array
    segment_ids_BxL: Array
    positions_BxL: Array
    mask_BxL: Array
