"""Kill -9 at any moment, run the same command again: bit for bit the uninterrupted run."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest
import text

from llm_dynamics.train.metrics import WALL_CLOCK

HERE = Path(__file__).parent


def run(point: str, flags: list[str]) -> subprocess.CompletedProcess:
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
    return subprocess.run(
        [sys.executable, str(HERE / "crash.py"), point, *flags],
        env=environment,
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        timeout=300,
    )


def metrics(folder: Path) -> list[dict]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in WALL_CLOCK} for row in rows]


def tree_bytes(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def final_state(folder: Path) -> dict[str, tuple[str, bytes]]:
    """dtype and bytes of every leaf of the last checkpoint: equality means equality."""
    with ocp.CheckpointManager(folder / "checkpoints", item_names=("state", "meta")) as manager:
        assert manager.latest_step() == 40
        restored = manager.restore(40, args=ocp.args.Composite(state=ocp.args.StandardRestore()))[
            "state"
        ]
    leaves, _ = ocp.tree.to_flat_dict(restored), None
    return {
        "/".join(map(str, key)): (str(np.asarray(leaf).dtype), np.asarray(leaf).tobytes())
        for key, leaf in leaves.items()
    }


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    root = tmp_path_factory.mktemp("uninterrupted")
    corpus = text.write_corpus(root / "corpus.jsonl")
    flags = text.small_run(root / "run", corpus, root / "cache")
    done = run("none", flags)
    assert done.returncode == 0, done.stderr[-3000:]
    assert str(root / "run" / "report.html") in done.stdout
    return root


def test_killed_four_times_and_resumed_it_is_the_same_run(uninterrupted, tmp_path):
    flags = text.small_run(
        tmp_path / "run", uninterrupted / "corpus.jsonl", uninterrupted / "cache"
    )
    for point in ("compile", "step:9", "save", "step:29", "report"):
        killed = run(point, flags)
        assert killed.returncode == -signal.SIGKILL, (point, killed.stderr[-3000:])
    done = run("none", flags)
    assert done.returncode == 0, done.stderr[-3000:]

    first, second = uninterrupted / "run", tmp_path / "run"
    assert metrics(first) == metrics(second)
    assert [row["step"] for row in metrics(second)] == list(range(41))
    assert tree_bytes(first / "probes") == tree_bytes(second / "probes")
    assert (first / "results.json").read_bytes() == (second / "results.json").read_bytes()
    assert final_state(first) == final_state(second)


def test_a_complete_run_trains_no_further(uninterrupted):
    folder = uninterrupted / "run"
    before = (folder / "metrics.jsonl").read_bytes(), tree_bytes(folder / "checkpoints")
    corpus, cache = uninterrupted / "corpus.jsonl", uninterrupted / "cache"
    again = run("step:0", text.small_run(folder, corpus, cache))
    assert again.returncode == 0, again.stderr[-3000:]
    assert before == ((folder / "metrics.jsonl").read_bytes(), tree_bytes(folder / "checkpoints"))
