"""From a data configuration to its tokenizer and its plan."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llm_dynamics.data import cache, near_duplicates, split, tokenizers
from llm_dynamics.data.config import DataConfig
from llm_dynamics.data.copies import order_with_copies, read_in_order
from llm_dynamics.data.injection import Injection, place
from llm_dynamics.data.plan import Plan, PlanSource
from llm_dynamics.data.row_policies import POLICIES
from llm_dynamics.data.rows import TokenStream, cached_stream
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

    Near-duplicates count and copies do not: with and without them the tokens are the same.

    Args:
      config: the data configuration.
      data: from `open_data`, to open it only once.

    Raises:
      UserError: see `tokenizers.load_tokenizer`.
    """
    folder = cache.cache_folder(config.cache_dir)
    if not _is_trained(config):
        return tokenizers.load_tokenizer(config.tokenizer, None, folder)
    data = data or open_data(config)
    with_text = [z for z, source in enumerate(data.sources) if not source.is_tokenised]
    key = fingerprint(
        [[data.sources[z].fingerprint, data.split.key(z, split.TRAIN)] for z in with_text]
    )
    texts = data.training_texts if with_text else None
    return tokenizers.load_tokenizer(config.tokenizer, texts, data.folder, key)


def build_plan(
    config: DataConfig,
    tokenizer: Tokenizer | None = None,
    injections: Sequence[Injection] = (),
    *,
    steps: int | None = None,
    first_step: int = 0,
    data: OpenData | None = None,
    progress: Progress | None = None,
) -> Plan:
    """The plan of a configuration; everything slow is done once and cached.

    Args:
      config: the data configuration.
      tokenizer: from `build_tokenizer`; built when not given.
      injections: passages to inject.
      steps: length of the run, checked against the injections.
      first_step: where in the data the run begins, for one that continues another.
      data: from `open_data`, to open it only once.
      progress: called with (what is being done, documents done, documents in total).

    Raises:
      UserError: data, tokenizer or schedule do not fit; before anything slow where possible.
    """
    data = data or open_data(config, progress)
    tokenizer = tokenizer or build_tokenizer(config, data)
    for source in data.sources:
        highest = source.origin.get("max_id", -1) if source.is_tokenised else -1
        if highest >= tokenizer.vocab_size:
            raise UserError(
                f"source {source.name!r} holds token id {highest}, but tokenizer "
                f"{tokenizer.name!r} has ids 0 to {tokenizer.vocab_size - 1}; name the tokenizer "
                "the array was made with"
            )
    placed = place(
        injections,
        tokenizer,
        config.batch_size,
        config.length + 1,
        steps=steps,
        policy=POLICIES[config.injection_rows],
        seed=config.seed,
    )
    if config.near_duplicates:
        found = [_repeats(data, z, progress) for z in range(len(data.sources))]
        data = dataclasses.replace(data, split=data.split.without(found))
    sources = []
    for z, source in enumerate(data.sources):
        train = single = _stream(data, z, split.TRAIN, tokenizer, progress)
        members = [data.split.key(z, side) for side in (split.TRAIN, split.VALIDATION)]
        repeats = data.split.count(z, split.REPEATED)
        repeated = _stream(data, z, split.REPEATED, tokenizer, progress) if repeats else None
        # A copy is its original's near-duplicate at any threshold: to add both is to add neither.
        if config.copies > 1 and not config.near_duplicates and single.num_documents:
            train = _copied_stream(data, z, single, tokenizer, progress)
            members += [config.copies, config.copied_share]
        sources.append(
            PlanSource(
                name=source.name,
                weight=source.weight,
                fingerprint=source.fingerprint,
                train=train,
                validation=_stream(data, z, split.VALIDATION, tokenizer, progress),
                licence=source.licence,
                attribution=source.attribution,
                origin=source.origin,
                members=fingerprint(members),
                near_duplicates=data.split.count(z, split.REMOVED),
                repeats=repeats,
                repeated_tokens=repeated.num_tokens if repeated else 0,
                copies=train.num_documents - single.num_documents,
                copied_tokens=train.num_tokens - single.num_tokens,
            )
        )
    return Plan(
        sources,
        length=config.length,
        batch_size=config.batch_size,
        isolate_documents=config.isolate_documents,
        seed=config.seed,
        placed=placed,
        steps=steps,
        tokenizer_fingerprint=tokenizer.fingerprint,
        first_step=first_step,
    )


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


def _stream(
    data: OpenData, z: int, side: int, tokenizer: Any, progress: Progress | None
) -> TokenStream:
    source, total = data.sources[z], data.split.count(z, side)
    report = progress and (lambda done: progress(f"tokenising {source.name}", done, total))
    return cached_stream(
        functools.partial(split.members, source, data.split.sides[z], side),
        tokenizer,
        data.folder / "rows",
        f"{source.fingerprint}-{data.split.key(z, side)}",
        report,
    )


def _repeats(data: OpenData, z: int, progress: Progress | None) -> np.ndarray:
    """Numbers of the training documents of a source that repeat an earlier one of it."""
    source, total = data.sources[z], data.split.count(z, split.TRAIN)
    what = f"looking for repeats in {source.name}"
    found = near_duplicates.cached_repeats(
        functools.partial(split.numbered, source, data.split.sides[z], split.TRAIN),
        data.config.near_duplicates,
        data.folder / "repeats",
        f"{source.fingerprint}-{data.split.key(z, split.TRAIN)}",
        progress and (lambda done: progress(what, done, total)),
    )
    return found.documents[:, 0]


def _copied_stream(
    data: OpenData, z: int, stream: TokenStream, tokenizer: Any, progress: Progress | None
) -> TokenStream:
    """The training documents of a source with the copies that the configuration asks for."""
    source, config = data.sources[z], data.config
    made = [config.copied_share, config.copies, config.seed]
    key = f"{source.fingerprint} {config.seed}"
    order = order_with_copies(stream.num_documents, config.copied_share, config.copies, key)
    report = progress and (lambda done: progress(f"copying {source.name}", done, len(order)))
    return cached_stream(
        functools.partial(read_in_order, stream, order),
        tokenizer,
        data.folder / "rows",
        f"{source.fingerprint}-{data.split.key(z, split.TRAIN)}-copies-{fingerprint(made)}",
        report,
    )
