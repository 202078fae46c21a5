"""Depth patterns: which layer of the source every layer of the target is."""

import dataclasses

import numpy as np
from absl.testing import parameterized

from llm_dynamics.growth import depth
from tests.growth import toys


class PatternTest(parameterized.TestCase):
    @parameterized.parameters(
        ("stack", 3, 7, [0, 1, 2, 0, 1, 2, 0]),
        ("interpolate", 3, 6, [0, 0, 1, 1, 2, 2]),
        ("solar", 32, 48, [*range(24), *range(8, 32)]),
        ("middle", 6, 10, [0, 1, 2, 3, 2, 3, 2, 3, 4, 5]),
        ("top", 3, 5, [0, 1, 2, 1, 2]),
        ("append", 2, 4, [0, 1, -1, -1]),
    )
    def test_indices(self, name, old, new, expected):
        np.testing.assert_array_equal(depth.PATTERNS[name](old, new), expected)

    @parameterized.product(name=tuple(depth.PATTERNS), extra=(0, 1, 3))
    def test_every_pattern_keeps_the_size_and_the_source(self, name, extra):
        index = depth.PATTERNS[name](4, 4 + extra)
        self.assertLen(index, 4 + extra)
        self.assertEqual(set(range(4)) - set(index.tolist()), set())

    def test_identity_spreads_silent_copies(self):
        small = toys.source()
        large = dataclasses.replace(small, num_layers=6)
        blends = depth.blends("identity", toys.graph(small), toys.graph(large))
        np.testing.assert_array_equal(blends[""].argmax(axis=1), [0, 0, 1, 1, 2, 2])
        silent = blends["layers/attention/out/kernel"]
        np.testing.assert_array_equal(silent.sum(axis=1), [1, 0, 1, 0, 1, 0])
        self.assertNotIn("layers/attention/query/kernel", blends)

    @parameterized.parameters(
        ("stack", [3, 4, 5, 6]),
        ("interpolate", [1, 2, 4, 6]),
        ("identity", [1, 2, 4, 6]),
        ("middle", [2, 3, 4, 5]),
        ("top", [3, 4, 5, 6]),
        ("append", [3, 4, 5, 6]),
    )
    def test_what_is_added(self, name, expected):
        found = depth.added(name, 3, 7)
        np.testing.assert_array_equal(np.flatnonzero(found), expected)

    @parameterized.parameters(*depth.PATTERNS, "identity")
    def test_the_rest_is_the_source_in_order(self, name):
        small, large = (toys.graph(toys.source(num_layers=n)) for n in (4, 7))
        index = depth.blends(name, small, large)[""].argmax(axis=1)
        rest = ~depth.added(name, 4, 7)
        np.testing.assert_array_equal(index[rest], range(4))
        self.assertFalse(depth.added(name, 4, 4).any())
