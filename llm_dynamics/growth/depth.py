"""How the layers of a source become those of a deeper target: N x n weights, one blend a pattern.

Letters: n layers of the source, N of the target.
"""

from collections.abc import Callable, Mapping

import numpy as np

from llm_dynamics.errors import UserError
from llm_dynamics.growth.axes import STREAM, Graph
from llm_dynamics.spec import nearest


def one_hot(index_N: np.ndarray, old: int) -> np.ndarray:
    """Weights that copy layer index[i] of the source into layer i; a negative index copies none."""
    return (np.asarray(index_N)[:, None] == np.arange(old)).astype(np.float64)


def stack(old: int, new: int) -> np.ndarray:
    """The whole source again and again: i mod n (StackBERT; G_stack of Du et al. 2024)."""
    return np.arange(new) % old


def interpolate(old: int, new: int) -> np.ndarray:
    """Every layer several times in a row: floor(i n / N) (Wang et al. 2023, Eq. 1)."""
    return np.arange(new) * old // new


def solar(old: int, new: int) -> np.ndarray:
    """The first N/2 layers of one copy, then the last N/2 of another (Kim et al. 2023).

    Raises:
      UserError: more than twice the layers.
    """
    if new > 2 * old:
        raise UserError(
            f"depth 'solar' overlaps two copies, so it expects at most {2 * old} layers, got "
            f"{new}; use 'stack'"
        )
    first = (new + 1) // 2
    return np.concatenate([np.arange(first), np.arange(old - (new - first), old)])


def middle(old: int, new: int) -> np.ndarray:
    """The middle layers repeated, the ends kept (after MIDAS, Saunshi et al. 2024).

    The repeated block is the middle third, at least one layer.
    """
    size = max(1, old // 3)
    first = (old - size) // 2
    extra = first + np.arange(new - old) % size
    cut = first + size
    return np.concatenate([np.arange(cut), extra, np.arange(cut, old)])


def top(old: int, new: int) -> np.ndarray:
    """The source, then copies of its last layers (MSLT of Yang et al. 2020, bert2BERT's rest)."""
    extra = new - old
    return np.concatenate([np.arange(old), old - 1 - (np.arange(extra)[::-1] % old)])


def append(old: int, new: int) -> np.ndarray:
    """The source, then layers without one."""
    return np.where(np.arange(new) < old, np.arange(new), -1)


PATTERNS: Mapping[str, Callable[[int, int], np.ndarray]] = {
    "stack": stack,
    "interpolate": interpolate,
    "solar": solar,
    "middle": middle,
    "top": top,
    "append": append,
}
IDENTITY = "identity"  # copies that add nothing to the stream


def added(pattern: str, old: int, new: int) -> np.ndarray:
    """Which layers of the target a pattern added, N: without a source, or with one met below.

    Those that are left are the source, in its order.

    Raises:
      UserError: an unknown pattern, or one that does not fit the sizes.
    """
    if old == new:
        return np.zeros(new, bool)
    index = _indices(pattern, old, new)
    first = np.zeros(new, bool)
    first[np.unique(index, return_index=True)[1]] = True
    return ~first | (index < 0)


def blends(pattern: str, source: Graph, target: Graph) -> dict[str, np.ndarray]:
    """The blend of every module of a pattern, for `operator.Term.depth`.

    "identity" spreads the new layers over the source: each follows the layer that it copies, and
    what it writes to the stream is 0, so that it adds nothing (LLaMA-Pro of Wu et al. 2024).

    Raises:
      UserError: an unknown pattern, or one that does not fit the sizes.
    """
    old, new = source.layers, target.layers
    if old == new:
        return {"": one_hot(np.arange(old), old)}
    index = _indices(pattern, old, new)
    found = {"": one_hot(index, old)}
    if pattern != IDENTITY:
        return found
    copies = added(pattern, old, new)
    for param in source.params.values():
        if param.layered and param.writes == (STREAM,) and param.kind in ("weight", "bias"):
            found[param.path] = one_hot(np.where(copies, -1, index), old)
    return found


def _indices(pattern: str, old: int, new: int) -> np.ndarray:
    if pattern == IDENTITY:
        return interpolate(old, new)
    if pattern not in PATTERNS:
        known = (*PATTERNS, IDENTITY)
        raise UserError(f"unknown depth {pattern!r}; {nearest(pattern, known)}")
    return PATTERNS[pattern](old, new)
