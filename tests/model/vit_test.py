"""The image classifier: what it reads, what it costs, and that it learns."""

import dataclasses
import math

import flax.linen as nn
import jax
import numpy as np
from absl.testing import parameterized

from llm_dynamics.errors import UserError
from llm_dynamics.model import vit
from llm_dynamics.model.sharding import abstract_params
from llm_dynamics.model.vit import ViT, ViTConfig

SMALL = ViTConfig(
    image_size=6, channels=2, patch_size=3, classes=4, width=16, num_layers=2, num_heads=2,
    mlp_width=24, scan_unroll=1,
)  # fmt: skip


def _params(config):
    """Random values, drawn here as to compile their making takes longer than all the rest."""
    shapes = nn.unbox(jax.eval_shape(ViT(config).new_params, jax.random.key(0)))
    rng = np.random.default_rng(0)

    def drawn(keys, leaf):
        values = 0.1 * rng.standard_normal(leaf.shape).astype(np.float32)
        return values + 1 if keys[-1].key == "scale" else values

    return jax.tree_util.tree_map_with_path(drawn, shapes)


def _images(count=8):
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, 6, 6, 2)).astype(np.float32), np.arange(count) % 4


class ViTTest(parameterized.TestCase):
    def test_patches_row_by_row(self):
        images = np.arange(2 * 4 * 6 * 1).reshape(2, 4, 6, 1)
        patches_BxLxP = vit.cut(images, 2)
        self.assertEqual(patches_BxLxP.shape, (2, 6, 4))
        np.testing.assert_array_equal(patches_BxLxP[0, 1], [2, 3, 8, 9])
        np.testing.assert_array_equal(patches_BxLxP[1, 3], np.array([12, 13, 18, 19]) + 24)

    def test_every_pixel_counts_and_images_are_apart(self):
        params, (images, _) = _params(SMALL), _images(2)

        def first(images):
            return ViT(SMALL).apply({"params": params}, images)[0, 0]

        grad = np.asarray(jax.jit(jax.grad(first))(images))
        self.assertTrue((grad[0] != 0).all())
        self.assertTrue((grad[1] == 0).all())

    def test_patches_have_places(self):
        params, (images, _) = _params(SMALL), _images(2)
        forward = jax.jit(lambda p, x: ViT(SMALL).apply({"params": p}, x))
        turned = np.roll(images, 3, axis=2)
        placed = forward(params, images), forward(params, turned)
        self.assertGreater(np.abs(placed[0] - placed[1]).max(), 1e-5)
        params["positions"]["embedding"] = np.zeros((4, 16), np.float32)
        np.testing.assert_allclose(forward(params, images), forward(params, turned), atol=1e-6)

    def test_it_learns(self):
        params, (images, labels) = _params(SMALL), _images()
        step = jax.jit(jax.value_and_grad(lambda p: vit.loss(ViT(SMALL), p, images, labels)))
        losses = []
        for _ in range(30):
            value, grads = step(params)
            params = jax.tree.map(lambda p, g: p - 0.5 * g, params, grads)
            losses.append(float(value))
        self.assertAlmostEqual(losses[0], math.log(4), delta=0.2)
        self.assertLess(losses[-1], 0.5 * losses[0])
        per_image = vit.losses(ViT(SMALL), params, images, labels)
        self.assertEqual(per_image.shape, (8,))
        self.assertBetween(float(vit.accuracy(ViT(SMALL), params, images, labels)), 0.5, 1)

    def test_flops_count_the_weights_in_products(self):
        params = abstract_params(ViT(SMALL))
        head = math.prod(params.pop("head")["kernel"].shape)
        leaves = jax.tree_util.tree_flatten_with_path(params)[0]
        weights = sum(math.prod(x.shape) for path, x in leaves if path[-1].key == "kernel")
        expected = 6 * (4 * weights + head) + 12 * 2 * 16 * 4 * 4
        self.assertEqual(vit.flops_per_image(SMALL), expected)

    @parameterized.parameters(
        ({"image_size": 7}, "not a multiple of patch_size 3"),
        ({"classes": 1}, "classes must be at least 2"),
        ({"channels": 0}, "channels must be at least 1"),
        ({"num_heads": 3}, "width 16 is not a multiple of num_heads 3"),
        ({"norm": "layer"}, "did you mean 'layernorm'"),
    )
    def test_what_is_no_model(self, changes, words):
        with self.assertRaisesRegex(UserError, words):
            dataclasses.replace(SMALL, **changes)

    def test_images_of_another_shape(self):
        with self.assertRaisesRegex(UserError, "expected images of 6x6x2 .* got 8x8x1"):
            ViT(SMALL).apply({"params": {}}, np.zeros((1, 8, 8, 1)))
