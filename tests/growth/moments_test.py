"""Moments of grown models: ratios of gradients, the source's own training, and the policies.

Everything that is compared is computed in float64, with the oracle of exact growth made
differentiable.
"""

import dataclasses
import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

from llm_dynamics.errors import UserError
from llm_dynamics.growth import ligo, moments, presets
from llm_dynamics.growth.apply import flat
from llm_dynamics.optim.multipliers import Multipliers, make_grown_optimizer
from llm_dynamics.optim.optimizer import OptimConfig, make_optimizer
from tests.growth import toys

NORM = "final_norm"


def _with_jax():
    """`tests.growth.reference` with the numpy of jax, so that it has gradients."""
    spec = importlib.util.find_spec("tests.growth.reference")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.np, module.erf = jnp, jax.scipy.special.erf
    return module


reference = _with_jax()


def _loss(config, params, tokens_BxL=toys.TOKENS):
    """Nats per next token."""
    logits_BxLxV = reference.logits(config, params, tokens_BxL)[:, :-1]
    loss = optax.softmax_cross_entropy_with_integer_labels
    return loss(logits_BxLxV, tokens_BxL[:, 1:]).mean()


def _exactly(compute):
    """In float64, and with the broadcasts of numpy."""

    @functools.wraps(compute)
    def wrapped(*args, **kwargs):
        with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
            return compute(*args, **kwargs)

    return wrapped


def _wide(tree):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), tree)


@functools.lru_cache
def _gradient(config):
    """Of the loss, as a function of parameters."""
    return jax.jit(jax.grad(functools.partial(_loss, config)))


def _moments_of(state):
    """First and second moments by path."""
    return tuple(flat(optax.tree_utils.tree_get(state, name)) for name in ("mu", "nu"))


def _state(mu, nu, count=7):
    """The state of `make_optimizer` with these moments and counts."""
    state = make_optimizer(OptimConfig(), lambda _: 1e-3).init(mu)
    state = optax.tree_utils.tree_set(state, mu=mu, nu=nu)

    def counted(keys, leaf):
        return jnp.full_like(leaf, count) if getattr(keys[-1], "name", "") == "count" else leaf

    return jax.tree_util.tree_map_with_path(counted, state)


def _operator(small, changes, width, depth="identity"):
    """The operator of a pattern, and the model that it fits."""
    large = dataclasses.replace(small, **changes)
    eps = presets.WIDTHS[width](toys.pair(small, large)).eps
    large = large if eps is None else dataclasses.replace(large, norm_eps=eps)
    return presets.make(toys.pair(small, large), width, depth), large


def _grow(operator, small, large, state, policy):
    return moments.grow_moments(operator, toys.graph(small), toys.graph(large), state, policy, NORM)


def _small(family="llama", num_layers=2):
    return toys.source(family, num_layers=num_layers)


WIDER = {"width": 96, "num_heads": 16, "num_kv_heads": 4, "mlp_width": 128}
MHA = WIDER | {"num_kv_heads": 16}


class GradientsTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ("tile_tied", "llama_tied", "tile", WIDER | {"width": 144}),
        ("tile_neox", "neox", "tile", MHA),
        ("tile_gpt2", "gpt2", "tile", MHA),
        ("tile_without_gains", "olmo", "tile", MHA),
        ("tile_and_rest", "llama_tied", "tile", {"width": 116, "mlp_width": 100}),
        ("lemon", "llama", "lemon", WIDER | {"width": 80, "head_dim": 24}),
        ("net2net", "llama", "net2net", {"num_heads": 12, "num_kv_heads": 3, "mlp_width": 150}),
        ("zero_pad", "llama", "zero_pad", {"width": 80, "num_heads": 12, "head_dim": 24}),
        ("zero_pad_tied", "llama_tied", "zero_pad", {"width": 80, "mlp_width": 100}),
        ("blocks", "llama", "block_diagonal", WIDER),
        ("blocks_tied", "gpt2", "block_diagonal", MHA),
        ("heads_qwen3", "qwen3", "lemon", {"num_heads": 12, "num_kv_heads": 3}),
        ("blocks_qwen3", "qwen3", "block_diagonal", WIDER),
        ("tile_olmo2", "olmo2", "tile", WIDER),
        ("heads_gemma3", "gemma3", "tile", {"num_heads": 12, "num_kv_heads": 3}),
    )
    @_exactly
    def test_entries_with_a_source_have_its_gradient_times_the_ratio(self, family, width, changes):
        small = _small(family, num_layers=1)
        operator, large = _operator(small, changes, width)
        self.assertTrue(operator.exact, operator.broken)
        old = _gradient(small)(_wide(toys.params(small)))
        new = _gradient(large)(_wide(toys.grown(operator, small, large, toys.params(small))))
        # Second moments of 1 tell which entries have a source.
        state = _state(old, jax.tree.map(jnp.ones_like, old))
        found, ones = _moments_of(_grow(operator, small, large, state, "scale"))
        for path, expected in flat(new).items():
            error = jnp.where(ones[path] != 0, found[path] - expected, found[path])
            # Key biases have no gradient without rotary positions, but for rounding.
            self.assertLess(jnp.abs(error).max(), 1e-10 * jnp.abs(expected).max() + 1e-15, path)
        carried = sum((x != 0).sum() for x in ones.values())
        self.assertGreaterEqual(carried, toys.graph(small).num_params())

    def test_the_table(self):
        """Tiles of 2: what the published optimizer of grown entries is multiplied by."""
        hidden = {"ratio": 0.5, "rate": 0.5}
        tables = {
            "llama": {"embed": (0.5, 1), "unembed": (1, 0.5), NORM: (0.5, 1)},
            "llama_tied": {"embed": (0.5, 1), NORM: (1, 0.5)},
        }
        for family, outside in tables.items():
            small = _small(family)
            operator, large = _operator(small, WIDER, "tile")
            graphs = toys.graph(small), toys.graph(large)
            found = moments.multipliers(operator, *graphs, NORM)
            self.assertEqual(found.eps, moments.ratios(operator, *graphs, NORM))
            rates, decays = flat(found.rate), flat(found.decay)
            for path, ratio in flat(found.eps).items():
                gain = path.endswith("scale")
                inside = (0.5, 1) if gain else (hidden["ratio"], hidden["rate"])
                expected = outside.get(path.split("/")[0], inside)
                self.assertEqual((ratio, rates[path]), expected, path)
                self.assertEqual(decays[path], 1 / expected[1], path)

    def test_uneven_shares_are_told_apart(self):
        small = _small()
        operator, large = _operator(small, {"mlp_width": 80}, "lemon")
        found = moments.multipliers(operator, toys.graph(small), toys.graph(large), NORM)
        up, down = (flat(found.eps)[f"layers/mlp/{name}/kernel"] for name in ("up", "down"))
        share_F = operator.terms[0].lifts["mlp"].read.scale
        self.assertEqual(sorted(set(share_F)), [0.25, 0.75, 1.0])
        np.testing.assert_array_equal(up, share_F.reshape(1, 1, 80))
        self.assertEqual(down, 1.0)
        rate = flat(found.rate)["layers/mlp/down/kernel"]
        np.testing.assert_array_equal(rate, share_F.reshape(1, 80, 1))


# ---- the source's own training -------------------------------------------------------------------

TOY = {
    "width": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "mlp_width": 48,
}  # fmt: skip
TWICE = {"width": 64, "num_heads": 8, "num_kv_heads": 4, "mlp_width": 96}
# Clipped, so that the norm of the gradient matters, and with an epsilon that does.
ADAMW = OptimConfig(weight_decay=0.1, b1=0.9, b2=0.95, eps=1e-5, clip_norm=0.5)
BEFORE, AFTER = 60, 40
ROWS = np.random.default_rng(2).integers(97, size=(20, 2, 17))  # of steps; then again


def _train(config, params, state, multipliers, steps):
    norms = []
    for _ in range(steps // len(ROWS)):
        params, state, some = _chunk(config, params, state, multipliers)
        norms.append(some)
    return params, state, np.concatenate(norms)


@functools.partial(jax.jit, static_argnums=0)
def _chunk(config, params, state, multipliers):
    optimizer = make_grown_optimizer(ADAMW, lambda _: 3e-3, multipliers)

    def step(carry, tokens_BxL):
        params, state = carry
        gradient = jax.grad(functools.partial(_loss, config))(params, tokens_BxL)
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), optax.tree.norm(gradient)

    (params, state), norms = jax.lax.scan(step, (params, state), jnp.asarray(ROWS))
    return params, state, norms


