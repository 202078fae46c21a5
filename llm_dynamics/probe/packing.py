"""Many short probes in few fixed rows; what probes begin with in common is there once.

Probes that begin alike lie in a row as the branches of a tree, depth first, so that the tokens that
go on from a token are the columns up to its `until`. A token reads those it goes on from, and no
others: every probe is scored as if it were alone. Which of them share a row is decided greedily
over the probes in the order of their tokens, where those that begin alike are neighbours.

Axes: R packed rows, L row length, P probes, W target tokens of the longest target, K trees.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from llm_dynamics.errors import UserError
from llm_dynamics.probe.probes import EncodedProbe

_LENGTH_STEP = 32  # row lengths tried are multiples of this: whole matrix tiles, measured fastest
_LEAST_SHARED = (1, 2, 1 << 30)  # tokens in common that make a branch; tried, the last one: none do


class PackedProbes(NamedTuple):
    """The probes of one run as fixed arrays; all int32 but the mask.

    Attributes:
      tokens_RxL: every token of a probe but its last, which is only ever predicted.
      segment_ids_RxL: 1.. for the trees of a row, 0 for padding.
      positions_RxL: 0.. within each probe.
      until_RxL: the columns below this one, from the token's own on, go on from it.
      source_PxW: flat index `row * L + column` of the position that predicts the target token.
      target_PxW: the target token itself.
      mask_PxW: bool, whether the target has that many tokens.
    """

    tokens_RxL: np.ndarray
    segment_ids_RxL: np.ndarray
    positions_RxL: np.ndarray
    until_RxL: np.ndarray
    source_PxW: np.ndarray
    target_PxW: np.ndarray
    mask_PxW: np.ndarray

    @property
    def rows(self) -> tuple[np.ndarray, ...]:
        """The arguments of `Decoder.embedded`."""
        return self[:4]


def pack(
    encoded: Sequence[EncodedProbe], length: int, rows_multiple: int = 1, pad_id: int = 0
) -> PackedProbes:
    """Packs trees of probes first-fit decreasing into rows; the same input, the same rows.

    Args:
      encoded: at least one probe.
      length: tokens of a row; see `best_length`.
      rows_multiple: the number of rows is padded to a multiple, e.g. the data-parallel devices.
      pad_id: token of the padding; it is masked everywhere.

    Raises:
      UserError: no probe, or one that is longer than a row.
    """
    _check(encoded, length)
    order = _ordered(encoded)
    trees = _best_trees(order, length)
    row_K, column_K, num_rows = _first_fit(trees.size_K, length)
    num_rows = -(-num_rows // rows_multiple) * rows_multiple

    tokens_RxL = np.full((num_rows, length), pad_id, np.int32)
    segment_ids_RxL = np.zeros((num_rows, length), np.int32)
    positions_RxL = np.zeros((num_rows, length), np.int32)
    until_RxL = np.tile(np.arange(1, length + 1, dtype=np.int32), (num_rows, 1))
    shape = (len(encoded), max(probe.num_target for probe in encoded))
    source_PxW, target_PxW = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    mask_PxW = np.zeros(shape, bool)

    segments = np.zeros(num_rows, np.int32)
    ends_K = np.append(trees.first_K[1:], len(encoded))
    for tree in np.lexsort((column_K, row_K)):
        row, column = row_K[tree], int(column_K[tree])
        segments[row] += 1
        path: list[int] = []  # columns of the probe's tokens
        for at in range(trees.first_K[tree], ends_K[tree]):
            p = order.probe_P[at]
            probe, size = encoded[p], len(encoded[p].ids) - 1
            shared = order.shared_P[at] if path else 0
            path = [*path[:shared], *range(column, column + size - shared)]
            here = slice(column, column + size - shared)
            column = here.stop
            tokens_RxL[row, here] = probe.ids[shared:-1]
            segment_ids_RxL[row, here] = segments[row]
            positions_RxL[row, here] = np.arange(shared, size)
            until_RxL[row, path] = column
            m = probe.num_target
            target_PxW[p, :m] = probe.ids[-m:]
            source_PxW[p, :m] = row * length + np.array(path[size - m :])
            mask_PxW[p, :m] = True
    return PackedProbes(
        tokens_RxL, segment_ids_RxL, positions_RxL, until_RxL, source_PxW, target_PxW, mask_PxW
    )


def best_length(encoded: Sequence[EncodedProbe], limit: int, rows_multiple: int = 1) -> int:
    """The row length, a multiple of 32 up to `limit`, whose packing costs least.

    Cost counts R * L positions, each dearer in longer rows by a factor 1 + L / 6D because of
    attention (4 L D beside 24 D^2 operations a layer), taken at D = 128. So longer rows must
    save padding, or hold more of what probes have in common, to be worth it.

    Raises:
      UserError: no probe, or one that is longer than `limit`.
    """
    _check(encoded, limit)
    order = _ordered(encoded)
    longest = -(-int(order.size_P.max()) // _LENGTH_STEP) * _LENGTH_STEP
    candidates = [*range(longest, limit + 1, _LENGTH_STEP)][:16] or [limit]

    def cost(length):
        rows = _first_fit(_best_trees(order, length).size_K, length)[2]
        return -(-rows // rows_multiple) * rows_multiple * length * (768 + length)

    return min(candidates, key=cost)


def fill(packed: PackedProbes) -> float:
    """The share of row positions that hold a probe's token, in 0 to 1."""
    return float((packed.segment_ids_RxL > 0).mean())


