"""Many short probes in few fixed rows, each alone in its segment.

Axes: R packed rows, L row length, P probes, W target tokens of the longest target.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from llm_dynamics.errors import UserError
from llm_dynamics.probe.probes import EncodedProbe

_LENGTH_STEP = 32  # row lengths tried are multiples of this: whole matrix tiles, measured fastest


class PackedProbes(NamedTuple):
    """The probes of one run as fixed arrays; all int32 but the mask.

    Attributes:
      tokens_RxL: every token of a probe but its last, which is only ever predicted.
      segment_ids_RxL: 1.. for the probes of a row, 0 for padding.
      positions_RxL: 0.. within each probe.
      source_PxW: flat index `row * L + column` of the position that predicts the target token.
      target_PxW: the target token itself.
      mask_PxW: bool, whether the target has that many tokens.
    """

    tokens_RxL: np.ndarray
    segment_ids_RxL: np.ndarray
    positions_RxL: np.ndarray
    source_PxW: np.ndarray
    target_PxW: np.ndarray
    mask_PxW: np.ndarray


def pack(
    encoded: Sequence[EncodedProbe], length: int, rows_multiple: int = 1, pad_id: int = 0
) -> PackedProbes:
    """Packs probes first-fit decreasing into rows of `length`; the same input, the same rows.

    Args:
      encoded: at least one probe.
      length: tokens of a row; see `best_length`.
      rows_multiple: the number of rows is padded to a multiple, e.g. the data-parallel devices.
      pad_id: token of the padding; it is masked everywhere.

    Raises:
      UserError: no probe, or one that is longer than a row.
    """
    sizes = _sizes(encoded, length)
    row_of, column_of, num_rows = _first_fit(sizes, length)
    num_rows = -(-num_rows // rows_multiple) * rows_multiple

    tokens_RxL = np.full((num_rows, length), pad_id, np.int32)
    segment_ids_RxL = np.zeros((num_rows, length), np.int32)
    positions_RxL = np.zeros((num_rows, length), np.int32)
    shape = (len(encoded), max(probe.num_target for probe in encoded))
    source_PxW, target_PxW = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    mask_PxW = np.zeros(shape, bool)

    segments = np.zeros(num_rows, np.int32)
    for p in np.lexsort((column_of, row_of)):
        probe, size, row, column = encoded[p], sizes[p], row_of[p], column_of[p]
        segments[row] += 1
        here = slice(column, column + size)
        tokens_RxL[row, here] = probe.ids[:-1]
        segment_ids_RxL[row, here] = segments[row]
        positions_RxL[row, here] = np.arange(size)
        m = probe.num_target
        target_PxW[p, :m] = probe.ids[-m:]
        source_PxW[p, :m] = row * length + column + size - m + np.arange(m)
        mask_PxW[p, :m] = True
    return PackedProbes(
        tokens_RxL, segment_ids_RxL, positions_RxL, source_PxW, target_PxW, mask_PxW
    )


def best_length(encoded: Sequence[EncodedProbe], limit: int, rows_multiple: int = 1) -> int:
    """The row length, a multiple of 32 up to `limit`, whose packing costs least.

    Cost counts R * L positions, each dearer in longer rows by a factor 1 + L / 6D because of
    attention (4 L D beside 24 D^2 operations a layer), taken at D = 128. So longer rows must
    save padding to be worth it.

    Raises:
      UserError: no probe, or one that is longer than `limit`.
    """
    sizes = _sizes(encoded, limit)
    longest = -(-int(sizes.max()) // _LENGTH_STEP) * _LENGTH_STEP
    candidates = [*range(longest, limit + 1, _LENGTH_STEP)][:16] or [limit]

    def cost(length):
        rows = -(-_first_fit(sizes, length)[2] // rows_multiple) * rows_multiple
        return rows * length * (768 + length)

    return min(candidates, key=cost)


def fill(packed: PackedProbes) -> float:
    """The share of row positions that hold a probe's token, in 0 to 1."""
    return float((packed.segment_ids_RxL > 0).mean())


def _sizes(encoded: Sequence[EncodedProbe], length: int) -> np.ndarray:
    """Row positions each probe needs: its tokens without the last."""
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
    return np.array([len(probe.ids) - 1 for probe in encoded])


def _first_fit(sizes_P: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray, int]:
    """First-fit decreasing, ties in order: each item's row and column, and the row count."""
    row_of, column_of = np.zeros(len(sizes_P), int), np.zeros(len(sizes_P), int)
    free = np.full(len(sizes_P), length)
    num_rows = 0
    for p in np.argsort(-sizes_P, kind="stable"):
        row = int(np.argmax(free[: num_rows + 1] >= sizes_P[p]))  # the next empty row always fits
        num_rows = max(num_rows, row + 1)
        row_of[p], column_of[p] = row, length - free[row]
        free[row] -= sizes_P[p]
    return row_of, column_of, num_rows
