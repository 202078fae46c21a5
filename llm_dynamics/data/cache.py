"""The cache folder: where it is, how files get into it whole or not at all, and its lock."""

import contextlib
import errno
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from llm_dynamics.errors import UserError, disk_full
from llm_dynamics.files import expanded, replacing

try:
    import fcntl
except ImportError:  # not on Windows; there two simultaneous set-ups are up to the user
    fcntl = None

# What the user can mend besides a full disk: permissions, a file where a folder should be, and
# file systems that take no folder.
_MENDABLE = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.ENOENT,
    errno.EEXIST,
}

VARIABLE = "LLM_DYNAMICS_CACHE"


def cache_folder(cache_dir: str = "") -> Path:
    """The cache folder, created if needed: `cache_dir`, else $LLM_DYNAMICS_CACHE, else the home.

    Raises:
      UserError: the folder cannot be created or written.
    """
    chosen = cache_dir or os.environ.get(VARIABLE) or "~/.cache/llm_dynamics"
    path = expanded(chosen).absolute()
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    if not os.access(path, os.W_OK):
        raise UserError(f"the cache folder {path} cannot be written; set {VARIABLE} to another one")
    return path


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns a refused or failed write (full disk, no permission) into a UserError."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if not disk_full(error) and getattr(error, "errno", None) not in _MENDABLE:
            raise
        reason = getattr(error, "strerror", None) or os.strerror(errno.ENOSPC)
        raise UserError(
            f"cannot write {path}: {reason}; "
            f"free some space, or set {VARIABLE} to a folder with room"
        ) from error


def write_atomic(path: Path, data: bytes) -> None:
    """Writes `path` so that it is never seen half-written, not even after a crash."""
    with writing(path), replacing(path) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def temporary_folder(parent: Path, name: str) -> Iterator[Path]:
    """A folder inside `parent` (same file system, so its files can be renamed into place).

    What a killed process has left under the same name is cleared, so hold a lock of that name.
    """
    prefix = f".incomplete-{name}-"
    with writing(parent):
        parent.mkdir(parents=True, exist_ok=True)
        for stale in parent.glob(f"{glob.escape(prefix)}*"):
            shutil.rmtree(stale, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Holds the file `path` exclusively, so that two processes do not prepare the same thing.

    The lock goes with the process that holds it; a killed process leaves no lock behind.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "ab")  # noqa: SIM115 (closed below; the body is not ours to convert)
    with file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
