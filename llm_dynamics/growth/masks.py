"""Masked growth: new entries are drawn afresh and fade in (MSG, Yao et al., ICLR 2024).

A mask is 1 for what came out of the source and c for what is new, and c rises from 0 to 1. New
heads, units and layers give c times their output. A norm takes the mask m of the stream as weights,
and what reads it sees new dimensions times the mask:

    m x gain / sqrt(sum(m x^2) / sum(m) + eps_c)

So at c = 0 the model computes what the source did, however new entries were drawn. Such a model is
the plain one with other parameters, whose entries are multiplied along their axes by

    m^power mean(m)^root

- what writes the stream: m^1/2, so that a plain mean square holds m x^2 and is mean(m) times the
  weighted one; gains: m^1/2 mean(m)^1/2, which makes up for both. Under a tied head the last gain
  is without m^1/2, since the table that reads it has it. eps_c is eps / mean(m) with the eps of the
  target, d / D of the source's, so it is the source's at c = 0.
- what reads heads, their dimensions or units: m. New dimensions of queries: m, and all of them
  mean(m)^-1/2 where scores are divided by the root of the size that is there.
- what writes the stream in new layers: c.

Training goes through this map: gradients are those of the masked model, the optimizer's numbers
those of the drawn parameters. At c = 1 the map changes nothing, to the bit. Published is one axis
after another; here all that grow fade in together.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llm_dynamics.growth import depth as depth_lib
from llm_dynamics.growth import presets
from llm_dynamics.growth.apply import flat, tree
from llm_dynamics.growth.axes import STREAM, Param
from llm_dynamics.growth.presets import Pair
from llm_dynamics.train.transform import View

_READ = ("attended_heads", "attended_dim", "mlp")


@dataclasses.dataclass(frozen=True)
class Fade:
    """What a parameter is multiplied by along one axis: m^power mean(m)^root.

    Attributes:
      at: the axis.
      new: which entries along it are new, bool.
      power: of the mask.
      root: of its mean.
    """

    at: int
    new: np.ndarray
    power: float = 0.0
    root: float = 0.0

    def __call__(self, x: jax.Array, c: jax.Array) -> jax.Array:
        """`x` with its entries multiplied."""
        c, share = jnp.asarray(c, x.dtype), float(self.new.mean())
        factor = jnp.where(self.new, c**self.power, 1.0) * (1 - share * (1 - c)) ** self.root
        shape = [1] * x.ndim
        shape[self.at] = -1
        return x * factor.astype(x.dtype).reshape(shape)


Fades = Mapping[str, Sequence[Fade]]


def fades(pair: Pair, depth: str) -> Fades:
    """By path, what fades in of a target that `presets.make(pair, "masked", depth)` made."""
    lifts = presets.WIDTHS["masked"](pair).lifts
    new = {
        role: lift.read.new if role in _READ else lift.write.new
        for role, lift in lifts.items()
        if role in (*_READ, "query_dim", STREAM)
    }
    # Copies that add nothing need no mask.
    added_N = depth_lib.added(depth, pair.source.layers, pair.target.layers)
    if depth == depth_lib.IDENTITY:
        added_N = np.zeros_like(added_N)
    found = {}
    for path, param in pair.target.params.items():
        along = _of_axes(param, new, pair)
        if param.layered and added_N.any() and _writes_stream(param):
            along.append(Fade(0, added_N, 1.0))
        found[path] = [fade for fade in along if fade.new.any()]
    return found


def effective(found: Fades, params: Any, c: float | jax.Array) -> Any:
    """The parameters of the plain model that computes what the masked one does; pure.

    Args:
      found: of `fades`.
      params: of the target.
      c: mask of what is new, 0 to 1.
    """
    shown = {}
    for path, leaf in flat(params).items():
        for fade in found[path]:
            leaf = fade(leaf, c)
        shown[path] = leaf
    return tree(shown)


def view(found: Fades, steps: int) -> View:
    """What is seen of the parameters before an update: c = update / steps, 1 from `steps` on."""

    def seen(params: Any, step: int | jax.Array) -> Any:
        return effective(found, params, jnp.minimum(step / steps, 1.0))

    return seen


def _of_axes(param: Param, new: Mapping[str, np.ndarray], pair: Pair) -> list[Fade]:
    found = []
    for at, role in enumerate(param.roles, int(param.layered)):
        if role not in new:
            continue
        reading = at - int(param.layered) < len(param.reads)
        if reading and role in _READ:
            found.append(Fade(at, new[role], 1.0))
        elif not reading and role == "query_dim":
            found.append(Fade(at, new[role], 1.0, -0.5 if pair.traits.by_size else 0.0))
        elif not reading and param.kind == "gain" and role == STREAM:
            under_table = pair.traits.tied and param.module == pair.traits.head_norm
            found.append(Fade(at, new[role], 0.0 if under_table else 0.5, 0.5))
        elif not reading and _writes_stream(param):
            found.append(Fade(at, new[role], 0.5))
    return found


def _writes_stream(param: Param) -> bool:
    return STREAM in param.writes and param.kind in ("weight", "bias")
