"""Training documents that repeat an earlier one: proposed by MinHash, decided by counting."""

import dataclasses
import hashlib
import io
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from llm_dynamics.data import cache
from llm_dynamics.data.shingles import SHINGLE, Content, WordHashes, batches, mix
from llm_dynamics.spec import fingerprint

RECALL = 0.99  # least chance that a pair exactly at the threshold is compared
LOWEST = 0.1  # threshold; below it nearly all documents would have to be compared

_FORMAT = 1  # raise it when the same documents would give other repeats
_HASHES = 128  # of every document

Documents = Iterable[tuple[int, Content]]


@dataclasses.dataclass(frozen=True)
class Repeats:
    """The documents that repeat an earlier one.

    Attributes:
      documents: int64 [k, 2], each with the earlier, kept document that it repeats, in order.
      similarities: float64 [k], Jaccard similarity of their distinct 5-word shingles.
    """

    documents: np.ndarray
    similarities: np.ndarray


def cached_repeats(
    documents: Callable[[], Documents],
    threshold: float,
    folder: Path,
    key: str,
    progress: Callable[[int], None] | None = None,
) -> Repeats:
    """`find_repeats`, remembered in `folder`; what is damaged is found again.

    Args:
      documents: starts a pass over (number, text or token array).
      threshold: see `find_repeats`.
      folder: where results are kept.
      key: names the documents.
      progress: called with the number of documents done.

    Raises:
      UserError: a full disk.
    """
    key = fingerprint([_FORMAT, SHINGLE, _HASHES, RECALL, key, threshold])
    path = folder / f"{key}.npz"
    with cache.lock(folder / f"{key}.lock"):
        repeats = _read(path)
        if repeats is None:
            with cache.temporary_folder(folder, key) as temporary, cache.writing(path):
                repeats = find_repeats(documents(), threshold, temporary, progress)
            buffer = io.BytesIO()
            np.savez(buffer, **dataclasses.asdict(repeats))
            cache.write_atomic(path, buffer.getvalue())
    return repeats


def find_repeats(
    documents: Documents,
    threshold: float,
    folder: Path,
    progress: Callable[[int], None] | None = None,
) -> Repeats:
    """The documents whose similarity to an earlier one, itself kept, is at least `threshold`.

    Similarity is the Jaccard similarity of the sets of distinct 5-word shingles (case and
    punctuation aside; of token arrays, of token ids). Exact copies are known by a hash of their
    content. Other pairs are proposed by banded MinHash (Broder 1997; Leskovec, Rajaraman & Ullman
    2014, section 3.4) and then compared exactly, so nothing below the threshold is removed; a
    pair at the threshold is proposed with a chance of at least RECALL, one above it with a larger
    one, and identical sets always.

    Memory is a few hundred bytes a document; the shingles go to a file of 8 bytes a word.

    Args:
      documents: (number, text or token array), numbers increasing.
      threshold: LOWEST <= threshold <= 1.
      folder: for the file of shingles.
      progress: called with the number of documents done.
    """
    copies: dict[int, int] = {}
    numbers, sizes, keys = [], [], []
    path = folder / "shingles"
    bands, rows = banding(threshold)
    with open(path, "wb") as file:
        for number_N, place, shingles in batches(_first_of(documents, copies), WordHashes()):
            size_N, shingles = _sets(place, shingles, len(number_N))
            file.write(shingles.tobytes())
            numbers.append(number_N)
            sizes.append(size_N)
            keys.append(_band_keys(shingles, size_N, bands, rows))
            if progress:
                progress(sum(map(len, numbers)) + len(copies))
    found: dict[int, tuple[int, float]] = {}
    if numbers:
        number_N = np.concatenate(numbers)
        shingles = np.memmap(path, np.uint64, "r")
        sets = _Sets(shingles, np.append(0, np.cumsum(np.concatenate(sizes))))
        for repeat, kept, similarity in _repeats(np.concatenate(keys), sets, threshold):
            found[int(number_N[repeat])] = int(number_N[kept]), similarity
    # The first copy may itself repeat another document; then both repeat that one.
    found |= {number: found.get(first, (first, 1.0)) for number, first in copies.items()}
    ordered = sorted(found.items())
    return Repeats(
        np.array([(number, kept) for number, (kept, _) in ordered], np.int64).reshape(-1, 2),
        np.array([similarity for _, (_, similarity) in ordered], np.float64),
    )


