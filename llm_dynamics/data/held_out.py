"""The validation rows of some sources, always the same ones in the same order."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from llm_dynamics.batch import Batch
from llm_dynamics.data.corpus_rows import PlanSource, read_rows
from llm_dynamics.data.mixture import Mixture
from llm_dynamics.data.rows import LARGEST_ORDER, PADDING, TokenStream, row_order, scattered_rows
from llm_dynamics.data.segments import make_batch

_LARGEST = 1 << 29  # rows of all sources that a mixture still takes as they are


@dataclasses.dataclass(frozen=True, eq=False)
class HeldOut:
    """The validation side of a source that need not be trained on."""

    name: str
    fingerprint: str
    validation: TokenStream
    members: str  # digest of which documents these are
    licence: str = ""
    attribution: str = ""


def validation_batches(
    sources: Sequence[PlanSource | HeldOut],
    length: int,
    batch_size: int,
    seed: int,
    isolate: bool,
    max_batches: int | None = None,
) -> list[Batch]:
    """The validation rows: B rows a batch, the last one padded.

    Every token of the validation documents (but the first of each source) is a label of exactly
    one row, unless isolation excludes it. Rows are dealt in proportion to what each source has,
    so the first few batches are a fair sample of all of them. Which rows come first depends on
    the text, the length and the seed alone, not on the batch size.

    Args:
      sources: their validation sides are read.
      length: tokens a row, L.
      batch_size: rows a batch, B.
      seed: of the order.
      isolate: documents do not see each other.
      max_batches: stop there; None = all of them.

    Returns:
      Batches of arrays [B, L]; empty when nothing was held out.
    """
    held = [(s, rows) for s in sources if (rows := s.validation.num_padded_rows(length))]
    if not held:
        return []
    total = sum(rows for _, rows in held)
    if max_batches is not None:
        total = min(total, max_batches * batch_size)
    # The numbers of the mixture are limited; beyond them the sample is fair to a part in 10^8.
    unit = 1 + sum(rows for _, rows in held) // _LARGEST
    mixture = Mixture([max(1, rows // unit) for _, rows in held])
    which, index = mixture.locate(np.arange(total))
    shape = (-(-total // batch_size) * batch_size, length + 1)
    tokens_RxM, document_RxM = np.zeros(shape, np.int32), np.full(shape, PADDING)
    for z, (source, rows) in enumerate(held):
        at = np.flatnonzero(which == z)
        chosen = _order(source.fingerprint, seed, rows, index[at] % rows)
        tokens_RxM[at], document_RxM[at], _ = read_rows(source.validation, chosen, length)
    return [
        make_batch(tokens_RxM[k : k + batch_size], document_RxM[k : k + batch_size], isolate)
        for k in range(0, len(tokens_RxM), batch_size)
    ]


def _order(key: str, seed: int, num_rows: int, positions: np.ndarray) -> np.ndarray:
    if num_rows > LARGEST_ORDER:
        return scattered_rows(key, seed, -1, num_rows, positions)
    return row_order(key, seed, -1, num_rows)[positions]
