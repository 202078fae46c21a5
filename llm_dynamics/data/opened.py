"""The sources of a configuration, opened and split, and its tokenizer."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from llm_dynamics.data import cache, split, tokenizers
from llm_dynamics.data.config import DataConfig
from llm_dynamics.data.sources import Source, open_source
from llm_dynamics.data.tokenizers import Tokenizer
from llm_dynamics.errors import UserError
from llm_dynamics.spec import fingerprint

Progress = Callable[[str, int, int], None]  # what, done, total


@dataclasses.dataclass(frozen=True)
class OpenData:
    """The sources of a configuration, opened and split."""

    config: DataConfig
    folder: Path
    sources: tuple[Source, ...]
    split: split.Split

    def training_texts(self) -> Iterator[str]:
        """All training text, source after source; token arrays have none."""
        for z, source in enumerate(self.sources):
            if not source.is_tokenised:
                for _, text in split.members(source, self.split.sides[z], split.TRAIN):
                    yield text


def open_data(config: DataConfig, progress: Progress | None = None) -> OpenData:
    """Opens the sources, fetching what is missing, and splits them.

    Args:
      config: the data configuration.
      progress: called with (what is being done, documents done, documents in total).

    Raises:
      UserError: a source that cannot be opened; the message says what to do.
    """
    folder = cache.cache_folder(config.cache_dir)
    sources = tuple(open_source(source, folder) for source in config.sources)
    _refuse_twins(sources)
    if any(source.is_tokenised for source in sources) and not _is_trained(config):
        eos_id = build_tokenizer(config).eos_id
        sources = tuple(cut_at(s, eos_id) if s.is_tokenised else s for s in sources)
    sources = tuple(s if s.is_tokenised else remembered(s) for s in sources)
    parts = split.cached_split(
        sources,
        config.validation_fraction,
        config.dedup_threshold,
        config.seed,
        folder / "splits",
        progress,
    )
    return OpenData(config, folder, sources, parts)


def only(config: DataConfig, sources: Sequence[str]) -> DataConfig:
    """The configuration with other sources, for their text alone."""
    return dataclasses.replace(
        config, sources=tuple(sources), replay=(), tokenizer_sources=(), also_validate=()
    )


def cut_at(source: Source, eos_id: int) -> Source:
    """A source of token arrays with a document for every stretch that `eos_id` closes.

    Arrays are often whole corpora end to end; so cut, they have a validation side and segments
    like any other text. A document's id is its array's with the position of its first token.
    """

    def read() -> Iterator[tuple[str, np.ndarray]]:
        for name, array in source:
            start = 0
            for end in [*(np.flatnonzero(array == eos_id) + 1).tolist(), len(array)]:
                piece = array[start:end]
                if len(piece) > 1 or (len(piece) == 1 and piece[0] != eos_id):
                    yield f"{name}@{start}", piece
                start = end

    return dataclasses.replace(
        source,
        read=read,
        documents=sum(1 for _ in read()),
        fingerprint=fingerprint([source.fingerprint, eos_id]),
    )


def remembered(source: Source, characters: int = 1 << 26) -> Source:
    """A source that is read from disk once and from memory after, unless it is large.

    Splitting, training a tokenizer and tokenising take several passes, and reading records costs
    more than all three. The texts go when the source goes; a plan does not hold it.
    """
    kept: list[list[tuple[str, str]]] = []

    def read() -> Iterator[tuple[str, str]]:
        if kept:
            yield from kept[0]
            return
        documents, size = [], 0
        for doc_id, text in source:
            yield doc_id, text
            size += len(text)
            if size <= characters:
                documents.append((doc_id, text))
            else:
                documents.clear()
        if size <= characters:
            kept.append(documents)

    return dataclasses.replace(source, read=read)


def build_tokenizer(config: DataConfig, data: OpenData | None = None) -> Tokenizer:
    """The tokenizer of a configuration; "bpe:N" is trained on its training documents.

    Near-duplicates count and copies do not: with and without them the tokens are the same. Runs
    with the same `tokenizer_sources` (or, where they are empty, sources), seed and validation
    fraction have the same tokenizer.

    Args:
      config: the data configuration.
      data: from `open_data`, to open it only once.

    Raises:
      UserError: see `tokenizers.load_tokenizer`.
    """
    folder = cache.cache_folder(config.cache_dir)
    if not _is_trained(config):
        return tokenizers.load_tokenizer(config.tokenizer, None, folder)
    if config.tokenizer_sources:
        data = open_data(only(config, config.tokenizer_sources))
    data = data or open_data(config)
    with_text = [z for z, source in enumerate(data.sources) if not source.is_tokenised]
    key = fingerprint(
        [[data.sources[z].fingerprint, data.split.key(z, split.TRAIN)] for z in with_text]
    )
    texts = data.training_texts if with_text else None
    return tokenizers.load_tokenizer(config.tokenizer, texts, data.folder, key)


def _refuse_twins(sources: Sequence[Source]) -> None:
    first: dict[str, str] = {}
    for source in sources:
        if source.fingerprint in first:
            raise UserError(
                f"expected different sources, got {first[source.fingerprint]!r} and "
                f"{source.name!r} with the same documents; name one of them, with the sum of the "
                "weights"
            )
        first[source.fingerprint] = source.name


def _is_trained(config: DataConfig) -> bool:
    return config.tokenizer.startswith("bpe:")
