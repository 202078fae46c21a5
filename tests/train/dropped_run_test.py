"""Runs that drop layers and tokens: resumed to the bit, on a mesh, and saved as plain models."""

import json
import random
import shutil
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest
from absl.testing import parameterized

from llm_dynamics.data.build import build_plan
from llm_dynamics.data.config import DataConfig
from llm_dynamics.errors import UserError
from llm_dynamics.model import dropping, presets, size
from llm_dynamics.model.build import build_model
from llm_dynamics.model.loss import training_loss
from llm_dynamics.optim.optimizer import OptimConfig
from llm_dynamics.optim.schedules import ScheduleConfig
from llm_dynamics.probe.cadence import ProbeConfig
from llm_dynamics.spec import override
from llm_dynamics.train import parts as parts_lib
from llm_dynamics.train import plan_lines
from llm_dynamics.train.config import CheckpointConfig, MeshConfig, RunSpec, TrainConfig
from llm_dynamics.train.loop import train
from llm_dynamics.train.metrics import read
from llm_dynamics.train.run_folder import RunFolder

MODEL = presets.named(
    "pocket-0.1m", vocab_size=258, width=16, num_layers=3, num_heads=2, mlp_width=32, scan_unroll=1
)
DROP = {"layer_drop": 0.4, "token_drop": 0.3}


def _make_loss():
    """Of (parameters, batch, kept), for the whole batch at once on one device."""
    model = build_model(MODEL)
    loss = jax.jit(lambda params, batch, kept: training_loss(model, params, batch, None, kept)[0])
    return lambda *inputs: float(loss(*jax.device_get(inputs)))


class RunTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.root = Path(tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, cls.root, ignore_errors=True)
        rng = random.Random(0)
        words = "lamp river lit evening boats home stone paper winter garden bridge tower".split()
        texts = [" ".join(rng.choices(words, k=30 + i % 9)) for i in range(40)]
        lines = [json.dumps({"text": text}) for text in texts]
        (cls.root / "corpus.jsonl").write_text("\n".join(lines) + "\n")
        cls.spec = RunSpec(
            model=MODEL,
            data=DataConfig(
                (str(cls.root / "corpus.jsonl"),),
                "bytes",
                length=32,
                batch_size=16,
                validation_fraction=0.1,
                cache_dir=str(cls.root / "cache"),
            ),
            optim=OptimConfig(ScheduleConfig("constant", 1e-2)),
            train=TrainConfig(
                6,
                accumulate=2,
                mesh=MeshConfig(data=-1, fsdp=2),
                validate_every=3,
                validation_batches=1,
                checkpoint=CheckpointConfig(every=2, keep=4),
                tensorboard=False,
                **DROP,
            ),
            probe=ProbeConfig(),
            seed=5,
        )

    def _train(self, place):
        plan = build_plan(self.spec.data, steps=self.spec.train.steps)
        place.path.mkdir(exist_ok=True)
        train(parts_lib.build(self.spec), plan, place)
        return read(place.metrics)

    @pytest.mark.slow
    def test_resumed_to_the_bit_and_evaluated_whole(self):
        whole = RunFolder(self.root / "whole")
        rows = self._train(whole)
        self.assertLess(rows[6]["validation_loss"], rows[0]["validation_loss"] - 0.1)
        resumed = RunFolder(self.root / "resumed")
        shutil.copytree(whole.path, resumed.path)
        for step in ("4", "6"):
            shutil.rmtree(resumed.checkpoints / step)
        again = self._train(resumed)
        names = ("step", "loss", "grad_norm", "tokens", "validation_loss")
        kept = [[{k: r[k] for k in names if k in r} for r in part] for part in (rows, again)]
        self.assertEqual(*kept)

        # Micro-batches on eight devices drop what is drawn for the whole batch.
        plan, loss = build_plan(self.spec.data, steps=6), _make_loss()
        params = parts_lib.build(self.spec).first_state().params
        kept = dropping.draws(MODEL, 5, **DROP)(plan.batch(0), 0)
        found = rows[0]["loss"]
        np.testing.assert_allclose(found, loss(params, plan.batch(0), kept), rtol=1e-5)
        everything = jax.tree.map(np.ones_like, kept)
        self.assertGreater(abs(found - loss(params, plan.batch(0), everything)), 1e-4)

        # A run that knows of no rates starts from the checkpoint: it is the model that validated.
        plain = {"train.layer_drop": 0.0, "train.token_drop": 0.0}
        start = {"train.start.run": str(whole.path), "train.start.continue_schedule": False}
        params = parts_lib.build(override(self.spec, plain | start)).first_state().params
        held = loss(params, plan.validation_batches(1)[0], None)
        np.testing.assert_allclose(rows[6]["validation_loss"], held, rtol=1e-5)

    def test_the_plan_names_both(self):
        plan = build_plan(self.spec.data, steps=6)

        def lines(**changes):
            spec = override(self.spec, {f"train.{k}": v for k, v in changes.items()})
            return plan_lines.describe(parts_lib.build(spec), plan, memory=False)

        text = "\n".join(lines())
        share = dropping.skippable_flops_per_token(MODEL, 32, 0.4, 0.3)
        share /= size.flops_per_token(MODEL, 32)
        self.assertIn("rates 0 to 26.67% with depth (train.layer_drop 0.4), 13.33%", text)
        self.assertIn("token drop: 30.00% of the tokens skip all layers but", text)
        self.assertRegex(text, rf"dropped: .* \({share:.2%}\) .* spent all the same")
        self.assertNotIn("drop", "\n".join(lines(layer_drop=0.0, token_drop=0.0)))

    def test_refused_before_any_computation(self):
        for changes, message in (
            ({"train.layer_drop": 1.5}, "train.layer_drop of at least 0 and below 1, got 1.5"),
            ({"model.num_layers": 2}, "token_drop 0.3 expects a model of at least 3 layers"),
        ):
            with self.assertRaisesRegex(UserError, message):
                override(self.spec, changes)