def _logits(config, params):
    return np.asarray(reference.logits(config, params, toys.TOKENS))


@functools.lru_cache
@_exactly
def _source(family):
    """Parameters and state at growth, and the logits of the source's own continuation."""
    config = toys.source(family, **TOY)
    params = _wide(toys.params(config))
    plain = Multipliers(*[jax.tree.map(lambda _: 1.0, params)] * 4)
    state = make_optimizer(ADAMW, lambda _: 3e-3).init(params)
    params, state, norms = _train(config, params, state, plain, BEFORE)
    later, _, norms = _train(config, params, state, plain, AFTER)
    return config, params, state, _logits(config, later), norms


@_exactly
def _continued(family, width, changes, policy, **replaced):
    """The grown model after AFTER more steps, and how far from the source's own continuation."""
    small, params, state, expected, _ = _source(family)
    operator, large = _operator(small, changes, width)
    graphs = toys.graph(small), toys.graph(large)
    grown = _wide(toys.grown(operator, small, large, params))
    found = moments.multipliers(operator, *graphs, NORM)
    ones = jax.tree.map(lambda _: 1.0, found.rate)
    found = found.replace(**dict.fromkeys(replaced, ones))
    later, _, _ = _train(large, grown, _grow(operator, small, large, state, policy), found, AFTER)
    return later, np.abs(_logits(large, later) - expected).max()


def _cosine(params):
    """Between the two copies of the stream in the embedding."""
    first, second = np.split(np.asarray(params["embed"]["embedding"]), 2, axis=1)
    return (first * second).sum() / np.linalg.norm(first) / np.linalg.norm(second)


class GoldenTest(parameterized.TestCase):
    """AdamW at 3e-3 for 60 steps, everything tiled twice, 40 more; against the source's 40."""

    @parameterized.parameters("llama", "llama_tied")
    def test_a_tiled_model_goes_on_as_its_source(self, family):
        self.assertGreater(_source(family)[-1].max(), ADAMW.clip_norm)  # clipping had a part
        later, error = _continued(family, "tile", TWICE, "scale")
        self.assertLess(error, 1e-10)
        self.assertAlmostEqual(_cosine(later), 1.0, places=12)

    @parameterized.parameters("rate", "decay", "eps", "norm")
    def test_every_multiplier_is_needed(self, name):
        _, error = _continued("llama", "tile", TWICE, "scale", **{name: None})
        self.assertGreater(error, 1.0 if name == "rate" else 1e-3)

    def test_a_reset_keeps_copies_locked(self):
        later, error = _continued("llama", "tile", TWICE, "reset")
        self.assertGreater(error, 0.1)
        self.assertAlmostEqual(_cosine(later), 1.0, places=12)

    def test_asymmetric_moments_part_copies(self):
        later, error = _continued("llama", "tile", TWICE, "asymmetric")
        self.assertGreater(error, 0.1)
        self.assertLess(_cosine(later), 0.999)

    def test_blocks_of_moments_do_not(self):
        """Swapped blocks are the same state."""
        later, error = _continued("llama", "tile", TWICE, "block_diagonal")
        self.assertGreater(error, 0.1)
        self.assertAlmostEqual(_cosine(later), 1.0, places=12)

    def test_uneven_copies_go_on_as_well(self):
        """Rates and epsilons of single entries: heads twice, of units only some."""
        _, error = _continued("llama", "lemon", TWICE | {"width": 32, "mlp_width": 80}, "scale")
        self.assertLess(error, 1e-10)


# ---- policies ------------------------------------------------------------------------------------


