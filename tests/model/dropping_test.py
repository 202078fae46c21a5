"""What is dropped of a step: how often, that it is exactly absent, and nothing where nothing is."""

import dataclasses
import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from llm_dynamics.batch import Batch
from llm_dynamics.errors import UserError
from llm_dynamics.model import dropping, size
from llm_dynamics.model.build import build_model, layer_of
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.model.dropping import Kept, LayerKept
from llm_dynamics.model.loss import training_loss

N, B, LENGTH, V = 4, 3, 10, 48
DECODER = ModelConfig(
    vocab_size=V, width=16, num_layers=N, num_heads=2, mlp_width=32, max_length=16, scan_unroll=1
)
ENCODER = dataclasses.replace(
    DECODER, kind="encoder", position="learned", tie_embeddings=True, use_bias=True
)
MODELS = {"decoder": DECODER, "encoder": ENCODER}
BY_KIND = tuple(MODELS.items())


@functools.lru_cache
def _params(config):
    """Random values everywhere, large enough that every layer changes its input."""
    params = nn.unbox(jax.eval_shape(build_model(config).new_params, jax.random.key(0)))
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        values = rng.normal(size=leaf.shape).astype(np.float32) * 0.3
        return values + 1 if path[-1].key == "scale" else values

    return jax.tree_util.tree_map_with_path(fill, params)


def _batch():
    tokens_BxM = np.random.default_rng(1).integers(0, V, (B, LENGTH + 1)).astype(np.int32)
    segments_BxL = np.ones((B, LENGTH), np.int32)
    segments_BxL[1, 6:] = 2
    positions_BxL = np.tile(np.arange(LENGTH, dtype=np.int32), (B, 1))
    mask_BxL = np.ones((B, LENGTH), np.float32)
    return Batch(tokens_BxM[:, :-1], tokens_BxM[:, 1:], segments_BxL, positions_BxL, mask_BxL)


def _kept():
    """Every row misses another layer; a fifth of the tokens, the first of a row among them."""
    weight_BxN = np.array([[1, 0, 1.25, 1], [1, 1.1, 0, 1.5], [1, 1.1, 1, 0]], np.float32)
    token_BxL = np.random.default_rng(2).random((B, LENGTH)) > 0.2
    token_BxL[0, 0] = token_BxL[1, 6] = False
    return Kept(weight_BxN, token_BxL)


@functools.lru_cache
def _inside(config):
    """What layers read: the stream, which keys are visible, and angles."""
    batch = _batch()
    rows = batch.tokens_BxL, batch.segment_ids_BxL, batch.positions_BxL
    model = build_model(config)
    return jax.jit(lambda p: model.apply({"params": p}, *rows, method="embedded"))(_params(config))


@functools.lru_cache
def _compiled(config):
    layer = layer_of(config)
    return jax.jit(lambda params, *inputs: layer.apply({"params": params}, *inputs)[0])


def _layer(config, n, h, mask, kept=None, angles=None):
    weights = jax.tree.map(lambda x: x[n], _params(config)["layers"])
    return np.asarray(_compiled(config)(weights, h, mask, angles or _inside(config)[2], kept))


