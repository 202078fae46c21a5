"""Maps along one axis, from the entries of a source to those of a larger target.

`Gather` copies entries with a factor and leaves others new; `Mix` is a matrix. Letters: n entries
of the source, N of the target, l layers.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

NEW = -1  # index of an entry that comes from none of the source's


@dataclasses.dataclass(frozen=True)
class Gather:
    """Entry i of the target is scale[i] times entry index[i] of the source; NEW: nothing.

    Attributes:
      index: int, N.
      scale: float, N.
    """

    index: np.ndarray
    scale: np.ndarray

    @property
    def new(self) -> np.ndarray:
        """Which entries come from none of the source's, N."""
        return self.index == NEW

    @property
    def size(self) -> int:
        """N."""
        return len(self.index)

    def __call__(self, x: jax.Array, axis: int) -> jax.Array:
        """`x` with the axis mapped; new entries are 0."""
        if self.plain and np.array_equal(self.index, np.arange(x.shape[axis])):
            return x
        taken = jnp.take(x, np.maximum(self.index, 0), axis=axis)
        if self.plain and not self.new.any():
            return taken
        scale = np.where(self.new, 0.0, self.scale).astype(x.dtype)
        shape = [1] * x.ndim
        shape[axis] = -1
        return taken * scale.reshape(shape)

    @property
    def plain(self) -> bool:
        """Whether all factors are 1."""
        return bool(np.all(self.scale == 1))

    def only(self, which: np.ndarray) -> "Gather":
        """The map with the entries outside of `which` (bool, N) made new."""
        return Gather(np.where(which, self.index, NEW), self.scale)

    def unscaled(self) -> "Gather":
        """The map with all factors 1."""
        return Gather(self.index, np.ones(self.size))


@dataclasses.dataclass(frozen=True)
class Mix:
    """Entry i of the target is a weighted sum of all entries of the source.

    Attributes:
      matrix: N x n, or l x N x n with one matrix a layer.
      along: whose layers these are, "source" or "target"; "" with one matrix.
    """

    matrix: jax.Array | np.ndarray
    along: str = ""

    @property
    def new(self) -> np.ndarray:
        """No entry is new, N."""
        return np.zeros(self.size, bool)

    @property
    def size(self) -> int:
        """N."""
        return self.matrix.shape[-2]

    def __call__(self, x: jax.Array, axis: int) -> jax.Array:
        """`x` with the axis mapped; with a matrix a layer, the layers are its first axis."""
        matrix = jnp.asarray(self.matrix, x.dtype)
        if not self.along:
            return jnp.moveaxis(jnp.tensordot(matrix, x, (1, axis)), 0, axis)
        moved = jnp.moveaxis(x, axis, 1)
        flat = moved.reshape(*moved.shape[:2], -1)
        mixed = jnp.einsum("lNn,lnx->lNx", matrix, flat)
        return jnp.moveaxis(mixed.reshape(mixed.shape[:2] + moved.shape[2:]), 1, axis)


Map = Gather | Mix


def same(size: int) -> Gather:
    """The map that changes nothing."""
    return Gather(np.arange(size), np.ones(size))


def pad(old: int, new: int) -> Gather:
    """The source's entries first, then new ones."""
    index = np.arange(new)
    return Gather(np.where(index < old, index, NEW), np.ones(new))


def tile(old: int, new: int, scale: float = 1.0) -> Gather:
    """All entries again and again; `new` need not be a multiple of `old`."""
    return Gather(np.arange(new) % old, np.full(new, scale))


def shared(index: np.ndarray, uneven: float = 0.0) -> Gather:
    """Reads copies so that they add up to what the source read: factors that sum to 1 an entry.

    Args:
      index: which entry each of the target's copies.
      uneven: 0 = equal shares; up to 1, the first copy's share grows by this part of it and the
        others shrink, so that copies are told apart by their gradients (as in LEMON, a != b).
    """
    counts = np.bincount(index)[index]
    first = np.zeros(len(index), bool)
    first[np.unique(index, return_index=True)[1]] = True
    more = np.where(first, uneven, -uneven / np.maximum(counts - 1, 1))
    return Gather(index, (1 + np.where(counts > 1, more, 0.0)) / counts)


def averaged(old: int, new: int) -> Mix:
    """The source's entries first, then their mean in every new one."""
    return Mix(np.concatenate([np.eye(old), np.full((new - old, old), 1 / old)]))


def both(first: Gather, second: Gather) -> Gather:
    """`second` after `first`."""
    there = second.index != NEW
    inner = np.maximum(second.index, 0)
    index = np.where(there, first.index[inner], NEW)
    return Gather(index, first.scale[inner] * second.scale)
