"""Local layers: which they are, what they see, and that a model without them is left alone."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
from absl.testing import parameterized

from llm_dynamics.batch import Batch
from llm_dynamics.model import dropping, windows
from llm_dynamics.model.attention import attention_mask
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.model.decoder import Decoder, Layer
from llm_dynamics.model.dropping import Kept
from llm_dynamics.model.loss import training_loss
from llm_dynamics.model.rotary import RotaryScaling

CONFIG = ModelConfig(
    vocab_size=32, width=16, num_layers=5, num_heads=2, mlp_width=24, window=3, global_every=2,
    local_rotary_base=100.0, scan_unroll=1,
)  # fmt: skip
LENGTH = 9


class LayersTest(parameterized.TestCase):
    @parameterized.parameters(
        (0, 0, [0, 0, 0, 0, 0], False),
        (3, 2, [1, 0, 1, 0, 1], True),
        (3, 6, [1, 1, 1, 1, 1], False),
        (3, 0, [1, 1, 1, 1, 1], False),
        (3, 1, [0, 0, 0, 0, 0], False),
    )
    def test_which_are_local(self, window, every, expected, both):
        config = dataclasses.replace(
            CONFIG, window=window, global_every=every, local_rotary_base=0.0
        )
        self.assertEqual(windows.local_layers(config).astype(int).tolist(), expected)
        kinds_N = windows.kinds(config)
        self.assertEqual(kinds_N.tolist() if both else kinds_N, expected if both else None)

    @parameterized.parameters(2, 0)
    def test_what_they_see(self, every):
        """A window of three within segments, and the angles of the local base."""
        config = dataclasses.replace(
            CONFIG, global_every=every, rotary_scaling=RotaryScaling("linear", 4.0)
        )
        segments_1xL = np.repeat([1, 2], [5, 4])[None]
        positions_1xL = np.concatenate([np.arange(5), np.arange(4)])[None]
        whole_1xLxM = np.asarray(attention_mask(segments_1xL))
        mask, angles = windows.views(config, segments_1xL, positions_1xL)
        kind = 1 if every else None
        near_1xLxM, (cos, _) = windows.seen(mask, angles, kind)
        for i, j in np.ndindex(LENGTH, LENGTH):
            self.assertEqual(near_1xLxM[0, i, j], whole_1xLxM[0, i, j] and i - j < 3)
        np.testing.assert_allclose(cos[0, :, 1], np.cos(positions_1xL[0] * 100.0**-0.25), atol=1e-6)
        if every:
            far_1xLxM, (cos, _) = windows.seen(mask, angles, 0)
            np.testing.assert_array_equal(far_1xLxM, whole_1xLxM)
            by_hand = np.cos(positions_1xL[0] * 1e4**-0.25 / 4)
            np.testing.assert_allclose(cos[0, :, 1], by_hand, atol=1e-6)

    def test_a_window_bounds_what_a_model_reads(self):
        """Two local layers of three tokens: five tokens back, and no further, by gradient."""
        config = dataclasses.replace(CONFIG, num_layers=2, global_every=0)
        params = nn.unbox(jax.jit(Decoder(config).new_params)(jax.random.key(0)))
        tokens_1xL = np.arange(LENGTH, dtype=np.int32)[None]

        def last(table_VxD):
            changed = {**params, "embed": {"embedding": table_VxD}}
            return Decoder(config).apply({"params": changed}, tokens_1xL)[0, -1, 0]

        by_table_VxD = np.asarray(jax.jit(jax.grad(last))(params["embed"]["embedding"]))
        reads_L = np.any(by_table_VxD[:LENGTH] != 0, axis=-1)
        self.assertEqual(reads_L.astype(int).tolist(), [0, 0, 0, 0, 1, 1, 1, 1, 1])


class DroppingTest(parameterized.TestCase):
    def test_layer_by_layer(self):
        """The scanned model against a loop over its layers, where rows and tokens skip some."""
        config = dataclasses.replace(
            CONFIG, norm="rmsnorm", norm_order="both", scale_embeddings=True, qk_norm="head"
        )
        model, rng = Decoder(config), np.random.default_rng(0)
        params = nn.unbox(jax.jit(model.new_params)(jax.random.key(0)))
        tokens_BxL = rng.integers(0, 32, (2, LENGTH)).astype(np.int32)
        weight_BxN = np.array([[1, 0, 1.25, 1, 1], [1, 1, 0, 1.5, 1]], np.float32)
        kept = Kept(weight_BxN, rng.random((2, LENGTH)) > 0.3)
        found = jax.jit(lambda p: model.apply({"params": p}, tokens_BxL, kept=kept))(params)

        h_BxLxD, mask, angles = model.apply({"params": params}, tokens_BxL, method="embedded")
        each, local_N = dropping.by_layer(kept, 5), windows.local_layers(config)
        layer = jax.jit(lambda *inputs: Layer(config).apply(*inputs)[0])
        for n in range(5):
            weights, mine = jax.tree.map(lambda x, n=n: x[n], (params["layers"], each))
            near = windows.seen(mask, angles, int(local_N[n]))
            h_BxLxD = layer({"params": weights}, h_BxLxD, *near, mine)
        expected = model.apply({"params": params}, h_BxLxD, method="normed")
        np.testing.assert_allclose(found, expected, atol=1e-5)


def _program(config):
    """The gradient of the training loss, as JAX writes it."""
    model = Decoder(config)
    tokens_BxL = np.zeros((2, LENGTH), np.int32)
    batch = Batch(tokens_BxL, tokens_BxL, tokens_BxL, tokens_BxL, np.ones((2, LENGTH), np.float32))
    params = nn.unbox(jax.eval_shape(model.new_params, jax.random.key(0)))
    return str(jax.make_jaxpr(jax.grad(lambda p: training_loss(model, p, batch)[0]))(params))


class UnchangedTest(parameterized.TestCase):
    def test_a_program_without_local_layers_is_the_same(self):
        plain = dataclasses.replace(CONFIG, window=0, global_every=0, local_rotary_base=0.0)
        expected = _program(plain)
        idle = RotaryScaling("default", 8.0, 128)
        for changes in (
            {"rotary_scaling": idle},
            {"query_scalar": 8.0},  # the size of the heads
            {"window": 3, "global_every": 1},
        ):
            self.assertEqual(_program(dataclasses.replace(plain, **changes)), expected)
        for changes in ({"window": 3}, {"query_scalar": 9.0}, {"qkv_bias": True}):
            self.assertNotEqual(_program(dataclasses.replace(plain, **changes)), expected)