def banding(threshold: float) -> tuple[int, int]:
    """(bands, rows): documents that agree in all rows of one of the bands are compared.

    Of similarity s they do with a chance of 1 - (1 - s^rows)^bands. More rows leave fewer
    documents to compare; the most are taken that keep this at RECALL where s = threshold.
    """
    enough = [
        rows
        for rows in range(1, _HASHES + 1)
        if 1 - (1 - threshold**rows) ** (_HASHES // rows) >= RECALL
    ]
    return _HASHES // max(enough), max(enough)


def _first_of(documents: Documents, copies: dict[int, int]) -> Iterator[tuple[int, Content]]:
    """The documents without exact copies, which are entered in `copies` with their first."""
    first: dict[bytes, int] = {}
    for number, content in documents:
        if isinstance(content, str):
            data = content.encode(errors="surrogatepass")
        else:
            data = np.int64(content).tobytes()
        earlier = first.setdefault(hashlib.blake2b(data, digest_size=16).digest(), number)
        if earlier == number:
            yield number, content
        else:
            copies[number] = earlier


def _sets(place: np.ndarray, shingles: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
    """How many distinct shingles each of `num` documents has, and these in order, end to end."""
    order = np.lexsort((shingles, place))
    place, shingles = place[order], shingles[order]
    new = np.append(True, (place[1:] != place[:-1]) | (shingles[1:] != shingles[:-1]))
    return np.bincount(place[new], minlength=num), shingles[new]


def _band_keys(shingles: np.ndarray, size_N: np.ndarray, bands: int, rows: int) -> np.ndarray:
    """A hash of every band of least hashes; uint64 [N, bands]."""
    shingles = mix(shingles)
    start_N = np.cumsum(size_N) - size_N
    draws = mix(np.arange(2 * bands * rows, dtype=np.uint64))
    key_NxK = np.zeros((len(size_N), bands), np.uint64)
    for k in range(bands * rows):
        # A bijection of uint64: odd factor, any summand.
        hashed = shingles * (draws[2 * k] | np.uint64(1)) + draws[2 * k + 1]
        band_N = key_NxK[:, k // rows]
        band_N[:] = mix(band_N ^ np.minimum.reduceat(hashed, start_N))
    return key_NxK


@dataclasses.dataclass(frozen=True)
class _Sets:
    """The distinct shingles of every document, in order, on disk."""

    shingles: np.ndarray
    starts: np.ndarray

    def similarity(self, a: int, b: int, threshold: float) -> float:
        """Jaccard similarity; 0.0 where the sizes alone say that it is below the threshold."""
        size_a, size_b = (int(self.starts[n + 1] - self.starts[n]) for n in (a, b))
        if min(size_a, size_b) < threshold * max(size_a, size_b):
            return 0.0
        in_a, in_b = (self.shingles[self.starts[n] : self.starts[n + 1]] for n in (a, b))
        shared = len(np.intersect1d(in_a, in_b, assume_unique=True))
        return shared / (size_a + size_b - shared)


def _repeats(
    key_NxK: np.ndarray, sets: _Sets, threshold: float
) -> Iterator[tuple[int, int, float]]:
    """Yields (document, the first kept one that it repeats, similarity), in order."""
    bucket_NxK = _buckets(key_NxK)
    kept: dict[int, list[int]] = {}
    for n in np.flatnonzero((bucket_NxK >= 0).any(axis=1)).tolist():
        buckets = [bucket for bucket in bucket_NxK[n].tolist() if bucket >= 0]
        for other in sorted({m for bucket in buckets for m in kept.get(bucket, ())}):
            similarity = sets.similarity(other, n, threshold)
            if similarity >= threshold:
                yield n, other, similarity
                break
        else:
            for bucket in buckets:
                kept.setdefault(bucket, []).append(n)


def _buckets(key_NxK: np.ndarray) -> np.ndarray:
    """Numbers the keys of all bands; int64 [N, K], -1 for one that no other document has."""
    bucket_NxK = np.empty(key_NxK.shape, np.int64)
    first = 0
    for k, key_N in enumerate(key_NxK.T):
        distinct, which_N, count = np.unique(key_N, return_inverse=True, return_counts=True)
        bucket_NxK[:, k] = np.where(count[which_N] > 1, first + which_N, -1)
        first += len(distinct)
    return bucket_NxK


def _read(path: Path) -> Repeats | None:
    """The repeats in `path`, or None when they are absent or damaged (zip members carry a CRC)."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return Repeats(file["documents"], file["similarities"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
