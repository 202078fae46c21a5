"""One view of everything that can be read: (document id, text) pairs with a name and a licence."""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llm_dynamics.data import files as files_lib
from llm_dynamics.data import prepared
from llm_dynamics.data.corpora import registry
from llm_dynamics.data.digest import update_digest
from llm_dynamics.errors import UserError
from llm_dynamics.files import expanded
from llm_dynamics.spec import nearest

UNSTATED = "not stated (data of the user)"


@dataclasses.dataclass(frozen=True)
class Source:
    """Documents in a fixed order. `len(source)`, `for doc_id, content in source`.

    Attributes:
      name: what the user wrote, without the weight.
      weight: share in a mixture, relative to the other sources.
      fingerprint: hex digest of all document ids and contents, in order.
      licence: of the text.
      attribution: what a publication that quotes it must say.
      origin: where it came from (package, version, sha256, language, files, ...), for reports.
      is_tokenised: the content of a document is an integer array of token ids, not text.
      documents: how many there are.
      read: starts a new pass over the documents.
    """

    name: str
    weight: float
    fingerprint: str
    licence: str
    attribution: str
    origin: Mapping[str, Any]
    is_tokenised: bool
    documents: int
    read: Callable[[], Iterator[tuple[str, Any]]] = dataclasses.field(compare=False, repr=False)

    def __len__(self) -> int:
        return self.documents

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return self.read()


def parse_source(spec: str) -> tuple[str, str, float]:
    """Splits "NAME_OR_PATH[#field][@weight]"; field "" and weight 1 where not given.

    Raises:
      UserError: no name, or a weight that is not a positive number.
    """
    target, weight = spec.strip(), 1.0
    head, at, tail = target.rpartition("@")
    if at and "/" not in tail and not Path(target).exists():
        try:
            weight = float(tail)
        except ValueError:
            weight = math.nan
        if not (weight > 0 and math.isfinite(weight)):
            raise UserError(
                f"source {spec!r}: the weight after @ expects a number > 0, got {tail!r}"
            )
        target = head
    head, hash_sign, field = target.rpartition("#")
    if hash_sign and "/" not in field and not Path(target).exists():
        target = head
    else:
        field = ""
    if not target:
        raise UserError(f"source {spec!r} expects NAME_OR_PATH[#field][@weight], got no name")
    return target, field, weight


def open_source(spec: str, cache_dir: Path) -> Source:
    """Opens a source, fetching and preparing it if it is one of our corpora.

    The user's files are read once from end to end, so that everything wrong with them is said
    here and not in the middle of a run.

    Args:
      spec: "NAME_OR_PATH[#field][@weight]" or "tfds:NAME[/config][:split][#field][@weight]".
      cache_dir: the folder of `cache.cache_folder`.

    Raises:
      UserError: unknown, missing, empty or damaged; the message says where and what to do.
    """
    target, field, weight = parse_source(spec)
    name = f"{target}#{field}" if field else target
    if target.startswith("tfds:"):
        return _open_tfds(target, name, field or "text", weight)
    if target in registry.known():
        if field:
            raise UserError(f"source {spec!r}: {target} has one text only; drop #{field}")
        return _open_corpus(target, weight, cache_dir)
    if not expanded(target).exists() and _looks_like_a_name(target):
        hint = nearest(target, registry.known())
        raise UserError(f"unknown corpus {target!r}, and no such file or folder; {hint}")
    return _open_files(target, name, field, weight)


def _looks_like_a_name(target: str) -> bool:
    plain = target.replace("_", "").replace("/", "", 1).isalnum()
    return plain and not files_lib.suffix_of(Path(target)) and target.count("/") < 2


def _open_corpus(target: str, weight: float, cache_dir: Path) -> Source:
    corpus = registry.corpus(target)
    builder = registry.prepare(target, cache_dir)
    metadata = dict(builder.info.metadata)
    return Source(
        name=corpus.full_name,
        weight=weight,
        fingerprint=metadata["text_sha256"][:16],
        licence=corpus.licence,
        attribution=corpus.attribution,
        origin=metadata,
        is_tokenised=False,
        documents=metadata["documents"],
        read=lambda: prepared.read_texts(builder, "train", "text"),
    )


def _open_tfds(target: str, name: str, field: str, weight: float) -> Source:
    builder, split = prepared.find(target.removeprefix("tfds:"))
    info = builder.info
    return _surveyed(
        lambda: prepared.read_texts(builder, split, field),
        name=name,
        weight=weight,
        licence=info.redistribution_info.license or UNSTATED,
        attribution=info.homepage or f"TFDS {info.full_name}",
        origin={"dataset": info.full_name, "split": split, "field": field},
    )


def _open_files(target: str, name: str, field: str, weight: float) -> Source:
    files = files_lib.find_files(target)
    suffixes = sorted({files_lib.suffix_of(path) for _, path in files})
    arrays = [suffix for suffix in suffixes if suffix in files_lib.ARRAYS]
    if arrays and len(suffixes) > len(arrays):
        raise UserError(
            f"source {target!r} mixes text and token arrays ({', '.join(suffixes)}); "
            "name them as two sources"
        )
    if field and not set(suffixes) & {*files_lib.JSONL, *files_lib.PARQUET}:
        raise UserError(f"source {name!r}: {', '.join(suffixes)} has no fields; drop #{field}")
    if arrays:
        read = lambda: files_lib.read_arrays(files)  # noqa: E731
    else:
        read = lambda: files_lib.read_texts(files, field or "text")  # noqa: E731
    return _surveyed(
        read,
        name=name,
        weight=weight,
        licence=UNSTATED,
        attribution="",
        origin={"files": len(files), "bytes": sum(path.stat().st_size for _, path in files)},
        is_tokenised=bool(arrays),
    )


def _surveyed(read: Callable[[], Iterator[tuple[str, Any]]], **fields: Any) -> Source:
    """A source of user data, after one full pass that counts, checks and fingerprints it."""
    is_tokenised = fields.pop("is_tokenised", False)
    digest, documents, max_id = hashlib.sha256(), 0, -1
    for doc_id, content in read():
        if is_tokenised:
            max_id = max(max_id, int(content.max()))
            content = np.ascontiguousarray(content, dtype=np.int64).tobytes()
        else:
            content = _utf8(doc_id, content)
        update_digest(digest, doc_id, content)
        documents += 1
    if not documents:
        raise UserError(f"source {fields['name']!r} holds no text at all; check the data")
    origin = fields.pop("origin") | ({"max_id": max_id} if is_tokenised else {})
    return Source(
        fingerprint=digest.hexdigest()[:16],
        documents=documents,
        is_tokenised=is_tokenised,
        origin=origin,
        read=read,
        **fields,
    )


def _utf8(doc_id: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{doc_id}: half of a surrogate pair at character {error.start}, which no UTF-8 text "
            "can hold; write the data again from the original text"
        ) from None
