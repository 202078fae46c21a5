"""Fitting an operator: schedules, the choice of a rate, and what it costs."""

import dataclasses

import numpy as np
from absl.testing import parameterized

from llm_dynamics.errors import UserError
from llm_dynamics.growth import cost, learn, ligo, presets
from llm_dynamics.growth.learn import LearnConfig
from llm_dynamics.growth.ligo import LigoConfig
from tests.growth import toys


class ScheduleTest(parameterized.TestCase):
    def test_the_inherited_warm_up_hardly_moves_anything(self):
        """100 updates of a warm-up of 10,000 to 2e-4: the last rate 2.0e-6, their sum 9.9e-5."""
        schedule = learn.RELEASED.schedule(2e-4)
        rates = np.array([float(schedule(t)) for t in range(101)])
        self.assertAlmostEqual(rates[100], 2.0e-6, delta=1e-12)
        self.assertAlmostEqual(rates[:100].sum(), 9.9e-5, delta=1e-9)

    def test_its_own_warm_up_belongs_to_the_fit(self):
        config = LearnConfig(steps=100, warmup=5)
        rates = [float(config.schedule(1e-2)(t)) for t in (0, 5, 100)]
        np.testing.assert_allclose(rates, [0, 1e-2, 0], atol=1e-9)

    @parameterized.parameters(({"rates": ()},), ({"rates": (0.0,)},), ({"decay": "cosine"},))
    def test_refusals(self, changes):
        with self.assertRaises(UserError):
            LearnConfig(**changes)


class ChoiceTest(parameterized.TestCase):
    def test_the_rate_with_the_least_last_losses(self):
        config = LearnConfig(steps=20, rates=(1e-3, 1e-2, 1.0))
        falling, flat = np.linspace(5, 3, 20), np.full(20, 4.0)
        diverged = np.full(20, np.nan)
        found = learn._best({1e-3: flat, 1e-2: falling, 1.0: diverged}, config)
        self.assertEqual(found, 1e-2)

    def test_no_finite_loss_is_refused(self):
        with self.assertRaisesRegex(UserError, "lower the rates"):
            learn._best({1.0: np.full(5, np.inf)}, LearnConfig(steps=5))


class CostTest(parameterized.TestCase):
    def test_copies_are_free(self):
        small = toys.source()
        large = dataclasses.replace(small, width=96, num_layers=6)
        pair = toys.pair(small, large)
        operator = presets.make(pair, "tile", "stack")
        self.assertEqual(cost.growth_flops(operator, pair.source, pair.target), 0)

    def test_a_matrix_along_the_stream_counts_its_products(self):
        """Embeddings: 2 x V x d x D; every map inside: as many products as the layers of old."""
        small = toys.source("gpt2")
        large = dataclasses.replace(small, width=96, head_dim=12)
        pair = toys.pair(small, large)
        learned = ligo.init(LigoConfig(), pair)
        operator = ligo.operator(LigoConfig(), pair, learned)
        found = cost.growth_flops(operator, pair.source, pair.target)
        product = 2 * 48 * 96
        tables = 97 + 32
        inside = 3 * (3 * 8 * 12 + 8 * 12 + 2 * 64 + 4 + 2)
        self.assertEqual(found, product * (tables + inside + 2))
