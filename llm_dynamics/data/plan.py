"""The data of a run: `plan.batch(step)` is a pure function of the step; nothing is remembered."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from llm_dynamics.batch import Batch
from llm_dynamics.data import explain as explain_lib
from llm_dynamics.data.injection import Placed, dose, insert
from llm_dynamics.data.mixture import Mixture
from llm_dynamics.data.rows import PADDING, TokenStream, row_order
from llm_dynamics.errors import UserError
from llm_dynamics.spec import fingerprint

_FORMAT = 1  # raise it when the same parts would give other batches


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
    near_duplicates: int = 0  # validation documents removed for repeating training text
    repeats: int = 0  # training documents removed for repeating an earlier one
    repeated_tokens: int = 0  # theirs
    copies: int = 0  # training documents added, copies of others
    copied_tokens: int = 0  # theirs


class RowBlock(NamedTuple):
    """Some rows of a step before they become a batch; M = L + 1 tokens a row.

    `document` numbers the documents of the row's source; -1 - k is the k-th injection of the
    plan, PADDING is no token. `place` is a token's index in the source's stream, or in the
    injected passage.
    """

    tokens_BxM: np.ndarray
    document_BxM: np.ndarray
    place_BxM: np.ndarray
    source_B: np.ndarray
    epoch_B: np.ndarray  # of its source
    row_B: np.ndarray  # of its source, in text order


class Plan:
    """What every step of a run reads.

    Every method is a pure function of its arguments and may be called from any thread, in any
    order: row b of step s is row g = (first_step + s) B + b of the data; the mixture says which
    source it comes from and which of that source's rows it is; the epoch's permutation says where
    that lies. Injections count steps from the run's own beginning.

    Attributes:
      length: tokens a row, L.
      batch_size: rows a step over all hosts, B.
      tokens_per_step: B L.
      steps: length of the run, or None if it was not given.
      first_step: the data's step that update 0 reads.
      tokenizer_fingerprint: of the tokenizer, or "".
      fingerprint: hex digest of everything that decides the batches.
    """

    def __init__(
        self,
        sources: Sequence[PlanSource],
        length: int,
        batch_size: int,
        isolate_documents: bool = True,
        seed: int = 0,
        placed: Sequence[Placed] = (),
        steps: int | None = None,
        tokenizer_fingerprint: str = "",
        first_step: int = 0,
    ):
        """Puts the parts together; `data.build.build_plan` makes them from a configuration.

        Raises:
          UserError: a source too short for one row.
        """
        self.length, self.batch_size = length, batch_size
        self.tokens_per_step = batch_size * length
        self.steps, self.first_step = steps, first_step
        self.tokenizer_fingerprint = tokenizer_fingerprint
        self._sources, self._placed = tuple(sources), tuple(placed)
        self._isolate, self._seed = isolate_documents, seed
        self._mixture = Mixture([source.weight for source in sources])
        self._num_rows = [source.train.num_rows(length) for source in sources]
        for source, num_rows in zip(sources, self._num_rows, strict=True):
            if not num_rows:
                raise UserError(
                    f"source {source.name!r} has {source.train.num_tokens} tokens in "
                    f"{source.train.num_documents} training documents, fewer than one row of "
                    f"length + 1 = {length + 1}; add text or set a smaller length"
                )
        self._by_step: dict[int, dict[int, list[int]]] = {}
        for k, item in enumerate(self._placed):
            rows = self._by_step.setdefault(item.injection.step, {})
            rows.setdefault(item.row, []).append(k)
        # Validation rows are dealt in proportion to what there is, so that the first few batches
        # are a fair sample of all of them and every row comes exactly once.
        held = [source.validation.num_padded_rows(length) for source in sources]
        self._held = [(z, rows) for z, rows in enumerate(held) if rows]
        self._order = functools.lru_cache(maxsize=4 * len(sources))(self._order_of)
        parts = {
            "format": _FORMAT,
            "sources": [[source.fingerprint, source.members] for source in sources],
            "weights": self._mixture.weights,
            "tokenizer": tokenizer_fingerprint,
            "shape": [length, batch_size, isolate_documents, seed],
            "injections": [
                [p.injection.step, p.row, p.offset, p.tokens.tolist()] + [True] * p.alone
                for p in self._placed
            ],
        }
        # What is rare is named only where it is used: the digest of every other plan stays.
        if first_step:
            parts["first_step"] = first_step
        self.fingerprint = fingerprint(parts)

    def batch(self, step: int) -> Batch:
        """The global batch that update `step` (from 0) sees; numpy arrays [B, L]."""
        return self.rows(step, 0, self.batch_size)

    def rows(self, step: int, start: int, stop: int) -> Batch:
        """Rows start..stop - 1 of the global batch: one host's share; arrays [stop - start, L].

        Slices put end to end are the global batch.
        """
        block = self._block(step, start, stop)
        return self._batch(block.tokens_BxM, block.document_BxM)

    def validation_batches(self, max_batches: int | None = None) -> list[Batch]:
        """The validation rows, always the same: B rows a batch, the last one padded.

        Every token of the validation documents (but the first of each source) is a label of
        exactly one row, unless isolation excludes it; the first batches are a fair sample.

        Args:
          max_batches: stop there; None = all of them.

        Returns:
          Batches of arrays [B, L]; empty when nothing was held out.
        """
        if not self._held:
            return []
        order = Mixture([rows for _, rows in self._held])
        total = sum(rows for _, rows in self._held)
        count = -(-total // self.batch_size)
        batches = []
        for k in range(count if max_batches is None else min(count, max_batches)):
            first = k * self.batch_size
            which, index = order.locate(np.arange(first, min(first + self.batch_size, total)))
            shape = (self.batch_size, self.length + 1)
            tokens_BxM = np.zeros(shape, np.int32)
            document_BxM = np.full(shape, PADDING)
            for h, (z, _) in enumerate(self._held):
                at = np.flatnonzero(which == h)
                rows = self._order(z, -1)[index[at]]
                tokens_BxM[at], document_BxM[at], _ = self._read(self._sources[z].validation, rows)
            batches.append(self._batch(tokens_BxM, document_BxM))
        return batches

    def explain(self, step: int) -> list[dict[str, Any]]:
        """What every row of a step held, ready for printing or JSON.

        One dictionary a row: row, source, epoch, index (of the row in its source, in text
        order), documents [{id, start, tokens, at}] (start: first token's place in the document;
        tokens: of the row's L + 1, the last of which is only a label; at: place in the row),
        injected [{name, labels, tokens, at, encounter}] and padding (tokens that are none). A row
        that passages have alone names the row of the source that it stands for, which is not read.
        """
        block = self._block(step, 0, self.batch_size)
        result = []
        for b, z in enumerate(block.source_B):
            source = self._sources[z]
            pieces = explain_lib.pieces(
                block.document_BxM[b], block.place_BxM[b], source.train, self._placed
            )
            result.append(
                {
                    "row": b,
                    "source": source.name,
                    "epoch": int(block.epoch_B[b]),
                    "index": int(block.row_B[b]),
                    **pieces,
                }
            )
        return result

    def describe(self, steps: int | None = None) -> dict[str, Any]:
        """The plan in numbers, ready for JSON: sources with licences, doses, duplicates.

        Args:
          steps: length of the run; the plan's own by default. Without any, what depends on it
            (rows read, epochs, shares of the dose) is left out.
        """
        steps = self.steps if steps is None else steps
        read = None
        if steps is not None:
            first, last = self.first_step, self.first_step + steps
            read = self._mixture.counts(last * self.batch_size)
            read = read - self._mixture.counts(first * self.batch_size)
        sources = []
        for z, source in enumerate(self._sources):
            entry = {
                "name": source.name,
                "licence": source.licence,
                "attribution": source.attribution,
                "origin": dict(source.origin),
                "share": float(self._mixture.shares[z]),
                "documents": source.train.num_documents,
                "tokens": source.train.num_tokens,
                "rows": self._num_rows[z],
                "validation_documents": source.validation.num_documents,
                "validation_tokens": source.validation.num_tokens,
                "near_duplicates_removed": source.near_duplicates,
                "repeats_removed": source.repeats,
                "repeated_tokens_removed": source.repeated_tokens,
                "copies_added": source.copies,
                "copied_tokens_added": source.copied_tokens,
            }
            if read is not None:
                entry["rows_read"] = int(read[z])
                entry["epochs"] = int(read[z]) / self._num_rows[z]
            sources.append(entry)
        doses = dose(self._placed)
        if steps:
            for entry in doses.values():
                entry["token_share"] = entry["tokens"] / (steps * self.tokens_per_step)
                entry["row_share"] = entry["rows"] / (steps * self.batch_size)
        return {
            "fingerprint": self.fingerprint,
            "length": self.length,
            "batch_size": self.batch_size,
            "tokens_per_step": self.tokens_per_step,
            "steps": steps,
            "tokens": None if steps is None else steps * self.tokens_per_step,
            "isolate_documents": self._isolate,
            "sources": sources,
            "near_duplicates_removed": sum(s.near_duplicates for s in self._sources),
            "doses": doses,
            "padding_tokens": self._padding_tokens(),
        }

    def _padding_tokens(self) -> int:
        """Positions of the whole run that hold no token, in rows that passages have alone."""
        filled = {}
        for item in self._placed:
            if item.alone:
                where = item.injection.step, item.row
                filled[where] = filled.get(where, 0) + len(item.tokens)
        return sum(max(0, self.length - used) for used in filled.values())

    def _order_of(self, z: int, epoch: int) -> np.ndarray:
        source = self._sources[z]
        rows = self._num_rows[z] if epoch >= 0 else source.validation.num_padded_rows(self.length)
        return row_order(source.fingerprint, self._seed, epoch, rows)

    def _block(self, step: int, start: int, stop: int) -> RowBlock:
        if step < 0 or not 0 <= start <= stop <= self.batch_size:
            raise ValueError(
                f"expected step >= 0 and 0 <= start <= stop <= {self.batch_size}, "
                f"got step {step}, rows {start}:{stop}"
            )
        source_B, index_B = self._mixture.locate(
            (self.first_step + int(step)) * self.batch_size + np.arange(start, stop)
        )
        shape = (stop - start, self.length + 1)
        tokens_BxM = np.empty(shape, np.int32)
        document_BxM, place_BxM = np.empty(shape, np.int64), np.empty(shape, np.int64)
        epoch_B, position_B = np.divmod(index_B, np.array(self._num_rows)[source_B])
        row_B = np.empty_like(position_B)
        for z in np.unique(source_B):
            for epoch in np.unique(epoch_B[source_B == z]):
                at = np.flatnonzero((source_B == z) & (epoch_B == epoch))
                row_B[at] = self._order(int(z), int(epoch))[position_B[at]]
            at = np.flatnonzero(source_B == z)
            tokens_BxM[at], document_BxM[at], place_BxM[at] = self._read(
                self._sources[z].train, row_B[at]
            )
        for row, which in self._by_step.get(int(step), {}).items():
            if start <= row < stop:
                b = row - start
                if any(self._placed[k].alone for k in which):
                    tokens_BxM[b], document_BxM[b], place_BxM[b] = 0, PADDING, 0
                passages = [
                    (item.offset, (item.tokens, np.full(n, -1 - k), np.arange(n)))
                    for k in sorted(which, key=lambda k: self._placed[k].offset)
                    for item, n in [(self._placed[k], len(self._placed[k].tokens))]
                ]
                tokens_BxM[b], document_BxM[b], place_BxM[b] = insert(
                    (tokens_BxM[b], document_BxM[b], place_BxM[b]), passages
                )
        return RowBlock(tokens_BxM, document_BxM, place_BxM, source_B, epoch_B, row_B)

    def _read(
        self, stream: TokenStream, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tokens, documents and places [rows, M] of some rows of a stream, padded at its end."""
        place_BxM = rows[:, None] * self.length + np.arange(self.length + 1)
        inside = place_BxM < stream.num_tokens
        place_BxM = place_BxM.clip(max=stream.num_tokens - 1)
        tokens_BxM = np.where(inside, stream.tokens[place_BxM], 0)
        document_BxM = stream.documents_at(place_BxM)
        return tokens_BxM, np.where(inside, document_BxM, PADDING), place_BxM

    def _batch(self, tokens_BxM: np.ndarray, document_BxM: np.ndarray) -> Batch:
        """Inputs and labels; with isolation, segments that neither see nor predict each other."""
        rows, length = len(tokens_BxM), self.length
        real_BxM = document_BxM != PADDING
        index_BxL = np.broadcast_to(np.arange(length, dtype=np.int32), (rows, length))
        mask_BxL = real_BxM[:, 1:]
        segment_BxL = real_BxM[:, :-1].astype(np.int32)
        position_BxL = index_BxL.copy()
        if self._isolate:
            change_BxL = document_BxM[:, 1:] != document_BxM[:, :-1]
            # The last label of a segment would be the first token of an unrelated document.
            mask_BxL = mask_BxL & ~change_BxL
            first_BxL = np.zeros((rows, length), bool)
            first_BxL[:, 1:] = change_BxL[:, :-1]
            segment_BxL = segment_BxL * (1 + first_BxL.cumsum(axis=1, dtype=np.int32))
            position_BxL = index_BxL - np.maximum.accumulate(first_BxL * index_BxL, axis=1)
        return Batch(
            tokens_BxL=np.ascontiguousarray(tokens_BxM[:, :-1]),
            targets_BxL=np.ascontiguousarray(tokens_BxM[:, 1:]),
            segment_ids_BxL=segment_BxL,
            positions_BxL=position_BxL,
            mask_BxL=mask_BxL.astype(np.float32),
        )
