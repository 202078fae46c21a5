"""Side branches: the trunk stays as it was, bit for bit, and the branch says where it came from."""

import functools
import json
import random
import shutil
import tempfile
from pathlib import Path

import jax
import numpy as np
from absl.testing import absltest

from llm_dynamics.data.build import build_plan
from llm_dynamics.data.config import DataConfig
from llm_dynamics.errors import UserError
from llm_dynamics.model import presets
from llm_dynamics.optim.optimizer import OptimConfig
from llm_dynamics.optim.schedules import ScheduleConfig
from llm_dynamics.probe.cadence import ProbeConfig
from llm_dynamics.spec import fingerprint, from_json, override
from llm_dynamics.train import checkpoint_reader, plan_lines
from llm_dynamics.train import parts as parts_lib
from llm_dynamics.train.checkpoint import Checkpoints
from llm_dynamics.train.config import CheckpointConfig, RunSpec, TrainConfig
from llm_dynamics.train.loop import train
from llm_dynamics.train.metrics import WALL_CLOCK, read
from llm_dynamics.train.run_folder import RunFolder, read_spec


def _spec(root):
    rng = random.Random(0)
    words = "lamp river lit evening boats home stone paper winter garden bridge tower".split()
    lines = [json.dumps({"text": " ".join(rng.choices(words, k=30))}) for _ in range(60)]
    (root / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    sizes = {"vocab_size": 264, "width": 16, "num_layers": 1, "num_heads": 2, "mlp_width": 32}
    return RunSpec(
        model=presets.named("pocket-0.1m", **sizes),
        data=DataConfig(
            (str(root / "corpus.jsonl"),),
            "bytes",
            length=32,
            batch_size=8,
            validation_fraction=0,
            cache_dir=str(root / "cache"),
        ),
        optim=OptimConfig(ScheduleConfig("cosine_infinite", 1e-2, warmup=1, cooldown=2)),
        train=TrainConfig(
            8, validate_every=0, checkpoint=CheckpointConfig(every=2, keep=9), tensorboard=False
        ),
        probe=ProbeConfig(),
    )


def _run(spec, path):
    folder = RunFolder(path)
    parts = parts_lib.build(spec, folder)
    plan = build_plan(
        spec.data,
        steps=spec.train.steps,
        first_step=parts.first_data_step,
        lineage=parts.lineage,
    )
    folder.claim(spec, plan.describe(), parts.origin)
    train(parts, plan, folder)
    folder._lock.close()
    return folder


def _files(folder):
    """What every file below a folder holds, and when it was last written."""
    paths = [path for path in folder.path.rglob("*") if path.is_file()]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


@functools.lru_cache
def _settings(path):
    """Of a run in a folder: its spec, and what its state looks like."""
    spec = from_json(RunSpec, read_spec(path / "spec.json")["spec"])
    return spec.train, parts_lib.build(spec, RunFolder(path)).abstract


def _state(folder, step):
    settings, abstract = _settings(folder.path)
    checkpoints = Checkpoints(folder.checkpoints, settings.checkpoint, settings.steps)
    state = checkpoints.restore(step, abstract)
    checkpoints.close()
    return [(x.dtype, np.asarray(x).tobytes()) for x in jax.tree.leaves(jax.device_get(state))]


def _rows(folder):
    rows = read(folder.metrics)
    return [{k: v for k, v in row.items() if k not in WALL_CLOCK} for row in rows]


class AnnealTest(absltest.TestCase):
    """`trunk` runs 8 steps; `anneal` leaves it at step 4 and ends at step 6 of the schedule."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.root = Path(tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, cls.root, ignore_errors=True)
        cls.spec = _spec(cls.root)
        cls.trunk = _run(cls.spec, cls.root / "trunk")
        cls.before = _files(cls.trunk)
        cls.branch_spec = override(
            cls.spec,
            {
                "train.start.run": str(cls.trunk.path),
                "train.start.step": 4,
                "train.steps": 2,
                "optim.schedule.decay": 2,
                "optim.schedule.horizon": 6,
            },
        )
        cls.anneal = _run(cls.branch_spec, cls.root / "anneal")

    def test_no_file_of_the_trunk_is_touched(self):
        self.assertGreater(len(self.before), 20)
        self.assertEqual(_files(self.trunk), self.before)

    def test_a_trunk_that_goes_on_after_it_is_the_undisturbed_one(self):
        half = RunFolder(self.root / "half")
        shutil.copytree(self.trunk.path, half.path)
        for step in (6, 8):
            shutil.rmtree(half.checkpoints / str(step))
        _run(override(self.branch_spec, {"train.start.run": str(half.path)}), self.root / "side")
        _run(self.spec, half.path)
        for step in (4, 6, 8):
            self.assertEqual(_state(half, step), _state(self.trunk, step))
        self.assertEqual(_rows(half), _rows(self.trunk))
        self.assertEqual(_state(RunFolder(self.root / "side"), 2), _state(self.anneal, 2))

    def test_the_branch_begins_as_the_trunk_and_ends_annealed(self):
        trunk, branch = _rows(self.trunk), _rows(self.anneal)
        same = ("loss", "learning_rate", "grad_norm")
        self.assertEqual([branch[0][k] for k in same], [trunk[4][k] for k in same])
        level = trunk[5]["learning_rate"]
        self.assertAlmostEqual(level, 0.55e-2, places=8)
        # Half of the way from 0.55 to 0.1 of the peak, exponentially.
        self.assertAlmostEqual(branch[1]["learning_rate"], 1e-2 * (0.55 * 0.1) ** 0.5, places=8)
        self.assertEqual(branch[1]["loss"], trunk[5]["loss"])  # update 4 was the same one
        self.assertNotEqual(_state(self.anneal, 2), _state(self.trunk, 6))

    def test_lineage(self):
        record, trunk = (read_spec(folder.spec) for folder in (self.anneal, self.trunk))
        parent = record["parent"]
        self.assertEqual((parent["run"], parent["step"]), (str(self.trunk.path), 4))
        self.assertEqual(parent["spec"], fingerprint(trunk["spec"]))
        self.assertEqual((parent["schedule_step"], parent["data_step"]), (4, 4))
        (stage,) = record["data"]["stages"]
        self.assertEqual((stage["run"], stage["tokens"]), (str(self.trunk.path), 4 * 8 * 32))
        (lineage,) = record["data"]["lineage"]["stages"]
        self.assertEqual((lineage["run"], lineage["seen"]), (str(self.trunk.path), 4 * 8))
        self.assertIsNone(trunk["parent"])

    def test_what_is_planned_is_what_happens(self):
        real = parts_lib.build(self.branch_spec)
        away = self.root / "away"
        self.trunk.path.rename(away)
        self.addCleanup(away.rename, self.trunk.path)
        parts = parts_lib.build(self.spec)
        plan = build_plan(self.spec.data, steps=8)
        planned = {str(self.trunk.path): parts.planned_as(plan)}
        branch = parts_lib.build(self.branch_spec, planned=planned)
        self.assertEqual((branch.origin, branch.lineage), (real.origin, real.lineage))
        plan = build_plan(
            branch.spec.data, steps=2, first_step=branch.first_data_step, lineage=branch.lineage
        )
        lines = plan_lines.describe(branch, plan, memory=False)
        self.assertIn(f"start: step 4 of {self.trunk.path}; optimizer keep", "\n".join(lines))
        self.assertIn(["-1", "0.0055", "–"], [line.split() for line in lines])
        for changes, message in (
            ({"train.start.step": 5}, "got 5; it has steps 2, 4, 6, 8"),
            ({"optim.clip_norm": 0.0}, "does not fit this run: opt_state/"),
            ({"optim.schedule.decay": 3}, "another schedule"),
            ({"model.width": 32}, "another model"),
        ):
            with self.assertRaisesRegex(UserError, message):
                parts_lib.build(override(self.branch_spec, changes), planned=planned)

    def test_planned_checkpoints_are_those_that_are_kept(self):
        keep = {"train.checkpoint.keep": 2, "train.checkpoint.steps": "2"}
        spec = override(self.spec, keep | {"train.steps": 9})
        folder = _run(spec, self.root / "kept")
        planned = parts_lib.build(spec).planned_as(build_plan(spec.data, steps=9))
        self.assertEqual(planned.steps, (2, 8, 9))
        self.assertEqual(list(planned.steps), checkpoint_reader.steps(folder.path, {}))


if __name__ == "__main__":
    absltest.main()