def _random_state(config, seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda x: jnp.asarray(rng.uniform(0.5, 1.0, x.shape), jnp.float32)  # noqa: E731
    params = toys.params(config)
    return _state(jax.tree.map(draw, params), jax.tree.map(draw, params))


class PoliciesTest(parameterized.TestCase):
    @parameterized.parameters(*moments.POLICIES)
    def test_the_state_is_one_of_the_target(self, policy):
        small = _small()
        operator, large = _operator(small, WIDER | {"num_layers": 3}, "tile", "stack")
        state = _random_state(small)
        found = jax.jit(lambda s: _grow(operator, small, large, s, policy))(state)
        fresh = make_optimizer(OptimConfig(), lambda _: 1e-3).init(toys.params(large))
        shapes = lambda x: jax.tree.map(lambda y: (y.shape, y.dtype), x)  # noqa: E731
        self.assertEqual(shapes(found), shapes(fresh))
        counts = [leaf for leaf in jax.tree.leaves(found) if leaf.ndim == 0]
        self.assertEqual([int(x) for x in counts], [0, 0] if policy == "reset" else [7, 7])
        if policy == "reset":
            self.assertFalse(any(np.any(leaf) for leaf in jax.tree.leaves(found)))

    @parameterized.parameters("asymmetric", "corner")
    def test_first_copies_alone_keep_their_moments(self, policy):
        small = _small()
        for width in ("tile", "zero_pad"):
            operator, large = _operator(small, WIDER, width)
            state = _random_state(small)
            old, found = (
                _moments_of(s) for s in (state, _grow(operator, small, large, state, policy))
            )
            new = flat(moments.new_entries(operator, toys.graph(small), toys.graph(large)))
            for before, after in zip(old, found, strict=True):
                for path, corner in before.items():
                    inside = tuple(slice(size) for size in corner.shape)
                    np.testing.assert_array_equal(after[path][inside], corner)
                    np.testing.assert_array_equal(
                        np.asarray(after[path]) == 0, np.broadcast_to(new[path], after[path].shape)
                    )

    def test_old_query_heads_are_where_their_group_is(self):
        small = _small()
        operator, large = _operator(small, {"num_heads": 12}, "zero_pad")
        state = _random_state(small)
        old, _ = _moments_of(state)
        found, _ = _moments_of(_grow(operator, small, large, state, "corner"))
        path = "layers/attention/query/kernel"
        np.testing.assert_array_equal(found[path][:, :, [0, 1, 2, 3, 6, 7, 8, 9]], old[path])
        self.assertFalse(np.any(found[path][:, :, [4, 5, 10, 11]]))

    @parameterized.parameters(
        ("block_diagonal", "scale"), ("block_diagonal",) * 2, ("tile", "block_diagonal")
    )
    def test_staged_training(self, width, policy):
        """Blocks on the diagonal, m / 2 and v / 4; those of the final norm as they are."""
        small = _small("gpt2")
        operator, large = _operator(small, MHA, width)
        state = _random_state(small)
        old, found = (_moments_of(s) for s in (state, _grow(operator, small, large, state, policy)))
        for before, after, share in zip(old, found, (1 / 2, 1 / 4), strict=True):
            path = "layers/mlp/up/kernel"
            zero = np.zeros_like(before[path])
            block = share * before[path]
            np.testing.assert_allclose(
                after[path], np.block([[block, zero], [zero, block]]), rtol=1e-6
            )
            table = before["embed/embedding"]
            np.testing.assert_allclose(
                after["embed/embedding"], share * np.concatenate([table] * 2, axis=1), rtol=1e-6
            )
            for name in ("scale", "bias"):
                gain = before[f"{NORM}/{name}"]
                np.testing.assert_allclose(
                    after[f"{NORM}/{name}"], np.concatenate([gain] * 2), rtol=1e-6
                )

    def test_layers_bring_their_moments(self):
        small = _small()
        for depth, index in (("stack", [0, 1, 0, 1]), ("append", [0, 1, -1, -1])):
            operator, large = _operator(small, {"num_layers": 4}, "tile", depth)
            state = _random_state(small)
            old, found = (
                _moments_of(s) for s in (state, _grow(operator, small, large, state, "scale"))
            )
            new = moments.new_entries(operator, toys.graph(small), toys.graph(large))
            for before, after in zip(old, found, strict=True):
                for path, value in after.items():
                    if not path.startswith("layers/"):
                        np.testing.assert_array_equal(value, before[path])
                        continue
                    for i, j in enumerate(index):
                        np.testing.assert_array_equal(value[i], before[path][j] if j >= 0 else 0)
                    self.assertEqual(
                        np.broadcast_to(flat(new)[path].squeeze(), 4).tolist(),
                        [j < 0 for j in index],
                    )

    def test_identity_layers_remember_all_but_what_is_0(self):
        small = _small()
        operator, large = _operator(small, {"num_layers": 4}, "tile")
        found, _ = _moments_of(_grow(operator, small, large, _random_state(small), "scale"))
        for name, silent in (("up", False), ("down", True)):
            layers = np.abs(np.asarray(found[f"layers/mlp/{name}/kernel"])).max(axis=(1, 2))
            self.assertEqual((layers == 0).tolist(), [False, silent, False, silent])

    def test_the_mean_of_a_stream_has_no_moments(self):
        small = _small("gpt2")
        operator, large = _operator(small, {"width": 60}, "zero_pad")
        state = _random_state(small)
        found, _ = _moments_of(_grow(operator, small, large, state, "scale"))
        self.assertFalse(np.any(found["embed/embedding"][:, 48:]))
        np.testing.assert_array_equal(
            found["embed/embedding"][:, :48], _moments_of(state)[0]["embed/embedding"]
        )

    def test_multipliers_of_policies(self):
        small = _small()
        operator, large = _operator(small, WIDER, "tile")
        graphs = toys.graph(small), toys.graph(large)
        for policy in moments.POLICIES:
            found = moments.multipliers_for(policy, operator, *graphs, NORM)
            expected = moments.multipliers(operator, *graphs, NORM)
            self.assertEqual(found, expected if policy == "scale" else Multipliers())


class LearnedTest(parameterized.TestCase):
    def _learned(self, **changes):
        small = _small()
        large = dataclasses.replace(small, **changes)
        pair = toys.pair(small, large)
        config = ligo.LigoConfig()
        return small, large, ligo.operator(config, pair, ligo.init(config, pair))

    @parameterized.parameters(WIDER, {"num_layers": 4})
    def test_carrying_is_refused(self, **changes):
        small, large, operator = self._learned(**changes)
        words = "blends layers" if "num_layers" in changes else "mixes the entries"
        for policy in ("scale", "asymmetric", "corner", "block_diagonal"):
            with self.assertRaisesRegex(UserError, f"{words}.*'reset'"):
                _grow(operator, small, large, _random_state(small), policy)
        with self.assertRaisesRegex(UserError, words):
            moments.multipliers(operator, toys.graph(small), toys.graph(large), NORM)

    def test_means_of_moments_stay_in_their_range(self):
        small, large, operator = self._learned(**WIDER, num_layers=4)
        state = _random_state(small)
        old, found = (
            _moments_of(s) for s in (state, _grow(operator, small, large, state, "experimental"))
        )
        for before, after in zip(old, found, strict=True):
            for path, value in after.items():
                self.assertGreaterEqual(value.min(), before[path].min() - 1e-5)
                self.assertLessEqual(value.max(), before[path].max() + 1e-5)


class RefusedTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ("policy", "scael", WIDER, "did you mean 'scale'"),
        ("blocks", "block_diagonal", {"width": 96, "mlp_width": 100}, "one whole factor, got 1.56"),
    )
    def test_policies(self, policy, changes, words):
        small = _small()
        operator, large = _operator(small, changes, "tile")
        with self.assertRaisesRegex(UserError, words):
            _grow(operator, small, large, _random_state(small), policy)

    def test_moments_of_something_else(self):
        small = _small()
        operator, large = _operator(small, WIDER, "tile")
        with self.assertRaisesRegex(UserError, "embed/embedding is .97, 48. there and .97, 96."):
            _grow(operator, small, large, _random_state(large), "scale")
        with self.assertRaisesRegex(UserError, "expected an optimizer's state with Adam's"):
            _grow(operator, small, large, optax.sgd(0.1).init({}), "scale")


class InexactTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ("tile", "tile", "identity", WIDER, None),
        ("net2net", "net2net", "identity", {"mlp_width": 150}, None),
        ("rms", "rms", "identity", WIDER, None),
        ("zero_pad", "zero_pad", "identity", {"width": 80}, "no source"),
        ("depth", "tile", "identity", {"num_layers": 4}, "no source"),
        ("stack", "tile", "stack", {"num_layers": 4}, "the function changes"),
        ("blocks", "block_diagonal", "identity", WIDER, "begin at 0"),
        ("split", "zero_pad", "identity", {"num_kv_heads": 4}, "other queries"),
    )
    def test_reasons(self, width, depth, changes, words):
        small = _small()
        operator, large = _operator(small, changes, width, depth)
        found = moments.inexact(operator, toys.graph(small), toys.graph(large))
        if words is None:
            self.assertEqual(found, ())
        else:
            self.assertIn(words, " ".join(found))


if __name__ == "__main__":
    absltest.main()
