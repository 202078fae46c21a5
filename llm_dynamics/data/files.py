"""Documents out of the user's own files: text, JSONL (plain, gzip, zstd), Parquet, token arrays."""

import difflib
import glob
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from llm_dynamics.errors import UserError
from llm_dynamics.files import expanded

TEXT = (".txt", ".md")
JSONL = (".jsonl", ".jsonl.gz", ".jsonl.zst")
PARQUET = (".parquet",)
ARRAYS = (".npy",)
SUFFIXES = TEXT + JSONL + PARQUET + ARRAYS

_CHUNK = 1 << 20


def suffix_of(path: Path) -> str:
    """The supported suffix that `path` ends with, or "" if there is none."""
    name = path.name.lower()
    return next((s for s in sorted(SUFFIXES, key=len, reverse=True) if name.endswith(s)), "")


def find_files(target: str) -> list[tuple[str, Path]]:
    """The (document name, path) pairs that a file, folder or glob stands for, sorted by name.

    A folder gives every file of a supported suffix below it, hidden ones apart, named relative
    to the folder.

    Raises:
      UserError: nothing is there, or it is of a kind that cannot be read.
    """
    path = expanded(target)
    supported = f"supported: {' '.join(SUFFIXES)}"
    if path.is_file():
        found = [(path.name, path)]
    elif path.is_dir():
        found = [
            (file.relative_to(path).as_posix(), file)
            for file in path.rglob("*")
            if suffix_of(file)
            and file.is_file()
            and not any(part.startswith(".") for part in file.relative_to(path).parts)
        ]
        if not found:
            raise UserError(f"folder {path} holds no file that can be read; {supported}")
    elif glob.has_magic(str(path)):
        matches = [Path(match) for match in glob.glob(str(path), recursive=True)]
        found = [(file.as_posix(), file) for file in matches if file.is_file()]
        if not found:
            raise UserError(f"no file matches {target!r}; check the pattern and the folder")
    else:
        raise UserError(f"no file or folder {path}; check the path (relative to {Path.cwd()})")
    for _, file in found:
        if not suffix_of(file):
            raise UserError(f"cannot read {file}: its suffix is not supported; {supported}")
        if file.stat().st_size == 0:
            raise UserError(f"{file} is empty; remove it from the source or fill it")
    return sorted(found)


def read_texts(files: Iterable[tuple[str, Path]], field: str) -> Iterator[tuple[str, str]]:
    """Yields (document id, text); documents without any text are left out.

    A text file is one document named by its file; a line of JSONL or a row of Parquet is one
    document named `file:number`, lines counted from 1 and rows from 0.

    Raises:
      UserError: truncated, damaged, not UTF-8, or without the field; the place is named.
    """
    for name, path in files:
        suffix = suffix_of(path)
        if suffix in TEXT:
            documents = _read_text(name, path)
        elif suffix in JSONL:
            documents = _read_jsonl(name, path, suffix, field)
        else:
            documents = _read_parquet(name, path, field)
        for doc_id, text in documents:
            if text and not text.isspace():
                yield doc_id, text


def _read_text(name: str, path: Path) -> Iterator[tuple[str, str]]:
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error.start, data[error.start]) from None
    yield name, text.replace("\r\n", "\n")


def _read_jsonl(name: str, path: Path, suffix: str, field: str) -> Iterator[tuple[str, str]]:
    number, offset = 0, 0
    try:
        for number, line in enumerate(_lines(_chunks(path, suffix)), start=1):
            start, offset = offset, offset + len(line) + 1
            if not line.strip():
                continue
            yield f"{name}:{number}", _field_of_line(line, path, number, start, field)
    except _DamagedError as error:
        raise UserError(
            f"{path} is damaged or truncated after line {number}: {error}; "
            "copy or download the file again"
        ) from None


