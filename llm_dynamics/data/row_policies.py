"""Where the passages of one step go in its rows."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Slot(NamedTuple):
    """The place of one passage."""

    row: int  # of the global batch
    offset: int  # it is put in front of the row's own token of this number
    alone: bool = False  # the row's own tokens are left out; padding follows the passages


class RowPolicy(Protocol):
    """Places the passages of a step; a pure function."""

    def __call__(
        self, seed: int, step: int, lengths: Sequence[int], num_rows: int, row_length: int
    ) -> Sequence[Slot]:
        """Places passages.

        Args:
          seed: of the run's data.
          step: the update that reads them.
          lengths: tokens of every passage, end-of-document token included.
          num_rows: rows of the global batch, B.
          row_length: tokens of a row with the last label, L + 1.

        Returns:
          A slot for each passage. What a row's passages push beyond its end is dropped.
        """


def prefix(
    seed: int, step: int, lengths: Sequence[int], num_rows: int, row_length: int
) -> list[Slot]:
    """The published policy (Chang et al. 2024, appendix D): passage i in front of row i.

    With more passages than rows, passages i, i + B, i + 2B, ... share row i in this order (the
    paper has fewer passages than rows; sharing is our extension for small batches).
    """
    del seed, step, row_length
    return [Slot(i % num_rows, 0) for i in range(len(lengths))]


def random_offset(
    seed: int, step: int, lengths: Sequence[int], num_rows: int, row_length: int
) -> list[Slot]:
    """Passage i in the row that `prefix` gives it, in front of a token drawn for (seed, step, i).

    Every token that leaves the row's passages whole is equally likely; several passages of a row
    are drawn one by one. A passage never begins inside another, as offsets count own tokens.
    """
    rows = [slot.row for slot in prefix(seed, step, lengths, num_rows, row_length)]
    room = [row_length] * num_rows
    for row, length in zip(rows, lengths, strict=True):
        room[row] -= length
    return [
        Slot(row, _draw(f"offset {seed} {step} {i}", max(room[row], 0) + 1))
        for i, row in enumerate(rows)
    ]


def own_row(
    seed: int, step: int, lengths: Sequence[int], num_rows: int, row_length: int
) -> list[Slot]:
    """Passage i at the start of the row that `prefix` gives it, and nothing of the corpus there.

    Passages that share a row follow each other; the rest of the row is padding.
    """
    return [
        Slot(slot.row, 0, alone=True) for slot in prefix(seed, step, lengths, num_rows, row_length)
    ]


POLICIES: dict[str, RowPolicy] = {
    "prefix": prefix,
    "random_offset": random_offset,
    "own_row": own_row,
}


def _draw(key: str, count: int) -> int:
    """A number below `count`; 64 bits of hash make the bias of the remainder negligible."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % count
