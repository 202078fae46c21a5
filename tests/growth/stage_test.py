"""A run that starts from a smaller model: grown, checked, recorded, trained on, resumed."""

import dataclasses
import json
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest
from absl.testing import parameterized

from llm_dynamics.batch import Batch
from llm_dynamics.data.config import DataConfig
from llm_dynamics.errors import UserError
from llm_dynamics.growth import apply, presets, stage
from llm_dynamics.growth.learn import LearnConfig
from llm_dynamics.growth.stage import Growth, GrowthConfig
from llm_dynamics.model import sharding
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.model.decoder import Decoder
from llm_dynamics.optim.optimizer import OptimConfig
from llm_dynamics.probe.cadence import ProbeConfig
from llm_dynamics.train.config import RunSpec, StartConfig, TrainConfig

SMALL = ModelConfig(
    vocab_size=64, width=16, num_layers=2, num_heads=2, mlp_width=32, max_length=16,
    norm="rmsnorm", mlp="swiglu",
)  # fmt: skip
LARGE = dataclasses.replace(SMALL, width=32, num_layers=4, num_heads=4, mlp_width=64)


def _spec(model, optimizer="reset", **train):
    return RunSpec(
        model=model,
        data=DataConfig(("x.txt",), "bytes", length=16, batch_size=8),
        optim=OptimConfig(),
        train=TrainConfig(4, start=StartConfig(optimizer=optimizer, **train)),
        probe=ProbeConfig(),
    )


def _batch(t):
    rng = np.random.default_rng(t)
    tokens = rng.integers(64, size=(8, 17)).astype(np.int32)
    ones = np.ones((8, 16), np.int32)
    positions = np.tile(np.arange(16, dtype=np.int32), (8, 1))
    return Batch(tokens[:, :-1], tokens[:, 1:], ones, positions, np.ones((8, 16), np.float32))


def _params(model):
    mesh = sharding.make_mesh(devices=jax.devices())
    return sharding.init_params(Decoder(model), 0, mesh)


class ApplyTest(parameterized.TestCase):
    def _grow(self, config, model=LARGE, batches=_batch):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "growth.json"
            growth = Growth(config, SMALL, path)
            growth.batches = batches
            target = stage.fitting(SMALL, model, config)
            growth.check(SMALL, _spec(target))
            params, _ = growth.apply(_params(SMALL), None, SMALL, _spec(target))
            return params, json.loads(path.read_text()), target

    @parameterized.parameters("tile", "zero_pad")
    def test_exact_operators_keep_the_function_in_float32(self, width):
        _, about, _ = self._grow(GrowthConfig(width, "identity", exact=True))
        self.assertTrue(about["exact"])
        self.assertTrue(about["preserved"]["kept"])
        self.assertEqual(about["preserved"]["top1_agreement"], 1)
        self.assertLess(about["preserved"]["max_logit_difference"], 1e-5)

    def test_tiles_are_locked_and_padding_is_not(self):
        """Copies that are written and read alike learn alike; the check says so."""
        locked = self._grow(GrowthConfig("tile", "stack"))[1]["duplicates"]
        free = self._grow(GrowthConfig("zero_pad", "stack"))[1]["duplicates"]
        self.assertEqual(locked["mlp"], 1)
        self.assertEqual(free["mlp"], 0)

    def test_grown_parameters_live_where_the_target_s_do(self):
        params, _, target = self._grow(GrowthConfig("tile", "stack"))
        decoder, mesh = Decoder(target), sharding.make_mesh(devices=jax.devices())
        shapes = jax.tree.map(lambda x: x.shape, sharding.abstract_params(decoder))
        self.assertEqual(jax.tree.map(lambda x: x.shape, params), shapes)
        where = sharding.param_shardings(decoder, mesh)
        jax.tree.map(
            lambda x, s: self.assertTrue(x.sharding.is_equivalent_to(s, x.ndim)), params, where
        )

    @pytest.mark.slow
    def test_a_layer_at_a_time_is_the_same(self):
        pair = stage.pair_of(SMALL, LARGE)
        params, key = _params(SMALL), jax.random.key(3)
        for width, depth in (("zero_pad", "identity"), ("net2net", "append"), ("aki", "stack")):
            operator = presets.make(pair, width, depth)
            whole = apply.grow(operator, pair.source, pair.target, params, key)
            where = sharding.param_shardings(Decoder(LARGE), sharding.make_mesh())
            parts = apply.grow_sharded(operator, pair.source, pair.target, params, where, key)
            for path, leaf in apply.flat(parts).items():
                np.testing.assert_allclose(leaf, apply.flat(whole)[path], atol=1e-6, err_msg=path)

    @parameterized.parameters("shared", "paper", "released", "untied")
    @pytest.mark.slow
    def test_a_learned_operator_lowers_the_loss(self, preset):
        learn = LearnConfig(steps=12, rates=(1e-3, 3e-2), warmup=2)
        config = GrowthConfig("ligo", ligo=preset, learn=learn)
        _, about, _ = self._grow(config, batches=lambda t: _batch(0))
        course = np.array(about["learned"]["losses"][str(about["learned"]["rate"])])
        self.assertLess(course[-5:].mean(), course[:5].mean())
        self.assertGreater(about["learned"]["travel"]["write"], 0)
        self.assertGreater(about["flops"], 0)

    @pytest.mark.slow
    def test_what_is_learned_leaves_the_source_alone(self):
        params = _params(SMALL)
        before = jax.tree.map(np.array, params)
        growth = Growth(GrowthConfig("ligo", learn=LearnConfig(steps=2)), SMALL)
        growth.batches = _batch
        growth.apply(params, None, SMALL, _spec(LARGE))
        jax.tree.map(np.testing.assert_array_equal, before, params)


class RefusedTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ("narrower", {"width": 8, "num_heads": 2}, {}, "does not shrink"),
        ("kind", {"norm": "layernorm"}, {}, "norm 'rmsnorm' -> 'layernorm'"),
        ("rotary_base", {"rotary_base": 500.0}, {}, "rotary_base"),
        ("exact", {}, {"depth": "stack", "exact": True}, "cannot: depth 'stack' adds layers"),
        ("learned", {}, {"width": "ligo", "exact": True}, "a learned operator does not"),
        ("moments", {}, {"moments": "scale"}, "train.start.optimizer=keep"),
        ("head_dim", {"head_dim": 12}, {"width": "zero_pad"}, "whole multiple of 8"),
    )
    def test_before_any_computation(self, changes, config, words):
        large = dataclasses.replace(LARGE, **changes)
        with self.assertRaisesRegex(UserError, words):
            Growth(GrowthConfig(**{"width": "tile", **config}), SMALL).check(SMALL, _spec(large))

    def test_unknown_operator(self):
        with self.assertRaisesRegex(UserError, "did you mean 'tile'"):
            GrowthConfig(width="tyle")
