"""The data of a run: `plan.batch(step)` is a pure function of the step; nothing is remembered."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from llm_dynamics.batch import Batch
from llm_dynamics.data import explain as explain_lib
from llm_dynamics.data import held_out
from llm_dynamics.data import lineage as lineage_lib
from llm_dynamics.data.corpus_rows import CorpusRows, PlanSource, Replayed, RowBlock
from llm_dynamics.data.held_out import HeldOut
from llm_dynamics.data.injection import Placed, dose, insert
from llm_dynamics.data.lineage import Lineage
from llm_dynamics.data.rows import PADDING
from llm_dynamics.data.segments import make_batch
from llm_dynamics.spec import fingerprint, to_json

_FORMAT = 1  # raise it when the same parts would give other batches


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
      num_replayed: how many earlier runs are replayed.
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
        replayed: Sequence[Replayed] = (),
        also_validate: Sequence[HeldOut] = (),
        lineage: Lineage | None = None,
        rows_before: Sequence[int] | None = None,
    ):
        """Puts the parts together; `data.build.build_plan` makes them from a configuration.

        Raises:
          UserError: a source too short for one row.
        """
        self.length, self.batch_size = length, batch_size
        self.tokens_per_step = batch_size * length
        self.steps, self.first_step = steps, first_step
        self.tokenizer_fingerprint, self.num_replayed = tokenizer_fingerprint, len(replayed)
        self._sources, self._placed = tuple(sources), tuple(placed)
        self._isolate, self._seed = isolate_documents, seed
        self._rows = CorpusRows(sources, length, seed, replayed, rows_before)
        self._also_validate, self._lineage = tuple(also_validate), lineage or Lineage()
        self._by_step: dict[int, dict[int, list[int]]] = {}
        for k, item in enumerate(self._placed):
            rows = self._by_step.setdefault(item.injection.step, {})
            rows.setdefault(item.row, []).append(k)
        parts = {
            "format": _FORMAT,
            **self._rows.parts(),
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
        if also_validate:
            parts["also_validate"] = [[held.fingerprint, held.members] for held in also_validate]
        self.fingerprint = fingerprint(parts)

    def batch(self, step: int) -> Batch:
        """The global batch that update `step` (from 0) sees; numpy arrays [B, L]."""
        return self.rows(step, 0, self.batch_size)

    def rows(self, step: int, start: int, stop: int) -> Batch:
        """Rows start..stop - 1 of the global batch: one host's share; arrays [stop - start, L].

        Slices put end to end are the global batch.
        """
        block = self._block(step, start, stop)
        return make_batch(block.tokens_BxM, block.document_BxM, self._isolate)

    def validation_batches(self, max_batches: int | None = None) -> list[Batch]:
        """The validation rows, always the same: see `held_out.validation_batches`."""
        return held_out.validation_batches(
            self._sources, self.length, self.batch_size, self._seed, self._isolate, max_batches
        )

    def also_validated(self, max_batches: int | None = None) -> dict[str, list[Batch]]:
        """The validation rows of each source of `DataConfig.also_validate`, by its name.

        They are those of the source split by itself: in every run with the same length, seed,
        validation_fraction, dedup_threshold and tokenizer the same rows in the same order,
        whatever else it trains on, this source included. Where a run trains on this source alone
        they are the rows of `validation_batches`.
        """
        shape = self.length, self.batch_size, self._seed, self._isolate
        return {
            held.name: held_out.validation_batches([held], *shape, max_batches)
            for held in self._also_validate
        }

    def ledger(self, steps: int | None = None) -> dict[str, dict[str, int]]:
        """{source: {"new", "replayed", "repeated"}}: the tokens (rows x L) that the run reads.

        New: in the first pass over a source, and not read by an earlier stage of the lineage.
        Replayed: in the first pass over what an earlier stage saw. Repeated: all else. Injected
        passages stand in rows of the text and are not counted by themselves; see the doses.

        Args:
          steps: of the run, from its beginning; the plan's own by default.
        """
        steps = self.steps if steps is None else steps
        rows = [step * self.batch_size for step in (self.first_step, self.first_step + steps)]
        names = [leaf.source.name for leaf in self._rows.leaves]
        return lineage_lib.ledger(names, self._rows.deal.tally(*rows), self.length)

    def explain(self, step: int) -> list[dict[str, Any]]:
        """What every row of a step held, ready for printing or JSON.

        One dictionary a row: row, source, epoch, index (of the row in its source, in text
        order), documents [{id, start, tokens, at}] (start: first token's place in the document;
        tokens: of the row's L + 1, the last of which is only a label; at: place in the row),
        injected [{name, labels, tokens, at, encounter}] and padding (tokens that are none). A row
        that passages have alone names the row of the source that it stands for, which is not read.
        A row that is replayed has the run that read it first under "replayed"; source, epoch and
        index are those it had there.
        """
        block = self._block(step, 0, self.batch_size)
        result = []
        for b, z in enumerate(block.leaf_B):
            source = self._rows.leaves[z].source
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
            if block.past_B[b] >= 0:
                result[-1]["replayed"] = self._rows.replayed[block.past_B[b]].name
        return result

    def describe(self, steps: int | None = None) -> dict[str, Any]:
        """The plan in numbers, ready for JSON: sources with licences, doses, duplicates, ledger.

        Args:
          steps: length of the run; the plan's own by default. Without any, what depends on it
            (rows read, epochs, shares of the dose) is left out.
        """
        steps = self.steps if steps is None else steps
        read = None
        if steps is not None:
            first, last = self.first_step, self.first_step + steps
            read = self._rows.deal.own_rows(last * self.batch_size)
            read = read - self._rows.deal.own_rows(first * self.batch_size)
        sources = []
        for z, source in enumerate(self._sources):
            entry = {
                "name": source.name,
                "licence": source.licence,
                "attribution": source.attribution,
                "origin": dict(source.origin),
                "share": float(self._rows.deal.shares[z]),
                "weight": self._rows.deal.own.weights[z],
                "text": source.text,
                "documents": source.train.num_documents,
                "tokens": source.train.num_tokens,
                "rows": self._rows.num_rows[z],
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
                entry["epochs"] = int(read[z]) / self._rows.num_rows[z]
            sources.append(entry)
        doses = dose(self._placed)
        if steps:
            for entry in doses.values():
                entry["token_share"] = entry["tokens"] / (steps * self.tokens_per_step)
                entry["row_share"] = entry["rows"] / (steps * self.batch_size)
        about = {
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
            "replay": self._describe_replay(steps),
            "also_validate": [
                {
                    "name": held.name,
                    "licence": held.licence,
                    "attribution": held.attribution,
                    "documents": held.validation.num_documents,
                    "tokens": held.validation.num_tokens,
                }
                for held in self._also_validate
            ],
            "stages": lineage_lib.ledgers(self._lineage.stages),
            "lineage": to_json(self._lineage),
        }
        return about if steps is None else about | {"ledger": self.ledger(steps)}

    def _describe_replay(self, steps: int | None) -> list[dict[str, Any]]:
        """What is replayed of each earlier run: rows first .. first + read - 1 of those seen."""
        started = self._rows.deal.past_rows(self.first_step * self.batch_size)
        if steps is not None:
            ended = self._rows.deal.past_rows((self.first_step + steps) * self.batch_size)
        entries = []
        for k, item in enumerate(self._rows.replayed):
            rights = ("name", "licence", "attribution")
            sources = [leaf.source for leaf in item.rows.leaves]
            entry = {
                "run": item.name,
                "share": item.share,
                "rows_seen": item.seen,
                "first_row": item.offset + int(started[k]),
                "sources": [{key: getattr(source, key) for key in rights} for source in sources],
            }
            if steps is not None:
                entry["rows_read"] = int(ended[k] - started[k])
            entries.append(entry)
        return entries

    def _padding_tokens(self) -> int:
        """Positions of the whole run that hold no token, in rows that passages have alone."""
        filled = {}
        for item in self._placed:
            if item.alone:
                where = item.injection.step, item.row
                filled[where] = filled.get(where, 0) + len(item.tokens)
        return sum(max(0, self.length - used) for used in filled.values())

    def _block(self, step: int, start: int, stop: int) -> RowBlock:
        if step < 0 or not 0 <= start <= stop <= self.batch_size:
            raise ValueError(
                f"expected step >= 0 and 0 <= start <= stop <= {self.batch_size}, "
                f"got step {step}, rows {start}:{stop}"
            )
        first = (self.first_step + int(step)) * self.batch_size
        block = self._rows.read(first + np.arange(start, stop))
        tokens_BxM, document_BxM, place_BxM = block[:3]
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
        return block
