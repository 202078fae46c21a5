"""A folder that is there whole or not at all."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from llm_dynamics.errors import UserError
from llm_dynamics.files import expanded, sync


def free(path: str | Path) -> Path:
    """The absolute path of a folder that is to be written.

    Raises:
      UserError: something is there already.
    """
    found = expanded(path).absolute()
    if found.is_dir() and not found.is_symlink():
        if others := sorted(p.name for p in found.iterdir()):
            raise UserError(
                f"{found} is not empty (found {', '.join(others[:3])}); choose a new or empty "
                "folder"
            )
    elif found.exists() or found.is_symlink():
        raise UserError(f"expected {found} to be a new or empty folder, got a file or a link")
    return found


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary sibling; on success it durably becomes `path`, otherwise it vanishes.

    Raises:
      UserError: the disk is full, or the folder cannot be written.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        yield temporary
        for folder, _, names in os.walk(temporary):
            for name in (*names, "."):
                sync(Path(folder, name))
        os.chmod(temporary, 0o755)
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; free some space or choose another "
            "folder"
        ) from error
    finally:
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)
