"""Members of a wheel, read without installing it."""

import io
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa

from llm_dynamics.errors import UserError


def read(path: Path, member: str) -> bytes:
    """The bytes of one file in a wheel.

    Raises:
      UserError: no archive, a damaged one, or one without that file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(member)
    except KeyError:
        raise UserError(
            f"expected {member} in {path}, got an archive without it; another version of the "
            "package is not the one that the suite was written for"
        ) from None
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        raise UserError(
            f"{path} cannot be read as an archive ({error}); delete it and run again"
        ) from None


def arrow_rows(data: bytes, columns: tuple[str, ...], where: str) -> list[dict[str, Any]]:
    """The rows of an Arrow IPC stream, of the named columns; () = all.

    Raises:
      UserError: no such stream, or one without a column.
    """
    try:
        with pa.ipc.open_stream(io.BytesIO(data)) as stream:
            table = stream.read_all()
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"expected an Arrow stream in {where}, got other bytes: {error}") from None
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise UserError(
            f"expected the columns {', '.join(columns)} in {where}, got "
            f"{', '.join(table.column_names)}"
        )
    return table.select(list(columns or table.column_names)).to_pylist()
