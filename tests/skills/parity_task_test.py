"""Tasks of multitask sparse parity: exact moments, both samplers, codes of several bits."""

import itertools

import chex
import jax
import numpy as np
from absl.testing import parameterized
from scipy import stats

from llm_dynamics.errors import UserError
from llm_dynamics.skills import parity
from llm_dynamics.skills.parity import Examples, ParityConfig, one_hot

COMPOSITE = ParityConfig((*one_hot(3), (0, 2)), bits=8, subset=2, a=0.6, disjoint=True)


def skills(tasks, which, bits_BxJ):
    """The answers if all examples were of one task."""
    return parity.answers(tasks, Examples(np.full(len(bits_BxJ), which), bits_BxJ))


class TasksTest(parameterized.TestCase):
    @parameterized.parameters(ParityConfig(one_hot(5), 8, 3), COMPOSITE)
    def test_skill_functions_are_parities_over_all_bit_strings(self, config):
        tasks = parity.make_tasks(config, seed=3)
        bits_BxJ = np.array(list(itertools.product((0, 1), repeat=config.bits)))
        for k in range(len(config.codes)):
            found_B = skills(tasks, k, bits_BxJ)
            read = np.flatnonzero(tasks.member_KxJ[k])
            np.testing.assert_array_equal(found_B, np.prod(1 - 2 * bits_BxJ[:, read], axis=1))
            self.assertEqual(found_B.sum(), 0)

    def test_a_composite_of_disjoint_subsets_is_the_product_of_its_atoms(self):
        tasks = parity.make_tasks(COMPOSITE, seed=0)
        bits_BxJ = np.array(list(itertools.product((0, 1), repeat=8)))
        atoms = [skills(tasks, k, bits_BxJ) for k in (0, 2)]
        np.testing.assert_array_equal(skills(tasks, 3, bits_BxJ), atoms[0] * atoms[1])
        self.assertEqual(tasks.member_KxJ.sum(axis=1).tolist(), [2, 2, 2, 4])

    def test_seeds_draw_other_subsets_and_shared_codes_the_same(self):
        first, second = (parity.make_tasks(COMPOSITE, seed).member_KxJ for seed in (0, 1))
        self.assertTrue((first != second).any())
        alone = ParityConfig(((0, 2),), bits=8, subset=2, disjoint=True)
        np.testing.assert_array_equal(parity.make_tasks(alone, 0).member_KxJ[0], first[3])

    @parameterized.parameters("draw", "draw_numpy")
    def test_samples_follow_the_law(self, sampler):
        config = ParityConfig(one_hot(6), bits=40, subset=3, a=0.6)
        tasks = parity.make_tasks(config, seed=0)
        size = 40_000
        examples = Examples(*map(np.asarray, getattr(parity, sampler)(tasks, 5, 7, size)))
        count_K = np.bincount(examples.which_B, minlength=6)
        expected_K = size * parity.zipf(6, 0.6)
        self.assertGreater(stats.chisquare(count_K, expected_K).pvalue, 1e-3)
        # Bits and all products of two bits have mean 0 as signs.
        signs_BxJ = 1 - 2 * examples.bits_BxJ
        limit = 5 / np.sqrt(size)
        self.assertLess(np.abs(signs_BxJ.mean(axis=0)).max(), limit)
        moments = signs_BxJ.T @ signs_BxJ / size
        self.assertLess(np.abs(moments - np.eye(40)).max(), limit)
        # E[g_k g_l] = P(k) if k = l, else 0; here against functions of the same bits.
        answers_B = parity.answers(tasks, examples)
        for k in range(6):
            own = np.mean(answers_B * skills(tasks, k, examples.bits_BxJ) * (examples.which_B == k))
            self.assertLess(abs(own - parity.zipf(6, 0.6)[k]), limit)

    def test_rare_tasks_are_as_rare_as_they_should_be(self):
        tasks = parity.make_tasks(ParityConfig(one_hot(3000), 4, 2, a=0.6), seed=0)
        ends_K = tasks.threshold_K.astype(float)
        share_K = np.diff(ends_K, prepend=0) / 2**32
        np.testing.assert_allclose(share_K, parity.zipf(3000, 0.6), rtol=1e-3)

    def test_a_batch_depends_on_seed_and_step_alone(self):
        tasks = parity.make_tasks(COMPOSITE, seed=0)
        for draw in (jax.jit(parity.draw, static_argnums=3), parity.draw_numpy):
            found = draw(tasks, 1, 4, 64)
            chex.assert_trees_all_equal(found, draw(tasks, 1, 4, 64))
            for other in ((2, 4), (1, 5)):
                self.assertTrue((found.bits_BxJ != draw(tasks, *other, 64).bits_BxJ).any())

    def test_inputs_are_control_bits_and_signs(self):
        examples = Examples(np.array([3, 1]), np.array([[0, 1] * 4, [1] * 8]))
        found = parity.inputs(parity.control_bits(COMPOSITE), examples)
        expected = [[1, 0, 1, *[1, -1] * 4], [0, 1, 0, *[-1] * 8]]
        np.testing.assert_array_equal(found, expected)
        self.assertEqual(found.shape[1], COMPOSITE.inputs)

    def test_measuring_takes_as_many_of_every_task(self):
        tasks = parity.make_tasks(COMPOSITE, seed=0)
        found = parity.draw_each(tasks, 0, 5)
        np.testing.assert_array_equal(found.which_B, np.repeat(np.arange(4), 5))

    @parameterized.parameters(
        ({"codes": ()}, "codes of one or more"),
        ({"codes": ((0,), ())}, "codes of one or more"),
        ({"codes": ((0, 1), (1, 0))}, "codes that differ"),
        ({"codes": ((1, 1),)}, "codes that differ"),
        ({"bits": 2}, "at least 3 task bits"),
        ({"disjoint": True}, "at least 6 task bits"),
        ({"subset": 0}, "at least 1 task bit"),
        ({"a": -2.0}, "a of at least -1"),
    )
    def test_bad_tasks_are_refused(self, changed, words):
        with self.assertRaisesRegex(UserError, words):
            ParityConfig(**{"codes": one_hot(2), "bits": 5, "subset": 3, **changed})