def _check(encoded: Sequence[EncodedProbe], length: int) -> None:
    if not encoded:
        raise UserError("expected at least one probe, got none; switch probing off or add probes")
    for probe in encoded:
        if not 0 < probe.num_target < len(probe.ids):
            raise ValueError(
                f"probe {probe.name!r}: {probe.num_target} target of {len(probe.ids)} tokens"
            )
        if len(probe.ids) - 1 > length:
            raise UserError(
                f"probe {probe.name!r}: expected at most {length + 1} tokens (data.length and "
                f"the last target token), got {len(probe.ids)}, of which {probe.num_target} are "
                f"the target; shorten it or set data.length={len(probe.ids) - 1} or more"
            )


class _Order(NamedTuple):
    """The probes by their tokens, the last one left out."""

    probe_P: list[int]  # index of the probe
    size_P: np.ndarray  # its row positions: its tokens without the last
    shared_P: list[int]  # tokens that it begins with in common with the one before


class _Trees(NamedTuple):
    """Runs of that order whose probes share what they begin with."""

    first_K: np.ndarray  # where in the order each begins
    size_K: np.ndarray  # row positions


def _ordered(encoded: Sequence[EncodedProbe]) -> _Order:
    read = [probe.ids[:-1] for probe in encoded]
    order = sorted(range(len(read)), key=lambda p: (read[p], p))
    shared = [0, *(_in_common(read[a], read[b]) for a, b in itertools.pairwise(order))]
    return _Order(order, np.array([len(read[p]) for p in order]), shared)


def _in_common(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens both begin with."""
    pairs = enumerate(zip(left, right, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(left), len(right)))


def _best_trees(order: _Order, length: int) -> _Trees:
    """Those that fill the fewest rows: what is shared is saved, and large trees fit badly."""
    found = [_trees(order, length, least) for least in _LEAST_SHARED]
    return min(found, key=lambda trees: _first_fit(trees.size_K, length)[2])


def _trees(order: _Order, length: int, least: int) -> _Trees:
    """A probe joins the tree before it if they share `least` tokens and a row holds both."""
    first: list[int] = []
    sizes: list[int] = []
    for at, (size, shared) in enumerate(zip(order.size_P.tolist(), order.shared_P, strict=True)):
        if shared >= least and sizes and sizes[-1] + size - shared <= length:
            sizes[-1] += size - shared
        else:
            first.append(at)
            sizes.append(size)
    return _Trees(np.array(first), np.array(sizes))


def _first_fit(size_K: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray, int]:
    """First-fit decreasing, ties in order: each item's row and column, and the row count."""
    row_K, column_K = np.zeros(len(size_K), int), np.zeros(len(size_K), int)
    free = np.full(len(size_K), length)
    num_rows = 0
    for k in np.argsort(-size_K, kind="stable"):
        row = int(np.argmax(free[: num_rows + 1] >= size_K[k]))  # the next empty row always fits
        num_rows = max(num_rows, row + 1)
        row_K[k], column_K[k] = row, length - free[row]
        free[row] -= size_K[k]
    return row_K, column_K, num_rows
