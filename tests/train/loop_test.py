import dataclasses
import json
import math
import random
import shutil
import tempfile
from pathlib import Path

import jax
import numpy as np
from absl.testing import absltest, parameterized

from llm_dynamics.data.build import build_plan
from llm_dynamics.data.config import DataConfig
from llm_dynamics.errors import UserError
from llm_dynamics.model import presets
from llm_dynamics.optim.optimizer import OptimConfig
from llm_dynamics.optim.schedules import ScheduleConfig
from llm_dynamics.probe.cadence import ProbeConfig
from llm_dynamics.probe.log import ProbeLog
from llm_dynamics.probe.probes import Probe
from llm_dynamics.probe.scoring import MEASURES
from llm_dynamics.spec import override
from llm_dynamics.train import parts as parts_lib
from llm_dynamics.train import plan_lines
from llm_dynamics.train.config import CheckpointConfig, MeshConfig, RunSpec, TrainConfig
from llm_dynamics.train.loop import train
from llm_dynamics.train.metrics import read
from llm_dynamics.train.run_folder import RunFolder


class LoopTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.root = Path(tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, cls.root, ignore_errors=True)
        rng = random.Random(0)
        words = "lamp river lit evening boats home stone paper winter garden bridge tower".split()
        texts = [" ".join(rng.choices(words, k=30 + i % 9)) for i in range(60)]
        lines = [json.dumps({"text": text}) for text in texts]
        (cls.root / "corpus.jsonl").write_text("\n".join(lines) + "\n")
        model = presets.named(
            "pocket-0.1m", vocab_size=264, width=16, num_layers=1, num_heads=2, mlp_width=32
        )
        cls.spec = RunSpec(
            model=model,
            data=DataConfig(
                (str(cls.root / "corpus.jsonl"),),
                "bytes",
                length=32,
                batch_size=8,
                validation_fraction=0.1,
                cache_dir=str(cls.root / "cache"),
            ),
            optim=OptimConfig(ScheduleConfig("constant", 1e-2)),
            train=TrainConfig(
                8,
                validate_every=4,
                validation_batches=1,
                checkpoint=CheckpointConfig(every=2),
                tensorboard=False,
            ),
            probe=ProbeConfig(),
        )
        cls.finished = RunFolder(cls.root / "finished")
        cls._train(cls.finished)

    @classmethod
    def _train(cls, place, **changes):
        spec = override(cls.spec, changes)
        plan = build_plan(spec.data, steps=spec.train.steps)
        place.path.mkdir(exist_ok=True)
        train(parts_lib.build(spec), plan, place)

    def _new(self):
        return RunFolder(Path(self.create_tempdir().full_path) / "run")

    def _copy(self):
        place = self._new()
        shutil.copytree(self.finished.path, place.path)
        return place

    def test_the_loss_falls_and_every_step_has_its_line(self):
        rows = read(self.finished.metrics)
        self.assertEqual([row["step"] for row in rows], list(range(9)))
        self.assertLess(rows[7]["loss"], rows[0]["loss"] - 0.3)
        self.assertEqual([r["step"] for r in rows if "validation_loss" in r], [0, 4, 8])
        self.assertLess(rows[8]["validation_loss"], rows[0]["validation_loss"])

    @parameterized.parameters(
        ((), "none was saved", []), ((0,), "checkpoint of step 0 is kept", ["0"])
    )
    def test_a_loss_that_is_not_finite_stops_with_the_step_and_keeps_the_last_good_state(
        self, steps, message, expected
    ):
        changes = {"optim.schedule.peak": 1e25, "optim.clip_norm": 0.0}
        place = self._new()
        with self.assertRaisesRegex(UserError, rf"at step \d.*{message}"):
            self._train(place, **changes | {"train.checkpoint.steps": steps})
        rows = read(place.metrics)
        self.assertNotEmpty(rows)
        for row in rows:
            self.assertTrue(all(map(math.isfinite, row.values())))
        saved = [p.name for p in place.checkpoints.iterdir()]
        self.assertEqual(saved, expected)

    def test_a_resume_without_its_log_is_refused_and_drops_nothing(self):
        place = self._copy()
        shutil.rmtree(place.checkpoints / "8")
        lines = place.metrics.read_text().splitlines(keepends=True)
        place.metrics.write_text("".join(lines[1:]))
        with self.assertRaisesRegex(UserError, "does not hold exactly the steps 0 to 5"):
            self._train(place)
        self.assertEqual(place.metrics.read_text(), "".join(lines[1:]))
        place.metrics.write_text("".join(lines))
        self._train(place)
        kept = [{k: row[k] for k in ("step", "loss") if k in row} for row in read(place.metrics)]
        before = [json.loads(line) for line in lines]
        self.assertEqual(kept, [{k: r[k] for k in ("step", "loss") if k in r} for r in before])

    def test_a_complete_run_that_lost_rows_of_its_probe_log_is_refused(self):
        place = self._copy()
        plan = build_plan(self.spec.data, steps=8)

        def open_log():
            return ProbeLog(place.probes, [Probe("a", "b", "c")], [1], range(9), range(9))

        def again():
            train(parts_lib.build(self.spec), plan, place, packed=(), open_probe_log=open_log)

        with self.assertRaisesRegex(UserError, "stands at step 8, but .*probes is gone"):
            again()
        with open_log() as log:
            for step in (0, 1, 2, 5, 6, 7):
                log.write(step, np.zeros((1, len(MEASURES))))
        with self.assertRaisesRegex(UserError, r"lacks 3 earlier rows \(steps 3 to 8\)"):
            again()
        with open_log() as log:
            for step in (3, 4, 8):
                log.write(step, np.zeros((1, len(MEASURES))))
        again()

    @parameterized.parameters(
        ({"train.checkpoint.steps": (3, 9)}, "checkpoint.steps up to 8, .* got 9"),
        ({"seed": -1}, "seed of 0 to 4294967295, got -1"),
        ({"seed": 2**32}, "got 4294967296"),
        ({"data.tokenizer": "bpe:265"}, "bpe:265 has more ids than the model's 264"),
    )
    def test_settings_beyond_the_run_are_refused(self, changes, message):
        with self.assertRaisesRegex(UserError, message):
            override(self.spec, changes)

    @parameterized.parameters(
        ({"train.mesh.tensor": 3}, "does not fit 8 device"),
        ({"train.mesh.tensor": 0}, "positive sizes"),
        ({"train.mesh.tensor": 4, "train.mesh.data": 2}, "num_heads 2 cannot be split over 4"),
        ({"data.batch_size": 6}, "batch size 6 cannot be split over 8"),
        ({"optim.schedule.warmup": 9}, "needs 9 steps .* the run has 8"),
        ({"model.attention": "cudnn"}, "expects an NVIDIA GPU"),
    )
    def test_what_does_not_fit_is_refused_before_any_computation(self, changes, message):
        with self.assertRaisesRegex(UserError, message):
            parts_lib.build(override(self.spec, changes))

    def test_a_missing_tracker_is_named_before_any_computation(self):
        spec = override(self.spec, {"train.wandb": "project"})
        try:
            import wandb  # noqa: F401
        except ImportError:
            with self.assertRaisesRegex(UserError, r"pip install -e .\[wandb\]"):
                parts_lib.build(spec)
        else:
            parts_lib.build(spec)

    def test_the_dry_run_counts_what_will_be_done(self):
        parts = parts_lib.build(self.spec)
        lines = "\n".join(plan_lines.describe(parts, build_plan(self.spec.data, steps=8)))
        count = sum(x.size for x in jax.tree.leaves(parts.abstract.params))
        self.assertIn(f"{count:,} parameters", lines)
        self.assertIn("8 steps x 256 tokens = 2,048 tokens", lines)
        self.assertIn("100.00% of rows, 64 rows", lines)
        self.assertIn("mesh: data 8 x fsdp 1 x tensor 1", lines)
        self.assertIn("0: 0.01", lines)


class ConfigTest(absltest.TestCase):
    def test_early_checkpoints_are_those_of_pythia(self):
        kept = CheckpointConfig(early=True, steps=(3,)).kept()
        self.assertEqual(kept, (0, 1, 2, 3, 4, 8, 16, 32, 64, 128, 256, 512))

    def test_mesh_defaults_use_every_device_for_rows(self):
        self.assertEqual(dataclasses.astuple(MeshConfig()), (-1, 1, 1))


if __name__ == "__main__":
    absltest.main()
