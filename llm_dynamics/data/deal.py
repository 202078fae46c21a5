"""Which row of which source is row g of a run: arithmetic alone, without any text."""

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from llm_dynamics.data.mixture import Mixture

NEW, REPLAYED, REPEATED = range(3)  # columns of `Deal.tally`


class Past(NamedTuple):
    """The rows of an earlier deal that are dealt again."""

    deal: "Deal"
    share: float  # of the rows of this deal
    seen: int  # rows 0 .. seen - 1 of the earlier one are there to be replayed, in this order
    offset: int  # of them those that were replayed before: where this deal begins


class Dealt(NamedTuple):
    """Where rows come from; int64 arrays of one shape."""

    leaf: np.ndarray  # own sources 0 .. Z - 1, then those of the first past, and so on
    epoch: np.ndarray  # of the source, in the deal that it belongs to
    position: np.ndarray  # in that epoch's order
    past: np.ndarray  # the past that is replayed, or -1


class Deal:
    """Deals the rows g = 0, 1, 2, ... to sources and to the pasts that are replayed.

    Two mixtures stand above the one of the sources: new against replayed, then one past against
    the other. So the replayed rows are within half a row of their share at every prefix, however
    many sources and pasts there are. Row j of a past is row (offset + j) mod seen of its deal.

    Attributes:
      own: the mixture of the sources.
      num_leaves: sources with those of all pasts, however deep.
    """

    def __init__(
        self,
        weights: Sequence[float | Fraction],
        rows: Sequence[int],
        past: Sequence[Past] = (),
        before: Sequence[int] | None = None,
    ):
        """Puts the parts together.

        Args:
          weights: of the sources.
          rows: an epoch of each source.
          past: what is replayed; shares > 0 with a sum below 1.
          before: how many rows of each source's first epoch earlier stages have read.
        """
        self.own, self.past = Mixture(weights), tuple(past)
        self._rows = np.array(rows, np.int64)
        self._before = np.minimum(np.zeros_like(self._rows) if before is None else before, rows)
        if self.past:
            shares = [Fraction(str(p.share)) for p in self.past]
            self._replay = Mixture([1 - sum(shares), sum(shares)])
            self._pasts = Mixture(shares)
        self._first_leaf = np.cumsum([len(rows), *(p.deal.num_leaves for p in self.past)])
        self.num_leaves = int(self._first_leaf[-1])

    @property
    def shares(self) -> tuple[Fraction, ...]:
        """The share of every own source; together with those of the pasts they sum to 1."""
        part = self._replay.shares[0] if self.past else Fraction(1)
        return tuple(part * share for share in self.own.shares)

    def locate(self, rows: np.ndarray) -> Dealt:
        """Where rows g come from; `rows` int64 [N], each >= 0, in any order."""
        rows = np.asarray(rows, np.int64)
        past, index = np.full_like(rows, -1), rows.copy()
        if self.past:
            is_old, index = self._replay.locate(rows)
            at = np.flatnonzero(is_old)
            past[at], index[at] = self._pasts.locate(index[at])
        leaf, epoch, position = (np.empty_like(rows) for _ in range(3))
        at = np.flatnonzero(past < 0)
        leaf[at], index[at] = self.own.locate(index[at])
        epoch[at], position[at] = np.divmod(index[at], self._rows[leaf[at]])
        for k, item in enumerate(self.past):
            at = np.flatnonzero(past == k)
            if at.size:
                found = item.deal.locate((item.offset + index[at]) % item.seen)
                leaf[at] = self._first_leaf[k] + found.leaf
                epoch[at], position[at] = found.epoch, found.position
        return Dealt(leaf, epoch, position, past)

    def own_rows(self, n: int) -> np.ndarray:
        """How many of the first n rows come from each source; int64 [Z]."""
        return self.own.counts(int(self._replay.counts(n)[0]) if self.past else n)

    def past_rows(self, n: int) -> np.ndarray:
        """How many of the first n rows come from each past; int64 [K]."""
        if not self.past:
            return np.zeros(0, np.int64)
        return self._pasts.counts(int(self._replay.counts(n)[1]))

    def leaf_rows(self, n: int) -> np.ndarray:
        """How many of the first n rows come from each leaf; int64 [leaves]."""
        parts = [self.own_rows(n)]
        for item, count in zip(self.past, self.past_rows(n).tolist(), strict=True):
            parts.append(_passes(item, item.offset + count) - _passes(item, item.offset))
        return np.concatenate(parts)

    def tally(self, first: int, last: int) -> np.ndarray:
        """How many of the rows first .. last - 1 are new, replayed and repeated, by leaf.

        New is a row of a source in its first epoch that no earlier stage has read; replayed is a
        row of a past in the first pass over what was seen of it; the rest is repeated.

        Returns:
          int64 [leaves, 3]; the columns are NEW, REPLAYED, REPEATED.
        """
        tally = np.zeros((self.num_leaves, 3), np.int64)
        start, stop = self.own_rows(first), self.own_rows(last)
        once = [np.clip(n, self._before, self._rows) for n in (start, stop)]
        own = tally[: len(self._rows)]
        own[:, NEW] = once[1] - once[0]
        own[:, REPEATED] = stop - start - own[:, NEW]
        spans = zip(self.past_rows(first).tolist(), self.past_rows(last).tolist(), strict=True)
        for k, (start, stop) in enumerate(spans):
            item = self.past[k]
            start, stop = item.offset + start, item.offset + stop
            theirs = tally[self._first_leaf[k] : self._first_leaf[k + 1]]
            theirs[:, REPLAYED] = item.deal.leaf_rows(min(stop, item.seen))
            theirs[:, REPLAYED] -= item.deal.leaf_rows(min(start, item.seen))
            theirs[:, REPEATED] = _passes(item, stop) - _passes(item, start) - theirs[:, REPLAYED]
        return tally


def _passes(item: Past, n: int) -> np.ndarray:
    """Rows by leaf of a past in its first n, going round what was seen of it."""
    whole, rest = divmod(n, item.seen)
    counts = item.deal.leaf_rows(rest)
    return counts + whole * item.deal.leaf_rows(item.seen) if whole else counts
