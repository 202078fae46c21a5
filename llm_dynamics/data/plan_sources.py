"""From opened sources to those of a plan: token streams with what was done to them."""

import dataclasses
import functools
from typing import Any

import numpy as np

from llm_dynamics.data import near_duplicates, split
from llm_dynamics.data.copies import order_with_copies, read_in_order
from llm_dynamics.data.corpus_rows import PlanSource
from llm_dynamics.data.held_out import HeldOut
from llm_dynamics.data.opened import OpenData, Progress
from llm_dynamics.data.rows import TokenStream, cached_stream
from llm_dynamics.data.tokenizers import Tokenizer
from llm_dynamics.errors import UserError
from llm_dynamics.spec import fingerprint


def plan_sources(
    data: OpenData, tokenizer: Tokenizer, progress: Progress | None = None
) -> list[PlanSource]:
    """Tokenises the sources, without repeats and with copies as the configuration says.

    Raises:
      UserError: token arrays with ids that the tokenizer has not.
    """
    for source in data.sources:
        highest = source.origin.get("max_id", -1) if source.is_tokenised else -1
        if highest >= tokenizer.vocab_size:
            raise UserError(
                f"source {source.name!r} holds token id {highest}, but tokenizer "
                f"{tokenizer.name!r} has ids 0 to {tokenizer.vocab_size - 1}; name the tokenizer "
                "the array was made with"
            )
    config = data.config
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
                text=fingerprint([source.fingerprint, members[0], *members[2:]]),
                near_duplicates=data.split.count(z, split.REMOVED),
                repeats=repeats,
                repeated_tokens=repeated.num_tokens if repeated else 0,
                copies=train.num_documents - single.num_documents,
                copied_tokens=train.num_tokens - single.num_tokens,
            )
        )
    return sources


def held_out_source(
    data: OpenData, tokenizer: Tokenizer, progress: Progress | None = None
) -> HeldOut:
    """The validation side of a single source that was opened alone."""
    (source,) = data.sources
    return HeldOut(
        name=source.name,
        fingerprint=source.fingerprint,
        validation=_stream(data, 0, split.VALIDATION, tokenizer, progress),
        members=data.split.key(0, split.VALIDATION),
        licence=source.licence,
        attribution=source.attribution,
    )


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
