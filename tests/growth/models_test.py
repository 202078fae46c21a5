"""Models other than decoders grow through the same code: an encoder and a classifier of images."""

import dataclasses
import functools
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from llm_dynamics.batch import Batch
from llm_dynamics.growth import apply, axes, ligo, presets, traits
from llm_dynamics.growth.presets import Pair
from llm_dynamics.model import masking, size
from llm_dynamics.model import presets as models
from llm_dynamics.model.build import build_model
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.model.loss import training_loss
from llm_dynamics.model.vit import ViTConfig

VIT = ViTConfig(
    image_size=6, patch_size=3, classes=5, width=16, num_layers=2, num_heads=2, head_dim=8,
    mlp_width=24, scan_unroll=1,
)  # fmt: skip
BERT = ModelConfig(
    kind="encoder", vocab_size=53, width=16, num_layers=2, num_heads=2, head_dim=8, mlp_width=24,
    max_length=8, norm_eps=1e-12, position="learned", use_bias=True, tie_embeddings=True,
    scan_unroll=1,
)  # fmt: skip
HIDDEN = {"num_heads": 3, "mlp_width": 40}
EVERYTHING = {**HIDDEN, "width": 32, "num_layers": 3}
IMAGES = np.random.default_rng(1).normal(size=(4, 6, 6, 1)).astype(np.float32)
TOKENS = np.random.default_rng(1).integers(52, size=(4, 8)).astype(np.int32)


@functools.lru_cache
def _graph(config):
    return axes.graph(jax.eval_shape(build_model(config).new_params, jax.random.key(0)))


def _pair(small, large):
    return Pair(_graph(small), _graph(large), traits.of_model(small), traits.of_model(large))


@functools.lru_cache
def _params(config):
    """Parameters in which nothing is at its neutral value."""
    shapes = nn.unbox(jax.eval_shape(build_model(config).new_params, jax.random.key(0)))
    rng = np.random.default_rng(0)

    def drawn(keys, leaf):
        spread = 0.3 if keys[-1].key in ("scale", "bias") else 0.1
        values = spread * rng.standard_normal(leaf.shape).astype(np.float32)
        return values + 1 if keys[-1].key == "scale" else values

    return jax.tree_util.tree_map_with_path(drawn, shapes)


@functools.partial(jax.jit, static_argnums=0)
def _logits(config, params):
    model = build_model(config)
    if isinstance(config, ViTConfig):
        return model.apply({"params": params}, IMAGES)
    hidden = model.apply({"params": params}, TOKENS)
    return model.apply({"params": params}, hidden, method="unembed")


def _output(config, params):
    return np.asarray(_logits(config, params))


def _grow(width, depth, small, changes):
    large = dataclasses.replace(small, **changes)
    eps = presets.WIDTHS[width](_pair(small, large)).eps
    if eps is not None:
        large = dataclasses.replace(large, norm_eps=eps)
    pair = _pair(small, large)
    operator = presets.make(pair, width, depth)
    params = apply.grow(
        operator, pair.source, pair.target, _params(small), jax.random.key(1),
        pair.traits.head_norm,
    )  # fmt: skip
    shapes = {path: np.shape(value) for path, value in apply.flat(params).items()}
    assert shapes == {path: param.shape for path, param in pair.target.params.items()}
    error = np.abs(_output(large, params) - _output(small, _params(small))).max()
    return operator, error


class GraphTest(parameterized.TestCase):
    def test_encoder(self):
        graph = _graph(BERT)
        self.assertEqual(graph.num_params(), size.num_params(BERT))
        self.assertEqual(graph.layers, 2)
        self.assertEqual((graph.sizes["embed"], graph.sizes["transform"]), (16, 16))
        transform = graph.params["transform/kernel"]
        self.assertEqual((transform.reads, transform.writes), (("embed",), ("transform",)))
        self.assertEqual(graph.params["head_norm/scale"].kind, "gain")
        self.assertEqual(graph.params["head_norm/bias"].writes, ("transform",))
        self.assertEqual(graph.params["embed_norm/scale"].writes, ("embed",))
        self.assertEqual(graph.params["layers/mlp_norm/bias"].kind, "shift")
        self.assertIn(traits.of_model(BERT).head_norm, {p.module for p in graph.params.values()})

    def test_classifier(self):
        graph = _graph(VIT)
        self.assertEqual(graph.layers, 2)
        self.assertEqual((graph.sizes["patch"], graph.sizes["classes"]), (9, 5))
        patches, head = graph.params["patches/kernel"], graph.params["head/kernel"]
        self.assertEqual((patches.reads, patches.writes), (("patch",), ("embed",)))
        self.assertEqual((head.reads, head.writes), (("embed",), ("classes",)))
        self.assertIn(traits.of_model(VIT).head_norm, {p.module for p in graph.params.values()})


