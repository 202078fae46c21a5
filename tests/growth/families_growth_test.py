"""Growth of later families of decoders: exact where it says so, and seen to differ elsewhere."""

import dataclasses

import numpy as np
from absl.testing import parameterized

from llm_dynamics.growth import presets
from tests.growth import reference, toys


def _grow(width, family, changes, depth="identity"):
    small = toys.source(family)
    large = dataclasses.replace(small, **changes)
    eps = presets.WIDTHS[width](toys.pair(small, large)).eps
    if eps is not None:
        large = dataclasses.replace(large, norm_eps=eps)
    operator = presets.make(toys.pair(small, large), width, depth)
    weights = toys.params(small)
    new = toys.grown(operator, small, large, weights)
    error = reference.logits(large, new, toys.TOKENS) - reference.logits(
        small, weights, toys.TOKENS
    )
    return operator, np.abs(error).max()


class RotaryTest(parameterized.TestCase):
    @parameterized.parameters(
        ("llama3", {"head_dim": 24}),
        ("llama3", {"width": 96, "mlp_width": 100}),
        ("yarn", {"num_heads": 12, "num_kv_heads": 3}),
    )
    def test_exact(self, family, changes):
        operator, error = _grow("zero_pad", family, changes)
        self.assertTrue(operator.exact, operator.broken)
        self.assertLess(error, 1e-12)

    def test_yarn_in_larger_heads_is_not(self):
        operator, error = _grow("zero_pad", "yarn", {"head_dim": 24})
        self.assertIn("yarn places its passage", " ".join(operator.broken))
        self.assertGreater(error, 1e-4)
