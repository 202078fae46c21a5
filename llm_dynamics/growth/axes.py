"""The axis graph: what every parameter of a model reads and writes, by the roles of its axes.

A parameter is declared where it is made (`model.layers.Axes`): the names of its axes, and how many
of them it reads. The names are the roles. Whatever writes or reads one role grows in one way along
it, which is all that an operator has to know of a model.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from llm_dynamics.errors import UserError
from llm_dynamics.model.layers import Axes

LAYERS = "layers"  # the leading axis of scanned parameters
STREAM = "embed"  # the role of the residual stream
TRANSFORM = "transform"  # what the tied head of an encoder reads, entry for entry with the stream


@dataclasses.dataclass(frozen=True)
class Param:
    """A parameter as growth sees it.

    Attributes:
      path: keys from the root, joined by "/".
      layered: whether its first axis is that of the layers.
      reads: roles of the axes it reads; they come first, behind the layers.
      writes: roles of the axes it writes.
      shape: of all axes.
      kind: "weight"; "bias" of a linear map; "gain" or "shift" of a norm.
      std: of fresh weights; 0 = constants.
    """

    path: str
    layered: bool
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    shape: tuple[int, ...]
    kind: str
    std: float

    @property
    def module(self) -> str:
        """The path without the leaf."""
        return self.path.rpartition("/")[0]

    @property
    def roles(self) -> tuple[str, ...]:
        """Of all axes but that of the layers."""
        return self.reads + self.writes

    @property
    def layers(self) -> int:
        """How many; 0 where it is not layered."""
        return self.shape[0] if self.layered else 0


@dataclasses.dataclass(frozen=True)
class Graph:
    """All parameters of a model, and the sizes of their roles.

    Attributes:
      params: by path, in the order of the tree.
      sizes: of every role.
      layers: of the scanned parameters; 0 where there are none.
    """

    params: Mapping[str, Param]
    sizes: Mapping[str, int]
    layers: int

    def num_params(self) -> int:
        """Numbers in all parameters."""
        total = 0
        for param in self.params.values():
            count = 1
            for size in param.shape:
                count *= size
            total += count
        return total


def graph(boxed: Any) -> Graph:
    """The axis graph of parameters boxed in `Axes`, arrays or shapes.

    Raises:
      UserError: a parameter without axes, or a role of two sizes.
    """
    leaves = jax.tree_util.tree_flatten_with_path(boxed, is_leaf=lambda x: isinstance(x, Axes))[0]
    found = {path_of(keys): box for keys, box in leaves}
    params, sizes, layers = {}, {}, 0
    for path, box in found.items():
        if not isinstance(box, Axes):
            raise UserError(
                f"parameter {path} does not say what its axes are; declare it with "
                "model.layers.declare, naming every axis and how many of them it reads"
            )
        param = _param(path, box, found)
        params[path] = param
        for role, size in zip(param.roles, param.shape[param.layered :], strict=True):
            if sizes.setdefault(role, size) != size:
                raise UserError(
                    f"axes of the role {role} have the sizes {sizes[role]} and {size} (in {path}); "
                    "give axes that may differ names of their own"
                )
        if param.layered and (layers := layers or param.layers) != param.layers:
            raise UserError(f"{path} has {param.layers} layers where others have {layers}")
    return Graph(params, sizes, layers)


def path_of(keys: tuple) -> str:
    """The path of a leaf of a tree of dictionaries."""
    return "/".join(str(getattr(key, "key", key)) for key in keys)


def _param(path: str, box: Axes, siblings: Mapping[str, Any]) -> Param:
    shape = tuple(box.value.shape)
    if len(box.names) != len(shape):
        raise UserError(f"parameter {path} has {len(shape)} axes and names {box.names}")
    layered = bool(box.names) and box.names[0] == LAYERS
    names = tuple(box.names[layered:])
    module, _, leaf = path.rpartition("/")
    kind = "weight"
    if leaf == "scale":
        kind = "gain"
    elif leaf == "bias":
        kind = "shift" if f"{module}/scale" in siblings else "bias"
    return Param(path, layered, names[: box.reads], names[box.reads :], shape, kind, box.std)
