"""Running the facts study in processes of its own, and comparing what they leave behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from llm_dynamics.train.metrics import WALL_CLOCK

HERE = Path(__file__).parent
USERS = {
    "JAX_NUM_CPU_DEVICES": "1", "JAX_DISABLE_MOST_OPTIMIZATIONS": "false", "XLA_FLAGS": "",
}  # fmt: skip


def run(point: str, flags: list[str], **environment: str) -> subprocess.CompletedProcess:
    """Runs the study on one device, compiled as a user's, killed at `point` (see crash.py)."""
    return subprocess.run(
        [sys.executable, str(HERE / "crash.py"), point, *flags],
        env=os.environ | USERS | environment,
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        timeout=300,
    )


def metrics(folder: Path) -> list[dict]:
    """The lines of metrics.jsonl without what measures the machine."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in WALL_CLOCK} for row in rows]


def tree_bytes(folder: Path) -> dict[str, bytes]:
    """The bytes of every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def final_state(folder: Path) -> list[tuple[str, str, bytes]]:
    """Path, dtype and bytes of every leaf of the last checkpoint: equality means equality."""
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        path = (folder / "checkpoints" / "20" / "state").absolute()
        tree = reader.metadata(path).item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        state = reader.restore(path, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    assert len(leaves) > 20
    return [(str(p), str(np.asarray(x).dtype), np.asarray(x).tobytes()) for p, x in leaves]
