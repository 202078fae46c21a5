"""Properties of the decoder: causality, isolation, and that how it is computed does not matter."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from llm_dynamics.errors import UserError
from llm_dynamics.model import decoder as decoder_lib
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.model.decoder import Decoder

BASE = ModelConfig(
    vocab_size=64,
    width=32,
    num_layers=2,
    num_heads=4,
    mlp_width=64,
    max_length=32,
    use_bias=True,
    scan_unroll=1,
)
FAMILIES = {
    "neox": dataclasses.replace(BASE, rotary_fraction=0.5, parallel_residual=True),
    "gpt2": dataclasses.replace(BASE, position="learned", tie_embeddings=True),
    "llama": dataclasses.replace(BASE, norm="rmsnorm", mlp="swiglu", num_kv_heads=2),
    "olmo": dataclasses.replace(BASE, norm="nonparametric_layernorm", mlp="swiglu"),
}
ON_CPU = ("reference", "batched", "xla")


def _params(config):
    """Random values everywhere, so that zero biases and unit scales hide nothing."""
    params = nn.unbox(jax.eval_shape(Decoder(config).new_params, jax.random.key(0)))
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        values = rng.normal(size=leaf.shape).astype(np.float32) * 0.15
        return values + 1 if path[-1].key == "scale" else values

    return jax.tree_util.tree_map_with_path(fill, params)


def _traced_logits(config, params, *inputs):
    decoder = Decoder(config)
    h_BxLxD = decoder.apply({"params": params}, *inputs)
    return decoder.apply({"params": params}, h_BxLxD, method="unembed")


_logits = jax.jit(_traced_logits, static_argnums=0)


def _tokens(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, BASE.vocab_size, shape).astype(np.int32)


class CausalityTest(parameterized.TestCase):
    @parameterized.named_parameters((name, config) for name, config in FAMILIES.items())
    def test_by_gradient(self, config):
        """The state at position i depends on the token vectors at 0..i, and on no other.

        Every token of the row is another id, so the gradient with respect to the embedding row
        of token j is the gradient with respect to position j.
        """
        params = _params(config)
        tokens_1xL = np.arange(10, dtype=np.int32)[None]

        def state(table_VxD):
            changed = {**params, "embed": {"embedding": table_VxD}}
            return Decoder(config).apply({"params": changed}, tokens_1xL)[0, :, 0]

        by_table_LxVxD = jax.jit(jax.jacrev(state))(params["embed"]["embedding"])
        depends_LxM = np.any(np.asarray(by_table_LxVxD)[:, :10] != 0, axis=-1)
        np.testing.assert_array_equal(depends_LxM, np.tril(np.ones((10, 10), bool)))


class SegmentsTest(parameterized.TestCase):
    @parameterized.named_parameters(
        (f"{family}_{implementation}", family, implementation)
        for family in FAMILIES
        for implementation in ON_CPU
        if family == "llama" or implementation == "batched"
    )
    def test_packed_equals_alone(self, family, implementation):
        config = dataclasses.replace(FAMILIES[family], attention=implementation)
        params = _params(config)
        lengths = [5, 9, 3, 4]
        row_1xL = _tokens(1, sum(lengths))
        segments_1xL = np.repeat([1, 2, 3, 0], lengths)[None].astype(np.int32)
        positions_1xL = np.concatenate([np.arange(n) for n in lengths])[None].astype(np.int32)
        packed_LxV = _logits(config, params, row_1xL, segments_1xL, positions_1xL)[0]
        self.assertTrue(np.all(np.isfinite(packed_LxV)))
        starts = [0, 5, 14]
        rows_BxL = np.stack([np.roll(row_1xL[0], -start) for start in starts])  # each one first
        alone_BxLxV = _logits(config, params, rows_BxL)
        for document, (start, length) in enumerate(zip(starts, lengths[:3], strict=True)):
            ours_LxV = packed_LxV[start : start + length]
            np.testing.assert_allclose(ours_LxV, alone_BxLxV[document, :length], atol=2e-5)

    def test_a_row_of_padding_is_finite_in_value_and_gradient(self):
        config = FAMILIES["llama"]
        params = _params(config)
        tokens_1xL = np.zeros((1, 6), np.int32)

        def total(params):
            return jnp.sum(_traced_logits(config, params, tokens_1xL, tokens_1xL, tokens_1xL))

        for leaf in jax.tree.leaves(jax.jit(jax.value_and_grad(total))(params)):
            self.assertTrue(np.all(np.isfinite(leaf)))

    def test_without_isolation_the_rest_of_the_row_matters(self):
        config = FAMILIES["llama"]
        params = _params(config)
        tokens_1xL = _tokens(1, 8)
        one = _logits(config, params, tokens_1xL)
        two = _logits(config, params, tokens_1xL, np.array([[1] * 4 + [2] * 4]))
        np.testing.assert_allclose(one[:, :4], two[:, :4], atol=1e-5)
        self.assertGreater(np.abs(one[:, 4:] - two[:, 4:]).max(), 1e-3)

    def test_only_distances_matter_to_rotary(self):
        config = FAMILIES["llama"]
        params = _params(config)
        tokens_1xL = _tokens(1, 8)
        segments_1xL = np.ones((1, 8), np.int32)
        positions_1xL = np.arange(8, dtype=np.int32)[None]
        near = _logits(config, params, tokens_1xL, segments_1xL, positions_1xL)
        far = _logits(config, params, tokens_1xL, segments_1xL, positions_1xL + 20)
        np.testing.assert_allclose(near, far, atol=1e-4)
        stretched = _logits(config, params, tokens_1xL, segments_1xL, positions_1xL * 3)
        self.assertGreater(np.abs(near - stretched).max(), 1e-3)


@functools.lru_cache
def _score_and_gradient(config):
    tokens_BxL = _tokens(2, 16)

    def score(params):
        return jnp.mean(jax.nn.log_softmax(_traced_logits(config, params, tokens_BxL))[..., 0])

    return jax.jit(jax.value_and_grad(score))(_params(config))


class HiddenAtTest(parameterized.TestCase):
    @parameterized.named_parameters(
        *((name, FAMILIES[name]) for name in ("neox", "gpt2", "llama")),
        ("one_layer", dataclasses.replace(FAMILIES["neox"], num_layers=1)),
        ("unrolled", dataclasses.replace(FAMILIES["llama"], num_layers=3, scan_unroll=0)),
        ("xla", dataclasses.replace(FAMILIES["llama"], attention="xla")),
    )
    def test_equals_the_whole_picked(self, config):
        params, tokens_BxM = _params(config), _tokens(2, 12)
        segments_BxM = np.array([[1] * 5 + [2] * 7, [1] * 9 + [0] * 3], np.int32)
        positions_BxM = np.concatenate([np.arange(5), np.arange(7)])[None].repeat(2, 0)
        columns_BxL = np.array([[3, 4, 11], [8, 0, 0]], np.int32)

        def both(params, *rows):
            whole = Decoder(config).apply({"params": params}, *rows)
            some = decoder_lib.hidden_at(Decoder(config), params, rows, columns_BxL)
            return whole, some

        packed = (tokens_BxM, segments_BxM, positions_BxM.astype(np.int32))
        for rows in (packed, (tokens_BxM,)) if config is FAMILIES["neox"] else (packed,):
            whole_BxMxD, some_BxLxD = jax.jit(both)(params, *rows)
            expected = np.take_along_axis(np.asarray(whole_BxMxD), columns_BxL[..., None], 1)
            np.testing.assert_allclose(some_BxLxD, expected, atol=2e-5)


class ComputationTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ("unrolled", {"scan_unroll": 0}),
        ("remat_dots", {"remat": "dots"}),
        ("remat_full", {"remat": "full"}),
    )
    def test_same_value_and_gradient(self, changes):
        config = FAMILIES["neox"]
        expected = _score_and_gradient(config)
        actual = _score_and_gradient(dataclasses.replace(config, **changes))
        for ours, theirs in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-6, rtol=1e-4)

    def test_remat_saves_memory(self):
        """Each policy keeps less between the passes than the one before."""

        def temporaries(remat):
            config = dataclasses.replace(BASE, num_layers=6, remat=remat)
            params = jax.eval_shape(lambda: nn.unbox(Decoder(config).new_params(jax.random.key(0))))
            tokens = jax.ShapeDtypeStruct((4, 128), "int32")

            def total(params, tokens_BxL):
                return jnp.sum(Decoder(config).apply({"params": params}, tokens_BxL))

            compiled = jax.jit(jax.grad(total)).lower(params, tokens).compile()
            return compiled.memory_analysis().temp_size_in_bytes

        none, dots, full = (temporaries(remat) for remat in ("none", "dots", "full"))
        self.assertLess(dots, 0.8 * none)
        self.assertLess(full, 0.7 * dots)

    @parameterized.named_parameters((name, FAMILIES[name]) for name in ("gpt2", "llama"))
    def test_bfloat16_is_close_and_ends_in_float32(self, config):
        params = _params(config)
        tokens_BxL = _tokens(2, 16)
        exact = _logits(config, params, tokens_BxL)
        config = dataclasses.replace(config, compute_dtype="bfloat16")
        rounded = _logits(config, params, tokens_BxL)
        self.assertEqual(rounded.dtype, jnp.float32)
        hidden = jax.eval_shape(Decoder(config).apply, {"params": params}, tokens_BxL)
        self.assertEqual(hidden.dtype, jnp.bfloat16)
        error = np.sqrt(np.mean((rounded - exact) ** 2)) / np.std(exact)
        self.assertBetween(error, 1e-5, 0.03)


class ParamsTest(parameterized.TestCase):
    def test_plain_float32_with_a_leading_layer_axis(self):
        params = nn.unbox(jax.eval_shape(Decoder(BASE).new_params, jax.random.key(0)))
        self.assertEqual(set(params), {"embed", "layers", "final_norm", "unembed"})
        for leaf in jax.tree.leaves(params):
            self.assertEqual(leaf.dtype, jnp.float32)
        for leaf in jax.tree.leaves(params["layers"]):
            self.assertEqual(leaf.shape[0], BASE.num_layers)

    def test_layers_start_different_and_at_the_intended_scale(self):
        config = dataclasses.replace(BASE, width=128)
        params = nn.unbox(jax.jit(Decoder(config).new_params)(jax.random.key(0)))
        up_NxDxF = params["layers"]["mlp"]["up"]["kernel"]
        self.assertGreater(np.abs(up_NxDxF[0] - up_NxDxF[1]).max(), 0.01)
        np.testing.assert_allclose(np.std(up_NxDxF), (2 / (5 * 128)) ** 0.5, rtol=0.05)
        down_NxFxD = params["layers"]["mlp"]["down"]["kernel"]
        np.testing.assert_allclose(np.std(up_NxDxF) / np.std(down_NxFxD), 4**0.5, rtol=0.05)

    def test_rows_longer_than_learned_positions_are_refused(self):
        config = dataclasses.replace(BASE, position="learned", max_length=8)
        with self.assertRaisesRegex(UserError, "max_length 8"):
            jax.eval_shape(lambda p: _traced_logits(config, p, _tokens(1, 9)), _params(config))
