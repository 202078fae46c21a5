"""How a stored tensor and the parameters it holds lie: reshape, deal, transpose; both ways.

A tensor of theirs is seen as an array of `factors`; one axis may deal it to several of our
parameters (queries, keys and values in one); the others are put into `order`. Ours are stacked
over layers, theirs are not.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator

import numpy as np

Path = tuple[str, ...]  # of a parameter of ours, ("layers", "mlp", "up", "kernel")


@dataclasses.dataclass(frozen=True)
class Part:
    """A parameter of ours, or the slice of it that belongs to one layer."""

    path: Path
    layer: int | None = None  # None = the whole parameter


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A stored tensor, and what of ours it holds."""

    name: str
    shape: tuple[int, ...]  # as it is stored
    factors: tuple[int, ...]
    order: tuple[int, ...]  # ours, by axes of the factors without the one that deals
    parts: tuple[Part, ...]
    dealt: int | None = None  # the axis of the factors that has an entry a part; None = one part
    offset: float = 0.0  # that ours is larger


def same(name: str, part: Part, shape: tuple[int, ...]) -> Tensor:
    """Stored as it is here."""
    return Tensor(name, shape, shape, tuple(range(len(shape))), (part,))


def vector(name: str, part: Part, shape: tuple[int, ...]) -> Tensor:
    """Stored as one long axis."""
    return Tensor(name, (math.prod(shape),), shape, tuple(range(len(shape))), (part,))


def linear(
    name: str, part: Part, inputs: tuple[int, ...], outputs: tuple[int, ...], turned: bool = True
) -> Tensor:
    """A map stored as (out, in), or (in, out) where it is not `turned`; ours is inputs + outputs.

    Every side is stored as one axis.
    """
    first, second = (outputs, inputs) if turned else (inputs, outputs)
    axes = tuple(range(len(inputs) + len(outputs)))
    order = axes[len(outputs) :] + axes[: len(outputs)] if turned else axes
    shape = math.prod(first), math.prod(second)
    return Tensor(name, shape, first + second, order, (part,))


def unpack(tensor: Tensor, array: np.ndarray) -> Iterator[tuple[Part, np.ndarray]]:
    """The values of every part, as views of the stored array."""
    array = array.reshape(tensor.factors)
    for i, part in enumerate(tensor.parts):
        mine = array if tensor.dealt is None else array.take([i], tensor.dealt)
        if tensor.dealt is not None:
            mine = mine.squeeze(tensor.dealt)
        mine = mine.transpose(tensor.order)
        yield part, mine + np.float32(tensor.offset) if tensor.offset else mine


def pack(tensor: Tensor, get: Callable[[Part], np.ndarray]) -> np.ndarray:
    """The stored array, float32, of the values of its parts; undoes `unpack`."""
    back = np.argsort(tensor.order)
    if tensor.dealt is None:
        array = get(tensor.parts[0]).transpose(back)
    else:
        array = np.stack([get(part).transpose(back) for part in tensor.parts], tensor.dealt)
    array = array - np.float32(tensor.offset) if tensor.offset else array
    return np.ascontiguousarray(array.reshape(tensor.shape), np.float32)