class ClassifierTest(parameterized.TestCase):
    @parameterized.product(
        width=("tile", "zero_pad"),
        changes=({"width": 32}, HIDDEN, {"num_layers": 5}, EVERYTHING),
    )
    def test_exact(self, width, changes):
        operator, error = _grow(width, "identity", VIT, changes)
        self.assertTrue(operator.exact, operator.broken)
        self.assertLess(error, 1e-5)

    def test_stack_is_not(self):
        operator, error = _grow("tile", "stack", VIT, {"num_layers": 4})
        self.assertFalse(operator.exact)
        self.assertGreater(error, 1e-2)


class EncoderTest(parameterized.TestCase):
    @parameterized.parameters("tile", "zero_pad", "lemon", "net2net")
    def test_heads_and_units_are_exact(self, width):
        operator, error = _grow(width, "identity", BERT, HIDDEN)
        self.assertTrue(operator.exact, operator.broken)
        self.assertLess(error, 1e-5)

    @parameterized.product(changes=({"width": 32}, {"width": 32, **HIDDEN}))
    def test_whole_tiles_are_exact(self, changes):
        """Norms of a tiled sum are tiled, and the tied head reads every copy of the transform."""
        operator, error = _grow("tile", "identity", BERT, changes)
        self.assertTrue(operator.exact, operator.broken)
        self.assertLess(error, 1e-5)

    @parameterized.product(
        width=("zero_pad", "tile", "lemon", "net2net", "aki", "copy", "rms"), size=(24, 32)
    )
    def test_every_width_fits(self, width, size):
        changes = {**EVERYTHING, "width": size, "num_layers": 2}
        operator, error = _grow(width, "stack", BERT, changes)
        self.assertEqual(operator.exact, width == "tile" and size == 32)
        self.assertEqual(error < 1e-5, operator.exact)

    @parameterized.parameters("identity", "stack")
    def test_no_depth_is_exact(self, depth):
        """A norm behind a branch that adds nothing norms once more."""
        operator, error = _grow("tile", depth, BERT, {"num_layers": 4})
        words = "norms behind the branches" if depth == "identity" else "adds layers"
        self.assertIn(words, " ".join(operator.broken))
        self.assertGreater(error, 1e-2)

    @parameterized.parameters("shared", "paper", "released", "untied")
    def test_ligo_has_a_gradient_everywhere(self, preset):
        config = dataclasses.replace(ligo.PRESETS[preset], depth_start="stack_noisy")
        large = dataclasses.replace(BERT, width=24, num_heads=3, mlp_width=40, num_layers=3)
        pair, model = _pair(BERT, large), build_model(large)
        batch = masking.objective(large, 0)(
            Batch(TOKENS, TOKENS, np.ones_like(TOKENS), TOKENS * 0 + np.arange(8), TOKENS * 0.0), 0
        )
        start = jax.tree.map(jnp.asarray, ligo.init(config, pair))
        self.assertIn("transform", start["write"])

        def loss(learned):
            operator = ligo.operator(config, pair, learned)
            params = apply.grow(operator, pair.source, pair.target, _params(BERT))
            return training_loss(model, params, batch)[0]

        value, grads = jax.jit(jax.value_and_grad(loss))(start)
        self.assertTrue(np.isfinite(value))
        # Nothing reads queries and keys but each other, nor the transform but the tied head.
        for role in ("query_heads+query_dim", "key_heads+key_dim", "transform"):
            grads.get("read", {}).pop(role, None)
        # Keys' biases shift all scores of a query alike, so nothing is seen of their blend.
        grads["depth"].pop("layers/attention/key/bias", None)
        for path, grad in apply.flat(grads).items():
            self.assertTrue(np.isfinite(grad).all(), path)
            self.assertGreater(np.abs(grad).max(), 1e-9, path)

    def test_numbers_of_the_released_operator(self):
        """As instantiated from the released code; its bias of the output is copied, not grown."""
        small, base = models.named("bert-small"), models.named("bert-base")

        def light(start, old, new, rng):
            return np.zeros((new, old), np.float32)

        with mock.patch.object(ligo, "_width_start", light):
            learned = ligo.init(ligo.PRESETS["released"], _pair(small, base))
        self.assertEqual(ligo.num_learned(learned), 30_147_712)
        self.assertEqual(learned["write"]["transform"].shape, (256, 512))
