"""What came out of the source is held while added layers train (LLaMA-Pro, MSLT)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import parameterized

from llm_dynamics.data.config import DataConfig
from llm_dynamics.errors import UserError
from llm_dynamics.growth import apply, frozen, stage
from llm_dynamics.growth.stage import Growth, GrowthConfig
from llm_dynamics.optim.optimizer import OptimConfig, make_optimizer
from llm_dynamics.optim.schedules import ScheduleConfig
from llm_dynamics.probe.cadence import ProbeConfig
from llm_dynamics.train.config import RunSpec, StartConfig, TrainConfig
from tests.growth import toys

SMALL = toys.source()
LARGE = dataclasses.replace(SMALL, num_layers=6)


def _spec(model, optimizer="reset", steps=4):
    return RunSpec(
        model=model,
        data=DataConfig(("x.txt",), "bytes", length=16, batch_size=8),
        optim=OptimConfig(ScheduleConfig("constant", 0.1)),
        train=TrainConfig(steps, start=StartConfig(optimizer=optimizer)),
        probe=ProbeConfig(),
    )


def _held(small, large, depth, trained):
    mask = apply.flat(frozen.held(toys.pair(small, large), depth, trained))
    layers = np.flatnonzero(mask["layers/mlp/up/kernel"].ravel()).tolist()
    others = {path for path, m in mask.items() if not path.startswith("layers/") and m.all()}
    return layers, others


class HeldTest(parameterized.TestCase):
    def test_inserted_layers_train_alone(self):
        layers, others = _held(SMALL, LARGE, "identity", "added")
        self.assertEqual(layers, [0, 2, 4])
        self.assertEqual(others, {"embed/embedding", "final_norm/scale", "unembed/kernel"})

    def test_the_top_and_the_head(self):
        layers, others = _held(SMALL, LARGE, "top", "added+head")
        self.assertEqual(layers, [0, 1, 2])
        self.assertEqual(others, {"embed/embedding"})

    def test_a_tied_head_is_an_embedding(self):
        small, large = (toys.source("gpt2", num_layers=n) for n in (3, 5))
        _, others = _held(small, large, "top", "added+head")
        self.assertEqual(others, {"embed/embedding", "positions/embedding"})


class RunTest(parameterized.TestCase):
    @parameterized.parameters(("llama_pro", 4), ("mslt", 2))
    def test_what_is_held_stays_to_the_bit(self, name, until):
        config = stage.named(name)
        self.assertEqual(config.name, name)
        spec = _spec(LARGE)
        growth = Growth(config, SMALL)
        growth.check(SMALL, spec)
        params, _ = growth.apply(toys.params(SMALL), None, SMALL, spec)
        optimizer = growth.optimizer(spec, optax.constant_schedule(0.1))
        state = optimizer.init(params)
        plain = make_optimizer(spec.optim, optax.constant_schedule(0.1)).init(params)
        self.assertEqual(jax.tree.structure(state), jax.tree.structure(plain))
        first, update = apply.flat(params), jax.jit(optimizer.update)
        mask = apply.flat(frozen.held(toys.pair(SMALL, LARGE), config.depth, config.trained))
        for count in range(4):
            grads = jax.tree.map(jnp.ones_like, params)
            updates, state = update(grads, state, params)
            params = optax.apply_updates(params, updates)
            for path, leaf in apply.flat(params).items():
                same = np.asarray(leaf) == np.asarray(first[path])
                held = np.broadcast_to(mask[path], same.shape)
                self.assertFalse(same[~held].any(), path)
                self.assertEqual(same[held].all(), count < until or not held.any(), path)

    def test_rates_of_grown_entries_go_with_it(self):
        config = GrowthConfig(depth="identity", moments="scale", rates="scale", frozen=1.0)
        spec = _spec(LARGE, "keep")
        growth = Growth(config, SMALL)
        growth.check(SMALL, spec)
        params = toys.params(LARGE)
        optimizer = growth.optimizer(spec, optax.constant_schedule(0.1))
        updates, _ = jax.jit(optimizer.update)(params, optimizer.init(params), params)
        moved = np.abs(updates["layers"]["mlp"]["up"]["kernel"]).max(axis=(1, 2))
        np.testing.assert_array_equal(moved > 0, [False, True] * 3)

    def test_llama_pro_keeps_the_function(self):
        self.assertTrue(stage.named("llama_pro", exact=True).exact)
        Growth(stage.named("llama_pro", exact=True), SMALL).check(SMALL, _spec(LARGE))


class RefusedTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ("no_layers", {"num_layers": 3}, {}, "the target has no others"),
        ("width", {"mlp_width": 80}, {}, "mlp grows from 64 to 80"),
        ("too_short", {}, {"frozen": 0.1}, "growth.frozen=0.1 of 4 updates holds none"),
    )
    def test_before_any_computation(self, changes, config, words):
        large = dataclasses.replace(LARGE, **changes)
        config = stage.named("llama_pro", **config)
        with self.assertRaisesRegex(UserError, words):
            Growth(config, SMALL).check(SMALL, _spec(large))

    @parameterized.named_parameters(
        ("part", {"frozen": 1.5}, "0 to 1"),
        ("trained", {"trained": "head"}, "did you mean 'added"),
        ("learned", {"width": "ligo", "frozen": 0.5}, "learned operator"),
    )
    def test_configurations(self, config, words):
        with self.assertRaisesRegex(UserError, words):
            GrowthConfig(**config)
