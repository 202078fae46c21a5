"""Growth of later families of decoders: exact where it says so, and seen to differ elsewhere."""

import dataclasses

import numpy as np
from absl.testing import parameterized

from llm_dynamics.batch import Batch
from llm_dynamics.errors import UserError
from llm_dynamics.growth import apply, checks, ligo, presets
from llm_dynamics.model.decoder import Decoder
from tests.growth import reference, toys


def _grow(width, family, changes, depth="identity", **source):
    small = toys.source(family, **source)
    large = dataclasses.replace(small, **changes)
    eps = presets.WIDTHS[width](toys.pair(small, large)).eps
    if eps is not None:
        large = dataclasses.replace(large, norm_eps=eps)
    operator = presets.make(toys.pair(small, large), width, depth)
    weights = toys.params(small)
    new = toys.grown(operator, small, large, weights)
    old_BxLxV, new_BxLxV = (
        reference.logits(config, params, toys.TOKENS)
        for config, params in ((small, weights), (large, new))
    )
    return operator, np.abs(new_BxLxV - old_BxLxV).max()


HEADS = {"num_heads": 12, "num_kv_heads": 3}
TWICE_HEADS = {"num_heads": 16, "num_kv_heads": 4}
EVERYTHING = {**TWICE_HEADS, "width": 96, "mlp_width": 128}


class GrowthTest(parameterized.TestCase):
    @parameterized.parameters(
        ("zero_pad", "llama3", {"head_dim": 24, "width": 96, "mlp_width": 100}),
        ("zero_pad", "qwen2", {**HEADS, "width": 80, "head_dim": 24, "num_layers": 4}),
        ("zero_pad", "qwen3", {**HEADS, "mlp_width": 100, "num_layers": 7}),
        ("tile", "qwen3", EVERYTHING),
        ("block_diagonal", "qwen3", EVERYTHING),
        ("zero_pad", "olmo2", {"mlp_width": 100, "num_layers": 7}),
        ("tile", "olmo2", EVERYTHING),
        ("lemon", "olmo2", TWICE_HEADS),
        ("zero_pad", "olmo2", {"width": 80, "num_layers": 4}, {"qk_norm": "none"}),
        ("zero_pad", "llama", {"head_dim": 24}, {"query_scalar": 20.0}),
        ("zero_pad", "gemma3", {**HEADS, "mlp_width": 100, "num_layers": 9}),
    )
    def test_exact(self, width, family, changes, source=None):
        operator, error = _grow(width, family, changes, **source or {})
        self.assertTrue(operator.exact, operator.broken)
        self.assertLess(error, 1e-12)

    @parameterized.parameters(
        ("zero_pad", "yarn", {"head_dim": 24}, "yarn places its passage"),
        ("zero_pad", "qwen3", {"head_dim": 24}, "another mean square in larger heads"),
        ("zero_pad", "olmo2", HEADS, "every head equally often"),
        ("zero_pad", "qwen3", {"width": 80}, "share norm_eps"),
        ("tile", "gemma3", {"width": 96}, "root of the width"),
        ("zero_pad", "gemma3", {"num_layers": 6}, "layers move to places"),
    )
    def test_not_exact_where_it_says_so(self, width, family, changes, words):
        operator, error = _grow(width, family, changes)
        self.assertIn(words, " ".join(operator.broken))
        self.assertGreater(error, 1e-8)

    @parameterized.parameters(
        ("olmo2", {"width": 96}, "norm_order"),
        ("gemma3", {"num_layers": 4}, "norm_order"),
        ("qwen3", {"head_dim": 24}, "qk_norm"),
    )
    def test_what_masks_cannot_fade_is_refused(self, family, changes, words):
        small = toys.source(family)
        large = dataclasses.replace(small, **changes)
        with self.assertRaisesRegex(UserError, words):
            presets.make(toys.pair(small, large), "masked", "append")

    @parameterized.parameters("qwen3", "olmo2", "gemma3")
    def test_ligo_makes_every_parameter(self, family):
        small = toys.source(family)
        large = dataclasses.replace(small, **EVERYTHING)
        pair, config = toys.pair(small, large), ligo.LigoConfig()
        operator = ligo.operator(config, pair, ligo.init(config, pair))
        new = apply.flat(toys.grown(operator, small, large, toys.params(small)))
        shapes = {path: param.shape for path, param in pair.target.params.items()}
        self.assertEqual({path: leaf.shape for path, leaf in new.items()}, shapes)

    def test_activations_follow_the_kinds_of_layers(self):
        """A window as long as the row changes nothing but what local layers read."""
        tokens, ones = toys.TOKENS, np.ones(toys.TOKENS.shape)
        positions = np.tile(np.arange(tokens.shape[1]), (2, 1))
        batch = Batch(tokens, tokens, ones.astype(np.int32), positions, ones)

        def stream(window):
            config = toys.source("gemma3", window=window)
            weights = toys.params(toys.source("gemma3"))
            return checks.activations(Decoder(config), weights, batch)["stream"]

        narrow, wide = stream(5), stream(17)
        self.assertLen(narrow, 4)
        self.assertEqual(narrow[0], wide[0])
        self.assertGreater(np.abs(narrow - wide)[1:].min(), 1e-5)
