"""The chunked cross-entropy: the full one in value and gradient, in far less memory."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from llm_dynamics.batch import Batch
from llm_dynamics.model import loss
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.model.decoder import Decoder
from llm_dynamics.model.sharding import abstract_params

B, L = 3, 14
BASE = ModelConfig(vocab_size=101, width=32, num_layers=1, num_heads=2, mlp_width=32, scan_unroll=1)


def _batch(rows=B, length=L, vocab_size=101):
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, vocab_size, (rows, length + 1)).astype(np.int32)
    segment_ids_BxL = np.sort(rng.integers(0, 3, (rows, length))).astype(np.int32)
    positions_BxL = np.tile(np.arange(length, dtype=np.int32), (rows, 1))
    mask_BxL = (segment_ids_BxL > 0).astype(np.float32)
    return Batch(tokens[:, :-1], tokens[:, 1:], segment_ids_BxL, positions_BxL, mask_BxL)


def _params(config):
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda x: rng.normal(size=x.shape).astype(np.float32) * 0.3,
        abstract_params(Decoder(config)),
    )


def _full_losses(decoder, params, batch):
    variables = {"params": params}
    h_BxLxD = decoder.apply(variables, batch.tokens_BxL, batch.segment_ids_BxL, batch.positions_BxL)
    logits_BxLxV = decoder.apply(variables, h_BxLxD, method="unembed")
    picked = jnp.take_along_axis(
        jax.nn.log_softmax(logits_BxLxV), batch.targets_BxL[..., None], axis=-1
    )
    return -picked[..., 0]


def _mean_loss(loss_BxL, mask_BxL):
    return jnp.sum(loss_BxL * mask_BxL) / jnp.sum(mask_BxL)


def _uneven_sum(losses):
    """A scalar whose cotangent differs from token to token and is negative for some."""

    def scalar(decoder, params, batch):
        loss_BxL = losses(decoder, params, batch)
        return jnp.sum(loss_BxL * jnp.cos(jnp.arange(loss_BxL.size)).reshape(loss_BxL.shape))

    return scalar


@functools.lru_cache
def _expected(config, what):
    decoder, batch = Decoder(config), _batch()

    def mean(decoder, params, batch):
        return _mean_loss(_full_losses(decoder, params, batch), batch.mask_BxL)

    scalar = {"mean": mean, "uneven": _uneven_sum(_full_losses)}[what]
    return jax.jit(jax.value_and_grad(lambda p: scalar(decoder, p, batch)))(_params(config))


def _assert_close(actual, expected, **tolerance):
    for ours, theirs in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, **tolerance)


class ChunkedLossTest(parameterized.TestCase):
    @parameterized.parameters((1, False), (15, True), (10_000, False))
    def test_token_losses_equal_the_full_ones(self, chunk, tied):
        """Chunks of one position, of five of fourteen (not a divisor), and of all."""
        config = dataclasses.replace(BASE, tie_embeddings=tied)
        decoder = Decoder(dataclasses.replace(config, loss_chunk=chunk))
        scalar = _uneven_sum(loss.token_losses)
        actual = jax.jit(jax.value_and_grad(lambda p: scalar(decoder, p, _batch())))(
            _params(config)
        )
        _assert_close(actual, _expected(config, "uneven"), atol=2e-5, rtol=1e-5)

    @parameterized.parameters((1, False), (15, True), (0, False))
    def test_training_loss_equals_the_full_mean(self, chunk, tied):
        config = dataclasses.replace(BASE, tie_embeddings=tied)
        decoder = Decoder(dataclasses.replace(config, loss_chunk=chunk))

        def value_and_grad(params):
            return jax.value_and_grad(loss.training_loss, argnums=1, has_aux=True)(
                decoder, params, _batch()
            )

        (mean, loss_BxL), gradient = jax.jit(value_and_grad)(_params(config))
        _assert_close((mean, gradient), _expected(config, "mean"), atol=1e-6, rtol=2e-5)
        np.testing.assert_allclose(_mean_loss(loss_BxL, _batch().mask_BxL), mean, rtol=1e-6)

    def test_microbatches_add_up(self):
        """Gradients of parts divided by the count of the whole sum to that of the whole."""
        decoder, params, batch = Decoder(BASE), _params(BASE), _batch()
        count = np.sum(batch.mask_BxL)

        @jax.jit
        def gradient(params, batch):
            return jax.grad(lambda p: 3.0 * loss.training_loss(decoder, p, batch, count)[0])(params)

        parts = [jax.tree.map(lambda x, i=i: x[i : i + 1], batch) for i in range(B)]
        total = jax.tree.map(lambda *xs: sum(xs), *[gradient(params, part) for part in parts])
        _assert_close(total, gradient(params, batch), atol=1e-6, rtol=1e-4)

    def test_masked_labels_leave_no_trace(self):
        decoder, params, batch = Decoder(BASE), _params(BASE), _batch()
        changed = np.where(batch.mask_BxL > 0, batch.targets_BxL, 7)

        @jax.jit
        def gradient(targets_BxL):
            altered = batch._replace(targets_BxL=targets_BxL)
            return jax.grad(lambda p: loss.training_loss(decoder, p, altered)[0])(params)

        self.assertTrue(np.any(changed != batch.targets_BxL))
        _assert_close(gradient(changed), gradient(batch.targets_BxL), atol=0, rtol=0)

    def test_nothing_counts(self):
        batch = _batch()._replace(mask_BxL=np.zeros((B, L), np.float32))
        mean, _ = jax.jit(lambda p: loss.training_loss(Decoder(BASE), p, batch))(_params(BASE))
        self.assertEqual(mean, 0.0)

    def test_bfloat16_is_close(self):
        config = dataclasses.replace(BASE, compute_dtype="bfloat16")
        decoder, params = Decoder(config), _params(BASE)

        def value_and_grad(params):
            return jax.value_and_grad(loss.training_loss, argnums=1, has_aux=True)(
                decoder, params, _batch()
            )

        (mean, loss_BxL), gradient = jax.jit(value_and_grad)(params)
        self.assertEqual(loss_BxL.dtype, jnp.float32)
        expected_mean, expected = _expected(BASE, "mean")
        np.testing.assert_allclose(mean, expected_mean, rtol=0.01)
        for ours, theirs in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
            self.assertEqual(ours.dtype, jnp.float32)
            error = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
            self.assertLess(error, 0.1)


def _temporaries(function, config, rows, length):
    """Bytes of temporaries of the gradient of a loss, from the compiled program."""
    decoder = Decoder(config)
    batch = jax.eval_shape(lambda: _batch(rows, length))

    def gradient(params, batch):
        return jax.grad(lambda p: function(decoder, p, batch))(params)

    compiled = jax.jit(gradient).lower(abstract_params(decoder), batch).compile()
    return compiled.memory_analysis().temp_size_in_bytes


class MemoryTest(parameterized.TestCase):
    def test_logits_never_exist_at_once(self):
        config = dataclasses.replace(BASE, vocab_size=4096, loss_chunk=64)
        all_logits = 4 * 4 * 128 * 4096
        mean = {
            "full": lambda *args: jnp.mean(_full_losses(*args)),
            "chunked": lambda *args: jnp.mean(loss.token_losses(*args)),
            "training": lambda *args: loss.training_loss(*args)[0],
        }
        used = {name: _temporaries(f, config, 4, 128) for name, f in mean.items()}
        self.assertGreater(used["full"], all_logits)
        self.assertLess(used["chunked"], 0.5 * all_logits)
        self.assertLess(used["training"], 0.5 * all_logits)
