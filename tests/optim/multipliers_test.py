"""Multipliers, re-warming and freezing, against the plain chain and against its formula."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

from llm_dynamics.errors import UserError
from llm_dynamics.optim import carried
from llm_dynamics.optim import multipliers as lib
from llm_dynamics.optim.optimizer import OptimConfig, make_optimizer
from llm_dynamics.optim.schedules import ScheduleConfig, make_schedule

CONFIG = OptimConfig(ScheduleConfig("linear", 0.1, warmup=2), weight_decay=0.2, eps=1e-3)
SCHEDULE = make_schedule(CONFIG.schedule, 8)
SHAPES = {
    "layers": {"dense": {"kernel": (3, 2, 4), "bias": (3, 4)}, "norm": {"scale": (3, 2)}},
    "embed": {"embedding": (5, 2)},
    "final_norm": {"scale": (2,)},
}


def _draw(seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32),
        SHAPES,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def _run(optimizer, steps=5, params=None, state=None, first=1):
    params = _draw(0) if params is None else params
    state = optimizer.init(params) if state is None else state
    for step in range(steps):
        updates, state = optimizer.update(_draw(first + step), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def _kernel(tree):
    return np.asarray(tree["layers"]["dense"]["kernel"])


def _everywhere(value):
    return jax.tree.map(lambda _: value, SHAPES, is_leaf=lambda x: isinstance(x, tuple))


class MultipliersTest(parameterized.TestCase):
    def test_none_is_the_plain_optimizer(self):
        plain, grown = (
            _run(o)
            for o in (make_optimizer(CONFIG, SCHEDULE), lib.make_grown_optimizer(CONFIG, SCHEDULE))
        )
        chex.assert_trees_all_equal(plain, grown)

    def test_ones_are_the_plain_optimizer_with_its_state(self):
        ones = lib.Multipliers(*[_everywhere(1.0)] * 4)
        plain = _run(make_optimizer(CONFIG, SCHEDULE))
        grown = _run(lib.make_grown_optimizer(CONFIG, SCHEDULE, ones))
        chex.assert_trees_all_close(plain, grown, rtol=1e-6)
        self.assertEqual(jax.tree.structure(plain[1]), jax.tree.structure(grown[1]))

    def test_first_update_is_the_formula(self):
        params, grads = _draw(0), _draw(1)
        wide = np.array([2.0, 3.0, 4.0]).reshape(3, 1, 1)  # one a layer
        rate, decay, eps = _everywhere(0.5), _everywhere(3.0), _everywhere(0.25)
        rate["layers"]["dense"]["kernel"] = wide
        found = lib.Multipliers(rate, decay, eps)
        config = OptimConfig(CONFIG.schedule, weight_decay=0.2, eps=1e-3, clip_norm=0.0)
        optimizer = lib.make_grown_optimizer(config, lambda _: 0.1, found)
        updates, _ = optimizer.update(grads, optimizer.init(params), params)

        def expected(g, p, rate, decay):
            # After one update both corrected moments are the gradient and its square.
            return -0.1 * rate * (g / (abs(g) + 0.25 * 1e-3) + decay * p)

        g, p, u = (_kernel(tree) for tree in (grads, params, updates))
        np.testing.assert_allclose(u, expected(g, p, wide, 0.6), rtol=1e-5)
        g, p, u = (tree["final_norm"]["scale"] for tree in (grads, params, updates))
        np.testing.assert_allclose(u, expected(g, p, 0.5, 0.0), rtol=1e-5)

    def test_the_norm_that_is_clipped_is_weighted(self):
        grads, zero = _draw(1), _everywhere(0.0)
        only = {**zero, "embed": {"embedding": 2.0}}
        clip = lib._clip(0.5, only)
        clipped, _ = clip.update(grads, clip.init(grads))
        factor = 0.5 / (2 * np.linalg.norm(grads["embed"]["embedding"]))
        self.assertLess(factor, 1)
        chex.assert_trees_all_close(clipped, jax.tree.map(lambda g: factor * g, grads), rtol=1e-5)
        loose = lib._clip(1e3, only)
        chex.assert_trees_all_equal(loose.update(grads, loose.init(grads))[0], grads)

    def test_types_of_parameters_are_kept(self):
        half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), _draw(0))
        doubles = jax.tree.map(lambda _: np.float64(0.5), _draw(0))
        optimizer = lib.make_grown_optimizer(CONFIG, SCHEDULE, lib.Multipliers(*[doubles] * 4))
        updates, state = optimizer.update(half, optimizer.init(half), half)
        chex.assert_trees_all_equal_dtypes(updates, half)
        chex.assert_trees_all_equal_dtypes(state, optimizer.init(half))


class RewarmTest(parameterized.TestCase):
    def test_the_published_shape(self):
        def schedule(t):
            return 1.0 - t / 1000

        rate = lib.rewarmed(schedule, end=1000, begin=400)
        start = 0.6
        for count, expected in (
            (400, start),
            (525, start * 1.15),
            (650, start * 1.3),
            (825, start * 1.3 / 2),  # halfway of the cosine to 0
            (1000, 0.0),
            (1200, 0.0),
        ):
            self.assertAlmostEqual(float(rate(count)), expected, places=6)

    def test_boundaries_without_steps(self):
        rate = lib.rewarmed(lambda t: 0.1, end=10, ratio=2.0, steps=0)
        self.assertAlmostEqual(float(rate(0)), 0.2)
        self.assertAlmostEqual(float(rate(10)), 0.1)

    def test_new_entries_alone_follow_it(self):
        new = _everywhere(np.bool_(False))
        new["embed"]["embedding"] = np.array([[False], [False], [False], [True], [True]])
        rewarm = lib.Rewarm(new, lambda t: 3 * SCHEDULE(t))
        plain, _ = _run(make_optimizer(CONFIG, SCHEDULE), 2)
        found, _ = _run(lib.make_grown_optimizer(CONFIG, SCHEDULE, rewarm=rewarm), 2)
        tripled, _ = _run(make_optimizer(CONFIG, lambda t: 3 * SCHEDULE(t)), 2)
        expected = {**plain, "embed": {"embedding": jnp.concatenate([
            plain["embed"]["embedding"][:3], tripled["embed"]["embedding"][3:]])}}  # fmt: skip
        chex.assert_trees_all_close(found, expected, rtol=1e-6)

    @parameterized.parameters(
        ({"ratio": 0.0}, "above 0"), ({"steps": 10}, "10 updates"), ({"begin": 9}, "250 updates")
    )
    def test_bad_values_are_refused(self, changes, words):
        with self.assertRaisesRegex(UserError, words):
            lib.rewarmed(lambda t: 1.0, **{"end": 10, **changes})


class FreezeTest(parameterized.TestCase):
    def test_frozen_layers_neither_move_nor_remember(self):
        plain = make_optimizer(CONFIG, SCHEDULE)
        before, state = _run(plain, 3)
        mask = lib.frozen_layers(before, [0, 2], ("^embed/",))
        frozen = lib.make_grown_optimizer(CONFIG, SCHEDULE, frozen=mask)
        self.assertEqual(
            jax.tree.structure(frozen.init(before)), jax.tree.structure(plain.init(before))
        )
        after, later = _run(frozen, 2, before, state, first=10)
        for moved, kept in (
            (after, before),
            (later[1].mu, state[1].mu),
            (later[1].nu, state[1].nu),
        ):
            for name in ("kernel", "bias"):
                new, old = (np.asarray(x["layers"]["dense"][name]) for x in (moved, kept))
                np.testing.assert_array_equal(new[[0, 2]], old[[0, 2]])
                self.assertTrue((new[1] != old[1]).all())
            np.testing.assert_array_equal(moved["embed"]["embedding"], kept["embed"]["embedding"])
            self.assertTrue((moved["final_norm"]["scale"] != kept["final_norm"]["scale"]).all())
        self.assertEqual(int(later[1].count), 5)

    def test_the_rest_trains_as_if_frozen_gradients_were_0(self):
        """The clipped norm is that of what is trained."""
        mask = lib.frozen_layers(_draw(0), [1], ("",))
        grads = jax.tree.map(lambda m, g: jnp.where(m, 0.0, g), mask, _draw(1))
        plain = make_optimizer(CONFIG, SCHEDULE)
        frozen = lib.freeze(plain, mask)
        params = _draw(0)
        state = plain.init(params)
        for _ in range(2):  # the first rate of the warm-up is 0
            expected, after = plain.update(grads, state, params)
            found, other = frozen.update(_draw(1), state, params)
            expected = jax.tree.map(lambda m, u: jnp.where(m, 0.0, u), mask, expected)
            chex.assert_trees_all_equal(found, expected)
            chex.assert_trees_all_equal(after[-1], other[-1])
            state = after
        self.assertGreater(float(optax.tree.norm(found)), 0)

    def test_thawed_layers_go_on(self):
        mask = lib.frozen_layers(_draw(0), [0])
        params, state = _run(lib.make_grown_optimizer(CONFIG, SCHEDULE, frozen=mask), 2)
        moved, _ = _run(make_optimizer(CONFIG, SCHEDULE), 1, params, state, first=9)
        self.assertTrue((_kernel(params) != _kernel(moved)).all())

    def test_frozen_until_an_update(self):
        """Up to there as if frozen for good, from there on as if nothing were."""
        mask = lib.frozen_layers(_draw(0), [0], ("^embed/",))
        plain = make_optimizer(CONFIG, SCHEDULE)
        always, until = lib.freeze(plain, mask), lib.freeze(plain, mask, until=3)
        params, state = _run(always, 3)
        found, mine = _run(until, 3)
        chex.assert_trees_all_equal((found, mine), (params, state))
        # Adam's own count does not matter: it may come from another run.
        state = optax.tree_utils.tree_set(state, carried.of("ScaleByAdamState"), count=np.int32(9))
        expected = _run(plain, 2, params, state, first=3)
        chex.assert_trees_all_equal(_run(until, 2, params, state, first=3), expected)

    def test_what_is_not_there_is_refused(self):
        with self.assertRaisesRegex(UserError, "layer 3: expected layers 0 to 2"):
            lib.frozen_layers(_draw(0), [3])
        with self.assertRaisesRegex(UserError, "'head'"):
            lib.frozen_layers(_draw(0), [0], ("head",))


if __name__ == "__main__":
    absltest.main()
