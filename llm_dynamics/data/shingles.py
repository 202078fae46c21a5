"""Runs of words hashed to whole numbers: what the comparison of documents is made of."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

SHINGLE = 5  # words

_WORDS_AT_ONCE = 1 << 18  # bounds the memory of the comparison
_PAD = np.uint64(0x9E3779B97F4A7C15)  # stands for the missing words of very short documents
_MULTIPLIER = np.uint64(0xD6E8FEB86659FD93)
_WORD = re.compile(r"\w+")

Content = Any  # text, or an integer array of token ids


class WordHashes(dict):
    """Word -> 64-bit hash, the same in every process; remembers the words it has met."""

    def __missing__(self, word: str) -> int:
        digest = hashlib.blake2b(word.encode(errors="surrogatepass"), digest_size=8).digest()
        value = self[word] = int.from_bytes(digest, "little")
        return value

    def of(self, content: Content) -> np.ndarray:
        """uint64 hashes of the words; of a token array, of its tokens."""
        if isinstance(content, str):
            found = _WORD.findall(content.lower())
            return np.fromiter((self[word] for word in found), np.uint64, len(found))
        return mix(np.asarray(content).astype(np.uint64))


def mix(x: np.ndarray) -> np.ndarray:
    """The splitmix64 finaliser: a bijection of uint64 that looks random."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def batches(
    documents: Iterable[tuple[int, Content]], words: WordHashes
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The shingles of some documents at a time, in order; documents without a word are left out.

    A document shorter than a shingle has one, filled up.

    Args:
      documents: (number, content) of each.
      words: remembers hashes from call to call.

    Yields:
      document numbers int64 [n]; for every shingle of theirs, repeated ones included, its place
      in these n, in order, and its hash uint64.
    """
    numbers, parts, size = [], [], 0
    for number, content in documents:
        part = words.of(content)
        if not len(part):
            continue
        if len(part) < SHINGLE:
            part = np.append(part, np.full(SHINGLE - len(part), _PAD))
        numbers.append(number)
        parts.append(part)
        size += len(part)
        if size >= _WORDS_AT_ONCE:
            yield np.array(numbers), *_shingles(parts)
            numbers, parts, size = [], [], 0
    if numbers:
        yield np.array(numbers), *_shingles(parts)


def _shingles(parts: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of all runs of SHINGLE words inside one document, and whose they are."""
    words = np.concatenate(parts)
    owner = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    last = len(words) - SHINGLE + 1
    shingles = np.zeros(last, np.uint64)
    for k in range(SHINGLE):
        shingles = shingles * _MULTIPLIER + words[k : k + last]
    inside = owner[:last] == owner[SHINGLE - 1 :]
    return owner[:last][inside], shingles[inside]
