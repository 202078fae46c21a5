"""A run whose model is made out of its origin's: here, with a larger vocabulary."""

import json
import random
import shutil
import tempfile
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest

from llm_dynamics.data.build import build_plan
from llm_dynamics.data.config import DataConfig
from llm_dynamics.errors import UserError
from llm_dynamics.model import presets, sharding
from llm_dynamics.optim.optimizer import OptimConfig, make_optimizer
from llm_dynamics.optim.schedules import ScheduleConfig
from llm_dynamics.probe.cadence import ProbeConfig
from llm_dynamics.spec import override
from llm_dynamics.train import parts as parts_lib
from llm_dynamics.train.config import CheckpointConfig, RunSpec, TrainConfig
from llm_dynamics.train.loop import train
from llm_dynamics.train.metrics import read
from llm_dynamics.train.run_folder import RunFolder

SMALL, LARGE = 264, 300


class Padded:
    """New ids get embeddings, and moments, of zero."""

    def check(self, source, spec):
        if source.vocab_size > spec.model.vocab_size:
            raise UserError(f"ids would be lost: {source.vocab_size} > {spec.model.vocab_size}")

    def apply(self, params, opt_state, source, spec):
        def pad(x):
            if not x.ndim or x.shape[0] != source.vocab_size:
                return x
            more = spec.model.vocab_size - source.vocab_size
            return jnp.pad(x, [(0, more)] + [(0, 0)] * (x.ndim - 1))

        return jax.tree.map(pad, (params, opt_state))

    def optimizer(self, spec, schedule):
        return make_optimizer(spec.optim, schedule)

    def view(self, spec):
        return None


def _spec(root):
    rng = random.Random(0)
    words = "lamp river lit evening boats home stone paper winter garden bridge tower".split()
    lines = [json.dumps({"text": " ".join(rng.choices(words, k=30))}) for _ in range(60)]
    (root / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    sizes = {"vocab_size": SMALL, "width": 16, "num_layers": 1, "num_heads": 2, "mlp_width": 32}
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
        optim=OptimConfig(ScheduleConfig("constant", 1e-2, horizon=100)),
        train=TrainConfig(
            4, validate_every=0, checkpoint=CheckpointConfig(every=2), tensorboard=False
        ),
        probe=ProbeConfig(),
    )


def _run(spec, path, transform=None):
    folder = RunFolder(path)
    parts = parts_lib.build(spec, folder, transform)
    plan = build_plan(spec.data, steps=spec.train.steps, first_step=parts.first_data_step)
    folder.claim(spec, plan.describe(), parts.origin)
    train(parts, plan, folder)
    folder._lock.close()
    return folder


def _bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(jax.device_get(tree))]


class TransformTest(absltest.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.root = Path(tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, cls.root, ignore_errors=True)
        cls.spec = _spec(cls.root)
        cls.parent = _run(cls.spec, cls.root / "parent")

    def _child(self, **changes):
        begin = {"train.start.run": str(self.parent.path), "model.vocab_size": LARGE}
        return override(self.spec, begin | changes)

    def test_without_a_transform_another_model_is_refused(self):
        with self.assertRaisesRegex(UserError, "model.vocab_size: 264 -> 300"):
            parts_lib.build(self._child())

    def test_the_transform_is_asked_in_place_of_the_comparison(self):
        with self.assertRaisesRegex(UserError, "ids would be lost: 264 > 258"):
            parts_lib.build(self._child(**{"model.vocab_size": 258}), transform=Padded())

    def test_the_state_is_the_transformed_one(self):
        parts = parts_lib.build(self._child(), transform=Padded())
        state = parts.first_state()
        plain = parts_lib.build(self._child(**{"model.vocab_size": SMALL})).first_state()
        found = jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), state)
        wanted = jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), parts.abstract)
        self.assertEqual(found, wanted)
        counts = [int(x) for x in jax.tree.leaves(state.opt_state) if x.ndim == 0]
        self.assertEqual(counts, [4, 0])  # Adam's own stays, the schedule begins at 0
        changed = 0
        for mine, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(plain), strict=True):
            mine, theirs = np.asarray(mine), np.asarray(theirs)
            if mine.shape != theirs.shape:
                changed += 1
                self.assertEqual(np.abs(mine[SMALL:]).sum(), 0)
                mine = mine[:SMALL]
            self.assertEqual(mine.tobytes(), theirs.tobytes())
        self.assertEqual(changed, 3)  # embedding and its moments
        # Every buffer is the state's own: the step donates it.
        batch = build_plan(self.spec.data).batch(0)
        batch = jax.device_put(batch, sharding.batch_sharding(parts.mesh))
        with sharding.activate(parts.mesh):
            _, metrics = parts.compile_step()(state, batch)
        self.assertTrue(np.isfinite(metrics["loss"]))

    def test_policies_come_after_it(self):
        parts = parts_lib.build(
            self._child(**{"train.start.optimizer": "keep_second"}), transform=Padded()
        )
        state = parts.first_state()
        mu, nu = (optax.tree_utils.tree_get(state.opt_state, name) for name in ("mu", "nu"))
        self.assertEqual(sum(float(abs(x).sum()) for x in jax.tree.leaves(mu)), 0)
        self.assertGreater(sum(float(x.sum()) for x in jax.tree.leaves(nu)), 0)

    def test_reset_reads_no_moments(self):
        transform = Padded()
        with mock.patch.object(transform, "apply", wraps=transform.apply) as applied:
            parts = parts_lib.build(
                self._child(**{"train.start.optimizer": "reset"}), transform=transform
            )
            state = parts.first_state()
        self.assertIsNone(applied.call_args.args[1])
        fresh = jax.jit(parts.optimizer.init)(state.params)
        self.assertEqual(_bits(state.opt_state), _bits(fresh))

    def test_a_transform_that_changes_nothing(self):
        spec = self._child(**{"model.vocab_size": SMALL})
        one, other = (parts_lib.build(spec, None, t).first_state() for t in (None, Padded()))
        self.assertEqual(_bits(one), _bits(other))

    def test_other_shapes_than_the_run_has_are_a_mistake_of_the_study(self):
        transform = Padded()
        transform.apply = lambda params, opt_state, *_: (params, opt_state)
        parts = parts_lib.build(self._child(), transform=transform)
        with self.assertRaisesRegex(ValueError, r"expected float32\[300, 16\], found .*264, 16"):
            parts.first_state()

    def test_a_resume_does_not_transform_again(self):
        folder = _run(self._child(), self.root / "child", Padded())
        whole = read(folder.metrics)
        shutil.rmtree(folder.checkpoints / "4")
        with mock.patch.object(Padded, "apply", side_effect=AssertionError):
            again = _run(self._child(), folder.path, Padded())
        self.assertEqual([r.get("loss") for r in read(again.metrics)], [r["loss"] for r in whole])


if __name__ == "__main__":
    absltest.main()
