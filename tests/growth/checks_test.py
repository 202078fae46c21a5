"""The checks see what they look for: changed functions, dead weights, copies, large activations."""

import dataclasses

import jax
import numpy as np
from absl.testing import absltest

from llm_dynamics.batch import Batch
from llm_dynamics.errors import UserError
from llm_dynamics.growth import checks, presets
from llm_dynamics.model.decoder import Decoder
from tests.growth import toys

CONFIG = dataclasses.replace(toys.source(), num_layers=2)


def _batch():
    tokens = np.random.default_rng(0).integers(97, size=(2, 9)).astype(np.int32)
    ones = np.ones((2, 8), np.int32)
    places = np.tile(np.arange(8, dtype=np.int32), (2, 1))
    return Batch(tokens[:, :-1], tokens[:, 1:], ones, places, np.ones((2, 8), np.float32))


def _changed(params, *path, value):
    copy = jax.tree.map(np.array, params)
    node = copy
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value(node[path[-1]])
    return copy


class ChecksTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.decoder, self.params = Decoder(CONFIG), toys.params(CONFIG)

    def test_preserved(self):
        other = _changed(self.params, "final_norm", "scale", value=lambda x: 1.5 * x)
        args = self.decoder, self.params, self.decoder
        self.assertTrue(checks.preserved(*args, self.params, _batch()).kept)
        found = checks.preserved(*args, other, _batch())
        self.assertFalse(found.kept)
        self.assertGreater(found.kl, 0)
        # A larger gain changes all logits and no order.
        self.assertEqual(found.top1_agreement, 1)
        self.assertAlmostEqual(found.max_logit_difference, 0.5 * found.largest_logit, places=4)
        with self.assertRaisesRegex(UserError, "was to preserve the function"):
            checks.require_preserved(found, "tile")

    def test_dead_weights(self):
        def dead(kernel):
            kernel[..., :3] = 0
            return kernel

        zeroed = self.params
        for name in ("up", "gate"):
            zeroed = _changed(zeroed, "layers", "mlp", name, "kernel", value=dead)
        graph = toys.graph(CONFIG)
        before = checks.without_gradient(self.decoder, self.params, _batch(), graph)
        after = checks.without_gradient(self.decoder, zeroed, _batch(), graph)
        self.assertNotIn("layers/mlp/up/kernel", before)
        self.assertAlmostEqual(after["layers/mlp/up/kernel"], 3 / 64, places=6)

    def test_copies(self):
        self.assertEqual(checks.duplicates(self.params, toys.graph(CONFIG))["mlp"], 0)
        params = self.params
        for name, axis in (("up", 2), ("gate", 2), ("down", 1)):
            params = _changed(
                params, "layers", "mlp", name, "kernel",
                value=lambda x, axis=axis: np.concatenate(
                    [np.take(x, range(32), axis)] * 2, axis
                ),
            )  # fmt: skip
        self.assertEqual(checks.duplicates(params, toys.graph(CONFIG))["mlp"], 1)
        # Read with other shares, copies part ways and are none.
        uneven = _changed(
            params, "layers", "mlp", "down", "kernel",
            value=lambda x: x * np.where(np.arange(64) < 32, 1.5, 0.5)[None, :, None],
        )  # fmt: skip
        self.assertEqual(checks.duplicates(uneven, toys.graph(CONFIG))["mlp"], 0)

    def test_a_rate_counts_as_much_after_no_growth_and_more_for_tiles(self):
        same = (self.decoder, self.params) * 2
        self.assertAlmostEqual(checks.effective_rate(*same, _batch()), 1, places=6)
        large = dataclasses.replace(CONFIG, width=96, num_heads=16, num_kv_heads=4, mlp_width=128)
        operator = presets.make(toys.pair(CONFIG, large), "tile", "identity")
        tiled = jax.tree.map(
            lambda x: x.astype(np.float32), toys.grown(operator, CONFIG, large, self.params)
        )
        args = self.decoder, self.params, Decoder(large), tiled
        self.assertBetween(checks.effective_rate(*args, _batch()), 1.3, 4)

    def test_activations(self):
        found = checks.activations(self.decoder, self.params, _batch())
        self.assertLen(found["stream"], 3)
        silent = self.params
        for path in (("attention", "out"), ("mlp", "down")):
            silent = _changed(silent, "layers", *path, "kernel", value=lambda x: 0 * x)
        still = checks.activations(self.decoder, silent, _batch())
        np.testing.assert_allclose(still["stream"], still["stream"][0], rtol=1e-6)
        np.testing.assert_array_equal(still["update"], 0)
