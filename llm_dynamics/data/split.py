"""Training and validation documents, decided by the text itself, near-duplicates taken out."""

import dataclasses
import hashlib
import io
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llm_dynamics.data import cache
from llm_dynamics.data.shingles import SHINGLE, Content, WordHashes, batches
from llm_dynamics.spec import fingerprint

TRAIN, VALIDATION, REMOVED, REPEATED = range(4)

_FORMAT = 1  # raise it when the same input would be split differently

Documents = Any  # sized iterable of (document id, Content)
Progress = Callable[[str, int, int], None]  # what, done, total


@dataclasses.dataclass(frozen=True)
class Split:
    """Which side every document is on.

    Attributes:
      sides: for each source a uint8 array over its documents: TRAIN, VALIDATION, REMOVED (from
        validation) or, where `without` has taken them out of training, REPEATED.
      duplicates: int64 [k, 4], the removed documents, each with the training document it
        repeats: (source, document, source, document).
      overlaps: float64 [k], share of the removed document's shingles found there.
    """

    sides: tuple[np.ndarray, ...]
    duplicates: np.ndarray
    overlaps: np.ndarray

    def count(self, source: int, side: int) -> int:
        return int((self.sides[source] == side).sum())

    def key(self, source: int, side: int) -> str:
        """Hex digest of which documents of a source are on a side; names caches."""
        members = np.packbits(self.sides[source] == side).tobytes()
        return hashlib.sha256(members).hexdigest()[:16]

    def without(self, repeats: Sequence[np.ndarray]) -> "Split":
        """The split with these training documents of every source taken out, as REPEATED."""
        sides = []
        for side, documents in zip(self.sides, repeats, strict=True):
            sides.append(side.copy())
            sides[-1][documents] = REPEATED
        return dataclasses.replace(self, sides=tuple(sides))


def members(documents: Documents, sides: np.ndarray, side: int) -> Iterator[tuple[str, Content]]:
    """The documents of one source that are on `side`, in order."""
    for (doc_id, content), where in zip(documents, sides, strict=True):
        if where == side:
            yield doc_id, content


def numbered(documents: Documents, sides: np.ndarray, side: int) -> Iterator[tuple[int, Content]]:
    """The same with their numbers in the source in place of their ids."""
    contents = (content for _, content in members(documents, sides, side))
    return zip(np.flatnonzero(sides == side).tolist(), contents, strict=True)


def split_documents(
    sources: Sequence[Documents],
    fraction: float,
    threshold: float,
    seed: int,
    progress: Progress | None = None,
) -> Split:
    """Splits the documents of all sources into training and validation.

    A document goes to validation when a keyed hash of its text falls below `fraction`. So its
    side depends on nothing but its text, the seed and the fraction: not on its name, its place,
    or the other documents; and exact copies are always on one side. One document of every source
    (that of the largest hash) stays in training whatever the fraction.

    A validation document is removed when one training document, of any source, holds at least
    `threshold` of its distinct 5-word shingles (case and punctuation aside). It is validation
    that gives way, so that the training text does not depend on the comparison; and the measure
    is containment, not Jaccard, because a copy inside a longer text leaks just as much.

    Args:
      sources: for each, an iterable of (id, text or token array) that can be read repeatedly.
      fraction: expected share of validation documents, 0 <= fraction < 1.
      threshold: 0 < threshold <= 1.
      seed: another seed, another split.
      progress: called with (what, documents done, documents in total).
    """
    progress = progress or (lambda what, done, total: None)
    total = sum(len(source) for source in sources)
    sides, held = [], []
    done = 0
    for z, source in enumerate(sources):
        hashes = np.empty(len(source), np.uint64)
        kept = {}
        for d, (_, content) in enumerate(source):
            hashes[d] = _keyed_hash(content, seed)
            if hashes[d] < fraction * 2.0**64:
                kept[d] = content
            done += 1
            if done % 1024 == 0 or done == total:
                progress("splitting", done, total)
        kept.pop(int(hashes.argmax()), None)
        side = np.zeros(len(source), np.uint8)
        side[list(kept)] = VALIDATION
        sides.append(side)
        held.extend((z, d, content) for d, content in kept.items())
    if not held:
        return Split(tuple(sides), np.zeros((0, 4), np.int64), np.zeros(0))

    words = WordHashes()
    index = _Index([content for _, _, content in held], words)
    best = np.zeros(len(held))
    match = np.zeros((len(held), 2), np.int64)
    done = 0
    for z, source in enumerate(sources):
        train = ((d, content) for d, (_, content) in enumerate(source) if sides[z][d] == TRAIN)
        for doc_ids, doc_of, shingles in batches(train, words):
            overlap, which = index.largest_overlap(doc_of, shingles)
            better = overlap > best
            best[better] = overlap[better]
            match[better] = np.stack([np.full(len(held), z), doc_ids[which]], 1)[better]
            done += len(doc_ids)
            progress("looking for near-duplicates", done, total - len(held))
    found = np.flatnonzero(best >= threshold)
    places = np.array([(z, d) for z, d, _ in held], np.int64)
    for z, d in places[found]:
        sides[z][d] = REMOVED
    return Split(tuple(sides), np.concatenate([places[found], match[found]], 1), best[found])


