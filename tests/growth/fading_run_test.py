"""A run in which what is new fades in: as the source at its start, as a plain model at its end."""

import dataclasses
import json
import random
import shutil
import tempfile
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from absl.testing import parameterized

from llm_dynamics.data.build import build_plan
from llm_dynamics.data.config import DataConfig
from llm_dynamics.errors import UserError
from llm_dynamics.growth import stage
from llm_dynamics.growth.stage import Growth, GrowthConfig
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.optim.optimizer import OptimConfig
from llm_dynamics.optim.schedules import ScheduleConfig
from llm_dynamics.probe.cadence import ProbeConfig
from llm_dynamics.spec import override
from llm_dynamics.train import parts as parts_lib
from llm_dynamics.train.checkpoint_reader import restore
from llm_dynamics.train.config import CheckpointConfig, RunSpec, TrainConfig
from llm_dynamics.train.loop import train
from llm_dynamics.train.metrics import read
from llm_dynamics.train.run_folder import RunFolder

SMALL = ModelConfig(
    vocab_size=264, width=16, num_layers=1, num_heads=2, mlp_width=32, max_length=32,
    norm="rmsnorm", mlp="swiglu",
)  # fmt: skip
LARGE = {"model.width": 24, "model.num_layers": 2, "model.num_heads": 3, "model.mlp_width": 40}
WORDS = "lamp river lit evening boats home stone paper winter garden bridge tower".split()


def _spec(root):
    rng = random.Random(0)
    lines = [json.dumps({"text": " ".join(rng.choices(WORDS, k=30))}) for _ in range(60)]
    (root / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    data = DataConfig(
        (str(root / "corpus.jsonl"),), "bytes", length=32, batch_size=8, validation_fraction=0.1,
        cache_dir=str(root / "cache"),
    )  # fmt: skip
    optim = OptimConfig(ScheduleConfig("constant", 1e-2, horizon=100))
    checkpoint = CheckpointConfig(steps=(0, 1))
    settings = TrainConfig(6, validate_every=1, checkpoint=checkpoint, tensorboard=False)
    return RunSpec(model=SMALL, data=data, optim=optim, train=settings, probe=ProbeConfig())


def _run(spec, path, transform=None):
    folder = RunFolder(path)
    parts = parts_lib.build(spec, folder, transform)
    plan = build_plan(spec.data, steps=spec.train.steps, first_step=parts.first_data_step)
    if transform is not None:
        transform.batches = plan.batch
    folder.claim(spec, plan.describe(), parts.origin)
    train(parts, plan, folder)
    folder._lock.close()
    return folder, parts


def _losses(folder, name="validation_loss"):
    return [row[name] for row in read(folder.metrics) if name in row]


class MaskedRunTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.root = Path(tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, cls.root, ignore_errors=True)
        cls.spec = _spec(cls.root)
        cls.parent, _ = _run(override(cls.spec, {"train.validate_every": 0}), cls.root / "parent")

    def _child(self, config, **changes):
        begin = {"train.start.run": str(self.parent.path), **LARGE, **changes}
        spec = override(self.spec, begin)
        return dataclasses.replace(spec, model=stage.fitting(SMALL, spec.model, config))

    @pytest.mark.slow
    def test_from_the_source_to_a_plain_model(self):
        config = stage.named("msg", moments="corner", exact=True)
        self.assertEqual((config.name, config.ramp), ("msg", 0.5))
        spec, path = self._child(config, **{"optim.weight_decay": 0.0}), self.root / "child"
        folder, parts = _run(spec, path, Growth(config, SMALL, path / "growth.json"))
        about = json.loads((path / "growth.json").read_text())
        self.assertTrue(about["preserved"]["kept"])
        self.assertLess(about["preserved"]["max_logit_difference"], 1e-5)
        self.assertEqual(about["without_gradient"], {})
        # Validation sees what the model is given: first the source, at the end the parameters.
        losses = _losses(folder)
        self.assertAlmostEqual(losses[0], _losses(self.parent)[-1], places=5)
        first, second, last = (
            restore(path, step, {"params": parts.abstract.params})["params"] for step in (0, 1, 6)
        )
        jax.tree.map(np.testing.assert_array_equal, parts.shown()(last, 6), last)
        plain = parts_lib.build(override(self.spec, dict(LARGE)))
        self.assertEqual(jax.tree.structure(last), jax.tree.structure(plain.abstract.params))

        # Gradients go through the mask: at 0 only what came out of the source moves.
        changed = jax.tree.map(lambda a, b: np.asarray(a != b), first, second)
        up, down = (changed["layers"]["mlp"][name]["kernel"] for name in ("up", "down"))
        self.assertTrue(up[0, :16, :32].any() and down[0, :32, :16].any())
        self.assertFalse(up[1].any() or up[0, 16:].any() or up[0, :, 32:].any())
        self.assertFalse(down[1].any() or down[0, 32:].any() or down[0, :, 16:].any())

        # Resumed amid the ramp, it goes on to the bit.
        shutil.rmtree(folder.checkpoints / "6")
        again, _ = _run(spec, path, Growth(config, SMALL, path / "growth.json"))
        self.assertEqual(_losses(again), losses)
        found = restore(path, 6, {"params": parts.abstract.params})["params"]
        jax.tree.map(np.testing.assert_array_equal, found, last)

    def test_moments_can_begin_anew(self):
        spec = self._child(stage.named("msg"), **{"train.start.optimizer": "reset"})
        state = parts_lib.build(spec, None, Growth(stage.named("msg"), SMALL)).first_state()
        moments = optax.tree_utils.tree_get(state.opt_state, "mu")
        self.assertEqual(sum(float(abs(x).sum()) for x in jax.tree.leaves(moments)), 0)

    def test_without_masks_there_is_no_view(self):
        config = GrowthConfig("zero_pad", "identity")
        parts = parts_lib.build(
            self._child(config, **{"train.start.optimizer": "reset"}), None, Growth(config, SMALL)
        )
        self.assertIsNone(parts.view)
        params = object()
        self.assertIs(parts.shown()(params, 0), params)

    @parameterized.named_parameters(
        ("too_short", {"ramp": 0.05}, {}, "of 6 updates is 0: expected 1 to 5"),
        ("too_long", {"ramp": 0.95}, {}, "of 6 updates is 6: expected 1 to 5"),
        ("moments", {"moments": "scale"}, {}, "use one of reset, corner"),
        ("norm", {}, {"model.norm": "layernorm"}, "weighted mean of a LayerNorm"),
    )
    def test_refused_before_any_computation(self, config, changes, words):
        config = stage.named("msg", **config)
        kept = "reset" if config.moments == "reset" else "keep"
        small = dataclasses.replace(SMALL, norm=changes.get("model.norm", "rmsnorm"))
        spec = override(self.spec, {**LARGE, "train.start.optimizer": kept, **changes})
        with self.assertRaisesRegex(UserError, words):
            Growth(config, small).check(small, spec)

    def test_a_ramp_that_does_not_end(self):
        with self.assertRaisesRegex(UserError, "growth.ramp between 0 and 1"):
            stage.named("msg", ramp=1.0)
