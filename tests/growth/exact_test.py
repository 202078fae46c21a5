"""Exact growth, against a decoder in float64: every axis, and all of them at once."""

import dataclasses
import functools

import jax
import numpy as np
from absl.testing import parameterized

from llm_dynamics.errors import UserError
from llm_dynamics.growth import presets
from llm_dynamics.model.decoder import Decoder
from tests.growth import reference, toys

AXES = {
    "stream": {"width": 96},
    "kv_groups": {"num_heads": 12, "num_kv_heads": 3},
    "units": {"mlp_width": 100},
    "depth": {"num_layers": 7},
    "head_dim": {"head_dim": 24},
    "head_dim_x3": {"head_dim": 36},
}
MHA = {"num_heads": 12, "num_kv_heads": 12}


def _grow(width, depth, small, changes, **more):
    large = dataclasses.replace(small, **changes)
    eps = presets.WIDTHS[width](toys.pair(small, large)).eps
    if eps is not None:
        large = dataclasses.replace(large, norm_eps=eps)
    operator = presets.make(toys.pair(small, large, **more), width, depth)
    weights = toys.params(small)
    new = toys.grown(operator, small, large, weights)
    return operator, large, new, _difference(small, weights, large, new)


def _difference(small, weights, large, new):
    old_logits = reference.logits(small, weights, toys.TOKENS)
    return np.abs(reference.logits(large, new, toys.TOKENS) - old_logits).max()


@functools.partial(jax.jit, static_argnums=0)
def _logits(decoder, weights):
    hidden = decoder.apply({"params": weights}, toys.TOKENS)
    return decoder.apply({"params": weights}, hidden, method="unembed")


class ExactTest(parameterized.TestCase):
    def test_the_reference_is_the_decoder(self):
        for family in toys.FAMILIES:
            config = toys.source(family)
            weights = toys.params(config)
            ours = _logits(Decoder(config), weights)
            theirs = reference.logits(config, weights, toys.TOKENS)
            np.testing.assert_allclose(ours, theirs, atol=2e-4, rtol=2e-4)

    @parameterized.product(
        width=("zero_pad", "tile", "lemon"),
        family=("llama", "llama_tied", "neox", "gpt2", "olmo"),
        axis=tuple(AXES),
    )
    def test_every_axis(self, width, family, axis):
        small = toys.source(family)
        changes = dict(AXES[axis])
        if axis == "kv_groups" and small.num_kv_heads == small.num_heads:
            changes = MHA
        operator, _, _, error = _grow(width, "identity", small, changes)
        self.assertTrue(operator.exact, operator.broken)
        self.assertLess(error, 1e-12)

    @parameterized.product(width=("zero_pad", "lemon"), family=("llama", "llama_tied"))
    def test_any_size_of_the_stream(self, width, family):
        _, _, _, error = _grow(width, "identity", toys.source(family), {"width": 80})
        self.assertLess(error, 1e-12)

    @parameterized.parameters("llama", "llama_tied", "neox", "gpt2")
    def test_tiles_with_a_rest(self, family):
        small = toys.source(family)
        operator, _, _, error = _grow("tile", "identity", small, {"width": 48 * 2 + 20})
        self.assertTrue(operator.exact, operator.broken)
        self.assertLess(error, 1e-12)

    def test_larger_groups_are_interleaved(self):
        _, large, new, error = _grow("zero_pad", "identity", toys.source(), {"num_heads": 12})
        self.assertLess(error, 1e-12)
        # Appended at the end, a query would read another key head.
        appended = toys.params(toys.source())["layers"]["attention"]["query"]["kernel"]
        np.testing.assert_array_equal(
            new["layers"]["attention"]["query"]["kernel"][:, :, :4], appended[:, :, :4]
        )
        moved = new["layers"]["attention"]["query"]["kernel"][:, :, 6:10]
        np.testing.assert_array_equal(moved, appended[:, :, 4:])
        self.assertEqual(large.num_heads, 12)

    def test_key_heads_are_split(self):
        _, _, _, error = _grow("zero_pad", "identity", toys.source(), {"num_kv_heads": 4})
        self.assertLess(error, 1e-12)

    @parameterized.parameters("llama", "llama_tied")
    def test_everything_at_once(self, family):
        """48 -> 80 by padding, then 80 -> 160 by tiling, with heads, units and layers."""
        small = toys.source(family)
        operator, middle, new, _ = _grow(
            "zero_pad",
            "identity",
            small,
            {"width": 80, "head_dim": 24, "num_kv_heads": 4, "mlp_width": 100, "num_layers": 6},
        )
        self.assertTrue(operator.exact)
        large = dataclasses.replace(middle, width=160, num_heads=16, num_kv_heads=8, mlp_width=200)
        second = presets.make(toys.pair(middle, large), "tile", "identity")
        self.assertTrue(second.exact, second.broken)
        last = toys.grown(second, middle, large, new)
        self.assertLess(_difference(small, toys.params(small), large, last), 1e-12)

    @parameterized.parameters("llama", "neox", "gpt2", "llama_tied")
    def test_blocks_side_by_side(self, family):
        small = toys.source(family)
        kv = small.kv_heads * 2
        changes = {"width": 96, "num_heads": 16, "num_kv_heads": kv, "mlp_width": 128}
        changes["head_dim"] = 12
        operator, _, new, error = _grow("block_diagonal", "identity", small, changes)
        self.assertTrue(operator.exact, operator.broken)
        self.assertLess(error, 1e-12)
        up = new["layers"]["mlp"]["up"]["kernel"]
        self.assertEqual(np.abs(up[:, :48, 64:]).max(), 0)

    def test_rms_is_exact_at_doubling(self):
        small = toys.source()
        changes = {"width": 96, "num_heads": 16, "num_kv_heads": 4, "mlp_width": 128}
        operator, _, _, error = _grow("rms", "identity", small, changes)
        self.assertTrue(operator.exact, operator.broken)
        self.assertLess(error, 1e-12)

    @parameterized.parameters("zero_pad", "tile")
    def test_new_weights_are_not_dead(self, width):
        """A unit whose input and output are both 0 would never learn."""
        _, _, new, _ = _grow(width, "identity", toys.source(), {"width": 96, "mlp_width": 100})
        up, down = (new["layers"]["mlp"][name]["kernel"] for name in ("up", "down"))
        dead = (up == 0).all(axis=1) & (down == 0).all(axis=2)
        self.assertFalse(dead.any())


