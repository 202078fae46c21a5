"""An encoder is trained by the loop that trains decoders: on hidden tokens, resumed to the bit."""

import functools
import json
import random
import shutil
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest
from absl.testing import parameterized

from llm_dynamics.batch import Batch
from llm_dynamics.data.build import build_plan
from llm_dynamics.data.config import DataConfig
from llm_dynamics.model import masking, presets, sharding
from llm_dynamics.model.build import build_model
from llm_dynamics.optim.optimizer import OptimConfig, make_optimizer
from llm_dynamics.optim.schedules import ScheduleConfig
from llm_dynamics.probe.cadence import ProbeConfig
from llm_dynamics.train import parts as parts_lib
from llm_dynamics.train.config import CheckpointConfig, RunSpec, TrainConfig
from llm_dynamics.train.loop import train
from llm_dynamics.train.metrics import read
from llm_dynamics.train.run_folder import RunFolder
from llm_dynamics.train.state import abstract_state, init_state
from llm_dynamics.train.step import make_train_step, make_validation

MODEL = presets.named(
    "pocket-encoder-0.3m", vocab_size=258, width=16, num_layers=1, num_heads=2, mlp_width=32,
    max_length=32, scan_unroll=1,
)  # fmt: skip


def _batch(rows=8, length=32):
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 257, (rows, length)).astype(np.int32)
    segments = np.ones((rows, length), np.int32)
    segments[:, -4:] = 0
    positions = np.tile(np.arange(length, dtype=np.int32), (rows, 1))
    # Labels and counts of the next token, which an encoder does not look at.
    return Batch(tokens, -1 - tokens, segments, positions, np.full((rows, length), np.nan))


@functools.lru_cache
def _first_step(mesh_sizes=(1, 1, 1), **settings):
    devices = jax.devices()[: int(np.prod(mesh_sizes))]
    mesh = sharding.make_mesh(*mesh_sizes, devices=devices)
    model = build_model(MODEL)
    optimizer = make_optimizer(OptimConfig(), lambda _: 1e-3)
    abstract = abstract_state(model, optimizer, mesh)
    step = make_train_step(model, optimizer, lambda _: 1e-3, mesh, abstract, **settings)
    state = init_state(model, optimizer, mesh, seed=0)
    with sharding.activate(mesh):
        batch = jax.device_put(_batch(), sharding.batch_sharding(mesh))
        validate = make_validation(model, mesh, abstract)
        total, count = validate(state.params, batch)
        _, metrics = step(state, batch)
    return jax.tree.map(float, metrics) | {"validation": float(total), "held": float(count)}


class StepTest(parameterized.TestCase):
    def test_the_loss_is_of_the_chosen_tokens(self):
        found = _first_step(seed=5)
        batch = masking.objective(MODEL, 5)(_batch(), 0)
        self.assertEqual(found["tokens"], float(batch.mask_BxL.sum()))
        self.assertBetween(found["tokens"], 10, 8 * 28 / 3)
        # Fresh parameters know nothing, so every token costs the logarithm of the vocabulary.
        self.assertAlmostEqual(found["loss"], np.log(258), delta=0.5)
        held = masking.validation(MODEL)(_batch())
        self.assertEqual(found["held"], float(held.mask_BxL.sum()))
        self.assertAlmostEqual(found["validation"] / found["held"], np.log(258), delta=0.5)

    def test_other_seeds_hide_other_tokens(self):
        self.assertNotEqual(_first_step(seed=5)["loss"], _first_step(seed=6)["loss"])

    @parameterized.parameters({"accumulate": 4}, {"mesh_sizes": (2, 2, 2)})
    @pytest.mark.slow
    def test_neither_micro_batches_nor_meshes_change_what_is_hidden(self, **settings):
        whole, other = _first_step(seed=5), _first_step(seed=5, **settings)
        self.assertEqual((whole["tokens"], whole["held"]), (other["tokens"], other["held"]))
        for name in ("loss", "grad_norm", "validation"):
            np.testing.assert_allclose(whole[name], other[name], rtol=1e-4)


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
                validate_every=3,
                validation_batches=1,
                checkpoint=CheckpointConfig(every=2, keep=4),
                tensorboard=False,
            ),
            probe=ProbeConfig(),
        )

    def _train(self, place):
        plan = build_plan(self.spec.data, steps=self.spec.train.steps)
        place.path.mkdir(exist_ok=True)
        train(parts_lib.build(self.spec), plan, place)

    def test_a_resumed_run_is_the_same_to_the_bit(self):
        whole = RunFolder(self.root / "whole")
        self._train(whole)
        rows = read(whole.metrics)
        self.assertLess(rows[6]["validation_loss"], rows[0]["validation_loss"] - 0.2)
        resumed = RunFolder(self.root / "resumed")
        shutil.copytree(whole.path, resumed.path)
        for step in ("4", "6"):
            shutil.rmtree(resumed.checkpoints / step)
        self._train(resumed)
        again = read(resumed.metrics)
        names = ("step", "loss", "grad_norm", "tokens", "validation_loss")
        kept = [[{k: r[k] for k in names if k in r} for r in part] for part in (rows, again)]
        self.assertEqual(*kept)
