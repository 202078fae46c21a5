"""The rows of a run's text, one after the other, before anything is injected into them."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from llm_dynamics.data.deal import Deal, Past
from llm_dynamics.data.rows import LARGEST_ORDER, PADDING, TokenStream, row_order, scattered_rows
from llm_dynamics.errors import UserError


@dataclasses.dataclass(frozen=True, eq=False)
class PlanSource:
    """One source of a plan: what it is and its tokens on both sides of the split."""

    name: str
    weight: float
    fingerprint: str
    train: TokenStream
    validation: TokenStream
    licence: str = ""
    attribution: str = ""
    origin: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    members: str = ""  # digest of which documents are on which side
    text: str = ""  # digest of the training documents, copies included; "" = not known
    near_duplicates: int = 0  # validation documents removed for repeating training text
    repeats: int = 0  # training documents removed for repeating an earlier one
    repeated_tokens: int = 0  # theirs
    copies: int = 0  # training documents added, copies of others
    copied_tokens: int = 0  # theirs


class RowBlock(NamedTuple):
    """Some rows before they become a batch; M = L + 1 tokens a row.

    `document` numbers the documents of the row's source; -1 - k is the k-th injection of the
    plan, PADDING is no token. `place` is a token's index in the source's stream, or in the
    injected passage.
    """

    tokens_BxM: np.ndarray
    document_BxM: np.ndarray
    place_BxM: np.ndarray
    leaf_B: np.ndarray  # the source, as in `CorpusRows.leaves`
    epoch_B: np.ndarray  # of its source
    row_B: np.ndarray  # of its source, in text order
    past_B: np.ndarray  # which of the replayed pasts, or -1


class Leaf(NamedTuple):
    """A source and the seed of the order in which its rows come."""

    source: PlanSource
    seed: int


class Replayed(NamedTuple):
    """Rows of an earlier run that are read again; see `deal.Past`."""

    name: str
    rows: "CorpusRows"
    share: float
    seen: int
    offset: int


class CorpusRows:
    """Row g = 0, 1, 2, ... of a mixture of sources and of what earlier runs read.

    A pure function of g. A replayed row is the row that the earlier run read, in that run's own
    order of the text; of its own replays, too.

    Attributes:
      sources: its own.
      seed: of the order of their rows.
      replayed: what it replays.
      deal: the arithmetic.
      leaves: own sources, then those of everything replayed, as `deal` numbers them.
    """

    def __init__(
        self,
        sources: Sequence[PlanSource],
        length: int,
        seed: int,
        replayed: Sequence[Replayed] = (),
        before: Sequence[int] | None = None,
    ):
        """Puts the parts together.

        Args:
          sources: with their weights.
          length: tokens a row, L.
          seed: of the order of the rows.
          replayed: of the same length.
          before: rows of each source's first epoch that earlier stages have read.

        Raises:
          UserError: a source too short for one row.
        """
        self.sources, self.replayed = tuple(sources), tuple(replayed)
        self.seed, self._length = seed, length
        self.num_rows = [source.train.num_rows(length) for source in sources]
        for source, num_rows in zip(sources, self.num_rows, strict=True):
            if not num_rows:
                raise UserError(
                    f"source {source.name!r} has {source.train.num_tokens} tokens in "
                    f"{source.train.num_documents} training documents, fewer than one row of "
                    f"length + 1 = {length + 1}; add text or set a smaller length"
                )
        self.deal = Deal(
            [source.weight for source in sources],
            self.num_rows,
            [Past(r.rows.deal, r.share, r.seen, r.offset) for r in replayed],
            before,
        )
        self.leaves = tuple(Leaf(source, seed) for source in sources)
        for item in replayed:
            self.leaves += item.rows.leaves
        self._order = functools.lru_cache(maxsize=4 * len(self.leaves))(self._order_of)

    def read(self, rows_B: np.ndarray) -> RowBlock:
        """Rows g, each >= 0, in any order; int64 [B]."""
        dealt = self.deal.locate(rows_B)
        shape = (len(rows_B), self._length + 1)
        tokens_BxM = np.empty(shape, np.int32)
        document_BxM, place_BxM = np.empty(shape, np.int64), np.empty(shape, np.int64)
        row_B = np.empty_like(dealt.position)
        for z in np.unique(dealt.leaf):
            source = self.leaves[z].source
            at = np.flatnonzero(dealt.leaf == z)
            for epoch in np.unique(dealt.epoch[at]):
                now = at[dealt.epoch[at] == epoch]
                row_B[now] = self._at(int(z), int(epoch), dealt.position[now])
            tokens_BxM[at], document_BxM[at], place_BxM[at] = read_rows(
                source.train, row_B[at], self._length
            )
        return RowBlock(
            tokens_BxM, document_BxM, place_BxM, dealt.leaf, dealt.epoch, row_B, dealt.past
        )

    def _at(self, z: int, epoch: int, position: np.ndarray) -> np.ndarray:
        """The rows at some positions of an epoch of a leaf."""
        (source, seed), rows = self.leaves[z], self._rows_of(z)
        if rows > LARGEST_ORDER:
            return scattered_rows(source.fingerprint, seed, epoch, rows, position)
        return self._order(z, epoch)[position]

    def _order_of(self, z: int, epoch: int) -> np.ndarray:
        source, seed = self.leaves[z]
        return row_order(source.fingerprint, seed, epoch, self._rows_of(z))

    def _rows_of(self, z: int) -> int:
        return self.leaves[z].source.train.num_rows(self._length)

    def parts(self) -> dict[str, Any]:
        """What decides the rows, but for the seed and the length, ready for a fingerprint."""
        parts = {
            "sources": [[source.fingerprint, source.members] for source in self.sources],
            "weights": self.deal.own.weights,
        }
        # What is rare is named only where it is used: the digest of every other plan stays.
        if any(rows > LARGEST_ORDER for rows in self.num_rows):
            parts["scattered_above"] = LARGEST_ORDER
        if self.replayed:
            parts["replay"] = [
                [r.share, r.seen, r.offset, r.rows.seed, r.rows.parts()] for r in self.replayed
            ]
        return parts


def read_rows(
    stream: TokenStream, rows: np.ndarray, length: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, documents and places [rows, L + 1] of some rows of a stream, padded at its end."""
    place_BxM = rows[:, None] * length + np.arange(length + 1)
    inside = place_BxM < stream.num_tokens
    place_BxM = place_BxM.clip(max=stream.num_tokens - 1)
    tokens_BxM = np.where(inside, stream.tokens[place_BxM], 0)
    document_BxM = stream.documents_at(place_BxM)
    return tokens_BxM, np.where(inside, document_BxM, PADDING), place_BxM
