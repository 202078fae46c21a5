"""Tokenised documents end to end in one cached array, cut into rows, shuffled by epoch."""

import dataclasses
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from llm_dynamics.data import cache
from llm_dynamics.data.shingles import mix
from llm_dynamics.errors import UserError
from llm_dynamics.spec import fingerprint

PADDING = np.iinfo(np.int64).min  # document number of what is no token
_FORMAT = 1  # raise it when the same documents would give other files
_DOCUMENTS_AT_ONCE = 512
_ROUNDS = 6  # of the Feistel network; four are enough for it to look random
LARGEST_ORDER = 1 << 22  # rows up to which the order of an epoch is sorted and kept, 32 MiB
_FILES = ("tokens.npy", "starts.npy", "ids.npy", "id_starts.npy")


@dataclasses.dataclass(frozen=True, eq=False)
class TokenStream:
    """Documents end to end, each closed by the end-of-document token.

    Attributes:
      tokens: uint16 or uint32 [tokens].
      starts: int64 [documents + 1], where each document begins, and the end.
      ids: uint8, the document ids in UTF-8, end to end.
      id_starts: int64 [documents + 1].
    """

    tokens: np.ndarray
    starts: np.ndarray
    ids: np.ndarray
    id_starts: np.ndarray

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

    @property
    def num_documents(self) -> int:
        return len(self.starts) - 1

    def doc_id(self, document: int) -> str:
        return self.ids[self.id_starts[document] : self.id_starts[document + 1]].tobytes().decode()

    def documents_at(self, place_BxM: np.ndarray) -> np.ndarray:
        """The document of every token; int64 [B, M].

        Args:
          place_BxM: indices of tokens, each row increasing by at most one from column to column.
        """
        # One search a row, then a step at every document start: much faster than a search
        # for every token.
        first_B = np.searchsorted(self.starts, place_BxM[:, 0], side="right") - 1
        last_B = np.searchsorted(self.starts, place_BxM[:, -1], side="right") - 1
        more_B = last_B - first_B
        row = np.repeat(np.arange(len(place_BxM)), more_B)
        begun = np.arange(len(row)) - np.repeat(more_B.cumsum() - more_B, more_B)
        column = self.starts[first_B[row] + 1 + begun] - place_BxM[row, 0]
        step_BxM = np.zeros(place_BxM.shape, np.int64)
        step_BxM[:, 0] = first_B
        step_BxM[row, column] = 1
        return step_BxM.cumsum(axis=1)

    def num_rows(self, length: int) -> int:
        """Whole rows of `length` predictions: row j holds tokens[j L : j L + L + 1].

        Rows overlap by one token, so that every token but the first is predicted exactly once.
        """
        return max(0, (self.num_tokens - 1) // length)

    def num_padded_rows(self, length: int) -> int:
        """Rows when the incomplete last one counts too."""
        return max(0, -(-(self.num_tokens - 1) // length))


def row_order(key: str, seed: int, epoch: int, num_rows: int) -> np.ndarray:
    """The order of one epoch: an int64 permutation of the rows, a pure function of its arguments.

    Rows are sorted by a hash rather than shuffled by a library generator, whose stream may
    change between versions.
    """
    text = f"rows {key} {seed} {epoch}".encode()
    start = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
    return np.argsort(
        mix(mix(np.arange(num_rows, dtype=np.uint64)) ^ np.uint64(start)), kind="stable"
    )


def scattered_rows(
    key: str, seed: int, epoch: int, num_rows: int, positions: np.ndarray
) -> np.ndarray:
    """Row at some positions of an epoch whose order is never written down; int64 like `positions`.

    A permutation of the rows as `row_order` gives one, and another one: a Feistel network on the
    next power of four, walked along until it is back among the rows (Black & Rogaway 2002). It
    takes the same memory for any number of rows.
    """
    text = f"scattered rows {key} {seed} {epoch}".encode()
    keys = np.frombuffer(hashlib.blake2b(text, digest_size=8 * _ROUNDS).digest(), "<u8")
    half = np.uint64(max(1, -(-(num_rows - 1).bit_length() // 2)))
    mask = np.uint64((1 << int(half)) - 1)

    def permute(x: np.ndarray) -> np.ndarray:
        left, right = x >> half, x & mask
        for k in keys:
            left, right = right, left ^ (mix(right ^ k) & mask)
        return left << half | right

    rows = permute(np.asarray(positions).astype(np.uint64))
    while (outside := np.flatnonzero(rows >= num_rows)).size:
        rows[outside] = permute(rows[outside])
    return rows.astype(np.int64)


def cached_stream(
    documents: Callable[[], Iterable[tuple[str, Any]]],
    tokenizer: Any,
    folder: Path,
    key: str,
    progress: Callable[[int], None] | None = None,
) -> TokenStream:
    """Tokenises the documents once and reads them from disk ever after.

    A damaged or truncated cache (sizes and digests are recorded) is built again.

    Args:
      documents: starts a pass over (id, text or token array).
      tokenizer: has encode_batch, eos_id, vocab_size and fingerprint.
      folder: where streams are kept; each has a folder of its own.
      key: names the documents; the tokenizer is added to it.
      progress: called with the number of documents done.

    Raises:
      UserError: a token array with ids outside the tokenizer's vocabulary; a full disk.
    """
    key = fingerprint([_FORMAT, key, tokenizer.fingerprint])
    path = folder / key
    with cache.lock(folder / f"{key}.lock"):
        stream = _read(path)
        if stream is None:
            with cache.temporary_folder(folder, key) as temporary, cache.writing(path):
                _write(temporary, documents(), tokenizer, progress or (lambda done: None))
                shutil.rmtree(path, ignore_errors=True)
                os.replace(temporary, path)
            stream = _read(path)
        if stream is None:
            raise UserError(f"the token cache {path} cannot be read back; check the disk")
    return stream


def _write(
    folder: Path, documents: Iterable[tuple[str, Any]], tokenizer: Any, progress: Callable
) -> None:
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
    lengths, ids = [], []
    with open(folder / "tokens.npy", "wb") as file:
        # numpy leaves room in the header for the final count, so tokens never pile up in memory.
        _header(file, dtype, 0)
        start = file.tell()
        for doc_ids, pieces in _encoded(documents, tokenizer):
            pieces = [np.append(piece, tokenizer.eos_id).astype(dtype) for piece in pieces]
            file.write(np.concatenate(pieces).tobytes())
            lengths.extend(len(piece) for piece in pieces)
            ids.extend(doc_id.encode() for doc_id in doc_ids)
            progress(len(ids))
        file.seek(0)
        _header(file, dtype, sum(lengths))
        if file.tell() != start:
            raise ValueError("the header of tokens.npy has changed its size")
    np.save(folder / "starts.npy", np.cumsum([0, *lengths], dtype=np.int64))
    np.save(folder / "ids.npy", np.frombuffer(b"".join(ids), np.uint8))
    np.save(folder / "id_starts.npy", np.cumsum([0, *map(len, ids)], dtype=np.int64))
    whole = {name: _digest(folder / name) for name in _FILES}
    (folder / "whole.json").write_text(json.dumps(whole, indent=1) + "\n")
    for name in (*_FILES, "whole.json"):
        with open(folder / name, "rb") as file:
            os.fsync(file.fileno())


def _header(file: Any, dtype: np.dtype, count: int) -> None:
    entry = {"descr": dtype.str, "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(file, entry)


def _encoded(
    documents: Iterable[tuple[str, Any]], tokenizer: Any
) -> Iterator[tuple[list[str], list[Any]]]:
    """Yields ids and tokens of some documents at a time."""
    doc_ids, contents = [], []
    for doc_id, content in documents:
        doc_ids.append(doc_id)
        contents.append(content)
        if len(doc_ids) == _DOCUMENTS_AT_ONCE:
            yield doc_ids, _tokens(doc_ids, contents, tokenizer)
            doc_ids, contents = [], []
    if doc_ids:
        yield doc_ids, _tokens(doc_ids, contents, tokenizer)


def _tokens(doc_ids: list[str], contents: list[Any], tokenizer: Any) -> list[Any]:
    if isinstance(contents[0], str):
        return tokenizer.encode_batch(contents)
    pieces = []
    for doc_id, content in zip(doc_ids, contents, strict=True):
        if content.size and not 0 <= content.min() <= content.max() < tokenizer.vocab_size:
            raise UserError(
                f"{doc_id}: token ids from {content.min()} to {content.max()}, but the tokenizer "
                f"has ids 0 to {tokenizer.vocab_size - 1}; name the tokenizer of these arrays"
            )
        ends = content.size and content[-1] == tokenizer.eos_id  # closed already
        pieces.append(content[:-1] if ends else content)
    return pieces


def _read(path: Path) -> TokenStream | None:
    """The stream in a folder, or None when it is absent or not what was written."""
    try:
        whole = json.loads((path / "whole.json").read_text())
        if any(_digest(path / name) != whole[name] for name in _FILES):
            return None
        # asarray: a plain view, since indexing a memmap object is slower
        tokens = np.asarray(np.load(path / "tokens.npy", mmap_mode="r"))
        return TokenStream(tokens, *(np.load(path / name) for name in _FILES[1:]))
    except (OSError, ValueError, KeyError):
        return None


def _digest(path: Path) -> list[Any]:
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        for block in iter(functools.partial(file.read, 1 << 20), b""):
            digest.update(block)
    return [path.stat().st_size, digest.hexdigest()]