def cached_split(
    sources: Sequence[Documents],
    fraction: float,
    threshold: float,
    seed: int,
    folder: Path,
    progress: Progress | None = None,
) -> Split:
    """`split_documents`, remembered in `folder` under the fingerprints of the sources."""
    prints = [source.fingerprint for source in sources]
    key = fingerprint([_FORMAT, SHINGLE, prints, fraction, threshold, seed])
    path = folder / f"{key}.npz"
    with cache.lock(folder / f"{key}.lock"):
        split = _read(path, sources)
        if split is None:
            split = split_documents(sources, fraction, threshold, seed, progress)
            buffer = io.BytesIO()
            named = {f"sides_{z}": side for z, side in enumerate(split.sides)}
            np.savez(buffer, duplicates=split.duplicates, overlaps=split.overlaps, **named)
            cache.write_atomic(path, buffer.getvalue())
    return split


def _read(path: Path, sources: Sequence[Documents]) -> Split | None:
    """The split in `path`, or None when it is absent or damaged (zip members carry a CRC)."""
    try:
        with np.load(path, allow_pickle=False) as file:
            sides = tuple(file[f"sides_{z}"] for z in range(len(sources)))
            split = Split(sides, file["duplicates"], file["overlaps"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    fits = [len(side) for side in split.sides] == [len(source) for source in sources]
    return split if fits else None


def _keyed_hash(content: Content, seed: int) -> int:
    data = content.encode() if isinstance(content, str) else np.int64(content).tobytes()
    digest = hashlib.blake2b(data, digest_size=8, key=f"split {seed}".encode())
    return int.from_bytes(digest.digest(), "little")


class _Index:
    """Shingle -> the validation documents that hold it."""

    def __init__(self, contents: Sequence[Content], words: WordHashes):
        pairs = []
        for numbers, place, shingles in batches(enumerate(contents), words):
            pairs.append(np.stack([shingles, numbers[place].astype(np.uint64)], 1))
        pairs = np.unique(np.concatenate(pairs or [np.zeros((0, 2), np.uint64)]), axis=0)
        self._keys, self._starts = np.unique(pairs[:, 0], return_index=True)
        self._ends = np.append(self._starts[1:], len(pairs))
        self._docs = pairs[:, 1].astype(np.int64)
        self._sizes = np.bincount(self._docs, minlength=len(contents))

    def largest_overlap(
        self, doc_of: np.ndarray, shingles: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """For every validation document the largest share of its shingles in one document.

        Returns:
          share and number of that document, both [validation documents].
        """
        num_docs = len(self._sizes)
        best, which = np.zeros(num_docs), np.zeros(num_docs, np.int64)
        if not len(self._keys):
            return best, which
        key = np.searchsorted(self._keys, shingles).clip(max=len(self._keys) - 1)
        hit = self._keys[key] == shingles
        hits = np.unique(doc_of[hit] * len(self._keys) + key[hit])
        doc, key = np.divmod(hits, len(self._keys))
        times = self._ends[key] - self._starts[key]
        within = np.arange(times.sum()) - np.repeat(times.cumsum() - times, times)
        held = self._docs[np.repeat(self._starts[key], times) + within]
        pairs, shared = np.unique(np.repeat(doc, times) * num_docs + held, return_counts=True)
        doc, held = np.divmod(pairs, num_docs)
        share = shared / self._sizes[held]
        order = np.lexsort((-doc, share))  # the last one written wins: largest, then first
        best[held[order]], which[held[order]] = share[order], doc[order]
        return best, which