def _field_of_line(line: bytes, path: Path, number: int, start: int, field: str) -> str:
    try:
        record = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        raise _not_utf8(path, start + error.start, line[error.start]) from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}, line {number}: not a complete JSON value ({error.msg} at column "
            f"{error.colno}); expected one JSON object a line, perhaps the file is truncated"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path}, line {number}: JSON that cannot be read ({type(error).__name__}: {error}); "
            "expected numbers and nesting of ordinary size"
        ) from None
    if not isinstance(record, dict):
        raise UserError(
            f"{path}, line {number}: expected a JSON object with the field {field!r}, got "
            f"{type(record).__name__}; write one object a line"
        )
    if field not in record:
        raise missing_field(f"{path}, line {number}", field, record)
    text = record[field]
    if text is None:
        return ""
    if not isinstance(text, str):
        raise UserError(
            f"{path}, line {number}: field {field!r} expects text, got {type(text).__name__}; "
            "choose another field with PATH#FIELD"
        )
    return text


def missing_field(where: str, field: str, known: Iterable[str]) -> UserError:
    """The error for data without the field that holds the text."""
    known = sorted(known)
    close = difflib.get_close_matches(field, known, n=1, cutoff=0.5)
    hint = f"did you mean #{close[0]}?" if close else f"fields there: {', '.join(known) or 'none'}"
    return UserError(f"{where}: no field {field!r}; {hint} (write PATH#FIELD)")


class _DamagedError(Exception):
    """A compressed stream that cannot be read to its end."""


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
    if rest:
        yield rest


def _chunks(path: Path, suffix: str) -> Iterator[bytes]:
    if suffix.endswith(".zst"):
        yield from _zstd_chunks(path)
        return
    with gzip.open(path) if suffix.endswith(".gz") else open(path, "rb") as file:
        try:
            while chunk := file.read(_CHUNK):
                yield chunk
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise _DamagedError(str(error)) from None


def _zstd_chunks(path: Path) -> Iterator[bytes]:
    import zstandard

    # The library's own stream reader ends quietly at a truncated frame, so follow the frames.
    frame, open_frame = zstandard.ZstdDecompressor().decompressobj(), False
    with open(path, "rb") as file:
        while data := file.read(_CHUNK):
            while data:
                try:
                    yield frame.decompress(data)
                except zstandard.ZstdError as error:
                    raise _DamagedError(str(error)) from None
                open_frame = not frame.eof
                data = b"" if open_frame else frame.unused_data
                if not open_frame:
                    frame = zstandard.ZstdDecompressor().decompressobj()
    if open_frame:
        raise _DamagedError("the last zstd frame has no end")


def _read_parquet(name: str, path: Path, field: str) -> Iterator[tuple[str, str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            if field not in schema.names:
                raise missing_field(str(path), field, schema.names)
            kind = schema.field(field).type
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                raise UserError(
                    f"{path}: column {field!r} expects text, got {kind}; "
                    "choose another column with PATH#COLUMN"
                )
            row = 0
            for batch in file.iter_batches(batch_size=1024, columns=[field]):
                for text in batch.column(0).to_pylist():
                    yield f"{name}:{row}", text or ""
                    row += 1
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: column {field!r} is not UTF-8 text ({error})") from None
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path} is damaged or truncated: {reason}; copy or download the file again"
        ) from None


def open_array(path: Path) -> np.ndarray:
    """Memory-maps a `.npy` file of token ids: 1-D is one stream, 2-D one document a row.

    Raises:
      UserError: truncated, not integers, negative, or of another rank.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(
            f"{path} is not a complete .npy file: {error}; save it again with numpy.save"
        ) from None
    if array.dtype.kind not in "iu" or array.ndim not in (1, 2):
        raise UserError(
            f"{path} expects token ids, integers in 1 or 2 dimensions, got "
            f"{array.dtype} in {array.ndim}; convert it with numpy"
        )
    if array.size == 0:
        raise UserError(f"{path} holds no token; remove it from the source or fill it")
    if array.min() < 0:
        raise UserError(f"{path} holds the negative id {array.min()}; token ids start at 0")
    return array


def read_arrays(files: Iterable[tuple[str, Path]]) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (document id, token ids) of `.npy` files, ids named as in `read_texts`."""
    for name, path in files:
        array = open_array(path)
        if array.ndim == 1:
            yield name, array
        else:
            for row, ids in enumerate(array):
                yield f"{name}:{row}", ids


def _not_utf8(path: Path, offset: int, byte: int) -> UserError:
    return UserError(
        f"{path} is not UTF-8: byte 0x{byte:02x} at offset {offset}; "
        "convert it, e.g. with `iconv -f LATIN1 -t UTF-8`"
    )