class DrawTest(parameterized.TestCase):
    def test_rates(self):
        config = dataclasses.replace(DECODER, num_layers=5)
        draw = dropping.draws(config, 7, layer_drop=0.4, token_drop=0.15)
        batch = jax.tree.map(lambda x: np.repeat(x[:1], 50, axis=0), _batch())
        steps_S = jnp.arange(100)
        found = jax.jit(lambda steps: jax.vmap(lambda t: draw(batch, t))(steps))(steps_S)
        trials = 100 * 50
        rates_N = [0.4 * i / 5 for i in range(5)]
        for n, rate in enumerate(rates_N):
            weight = np.asarray(found.weight_BxN)[:, :, n]
            # Four standard deviations of a binomial count.
            slack = 4 * math.sqrt(trials * rate * (1 - rate))
            self.assertBetween((weight == 0).sum(), trials * rate - slack, trials * rate + slack)
            np.testing.assert_allclose(weight[weight > 0], 1 / (1 - rate), rtol=1e-6)
        gone_N = (np.asarray(found.weight_BxN) == 0).sum(axis=(0, 1))
        self.assertEqual(gone_N[0], 0)
        # Rows and layers are drawn apart.
        both = ((np.asarray(found.weight_BxN)[:, :, 3:] == 0).all(axis=-1)).mean()
        self.assertAlmostEqual(both, rates_N[3] * rates_N[4], delta=0.02)
        dropped = ~np.asarray(found.token_BxL)
        slack = 4 * math.sqrt(dropped.size * 0.15 * 0.85)
        self.assertAlmostEqual(dropped.sum(), 0.15 * dropped.size, delta=slack)
        self.assertEqual(dropped.shape, (100, 50, LENGTH))

    def test_decided_by_seed_and_step(self):
        def at(seed, step):
            return dropping.draws(DECODER, seed, layer_drop=0.5, token_drop=0.3)(_batch(), step)

        def same(one, other):
            return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))

        self.assertTrue(same(at(1, 5), jax.tree.map(np.asarray, at(1, jnp.int32(5)))))
        self.assertFalse(same(at(1, 5), at(1, 6)))
        self.assertFalse(same(at(1, 5), at(2, 5)))

    def test_one_alone_draws_only_that(self):
        layers = dropping.draws(DECODER, 0, layer_drop=0.1, token_drop=0.0)(_batch(), 0)
        tokens = dropping.draws(DECODER, 0, layer_drop=0.0, token_drop=0.1)(_batch(), 0)
        self.assertIsNone(layers.token_BxL)
        self.assertIsNone(tokens.weight_BxN)
        self.assertIsNone(dropping.draws(DECODER, 0, layer_drop=0.0, token_drop=0.0)(_batch(), 0))

    @parameterized.parameters(
        (4, -0.1, 0.0, "train.layer_drop of at least 0 and below 1, got -0.1"),
        (4, 1.0, 0.0, "train.layer_drop .* got 1.0"),
        (4, 0.0, 1.0, "train.token_drop .* got 1.0"),
        (4, 0.0, math.nan, "train.token_drop .* got nan"),
        (1, 0.1, 0.0, "at least 2 layers, got 1"),
        (2, 0.0, 0.1, "at least 3 layers, got 2"),
    )
    def test_refused(self, layers, layer_drop, token_drop, message):
        config = dataclasses.replace(DECODER, num_layers=layers)
        with self.assertRaisesRegex(UserError, message):
            dropping.draws(config, 0, layer_drop, token_drop)


class LayerTest(parameterized.TestCase):
    @parameterized.named_parameters(*BY_KIND)
    def test_a_dropped_layer_adds_nothing_and_a_plain_one_is_the_mean(self, config):
        h, mask = map(np.asarray, _inside(config)[:2])
        whole = _layer(config, 1, h, mask)
        self.assertGreater(np.abs(whole - h).min(axis=(1, 2)).max(), 0)
        skipped = _layer(config, 1, h, mask, LayerKept(np.array([0, 1, 1.25], np.float32), None))
        np.testing.assert_array_equal(skipped[0], h[0])
        np.testing.assert_array_equal(skipped[1], whole[1])
        # Kept with probability 0.8 at weight 1 / 0.8: the mean is the layer as it is evaluated.
        np.testing.assert_allclose(0.8 * skipped[2] + 0.2 * h[2], whole[2], atol=1e-5)

    @parameterized.named_parameters(
        *BY_KIND, ("decoder_xla", dataclasses.replace(DECODER, attention="xla"))
    )
    def test_dropped_tokens_pass_unchanged_and_unseen(self, config):
        h, mask = map(np.asarray, _inside(config)[:2])
        token_BxL = _kept().token_BxL
        self.assertBetween((~token_BxL).sum(), 2, 12)
        found = _layer(config, 1, h, mask, LayerKept(None, token_BxL))
        np.testing.assert_array_equal(found[~token_BxL], h[~token_BxL])
        noise = np.random.default_rng(3).normal(size=h.shape).astype(np.float32)
        other = np.where(token_BxL[:, :, None], h, noise)
        changed = _layer(config, 1, other, mask, LayerKept(None, token_BxL))
        np.testing.assert_array_equal(found[token_BxL], changed[token_BxL])
        # Seen if they are not dropped, so the test above could fail.
        self.assertFalse(np.array_equal(_layer(config, 1, other, mask)[0, 1:],
                                        _layer(config, 1, h, mask)[0, 1:]))  # fmt: skip

        # As if the row had never had them.
        left = np.flatnonzero(token_BxL[0])
        angles = _inside(config)[2]
        if angles is not None:
            angles = tuple(np.asarray(a)[:1, left] for a in angles)
        short = _layer(config, 1, h[:1, left], mask[:1, left][:, :, left], angles=angles)
        np.testing.assert_allclose(found[0, left], short[0], atol=1e-5)


