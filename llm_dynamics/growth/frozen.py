"""Which entries of a deeper model are held while what was added trains, for `optim.freeze`.

LLaMA-Pro (Wu et al. 2024) trains the layers that were put between those of the source, and nothing
else. MSLT (Yang et al. 2020) trains those that were put on top, with the head, and then all.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llm_dynamics.errors import UserError
from llm_dynamics.growth import depth as depth_lib
from llm_dynamics.growth import width as width_lib
from llm_dynamics.growth.apply import tree
from llm_dynamics.growth.axes import STREAM, Param
from llm_dynamics.growth.presets import Pair
from llm_dynamics.optim.multipliers import frozen_layers

TRAINED: Mapping[str, str] = {
    "added": "the layers that were added",
    "added+head": "these, and what reads the last layer; a tied head is an embedding, and held",
}


def held(pair: Pair, depth: str, trained: str) -> Any:
    """The mask of `optim.multipliers.freeze`: True for what came out of the source and is held.

    Args:
      pair: source and target, of one width.
      depth: the pattern that adds layers; which ones says `depth.added`.
      trained: one of TRAINED.

    Raises:
      UserError: no layer is added, or an axis grows.
    """
    if grown := width_lib.grown_roles(pair.source, pair.target):
        raise UserError(
            f"growth.frozen holds the layers of the source, but {grown[0]} grows from "
            f"{pair.source.sizes[grown[0]]} to {pair.target.sizes[grown[0]]}, so that they have "
            "new entries, too; let the layers alone grow, or set growth.frozen=0"
        )
    old, new = pair.source.layers, pair.target.layers
    added_N = depth_lib.added(depth, old, new)
    if not added_N.any():
        raise UserError(
            f"growth.frozen holds the {old} layers of the source, and the target has no others: "
            "nothing would train; give it more layers, or set growth.frozen=0"
        )
    elsewhere = [
        f"^{re.escape(param.path)}$"
        for param in pair.target.params.values()
        if not param.layered and (trained == "added" or _is_below(param, pair))
    ]
    shapes = {
        path: jax.ShapeDtypeStruct(param.shape, jnp.float32)
        for path, param in pair.target.params.items()
    }
    return frozen_layers(tree(shapes), np.flatnonzero(~added_N).tolist(), elsewhere)


def _is_below(param: Param, pair: Pair) -> bool:
    """Whether it makes what the first layer reads: all that write the stream but the last norm."""
    return param.writes == (STREAM,) and param.module != pair.traits.head_norm