class BrokenTest(parameterized.TestCase):
    """What an operator calls broken is seen to be."""

    @parameterized.parameters("stack", "interpolate", "solar", "middle", "top", "append")
    def test_depth(self, depth):
        operator, _, _, error = _grow("tile", depth, toys.source(), {"num_layers": 5})
        self.assertFalse(operator.exact)
        self.assertGreater(error, 1e-2)

    @parameterized.parameters("net2net", "aki", "copy")
    def test_width(self, width):
        operator, _, _, error = _grow(width, "identity", toys.source(), {"width": 80})
        self.assertFalse(operator.exact)
        self.assertGreater(error, 1e-3)

    def test_epsilon_left_alone(self):
        small = toys.source()
        large = dataclasses.replace(small, width=96)
        operator = presets.make(toys.pair(small, large), "zero_pad", "identity")
        self.assertIn("norm_eps", " ".join(operator.broken))
        new = toys.grown(operator, small, large, toys.params(small))
        self.assertGreater(_difference(small, toys.params(small), large, new), 1e-7)

    def test_a_tied_head_without_gains(self):
        small = toys.source("olmo", tie_embeddings=True)
        for width in ("zero_pad", "tile"):
            operator, _, _, error = _grow(width, "identity", small, {"width": 96})
            self.assertFalse(operator.exact)
            self.assertGreater(error, 1e-2)

    @parameterized.parameters({"mlp_width": 100}, {"width": 80})
    def test_aki_leaves_what_writes_nothing_new(self, **changes):
        small = toys.source()
        _, _, new, _ = _grow("aki", "identity", small, changes)
        old = toys.params(small)
        value = new["layers"]["attention"]["value"]["kernel"][:, :48]
        up = new["layers"]["mlp"]["up"]["kernel"]
        if "width" in changes:
            # Readers of the stream share its copies; the head is read, not written, by them.
            shares = new["unembed"]["kernel"].sum(axis=0) / old["unembed"]["kernel"].sum(axis=0)
            np.testing.assert_allclose(shares, 1, rtol=1e-4)
            return
        np.testing.assert_allclose(value, old["layers"]["attention"]["value"]["kernel"], rtol=1e-6)
        first = old["layers"]["mlp"]["up"]["kernel"]
        np.testing.assert_allclose(up[:, :, :64], first, rtol=1e-6)
        # New units are those of the layer above.
        above = [np.abs(up[0, :, 64 + i, None] - first[1]).max(axis=0).min() for i in range(5)]
        np.testing.assert_allclose(above, 0, atol=1e-7)

    def test_net2net_of_hidden_axes_is_exact(self):
        operator, _, _, error = _grow("net2net", "identity", toys.source(), {"mlp_width": 100})
        self.assertTrue(operator.exact)
        self.assertLess(error, 1e-12)


class RefusedTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ("narrower", {"width": 40, "head_dim": 12}, "zero_pad", "identity", "embed, got 40"),
        ("shallower", {"num_layers": 2}, "zero_pad", "identity", "3 layers, got 2"),
        ("head_dim", {"head_dim": 18}, "zero_pad", "identity", "whole multiple of 12"),
        ("groups", {"num_heads": 9, "num_kv_heads": 3}, "zero_pad", "identity", "divides 4"),
        ("copied_groups", {"num_heads": 12}, "tile", "identity", "4 query heads for each"),
        ("depth", {"num_layers": 4}, "tile", "stak", "did you mean 'stack'"),
        ("width", {"num_layers": 4}, "tyle", "stack", "did you mean 'tile'"),
        ("solar", {"num_layers": 7}, "tile", "solar", "at most 6 layers"),
        ("blocks", {"width": 96}, "block_diagonal", "identity", "by one whole factor"),
        ("bias", {"use_bias": True}, "tile", "identity", "not the same parameters"),
    )
    def test_what_does_not_fit(self, changes, width, depth, words):
        small = toys.source()
        large = dataclasses.replace(small, **changes)
        with self.assertRaisesRegex(UserError, words):
            presets.make(toys.pair(small, large), width, depth)

    def test_exactness_that_cannot_be_given(self):
        small = toys.source()
        large = dataclasses.replace(small, num_layers=6)
        operator = presets.make(toys.pair(small, large), "tile", "stack")
        with self.assertRaisesRegex(UserError, "adds layers that write to the stream"):
            presets.require_exact(operator)
