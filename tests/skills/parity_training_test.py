"""The trained solvable model against its closed form; small networks; times of emergence."""

import dataclasses

import chex
import numpy as np
from absl.testing import parameterized

from llm_dynamics.errors import UserError
from llm_dynamics.skills import parity_training as training
from llm_dynamics.skills.parity import ParityConfig, one_hot
from llm_dynamics.skills.parity_theory import Flow
from llm_dynamics.skills.parity_training import MultilinearConfig, NetworkConfig

MODEL = MultilinearConfig(
    ParityConfig(one_hot(8), 12, 3, a=0.3), Flow(0.02, 0.05, target=2.0), 1600, batch=64, every=10
)
SMALL = NetworkConfig(
    ParityConfig((*one_hot(2), (0, 1)), bits=6, subset=2, a=0.6, disjoint=True),
    width=32, rate=0.01, steps=300, batch=128, every=20, measured=64,
)  # fmt: skip


class MultilinearTest(parameterized.TestCase):
    def test_training_follows_the_closed_form_within_sampling_error(self):
        scores, found = [], []
        for seed in range(6):
            strength_SxK = training.train_multilinear(MODEL, seed)
            self.assertEqual(strength_SxK.shape, (len(MODEL.updates_S), 8))
            scores.append(training.standardised(MODEL, strength_SxK))
            found.append(strength_SxK)
        scores = np.concatenate(scores)
        scores = scores[np.isfinite(scores)]
        self.assertLen(scores, 6 * 8)
        self.assertLess(np.abs(scores).max(), 4)
        self.assertBetween(np.sqrt((scores**2).mean()), 0.6, 1.4)
        closed_SxK = MODEL.flow.strength(MODEL.updates_S, MODEL.share_K)
        self.assertLess(np.abs(np.mean(found, axis=0) - closed_SxK).max(), 0.03)
        # A rate that is a twentieth off would be seen.
        wrong = dataclasses.replace(MODEL, flow=dataclasses.replace(MODEL.flow, rate=0.021))
        moved = np.concatenate([training.standardised(wrong, x) for x in found])
        self.assertGreater(np.sqrt(np.nanmean(moved**2)), 1.4)

    def test_tasks_that_do_not_emerge_have_no_score(self):
        short = dataclasses.replace(MODEL, steps=100)
        closed_SxK = short.flow.strength(short.updates_S, short.share_K)
        scores_K = training.standardised(short, closed_SxK)
        late_K = short.flow.emergence_time(short.share_K) > 100
        self.assertTrue(late_K.any())
        self.assertTrue(np.isnan(scores_K[late_K]).all())

    @parameterized.parameters(
        ({"steps": 105}, "multiple of every"),
        ({"batch": 0}, "batch above 0"),
        ({"flow": Flow(0.1, 0.1, slowed=0.5)}, "slowed = 1"),
    )
    def test_bad_models_are_refused(self, changed, words):
        with self.assertRaisesRegex(UserError, words):
            dataclasses.replace(MODEL, **changed)


class NetworkTest(parameterized.TestCase):
    def test_a_composition_is_trained_twice(self):
        found = training.compositional(SMALL, 1)
        beside, alone = found
        self.assertEqual(beside.strength_SxK.shape, (16, 3))
        self.assertEqual(alone.strength_SxK.shape, (16, 1))
        np.testing.assert_array_equal(beside.updates_S, np.arange(0, 301, 20))
        # The frequent atom is learned; accuracy, strength and loss say so alike.
        self.assertGreater(beside.accuracy_SxK[-1, 0], 0.95)
        self.assertGreater(beside.strength_SxK[-1, 0], 0.8)
        self.assertLess(beside.loss_SxK[-1, 0], 0.2)
        self.assertLess(np.abs(beside.strength_SxK[0]).max(), 0.4)
        # E(1 - f g)^2 >= (1 - E f g)^2.
        for run in found:
            self.assertTrue((run.loss_SxK >= (1 - run.strength_SxK) ** 2 - 1e-6).all())
        chex.assert_trees_all_equal(beside, training.train_network(SMALL, 1))
        other = training.train_network(SMALL, 2)
        self.assertTrue((other.loss_SxK != beside.loss_SxK).any())

    def test_divergence_is_said(self):
        wild = dataclasses.replace(SMALL, optimizer="sgd", rate=1e4, steps=40)
        with self.assertRaisesRegex(UserError, "diverged; lower the rate"):
            training.train_network(wild, 0)

    @parameterized.parameters(
        ((one_hot(3)),),
        (((0,), (0, 1)),),
    )
    def test_composites_need_their_atoms(self, codes):
        config = dataclasses.replace(SMALL, parity=ParityConfig(codes, bits=6, subset=2))
        with self.assertRaisesRegex(UserError, "several of them"):
            training.compositional(config, 0)

    @parameterized.parameters(
        ({"optimizer": "adm"}, "adam"),
        ({"steps": 30}, "multiple of every"),
        ({"width": 0}, "width above 0"),
        ({"rate": 0.0}, "rate above 0"),
    )
    def test_bad_networks_are_refused(self, changed, words):
        with self.assertRaisesRegex(UserError, words):
            dataclasses.replace(SMALL, **changed)


class EmergenceTest(parameterized.TestCase):
    def test_times_lie_on_the_line_between_records(self):
        updates_S = np.array([0, 10, 20, 30])
        strength_SxK = np.array([[0, 0, 0.6, 0], [0.5, 0.2, 0.7, 0.1], [1, 0.4, 0.2, 0.2],
                                 [1, 0.8, 1, 0.3]])  # fmt: skip
        found_K = training.emergence(updates_S, strength_SxK)
        np.testing.assert_allclose(found_K, [10, 22.5, 0, np.nan])
        np.testing.assert_allclose(training.emergence(updates_S, strength_SxK, 0.75)[1], 28.75)

    def test_closed_form_is_read_back(self):
        fine = np.arange(0, 1601)
        strength_SxK = MODEL.flow.strength(fine, MODEL.share_K)
        found_K = training.emergence(fine, strength_SxK)
        np.testing.assert_allclose(found_K, MODEL.flow.emergence_time(MODEL.share_K), rtol=1e-4)
