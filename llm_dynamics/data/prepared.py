"""Texts of prepared TFDS data sets, read without TensorFlow."""

import contextlib
import importlib
import io
import os
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from llm_dynamics.data import files
from llm_dynamics.errors import UserError

_BLOCK = 1024  # documents read at once, three times as fast as one by one


@contextlib.contextmanager
def quiet_tfds() -> Iterator[ModuleType]:
    """The library, imported on first use (it takes a second) and kept from talking meanwhile."""
    from absl import logging

    module = importlib.import_module("tensorflow_datasets")
    module.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity(min(verbosity, logging.WARNING))
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield module
    finally:
        logging.set_verbosity(verbosity)


def find(target: str) -> tuple[Any, str]:
    """The builder and split of "NAME[/config][:split]" or of the path of a prepared folder.

    Raises:
      UserError: not prepared, prepared in a format without random access, or no such split.
    """
    name, _, split = target.partition(":")
    split = split or "train"
    try:
        with quiet_tfds() as library:
            if os.path.isdir(os.path.expanduser(name)):
                builder = library.builder_from_directory(os.path.expanduser(name))
            else:
                builder = library.builder(name)
    except Exception as error:  # the library raises many kinds, some of them its own
        raise UserError(
            f"no TFDS data set {name!r}: {str(error).strip().splitlines()[0]}; expected "
            "tfds:NAME[/config][:split] or tfds:FOLDER with a prepared data set"
        ) from None
    if not builder.info.splits:
        raise UserError(
            f"the TFDS data set {name!r} is not prepared in {builder.data_dir}; prepare it with "
            f"tfds.builder({name!r}, file_format='array_record').download_and_prepare()"
        )
    if split.partition("[")[0] not in builder.info.splits:
        raise UserError(
            f"TFDS data set {name!r} has no split {split!r}; "
            f"it has {', '.join(builder.info.splits)}"
        )
    if builder.info.file_format.value != "array_record":
        raise UserError(
            f"TFDS data set {name!r} is stored as {builder.info.file_format.value}, which cannot "
            "be read without TensorFlow; prepare it with file_format='array_record'"
        )
    return builder, split


def read_texts(builder: Any, split: str, field: str) -> Iterator[tuple[str, str]]:
    """Yields (document id, text) in stored order; the id is the feature "id", else the position.

    Raises:
      UserError: no such feature, or not UTF-8 text.
    """
    features = builder.info.features
    if field not in features:
        raise files.missing_field(f"TFDS {builder.info.full_name}", field, features)
    with quiet_tfds():
        rows = builder.as_data_source(split=split)
    for start in range(0, len(rows), _BLOCK):
        positions = range(start, min(start + _BLOCK, len(rows)))
        for position, row in zip(positions, rows.__getitems__(list(positions)), strict=True):
            doc_id = _text(row["id"]) if "id" in features else f"{split}:{position}"
            try:
                text = _text(row[field])
            except UnicodeDecodeError as error:
                raise UserError(
                    f"TFDS {builder.info.full_name}, {doc_id}: feature {field!r} is not UTF-8 "
                    f"({error}); choose another with #FEATURE"
                ) from None
            if text and not text.isspace():
                yield doc_id, text


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
