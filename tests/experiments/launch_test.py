"""The launchers, on a copy whose environment is a stub that says what it was asked to run."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ("bash", "dirname", "cat", "cksum", "awk", "uname", "grep", "sed", "sort", "cut")


def _script(path, body):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def copy(tmp_path):
    """The launchers beside a made environment."""
    for name in ("launch", "experiments"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "setup.py", tmp_path)
    _script(tmp_path / ".venv/bin/python", '[ "$1" = -c ] || echo "ran $*"')
    stamp = subprocess.check_output(["cksum"], input=(ROOT / "setup.py").read_bytes())
    (tmp_path / ".venv/ready-").write_bytes(stamp)
    for tool in TOOLS:  # a PATH without sbin
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    return tmp_path


def _launch(copy, *args, **environment):
    return subprocess.run(
        [copy / "launch/local", *args],
        capture_output=True,
        text=True,
        env={"PATH": str(copy / "bin"), "HOME": os.environ.get("HOME", "/")} | environment,
        timeout=30,
    )


def test_runs_a_study_where_ldconfig_is_not_on_the_path(copy):
    done = _launch(copy, "biographies", "--preset=smoke")
    assert (done.returncode, done.stdout) == (0, "ran -m experiments.biographies --preset=smoke\n")


def test_a_list_of_libraries_longer_than_a_pipe_is_read_to_its_end(copy):
    line = "libtcmalloc.so.4 (libc6) => /nowhere/libtcmalloc.so.4"
    _script(copy / "bin/ldconfig", f'for i in {{1..5000}}; do echo "{line}"; done')
    _script(copy / ".venv/bin/python", '[ "$1" = -c ] || echo "$LD_PRELOAD"')
    done = _launch(copy, "facts")
    assert (done.returncode, done.stdout) == (0, "/nowhere/libtcmalloc.so.4\n")


@pytest.mark.parametrize("name", ["cli", "facts_presets", "__init__", "nosuch"])
def test_what_is_no_study_is_refused_and_the_studies_named(copy, name):
    done = _launch(copy, name)
    assert done.returncode == 1 and not done.stdout
    studies = "biographies, claims, competence, continual, evaluate, facts"
    assert f"unknown study '{name}'; the studies are {studies}" in done.stderr


@pytest.mark.parametrize(
    "body, said",
    [("[ $1 = --version ] && echo Python 3.9.1", "is Python 3.9.1."), ("exit 1", "is no Python")],
)
def test_a_named_python_is_the_only_one_tried(copy, body, said):
    shutil.rmtree(copy / ".venv")
    named = _script(copy / "my pythons/python3.9", body)
    _script(copy / "bin/python3", "exit 0")
    done = _launch(copy, PYTHON=str(named))
    assert done.returncode == 1
    assert f"PYTHON={named} {said}" in done.stderr