class ModelTest(parameterized.TestCase):
    @parameterized.named_parameters(
        *((f"{kind}_scanned", config) for kind, config in MODELS.items()),
        ("unrolled", dataclasses.replace(DECODER, scan_unroll=N)),
    )
    def test_layer_by_layer(self, config):
        """The whole model against a loop over its layers that skips by index."""
        batch, model, params = _batch(), build_model(config), _params(config)

        @jax.jit
        def scanned(params, kept):
            rows = batch.tokens_BxL, batch.segment_ids_BxL, batch.positions_BxL
            return model.apply({"params": params}, *rows, kept=kept)

        everything = Kept(np.ones((B, N), np.float32), np.ones((B, LENGTH), bool))
        for kept in (_kept(), everything):
            h, mask = map(np.asarray, _inside(config)[:2])
            for n in range(N):
                hidden_BxLxM = np.zeros((B, LENGTH, LENGTH), bool)
                passes_BxL = np.zeros((B, LENGTH), bool)
                if 0 < n < N - 1:
                    passes_BxL = ~kept.token_BxL
                    hidden_BxLxM |= passes_BxL[:, None, :]
                    hidden_BxLxM[:, range(LENGTH), range(LENGTH)] = False
                after = _layer(config, n, h, mask & ~hidden_BxLxM)
                mixed = h + kept.weight_BxN[:, n, None, None] * (after - h)
                h = np.where(passes_BxL[:, :, None], h, mixed)
            expected = _head_input(config, h)
            np.testing.assert_allclose(scanned(params, kept), expected, atol=3e-5)

    @parameterized.named_parameters(
        ("decoder", DECODER), ("encoder", dataclasses.replace(ENCODER, remat="dots"))
    )
    def test_a_layer_that_every_row_skips_gets_no_gradient(self, config):
        weight_BxN = np.ones((B, N), np.float32)
        weight_BxN[:, 2] = 0
        kept, model = Kept(weight_BxN, _kept().token_BxL), build_model(config)
        mean = jax.jit(jax.grad(lambda p: training_loss(model, p, _batch(), kept=kept)[0]))
        grads = mean(_params(config))["layers"]
        for leaf in jax.tree.leaves(grads):
            self.assertFalse(np.asarray(leaf)[2].any())
            self.assertTrue(np.isfinite(leaf).all())
        self.assertTrue(np.asarray(grads["mlp"]["up"]["kernel"])[1].any())

    @parameterized.named_parameters(*BY_KIND)
    def test_a_program_that_drops_nothing_is_the_same(self, config):
        model, batch = build_model(config), _batch()

        def program(*kept):
            loss = jax.grad(lambda p: training_loss(model, p, batch, None, *kept)[0])
            return str(jax.make_jaxpr(loss)(_params(config)))

        self.assertEqual(program(), program(None))
        self.assertNotEqual(program(), program(_kept()))


def _head_input(config, h):
    """What the model makes of the stream after its last layer."""

    def rest(model, h):
        if config.causal:
            return model.final_norm(h)
        return model.head_norm(nn.gelu(model.transform(h), approximate=False))

    return jax.jit(nn.apply(rest, build_model(config)))({"params": _params(config)}, h)


class FlopsTest(parameterized.TestCase):
    def test_by_hand(self):
        config = ModelConfig(vocab_size=10, width=4, num_layers=4, num_heads=2, mlp_width=8)
        weights, scores = 6 * 128, 12 * 2 * 2 * 3  # of a layer; see config_test.py
        found = functools.partial(dropping.skippable_flops_per_token, config, 3)
        self.assertEqual(found(0.0, 0.0), 0)
        # Rates 0, 0.05, 0.1, 0.15.
        self.assertAlmostEqual(found(0.2, 0.0), 0.3 * (weights + scores))
        # Two middle layers; a token that is gone is neither query nor key.
        self.assertAlmostEqual(found(0.0, 0.25), 2 * (0.25 * weights + (1 - 0.75**2) * scores))
        middle = 0.75 * weights + 0.75**2 * scores
        spent = (1 + 0.85) * (weights + scores) + (0.95 + 0.9) * middle
        self.assertAlmostEqual(found(0.2, 0.25), 4 * (weights + scores) - spent)
        self.assertLess(found(0.99, 0.99), size.flops_per_token(config, 3))
