"""Every attention implementation: the same values, and no look across segments."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from llm_dynamics.errors import UserError
from llm_dynamics.model import attention
from llm_dynamics.model.config import ModelConfig

B, L, H, E = 2, 12, 4, 8
SEGMENTS_BxL = np.array([[1] * 5 + [2] * 4 + [0] * 3, [3] * 12], np.int32)
ON_CPU = ("reference", "batched", "xla")
PAIRS = [(f"{name}_{kv}", name, kv) for name in ON_CPU for kv in (4, 2, 1)]


def _inputs(kv_heads, dtype=jnp.float32, seed=0):
    rng = np.random.default_rng(seed)
    shapes = (B, L, H, E), (B, L, kv_heads, E), (B, L, kv_heads, E)
    return tuple(jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)


def _by_hand(q, k, v, segments_BxL):
    """Numpy, one query at a time."""
    out = np.zeros_like(q)
    for b, i, h in np.ndindex(B, L, H):
        keys = [j for j in range(i + 1) if segments_BxL[b, j] == segments_BxL[b, i]]
        head = h // (H // k.shape[2])
        scores = np.array([q[b, i, h] @ k[b, j, head] for j in keys]) / np.sqrt(E)
        weights = np.exp(scores - scores.max())
        out[b, i, h] = (weights / weights.sum()) @ v[b, keys, head]
    return out


class AttentionTest(parameterized.TestCase):
    @parameterized.named_parameters(PAIRS)
    def test_equals_the_definition(self, name, kv_heads):
        q, k, v = _inputs(kv_heads)
        mask_BxLxM = attention.attention_mask(jnp.asarray(SEGMENTS_BxL))
        attend = jax.jit(getattr(attention, name))
        expected = _by_hand(*map(np.asarray, (q, k, v)), SEGMENTS_BxL)
        np.testing.assert_allclose(attend(q, k, v, mask_BxLxM), expected, atol=1e-5)

    @parameterized.named_parameters(PAIRS)
    def test_gradients_agree_with_the_reference(self, name, kv_heads):
        inputs = _inputs(kv_heads)
        mask_BxLxM = attention.attention_mask(jnp.asarray(SEGMENTS_BxL))
        g_BxLxHxE = _inputs(kv_heads, seed=1)[0]

        def gradients(attend):
            def scalar(q, k, v):
                return jnp.sum(attend(q, k, v, mask_BxLxM) * g_BxLxHxE)

            return jax.jit(jax.grad(scalar, argnums=(0, 1, 2)))(*inputs)

        for ours, expected in zip(
            gradients(getattr(attention, name)), gradients(attention.reference), strict=True
        ):
            np.testing.assert_allclose(ours, expected, atol=1e-5)

    @parameterized.named_parameters((name, name) for name in ON_CPU)
    def test_nothing_crosses_a_segment(self, name):
        """By gradient: d out[i] / d (k, v)[j] is zero unless j <= i in the same segment."""
        q, k, v = _inputs(4)
        mask_BxLxM = attention.attention_mask(jnp.asarray(SEGMENTS_BxL))
        attend = getattr(attention, name)

        def sums(k, v):
            return jnp.sum(attend(q, k, v, mask_BxLxM), axis=(2, 3))

        by_k, by_v = jax.jit(jax.jacrev(sums, argnums=(0, 1)))(k, v)
        allowed = np.zeros((B, L, B, L), bool)
        for b in range(B):
            allowed[b, :, b] = np.asarray(mask_BxLxM[b])
        reads_value = np.abs(np.asarray(by_v)).sum(axis=(4, 5)) > 0
        np.testing.assert_array_equal(reads_value, allowed)
        reads_key = np.abs(np.asarray(by_k)).sum(axis=(4, 5)) > 0
        self.assertFalse(np.any(reads_key & ~allowed))

    @parameterized.named_parameters((name, name) for name in ON_CPU)
    def test_bfloat16_keeps_its_dtype_and_is_close(self, name):
        mask_BxLxM = attention.attention_mask(jnp.asarray(SEGMENTS_BxL))
        exact = jax.jit(attention.reference)(*_inputs(2), mask_BxLxM)
        rounded = jax.jit(getattr(attention, name))(*_inputs(2, jnp.bfloat16), mask_BxLxM)
        self.assertEqual(rounded.dtype, jnp.bfloat16)
        np.testing.assert_allclose(rounded.astype(jnp.float32), exact, atol=0.05)

    def test_mask(self):
        mask_BxLxM = attention.attention_mask(jnp.array([[1, 1, 2, 0, 0]]))
        expected = [
            [1, 0, 0, 0, 0],
            [1, 1, 0, 0, 0],
            [0, 0, 1, 0, 0],
            [0, 0, 0, 1, 0],
            [0, 0, 0, 1, 1],
        ]
        np.testing.assert_array_equal(mask_BxLxM[0], np.array(expected, bool))


class ResolveTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ("cpu", {}, "cpu", "batched"),
        ("tpu", {}, "tpu", "xla"),
        ("gpu_float32", {}, "gpu", "xla"),
        ("gpu_bfloat16", {"compute_dtype": "bfloat16"}, "gpu", "cudnn"),
        ("gpu_odd_heads", {"compute_dtype": "bfloat16", "head_dim": 12}, "gpu", "xla"),
        ("explicit", {"attention": "reference"}, "gpu", "reference"),
    )
    def test_choice(self, changes, platform, expected):
        attend = attention.resolve(ModelConfig(**changes), platform)
        self.assertIs(attend, getattr(attention, expected))

    def test_cudnn_refuses_a_cpu(self):
        config = ModelConfig(attention="cudnn", compute_dtype="bfloat16")
        with self.assertRaisesRegex(UserError, "cudnn"):
            attention.resolve(config, "cpu")
