"""What is kept of Adam's state, checked against the formulas on updates that follow."""

import chex
import jax
import numpy as np
import optax
from absl.testing import absltest, parameterized

from llm_dynamics.errors import UserError
from llm_dynamics.optim.carried import carry, parse

B1, B2 = 0.9, 0.95
PARAMS = {"a": np.zeros((3, 2), np.float32), "b": np.zeros(4, np.float32)}
ADAM = optax.chain(
    optax.scale_by_adam(B1, B2, eps=0.0), optax.scale_by_learning_rate(optax.constant_schedule(1.0))
)


def _gradients(count, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    return [
        jax.tree.map(lambda x: (scale * rng.normal(size=x.shape)).astype(np.float32), PARAMS)
        for _ in range(count)
    ]


def _after(gradients, state=None):
    """The state after some gradients, and the updates that they made."""
    state, made = state or ADAM.init(PARAMS), []
    for gradient in gradients:
        update, state = ADAM.update(gradient, state, PARAMS)
        made.append(update)
    return state, made


def _adam(state):
    return next(part for part in state if isinstance(part, optax.ScaleByAdamState))


class CarriedTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.kept, _ = _after(_gradients(7))
        self.fresh = ADAM.init(PARAMS)

    def _carry(self, policy):
        return carry(policy, self.kept, self.fresh, B1)

    def test_keep_and_reset(self):
        chex.assert_trees_all_equal(self._carry("keep"), self.kept)
        chex.assert_trees_all_equal(self._carry("reset"), self.fresh)

    def test_a_reset_count_stretches_updates_by_the_published_correction(self):
        state = self._carry("reset_count")
        chex.assert_trees_all_equal(_adam(state).mu, _adam(self.kept).mu)
        chex.assert_trees_all_equal(_adam(state).nu, _adam(self.kept).nu)
        self.assertEqual(int(_adam(state).count), 0)
        later = _gradients(5, seed=1)
        (_, expected), (_, found) = _after(later, self.kept), _after(later, state)
        for t, (one, other) in enumerate(zip(expected, found, strict=True), start=1):
            stretch = (1 - B1 ** (7 + t)) / (1 - B1**t)
            stretch *= ((1 - B2**t) / (1 - B2 ** (7 + t))) ** 0.5
            if t == 1:
                self.assertGreater(stretch, 2)
            chex.assert_trees_all_close(
                other, jax.tree.map(lambda x, s=stretch: x * s, one), rtol=1e-5
            )

    @parameterized.parameters(0.1, 0.5, 3.0)
    def test_scaled_moments_are_those_of_scaled_gradients(self, factor):
        state = self._carry(f"scale:{factor}")
        expected, _ = _after(_gradients(7, scale=factor))
        chex.assert_trees_all_close(state, expected, rtol=1e-5)
        self.assertEqual(int(_adam(state).count), 7)

    def test_a_scale_of_1_keeps(self):
        chex.assert_trees_all_equal(self._carry("scale:1"), self.kept)

    def test_one_moment(self):
        first, second = (_adam(self._carry(p)) for p in ("keep_first", "keep_second"))
        scaled = jax.tree.map(lambda x: x * np.float32(1 - B1), _adam(self.kept).mu)
        chex.assert_trees_all_equal(first.mu, scaled)
        chex.assert_trees_all_equal(first.nu, _adam(self.fresh).nu)
        chex.assert_trees_all_equal(second.nu, _adam(self.kept).nu)
        chex.assert_trees_all_equal(second.mu, _adam(self.fresh).mu)
        self.assertEqual((int(first.count), int(second.count)), (0, 7))

    @parameterized.parameters(
        ("drop", "keep or reset or keep_first or keep_second or reset_count or scale:FACTOR, got"),
        ("scale", "scale:FACTOR, got 'scale'"),
        ("scale:x", "FACTOR above 0, got 'scale:x'"),
        ("scale:0", "FACTOR above 0, got 'scale:0'; .*reset"),
        ("scale:inf", "FACTOR above 0"),
        ("keep:2", "got 'keep:2'"),
    )
    def test_unknown_policies(self, policy, message):
        with self.assertRaisesRegex(UserError, message):
            parse(policy)


if __name__ == "__main__":
    absltest.main()
