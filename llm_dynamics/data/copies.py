"""A corpus with a known number of duplicates: some documents come several times an epoch."""

import hashlib
from collections.abc import Iterator

import numpy as np

from llm_dynamics.data.rows import TokenStream
from llm_dynamics.data.shingles import mix


def order_with_copies(num_documents: int, share: float, copies: int, key: str) -> np.ndarray:
    """The documents in order, a share of them `copies` times; a pure function of its arguments.

    Every document stands in its own place. The further copies of a chosen one stand at random
    places after it, so that to keep the first of equal documents gives the order without copies.
    That they stand later in the text is not seen in training, where rows come in random order.

    After Lee et al. 2022 (Deduplicating Training Data Makes Language Models Better), where the
    duplicates are those of web text; here their number is set.

    Args:
      num_documents: at least 1.
      share: of the documents that are copied, 0 < share <= 1; at least one is.
      copies: how often each of these comes, the first included.
      key: another key, other documents and places.

    Returns:
      int64 [num_documents + chosen x (copies - 1)], document numbers.
    """
    start = int.from_bytes(hashlib.blake2b(f"copies {key}".encode(), digest_size=8).digest())
    num_chosen = max(1, round(share * num_documents))
    chosen = np.argsort(_draws(num_documents, start), kind="stable")[:num_chosen]
    further = np.repeat(np.sort(chosen), copies - 1)
    share_of_rest = _draws(len(further), start + 1) / 2.0**64
    place = further + share_of_rest * (num_documents - further)
    documents = np.arange(num_documents)
    order = np.argsort(np.concatenate([documents, place]), kind="stable")
    return np.concatenate([documents, further])[order]


def read_in_order(stream: TokenStream, order: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """(document id, tokens) of the documents of a stream in any order, repetitions included."""
    for d in order.tolist():
        yield stream.doc_id(d), stream.tokens[stream.starts[d] : stream.starts[d + 1]]


def _draws(num: int, start: int) -> np.ndarray:
    """Whole numbers that look random; uint64 [num]."""
    return mix(mix(np.arange(num, dtype=np.uint64)) ^ np.uint64(start % 2**64))
