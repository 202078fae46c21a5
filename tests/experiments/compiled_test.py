"""What was compiled once is read back, and changes nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import text

_ROOT = Path(__file__).parents[2]
_LINES = """
import sys, jax
from experiments import cli
cli.keep_compiled()
print(jax.config.jax_compilation_cache_dir)
"""


def _environment(cache: Path, **more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    return kept | {"JAX_PLATFORMS": "cpu", "LLM_DYNAMICS_CACHE": str(cache)} | more


def _folder(environment) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _LINES], env=environment, cwd=_ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_it_lies_in_the_cache_folder_unless_told_otherwise(tmp_path):
    assert _folder(_environment(tmp_path)).startswith(str(tmp_path / "compiled"))
    told = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "other")}
    assert _folder(_environment(tmp_path, **told)) == str(tmp_path / "other")


def test_without_a_folder_everything_is_compiled(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert _folder(_environment(tmp_path / "file" / "cache")) == "None"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Metrics of a run that compiled, and of one that read what the first had compiled."""
    root = tmp_path_factory.mktemp("compiled")
    corpus = text.write_corpus(root / "corpus.jsonl")
    found = []
    for name in ("first", "second"):
        flags = text.small_run(root / name, corpus, root / "cache")
        done = subprocess.run(
            [sys.executable, "-m", "experiments.facts", *flags],
            env=_environment(root, XLA_FLAGS=""),
            cwd=_ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert "feature" not in done.stderr, done.stderr[-3000:]
        lines = (root / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        found.append([json.loads(line) for line in lines])
    return root, found


@pytest.mark.slow
def test_what_is_read_back_gives_the_same_bits(runs):
    root, (first, second) = runs
    assert any((root / "compiled").rglob("*cache*"))
    clock = ("seconds", "tokens_per_second")
    for a, b in zip(first, second, strict=True):
        assert {k: v for k, v in a.items() if k not in clock} == {
            k: v for k, v in b.items() if k not in clock
        }
