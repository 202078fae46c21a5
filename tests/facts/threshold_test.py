"""Where the zero crossing lies, and what is said of it."""

import math

import numpy as np
from absl.testing import parameterized

from llm_dynamics.facts.statistics import Estimate
from llm_dynamics.facts.threshold import threshold


def _line(a, spread, resamples=400):
    """Lines through 1 at t = 1 with slopes spread evenly around -a."""
    slopes = -np.concatenate([[a], np.linspace(a - spread, a + spread, resamples)])
    return Estimate(np.stack([slopes, np.ones_like(slopes)], axis=1), {"a": 50})


class ThresholdTest(parameterized.TestCase):
    def test_inside(self):
        found = threshold(_line(0.5, 0.05), last=3.0)
        self.assertEqual((found.value, found.status), (2.0, "inside"))
        self.assertBetween(found.low, 1 / 0.55, 2.0)
        self.assertBetween(found.high, 2.0, 1 / 0.45)
        self.assertEqual(found.note, "inside the data")

    def test_extrapolated(self):
        found = threshold(_line(0.25, 0.05), last=3.2)
        self.assertEqual(found.status, "extrapolated")
        self.assertAlmostEqual(found.beyond, 0.8)
        self.assertIn("by 0.8 decades", found.note)

    def test_value_inside_and_interval_beyond(self):
        found = threshold(_line(0.5, 0.3), last=2.5)
        self.assertEqual(found.status, "extrapolated")
        self.assertLess(found.beyond, 0)
        self.assertIn("interval reaches beyond", found.note)

    def test_unbounded(self):
        found = threshold(_line(0.1, 0.2), last=3.0)
        self.assertEqual(found.status, "unbounded")
        self.assertEqual(found.high, math.inf)
        self.assertEqual(found.value, 10.0)
        self.assertIn("includes never reaching 0; extrapolated by 7.0", found.note)

    def test_a_line_that_rises(self):
        found = threshold(_line(-0.1, 0.02), last=3.0)
        self.assertEqual((found.status, found.value), ("unbounded", math.inf))
        self.assertIn("does not fall", found.note)
