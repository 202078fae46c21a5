"""Every attention implementation: the same values, and no look across segments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
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

    @parameterized.named_parameters(pair for pair in PAIRS if pair[1] != "reference")
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
    def test_fewer_queries_than_keys(self, name):
        """Values and gradients of the queries 2, 5 and 11 alone, as the definition has them."""
        q, k, v = _inputs(2)
        mask_BxLxM = attention.attention_mask(jnp.asarray(SEGMENTS_BxL))
        some = np.array([2, 5, 11])

        def of_some(q, k, v, attend):
            return jnp.sum(jnp.sin(attend(q[:, some], k, v, mask_BxLxM[:, some])))

        def of_all(q, k, v):
            return jnp.sum(jnp.sin(attention.reference(q, k, v, mask_BxLxM)[:, some]))

        ours = jax.value_and_grad(of_some, (0, 1, 2))(q, k, v, getattr(attention, name))
        expected = jax.value_and_grad(of_all, (0, 1, 2))(q, k, v)
        for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)

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

    @parameterized.named_parameters((name, name) for name in ON_CPU)
    def test_bfloat16_gradients_are_close(self, name):
        """Values off 0 cancel in the gradient of the scores and show sums of rounded products.

        Run step by step: compiled, XLA may leave such a rounding out.
        """
        q, k, v = _inputs(2, jnp.bfloat16, seed=5)
        g_BxLxHxE = _inputs(2, jnp.bfloat16, seed=6)[0]
        mask_BxLxM = attention.attention_mask(jnp.asarray(SEGMENTS_BxL))

        def gradients(attend, *inputs):
            out, pull = jax.vjp(lambda *inputs: attend(*inputs, mask_BxLxM), *inputs)
            return [np.asarray(x, np.float32) for x in pull(g_BxLxHxE.astype(out.dtype))]

        inputs = q, k, v + 2
        exact = gradients(attention.reference, *(x.astype(jnp.float32) for x in inputs))
        for ours, theirs in zip(gradients(getattr(attention, name), *inputs), exact, strict=True):
            self.assertLess(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs), 0.0115)

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
        ("gpu", {"compute_dtype": "bfloat16"}, "gpu", "xla"),
        ("gpu_asked", {"compute_dtype": "bfloat16", "attention": "cudnn"}, "gpu", "cudnn"),
        ("explicit", {"attention": "reference"}, "gpu", "reference"),
    )
    def test_choice(self, changes, platform, expected):
        attend = attention.resolve(ModelConfig(**changes), platform)
        self.assertIs(attend, getattr(attention, expected))

    @parameterized.named_parameters(
        ("a_cpu", {}, "cpu"),
        ("float32", {"compute_dtype": "float32"}, "gpu"),
        ("odd_heads", {"head_dim": 12}, "gpu"),
    )
    def test_cudnn_refuses(self, changes, platform):
        settings = {"attention": "cudnn", "compute_dtype": "bfloat16"} | changes
        with self.assertRaisesRegex(UserError, "attention 'cudnn' expects"):
            attention.resolve(ModelConfig(**settings), platform)


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="cuDNN needs an NVIDIA GPU")
def test_cudnn_is_isolated_and_agrees_with_the_reference():
    """Changing the tokens of one segment leaves the outputs and gradients of the others alone."""
    rng = np.random.default_rng(0)
    segments_1xL = np.repeat([1, 2, 3, 0], [40, 50, 30, 8])[None]
    mask_BxLxM = attention.attention_mask(jnp.asarray(segments_1xL))
    q, k, v = (jnp.asarray(rng.normal(size=(1, 128, 4, 64)), jnp.bfloat16) for _ in range(3))
    other = segments_1xL[0] == 2
    counted_LxHxE = np.where(other, 0, 1)[:, None, None]  # the loss of all other segments

    def run(attend, k, v):
        def total(q, k, v):
            out = attend(q, k, v, mask_BxLxM).astype(jnp.float32)
            return jnp.sum(out * out * counted_LxHxE), out

        return jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True))(q, k, v)

    (_, out), gradients = run(attention.cudnn, k, v)
    for gradient in gradients:
        assert not np.any(np.asarray(gradient, np.float32)[0, other])
    changed = [x.at[:, other].add(3) for x in (k, v)]
    (_, again), _ = run(attention.cudnn, *changed)
    np.testing.assert_array_equal(out[0, ~other], again[0, ~other])
    (_, expected), by_reference = run(attention.reference, k, v)
    np.testing.assert_allclose(out, expected, atol=0.05)
    for ours, theirs in zip(gradients, by_reference, strict=True):
        ours, theirs = (np.asarray(x, np.float32) for x in (ours, theirs))
        assert np.linalg.norm(ours - theirs) < 0.03 * np.linalg.norm(theirs)
